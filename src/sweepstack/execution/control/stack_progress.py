"""How far a stack is, and what was measured of it: `eta.py` estimates by that. It takes events and knows no clock.

Stacks side by side are slower than one that has the machine for itself: a *crowd* is the part of the other workers of
this machine that train, from 0 to 1.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sweepstack.planning.compatibility import stack_key
from sweepstack.trial import Trial

FIXED = 0.3
"""The part of a stack's time that does not depend on its width."""
CROWDS_DIFFER = 0.5
"""The least difference of two crowds from which it is measured what a crowd costs."""
MOST_RECENT = 200
"""The most measurements of a stack that are kept one by one."""


def key_of(trial: Trial) -> Hashable:
    """Returns what tells a trial from the others of its command."""
    return trial.id, trial.number


@dataclass(frozen=True)
class Survival:
    """Which part of the trials goes on at the rungs of a pruner."""

    rungs: Sequence[float] = ()
    """Where trials leave, as parts of their epochs, in rising order."""
    after: Sequence[float] = ()
    """The part of all trials that goes on after each of these."""

    def at(self, part: float) -> float:
        """Returns the part of the trials that goes on once that part of their epochs is done."""
        index = bisect.bisect_right(self.rungs, part + 1e-9)
        return self.after[index - 1] if index else 1.0

    def between(self, done: float, later: float) -> float:
        """Returns the part of those that have gone on after a part of their epochs that goes on after a later one."""
        reached = self.at(done)  # nobody, if all others have left there
        return self.at(later) / reached if reached else 1.0


class Moment(NamedTuple):
    """When something happened."""

    at: float
    """In seconds since the epoch."""
    crowded: float
    """The sum of the crowd until then, over seconds."""


class Part(NamedTuple):
    """A part of a training, from one measurement to the next."""

    seconds: float
    epochs: float
    alive: int
    """The number of trajectories that trained."""
    crowd: float


