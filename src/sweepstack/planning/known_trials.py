"""What earlier and other commands have done with trials: the rows of the ledger as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweepstack.trial import Outcome, Trial

CLAIMED, INTERRUPTED, SETTLED = "CLAIMED", "INTERRUPTED", "SETTLED"
"""A session trains the trial or is about to; it was interrupted or failed; its outcome is known for good."""


@dataclass(frozen=True)
class Entry:
    """What the ledger knows of a trial."""

    trial: Trial
    session: int | None
    stack: str | None
    state: str
    run_id: str | None = None
    at: float = 0.0
    measured: int = 0
    outcome: Outcome | None = None
    ended: Mapping[str, Any] | None = field(default=None, compare=False)
    """How it ended and began, as plain values, see `codec.end_as_json`."""
    outdated: str = ""
    """Why its config must not be trained as it is kept: this version refuses it."""

    @property
    def begun(self) -> bool:
        return self.at > 0


@dataclass(frozen=True)
class Composition:
    """Which trials make a stack, and how it is trained. Plain: ids and values."""

    id: str
    trajectories: tuple[tuple[str, ...], ...]
    """Ids of the trials of each trajectory."""
    choice: Mapping[str, Any]
    device: str
    keep: bool = False
    """Whether its checkpoints stay when it is settled."""
    note: str = ""
    """Why it is not the stack that its trials began in, if it is not."""


@dataclass(frozen=True)
class KnownTrials:
    """What the ledger and the journals of living sessions tell of some trials, when all dead sessions are ended."""

    entries: Mapping[str, Entry]
    """By fingerprint; of several trials of one fingerprint (`rerun`) the newest."""
    members: Mapping[str, Sequence[Entry]]
    """All trials of a stack that may be resumed, by the stack's id."""
    compositions: Mapping[str, Composition]
    """Of those stacks, but for what is lost or damaged."""
