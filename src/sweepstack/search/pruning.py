"""Which trials end early, by the objective at rungs: decides as the pruner of the config says. Pure.

Trials of one setting are judged together, by their mean. See `rungs.py` for what a rung is.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweepstack.metrics import Mode, is_better, rounded
from sweepstack.search.rungs import (
    ROUNDING,
    KnownRungs,
    Standing,
    bracket_of,
    brackets,
    rungs_of,
    rungs_within,
    values_at,
)


@dataclass(frozen=True)
class Decision:
    """What a pruner has decided after some measurements."""

    leaving: Mapping[str, str]
    """Why trials end, by fingerprint."""
    judged: int
    """The number of trials that were judged."""
    epochs: float
    """The epochs that they have trained."""


class Pruner:
    """Follows the trials of a stack, and decides which of them end.

    Args:
        known: what is known of the trials of the sweep; it is updated.
    """

    def __init__(self, known: KnownRungs) -> None:
        self.config, self._longest = known.config, known.longest
        self._standings, self.population = known.standings, known.population
        self._shares = brackets(self.config, self._longest) if self.config.name == "hyperband" else [1]
        self._rungs: dict[int, list[tuple[int, float]]] = {}
        self._brackets: dict[int, int] = {}
        self._passed: dict[str, dict[float, float]] = {}
        self._next: dict[str, int] = {}
        self._crossed: dict[int, list[str]] = {}
        self._ended: set[str] = set()
        self._epochs = 0.0

    def begin(self, epochs: float = 0.0, passed: Mapping[str, Mapping[float, float]] | None = None) -> None:
        """Follows a training from its beginning, or from a checkpoint.

        Args:
            epochs: the epochs that are done.
            passed: what `passed` was then.
        """
        self._passed = {key: {float(at): one for at, one in found.items()} for key, found in (passed or {}).items()}
        self._crossed, self._ended = {}, set()
        for key, standing in self._standings.items():
            standing.values |= self._passed.get(key, {})
            self._next[key] = sum(at <= epochs + ROUNDING for _, at in self._own(standing))

    @property
    def passed(self) -> dict[str, dict[float, float]]:
        """The objective at the rungs that the trials of the stack have passed, by epochs, for a checkpoint."""
        return self._passed

    def rungs(self, key: str) -> dict[float, float]:
        """Returns the objective of a trial at the rungs that it has reached, by the epochs that it had trained then.

        Args:
            key: its fingerprint.
        """
        known = self._standings.get(key)
        return {} if known is None else dict(sorted(known.values.items()))

    def take(self, key: str, epochs: float, value: float) -> None:
        """Takes a measurement of a trial.

        Args:
            key: its fingerprint.
            epochs: the epochs that it has trained.
            value: its objective.
        """
        standing = self._standings.get(key)
        if standing is None or epochs + ROUNDING >= standing.epochs:
            return
        own, number = self._own(standing), self._next.get(key, 0)
        if number == len(own) or own[number][1] > epochs + ROUNDING:
            return
        while number < len(own) and own[number][1] <= epochs + ROUNDING:
            number += 1
        standing.values[epochs] = self._passed.setdefault(key, {})[epochs] = value
        self._crossed.setdefault(own[number - 1][0], []).append(key)  # the last one, if it is measured seldom
        self._next[key], self._epochs = number, epochs

    def end(self, key: str, failed: bool) -> None:
        """Notes that a trial has ended and was not pruned, perhaps at a rung about which nothing is decided yet.

        Args:
            key: its fingerprint.
            failed: True if it has FAILED.
        """
        if key in self._standings:
            self._ended.add(key)
            self._standings[key].failed, self._standings[key].pruned = failed, False

    def decide(self) -> Decision:
        """Decides about the trials that have reached a rung since the last call."""
        crossed, self._crossed = self._crossed, {}
        leaving: dict[str, str] = {}
        left = {key for keys in crossed.values() for key in keys} - self._ended
        for rung, keys in sorted(crossed.items()):
            for key, reason in self._judged(rung, [key for key in keys if key in left and key not in leaving]).items():
                leaving[key] = f"pruned at epoch {self._epochs:g} by {self.config.name}{reason}"
        return Decision(leaving, len(left), self._epochs)

    def decide_where_they_stand(self, keys: Iterable[str]) -> dict[str, str]:
        """Decides about trials once more, by what is known now of the last rung that each has reached. They have gone
        on there: who was pruned there before does not push them out.

        Returns:
            Why trials end, by fingerprint.
        """
        reached: dict[int, list[str]] = defaultdict(list)
        for key in keys:
            standing = self._standings[key]
            reached[max(values_at(standing.values, self._own(standing)))].append(key)
        leaving: dict[str, str] = {}
        for rung, here in sorted(reached.items()):
            for key, reason in self._judged(rung, here, have_gone_on=True).items():
                epochs = max(self._standings[key].values)
                leaving[key] = f"pruned at epoch {epochs:g} by {self.config.name}{reason}"
        return leaving

    def decide_by_known(self, keys: Iterable[str]) -> Mapping[str, tuple[float, str]]:
        """Decides about trials by what is known of them at the rungs that they have reached.

        Returns:
            The epochs at which a trial ends, and why, by fingerprint. What is known of it later is dropped.
        """
        own = {key: self._own(self._standings[key]) for key in keys}
        reached = {key: values_at(self._standings[key].values, rungs) for key, rungs in own.items()}
        leaving: dict[str, tuple[float, str]] = {}
        for rung in sorted({rung for found in reached.values() for rung in found}):
            here = [key for key, found in reached.items() if rung in found and key not in leaving]
            for key, reason in self._judged(rung, here).items():
                values, begin = self._standings[key].values, dict(own[key])[rung]
                epochs = min(at for at in values if at + ROUNDING >= begin)
                self._standings[key].values = {at: value for at, value in values.items() if at <= epochs}
                leaving[key] = epochs, f"pruned at epoch {epochs:g} by {self.config.name}{reason}"
        return leaving

    def _judged(self, rung: int, keys: Sequence[str], have_gone_on: bool = False) -> dict[str, str]:
        """Returns why trials that have reached a rung end there, by fingerprint.

        Args:
            rung: the rung.
            keys: the fingerprints of the trials.
            have_gone_on: they were judged there before, and have gone on.
        """
        groups: dict[tuple[str, int], list[str]] = defaultdict(list)
        for key in keys:
            standing = self._standings[key]
            groups[standing.comparable, self._bracket(standing.setting)].append(key)
        found: dict[str, str] = {}
        for (_, bracket), group in groups.items():
            losers = self._losers(rung, group, bracket, have_gone_on)
            settings = {key: self._standings[key].setting for key in group}
            found |= {key: losers[setting] for key, setting in settings.items() if setting in losers}
        for key in found:
            self._standings[key].pruned = True
        return found

    def _losers(self, rung: int, group: Sequence[str], bracket: int, have_gone_on: bool) -> dict[int, str]:
        """Returns why settings end at a rung, by their numbers. What was decided before stands: who left there with
        another seed or fold leaves, and does not push out who went on.

        Args:
            rung: the rung.
            group: the fingerprints of the trials that have just reached it, and are compared.
            bracket: their bracket.
            have_gone_on: see `_judged`.
        """
        like, judged = self._standings[group[0]], set() if have_gone_on else {*group}
        if self.config.name == "hyperband" and rung not in rungs_of(self.config, self._longest)[bracket:]:
            return {}
        curves: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        before: dict[int, str] = {}
        went_on: set[int] = set()
        for key, standing in self._standings.items():
            if standing.comparable != like.comparable or self._bracket(standing.setting) != bracket:
                continue
            reached = values_at(standing.values, self._own(standing))
            last = max(reached, default=0)
            for one, value in reached.items():
                if one <= rung:
                    curves[standing.setting][one].append(value)
            if standing.failed and next((one for one, _ in self._own(standing) if one > last), None) == rung:
                curves[standing.setting][rung].append(math.nan)
            if standing.pruned and last <= rung:
                before[standing.setting] = ", as its other trials were"
            elif last >= rung and not standing.failed and key not in judged:
                went_on.add(standing.setting)
        means = {
            setting: {one: math.fsum(values) / len(values) for one, values in sorted(curve.items())}
            for setting, curve in sorted(curves.items())
        }
        judge: Callable[[dict[int, dict[int, float]], int, Standing, int], dict[int, str]] = {
            "halving": self._by_halving,
            "hyperband": self._by_halving,
            "median": self._by_median,
            "threshold": self._by_threshold,
            "patient": self._by_patience,
        }[self.config.name]
        count = sum(rung in curve for curve in means.values())
        losers = judge(means, rung, like, count)
        without = judge({one: curve for one, curve in means.items() if one not in before}, rung, like, count)
        return before | {one: why for one, why in losers.items() if one not in went_on or one in without}

    def _by_halving(self, means: dict[int, dict[int, float]], rung: int, like: Standing, count: int) -> dict[int, str]:
        """Of `count` settings, the best count // factor go on, at least one. Of equal ones, the first in the sweep
        wins."""
        at = {setting: curve[rung] for setting, curve in means.items() if rung in curve}
        order = sorted(at, key=lambda one: (math.isnan(at[one]), _sign(like) * at[one], one))
        best = max(1, count // self.config.factor)
        return {setting: f": {ordinal(rank)} of {count}" for rank, setting in enumerate(order, 1) if rank > best}

    def _by_median(self, means: dict[int, dict[int, float]], rung: int, like: Standing, _: int) -> dict[int, str]:
        """What was pruned before counts with what it had, else the median would get stricter with each rung."""
        finite = {one: [v for v in curve.values() if not math.isnan(v)] for one, curve in means.items()}
        running = [math.fsum(values) / len(values) for values in finite.values() if values]
        if len(means) < self.config.min_trials or not running:
            return {}
        median = statistics.median(running)
        found = {}
        for setting, curve in means.items():
            best = _best(curve, like.mode)
            if rung in curve and not is_better(best, median, like.mode) and best != median:
                found[setting] = f": the best {like.objective} is {rounded(best)}, the median is {rounded(median)}"
        return found

    def _by_threshold(self, means: dict[int, dict[int, float]], rung: int, like: Standing, _: int) -> dict[int, str]:
        bound = self.config.bound
        assert bound is not None
        return {
            setting: f": {like.objective} is {rounded(curve[rung])}, the bound is {rounded(bound)}"
            for setting, curve in means.items()
            if rung in curve and not is_better(curve[rung], bound, like.mode) and curve[rung] != bound
        }

    def _by_patience(self, means: dict[int, dict[int, float]], rung: int, like: Standing, _: int) -> dict[int, str]:
        found = {}
        for setting, curve in means.items():
            best, since = math.nan, min(curve) - 1
            for epoch, value in curve.items():  # its rungs are epochs, of which not each one may be measured
                if is_better(value + _sign(like) * self.config.min_delta, best, like.mode):
                    best, since = value, epoch
            if rung in curve and rung - since >= self.config.patience:
                found[setting] = f": no better {like.objective} than {rounded(best)} for {rung - since} epochs"
        return found

    def _own(self, standing: Standing) -> list[tuple[int, float]]:
        """Returns the rungs of a trial; see `rungs_within`."""
        if standing.epochs not in self._rungs:
            self._rungs[standing.epochs] = rungs_within(self.config, self._longest, standing.epochs)
        return self._rungs[standing.epochs]

    def _bracket(self, setting: int) -> int:
        if setting not in self._brackets:
            self._brackets[setting] = bracket_of(setting, self._shares)
        return self._brackets[setting]


def _sign(like: Standing) -> int:
    """Returns the factor with which smaller values are better."""
    return 1 if like.mode == "min" else -1


def _best(curve: Mapping[int, float], mode: Mode) -> float:
    best = math.nan
    for value in curve.values():
        best = value if is_better(value, best, mode) else best
    return best


def ordinal(number: int) -> str:
    """Returns a rank in words, such as 1st or 12th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
