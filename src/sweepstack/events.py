"""The events of a trial's life, as the journal keeps them. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweepstack.trial import (
    DatasetFacts,
    Measurement,
    Outcome,
    Trial,
)


@dataclass(frozen=True)
class Started:
    """Event: a trial has begun. In all events, `at` is the time in seconds since the epoch."""

    trial: Trial
    at: float
    dataset: DatasetFacts
    resumed: bool = False
    """True if it has begun before, and was interrupted or failed."""


@dataclass(frozen=True)
class Measured:
    """Event: a trial has reported metrics."""

    trial: Trial
    measurement: Measurement
    at: float


@dataclass(frozen=True)
class Ended:
    """Event: a trial has ended."""

    trial: Trial
    outcome: Outcome
    at: float
    files: tuple[Path, ...] = ()
    """Files to keep with its record."""
    trained: str = ""
    """How it was trained, in words: alone or in a stack of which width, and why."""
    recomposed: str = ""
    """Why it ended in another stack than it began in, so that its metrics may differ in the last digits."""
    trajectory: str = ""
    """Names the trajectory that it was read from: trials with the same name share one training. Empty if that is not
    known."""


@dataclass(frozen=True)
class Joined:
    """Event: a settled trial becomes one of a further sweep, `trial.sweep`, or gets further files."""

    trial: Trial
    at: float
    run_id: str | None = None
    """Its run in MLflow. If None, the run is found by `trial.id`."""
    files: tuple[Path, ...] = ()
    """Further files to keep with its record."""


Event = Started | Measured | Ended | Joined
