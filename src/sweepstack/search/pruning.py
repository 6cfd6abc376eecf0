"""Which trials end early, by the objective at rungs: decides as the pruner of the config says. Pure.

A *rung* is a number of epochs at which trials are compared. It is counted on the longest training of the sweep; in a
shorter one, it is at the same part of its own epochs. Trials of one setting are judged together, by their mean.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.config.run_sections import PrunerConfig
from sweepstack.events import Ended
from sweepstack.metrics import Mode, is_better, rounded
from sweepstack.planning.compatibility import objective_key, setting_key
from sweepstack.trial import Measurement, Outcome, Trial, TrialState

ROUNDING = 1e-9
"""Epochs that a measurement may be before a rung, because of rounding."""


@dataclass
class Standing:
    """What is known of a trial: its objective at the rungs that it has reached."""

    setting: int
    """The number of its setting in the sweep, from 0."""
    epochs: int
    """The epochs of its whole training."""
    objective: str
    """The metric that selects."""
    mode: Mode
    """Which of its values are better."""
    comparable: str = ""
    """A key that is equal for trials that are compared: their objectives measure the same on the same data."""
    values: dict[float, float] = field(default_factory=dict)
    """The objective by the epochs that it had trained then."""
    failed: bool = False
    """True if it has FAILED: at the next rung, it counts as the last one."""
    pruned: bool = False
    """True if it was PRUNED, at the last rung that it has reached."""


@dataclass(frozen=True)
class KnownRungs:
    """What a pruner decides by, as plain values."""

    config: PrunerConfig
    longest: int
    """The most epochs of a trial in the sweep."""
    standings: Mapping[str, Standing]
    """What is known of the trials of the sweep, by fingerprint."""
    population: str = ""
    """Digest of those trials and of the pruner; see `Standings`."""

    def as_json(self) -> dict[str, Any]:
        """Converts it to plain values."""
        standings = {
            key: {**vars(one), "values": list(one.values.items())} for key, one in self.standings.items()
        }  # JSON has texts as keys only
        config, longest, population = self.config.model_dump(), self.longest, self.population
        return {"config": config, "longest": longest, "standings": standings, "population": population}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> KnownRungs:
        """Reads what `as_json` has returned."""
        standings = {
            key: Standing(**{**one, "values": {float(epochs): value for epochs, value in one["values"]}})
            for key, one in content["standings"].items()
        }
        config = PrunerConfig.model_validate(content["config"])
        return cls(config, content["longest"], standings, content["population"])


def rungs_of(config: PrunerConfig, longest: int) -> list[int]:
    """Returns the rungs of a sweep.

    Args:
        config: the pruner.
        longest: the most epochs of a trial.
    """
    if config.name == "none":
        return []
    if not config.ranks:
        return list(range(config.min_epochs, longest))
    powers = (config.min_epochs * config.factor**power for power in itertools.count())
    return list(itertools.takewhile(lambda rung: rung < longest, powers))


def rungs_within(config: PrunerConfig, longest: int, epochs: int) -> list[tuple[int, float]]:
    """Returns the rungs of a trial, each with the epochs that the trial has trained when it reaches the rung.

    Args:
        config: the pruner.
        longest: the most epochs of a trial in the sweep.
        epochs: the epochs of the trial.
    """
    if not config.compares:
        longest = epochs
    found = [(rung, rung * epochs / longest) for rung in rungs_of(config, longest)]
    return [(rung, at) for rung, at in found if at >= config.min_epochs]


def values_at(values: Mapping[float, float], rungs: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Returns the values at rungs: at each the first one from it to the next rung.

    Args:
        values: by epochs.
        rungs: see `rungs_within`.
    """
    found: dict[int, float] = {}
    reached = 0
    for epochs, value in sorted(values.items()):
        while reached < len(rungs) and rungs[reached][1] <= epochs + ROUNDING:
            reached += 1
        if reached:
            found.setdefault(rungs[reached - 1][0], value)
    return found


