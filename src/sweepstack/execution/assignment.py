"""What a worker is given and gives back: plain values, which can be sent to another process; and what it reports to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweepstack.events import Event
from sweepstack.planning.plan import Stack
from sweepstack.trial import Verdict


@dataclass(frozen=True)
class Assignment:
    """A stack to train."""

    stack: Stack
    wanted: frozenset[str]
    """Ids of the trials whose events count. The others have ended, or are trained for the sake of these."""
    checkpoints: Path
    """The folder for the checkpoints of the stack."""
    keep: bool
    """Whether the checkpoints stay, even when all that is wanted is settled."""


@dataclass(frozen=True)
class Parts:
    """How the trials of a stack go on that failed as a whole."""

    places: tuple[tuple[int, ...], ...]
    """Of each part, the places of its trajectories in the stack. What is in no part has ended."""
    note: str
    """Why the stack was cut."""


class Reporter(Protocol):
    """What a worker reports to."""

    def emit(self, event: Event) -> Verdict:
        """Takes an event of a trial. The verdict says whether that trial continues."""

    def say(self, line: str) -> None:
        """Takes a line for the user."""

    def sync(self) -> None:
        """Returns when all events so far are on the disk. A checkpoint is never ahead of them."""

    def is_stopping(self) -> bool:
        """Whether the training is to stop: its trials end KILLED."""
