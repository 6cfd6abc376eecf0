"""Histories of metrics: of many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweepstack.tracking.rows import finite_or_not
from sweepstack.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric

TOGETHER = 100
"""Runs that MLflow's server takes in one request."""
LONGEST = 25_000
"""Values that it gives in one answer, at most."""


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
    for begin in range(0, len(run_ids), TOGETHER):
        together = run_ids[begin : begin + TOGETHER]
        found = _bulk(store, together, metric)
        if len(found) == LONGEST:  # cut off
            found = [
                (run_id, value) for run_id in together for value in store.client.get_metric_history(run_id, metric)
            ]
        for run_id, value in found:
            points[run_id][value.step] = finite_or_not(value.value)
    return [Point(run_id, step, value) for run_id, steps in points.items() for step, value in sorted(steps.items())]


def _bulk(store: Store, run_ids: Sequence[str], metric: str) -> list[tuple[str, Metric]]:
    from mlflow.entities import Metric

    behind: Any = store.client._tracking_client.store
    if hasattr(behind, "get_metric_history_bulk"):
        return [(one.run_id, one) for one in behind.get_metric_history_bulk(run_ids, metric, LONGEST)]
    if not hasattr(behind, "get_host_creds"):
        return [(run_id, one) for run_id in run_ids for one in store.client.get_metric_history(run_id, metric)]
    from mlflow.utils.rest_utils import http_request_safe

    answer = http_request_safe(
        behind.get_host_creds(),
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        "GET",
        params={"run_id": list(run_ids), "metric_key": metric, "max_results": LONGEST},
    )
    return [
        (one["run_id"], Metric(one["key"], float(one["value"]), one["timestamp"], one["step"]))
        for one in answer.json()["metrics"]
    ]
