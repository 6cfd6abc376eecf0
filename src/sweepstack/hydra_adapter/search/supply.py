"""A search as a supply of trials: asks a strategy for points, makes their jobs, and tells it what came of them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.config.run_sections import SearchConfig
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.errors import ConfigError, count
from sweepstack.events import Ended
from sweepstack.execution.scheduler import Supply
from sweepstack.hydra_adapter.search.read_space import AND, SearchedJobs
from sweepstack.metrics import Mode, is_better, rounded
from sweepstack.planning.compatibility import check_one_objective
from sweepstack.search.rungs import ROUNDING, rungs_within
from sweepstack.search.space import Options, Space
from sweepstack.search.strategy import Point, PointState, Strategy
from sweepstack.trial import Outcome, Trial, TrialState

LEAST_WIDTH = 4
"""The points that a search has out at a time, unless a larger part of the budget or the config says more."""
PARTS = 8
"""A search has a part of so many of its points out at a time: then it learns so many times."""
MOST_REPEATS = 100
"""Points in a row that had been asked before: after so many the space is taken to have no others."""
LEARNING = ("tpe", "cmaes", "gp", "nsga2")
"""Samplers whose points depend on the results of earlier ones."""


@dataclass(frozen=True)
class Budget:
    """What a search may use, and how much of it at a time."""

    config: SearchConfig
    replicates: int
    """The trials of each point."""
    shortest: int
    """The fewest epochs of a trial."""
    longest: int
    """The most epochs of a trial."""

    @property
    def points(self) -> int | None:
        """The number of points; None if another budget decides."""
        return None if self.config.trials is None else self.config.trials // self.replicates

    @property
    def width(self) -> int:
        """The most points that train at a time."""
        config = self.config
        if config.width is not None:
            return config.width
        learns = config.name in LEARNING or config.patience is not None
        amounts = [] if self.points is None else [self.points]
        if config.epochs is not None:
            amounts.append(math.ceil(config.epochs / ((self.longest if learns else self.shortest) * self.replicates)))
        if not amounts:
            return LEAST_WIDTH
        return max(LEAST_WIDTH, min(amounts) // PARTS) if learns else min(amounts)

    def __str__(self) -> str:
        config = self.config
        amounts = {"trial": config.trials, "trial-epoch": config.epochs, "minute": config.minutes}
        parts = [f"{amount:.15g} {noun}{'' if amount == 1 else 's'}" for noun, amount in amounts.items() if amount]
        parts += [f"{count(config.patience, 'point')} without a better one"] if config.patience else []
        each = f", {self.replicates} trials of each" if self.replicates > 1 else ""
        return f"until {' or '.join(parts)}; {count(self.width, 'point')} at a time{each}"


def check_search(configs: Sequence[TrialConfig], run: RunConfig, replicates: int) -> None:
    """Checks that a search can be done.

    Args:
        configs: those of trials from all of the space.
        run: how they are trained.
        replicates: the trials of each point.

    Raises:
        ConfigError: nothing is held out, the trials cannot be compared, there is no budget, or it is not enough for one
            point.
    """
    search = run.search
    if any(config.selecting_part != "val" for config in configs):
        raise ConfigError(
            "a search selects by held-out data, and nothing is held out: it would select on the test data",
            remedy="hold out a part, such as validation_split=0.1",
        )
    check_one_objective(configs, f"search={search.name}")
    if len({config.held_out._replace(fold=None) for config in configs}) > 1:
        rule = "a search compares its trials on the same held-out items"
        raise ConfigError(rule, remedy="give one value of each key that chooses them: validation_split, split, folds")
    if (search.trials, search.epochs, search.minutes, search.patience) == (None,) * 4:
        remedy = "for example search.trials=64 (or search.epochs, search.minutes, search.patience)"
        raise ConfigError(f"search={search.name} must have a budget", remedy=remedy)
    if search.trials is not None and search.trials < replicates:
        rule = f"search.trials must be enough for one point, which has {replicates} trials"
        raise ConfigError(rule, search.trials, f"for example search.trials={20 * replicates}")
    each = replicates * max(config.epochs for config in configs)
    if search.epochs is not None and search.epochs < each:
        rule = f"search.epochs must be enough for one point, which may have {count(each, 'epoch')}"
        raise ConfigError(rule, search.epochs, f"for example search.epochs={20 * each}")


def digest_of(trials: Sequence[Trial], jobs: SearchedJobs, experiment: str, unresolved: Any) -> str:
    """Returns a digest of what is searched: a command with the same one continues the search.

    It does not depend on how wide the distributions are, nor on the budget.

    Args:
        trials: those of `SearchedJobs.probes`, with their fingerprints.
        jobs: what is searched.
        experiment: the name of the experiment.
        unresolved: the config of the first one, with its interpolations.
    """
    run = trials[0].run
    config: dict[str, Any] = _common([one.config.model_dump(mode="json", by_alias=True) for one in trials], unresolved)
    keys = sorted(part.lstrip("+") for key in jobs.space.distributions for part in key.split(AND))
    for key in [*keys, "seed", "fold"] if len(jobs.replicates) > 1 else keys:
        _drop(config, key.split("."))
    below = [line for line in jobs.fixed if any(line.lstrip("+").startswith(f"{key}.") for key in keys)]
    fingerprints = [Fingerprint.parse(trial.fingerprint) for trial in trials]
    what = {
        "experiment": experiment,
        "search": (run.search.name, run.search.seed),
        "keys": keys,
        "replicates": jobs.replicates,
        "config": config,
        "below": sorted(below),  # what is fixed inside of a searched section, such as model.hidden of model=mlp,cnn
        "data and code": sorted({(one.data, one.code) for one in fingerprints}),
        "pruner": run.pruner.model_dump(mode="json", exclude={"keep"}),
    }
    return hashlib.blake2b(json.dumps(what, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()


def _common(values: Sequence[Any], unresolved: Any) -> Any:
    """Returns the config that some trials have in common. What follows from a searched key stands as its interpolation,
    so that it does not depend on the values of that key; anything else is as in the first trial.

    Args:
        values: the configs of the trials, or what these have at one key.
        unresolved: the same of the first one, with interpolations.
    """
    first = values[0]
    if all(one == first for one in values):
        return first
    if isinstance(first, dict) and all(isinstance(one, dict) for one in values):
        parts = unresolved if isinstance(unresolved, dict) else {}
        return {key: _common([one.get(key) for one in values], parts.get(key)) for key in first}
    return unresolved if "${" in str(unresolved) else first


def _drop(config: dict[str, Any], path: Sequence[str]) -> None:
    for name in path[:-1]:
        config = config.get(name, {})
        if not isinstance(config, dict):
            return
    config.pop(path[-1], None)


@dataclass
class _Open:
    """A point that the strategy does not know the result of."""

    point: Point
    trials: list[Trial] = field(default_factory=list)


class Search(Supply):
    """The trials of a search. It asks for further points, as long as the budget lasts, up to its width.

    Points are told in the order of their numbers, and before others are asked; one that failed for a reason that
    may pass is told by the command that trains it again. So the course of a search depends on nothing else as long as
    it asks when all that it has asked for is trained, as with engine=inline.

    Args:
        strategy: chooses the points.
        space: what it chooses them from.
        budget: how many.
        make: makes the trials of points, with their fingerprints.
        objective: the metric that selects.
        mode: whether its smallest or its largest value is the best.
    """

    def __init__(
        self,
        strategy: Strategy,
        space: Space,
        budget: Budget,
        make: Callable[[Sequence[Point]], Mapping[int, list[Trial]]],
        objective: str,
        mode: Mode,
    ) -> None:
        self._strategy, self._space, self._size, self._budget = strategy, space, space.size, budget
        self._make, self._objective, self._mode = make, objective, mode
        self._open: dict[int, _Open] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._paused: dict[str, Outcome] = {}
        """How paused trials end if they do not go on, by fingerprint."""
        self._stopped: set[str] = set()
        """Fingerprints of trials that were stopped: their points wait for another command."""
        self._names: dict[int, str] = {}
        self._texts: set[str] = set()
        """The different points."""
        self._repeats = 0
        """The points in a row, up to the last one, that had been asked before."""
        self._known: dict[str, Trial] = {}
        """Its trials by fingerprint."""
        self._began = time.monotonic()

    @property
    def expected(self) -> int | None:
        """See `Supply`."""
        points = self._budget.points
        return None if points is None else points * self._budget.replicates

    @property
    def most_paused(self) -> int | None:
        """See `Supply`: as many as train at a time, so that a long search learns from whole trainings, too."""
        return self._budget.width * self._budget.replicates

    def has_more(self) -> bool:
        """See `Supply`."""
        return not self._is_exhausted and self._is_affordable(self._strategy.points)

    def first_trials(self) -> list[Trial]:
        """Returns the trials of all points that were asked before; of further ones if each of these has a result."""
        known = self._strategy.points[: self._budget.points]
        trials = self._trials_of(known)
        return trials if self._open else [*trials, *self.next_trials(lambda _: None)]

    def next_trials(self, say: Callable[[str], None]) -> list[Trial]:
        """See `Supply`."""
        self._pass_results()
        asked: list[Trial] = []
        while self._is_free():
            asked += self._trials_of([self._strategy.ask()])
        self._strategy.keep()
        if asked:
            say(self._progress())
        elif self._is_exhausted and not self._open:
            say(f"search: all {len(self._texts)} points of the space are asked")
        return asked

    @property
    def _is_exhausted(self) -> bool:
        """True if each point of the space was asked, or so it seems."""
        return len(self._texts) >= self._size or self._repeats >= MOST_REPEATS

    def _is_free(self) -> bool:
        """True if a further point is to be asked for."""
        known = self._strategy.points
        out = [one for one in self._open.values() if not (self._is_postponed(one) or self._is_paused(one))]
        return not self._is_exhausted and len(out) < self._budget.width and self._is_affordable(known)

    def _is_affordable(self, known: Sequence[Point]) -> bool:
        """True if the budget has room for a further point, after those that are known."""
        config, points = self._budget.config, self._budget.points
        if points is not None and len(known) >= points:
            return False
        if config.epochs is not None and self._spent >= config.epochs:
            return False
        if config.minutes is not None and time.monotonic() - self._began > 60 * config.minutes and known:
            return False
        return config.patience is None or self._since_best(known) < config.patience

    def _is_postponed(self, one: _Open) -> bool:
        """True if a point waits for another command: a trial was stopped, or failed for a reason that may pass."""
        keys = [trial.fingerprint for trial in one.trials]
        return any(key in self._stopped or (key in self._outcomes and not self._outcomes[key].final) for key in keys)

    def _is_paused(self, one: _Open) -> bool:
        """True if a point does not train, but waits for others."""
        open_keys = {trial.fingerprint for trial in one.trials} - self._outcomes.keys()
        return bool(open_keys) and open_keys <= self._paused.keys()

    @property
    def _spent(self) -> int:
        """The epochs of its trials: those that are to be trained, of a pruned trial those that it has trained."""
        return sum(_epochs_of(trial, self._outcomes.get(key)) for key, trial in self._known.items())

    def _since_best(self, known: Sequence[Point]) -> int:
        """Returns the number of results in a row, up to the last one, without a better objective."""
        best, since = math.nan, 0
        failed = {  # for a reason that may pass
            number
            for number, one in self._open.items()
            if all(trial.fingerprint in self._outcomes for trial in one.trials)
        }
        for point in known:
            if point.state is PointState.ASKED and point.number not in failed:
                continue
            value = point.objectives[0] if point.state is PointState.COMPLETE else math.nan
            since += 1
            if is_better(value, best, self._mode):
                best, since = value, 0
        return since

    def _trials_of(self, points: Sequence[Point]) -> list[Trial]:
        made = self._make(points)
        for point in points:
            trials = made[point.number]
            text = str(sorted(self._space.text(point.values).items()))
            self._repeats = self._repeats + 1 if text in self._texts else 0
            self._texts.add(text)
            if not trials and point.state is PointState.ASKED:
                self._strategy.tell(point.number, PointState.FAILED)
            if not trials:
                continue
            self._known |= {trial.fingerprint: trial for trial in trials}
            self._names[point.number] = trials[0].name
            if point.state is PointState.ASKED:
                self._open[point.number] = _Open(point, trials)
        return [trial for point in points for trial in made[point.number]]

    def on_ended(self, event: Ended) -> None:
        self._take(event.trial, event.outcome)

    def on_paused(self, event: Ended) -> None:
        self._paused[event.trial.fingerprint] = event.outcome

    def on_skipped(self, trial: Trial, outcome: Outcome, reason: str) -> None:
        self._take(trial, outcome)

    def _take(self, trial: Trial, outcome: Outcome) -> None:
        self._paused.pop(trial.fingerprint, None)
        if outcome.state is TrialState.KILLED:
            self._stopped.add(trial.fingerprint)
        else:
            self._outcomes[trial.fingerprint] = outcome

    def _pass_results(self) -> None:
        for number, one in sorted(self._open.items()):
            keys = [trial.fingerprint for trial in one.trials]
            outcomes = [self._outcomes.get(key, self._paused.get(key)) for key in keys]
            known = [outcome for outcome in outcomes if outcome is not None]
            if len(known) < len(outcomes) or self._is_postponed(one):
                continue
            result = self._result(one.trials, known), self._rung(one.trials, known)
            if self._is_paused(one):
                self._strategy.take_interim(number, *result[0], result[1])
            else:
                self._strategy.tell(number, *result[0], result[1])
                del self._open[number]

    def _result(self, trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> tuple[PointState, tuple[float, ...]]:
        """Returns the result of a point: the mean over its trials; failed if one of them has no value."""
        values = [outcome.objective(trial.config) for trial, outcome in zip(trials, outcomes, strict=True)]
        mean = math.fsum(values) / len(values)
        if not math.isfinite(mean):
            return PointState.FAILED, ()
        is_whole = all(outcome.state is TrialState.FINISHED for outcome in outcomes)
        cost = [float(sum(trial.config.epochs for trial in trials))] if self._budget.config.name == "nsga2" else []
        return (PointState.COMPLETE if is_whole else PointState.PRUNED), (mean, *cost)

    def _rung(self, trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> int:
        """Returns the last rung that all trials have reached, counted on the longest training of the search."""
        longest = self._budget.longest
        parts = (_part_of(trial, one, longest) for trial, one in zip(trials, outcomes, strict=True))
        return round(min(parts) * longest)

    def _progress(self) -> str:
        known = self._strategy.points
        best: Point | None = None
        for point in known:
            if point.state is PointState.COMPLETE and (
                best is None or is_better(point.objectives[0], best.objectives[0], self._mode)
            ):
                best = point
        each, total = self._budget.replicates, self._budget.points
        of = f" of {total * each}" if total is not None else ""
        found = (
            f", best {self._objective} {rounded(best.objectives[0])} ({self._names.get(best.number, '')})"
            if best is not None
            else ""
        )
        return f"search: {len(known) * each}{of} trials asked, {self._progress_of_open()}{found}"

    def _progress_of_open(self) -> str:
        paused = sum(map(self._is_paused, self._open.values())) * self._budget.replicates
        number = len(self._open) * self._budget.replicates - paused
        return f"{number} to train" + (f", {paused} paused" if paused else "")


def _part_of(trial: Trial, outcome: Outcome, longest: int) -> float:
    """Returns how much of its training a trial had done at its last rung, however late it was measured there.

    Args:
        trial: the trial.
        outcome: how it has ended.
        longest: the most epochs of a trial of the search.
    """
    if outcome.state is not TrialState.PRUNED or not outcome.rungs:
        return 1.0
    last = max(outcome.rungs)
    begins = (begin for _, begin in rungs_within(trial.run.pruner, longest, trial.config.epochs))
    return max((begin for begin in begins if begin <= last + ROUNDING), default=last) / trial.config.epochs


def _epochs_of(trial: Trial, outcome: Outcome | None) -> int:
    if outcome is not None and outcome.state is TrialState.PRUNED and outcome.rungs:
        return math.ceil(max(outcome.rungs))
    return trial.config.epochs


def describe_space(jobs: SearchedJobs, budget: Budget) -> list[str]:
    """Says what is searched, and with which budget.

    Args:
        jobs: what is searched.
        budget: how much of it is trained.
    """
    number = jobs.space.size
    size = "" if math.isinf(number) else f", {number:,.0f} different points"
    return [
        f"search={budget.config.name} {budget}{size}",
        *(f"    {line}" for line in jobs.space.lines()),
    ]


def describe_history(taken_over: tuple[int, int] | None) -> list[str]:
    """Says what an earlier search of other values brings; nothing if there was none.

    Args:
        taken_over: the points that lie in the space, and all of them.
    """
    if taken_over is None:
        return []
    inside, every = taken_over
    return [f"{inside} of {count(every, 'point')} of the same search with other values lie in this space: taken over"]


def hint(run: RunConfig, space: Space) -> list[str]:
    """Says what a sampler does not learn from.

    Args:
        run: how the trials are trained.
        space: what is searched.
    """
    name, lines = run.search.name, []
    if name == "gp" and run.pruner.name != "none":
        lines.append(
            f"search=gp learns from whole trainings alone, of which pruner={run.pruner.name} leaves few: tpe uses all"
        )
    drawn = [
        key.lstrip("+")
        for key, one in space.distributions.items()
        if (key in space.when and name in ("cmaes", "gp", "nsga2")) or (name == "cmaes" and isinstance(one, Options))
    ]
    if drawn:
        lines.append(
            f"search={name} draws {', '.join(drawn)} at random, whatever it has learned: tpe learns these, too"
        )
    return lines
