"""Columns by the names that people give them: `lr`, `optimizer.lr`, `params.lr`, `metrics.val/accuracy`."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from sweepstack.errors import UserError, did_you_mean
from sweepstack.tracking.rows import OBJECTIVES

Kind = Literal["column", "param", "metric"]
SECTIONS: dict[str, Kind] = {"params": "param", "metrics": "metric"}
ALIASES = {"bs": "batch_size"}
"""As the names of runs write them."""


def find(frame: pd.DataFrame, word: str, kind: Kind = "column") -> str:
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
        return find(frame, rest, SECTIONS[section])
    params = known["param"] if kind != "metric" else []
    ends = [name for name in params if name.endswith(f".{word}")]
    for name in (word.removeprefix("optimizer."), ALIASES.get(word), ends[0] if len(ends) == 1 else None):
        if name in params:
            return str(name)
    raise UserError(f"there is no {kind} {word!r} in this table; {did_you_mean(word, known[kind])}")


def objective(frame: pd.DataFrame, metric: str | None = None) -> str | None:
    """The metric to compare trials by: the one that is named, else the held-out accuracy, else the test accuracy where
    nothing was held out; None where no trial has any of them.

    Raises:
        UserError: there is no such metric.
    """
    if metric is not None:
        return find(frame, metric, "metric")
    return next((name for name in OBJECTIVES if name in frame.attrs["metrics"]), None)


def upwards(column: str) -> bool:
    """Whether the best is the smallest: accuracies are not, losses and times are."""
    return "accuracy" not in column


def written(value: object) -> str:
    """A value of a param with all its digits, and no more."""
    if value is None or value is pd.NA or value != value:
        return "None"
    return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(value)
