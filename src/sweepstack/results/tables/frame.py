"""The results table: runs of the store as a pandas DataFrame."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from sweepstack.errors import UserError
from sweepstack.metrics import CLASSIFICATION
from sweepstack.results.tables.columns import find_column, identity, order, typed_column
from sweepstack.results.tables.conditions import fulfilled
from sweepstack.results.tables.objective import (
    NOTE,
    attrs_of,
    caution_of,
    comparable,
    metric_of,
    note_columns,
    note_of,
    objective,
)
from sweepstack.tracking.params import from_text
from sweepstack.tracking.runs_as_rows import Row, in_order
from sweepstack.tracking.store import Store
from sweepstack.trial import TrialState


@functools.cache
def _later_defaults() -> dict[str, Any]:
    """Returns the defaults of keys that version 0.1 did not have, by their params. Records name them once they are
    used: what a trial without such a param was trained with, if other trials have the param."""
    from pydantic import BaseModel

    from sweepstack.config.schema import TrialConfig
    from sweepstack.config.sections import Mark

    defaults: dict[str, Any] = {"task": CLASSIFICATION.rpartition(".")[2].lower()}
    for key, field in TrialConfig.model_fields.items():
        value = field.get_default()
        if isinstance(value, BaseModel):
            defaults |= {f"{key}.{name}": part for name, part in value.model_dump(mode="json").items()}
        elif not field.is_required() and Mark.HASHED_AT_DEFAULT not in field.metadata:
            defaults[key] = value
    return defaults


RUN_COLUMNS = ("state", "name", "run_id", "sweep", "experiment_id", "reason", "started", "log")
"""Columns that are neither params nor metrics."""


def table(
    sweep: str = "latest",
    *,
    where: str | None = None,
    metric: str | None = None,
    sort: str | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """Returns the trials of a sweep, one row each, the best first.

    Columns: params that vary, metrics (their last values), `state` and the other columns of a run (`note` only if a
    trial was selected on test data, or has none), then the params that are the same in all rows. Params have the types
    that they had in the config; lists are tuples. A param that records name only if it is used has its default in the
    other rows.

    `frame.attrs["vary"]` is the number of params that vary; `frame.attrs["params"]` and `frame.attrs["metrics"]` name
    all columns of that kind, `frame.attrs["sorted"]` the column that sorts, and `frame.attrs["notes"]` what a reader
    must know of that order; see `objective.attrs_of` for its other entries. Trials with
    equal values stand in the order of the sweep. The same store gives the same table, in whatever order it is read.

    Args:
        sweep: the name of the sweep, "latest", or "all" for everything in the store.
        where: a condition that the trials must fulfil, such as `params.lr > 0.01`; see `conditions`.
        metric: the metric to sort by, such as val/loss; of one that neither sweepstack nor the task knows, the smallest
            value is the best. Trials that did not finish or have no finite value come last. By default the objective
            of the task: the accuracy on held-out data, or on test data if nothing was held out.
        sort: a column to sort by instead; metrics are sorted with the best first, everything else upwards.
        store: the store to read; by default the project's own.

    Raises:
        StoreError: the store is empty, or there is no such sweep.
        UserError: there is no such column or metric, the condition cannot be read, no trial fulfils it, or the trials
            have different objectives and neither `metric` nor `sort` is given.
    """
    return as_frame((store or Store()).rows(sweep), where=where, metric=metric, sort=sort)


def as_frame(
    rows: Sequence[Row], *, where: str | None = None, metric: str | None = None, sort: str | None = None
) -> pd.DataFrame:
    """Makes the table of rows of the store.

    Args:
        rows: the rows of the trials.
        where: see `table`, also for the others.
        metric: the metric to sort by.
        sort: a column to sort by instead.
    """
    rows = in_order(rows)
    names = dict.fromkeys(name for row in rows for name in row.params)
    index = pd.RangeIndex(len(rows))
    params = pd.DataFrame({name: _param_column(name, rows) for name in names}, index)
    metrics = pd.DataFrame([dict(row.metrics) for row in rows], dtype=float)
    runs = pd.DataFrame([{column: getattr(row, column) for column in RUN_COLUMNS} for row in rows])
    runs["started"] = pd.to_datetime(runs["started"], unit="ms", utc=True)
    notes = pd.Series([note_of(row) for row in rows], index, "object")
    taken = [*RUN_COLUMNS, NOTE] if notes.any() else RUN_COLUMNS
    params = _distinct_columns(params, "params", {*metrics, *taken})
    metrics = _distinct_columns(metrics, "metrics", taken)
    if notes.any():
        runs[NOTE] = notes
    frame = pd.concat([params, metrics, runs], axis=1)
    frame.attrs |= {"params": list(params), "metrics": list(metrics)}
    if where is not None:
        frame = _where(frame, where)
    frame.attrs |= attrs_of([rows[index] for index in frame.index])
    vary = [column for column in params if identity(frame[column]).nunique(dropna=False) > 1]
    same = [column for column in params if column not in vary]
    frame = frame[[*vary, *metrics, *RUN_COLUMNS, *note_columns(frame), *same]]
    frame.attrs["vary"] = len(vary)
    return _sorted(frame, metric, sort)


def _param_column(name: str, rows: Sequence[Row]) -> pd.Series[Any]:
    default = _later_defaults().get(name) if any(name not in row.params for row in rows) else None
    values = [default if (text := row.params.get(name)) is None else from_text(text) for row in rows]
    return typed_column(values, pd.RangeIndex(len(rows)), name)


def only(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Returns only the named columns, in this order.

    Raises:
        UserError: there is no such column.
    """
    return frame[list(dict.fromkeys(find_column(frame, column) for column in columns))]


