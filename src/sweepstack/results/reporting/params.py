"""The params that a sweep varies, their values as text, and as axes of a plot."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.config.names import GROUPS
from sweepstack.errors import printable
from sweepstack.results.reporting.plots.style import shortened
from sweepstack.results.tables.columns import identity, is_number, order, written
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.trial import REPLICATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LISTED_VALUES = 12
"""The most values of a param that are shown one by one; more are shown as a range."""
NOT_SET = "not set"
"""The text for a missing value."""


def varied_params(frame: pd.DataFrame) -> list[str]:
    """Returns the params that a sweep varies on purpose.

    Seed and fold are not among them, and neither are params that follow from the choice of a group: if optimizers are
    swept, Adam's betas follow from the optimizer. Groups come first, then learning rate, batch size and epochs.
    """
    vary = [str(name) for name in frame.columns[: frame.attrs["vary"]] if name not in REPLICATES]
    texts = {name: frame[name].map(value_text) for name in vary}
    dependent = {
        name
        for name in vary
        for group in vary
        if group in GROUPS and name not in GROUPS and bool((texts[name].groupby(texts[group]).nunique() <= 1).all())
    }
    order = [*GROUPS, "lr", "batch_size", "epochs"]
    independent = [name for name in vary if name not in dependent]
    return sorted(independent, key=lambda name: order.index(name) if name in order else len(order))


def setting(row: pd.Series[Any], names: Sequence[str]) -> str:
    """Returns a trial's setting as it is typed: lr=0.1 batch_size=50; empty if only seed and fold were varied."""
    return " ".join(f"{name}={shortened(value_text(row[name]))}" for name in names)


def value_text(value: Any) -> str:
    """Returns a param as it was typed, with visible control characters; numbers are as short as possible."""
    if value is None or value is pd.NA or value != value:
        return NOT_SET
    return format(value, "g") if isinstance(value, float | np.floating) else printable(written(value))


@dataclass(frozen=True)
class DrawnRange:
    """The numbers that a search draws a param from."""

    low: float
    high: float
    log: bool
    """True if the logarithm is what is spread evenly."""

    def end_near(self, value: float, part: float) -> str | None:
        """Returns the end that a value is near, in words; None if it is near none.

        Args:
            value: the value.
            part: how near, as a part of the range.
        """
        low, high, at = self.low, self.high, value
        if self.log and min(low, at) > 0:
            low, high, at = math.log(low), math.log(high), math.log(at)
        if not low < high or not math.isfinite(at):
            return None
        share = (at - low) / (high - low)
        return "lower" if share < part else "upper" if share > 1 - part else None


NO_RANGES: Mapping[str, DrawnRange] = {}
"""What is known of the ranges of params in a grid."""


def drawn_ranges(rows: Sequence[Row], frame: pd.DataFrame) -> dict[str, DrawnRange]:
    """Returns the ranges that a search draws from, by the columns of its table; of a widened space the widest.

    Args:
        rows: the trials of the search.
        frame: their table.
    """
    found: dict[str, DrawnRange] = {}
    for text in dict.fromkeys(row.space for row in rows):
        with contextlib.suppress(ValueError, TypeError, AttributeError):  # it is not recorded, or a user has changed it
            for key, (low, high, log) in json.loads(text).items():
                names = [re.sub(r"[^\w\-. /]", "_", one) for one in (key, key.removeprefix("optimizer."))]
                columns = [column for name in names for column in (name, f"params.{name}")]  # as params are recorded
                column = next((one for one in columns if one in frame.attrs["params"]), None)
                if column is None or not is_number(frame[column]):
                    continue
                own = DrawnRange(float(low), float(high), bool(log))
                known = found.get(column, own)
                found[column] = DrawnRange(min(own.low, known.low), max(own.high, known.high), own.log)
    return found


