"""Reads the history of a metric for many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweepstack.tracking.private.client import metric_histories
from sweepstack.tracking.private.run_tables import StoredPoint, metric_points
from sweepstack.tracking.runs_as_rows import finite_or_not
from sweepstack.tracking.store import Store

RUNS_PER_REQUEST = 100
"""The largest number of runs in one request to MLflow's server."""


@dataclass(frozen=True)
class Point:
    """The value of a metric at one point of a training."""

    run_id: str
    step: int
    """The epoch, or the optimizer update if the run was measured by updates."""
    value: float


def histories(store: Store, run_ids: Sequence[str], metric: str) -> list[Point]:
    """Returns the values of a metric, in the order of the runs and then of the steps.

    A step with several values has the earliest of them: with `keep_best`, a later one repeats the best measurement.

    It needs one query or request for a hundred runs; one for each run would take minutes for a sweep of thousands.

    Args:
        store: the store that has the runs.
        run_ids: the ids of the runs.
        metric: the key of the metric.
    """
    points: dict[str, dict[int, float]] = {run_id: {} for run_id in run_ids}
    for begin in range(0, len(run_ids), RUNS_PER_REQUEST):
        together = run_ids[begin : begin + RUNS_PER_REQUEST]
        for run_id, value in sorted(_values(store, together, metric), key=lambda one: one[1].timestamp):
            points[run_id].setdefault(value.step, finite_or_not(value.value))
    return [Point(run_id, step, value) for run_id, steps in points.items() for step, value in sorted(steps.items())]


def _values(store: Store, run_ids: Sequence[str], metric: str) -> Sequence[tuple[str, StoredPoint]]:
    if store.tables is not None and (found := metric_points(store.tables, run_ids, metric)) is not None:
        return [(point.run_id, point) for point in found]
    return metric_histories(store.client, run_ids, metric)
