"""Estimates how long the stacks of a command still train: from what was measured of them and of others like them.

The terminal and `sweepstack status` both use it. It knows neither files nor clocks: it takes events and the time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.planning.compatibility import stack_key
from sweepstack.trial import Trial

FIXED = 0.3
"""The part of a stack's time that does not depend on its width."""
OTHER_BATCH_SIZE = 0.5
"""How the time of a step grows with its batch size, as an exponent, if no stack with that batch size was measured: 0
for steps that are all overhead, 1 for those that are all arithmetic."""


def key_of(trial: Trial) -> Hashable:
    """Returns what tells a trial from the others of its command."""
    return trial.id, trial.number


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
    points: list[tuple[float, float]] = field(default_factory=list)
    """When it had done how much, in epochs of its full width: an epoch takes less when trajectories have ended."""
    left: dict[Hashable, float] = field(default_factory=dict)
    """The epochs that are left, by trial, of those that have not ended."""
    finishing: float | None = None
    """Seconds from its last measurement to its end; None if it has not ended."""

    def __post_init__(self) -> None:
        self.left = {key_of(trial): float(trial.config.epochs) for each in self.trajectories for trial in each}
        first = self.trajectories[0][0]
        self.group = stack_key(first.config, first.run)
        self.batch_size = first.config.batch_size
        self.width = len(self.trajectories)
        self.epochs = max(trial.config.epochs for each in self.trajectories for trial in each)

    @property
    def each(self) -> float | None:
        """The seconds of an epoch of its full width, measured; None if they are not known."""
        if len(self.points) == 1 and self.began is not None and not self.resumed:
            at, done = self.points[0]
            return (at - self.began) / done if done > 0 else None
        if len(self.points) < 2:
            return None
        (at, done), (until, total) = self.points[0], self.points[-1]
        return (until - at) / (total - done)

    @property
    def setup(self) -> float | None:
        """The seconds before its first epoch; None if they are not known."""
        if self.began is None or self.each is None or self.resumed:
            return None
        at, done = self.points[0]
        return max(0.0, at - self.began - done * self.each)

    def progress(self, at: float, done: float) -> None:
        """Takes how many epochs it has done at a time, while all that have not ended train."""
        if done > self.done:
            alive = sum(any(key_of(trial) in self.left for trial in each) for each in self.trajectories)
            before = self.points[-1][1] if self.points else 0.0
            self.points.append((at, before + (done - self.done) * _share(alive / self.width)))
            self.done = done

    def epochs_left(self) -> float:
        """Returns what is left, in epochs of its full width."""
        ends = sorted(
            max((self.left[key] for trial in each if (key := key_of(trial)) in self.left), default=0.0)
            for each in self.trajectories
        )
        total = before = 0.0
        for index, end in enumerate(ends):
            total += (end - before) * _share((self.width - index) / self.width)
            before = end
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
        self._items = 0

    def add(self, trajectories: Iterable[Sequence[Trial]], planned: float) -> StackProgress:
        """Adds a stack.

        Args:
            trajectories: its trials that are to be trained, by trajectory; at least one.
            planned: the seconds of an epoch as they were estimated before; 0 if they were not.
        """
        one = StackProgress([each for each in trajectories if each], planned)
        self._found.clear()
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
        self._found.clear()
        epochs, key = event.trial.config.epochs, key_of(event.trial)
        match event:
            case Started():
                self._begun[one] = None
                self._items = event.dataset.train or self._items
                one.began = event.at if one.began is None else one.began
                one.resumed = one.resumed or event.resumed
            case Measured():
                at = event.measurement
                done = epochs * at.step / at.steps
                one.progress(event.at, done)
                if key in one.left:
                    one.left[key] = max(0.0, epochs - done)
            case Ended():
                one.left.pop(key, None)
                if not one.left:
                    self._begun.pop(one, None)
                    one.finishing = max(0.0, event.at - one.points[-1][0]) if one.points else 0.0
        one.at = event.at

    def seconds_of(self, one: StackProgress, now: float | None) -> float | None:
        """Returns how long a stack still trains; None if that is not known.

        Args:
            one: the stack.
            now: the time, in seconds since the epoch; None if it does not train now.
        """
        if not one.left:
            return 0.0
        each, others = one.each, None if len(one.points) > 1 else self._each_of(one)
        if each is not None and others is not None:  # the first epoch begins with what is done once
            each = (each + others) / 2
        each = each or others
        if each is None:
            return None
        if "finishing" not in self._found:
            self._found["finishing"] = _mean([one.finishing for one in self._stacks if one.finishing is not None])
            self._found["setup"] = _mean([setup for one in self._stacks if (setup := one.setup) is not None])
        seconds = each * one.epochs_left() + (self._found["finishing"] or 0.0)
        if one.began is None:
            return seconds + (self._found["setup"] or 0.0)
        since = 0.0 if now is None else now - (one.points[-1][0] if one.points else one.began)
        return max(seconds - since, 0.0)

    def seconds(self, now: float, unplanned: int = 0) -> float | None:
        """Returns how long the command still trains; None if that is not known.

        Args:
            now: the time, in seconds since the epoch.
            unplanned: the number of trials that will be planned later: they take as long as those that are planned.
        """
        known = [(one, self.seconds_of(one, now)) for one in self._stacks if one.left]
        times = [seconds for _, seconds in known if seconds is not None]
        if len(times) < len(known) or not self._stacks:
            return None
        busy = [seconds for one, seconds in known if one.began is not None and seconds is not None]
        busy = [*busy, *[0.0] * (self.workers - len(busy))]
        heapq.heapify(busy)
        waiting = [seconds for one, seconds in known if one.began is None and seconds is not None]
        if unplanned > 0:
            waiting += self._later(unplanned)
        for seconds in sorted(waiting, reverse=self.workers > 1):
            heapq.heappush(busy, heapq.heappop(busy) + seconds)
        return max(busy)

    def _later(self, trials: int) -> list[float]:
        """Returns the seconds of stacks that are not planned yet, which have so many trials."""
        wholes = [(one, self._whole(one)) for one in self._stacks]
        known = [(sum(map(len, one.trajectories)), seconds) for one, seconds in wholes if seconds is not None]
        if not known:
            return []
        size = sum(number for number, _ in known) / len(known)
        each = sum(seconds for _, seconds in known) / sum(number for number, _ in known)
        return [each * trials / max(1, round(trials / size))] * max(1, round(trials / size))

    def _whole(self, one: StackProgress) -> float | None:
        """Returns the seconds of a stack from its beginning to its end; None if they are not known."""
        if one.began is not None and not one.left:
            return one.at - one.began
        each = one.each or self._each_of(one)
        whole = StackProgress(one.trajectories, one.planned)
        return None if each is None else each * whole.epochs_left()

    def _each_of(self, one: StackProgress) -> float | None:
        """Returns the seconds of an epoch of a stack that was not measured, from others; None if they are not known.

        They are those of stacks like it; else those of the plan, corrected by how right the plan was for others; else
        those of the stack with the nearest batch size.
        """
        if one.points:
            return self._each_beside(one)
        key = one.group, one.width, one.planned
        if key not in self._found:
            self._found[key] = self._each_beside(one)
        return self._found[key]

    def _each_beside(self, one: StackProgress) -> float | None:
        """Does what `_each_of` says, by a look at all stacks."""
        measured = [(other, each) for other in self._stacks if other is not one and (each := other.each)]
        alike = [each / _share(other.width / one.width) for other, each in measured if other.group == one.group]
        if alike:
            return _mean(alike)
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
