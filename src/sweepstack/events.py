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
    """Event: a trial has begun. `at` is in seconds since the epoch, here and below."""

    trial: Trial
    at: float
    dataset: DatasetFacts
    again: bool = False
    """Whether it has begun before, and was interrupted or failed."""


@dataclass(frozen=True)
class Measured:
    """Event: a trial has reported metrics."""

    trial: Trial
    measurement: Measurement
    at: float


@dataclass(frozen=True)
class Ended:
    """Event: a trial is over; `files` are to be kept with its record."""

    trial: Trial
    outcome: Outcome
    at: float
    files: tuple[Path, ...] = ()
    trained: str = ""
    """In words: alone, or in a stack of which width, and why."""
    recomposed: str = ""
    """Why it went on in other company than it began in, so that its figures may differ in the last digits."""


@dataclass(frozen=True)
class Joined:
    """Event: a trial that is settled already is one of a further sweep, `trial.sweep`, or gets further files."""

    trial: Trial
    at: float
    run_id: str | None = None
    """Its record, where that is known better than by `trial.id`."""
    files: tuple[Path, ...] = ()
    """To be kept with its record, too."""


Event = Started | Measured | Ended | Joined
