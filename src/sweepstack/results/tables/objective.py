"""The metric that selects the trials of a table, and the directions of its metrics. A table keeps both in `attrs`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweepstack.errors import UserError
from sweepstack.metrics import KNOWN, Direction, Metric, bare_name, with_direction
from sweepstack.results.tables.columns import find_column
from sweepstack.tracking.objectives import OBJECTIVES, SELECTED_ON_TEST, objectives_of
from sweepstack.tracking.params import from_text
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.trial import TrialState

NOTE = "note"
"""The column with `note_of` each trial. A table has it if there is any."""
NO_TEST_PART = "no test part"
"""The note of a run whose dataset has no test part."""


def attrs_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns what a table has to keep of its rows, as plain values: pandas copies them, and writes them to parquet.

    `objectives` are the metrics that select; `directions` are, by the bare names of metrics, all the pairs of mode and
    proportion that were declared; `asked` are the bare names of the metrics that the tasks name; `seeds_asked` are, in
    JSON, the ids of the runs by the seeds that their commands asked for (see `Trial.asked`); none if all asked for the
    same. `order` are the ids of the runs in the order of the rows, see `in_sweep_order`.
    """
    directions = defaultdict(set)
    for row in rows:
        for name, direction in row.declared.directions.items():
            directions[name].add(direction)
    seeds_asked = defaultdict(list)
    for row in rows:
        seeds_asked[row.asked].append(row.run_id)
    return {
        "seeds_asked": json.dumps(seeds_asked) if len(seeds_asked) > 1 else "{}",  # pandas copies a text in no time
        "order": " ".join(row.run_id for row in rows),
        "objectives": objectives_of((row.declared, row.metrics) for row in rows),
        "directions": {name: [list(one) for one in sorted(found)] for name, found in sorted(directions.items())},
        "asked": sorted({name for row in rows for name in _asked(row)}),
    }


def in_sweep_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sorts trials as `runs_as_rows.in_order` does; those of a table without that order by their beginning."""
    index = {run_id: index for index, run_id in enumerate(frame.attrs.get("order", "").split())}
    frame = frame.sort_values(["started", "run_id"])
    return frame.iloc[
        frame["run_id"].map(lambda run_id: index.get(run_id, len(index))).to_numpy().argsort(kind="stable")
    ]


def _asked(row: Row) -> list[str]:
    """Returns the bare names of the metrics that the task of a row names."""
    named = from_text(row.params.get("task.metrics", "[]"))
    own = {name for name in row.declared.directions if name not in KNOWN}
    return [*own, *(one for one in named if isinstance(one, str))] if isinstance(named, list) else [*own]


def note_of(row: Row) -> str:
    """Returns what a reader must know of a run before comparing it: that test data selected it, or that there are none.

    Empty for a run that was selected on held-out data and measured on test data, and for one that did not finish.
    """
    parts = {name.partition("/")[0] for name in row.metrics}
    if row.state != TrialState.FINISHED:
        return ""
    if "test" in parts:
        return "" if "val" in parts else SELECTED_ON_TEST
    named = from_text(row.params.get("dataset.parts", "{}"))
    return NO_TEST_PART if isinstance(named, dict) and named.get("test", True) is None else ""


def note_columns(frame: pd.DataFrame) -> list[str]:
    """Returns the name of the column with `note_of` each trial, in a list; an empty one if a table has none."""
    return [NOTE] if NOTE in frame and NOTE not in frame.attrs.get("params", ()) else []


def caution_of(frame: pd.DataFrame, metric: str) -> str:
    """Says why the best value of a metric is too good: it is measured on test data, which so select.

    Empty for any other metric: then test data are only read.

    Args:
        frame: the table, see `table`.
        metric: the metric that selects.
    """
    if not metric.startswith("test/"):
        return ""
    held_out = [name for name in frame.attrs["metrics"] if name.startswith("val/")]
    if any(name in frame and comparable(frame, name).notna().any() for name in held_out):
        return "test data selected, as was asked for: the test value is too good"
    return "nothing was held out, so test data selected: the test value is too good"


def direction_note(frame: pd.DataFrame, name: str) -> str:
    """Returns a sentence about a metric if nothing says which of its values are better; else an empty text.

    Args:
        frame: the table, see `table`.
        name: the name of the metric.
    """
    key = find_column(frame, name, "metric")
    bare = bare_name(key)
    if bare in KNOWN or bare in frame.attrs["directions"] or "seconds" in key:
        return ""
    return f"nothing says whether small or large values of {key} are better; the smallest is taken"


def metric_of(frame: pd.DataFrame, name: str) -> Metric:
    """Returns a metric of a table with its direction.

    Args:
        frame: the table, see `table`; or groups of its trials.
        name: the name of the metric.

    Raises:
        UserError: trials contradict each other about it.
    """
    bare = bare_name(name)
    declared = frame.attrs["directions"].get(bare, [])
    if len({mode for mode, _ in declared}) > 1:
        raise UserError(
            f"the best {bare} must be the smallest or the largest, and these trials declare both modes",
            remedy="choose trials of one mode with --where, or another metric",
        )
    own = {bare: Direction(declared[0][0], all(proportion for _, proportion in declared))} if declared else {}
    return with_direction(name, own)


def own_metrics(frame: pd.DataFrame) -> list[str]:
    """Returns the bare names of the metrics that select the trials of a table; several if their tasks differ."""
    return [*dict.fromkeys(map(bare_name, _selecting(frame)))]


def _selecting(frame: pd.DataFrame) -> list[str]:
    """Returns the metrics that select the trials of a table.

    Those that no trial of the table has are left out: a table that was filtered may have lost the trials of a task.
    """
    names: list[str] = frame.attrs["objectives"] or [*OBJECTIVES]
    return [name for name in names if name in frame and frame[name].notna().any()] or names


def objectives(frame: pd.DataFrame) -> list[Metric]:
    """Returns the metrics that may select the trials of a table, the first choice first.

    Raises:
        UserError: the trials have different objectives.
    """
    names = _selecting(frame)
    different = {bare_name(name): name for name in reversed(names)}
    if len(different) > 1:
        raise UserError(
            f"one metric must select, and these trials have the objectives {', '.join(sorted(different.values()))}",
            remedy=f"choose one with --metric, for example --metric {names[0]}",
        )
    return [metric_of(frame, name) for name in names]


def objective(frame: pd.DataFrame, metric: str | None = None) -> Metric | None:
    """Returns the metric that trials are compared by: `metric`, else the objective of their task.

    It returns None if no trial has any of them.

    Raises:
        UserError: there is no such metric, the trials have different objectives, or contradict each other about it.
    """
    if metric is not None:
        return metric_of(frame, find_column(frame, metric, "metric"))
    return next((one for one in objectives(frame) if one in frame.attrs["metrics"]), None)


def comparable(frame: pd.DataFrame, metric: str) -> pd.Series[Any]:
    """Returns the values of a metric, with NaN for trials that did not finish and for values that are not finite.

    Such a trial is never the best, and counts in no mean.
    """
    values = frame[metric]
    return values.where((frame["state"] == TrialState.FINISHED) & np.isfinite(values))
