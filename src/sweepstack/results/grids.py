"""The tables of a report: settings, trials, and what did not finish. Cells are plain text; the template escapes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sweepstack.results.drawing import listed, words
from sweepstack.results.knobs import SEED, value_text
from sweepstack.results.selection import BEST, NOT_TOLD_APART, Selection

MOST = 1000
"""Rows that a page shows."""
MAIN = ("val/accuracy", "val/accuracy_best", "val/loss", "test/accuracy", "train_seconds", "train_seconds_share")


@dataclass(frozen=True)
class Column:
    title: str
    number: bool


@dataclass(frozen=True)
class Cell:
    text: str
    value: str | None
    """A number to sort by, with all its digits; empty where there is none; None to sort by the text."""
    kind: str = ""


@dataclass(frozen=True)
class Row:
    cells: list[Cell]
    trials: str
    """Places in the table of trials, with blanks between them."""
    kind: str = ""


@dataclass(frozen=True)
class Grid:
    title: str
    columns: list[Column]
    rows: list[Row]
    note: str = ""


def settings_grid(selection: Selection, places: Mapping[str, int], knobs: Sequence[str]) -> Grid:
    """The settings, the best first."""
    groups, objective = selection.groups, selection.objective
    spread = bool((groups["n"] > 1).any())
    figures = ["mean", *(["sd", "low", "high"] if spread else [])]
    titles = {
        "mean": f"mean {words(objective)}" if spread else words(objective),
        "sd": "standard deviation",
        "low": "95 % from",
        "high": "to",
    }
    shown = [column for column in ("test/accuracy", "train_seconds") if column in groups and column != objective]
    failed = ["failed"] if groups["failed"].any() else []
    names = [*knobs, "n", *failed, *figures, *shown]
    columns = [Column(titles.get(name, words(name) if name != "n" else "trials"), _is_number(groups[name])) for name in names]
    rows = []
    for _, group in groups.head(MOST).iterrows():
        cells = [_cell(name, group[name], objective) for name in names]
        cells += [Cell(group["mark"] or "worse", None), Cell(group["why"], None, "text")]
        kind = {BEST: "best", NOT_TOLD_APART: "tied"}.get(group["mark"], "")
        rows.append(Row(cells, " ".join(str(places[run_id]) for run_id in group["run_ids"]), kind))
    title = f"Settings of {listed([words(knob) for knob in knobs])}, the best first" if knobs else "The setting"
    return Grid(title, [*columns, Column("mark", False), Column("how that was found", False)], rows, _cut(len(groups)))


def trials_grid(frame: pd.DataFrame, knobs: Sequence[str], objective: str | None, best: int | None) -> Grid:
    """All trials, in the order of the table."""
    seed = [SEED] if SEED in frame.columns[: frame.attrs["vary"]] else []
    own = [objective] if objective is not None and objective not in MAIN else []
    metrics = [*own, *(column for column in MAIN if column in frame)]
    names = [*knobs, *seed, *metrics]
    columns = [Column(words(name), _is_number(frame[name])) for name in names]
    rows = []
    for place, trial in frame.head(MOST).iterrows():
        cells = [_cell(name, trial[name], objective) for name in names]
        cells += [Cell(str(trial["state"]), None), Cell(str(trial["name"]), None)]
        rows.append(Row(cells, str(place), "best" if place == best else ""))
    count = f"All {len(frame):,} trials" if len(frame) > 1 else "The trial"
    marked = ", the trial to use is marked" if best is not None and len(frame) > 1 else ""
    return Grid(f"{count}{marked}", [*columns, Column("state", False), Column("run", False)], rows, _cut(len(frame)))


def unfinished_grid(frame: pd.DataFrame) -> Grid | None:
    """What did not finish, and why."""
    left = frame[frame["state"] != "FINISHED"]
    if left.empty:
        return None
    rows = [
        Row([Cell(str(trial[name]), None, "text") for name in ("name", "state", "reason", "log")], str(place))
        for place, trial in left.head(MOST).iterrows()
    ]
    titles = ("run", "state", "reason", "log")
    return Grid("Trials that did not finish", [Column(title, False) for title in titles], rows, _cut(len(left)))


def _cell(name: str, value: Any, objective: str | None) -> Cell:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return Cell(value_text(value), None)
    number = float(value)
    if math.isnan(number):
        return Cell("–", "", "number")
    figure = "/" in name or name in (objective, "mean", "sd", "low", "high")
    form = ".4f" if figure else ".2f" if "seconds" in name else "g"
    text = value_text(value) if form == "g" else format(number, form if abs(number) < 1e6 else "g")
    return Cell(text, repr(number), "number")


def _is_number(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _cut(count: int) -> str:
    return f"The first {MOST:,} of {count:,}; sweepstack table --format csv gives all." if count > MOST else ""
