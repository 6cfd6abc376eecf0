"""Renders the table as people read and paste it: its short form, its failures, and its formats."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from sweepstack.errors import printable
from sweepstack.metrics import BEST, rounded
from sweepstack.results.tables.columns import is_number, kind, written
from sweepstack.results.tables.objective import note_columns, own_metrics
from sweepstack.tracking.params import as_text
from sweepstack.trial import Trial

FOR_READERS = ("text", "markdown", "latex", "html")
"""Formats which round, and show the short form of a table; the others keep every column and digit."""
SHARE = "train_seconds_share"
"""Shown beside `train_seconds` if trials were trained together, so that nobody adds the same seconds twice."""
IN_UNIT_OF_METRIC = ("mean", "sd", "low", "high", "behind")
"""Columns of groups that are in the unit of their metric."""
MOST_ASKED = 4
"""The most metrics that the task names of which a terminal shows the held-out values."""
WIDEST_CELL = 80
"""The most characters of a cell in a terminal."""
MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$]|(?<!\w)_|_(?!\w)")
"""Matches characters that Markdown would take as markup."""
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",  # this and the next two are other characters in LaTeX's own font encoding
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # at the beginning of a row, LaTeX would take it as an option of the row's end before it
        "]": "{]}",
        "*": "{*}",  # there, LaTeX would take it as a part of that row's end
    }
)
"""Escapes characters that LaTeX would take as markup."""
HTML = """\
<table>
<thead>
<tr>{% for cell in header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
"""


def short(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns that a reader wants first.

    Of trials, these are the params that vary, the metric that sorts, the objective, its best and its test value, some
    of the metrics that the task names, the time, the state, and the reasons and notes if there are any. Of groups, they
    are the columns that are not empty, and the column of means names its metric. Of a pivot, each mean is shown with
    its number of trials.
    """
    match frame.attrs.get("shape"):
        case "groups":
            empty = [name for name in ("missing", "failed") if name in frame and not frame[name].any()]
            empty += [
                name for name in ("sd", "low", "high", "p", "behind") if name in frame and frame[name].isna().all()
            ]
            shown = frame.drop(columns=["why", "run_ids", "needed", *empty], errors="ignore")
            return shown.rename(columns={name: header for header, name in frame.attrs["headers"].items()})
        case "cells":
            return _short_cells(frame)
    params = list(frame.columns[: frame.attrs["vary"]]) or ["name"]
    main = [column for name in own_metrics(frame) for column in (f"val/{name}", f"val/{name}{BEST}", f"test/{name}")]
    if "/" in frame.attrs["sorted"] and frame.attrs["sorted"] in frame.attrs["metrics"]:
        main.insert(0, frame.attrs["sorted"])
    asked = [column for column in (f"val/{name}" for name in frame.attrs["asked"]) if column in frame]
    metrics = [column for column in (*main, *asked[:MOST_ASKED], "train_seconds") if column in frame]
    metrics = list(dict.fromkeys(metrics))
    if SHARE in frame and not frame[SHARE].equals(frame["train_seconds"]):
        metrics.append(SHARE)
    reason = ["reason"] if frame["reason"].any() else []
    return frame[[*params, *metrics, "state", *reason, *note_columns(frame)]]


def _short_cells(frame: pd.DataFrame) -> pd.DataFrame:
    labels = frame.attrs["labels"]
    counts = frame[[f"n {label}" for label in labels]].to_numpy()
    first = frame.columns[0]
    shown = frame[[first, *labels, *(name for name in note_columns(frame) if name != first)]].copy()
    for index, label in enumerate(labels):
        means = [_rounded(value, frame.attrs["metric"]) for value in frame[label]]
        if counts.max() > 1:
            means = [f"{mean} (n={n})" if n else mean for mean, n in zip(means, counts[:, index], strict=True)]
        shown[label] = means
    return shown


def to_text(frame: pd.DataFrame) -> str:
    """Renders the short form of a table for a terminal."""
    return str(render(short(frame), "text"))


def failures(frame: pd.DataFrame) -> str:
    """Renders the failed trials with their reasons and logs, which may hold a traceback; empty if none failed."""
    failed = frame[frame["state"] == "FAILED"][["name", "reason", "log"]].rename(columns={"name": "failed"})
    return _plain(failed)


def never_reported(trials: Sequence[Trial]) -> str:
    """Renders the trials whose end nobody has heard of, with their logs; empty if there are none."""
    return _plain(
        pd.DataFrame({"never reported": [one.name for one in trials], "log": [str(one.log) for one in trials]})
    )


def _plain(frame: pd.DataFrame) -> str:
    if frame.empty:
        return ""
    return f"{frame.map(printable).to_markdown(index=False, tablefmt='simple', disable_numparse=True)}\n"


def render(frame: pd.DataFrame, form: str) -> str | bytes:
    """Renders a table as text, csv, markdown, latex, html, json or parquet (bytes).

    The formats for readers round metrics and show every character as itself: they escape markup, and write unprintable
    characters as Python does. csv, json and parquet have the data as they are in the store; json has null for numbers
    that are not finite.

    Args:
        frame: the table.
        form: the name of the format.
    """
    match form:
        case "csv":
            return frame.map(_as_cell).to_csv(index=False, lineterminator="\n")
        case "json":
            columns = {str(column): _for_json(frame[column]) for column in frame}
            records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            return f"{json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False)}\n"
        case "parquet":
            buffer = io.BytesIO()
            frame.apply(_of_one_type).to_parquet(buffer, index=False)
            return buffer.getvalue()
    right = [is_number(frame[column]) for column in frame]
    right = [number or column in frame.attrs.get("labels", ()) for number, column in zip(right, frame, strict=True)]
    shown = frame.apply(_for_readers, metric=frame.attrs.get("metric")).map(printable).rename(columns=printable)
    match form:
        case "html":
            return _to_html(shown)
        case "latex":
            shown = shown.map(lambda cell: cell.translate(LATEX)).rename(columns=lambda name: name.translate(LATEX))
            align = "".join("r" if number else "l" for number in right)
            table = str(shown.style.hide(axis="index").to_latex(hrules=True, column_format=align))
            return f"{table.rstrip()}\n"
        case "markdown":
            shown = shown.map(_for_markdown).rename(columns=_for_markdown)
        case "text":
            shown = shown.map(lambda cell: cell if len(cell) <= WIDEST_CELL else f"{cell[: WIDEST_CELL - 3]}...")
    style = {"markdown": "pipe", "text": "simple"}[form]
    colalign = ["right" if number else "left" for number in right]
    return f"{shown.to_markdown(index=False, tablefmt=style, colalign=colalign, disable_numparse=True)}\n"


def _to_html(shown: pd.DataFrame) -> str:
    """Renders a table that can be pasted into a page of any encoding."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(HTML)
    page = template.render(header=list(shown.columns), rows=shown.to_numpy().tolist())
    return f"{page}\n".encode("ascii", "xmlcharrefreplace").decode()


def _for_markdown(cell: str) -> str:
    return MARKDOWN.sub(lambda found: f"\\{found[0]}", cell)


def _for_readers(column: pd.Series[Any], metric: str | None) -> pd.Series[Any]:
    """Formats a column: rounds metrics, and gives everything else as many digits as distinguish its values."""
    name = str(column.name)
    unit = metric if metric is not None and name in IN_UNIT_OF_METRIC else name
    is_metric = "/" in unit or "seconds" in unit or name in (*IN_UNIT_OF_METRIC, "p")
    if pd.api.types.is_float_dtype(column) and is_metric:
        return column.map(lambda value: _rounded(value, unit)).astype("object")
    one_kind = set(column.map(kind)) <= {"", "text"}
    write: Callable[[Any], str] = str if one_kind else written
    if pd.api.types.is_float_dtype(column):
        different = column.dropna().unique()
        forms = [f"{{:.{digits}g}}".format for digits in (6, 9, 12)]
        write = next((form for form in forms if len({form(value) for value in different}) == len(different)), written)
    cells = ["-" if missing else write(value) for value, missing in zip(column, column.isna(), strict=True)]
    return pd.Series(cells, column.index, "object", name)


def _rounded(value: float, name: str) -> str:
    """Formats a metric; seconds with one digit after the point, or two that count."""
    if math.isnan(value):
        return "-"
    if "seconds" not in name:
        return rounded(value)
    return format(value, ".1f" if 0.1 <= abs(value) < 1e6 or value == 0 else ".2g" if abs(value) < 1 else "g")


def _as_cell(value: Any) -> Any:
    """Converts a list to text for csv, which has no lists."""
    return as_text(value) if isinstance(value, tuple) else value


def _of_one_type(column: pd.Series[Any]) -> pd.Series[Any]:
    """Converts values without a common type to text for parquet, whose columns have one type."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column
    import pyarrow

    try:
        pyarrow.array(column, from_pandas=True)
    except (pyarrow.ArrowException, OverflowError, UnicodeError):
        text = column.map(lambda value: as_text(value) if kind(value) else None)
        return text.map(lambda value: value.encode(errors="backslashreplace").decode(), na_action="ignore")
    return column


def _for_json(column: pd.Series[Any]) -> list[Any]:
    if pd.api.types.is_datetime64_any_dtype(column):
        return [None if pd.isna(value) else value.isoformat() for value in column]
    return [_plain_json(value) for value in column.tolist()]


def _plain_json(value: Any) -> Any:
    """Returns a value of a table as JSON has it: without NaN and infinity, in lists neither."""
    if isinstance(value, tuple):
        return [_plain_json(part) for part in value]
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value
