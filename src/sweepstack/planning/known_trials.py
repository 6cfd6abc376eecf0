"""What earlier and concurrent commands have done with trials: the rows of the ledger as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweepstack.trial import Outcome, Trial

CLAIMED = "CLAIMED"
"""State of a trial that a session trains, or is about to train."""
INTERRUPTED = "INTERRUPTED"
"""State of a trial that nobody trains, and that was interrupted or failed for a reason that may pass."""
SETTLED = "SETTLED"
"""State of a trial whose outcome is final: its fingerprint alone determines it."""


@dataclass(frozen=True)
class Entry:
    """The ledger's row of a trial."""

    trial: Trial
    session: int | None
    """The session that trains the trial, or whose journal holds events of it that are not delivered yet."""
    stack: str | None
    """The id of its stack."""
    state: str
    """`CLAIMED`, `INTERRUPTED` or `SETTLED`."""
    run_id: str | None = None
    """Its run in MLflow, if that is known."""
    at: float = 0.0
    """Time of its last event, in seconds since the epoch; 0 if it has not begun."""
    measured: int = 0
    """The last step that a journal holds metrics of."""
    outcome: Outcome | None = None
    ended: Mapping[str, Any] | None = field(default=None, compare=False)
    """How it ended and began, as plain values; see `codec.end_as_json`."""
    outdated: str = ""
    """Why this version refuses the stored config, and must not train it; empty if it accepts it."""

    @property
    def begun(self) -> bool:
        return self.at > 0


@dataclass(frozen=True)
class Composition:
    """Which trials make up a stack, and how it is trained. Plain values, and ids of trials."""

    id: str
    trajectories: tuple[tuple[str, ...], ...]
    """The ids of the trials of each trajectory."""
    choice: Mapping[str, Any]
    """The fields of its `StackSettings`."""
    device: str
    """The kind of device that it began on: cpu, cuda or mps."""
    keep: bool = False
    """True if its checkpoints stay after all of it is settled."""
    note: str = ""
    """Why its trials did not begin in this stack; empty if they did."""


@dataclass(frozen=True)
class KnownTrials:
    """What the ledger and the journals of living sessions hold of some trials, after all dead sessions were ended."""

    entries: Mapping[str, Entry]
    """Rows by fingerprint. After `rerun=true` several trials share one; then this is the newest."""
    members: Mapping[str, Sequence[Entry]]
    """The rows of all trials of each stack that may be resumed, by the stack's id."""
    compositions: Mapping[str, Composition]
    """The compositions of those stacks, by the stack's id. A lost or damaged one is missing."""
    left_pruned: Mapping[str, Outcome] = field(default_factory=dict)
    """The outcomes of those PRUNED trials that the command leaves so, by fingerprint; it trains all others on."""


JudgePruned = Callable[[Mapping[str, Outcome]], Mapping[str, Outcome]]
"""Takes the known outcomes of the trials that a command wants, by fingerprint; returns those that it leaves PRUNED,
each as this command's own pruner says it."""


def leave_none(outcomes: Mapping[str, Outcome]) -> Mapping[str, Outcome]:
    """The `JudgePruned` of a command without a pruner: all of them are trained on."""
    return {}
