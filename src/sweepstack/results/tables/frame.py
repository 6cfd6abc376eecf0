"""The results table: runs of the store as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sweepstack.errors import UserError
from sweepstack.results.tables.columns import comparable, find_column, identity, objective, order, typed_column, upwards
from sweepstack.results.tables.conditions import fulfilled
from sweepstack.tracking.params import from_text
from sweepstack.tracking.rows import Row
from sweepstack.tracking.store import Store
from sweepstack.trial import TrialState

RUN_COLUMNS = ("state", "name", "run_id", "sweep", "experiment_id", "reason", "started", "log")


def table(
    sweep: str = "latest",
    *,
    where: str | None = None,
    metric: str | None = None,
    sort: str | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """The trials of a sweep, one row each, best first.

    Columns: params that vary, metrics (their last values), `state` and what else is known of the run, then the params
    that are the same in all rows. Params have the types that they had in the config; lists are tuples.
    `frame.attrs["vary"]` counts the params that vary, `frame.attrs["params"]` and `frame.attrs["metrics"]` name all
    columns that are such. The same store gives the same table, whatever the order in which it is read.

    Args:
        sweep: its name, "latest", or "all" for everything in the store.
        where: a condition that the trials must fulfil, such as `params.lr > 0.01`; see `conditions`.
        metric: what is best: the most of an accuracy, the least of anything else; trials that did not finish or have no
            finite value, come last. By default the held-out accuracy, or the test accuracy where nothing was held out.
        sort: a column to sort by instead; accuracies sort downwards, everything else upwards.
        store: where to read; the project's own unless given.

    Raises:
        StoreError: the store is empty, or there is no such sweep.
        UserError: there is no such column or metric, no trial fulfils the condition, or it cannot be read.
    """
    return as_frame((store or Store()).rows(sweep), where=where, metric=metric, sort=sort)


def as_frame(
    rows: Sequence[Row], *, where: str | None = None, metric: str | None = None, sort: str | None = None
) -> pd.DataFrame:
    """Rows of the store as the table; see `table`."""
    names = dict.fromkeys(name for row in rows for name in row.params)
    index = pd.RangeIndex(len(rows))
    params = pd.DataFrame({name: _param_column(name, rows) for name in names}, index)
    metrics = pd.DataFrame([dict(row.metrics) for row in rows], dtype=float)
    about = pd.DataFrame([{column: getattr(row, column) for column in RUN_COLUMNS} for row in rows])
    about["started"] = pd.to_datetime(about["started"], unit="ms", utc=True)
    params = _distinct_columns(params, "params", {*metrics, *RUN_COLUMNS})
    metrics = _distinct_columns(metrics, "metrics", RUN_COLUMNS)
    frame = pd.concat([params, metrics, about], axis=1)
    frame.attrs |= {"params": list(params), "metrics": list(metrics)}
    if where is not None:
        frame = _where(frame, where)
    vary = [column for column in params if identity(frame[column]).nunique(dropna=False) > 1]
    same = [column for column in params if column not in vary]
    frame = frame[[*vary, *metrics, *RUN_COLUMNS, *same]]
    frame.attrs["vary"] = len(vary)
    return _sorted(frame, metric, sort)


def _param_column(name: str, rows: Sequence[Row]) -> pd.Series[Any]:
    values = [None if (text := row.params.get(name)) is None else from_text(text) for row in rows]
    return typed_column(values, pd.RangeIndex(len(rows)), name)


def only(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Only these columns, in this order.

    Raises:
        UserError: there is no such column.
    """
    return frame[list(dict.fromkeys(find_column(frame, column) for column in columns))]


def sorted_by(groups: pd.DataFrame, column: str) -> pd.DataFrame:
    """Groups of trials in the order of a column, equal ones as they were.

    Raises:
        UserError: there is no such column.
    """
    key = (
        "mean" if column == f"mean {groups.attrs['metric']}" else find_column(groups, column)
    )  # as its head is printed
    ascending = upwards(groups.attrs["metric"] if key == "mean" else key)
    groups = groups.sort_values(key, ascending=ascending, kind="stable", na_position="last", key=order)
    return groups.reset_index(drop=True)


def _distinct_columns(section: pd.DataFrame, name: str, taken: Sequence[str] | set[str]) -> pd.DataFrame:
    """Columns in the order of their names, which no other section of the table has."""
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
    by = [key, *(column for column in ("started", "run_id") if column != key)]
    ascending = [upwards(key), *([True] * (len(by) - 1))]
    frame = frame.sort_values(by, ascending=ascending, na_position="last", key=order)
    if sort is None and key in frame.attrs["metrics"]:
        behind = comparable(frame, key).isna().astype(int) + (frame["state"] != TrialState.FINISHED)
        frame = frame.iloc[behind.argsort(kind="stable")]
    return frame.reset_index(drop=True)
