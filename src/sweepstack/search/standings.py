"""What is known of the trials of a command at the rungs, for the stacks that begin next. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.config.run_sections import PrunerConfig
from sweepstack.events import Ended
from sweepstack.planning.compatibility import objective_key, setting_key
from sweepstack.search.pruning import Pruner
from sweepstack.search.rungs import ROUNDING, KnownRungs, Standing, rungs_within
from sweepstack.trial import Measurement, Outcome, Trial, TrialState


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
