"""Runs as rows: what the tags of a run mean, and what is read from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweepstack.config.names import as_key

if TYPE_CHECKING:
    from mlflow.entities import Run

VERSION_TAG, SWEEP_TAG, REASON_TAG, TRAINED_TAG = "sweepstack.version", "sweep", "reason", "trained"
FINGERPRINT_TAG, LOG_TAG, RECOMPOSED_TAG = "fingerprint", "log", "recomposed"
ID_TAG = "sweepstack.trial"
"""What a run is found by when it is not known whether it was made."""
SETTLED_TAG = "sweepstack.settled"
"""Holds the fingerprint, once its outcome is settled."""
OWN_RUNS = f"tags.`{VERSION_TAG}` LIKE '%'"
"""What a run of ours is known by, in MLflow's language."""
OBJECTIVES = ("val/accuracy", "test/accuracy")
"""Metrics that select, the one to prefer first: test data selects only where nothing was held out."""
CLOCKS = 60_000
"""Milliseconds by which the clocks of two machines with one store may differ."""
LARGEST_FLOAT = 1.7976931348623157e308


@dataclass(frozen=True)
class Row:
    """One run of the store."""

    run_id: str
    name: str
    experiment_id: str
    sweep: str | None
    state: str
    """FINISHED, FAILED, KILLED or RUNNING."""
    reason: str
    log: str
    """Path of the trial's own log file, on the machine that trained it."""
    started: int
    """Milliseconds since the epoch."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def member_tag(sweep: str) -> str:
    """The tag of all runs of a sweep, those among them which an earlier sweep has trained; its value tells since when,
    in milliseconds since the epoch, and the sweep's name. MLflow does not take every name for a key."""
    return f"{SWEEP_TAG}/{as_key(sweep)}"


def sweeps_of(run: Run) -> dict[str, int]:
    """The sweeps that a run is of, and since when, in milliseconds since the epoch."""
    tags = run.data.tags
    found = {}
    for key, value in tags.items():
        if key.startswith(f"{SWEEP_TAG}/"):
            at, _, name = value.partition(" ")
            if at.isdecimal():  # a user may have made a tag of that kind
                found[name] = int(at)
    if SWEEP_TAG in tags:  # all that a run of an earlier version has, whatever it has joined since
        found.setdefault(tags[SWEEP_TAG], run.info.start_time)
    return found


def newest(begun: Mapping[str, int], now: float) -> str:
    """The sweep begun last. One that began in the future did so while the clock was ahead: it is the newest only where
    all are like that.

    Args:
        begun: by the name of the sweep, when it began, in milliseconds since the epoch.
        now: the time, likewise.
    """
    return max(begun, key=lambda name: (begun[name] <= now + CLOCKS, begun[name]))


def row_of(run: Run, sweep: str | None = None) -> Row:
    """A run as a row, of that sweep; of the one that trained it, when none is told."""
    tags = run.data.tags
    return Row(
        run_id=run.info.run_id,
        name=run.info.run_name,
        experiment_id=run.info.experiment_id,
        sweep=sweep or tags.get(SWEEP_TAG),
        state=run.info.status,
        reason=tags.get(REASON_TAG, ""),
        log=tags.get(LOG_TAG, ""),
        started=run.info.start_time,
        params=run.data.params,
        metrics={key: finite_or_not(value) for key, value in run.data.metrics.items()},
    )


def finite_or_not(value: float) -> float:
    """MLflow's databases keep infinity as the largest number that they have."""
    return math.copysign(math.inf, value) if abs(value) >= LARGEST_FLOAT else value
