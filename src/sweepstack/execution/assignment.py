"""What a worker takes and returns, as plain values that can be sent to another process; and what it reports to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweepstack.events import Ended, Event
from sweepstack.planning.plan import Stack
from sweepstack.search.rungs import KnownRungs
from sweepstack.trial import StackSettings, Verdict


@dataclass(frozen=True)
class Groups:
    """What a worker measures: how groups of trajectories, each of which could be one stack, train fastest there."""

    sizes: tuple[int, ...]
    """For each group, how many of the stack's trajectories belong to it, in their order."""
    counts: tuple[int, ...]
    """For each group, how many trajectories will be trained. Of a large group, only the first ones are measured."""
    threads: int
    """The number of threads of a worker, unless the config of a group says another one."""
    parts: int
    """The number of workers that can train trajectories of one group at once."""


@dataclass(frozen=True)
class Assignment:
    """A stack for a worker to train; or groups of trajectories of which it measures how they train fastest."""

    stack: Stack
    wanted: frozenset[str]
    """Ids of the trials whose events the worker reports. The others have ended, or another session records them."""
    checkpoints: Path
    """The folder for the checkpoints of the stack."""
    keep: bool
    """True if the checkpoints stay even after all wanted trials are settled."""
    rungs: KnownRungs | None = None
    """What the pruner of the sweep decides by, as it is known now; None without a pruner."""
    groups: Groups | None = None
    """What is to be measured of the stack's trajectories, which are not trained then; None: they are trained."""
    pauses: bool = False
    """True if what a pruner leaves of the stack may go on later, together with what it leaves of others."""


@dataclass(frozen=True)
class Parts:
    """How a stack that failed as a whole is cut into parts, which are trained as stacks of their own."""

    indices: tuple[tuple[int, ...], ...]
    """For each part, the indices of its trajectories in the stack. A trajectory that is in no part has ended."""
    note: str
    """Why the stack was cut."""


@dataclass(frozen=True)
class Paused:
    """What a pruner has left of a stack: few trials, which train faster together with those that are left of others."""

    ends: tuple[Ended, ...]
    """For each of them, how it ends if it is pruned where it stands."""
    step: int
    """The optimizer steps that the stack has done."""


Answer = Parts | Paused | tuple[StackSettings, ...] | None
"""What a worker answers: the parts into which its stack is to be cut, what is left of it, or None if it is trained; for
groups, the fastest settings of each."""


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
