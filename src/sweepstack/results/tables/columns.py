"""Finds columns by the names that people use: `lr`, `optimizer.lr`, `params.lr`, `metrics.val/accuracy`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from sweepstack.errors import UserError, did_you_mean
from sweepstack.tracking.params import ALIASES, as_text

Kind = Literal["column", "param", "metric"]
SECTIONS: dict[str, Kind] = {"params": "param", "metrics": "metric"}
"""Prefixes of names, each with the kind of column that it means."""
MAX_INT64 = 2**63 - 1
"""The largest whole number that fits into 64 bits."""
MAX_EXACT_FLOAT = 2**53
"""The largest whole number up to which all whole numbers are exact as floats."""


def find_column(frame: pd.DataFrame, word: str, kind: Kind = "column") -> str:
    """Returns the name of the column that the user means.

    Args:
        frame: the table, see `table`.
        word: the column's name; the header under which it is printed (`mean val/accuracy`); a name after `params.` or
            `metrics.`; a key of the config as the command line has it
            (`optimizer.lr` for `lr`); or the end of a param's name that no other param has (`units` for `model.units`).
        kind: the kind that the column must have.

    Raises:
        UserError: there is no such column.
    """
    known = {"column": list(frame.columns), **{kind: frame.attrs.get(name, []) for name, kind in SECTIONS.items()}}
    if word in known[kind]:
        return word
    if kind == "column" and word in (headers := frame.attrs.get("headers", {})) and headers[word] in frame:
        return str(headers[word])
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


def written(value: object) -> str:
    """Returns a value of a param as it is typed, with all its digits.

    A text that would be read as a number, a bool or null is put in quotes.
    """
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
    """Makes a column of the values of a param, of the narrowest type that holds them without change.

    The types are bools, whole numbers, floats, and objects for anything else; lists become tuples. None is missing.

    Args:
        name: the name of the column.
    """
    present = [value for value in values if value is not None]
    missing = len(present) < len(values)
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return pd.Series(list(values), index, "boolean" if missing else "bool", name)
    if kinds == {int} and all(abs(value) <= MAX_INT64 for value in present):
        return pd.Series(list(values), index, "Int64" if missing else "int64", name)
    if (
        kinds
        and kinds <= {int, float}
        and all(abs(value) <= MAX_EXACT_FLOAT for value in present if type(value) is int)
    ):
        return pd.Series(list(values), index, "float64", name)
    return pd.Series([_hashable(value) for value in values], index, "object", name)


def _hashable(value: Any) -> Any:
    """Converts lists to tuples and dicts to text, so that a table can be grouped by them."""
    if isinstance(value, dict):
        return as_text(value)
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def kind(value: object) -> str:
    """Returns the kind of a value: "bool", "number", "text" or "list"; "" if it is missing. Equal kinds compare."""
    value = _as_plain(value)
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "" if value != value else "number"
    return "list" if isinstance(value, list | tuple) else "text"


def is_number(column: pd.Series[Any]) -> bool:
    """True if a column holds numbers. pandas also takes bools for numbers; this does not."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def identity(column: pd.Series[Any]) -> pd.Series[Any]:
    """Returns a column to group by, where only values of equal types are equal. In Python, `True`, 1 and 1.0 are."""
    if column.dtype != "object":
        return column
    return column.map(lambda value: None if kind(value) == "" else f"{kind(value)} {as_text(value)}")


def order(column: pd.Series[Any], natural: bool = False) -> pd.Series[Any]:
    """Returns a column to sort by, for `sort_values(key=order)`: bools, then numbers, texts and lists.

    Args:
        natural: sort numbers inside texts by their size, so that net8 comes before net64.
    """
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return column
    keys = [_order_key(value, natural) for value in column]
    rank_of = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    ranks = [rank_of[key] if kind(value) else np.nan for key, value in zip(keys, column, strict=True)]
    return pd.Series(ranks, column.index, "float64", column.name)


def _order_key(value: Any, natural: bool) -> tuple[int, float, tuple[Any, ...]]:
    match kind(value):
        case "bool" | "number" as found:
            return ("bool", "number").index(found), float(value), ()
        case "list":
            return 3, 0.0, tuple(_order_key(part, natural) for part in value)
    parts = re.split(r"([0-9]+)", str(value)) if natural else [str(value)]
    return 2, 0.0, tuple(int(part) if index % 2 else part for index, part in enumerate(parts))
