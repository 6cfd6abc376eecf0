"""The state of each trial, computed from the events of a journal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.trial import Outcome, Trial


@dataclass
class Progress:
    """How far a trial has got, according to its events."""

    trial: Trial
    at: float
    """Time of the last event."""
    measured: int = 0
    """The last step that has metrics."""
    outcome: Outcome | None = None
    started: Started | None = field(default=None, compare=False)
    ended: Ended | None = field(default=None, compare=False)


@dataclass
class Replay:
    """The progress of all trials of a journal."""

    progress: dict[str, Progress] = field(default_factory=dict)
    """Progress by the trial's id."""
    joined: dict[tuple[str, str | None], Joined] = field(default_factory=dict)
    """The `Joined` events by the trial's id and the sweep."""

    def take(self, event: Event) -> None:
        """Updates the progress with an event."""
        trial = event.trial
        if isinstance(event, Joined):
            self.joined[trial.id, trial.sweep] = event
            return
        if isinstance(event, Started):
            self.progress[trial.id] = Progress(trial, event.at, started=event)
            return
        known = self.progress.setdefault(trial.id, Progress(trial, event.at))  # the line of `Started` may be damaged
        known.at = event.at
        if isinstance(event, Measured):
            known.measured = max(known.measured, event.measurement.step)
        else:
            known.outcome = replace(event.outcome, weights=None, traceback="")
            known.ended = replace(event, outcome=known.outcome)