@dataclass(eq=False)
class StackProgress:
    """How far a stack is."""

    trajectories: Sequence[Sequence[Trial]]
    """Its trials that are to be trained, by trajectory."""
    planned: float
    """The seconds of an epoch as they were estimated before; 0 if they were not."""
    began: float | None = None
    """When it began. Times are in seconds since the epoch."""
    resumed: bool = False
    """True if it goes on from a checkpoint."""
    at: float = 0.0
    """When it was heard of last."""
    done: float = 0.0
    """The epochs that it has done."""
    first: Part | None = None
    """What it did up to the first measurement: there is something that is done once among it."""
    measured: list[Part] = field(default_factory=list)
    """What it did since, one part after the other: the last ones."""
    left: dict[Hashable, float] = field(default_factory=dict)
    """The epochs that are left, by trial, of those that have not ended."""
    slowdown: Callable[[float], float] = lambda crowd: 1.0
    """How many times as long it takes in a crowd as alone."""

    def __post_init__(self) -> None:
        self.left = {key_of(trial): float(trial.config.epochs) for each in self.trajectories for trial in each}
        first = self.trajectories[0][0]
        self.group = stack_key(first.config, first.run)
        self.batch_size = first.config.batch_size
        self.is_measured_each_epoch = first.config.trainer is None and first.config.evaluate_every == "epoch"
        self.width = len(self.trajectories)
        self.ends = tuple(sorted(max(trial.config.epochs for trial in each) for each in self.trajectories))
        self.epochs = self.ends[-1]
        self.number = len(self.left)
        self.kind = self.group, self.width, self.planned
        self._begin = self._mark = self._last = Moment(0.0, 0.0)
        """When it began, when it was measured last or a trial of it ended, and when it was heard of last."""
        self._totals: dict[float, tuple[float, float]] = {}
        """Seconds, and epochs of its full width, that were measured, by the crowd."""

    @property
    def shape(self) -> Hashable:
        """Equal for stacks that take equally long, as far as that is known before they begin."""
        return self.kind, self.ends, self.number, self.done and tuple(sorted(self.left.values()))

    @property
    def each(self) -> float | None:
        """The seconds of an epoch of its full width alone, by all that was measured; None if they are not known.

        The first epoch takes longer than others do. If it is the only one, what was planned counts as much, if it is
        less.
        """
        if self.measured:
            return self._seconds / self._epochs
        if self.first is None:
            return None
        each = self.first.seconds / self.first.epochs / self.slowdown(self.first.crowd)
        return min(each, (each + (self.planned or math.inf)) / 2)

    @property
    def raw(self) -> Part | None:
        """What it did since the first measurement, or up to that one; None if it was not measured."""
        if not self.measured:
            return self.first
        seconds = sum(seconds for seconds, _ in self._totals.values())
        crowd = sum(crowd * seconds for crowd, (seconds, _) in self._totals.items()) / (seconds or 1.0)
        return Part(seconds, self._epochs, self.width, crowd)

    @property
    def _seconds(self) -> float:
        return sum(seconds / self.slowdown(crowd) for crowd, (seconds, _) in self._totals.items())

    @property
    def _epochs(self) -> float:
        return sum(epochs for _, epochs in self._totals.values())

    @property
    def recent(self) -> float | None:
        """The same by the last measurements in such a crowd since it has its width; None if there are none."""
        if not self.measured:
            return None
        last = self.measured[-1]
        own = [one for one in self.measured if one.alive == last.alive and abs(one.crowd - last.crowd) < CROWDS_DIFFER]
        seconds = sum(one.seconds / self.slowdown(one.crowd) for one in own)
        return seconds / sum(one.epochs * share_of_time(last.alive / self.width) for one in own)

    def each_of_all(self, survival: Survival) -> float | None:
        """Returns the seconds of an epoch of its full width, with those that are left; None if it was not measured.

        Trajectories that end make a stack faster, though not as much as `share_of_time` says. It makes no difference
        for stacks with trajectories of the same lengths.

        Args:
            survival: which part of the trials is expected to go on.
        """
        if (each := self.each) is None or (recent := self.recent) is None:
            return each
        soon, later = self.epochs_left(survival)
        return (self._seconds + recent * soon + each * later) / (self._epochs + soon + later)

    @property
    def spent(self) -> float:
        """The seconds that it would have trained alone until it was heard of last."""
        seconds = self._last.at - self._begin.at
        return seconds / self.slowdown(self._crowd(self._begin, self._last)) if seconds > 0 else 0.0

    @property
    def slower_together(self) -> float | None:
        """How many times as long it takes while all workers train, by what was measured; None if that is not known."""
        alive = self.measured[-1].alive if self.measured else 0
        own = [one for one in self.measured if one.alive == alive]
        low, high = min(one.crowd for one in own), max(one.crowd for one in own)
        if high - low < CROWDS_DIFFER:  # its other ones were in another width
            return None
        rates = []
        for crowd in (low, high):
            near = [one for one in own if abs(one.crowd - crowd) < CROWDS_DIFFER / 2]
            rates.append(sum(one.seconds for one in near) / sum(one.epochs for one in near))
        if not rates[0]:
            return None
        ratio = rates[1] / rates[0]
        return max(1.0, 1 + (ratio - 1) / max(high - ratio * low, CROWDS_DIFFER))

    @property
    def next_part(self) -> float:
        """What it is expected to do up to its next measurement, in epochs of its full width."""
        if not self.measured:
            return 1.0 if self.first is None else self.first.epochs
        return self.measured[-1].epochs * share_of_time(self.measured[-1].alive / self.width)

    def begin(self, now: Moment) -> None:
        """Takes when it began."""
        self.began = self.at = now.at
        self._begin = self._mark = self._last = now

    def go_on(self, now: Moment) -> None:
        """Takes when it has begun once more, such as with another command: nobody trained it in between."""
        paused = Moment(now.at - self._last.at, now.crowded - self._last.crowded)
        self._begin = Moment(self._begin.at + paused.at, self._begin.crowded + paused.crowded)
        self.at, self._mark, self._last = now.at, now, now

    def progress(self, done: float, now: Moment) -> None:
        """Takes how many epochs it has done, while all that have not ended train."""
        if done > self.done:
            alive = sum(any(key_of(trial) in self.left for trial in each) for each in self.trajectories)
            seconds = max(0.0, now.at - self._mark.at)
            part = Part(seconds, done - self.done, alive, self._crowd(self._mark, now))
            if self.done > 0:
                self.measured = [*self.measured[1 - MOST_RECENT :], part]
                total, epochs = self._totals.get(round(part.crowd, 1), (0.0, 0.0))
                more = part.epochs * share_of_time(alive / self.width)
                self._totals[round(part.crowd, 1)] = total + seconds, epochs + more
            elif not self.resumed:
                self.first = part
            self.done, self._mark = done, now
        self.at, self._last = now.at, now

    def take_over(self, left: Mapping[Hashable, float]) -> None:
        """Takes the epochs that are left of its trials, by trial, before it begins: others have trained them before."""
        self.left |= left
        self.resumed = self.resumed or bool(left)
        self.done = self.epochs - max(self.left.values())

    def unbegun(self) -> StackProgress:
        """Returns it as it was before it began."""
        return StackProgress(self.trajectories, self.planned, slowdown=self.slowdown)

    def past(self) -> Past:
        """Returns sums over stacks of its kind: over none yet."""
        return Past(self.batch_size, self.group, self.width, self.planned)

    def end(self, key: Hashable, now: Moment) -> float:
        """Takes the end of a trial; returns the seconds since the stack was heard of last.

        Args:
            key: the trial.
            now: when it has ended.
        """
        self.left.pop(key, None)
        if self.began is None:  # it was paused, and does not go on
            return 0.0
        passed = Moment(max(0.0, now.at - self._last.at), now.crowded - self._last.crowded)
        self._mark = Moment(self._mark.at + passed.at, self._mark.crowded + passed.crowded)
        self.at, self._last = now.at, now
        return passed.at

    @staticmethod
    def _crowd(since: Moment, until: Moment) -> float:
        """Returns the mean crowd between two moments."""
        seconds = until.at - since.at
        return min(1.0, max(0.0, (until.crowded - since.crowded) / seconds)) if seconds > 0 else 0.0

    def epochs_left(self, survival: Survival) -> tuple[float, float]:
        """Returns what is left up to the next end of a trajectory, and after it, in epochs of its full width.

        Args:
            survival: which part of the trials is expected to go on.
        """
        trained: Counter[tuple[float, float]] = Counter()  # the number of trajectories by epochs left and in all
        for each in self.trajectories:
            left = max((self.left[key] for trial in each if (key := key_of(trial)) in self.left), default=0.0)
            trained[left, max(trial.config.epochs for trial in each)] += left > 0
        rungs = {part * whole - (whole - left) for left, whole in trained for part in survival.rungs}
        last = max(left for left, _ in trained)
        steps = sorted({left for left, _ in trained} | {at for at in rungs if 0 < at < last})
        parts = []
        before = 0.0
        for until in steps:
            expected, nobody = 0.0, 1.0
            for (left, whole), number in trained.items():
                if left >= until and number:
                    done = whole - left
                    part = survival.between(done / whole, (done + before) / whole)
                    expected += number * part
                    nobody *= (1 - part) ** number
            if until > before:
                parts.append((until - before) * (FIXED * (1 - nobody) + (1 - FIXED) * expected / self.width))
            before = until
        return sum(parts[:1]), sum(parts[1:])