@dataclass(frozen=True)
class Scale:
    """One param as an axis."""

    kind: str
    """log, linear, or category: positions 0, 1, ... for the values in their order."""
    at: np.ndarray[Any, Any]
    """The position of each trial, float64 [trials]; NaN for a trial without a number."""
    ticks: list[float]
    """The positions of the values; empty if there are too many."""
    labels: list[str]
    """The text of each tick."""
    limits: tuple[float, float] | None = None
    """The range that a search draws from, with all trials; None if that is not known."""

    def set_up(self, axes: Axes, which: str) -> None:
        """Sets up the x or y axis of a plot.

        Args:
            which: "x" or "y".
        """
        from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

        axis = axes.xaxis if which == "x" else axes.yaxis
        set_scale = axes.set_xscale if which == "x" else axes.set_yscale
        if self.kind == "log":
            set_scale("log")
            finite = self.at[np.isfinite(self.at)] if self.limits is None else np.array(self.limits)
            decades = np.log10(finite.max() / finite.min())
            axis.set_major_locator(
                LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)) if decades > 1 else MaxNLocator(4)
            )
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda value, _: format(value, "g"))
        if self.ticks:
            axis.set_ticks(self.ticks, [shortened(label, 16) for label in self.labels])
        set_limits = axes.set_xlim if which == "x" else axes.set_ylim
        if self.kind == "category":
            margin = 0.5
            set_limits(-margin, len(self.ticks) - 1 + margin)
        elif self.limits is not None:
            low, high = np.log(self.limits) if self.kind == "log" else self.limits
            ends = low - 0.03 * (high - low), high + 0.03 * (high - low)
            set_limits(*np.exp(ends) if self.kind == "log" else ends)

    @property
    def fractions(self) -> np.ndarray[Any, Any]:
        """The positions as fractions of the axis, 0 to 1."""
        return as_fractions(np.log10(self.at) if self.kind == "log" else self.at)


def scale(name: str, column: pd.Series[Any], drawn: DrawnRange | None = None) -> Scale:
    """Makes the axis for a param.

    It is that of the range which a search draws from. Else it is logarithmic for learning rate, weight decay, and
    values over two decades. Values that are not numbers have one position each.

    Args:
        name: the name of the param.
        column: its values.
        drawn: the range that a search draws it from; None if that is not known.
    """
    if drawn is not None:
        at = column.to_numpy(dtype=float, na_value=np.nan)
        finite = [float(value) for value in at[np.isfinite(at)]]
        limits = min([drawn.low, *finite]), max([drawn.high, *finite])
        if limits[0] < limits[1] and (limits[0] > 0 or not drawn.log):
            kind, tried = "log" if drawn.log else "linear", sorted({*finite})
            listed = len(tried) <= MAX_LISTED_VALUES - 4 and all(value.is_integer() for value in tried)
            ticks = tried if listed else []
            return Scale(kind, at, ticks, [format(tick, "g") for tick in ticks], limits)
    numbers = is_number(column)
    distinct = identity(column).nunique(dropna=False)
    wide = numbers and (name.split(".")[-1] in ("lr", "weight_decay") or _decades(column) >= 2)
    if numbers and not (distinct <= MAX_LISTED_VALUES and (column.isna().any() or (wide and column.min() <= 0))):
        at = column.to_numpy(dtype=float, na_value=np.nan)
        tried = sorted({float(value) for value in at[np.isfinite(at)]})
        ticks = tried if len(tried) <= MAX_LISTED_VALUES - 4 else []
        return Scale("log" if wide and min(tried) > 0 else "linear", at, ticks, [format(tick, "g") for tick in ticks])
    labels = _ordered(column)
    position = {label: number for number, label in enumerate(labels)}
    at = np.array([position[value_text(value)] for value in column], dtype=float)
    return Scale("category", at, [float(number) for number in range(len(labels))], labels)


def as_fractions(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Converts numbers to fractions of their range, 0 to 1; to one half if they are all equal."""
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() == finite.max():
        return np.where(np.isfinite(values), 0.5, np.nan)
    return np.asarray((values - finite.min()) / (finite.max() - finite.min()))


def _ordered(column: pd.Series[Any]) -> list[str]:
    values = column.sort_values(key=lambda part: order(part, natural=True), kind="stable", na_position="last")
    return list(dict.fromkeys(map(value_text, values)))


def _decades(column: pd.Series[Any]) -> float:
    sizes = column[column > 0]
    return float(np.log10(sizes.max() / sizes.min())) if len(sizes) else 0.0
