"""The results table: runs of the store as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sweepstack.errors import UserError
from sweepstack.results.columns import comparable, find, objective, upwards
from sweepstack.results.conditions import fulfilled
from sweepstack.tracking.rows import Row
from sweepstack.tracking.store import Store
from sweepstack.trial import TrialState

ABOUT = ("state", "name", "run_id", "sweep", "experiment_id", "reason", "started", "log")
LONGEST_WHOLE = 18
"""Characters of a whole number that surely fits into 64 bits; longer ones stay text, so that no digit is lost."""


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
    that are the same in all rows. Numbers are numbers. `frame.attrs["vary"]` counts the params that vary,
    `frame.attrs["params"]` and `frame.attrs["metrics"]` name all columns that are such. The same store gives the same
    table, whatever the order in which it is read.

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
    params = pd.DataFrame([dict(row.params) for row in rows])
    metrics = pd.DataFrame([dict(row.metrics) for row in rows], dtype=float)
    about = pd.DataFrame([{column: getattr(row, column) for column in ABOUT} for row in rows])
    about["started"] = pd.to_datetime(about["started"], unit="ms", utc=True)
    params = _apart(params, "params", {*metrics, *ABOUT}).apply(_as_numbers)
    metrics = _apart(metrics, "metrics", ABOUT)
    frame = pd.concat([params, metrics, about], axis=1)
    frame.attrs |= {"params": list(params), "metrics": list(metrics)}
    if where is not None:
        frame = _where(frame, where)
    vary = [column for column in params if frame[column].nunique(dropna=False) > 1]
    same = [column for column in params if column not in vary]
    frame = frame[[*vary, *metrics, *ABOUT, *same]]
    frame.attrs["vary"] = len(vary)
    return _sorted(frame, metric, sort)


def only(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Only these columns, in this order.

    Raises:
        UserError: there is no such column.
    """
    return frame[list(dict.fromkeys(find(frame, column) for column in columns))]


def sorted_by(groups: pd.DataFrame, column: str) -> pd.DataFrame:
    """Groups of trials in the order of a column, equal ones as they were.

    Raises:
        UserError: there is no such column.
    """
    key = "mean" if column == f"mean {groups.attrs['metric']}" else find(groups, column)  # as its head is printed
    ascending = upwards(groups.attrs["metric"] if key == "mean" else key)
    return groups.sort_values(key, ascending=ascending, kind="stable", na_position="last").reset_index(drop=True)


def _apart(section: pd.DataFrame, name: str, taken: Sequence[str] | set[str]) -> pd.DataFrame:
    """Columns in the order of their names, which no other section of the table has."""
    section = section.rename(columns={column: f"{name}.{column}" for column in section if column in taken})
    return section.sort_index(axis=1)


def _where(frame: pd.DataFrame, condition: str) -> pd.DataFrame:
    found = frame[fulfilled(frame, condition)]
    if found.empty:
        raise UserError(f"none of the {len(frame)} trials fulfils {condition!r}; look at them without --where")
    return found


def _sorted(frame: pd.DataFrame, metric: str | None, sort: str | None) -> pd.DataFrame:
    key = find(frame, sort) if sort is not None else objective(frame, metric) or "started"
    order = [key, *(column for column in ("started", "run_id") if column != key)]
    frame = frame.sort_values(order, ascending=[upwards(key), *([True] * (len(order) - 1))], na_position="last")
    if sort is None and key in frame.attrs["metrics"]:
        behind = comparable(frame, key).isna().astype(int) + (frame["state"] != TrialState.FINISHED)
        frame = frame.iloc[behind.argsort(kind="stable")]
    return frame.reset_index(drop=True)


def _as_numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers as numbers: MLflow keeps params as text. Whole ones stay whole where some runs have none."""
    column = column.replace("None", None)
    try:
        numbers = pd.to_numeric(column)
    except (ValueError, TypeError):
        return column
    present = column.dropna().astype("str")
    if present.str.fullmatch(r"[+-]?0\d+.*").any():  # 007 is a name
        return column
    if pd.api.types.is_float_dtype(numbers) and not present.empty and present.str.fullmatch(r"[+-]?\d+").all():
        if present.str.len().max() > LONGEST_WHOLE:
            return column
        whole = [None if missing else int(value) for value, missing in zip(column, column.isna(), strict=True)]
        return pd.Series(whole, column.index, "Int64", column.name)
    return numbers
