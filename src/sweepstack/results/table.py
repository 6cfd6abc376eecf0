"""The results table: MLflow runs as a pandas DataFrame, and in the formats that people paste."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pandas as pd

from sweepstack.errors import UserError, did_you_mean
from sweepstack.tracking.store import OBJECTIVES, Row, Store

MAIN_METRICS = ("val/accuracy", "val/accuracy_best", "test/accuracy", "train_seconds")
SHARE = "train_seconds_share"
"""Shown beside `train_seconds` where trials were trained together, so that nobody adds up the same seconds twice."""
WIDEST_CELL = 80  # characters, in a terminal
ABOUT = ("state", "name", "run_id", "sweep", "experiment_id", "reason", "started", "log")


def table(sweep: str = "latest", *, sort: str | None = None, store: Store | None = None) -> pd.DataFrame:
    """The trials of a sweep, one row each, best first.

    Columns: params that vary, metrics (their last values), `state` and what else is known of the run, then the params
    that are the same in all rows. Numbers are numbers. `frame.attrs["vary"]` counts the params that vary.

    Args:
        sweep: its name, "latest", or "all" for everything in the store.
        sort: a column; accuracies sort downwards, everything else upwards. By default the held-out accuracy, or the
            test accuracy where nothing was held out.
        store: where to read; the project's own unless given.

    Raises:
        StoreError: the store is empty, or there is no such sweep.
        UserError: there is no such column to sort by.
    """
    return as_frame((store or Store()).rows(sweep), sort)


def as_frame(rows: Sequence[Row], sort: str | None = None) -> pd.DataFrame:
    """Rows of the store as the table; see `table`."""
    params = pd.DataFrame([dict(row.params) for row in rows]).apply(_as_numbers)
    metrics = pd.DataFrame([dict(row.metrics) for row in rows]).sort_index(axis=1)
    about = pd.DataFrame([{column: getattr(row, column) for column in ABOUT} for row in rows])
    about["started"] = pd.to_datetime(about["started"], unit="ms", utc=True)
    vary = [column for column in params if params[column].nunique(dropna=False) > 1]
    same = [column for column in params if column not in vary]
    frame = pd.concat([params[vary], metrics, about, params[same]], axis=1)
    key = sort or next((name for name in OBJECTIVES if name in frame), "started")
    _check_column(frame, key)
    upwards = "accuracy" not in key
    frame = frame.sort_values([key, "started", "run_id"], ascending=[upwards, True, True], na_position="last")
    frame = frame.reset_index(drop=True)
    frame.attrs["vary"] = len(vary)
    return frame


def only(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Only these columns, in this order.

    Raises:
        UserError: there is no such column.
    """
    for column in columns:
        _check_column(frame, column)
    return frame[list(dict.fromkeys(columns))]


def short(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a reader wants first: params that vary, main metrics, state, and reasons where there are any."""
    params = list(frame.columns[: frame.attrs["vary"]]) or ["name"]
    metrics = [column for column in MAIN_METRICS if column in frame]
    if SHARE in frame and not frame[SHARE].equals(frame["train_seconds"]):
        metrics.append(SHARE)
    reason = ["reason"] if frame["reason"].any() else []
    return frame[[*params, *metrics, "state", *reason]]


def to_text(frame: pd.DataFrame) -> str:
    """A whole table as a terminal shows it: the short form of it."""
    return str(render(short(frame), "text"))


def failures(frame: pd.DataFrame) -> str:
    """The failed trials with their reasons and logs, which may hold a traceback; empty when none failed."""
    failed = frame[frame["state"] == "FAILED"][["name", "reason", "log"]].rename(columns={"name": "failed"})
    if failed.empty:
        return ""
    return f"{failed.to_markdown(index=False, tablefmt='simple', disable_numparse=True)}\n"


def render(frame: pd.DataFrame, form: str) -> str | bytes:
    """A table as text, csv, markdown, latex, json or parquet (bytes). The first, third and fourth are for readers and
    round the metrics; the others keep every digit."""
    match form:
        case "csv":
            return frame.to_csv(index=False)
        case "json":
            return f"{frame.to_json(orient='records', date_format='iso', indent=2, double_precision=15)}\n"
        case "parquet":
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            return buffer.getvalue()
    shown = frame.apply(_for_readers)
    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    if form == "latex":
        styler = shown.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
        return str(styler.to_latex(hrules=True, column_format="".join("r" if number else "l" for number in numeric)))
    align = ["right" if number else "left" for number in numeric]
    if form == "text":
        shown = shown.map(lambda cell: cell if len(cell) <= WIDEST_CELL else f"{cell[: WIDEST_CELL - 3]}...")
    style = {"markdown": "pipe", "text": "simple"}[form]
    return f"{shown.to_markdown(index=False, tablefmt=style, colalign=align, disable_numparse=True)}\n"


def _for_readers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Accuracies and losses with four digits, seconds with one, other numbers as short as they go."""
    name = str(column.name)
    form = ".4f" if "/" in name else ".1f" if "seconds" in name else "g"
    if pd.api.types.is_float_dtype(column):
        return column.map(lambda value: "-" if pd.isna(value) else format(value, form if abs(value) < 1e6 else "g"))
    return column.map(lambda value: "-" if value is None or value is pd.NA or value != value else str(value))


def _as_numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers as numbers: MLflow keeps params as text."""
    try:
        return pd.to_numeric(column.replace("None", None))
    except (ValueError, TypeError):
        return column


def _check_column(frame: pd.DataFrame, column: str) -> None:
    if column not in frame:
        raise UserError(f"there is no column {column!r} in this table; {did_you_mean(column, map(str, frame.columns))}")
