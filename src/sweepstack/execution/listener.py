"""Receives the events of a sweep while it trains; the terminal and the log of a job are listeners."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sweepstack.events import Ended, Measured, Started
from sweepstack.planning.plan import Stack
from sweepstack.trial import Outcome, Trial, TrialState

log = logging.getLogger(__name__)


class Listener:
    """Receives events after they were written to the journal. A subclass overrides the methods that it needs.

    A trial that is resumed from a checkpoint may pass steps a second time: `on_measured` receives them again, and
    `on_started` that it has started, also if it goes on in another stack after a pause.
    """

    def on_message(self, line: str) -> None:
        """Receives a line that the user should read."""

    def on_planned(self, trials: Sequence[Trial]) -> None:
        """Receives further trials that will be trained."""

    def on_stacks(self, stacks: Sequence[Stack], workers: int) -> None:
        """Receives the stacks of further trials, or of paused ones that go on, without those that are not trained; so
        many of them train at once."""

    def on_expected(self, number: int) -> None:
        """Receives how many trials will be trained in all, if further ones are planned later; 0: no others follow."""

    def on_started(self, event: Started) -> None:
        """Receives the start of a trial."""

    def on_measured(self, event: Measured) -> None:
        """Receives the metrics of a trial."""

    def on_paused(self, event: Ended) -> None:
        """Receives how a trial ends if it does not go on: it waits, and what others reach decides."""

    def on_ended(self, event: Ended) -> None:
        """Receives the end of a trial that was trained."""

    def on_skipped(self, trial: Trial, outcome: Outcome, reason: str) -> None:
        """Receives the outcome of a trial that this command does not train; `reason` says why not."""


class JobLog(Listener):
    """Logs how trials end."""

    def on_ended(self, event: Ended) -> None:
        log_outcome(event.trial, event.outcome)

    def on_skipped(self, trial: Trial, outcome: Outcome, reason: str) -> None:
        log.info("%s: %s, %s", trial.name, outcome.state, reason)


def log_outcome(trial: Trial, outcome: Outcome) -> None:
    """Logs how a trial ended, with its traceback if there is one."""
    if outcome.traceback:
        log.error("%s failed\n%s", trial.name, outcome.traceback)
    is_measured = outcome.state in (TrialState.FINISHED, TrialState.PRUNED)
    how = f"{dict(outcome.metrics)} {outcome.reason}" if is_measured else outcome.reason
    log.info("%s: %s %s", trial.name, outcome.state, how.rstrip())