@dataclass
class Past:
    """What was measured of stacks of one kind: sums over them."""

    batch_size: int
    group: Hashable
    width: int
    planned: float
    done: float = 0.0
    """The epochs that they have done."""
    seconds: float = 0.0
    """The seconds of an epoch of the full width, times `done`."""
    setup: float = 0.0
    """The seconds before the first epoch."""
    setups: int = 0
    """The number of stacks of which these were measured."""
    whole: float = 0.0
    """The seconds from beginning to end."""
    stacks: int = 0
    """The number of stacks that were trained from beginning to end, or will be."""
    trials: int = 0
    """Their trials."""

    def take(self, one: StackProgress, each: float | None, whole: float | None) -> None:
        """Takes a stack.

        Args:
            one: the stack.
            each: its seconds of an epoch of the full width alone; None if they are not known.
            whole: those from its beginning to its end; None if they are not known, or if it has begun before.
        """
        if each is not None:
            self.done += one.done
            self.seconds += one.done * each
            if one.first is not None and one.measured:
                seconds = one.first.seconds / one.slowdown(one.first.crowd)
                self.setup += max(0.0, seconds - one.first.epochs * each)
                self.setups += 1
        if whole is not None:
            self.whole, self.stacks, self.trials = self.whole + whole, self.stacks + 1, self.trials + one.number


def share_of_time(width: float) -> float:
    """Returns the time of an epoch of a stack of so many times the width of another one, as a part of its time."""
    return FIXED + (1 - FIXED) * width
