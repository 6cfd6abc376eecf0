"""How a sweep looks in MLflow's UI: the address of its page, and the columns and charts that the page opens with.

The UI keeps a saved view as a tag of the experiment, lists all of them, and opens the one that the address names. The
forms are those which the UI itself writes: a view in `savedViewEnvelope.ts`, its state in `ExperimentPageUIState.tsx`,
a chart in `runs-charts.types.ts`. tests/browser/test_ui.py looks at it.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import logging
import re
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from sweepstack.masking import reveal
from sweepstack.tracking.private.client import server_version
from sweepstack.tracking.runs_as_rows import OBJECTIVES, SWEEP_TAG, Row, member_tag
from sweepstack.tracking.store import Store

VIEW_TAG = "mlflow.sharedViewState."
UNTOUCHED = "untouched"
"""Marks a view that nobody has saved again in the UI, which would drop it."""
SECTION = "sweep"
SINCE, BEFORE = (3, 15), (4, 0)
"""Versions of MLflow whose UI reads views of this form."""

log = logging.getLogger(__name__)


def link(store: Store, rows: Sequence[Row], host: str = "http://127.0.0.1:5000") -> str:
    """The address of a sweep's page in MLflow's UI: charts that compare all its runs, the best first, and a table with
    what was swept. Writes the view to the store, if the store takes it; else the page opens with MLflow's own charts.

    Args:
        rows: of one sweep, or of no sweep at all.
        host: where the UI is served, unless the store is a server.
    """
    page = {"compareRunsMode": "CHART", "workflowType": "machine_learning"}
    sweep = rows[0].sweep
    key = _view_key(sweep) if sweep is not None else ""
    query = {"viewStateShareKey": key} if key and _saved(store, key, rows) else _which(rows)
    server = re.sub(r"(?<=://)[^/]*@", "", store.uri) if store.uri.startswith("http") else host  # browsers ask for it
    address = f"{server.rstrip('/')}/#/experiments/{rows[0].experiment_id}/runs"
    return f"{address}?{urlencode({**query, **page}, quote_via=quote)}"


def _view_key(sweep: str) -> str:
    return member_tag(sweep).removeprefix(f"{SWEEP_TAG}/")


def _saved(store: Store, key: str, rows: Sequence[Row]) -> bool:
    """Whether the view is in the store now."""
    tag, experiment, text = VIEW_TAG + key, rows[0].experiment_id, _view(rows)
    try:
        if not SINCE <= _mlflow_version(store) < BEFORE:
            return False
        there = store.client.get_experiment(experiment).tags.get(tag)
        if there is None or (UNTOUCHED in there and there != text):
            with store.writing():
                store.client.set_experiment_tag(experiment, tag, text)
    except Exception:  # the user wants the table, and a link
        log.debug("the view of a sweep was not written to %s", store.uri, exc_info=True)
        return False
    return True


def _mlflow_version(store: Store) -> tuple[int, int]:
    """Of the MLflow that serves the UI."""
    text = importlib.metadata.version("mlflow")
    if store.uri.startswith("http"):
        text = server_version(reveal(store.uri))
    major, minor, *_ = text.split(".")
    return int(major), int(minor)


def _view(rows: Sequence[Row]) -> str:
    state = base64.b64encode(zlib.compress(json.dumps({**_which(rows), **_look(rows)}).encode(), 9)).decode()
    at = max(row.started for row in rows)
    return json.dumps({"name": rows[0].sweep, "createdAt": at, "state": f"deflate;{state}", UNTOUCHED: True})


def _which(rows: Sequence[Row]) -> dict[str, Any]:
    """Which runs, and in what order."""
    sweep = rows[0].sweep
    return {
        "searchFilter": f"tags.`{member_tag(sweep)}` LIKE '%'" if sweep is not None else "",
        "orderByKey": f"metrics.`{_metric_of_view(rows)}`",
        "orderByAsc": "false",
    }


def _look(rows: Sequence[Row]) -> dict[str, Any]:
    objective = _metric_of_view(rows)
    keys = dict.fromkeys(key for row in rows for key in row.params)
    swept = [key for key in keys if len({row.params.get(key) for row in rows}) > 1]
    metrics = [key for key in OBJECTIVES if any(key in row.metrics for row in rows)]
    selects = {"key": objective, "type": "METRIC"}
    charts: list[dict[str, Any]] = [
        {"type": "PARALLEL", "selectedParams": swept, "selectedMetrics": [objective]},
        {"type": "LINE", "metricKey": objective, "selectedMetricKeys": [objective], "lineSmoothness": 0},
        *({"type": "SCATTER", "xaxis": selects, "yaxis": {"key": key, "type": "METRIC"}} for key in metrics[1:]),
        *({"type": "SCATTER", "xaxis": {"key": key, "type": "PARAM"}, "yaxis": selects} for key in swept),
    ]
    return {
        "selectedColumns": [*(f"metrics.`{key}`" for key in metrics), *(f"params.`{key}`" for key in swept)],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            {"uuid": f"{SECTION}-{number}", "metricSectionId": SECTION, "isGenerated": False, "deleted": False, **chart}
            for number, chart in enumerate(charts)
        ],
        "compareRunSections": [{"uuid": SECTION, "name": "Sweep", "display": True, "isReordered": True, "columns": 2}],
        "isAccordionReordered": True,
    }


def _metric_of_view(rows: Sequence[Row]) -> str:
    return next((key for key in OBJECTIVES if any(key in row.metrics for row in rows)), OBJECTIVES[0])
