"""What a worker takes and returns, as plain values that can be sent to another process; and what it reports to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweepstack.events import Event
from sweepstack.planning.plan import Stack
from sweepstack.search.pruning import KnownRungs
from sweepstack.trial import Verdict


@dataclass(frozen=True)
class Assignment:
    """A stack for a worker to train."""

    stack: Stack
    wanted: frozenset[str]
    """Ids of the trials whose events the worker reports. The others have ended, or another session records them."""
    checkpoints: Path
    """The folder for the checkpoints of the stack."""
    keep: bool
    """True if the checkpoints stay even after all wanted trials are settled."""
    rungs: KnownRungs | None = None
    """What the pruner of the sweep decides by, as it is known now; None without a pruner."""


@dataclass(frozen=True)
class Parts:
    """How a stack that failed as a whole is cut into parts, which are trained as stacks of their own."""

    indices: tuple[tuple[int, ...], ...]
    """For each part, the indices of its trajectories in the stack. A trajectory that is in no part has ended."""
    note: str
    """Why the stack was cut."""


class Reporter(Protocol):
    """Receives what a worker reports."""

    def emit(self, event: Event) -> Verdict:
        """Takes an event of a trial. The verdict says whether that trial continues."""

    def say(self, line: str) -> None:
        """Takes a line for the user."""

    def sync(self) -> None:
        """Returns when all events so far are on the disk. A checkpoint is never ahead of them."""

    def is_stopping(self) -> bool:
        """True if the training is to stop; its trials then end KILLED."""