def brackets(config: PrunerConfig, longest: int) -> list[int]:
    """Returns how many of each round of settings `hyperband` deals to each bracket, as the paper on Hyperband (Li et
    al., 2018) does. Bracket b begins at rung number b; the last one prunes nothing.

    Args:
        config: the pruner.
        longest: the most epochs of a trial in the sweep.
    """
    count = len(rungs_of(config, longest)) + 1
    return [math.ceil(count / left * config.factor ** (left - 1)) for left in range(count, 0, -1)]


def bracket_of(setting: int, shares: Sequence[int]) -> int:
    """Returns the bracket of a setting: each setting goes to the bracket that is furthest behind its share.

    Args:
        setting: the number of the setting.
        shares: see `brackets`.
    """
    dealt = [0] * len(shares)
    chosen = 0
    for number in range(setting % sum(shares) + 1):
        behind = [share * (number + 1) / sum(shares) - had for share, had in zip(shares, dealt, strict=True)]
        chosen = behind.index(max(behind))
        dealt[chosen] += 1
    return chosen


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


class Standings:
    """Collects what is known of the trials of a command, for the stacks that begin next.

    Its trials are the *population* in which the pruner compares. Whoever is PRUNED has lost in one population, and is
    judged again in another one. That of a grid is complete when the first trial is judged; a search adds trials to its
    own, and what was decided before stands.

    Args:
        config: the pruner.
        longest: the most epochs that a trial of the sweep may have.
    """

    def __init__(self, config: PrunerConfig, longest: int = 1) -> None:
        self._config = config
        self._digest = config.model_dump_json(exclude={"keep"})
        self._own_digests: set[str] = set()
        """Those of the populations whose decisions stand."""
        self._settings: dict[str, int] = {}
        self._standings: dict[str, Standing] = {}
        self.longest = longest
        """The most epochs that a trial of the sweep may have."""

    @property
    def pruner(self) -> str:
        """The name of the pruner."""
        return self._config.name

    @property
    def prunes(self) -> bool:
        """False without a pruner."""
        return self._config.name != "none"

    def add(self, trials: Iterable[Trial]) -> None:
        """Adds trials, in the order of the sweep; those that are known stay as they are."""
        if not self.prunes:
            return
        for trial in trials:
            if trial.fingerprint in self._standings:
                continue
            config = trial.config
            setting = self._settings.setdefault(setting_key(config), len(self._settings))
            data = Fingerprint.parse(trial.fingerprint).data
            comparable = f"{objective_key(config)} {data} {config.held_out._replace(fold=None)}"
            self._standings[trial.fingerprint] = Standing(
                setting, config.epochs, config.objective, config.mode, comparable
            )
            self.longest = max(self.longest, config.epochs)
            search = trial.run.search
            text = f"{self._digest} {search.name} {search.seed} {trial.fingerprint}"
            self._digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            self._own_digests = {self._digest} if search.name == "grid" else {*self._own_digests, self._digest}

    def judge(self, outcomes: Mapping[str, Outcome]) -> Mapping[str, Outcome]:
        """See `JudgePruned`: what was decided in this population stands; about others the pruner decides by what is
        known of all at the rungs. It may be called again.
        """
        known = {key: outcome for key, outcome in outcomes.items() if key in self._standings and outcome.final}
        for key, outcome in known.items():
            self._end(key, outcome)
        known = {key: outcome for key, outcome in known.items() if outcome.state is TrialState.PRUNED}
        left = {key: outcome for key, outcome in known.items() if outcome.population in self._own_digests}
        others = [key for key in self._standings if key in known and key not in left]
        for key in others:
            self._standings[key].pruned = False
        if others:
            lost = Pruner(KnownRungs(self._config, self.longest, self._standings)).decide_by_known(others)
            for key, (epochs, reason) in lost.items():
                rungs = {at: value for at, value in known[key].rungs.items() if at <= epochs}
                left[key] = replace(known[key], reason=reason, rungs=rungs, population=self._digest)
        return left

    def take(self, trial: Trial, at: Measurement, before: int) -> None:
        """Takes a measurement of a trial.

        Args:
            trial: the trial.
            at: the measurement.
            before: the step of the one before.
        """
        standing, value = self._standings.get(trial.fingerprint), at.metrics.get(trial.config.objective)
        if standing is None or value is None or at.step >= at.steps:
            return
        done, now = (step * standing.epochs / at.steps for step in (before, at.step))
        rungs = rungs_within(self._config, self.longest, standing.epochs)
        if any(done < epochs - ROUNDING <= now for _, epochs in rungs):
            standing.values[now] = value

    def pause(self, end: Ended) -> None:
        """Takes the objective of a paused trial at the rungs that it has reached.

        Args:
            end: how it ends if it does not go on.
        """
        self._standings[end.trial.fingerprint].values |= end.outcome.rungs

    def judge_paused(self, ends: Sequence[Ended]) -> list[Ended]:
        """Decides which paused trials end where they stand, by all that is known now of the rungs there.

        Args:
            ends: how each ends then.
        """
        known = {end.trial.fingerprint: end for end in ends}
        pruner = Pruner(KnownRungs(self._config, self.longest, self._standings))
        losers = pruner.decide_where_they_stand(known)
        return [
            replace(known[key], outcome=replace(known[key].outcome, reason=why, population=self._digest))
            for key, why in losers.items()
        ]

    def forget(self, trial: Trial) -> None:
        """Forgets what is known of a trial that is trained again, so that it is judged as it was the first time."""
        if (standing := self._standings.get(trial.fingerprint)) is not None:
            self._standings[trial.fingerprint] = replace(standing, values={}, failed=False, pruned=False)

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Takes the outcome of a trial, also of one that was trained before."""
        if trial.fingerprint in self._standings:
            self._end(trial.fingerprint, outcome)

    def _end(self, key: str, outcome: Outcome) -> None:
        standing = self._standings[key]
        standing.values |= outcome.rungs
        standing.failed = outcome.state is TrialState.FAILED
        standing.pruned = outcome.state is TrialState.PRUNED

    def known(self) -> KnownRungs | None:
        """Returns what a pruner knows when a stack begins; None without a pruner. It does not know members that another
        command wants: these are trained to their end, and count for nobody."""
        if not self.prunes:
            return None
        copies = {key: replace(one, values=dict(one.values)) for key, one in self._standings.items()}
        return KnownRungs(self._config, self.longest, copies, self._digest)


def ordinal(number: int) -> str:
    """Returns a rank in words, such as 1st or 12th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def describe_pruner(config: PrunerConfig, epochs: Sequence[int], by_epoch: bool = True, longest: int = 1) -> list[str]:
    """Says at which epochs trials are judged; nothing if none is.

    Args:
        config: the pruner.
        epochs: the epochs of each trial.
        by_epoch: False if a trial is not measured after each epoch.
        longest: the most epochs that a trial of the sweep may have.
    """
    if config.name == "none" or not epochs:
        return []
    longest = max(longest, *epochs)
    each = {longest, *epochs}
    found = {one: [math.ceil(at - ROUNDING) for _, at in rungs_within(config, longest, one)] for one in each}
    if not any(found.values()):
        least = f"no trial has more epochs than pruner.min_epochs={config.min_epochs}"
        return [f"pruner={config.name}: {least}, so none ends early"]
    judged = {
        "halving": f"1 in {config.factor} goes on",
        "hyperband": f"1 in {config.factor} goes on, in {len(brackets(config, longest))} brackets",
    }.get(config.name, "trials may end")
    line = f"pruner={config.name}: {judged} {_at(found[longest])}"
    shorter = [one for one in sorted(found) if one < longest]
    if shorter and config.compares:
        one = shorter[-1]
        own = f"{_at(found[one])} of {one}" if found[one] else f"never in {one}"
        line += f" of {longest} epochs, in a shorter training at the same part of its own epochs ({own})"
    return [line if by_epoch else f"{line}, or at the first measurement after that"]


def _at(epochs: Sequence[int]) -> str:
    if len(epochs) > 1 and list(epochs) == list(range(epochs[0], epochs[-1] + 1)):
        return f"after each epoch from {epochs[0]} to {epochs[-1]}"
    *first, last = epochs
    return f"at epoch{'s' if first else ''} {', '.join(map(str, first))}{' and ' if first else ''}{last}"
