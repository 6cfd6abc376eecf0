"""Columns by the names that people give them: `lr`, `optimizer.lr`, `params.lr`, `metrics.val/accuracy`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from sweepstack.errors import UserError, did_you_mean
from sweepstack.tracking.params import as_text
from sweepstack.tracking.rows import OBJECTIVES
from sweepstack.trial import TrialState

Kind = Literal["column", "param", "metric"]
SECTIONS: dict[str, Kind] = {"params": "param", "metrics": "metric"}
ALIASES = {"bs": "batch_size"}
"""As the names of runs write them."""
LARGEST_WHOLE, LARGEST_EXACT_FLOAT = 2**63 - 1, 2**53
"""Whole numbers up to these sizes fit into 64 bits, and are exact as floats."""


def find_column(frame: pd.DataFrame, word: str, kind: Kind = "column") -> str:
    """The column that a word means: its name; a name after `params.` or `metrics.`; a key of the config as the command
    line writes it (`optimizer.lr` for `lr`); or the end of one that no other param shares (`units` for `model.units`).

    Args:
        frame: the table, see `table`.
        kind: what it must be.

    Raises:
        UserError: there is no such column.
    """
    known = {"column": list(frame.columns), **{kind: frame.attrs.get(name, []) for name, kind in SECTIONS.items()}}
    if word in known[kind]:
        return word
    section, _, rest = word.partition(".")
    if section in SECTIONS and kind in ("column", SECTIONS[section]):
        return find_column(frame, rest, SECTIONS[section])
    params = known["param"] if kind != "metric" else []
    ends = [name for name in params if name.endswith(f".{word}")]
    for name in (word.removeprefix("optimizer."), ALIASES.get(word), ends[0] if len(ends) == 1 else None):
        if name in params:
            return str(name)
    raise UserError(
        f"there is no {kind} {word!r} in this table",
        remedy=did_you_mean(word, known[kind]),
    )


def objective(frame: pd.DataFrame, metric: str | None = None) -> str | None:
    """The metric to compare trials by: the one that is named, else the held-out accuracy, else the test accuracy where
    nothing was held out; None where no trial has any of them.

    Raises:
        UserError: there is no such metric.
    """
    if metric is not None:
        return find_column(frame, metric, "metric")
    return next((name for name in OBJECTIVES if name in frame.attrs["metrics"]), None)


def comparable(frame: pd.DataFrame, metric: str) -> pd.Series[Any]:
    """The values of a metric that trials are compared by: half a training, one that diverged, or a figure that is not
    finite is never the best, and counts in no mean; it is NaN here."""
    values = frame[metric]
    return values.where((frame["state"] == TrialState.FINISHED) & np.isfinite(values))


def upwards(column: str) -> bool:
    """Whether the best is the smallest: accuracies are not, losses and times are."""
    return "accuracy" not in column


def written(value: object) -> str:
    """A value of a param as it is typed, with all its digits and no more. A text that would be read as a number, a bool
    or null stands in quotes."""
    if value is None or value is pd.NA or value != value:
        return "None"
    if isinstance(value, float):
        return repr(float(value)).removesuffix(".0")
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return value
    return as_text(_as_plain(value))


def _as_plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def typed_column(values: Sequence[Any], index: pd.Index[Any], name: str) -> pd.Series[Any]:
    """Values of a param as a column of the narrowest type that holds them as they are: bools, whole numbers and numbers
    as such, anything else as objects, lists among them as tuples. None is missing."""
    present = [value for value in values if value is not None]
    missing = len(present) < len(values)
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return pd.Series(list(values), index, "boolean" if missing else "bool", name)
    if kinds == {int} and all(abs(value) <= LARGEST_WHOLE for value in present):
        return pd.Series(list(values), index, "Int64" if missing else "int64", name)
    if (
        kinds
        and kinds <= {int, float}
        and all(abs(value) <= LARGEST_EXACT_FLOAT for value in present if type(value) is int)
    ):
        return pd.Series(list(values), index, "float64", name)
    return pd.Series([_hashable(value) for value in values], index, "object", name)


def _hashable(value: Any) -> Any:
    """Lists as tuples, and dicts as their text, so that a table can be grouped by them."""
    if isinstance(value, dict):
        return as_text(value)
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def kind(value: object) -> str:
    """What a value may be compared with: "bool", "number", "text", "list" or, of a missing one, ""."""
    value = _as_plain(value)
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "" if value != value else "number"
    return "list" if isinstance(value, list | tuple) else "text"


def is_number(column: pd.Series[Any]) -> bool:
    """Whether a column holds numbers; to pandas, bools are such."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def identity(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column to group by: equal where both the value and its type are. To Python, `True`, 1 and 1.0 are equal."""
    if column.dtype != "object":
        return column
    return column.map(lambda value: None if kind(value) == "" else f"{kind(value)} {as_text(value)}")


def order(column: pd.Series[Any], natural: bool = False) -> pd.Series[Any]:
    """A column to sort by, for `sort_values(key=order)`: bools, then numbers, texts and lists, each in their order.

    Args:
        natural: net8 comes before net64.
    """
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return column
    keys = [_order_key(value, natural) for value in column]
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    ranks = [places[key] if kind(value) else np.nan for key, value in zip(keys, column, strict=True)]
    return pd.Series(ranks, column.index, "float64", column.name)


def _order_key(value: Any, natural: bool) -> tuple[int, float, tuple[Any, ...]]:
    match kind(value):
        case "bool" | "number" as found:
            return ("bool", "number").index(found), float(value), ()
        case "list":
            return 3, 0.0, tuple(_order_key(part, natural) for part in value)
    parts = re.split(r"([0-9]+)", str(value)) if natural else [str(value)]
    return 2, 0.0, tuple(int(part) if place % 2 else part for place, part in enumerate(parts))
