"""Estimates how long the stacks of a command still train: from what was measured of them and of others like them.

The terminal and `sweepstack status` both use it. It knows neither files nor clocks: it takes events and the time.
Stacks side by side are slower than one that has the machine for itself: a *crowd* is the part of the other workers of
this machine that train, from 0 to 1, and `Eta._slowdown` says how much slower it makes a stack.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import timedelta

from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.execution.control.stack_progress import (
    CROWDS_DIFFER,
    Moment,
    Past,
    StackProgress,
    Survival,
    key_of,
    share_of_time,
)
from sweepstack.search.rungs import rungs_within
from sweepstack.trial import Trial, TrialState

OTHER_BATCH_SIZE = 0.5
"""How the time of a step grows with its batch size, as an exponent, if no stack with that batch size was measured: 0
for steps that are all overhead, 1 for those that are all arithmetic."""
SLOWER_TOGETHER = 1.15
"""How many times as long a stack takes while other workers use the rest of the machine's caches and memory channels,
as long as it was not measured."""
MOST_COMPARED = 20
"""The number of stacks, from the last one backwards, from which that is measured."""


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
        self._past: dict[Hashable, Past] = {}
        """What was measured of stacks that have ended, by `StackProgress.kind`."""
        self._known: list[tuple[StackProgress | None, Past]] | None = None
        """The same, with those that train, each for itself; None if it is to be found since the last event."""
        self._ending, self._ended, self._longest = 0.0, 0, 0
        """The seconds from measurements to the ends of trials, their number, and the most epochs of a trial."""
        self._items = 0
        self._now = Moment(0.0, 0.0)
        self._compared: dict[StackProgress, None] = {}
        """Those that were measured in different crowds."""
        self._paused: dict[Hashable, tuple[Hashable, Trial]] = {}
        """The trials that were paused, each with what tells its trajectory from others."""
        self._rest: StackProgress | None = None
        """Those that are paused, as the stack in which they go on, as far as that is known."""

    def add(self, trajectories: Iterable[Sequence[Trial]], planned: float) -> StackProgress:
        """Adds a stack. Trials of other stacks, such as paused ones, leave these and go on in it.

        Args:
            trajectories: its trials that are to be trained, by trajectory; at least one.
            planned: the seconds of an epoch as they were estimated before; 0 if they were not.
        """
        self._forget()
        given = [each for each in trajectories if each]
        going = {key: left for each in given for trial in each if (left := self._leave(key := key_of(trial)))}
        one = StackProgress(given, 0.0 if going else planned, slowdown=self._slowdown)  # a plan knows no narrower stack
        one.take_over(going)
        self._stacks.append(one)
        self._stack_of |= dict.fromkeys(one.left, one)
        self._longest = max(self._longest, one.epochs)
        return one

    def pause(self, trial: Trial) -> None:
        """Takes that a trial leaves its stack and waits for what others reach; it goes on in a stack that is added."""
        one, key = self.stack_of(trial), key_of(trial)
        if one is None or (left := self._leave(key)) is None:
            return
        first = next(each[0] for each in one.trajectories if key in map(key_of, each))
        self._paused[key] = key_of(first), trial
        paused = {**(self._rest.left if self._rest is not None else {}), key: left}
        trajectories: dict[Hashable, list[Trial]] = {}
        for each in paused:
            trajectories.setdefault(self._paused[each][0], []).append(self._paused[each][1])
        self._stacks = [other for other in self._stacks if other is not self._rest]
        self._forget()
        self._rest = StackProgress([*trajectories.values()], 0.0, slowdown=self._slowdown)
        self._rest.take_over(paused)
        self._stacks.append(self._rest)
        self._stack_of |= dict.fromkeys(paused, self._rest)

    def _leave(self, key: Hashable) -> float | None:
        """Takes a trial out of its stack; returns the epochs that are left of it, or None if it is in none."""
        one = self._stack_of.get(key)
        left = None if one is None else one.left.pop(key, None)
        if one is not None:
            self._close(one, self._now.at)
        return left

    def _close(self, one: StackProgress, at: float) -> None:
        """Takes that a stack has ended, if nothing is left of it."""
        if not one.left and one in self._begun:
            del self._begun[one]
            self._free.append(at)
            self._past.setdefault(one.kind, one.past()).take(one, one.each, None if one.resumed else one.spent)

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
        seconds = event.at - self._now.at if self._now.at else 0.0
        if seconds >= 0:
            self._now = Moment(event.at, self._now.crowded + seconds * self._crowd(len(self._begun)))
        now = Moment(event.at, self._now.crowded)  # of several workers, an event may come after a later one
        match event:
            case Started():
                if one.began is None:
                    one.begin(now)
                    if self._free:
                        self._gaps.append(max(0.0, event.at - self._free.pop(0)))
                else:
                    one.go_on(now)
                self._begun[one] = None
                self._items = event.dataset.train or self._items
                one.resumed = one.resumed or event.resumed
            case Measured():
                at = event.measurement
                done = epochs * at.step / at.steps
                one.progress(done, now)
                crowds = [part.crowd for part in one.measured[-2:]]
                if crowds and max(crowds) - min(crowds) >= CROWDS_DIFFER:
                    self._compared[one] = None
                self._reached[key] = at.step / at.steps
                if key in one.left:
                    one.left[key] = max(0.0, epochs - done)
            case Ended():
                self._ending += one.end(key, now)
                self._ended += one.began is not None
                if event.outcome.state is TrialState.PRUNED:
                    self._pruned.append(self._reached.pop(key, 0.0))
                self._close(one, event.at)

    def _forget(self) -> None:
        """Forgets what was found before an event."""
        self._found.clear()
        self._survival = self._ends = self._known = None

    def seconds_of(self, one: StackProgress, now: float | None) -> float | None:
        """Returns how long a stack still trains; None if that is not known.

        Args:
            one: the stack.
            now: the time, in seconds since the epoch; None if it does not train now.
        """
        seconds = self._alone(one, now)
        if seconds is None or self._crowd(2) == 0 or one.began is None or now is None:
            return seconds
        if self._ends is None or self._ends[0] != now:
            self._ends = now, [self._alone(other, now) or 0.0 for other in self._begun]
        return self._beside(self._ends[1], seconds)

    def _beside(self, ends: Sequence[float], seconds: float) -> float:
        """Returns how long a stack trains beside others: the fewer still train, the faster it is.

        Args:
            ends: the seconds that the stacks of all workers would train alone.
            seconds: the same of the stack.
        """
        total = before = 0.0
        for index, end in enumerate(sorted(min(end, seconds) for end in ends)):
            total += (end - before) * self._slowdown(self._crowd(len(ends) - index))
            before = end
        return total

    def _crowd(self, running: int) -> float:
        """Returns the crowd beside a stack if so many train, with itself. On a cluster, stacks are not in one place."""
        is_here = bool(self._stacks) and self._stacks[0].trajectories[0][0].run.engine.name in ("auto", "local")
        return min(1.0, max(0, running - 1) / (self.workers - 1)) if is_here and self.workers > 1 else 0.0

    def _slowdown(self, crowd: float) -> float:
        """Returns how many times as long as alone a stack takes in a crowd."""
        return 1 + (self._together() - 1) * crowd if crowd else 1.0

    def _together(self) -> float:
        """Returns how many times as long as alone a stack takes while all workers train.

        It is measured when stacks begin or end beside one that trains on. Before, all that is known is how much longer
        epochs took than was planned, and not whether the crowd was the cause: it counts as half of it.
        """
        if "together" not in self._found:
            compared = [one.slower_together for one in [*self._compared][-MOST_COMPARED:]]
            known = [math.log(each) for each in compared if each is not None]
            self._found["together"] = math.exp(sum([*known, math.log(self._assumed())]) / (len(known) + 1))
        return self._found["together"] or 1.0

    def _assumed(self) -> float:
        """Returns what `_together` takes for granted before it was measured."""
        crowded = [one for one in self._begun if one.planned and one.raw and one.raw.crowd >= CROWDS_DIFFER]
        ratios = [one.raw.seconds / one.raw.epochs / one.planned for one in crowded if one.raw]
        return max(SLOWER_TOGETHER, math.sqrt(sum(ratios) / len(ratios))) if ratios else SLOWER_TOGETHER

    def _alone(self, one: StackProgress, now: float | None) -> float | None:
        """Returns how long a stack would still train alone; None if that is not known.

        Args:
            one: the stack.
            now: see `seconds_of`.
        """
        if not one.left:
            return 0.0
        if one.began is None:
            if one.shape not in self._found:
                each = self._each_of(one)
                whole = None if each is None else each * sum(one.epochs_left(self._surviving()))
                self._found[one.shape] = None if whole is None else whole + self._once(one)
            return self._found[one.shape]
        each = one.recent or self._beginning(one)
        if each is None:
            return None
        since = 0.0 if now is None else max(0.0, now - one.at) / self._slowdown(self._crowd(len(self._begun)))
        setup = 0.0
        if one.first is None and not (one.measured or one.resumed):
            setup = self._mean("setup")
            each = max(each, since - setup) if one.is_measured_each_epoch else each
        soon, later = one.epochs_left(self._surviving())
        seconds = setup + each * soon + ((one.each if one.measured else None) or each) * later
        # However long ago it was measured last, the next measurement is still to come.
        passed = min(since, setup + each * one.next_part) if soon else since
        return max(seconds + len(one.left) * self._mean("ending") - passed, 0.0)

    def _beginning(self, one: StackProgress) -> float | None:
        """Returns the seconds of an epoch of a stack of which at most the first one was measured."""
        others, setup = self._each_of(one), self._mean("setup")
        if one.first is None or one.each is None or others is None:
            return one.each or others
        seconds, epochs = one.first.seconds / self._slowdown(one.first.crowd), one.first.epochs
        own = max(0.0, seconds - setup) / epochs if setup else one.each
        return min(seconds / epochs, (own + others) / 2)

    def _once(self, one: StackProgress) -> float:
        """Returns the seconds that a stack which has not begun takes beside its epochs."""
        return self._mean("gap") + self._mean("setup") + one.number * self._mean("ending")

    def _mean(self, name: str) -> float:
        """Returns the mean of what was measured: `setup` and `gap` of a stack, `ending` of a trial; else 0."""
        if "gap" not in self._found:
            setups = sum(past.setups for _, past in self._measured())
            self._found["gap"] = sum(self._gaps) / len(self._gaps) if self._gaps else 0.0
            self._found["setup"] = sum(past.setup for _, past in self._measured()) / setups if setups else 0.0
            self._found["ending"] = self._ending / self._ended if self._ended else 0.0
        return self._found[name] or 0.0

    def _surviving(self) -> Survival:
        """Returns which part of the trials goes on at the rungs, by those that have reached them (Kaplan-Meier).

        Halving lets one in its factor go on, in the long run: that counts as several trials, because of the first ones
        at least one goes on.
        """
        if self._survival is None:
            pruner = self._stacks[0].trajectories[0][0].run.pruner
            asked: Mapping[float, float] = {}
            if pruner.name == "halving":
                longest = self._longest
                asked = {at / longest: 1 - 1 / pruner.factor for _, at in rungs_within(pruner, longest, longest)}
            left, pruned = Counter(round(part, 9) for part in self._pruned), sorted(self._pruned)
            reached = sorted(self._reached.values())
            rungs, after = sorted({round(part, 9) for part in asked} | {*left}), [1.0]
            for rung in rungs:
                expected = next((part for at, part in asked.items() if round(at, 9) == rung), None)
                went_on = len(reached) - bisect.bisect_right(reached, rung + 1e-9)
                judged = went_on + len(pruned) - bisect.bisect_left(pruned, rung - 1e-9)
                weight = 0 if expected is None else pruner.factor**2
                lost = (left[rung] + weight * (expected or 0.0)) / (judged + weight)
                after.append(after[-1] * (1 - lost))
            self._survival = Survival(rungs, after[1:])
        return self._survival

    def seconds(self, now: float | None, unplanned: int = 0) -> float | None:
        """Returns how long the command still trains; None if that is not known.

        Args:
            now: the time, in seconds since the epoch; None if no stack trains now.
            unplanned: the number of trials that will be planned later: they take as long as those that are planned.
        """
        busy, waiting = list[float](), list[float]()
        for one in self._stacks:
            if one.left:
                seconds = self._alone(one, now)
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
        total = Past(0, None, 0, 0.0)
        if not self._surviving().rungs:
            for one in self._begun:
                total.take(one, None, self._whole(one))
            for past in self._past.values():
                total.whole += past.whole + past.stacks * self._mean("gap")
                total.stacks, total.trials = total.stacks + past.stacks, total.trials + past.trials
        # With a pruner, the first stacks take longer than later ones: they have nobody to lose against.
        for one in [] if total.trials else self._stacks:
            total.take(one, None, self._alone(one.unbegun(), None))
        if not total.trials:
            return []
        stacks = max(1, round(trials * total.stacks / total.trials))
        return [total.whole * trials / total.trials / stacks] * stacks

    def _whole(self, one: StackProgress) -> float | None:
        """Returns the seconds of a stack from its beginning to its end; None if they are not known."""
        if one.began is not None and not one.resumed:
            left = self._alone(one, one.at)
            return None if left is None else self._mean("gap") + one.spent + left
        return self._alone(one.unbegun(), None)

    def _each_of(self, one: StackProgress) -> float | None:
        """Returns the seconds of an epoch of a stack that was not measured, from others; None if they are not known.

        They are those of stacks like it; else those of the plan, corrected by how right the plan was for others; else
        those of the stack with the nearest batch size.
        """
        if one.done:
            return self._each_beside(one)
        if one.kind not in self._found:
            self._found[one.kind] = self._each_beside(one)
        return self._found[one.kind]

    def _each_beside(self, one: StackProgress) -> float | None:
        """Does what `_each_of` says, by a look at all that was measured."""
        known = [past for other, past in self._measured() if other is not one]
        if alike := [past for past in known if past.group == one.group]:
            seconds = sum(past.seconds * _ratio(one.width, past.width) for past in alike)
            return seconds / sum(past.done for past in alike)
        if one.planned:
            timed = [past for past in known if past.planned]
            planned = sum(past.done * past.planned for past in timed)
            return one.planned * (sum(past.seconds for past in timed) / planned if timed else 1.0)
        if not known:
            return None
        nearest = min(known, key=lambda past: abs(math.log(past.batch_size / one.batch_size)))
        steps = self._steps(one.batch_size) / self._steps(nearest.batch_size)
        slower = math.pow(one.batch_size / nearest.batch_size, OTHER_BATCH_SIZE)
        return nearest.seconds / nearest.done * steps * slower * share_of_time(one.width / nearest.width)

    def _measured(self) -> list[tuple[StackProgress | None, Past]]:
        """Returns what was measured of stacks that have ended, and of each that trains."""
        if self._known is None:
            self._known = [(None, past) for past in self._past.values() if past.done]
            for one in self._begun:
                if (each := one.each_of_all(self._surviving())) is not None:
                    self._known.append((one, one.past()))
                    self._known[-1][1].take(one, each, None)
        return self._known

    def _steps(self, batch_size: int) -> float:
        return math.ceil(self._items / batch_size) if self._items else 1 / batch_size


def clock(seconds: float) -> str:
    """Returns a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _ratio(width: int, other: int) -> float:
    """Returns how many times as long an epoch takes at one width as at another one; see `share_of_time`."""
    return share_of_time(width / other) if width < other else 1 / share_of_time(other / width)