def sorted_by(groups: pd.DataFrame, column: str) -> pd.DataFrame:
    """Sorts groups of trials by a column; equal ones keep their order.

    Raises:
        UserError: there is no such column.
    """
    key = find_column(groups, column)
    downwards = groups.attrs["metric"].larger_is_better if key == "mean" else _is_downwards(groups, key)
    groups = groups.sort_values(key, ascending=not downwards, kind="stable", na_position="last", key=order)
    return groups.reset_index(drop=True)


def _distinct_columns(section: pd.DataFrame, name: str, taken: Sequence[str] | set[str]) -> pd.DataFrame:
    """Sorts columns by their names, after a prefix was added to each name that another section has."""
    section = section.rename(columns={column: f"{name}.{column}" for column in section if column in taken})
    return section.sort_index(axis=1)


def _where(frame: pd.DataFrame, condition: str) -> pd.DataFrame:
    found = frame[fulfilled(frame, condition)]
    if found.empty:
        raise UserError(
            f"none of the {len(frame)} trials fulfils {condition!r}",
            remedy="look at them without --where",
        )
    return found


def _sorted(frame: pd.DataFrame, metric: str | None, sort: str | None) -> pd.DataFrame:
    key = find_column(frame, sort) if sort is not None else objective(frame, metric) or "started"
    frame.attrs["sorted"] = str(key)
    ascending = not _is_downwards(frame, key)
    frame = frame.sort_values(key, ascending=ascending, kind="stable", na_position="last", key=order)
    if sort is None and key in frame.attrs["metrics"]:
        pruned = int((frame["state"] == TrialState.PRUNED).sum())
        of_pruned = f"{pruned:,} {'trial was' if pruned == 1 else 'trials were'} pruned, not compared" if pruned else ""
        frame.attrs["notes"] = [note for note in (caution_of(frame, key), of_pruned) if note]
        penalty = comparable(frame, key).isna().astype(int) + (frame["state"] != TrialState.FINISHED)
        frame = frame.iloc[penalty.argsort(kind="stable")]
    return frame.reset_index(drop=True)


def _is_downwards(frame: pd.DataFrame, column: str) -> bool:
    """True if a column is a metric whose largest value is the best."""
    return column in frame.attrs["metrics"] and metric_of(frame, column).larger_is_better
