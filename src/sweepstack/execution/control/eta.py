"""Estimates how long the stacks of a command still train: from what was measured of them and of others like them.

The terminal and `sweepstack status` both use it. It knows neither files nor clocks: it takes events and the time.
Seconds of training are kept as if each stack had had the machine for itself, see `Eta._slowdown`.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.planning.compatibility import stack_key
from sweepstack.search.pruning import rungs_within
from sweepstack.trial import Trial, TrialState

FIXED = 0.3
"""The part of a stack's time that does not depend on its width."""
OTHER_BATCH_SIZE = 0.5
"""How the time of a step grows with its batch size, as an exponent, if no stack with that batch size was measured: 0
for steps that are all overhead, 1 for those that are all arithmetic."""
SLOWER_TOGETHER = 1.15
"""How many times as long a stack takes while other workers use the rest of the machine's caches and memory channels."""
RECENT = 0.5
"""The part of a stack's measurements, from the last one backwards, that its rate is taken from: a machine may get
slower or faster."""
LEAST_RECENT = 2
"""The least number of these measurements."""


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
    seconds: float = 0.0
    """How long it has trained until then."""
    first: tuple[float, float] | None = None
    """The seconds and epochs up to the first measurement: there are some that are done once among them."""
    measured: list[tuple[float, float, int]] = field(default_factory=list)
    """The seconds and epochs from each measurement to the next one, and how many trajectories trained."""
    left: dict[Hashable, float] = field(default_factory=dict)
    """The epochs that are left, by trial, of those that have not ended."""
    ending: float = 0.0
    """The seconds from measurements to the ends of trials, such as for tests."""

    def __post_init__(self) -> None:
        self.left = {key_of(trial): float(trial.config.epochs) for each in self.trajectories for trial in each}
        first = self.trajectories[0][0]
        self.group = stack_key(first.config, first.run)
        self.batch_size = first.config.batch_size
        self.width = len(self.trajectories)
        self.ends = tuple(sorted(max(trial.config.epochs for trial in each) for each in self.trajectories))
        self.epochs = self.ends[-1]
        self.number = len(self.left)
        self.shape = self.group, self.planned, self.ends, self.number
        """Equal for stacks that take equally long, as far as that is known before they begin."""
        self._since = self._seconds = self._epochs = 0.0

    @property
    def each(self) -> float | None:
        """The seconds of an epoch of its full width, by all that was measured; None if they are not known.

        The first epoch takes longer than others do. If it is the only one, what was planned counts as much, if it is
        less.
        """
        if self.measured:
            return self._seconds / self._epochs
        if self.first is None:
            return None
        seconds, epochs = self.first
        return min(seconds / epochs, (seconds / epochs + (self.planned or math.inf)) / 2)

    @property
    def recent(self) -> float | None:
        """The same by the last measurements since it has its width; None if only the first epoch was measured."""
        own = [one for one in self.measured if one[2] == self.measured[-1][2]]
        last = own[-max(LEAST_RECENT, math.ceil(RECENT * len(own))) :]
        epochs = sum(epochs * _share(alive / self.width) for _, epochs, alive in last)
        return sum(seconds for seconds, _, _ in last) / epochs if last else None

    def each_of_all(self, left: float) -> float | None:
        """Returns the seconds of an epoch of its full width, if it goes on as fast as it did last.

        Trajectories that end make a stack faster, though not as much as `_share` says. Of stacks with trajectories of
        the same lengths this makes no difference.

        Args:
            left: what is left, in epochs of its full width.
        """
        if (recent := self.recent) is None:
            return self.each
        return (self._seconds + left * recent) / (self._epochs + left)

    def begin(self, at: float) -> None:
        """Takes when it began."""
        self.began = self.at = at

    def pass_time(self, at: float, slowdown: float) -> float:
        """Takes until when it has trained.

        Args:
            at: the time.
            slowdown: how many times as long it took since it was heard of last as it takes alone.

        Returns:
            The seconds since then that it would have taken alone.
        """
        seconds = max(0.0, at - self.at) / slowdown
        self.at = max(self.at, at)
        self.seconds += seconds
        return seconds

    def progress(self, done: float) -> None:
        """Takes how many epochs it has done, while all that have not ended train."""
        if done <= self.done:
            return
        seconds, epochs, alive = self.seconds - self._since, done - self.done, self._alive()
        if self.done > 0:
            self.measured.append((seconds, epochs, alive))
            self._seconds += seconds
            self._epochs += epochs * _share(alive / self.width)
        elif not self.resumed:
            self.first = seconds, epochs
        self.done, self._since = done, self.seconds

    def end(self, key: Hashable, seconds: float) -> None:
        """Takes the end of a trial.

        Args:
            key: the trial.
            seconds: those since the stack was heard of last.
        """
        self.left.pop(key, None)
        self.ending += seconds
        self._since += seconds

    def _alive(self) -> int:
        return sum(any(key_of(trial) in self.left for trial in each) for each in self.trajectories)

    def epochs_left(self, survival: Survival) -> float:
        """Returns what is left, in epochs of its full width.

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
        total = before = 0.0
        for until in steps:
            expected, nobody = 0.0, 1.0
            for (left, whole), number in trained.items():
                if left >= until and number:
                    done = whole - left
                    part = survival.at((done + before) / whole) / (survival.at(done / whole) or 1.0)
                    expected += number * part
                    nobody *= (1 - part) ** number
            total += (until - before) * (FIXED * (1 - nobody) + (1 - FIXED) * expected / self.width)
            before = until
        return total


class Eta:
    """Estimates when all stacks of a command are trained.

    Args:
        workers: the number of stacks that train at once.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._stacks: list[StackProgress] = []
        self._stack_of: dict[Hashable, StackProgress] = {}
        self._begun: dict[StackProgress, None] = {}
        """Those that have begun and not ended."""
        self._found: dict[Hashable, float | None] = {}
        """What was found since the last event: thousands of stacks that wait ask the same."""
        self._survival: Survival | None = None
        """The same; None if it is to be found."""
        self._ends: tuple[float, list[float]] | None = None
        """The same: at a time, the seconds that the stacks which train would still train alone."""
        self._free: list[float] = []
        """Since when workers have waited that have trained a stack."""
        self._gaps: list[float] = []
        """The seconds that workers have waited for their next stack."""
        self._reached: dict[Hashable, float] = {}
        """The part of their epochs that trials have done, without those that were pruned."""
        self._pruned: list[float] = []
        """The same of those that were pruned."""
        self._items = 0

    def add(self, trajectories: Iterable[Sequence[Trial]], planned: float) -> StackProgress:
        """Adds a stack.

        Args:
            trajectories: its trials that are to be trained, by trajectory; at least one.
            planned: the seconds of an epoch as they were estimated before; 0 if they were not.
        """
        one = StackProgress([each for each in trajectories if each], planned)
        self._forget()
        self._stacks.append(one)
        self._stack_of |= dict.fromkeys(one.left, one)
        return one

    def stack_of(self, trial: Trial) -> StackProgress | None:
        """Returns the stack that trains a trial; None if it is not known."""
        return self._stack_of.get(key_of(trial))

    @property
    def running(self) -> list[StackProgress]:
        """The stacks that train, in the order in which they have begun."""
        return [one for one in self._begun if one.left]

    @property
    def number(self) -> int:
        """The number of stacks."""
        return len(self._stacks)

    def take(self, event: Event) -> None:
        """Takes an event of a trial."""
        one = self.stack_of(event.trial)
        if one is None:
            return
        self._forget()
        epochs, key = event.trial.config.epochs, key_of(event.trial)
        passed = one.pass_time(event.at, self._slowdown(len(self._begun))) if one.began is not None else 0.0
        match event:
            case Started():
                if one.began is None:
                    one.begin(event.at)
                    if self._free:
                        self._gaps.append(max(0.0, event.at - self._free.pop(0)))
                self._begun[one] = None
                self._items = event.dataset.train or self._items
                one.resumed = one.resumed or event.resumed
            case Measured():
                at = event.measurement
                done = epochs * at.step / at.steps
                one.progress(done)
                self._reached[key] = at.step / at.steps
                if key in one.left:
                    one.left[key] = max(0.0, epochs - done)
            case Ended():
                one.end(key, passed)
                if event.outcome.state is TrialState.PRUNED:
                    self._pruned.append(self._reached.pop(key, 0.0))
                if not one.left and one in self._begun:
                    del self._begun[one]
                    self._free.append(event.at)

    def _forget(self) -> None:
        """Forgets what was found before an event."""
        self._found.clear()
        self._survival = self._ends = None

    def seconds_of(self, one: StackProgress, now: float | None) -> float | None:
        """Returns how long a stack still trains; None if that is not known.

        Args:
            one: the stack.
            now: the time, in seconds since the epoch; None if it does not train now.
        """
        slowdown = self._slowdown(len(self._begun))
        seconds = self._alone(one, now, slowdown)
        if seconds is None or slowdown == 1 or one.began is None or now is None:
            return seconds
        if self._ends is None or self._ends[0] != now:
            self._ends = now, [self._alone(other, now, slowdown) or 0.0 for other in self._begun]
        return self._beside(self._ends[1], seconds)

    def _beside(self, ends: Sequence[float], seconds: float) -> float:
        """Returns how long a stack trains beside others: the fewer still train, the faster it is.

        Args:
            ends: the seconds that the stacks of all workers would train alone.
            seconds: the same of the stack.
        """
        total = before = 0.0
        for index, end in enumerate(sorted(min(end, seconds) for end in ends)):
            total += (end - before) * self._slowdown(len(ends) - index)
            before = end
        return total

    def _slowdown(self, running: int) -> float:
        """Returns how many times as long as alone a stack takes beside others.

        Args:
            running: the number of stacks that train, with itself.
        """
        is_here = bool(self._stacks) and self._stacks[0].trajectories[0][0].run.engine.name in ("auto", "local")
        if not is_here or self.workers < 2:
            return 1.0
        return 1 + (SLOWER_TOGETHER - 1) * min(1.0, (running - 1) / (self.workers - 1))

    def _alone(self, one: StackProgress, now: float | None, slowdown: float) -> float | None:
        """Returns how long a stack would still train alone; None if that is not known.

        Args:
            one: the stack.
            now: see `seconds_of`.
            slowdown: how many times as long it takes at present.
        """
        if not one.left:
            return 0.0
        if one.began is None:
            if one.shape not in self._found:
                each = self._each_of(one)
                whole = None if each is None else each * one.epochs_left(self._surviving())
                self._found[one.shape] = None if whole is None else whole + self._once(one)
            return self._found[one.shape]
        each = one.recent or self._beginning(one)
        if each is None:
            return None
        begins = one.first is None and not (one.measured or one.resumed)
        seconds = each * one.epochs_left(self._surviving()) + len(one.left) * self._mean("ending")
        seconds += self._mean("setup") if begins else 0.0
        return max(seconds - (0.0 if now is None else max(0.0, now - one.at) / slowdown), 0.0)

    def _beginning(self, one: StackProgress) -> float | None:
        """Returns the seconds of an epoch of a stack of which at most the first one was measured."""
        others, setup = self._each_of(one), self._mean("setup")
        if one.first is None or one.each is None or others is None:
            return one.each or others
        seconds, epochs = one.first
        own = max(0.0, seconds - setup) / epochs if setup else one.each
        return min(seconds / epochs, (own + others) / 2)

    def _once(self, one: StackProgress) -> float:
        """Returns the seconds that a stack which has not begun takes beside its epochs."""
        return self._mean("gap") + self._mean("setup") + one.number * self._mean("ending")

    def _mean(self, name: str) -> float:
        """Returns the mean of what was measured: `setup` and `gap` of a stack, `ending` of a trial; else 0."""
        if "gap" not in self._found:
            self._found["gap"] = _mean(self._gaps)
            known = [(one.first, self._rate(one)) for one in self._stacks if one.first is not None and one.measured]
            self._found["setup"] = _mean([max(0.0, first[0] - first[1] * (each or 0.0)) for first, each in known])
            ended = sum(one.number - len(one.left) for one in self._stacks)
            self._found["ending"] = sum(one.ending for one in self._stacks) / ended if ended else 0.0
        return self._found[name] or 0.0

    def _surviving(self) -> Survival:
        """Returns which part of the trials goes on at the rungs, by those that have reached them (Kaplan-Meier).

        Before any has, halving takes one in its factor; that counts as one trial.
        """
        if self._survival is None:
            pruner = self._stacks[0].trajectories[0][0].run.pruner
            asked: Mapping[float, float] = {}
            if pruner.name == "halving":
                longest = max(one.epochs for one in self._stacks)
                asked = {at / longest: 1 - 1 / pruner.factor for _, at in rungs_within(pruner, longest, longest)}
            left, pruned = Counter(round(part, 9) for part in self._pruned), sorted(self._pruned)
            reached = sorted(self._reached.values())
            rungs, after = sorted({round(part, 9) for part in asked} | {*left}), [1.0]
            for rung in rungs:
                expected = next((part for at, part in asked.items() if round(at, 9) == rung), None)
                went_on = len(reached) - bisect.bisect_right(reached, rung + 1e-9)
                judged = went_on + len(pruned) - bisect.bisect_left(pruned, rung - 1e-9)
                lost = (left[rung] + (expected or 0.0)) / (judged + (expected is not None))
                after.append(after[-1] * (1 - lost))
            self._survival = Survival(rungs, after[1:])
        return self._survival

    def seconds(self, now: float | None, unplanned: int = 0) -> float | None:
        """Returns how long the command still trains; None if that is not known.

        Args:
            now: the time, in seconds since the epoch; None if no stack trains now.
            unplanned: the number of trials that will be planned later: they take as long as those that are planned.
        """
        slowdown = self._slowdown(len(self._begun))
        busy, waiting = list[float](), list[float]()
        for one in self._stacks:
            if one.left:
                seconds = self._alone(one, now, slowdown)
                if seconds is None:
                    return None
                (waiting if one.began is None or now is None else busy).append(seconds)
        if not self._stacks:
            return None
        if unplanned > 0:
            waiting += self._later(unplanned)
        busy += [0.0] * (self.workers - len(busy))
        heapq.heapify(busy)
        for seconds in sorted(waiting, reverse=self.workers > 1):
            heapq.heapreplace(busy, busy[0] + seconds)
        return self._beside(busy, max(busy))

    def _later(self, trials: int) -> list[float]:
        """Returns the seconds of stacks that are not planned yet, which have so many trials."""
        wholes = [(one.number, seconds) for one in self._stacks if (seconds := self._whole(one)) is not None]
        if not wholes:
            return []
        known = sum(number for number, _ in wholes)
        stacks = max(1, round(trials * len(wholes) / known))
        return [sum(seconds for _, seconds in wholes) * trials / known / stacks] * stacks

    def _whole(self, one: StackProgress) -> float | None:
        """Returns the seconds of a stack from its beginning to its end; None if they are not known."""
        if one.began is not None and not one.resumed:
            left = self._alone(one, one.at, 1.0)
            return None if left is None else self._mean("gap") + one.seconds + left
        each = self._rate(one) or self._each_of(one)
        whole = StackProgress(one.trajectories, one.planned)
        return None if each is None else each * whole.epochs_left(self._surviving()) + self._once(one)

    def _each_of(self, one: StackProgress) -> float | None:
        """Returns the seconds of an epoch of a stack that was not measured, from others; None if they are not known.

        They are those of stacks like it; else those of the plan, corrected by how right the plan was for others; else
        those of the stack with the nearest batch size.
        """
        if one.first is not None or one.measured:
            return self._each_beside(one)
        key = one.group, one.width, one.planned
        if key not in self._found:
            self._found[key] = self._each_beside(one)
        return self._found[key]

    def _each_beside(self, one: StackProgress) -> float | None:
        """Does what `_each_of` says, by a look at all stacks."""
        others = [
            (other, each) for other in self._stacks if other.done and other is not one and (each := self._rate(other))
        ]
        measured = [pair for pair in others if pair[0].measured] or others
        alike = [pair for pair in measured if pair[0].group == one.group]
        alike = alike or [pair for pair in others if pair[0].group == one.group]
        if alike:
            weighed = [other.done * each / _share(other.width / one.width) for other, each in alike]
            return sum(weighed) / sum(other.done for other, _ in alike)
        timed = [(other, each) for other, each in measured if other.planned]
        if one.planned:
            slower = sum(each for _, each in timed) / sum(other.planned for other, _ in timed) if timed else 1.0
            return one.planned * slower
        nearest = sorted(measured, key=lambda pair: abs(math.log(pair[0].batch_size / one.batch_size)))
        if not nearest:
            return None
        other, each = nearest[0]
        steps = self._steps(one.batch_size) / self._steps(other.batch_size)
        slower = math.pow(one.batch_size / other.batch_size, OTHER_BATCH_SIZE)
        return each * steps * slower * _share(one.width / other.width)

    def _rate(self, one: StackProgress) -> float | None:
        """Returns the seconds of an epoch of a stack that was measured; None if it was not."""
        return one.each_of_all(one.epochs_left(self._surviving()) if one.left else 0.0)

    def _steps(self, batch_size: int) -> float:
        return math.ceil(self._items / batch_size) if self._items else 1 / batch_size


def clock(seconds: float) -> str:
    """Returns a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _share(width: float) -> float:
    """Returns the time of an epoch of a stack of so many times the width of another one, as a part of its time."""
    return FIXED + (1 - FIXED) * width


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
