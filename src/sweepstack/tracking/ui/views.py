"""Makes the page of a sweep in MLflow's UI: its address, and the columns and charts that it shows.

The UI stores a saved view as a tag of the experiment, and opens the view that the address names. The formats are those
of the UI itself: a view in `savedViewEnvelope.ts`, its state in `ExperimentPageUIState.tsx`, a chart in
`runs-charts.types.ts`. tests/browser/test_ui.py checks the page.
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
from sweepstack.metrics import Metric, bare_name, with_direction
from sweepstack.tracking.objectives import NOTE_TAG, OBJECTIVES, objectives_of
from sweepstack.tracking.private.client import server_version
from sweepstack.tracking.runs_as_rows import SWEEP_TAG, Row, member_tag
from sweepstack.tracking.store import Store

VIEW_TAG = "mlflow.sharedViewState."
"""The beginning of the tag with a saved view; the key of the view follows."""
UNTOUCHED = "untouched"
"""The key of a view that no user has changed: the UI drops this key when it saves a view."""
SECTION = "sweep"
"""The id of the section with the charts of a sweep."""
SINCE = (3, 15)
"""The first version of MLflow whose UI reads views of this format."""
BEFORE = (4, 0)
"""The first version of MLflow that may have another format."""

log = logging.getLogger(__name__)


def link(store: Store, rows: Sequence[Row], host: str = "http://127.0.0.1:5000") -> str:
    """Returns the address of a sweep's page in MLflow's UI, and writes the view of that page to the store.

    The view has charts that compare all runs, and a table of what was swept, with the best run first. If the store does
    not accept it, the page shows MLflow's own charts.

    Args:
        store: the store that has the runs.
        rows: the runs of one sweep, or runs without a sweep.
        host: the address of the UI; not used if the store is a server.
    """
    page = {"compareRunsMode": "CHART", "workflowType": "machine_learning"}
    sweep = rows[0].sweep
    key = _view_key(sweep) if sweep is not None else ""
    query = {"viewStateShareKey": key} if key and _saved(store, key, rows) else _which(rows)
    server = (
        re.sub(r"(?<=://)[^/]*@", "", store.uri) if store.uri.startswith("http") else host
    )  # a browser asks for the password
    address = f"{server.rstrip('/')}/#/experiments/{rows[0].experiment_id}/runs"
    return f"{address}?{urlencode({**query, **page}, quote_via=quote)}"


def _view_key(sweep: str) -> str:
    return member_tag(sweep).removeprefix(f"{SWEEP_TAG}/")


def _saved(store: Store, key: str, rows: Sequence[Row]) -> bool:
    """Writes the view to the store; returns whether the store has it now."""
    tag, experiment, text = VIEW_TAG + key, rows[0].experiment_id, _view(rows)
    try:
        if not SINCE <= _mlflow_version(store) < BEFORE:
            return False
        there = store.client.get_experiment(experiment).tags.get(tag)
        if there is None or (UNTOUCHED in there and there != text):
            with store.writing():
                store.client.set_experiment_tag(experiment, tag, text)
    except Exception:  # the view is not essential: the user gets the table and a link in any case
        log.debug("the view of a sweep was not written to %s", store.uri, exc_info=True)
        return False
    return True


def _mlflow_version(store: Store) -> tuple[int, int]:
    """Returns the version of the MLflow that serves the UI."""
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
    """Returns the filter and the order of the runs on the page."""
    sweep, (objective, *_) = rows[0].sweep, _metrics_of_view(rows)
    return {
        "searchFilter": f"tags.`{member_tag(sweep)}` LIKE '%'" if sweep is not None else "",
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": "false" if objective.larger_is_better else "true",
    }


def _look(rows: Sequence[Row]) -> dict[str, Any]:
    metrics = _metrics_of_view(rows)
    objective = metrics[0]
    keys = dict.fromkeys(key for row in rows for key in row.params)
    swept = [key for key in keys if len({row.params.get(key) for row in rows}) > 1]
    selects = {"key": objective, "type": "METRIC"}
    charts: list[dict[str, Any]] = [
        {"type": "PARALLEL", "selectedParams": swept, "selectedMetrics": [objective]},
        {"type": "LINE", "metricKey": objective, "selectedMetricKeys": [objective], "lineSmoothness": 0},
        *({"type": "SCATTER", "xaxis": selects, "yaxis": {"key": key, "type": "METRIC"}} for key in metrics[1:]),
        *({"type": "SCATTER", "xaxis": {"key": key, "type": "PARAM"}, "yaxis": selects} for key in swept),
    ]
    return {
        "selectedColumns": [
            *(f"metrics.`{key}`" for key in metrics),
            *(f"params.`{key}`" for key in swept),
            *([f"tags.`{NOTE_TAG}`"] if objective.startswith("test/") else []),
        ],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            {"uuid": f"{SECTION}-{number}", "metricSectionId": SECTION, "isGenerated": False, "deleted": False, **chart}
            for number, chart in enumerate(charts)
        ],
        "compareRunSections": [{"uuid": SECTION, "name": "Sweep", "display": True, "isReordered": True, "columns": 2}],
        "isAccordionReordered": True,
    }


def _metrics_of_view(rows: Sequence[Row]) -> list[Metric]:
    """Returns the metric that the page compares runs by, then the others that it shows.

    These are the objectives of the runs, and the same metrics on other parts of the data.
    """
    selecting = objectives_of((row.declared, row.metrics) for row in rows) or [*OBJECTIVES]
    wanted = dict.fromkeys([*selecting, *(f"test/{bare_name(name)}" for name in selecting)])
    found = [name for name in wanted if any(name in row.metrics for row in rows)] or selecting[:1]
    directions = {name: one for row in rows for name, one in row.declared.directions.items()}
    return [with_direction(name, directions) for name in found]
