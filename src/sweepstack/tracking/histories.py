"""Histories of metrics: of many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweepstack.tracking.private.client import metric_histories
from sweepstack.tracking.runs_as_rows import finite_or_not
from sweepstack.tracking.store import Store

RUNS_PER_REQUEST = 100
"""Runs that MLflow's server takes in one request."""


@dataclass(frozen=True)
class Point:
    """A metric at one point of a training."""

    run_id: str
    step: int
    """What the run was measured by: epochs, or optimizer updates."""
    value: float


def histories(store: Store, run_ids: Sequence[str], metric: str) -> list[Point]:
    """All values of a metric, run by run in the order given, each from its first step to its last.

    One query or request for a hundred runs: one for each run takes minutes for a sweep of thousands.
    """
    points: dict[str, dict[int, float]] = {run_id: {} for run_id in run_ids}
    for begin in range(0, len(run_ids), RUNS_PER_REQUEST):
        together = run_ids[begin : begin + RUNS_PER_REQUEST]
        for run_id, value in metric_histories(store.client, together, metric):
            points[run_id][value.step] = finite_or_not(value.value)
    return [Point(run_id, step, value) for run_id, steps in points.items() for step, value in sorted(steps.items())]
