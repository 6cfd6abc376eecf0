"""Who hears of a sweep while it is trained: the terminal, the log of a job, the counts of a scheduler."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sweepstack.events import Ended, Measured, Started
from sweepstack.trial import Outcome, Trial

log = logging.getLogger(__name__)


class Listener:
    """Hears of events after they are in the journal. Override what matters.

    A trial that is resumed from a checkpoint may pass steps a second time: `on_measured` hears of them again.
    """

    def on_message(self, line: str) -> None:
        """Something that the user should read."""

    def on_planned(self, trials: Sequence[Trial]) -> None:
        """These trials will be trained, too."""

    def on_started(self, event: Started) -> None:
        """A trial has begun."""

    def on_measured(self, event: Measured) -> None:
        """A trial has reported metrics."""

    def on_ended(self, event: Ended) -> None:
        """A trial that was trained is over."""

    def on_skipped(self, trial: Trial, outcome: Outcome, reason: str) -> None:
        """A trial is not trained by this command; `reason` says why not."""


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
    log.info("%s: %s %s", trial.name, outcome.state, outcome.reason or dict(outcome.metrics))
