"""The tables of a report: settings, trials, and what did not finish. Cells are plain text; the template escapes it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sweepstack.results.reporting.params import SEED, value_text
from sweepstack.results.reporting.plots.charts import measured
from sweepstack.results.reporting.plots.pareto import time_metric
from sweepstack.results.reporting.plots.style import listed, words
from sweepstack.results.selection.comparison import BEST, NOT_TOLD_APART
from sweepstack.results.selection.select import Selection, of_knobs, one_of_each
from sweepstack.results.tables.columns import is_number

MAX_ROWS = 1000
"""Rows that a page shows."""
MAIN = ("val/accuracy", "test/accuracy", "train_seconds")


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
class TableRow:
    cells: list[Cell]
    trials: str
    """Places in the table of trials, with blanks between them."""
    kind: str = ""


@dataclass(frozen=True)
class Grid:
    title: str
    columns: list[Column]
    rows: list[TableRow]
    note: str = ""


def places_of(frame: pd.DataFrame) -> dict[str, int]:
    """Where each run is in the table."""
    return dict(zip(frame["run_id"], frame.index.tolist(), strict=True))


def settings_grid(frame: pd.DataFrame, selection: Selection, knobs: Sequence[str]) -> Grid:
    """The settings, the best first."""
    groups, objective = selection.groups, selection.objective
    places = places_of(frame)
    shown = [name for name in ("test/accuracy", time_metric(frame)) if name in frame and name != objective]
    groups = groups.head(MAX_ROWS)
    others = [name for name in shown if name not in groups]
    single = measured(one_of_each(frame, objective), objective).set_index("run_id")[others]
    means = [single[single.index.isin(run_ids)].mean() for run_ids in groups["run_ids"]]
    groups = groups.assign(**{name: [mean[name] for mean in means] for name in others})
    spread = bool((groups["n"] > 1).any())
    figures = ["mean", *(["sd", "low", "high"] if spread else [])]
    titles = {
        "mean": f"mean {words(objective)}" if spread else words(objective),
        "sd": "standard deviation",
        "low": "95 % from",
        "high": "to",
        "n": "trials",
        "failed": "without a figure",
    }
    failed = ["failed"] if groups["failed"].any() else []
    figured = ["n", *failed, *figures, *shown]
    columns = [Column(words(knob), is_number(frame[knob])) for knob in knobs]
    columns += [Column(titles.get(name, words(name)), number=True) for name in figured]
    rows = []
    for _, group in groups.iterrows():
        cells = [*map(_param_cell, of_knobs(group, knobs)), *(_figure(name, group[name]) for name in figured)]
        cells += [Cell(group["mark"] or "worse", None), Cell(group["why"], None, "text")]
        kind = {BEST: "best", NOT_TOLD_APART: "tied"}.get(group["mark"], "")
        rows.append(TableRow(cells, " ".join(str(places[run_id]) for run_id in group["run_ids"]), kind))
    title = f"Settings of {listed([words(knob) for knob in knobs])}, the best first" if knobs else "The setting"
    return Grid(
        title,
        [*columns, Column("mark", False), Column("how that was found", False)],
        rows,
        _rows_left_out(len(selection.groups)),
    )


def trials_grid(frame: pd.DataFrame, knobs: Sequence[str], objective: str | None, best: int | None) -> Grid:
    """All trials, in the order of the table."""
    seed = [SEED] if SEED in frame.columns[: frame.attrs["vary"]] else []
    own = [objective] if objective is not None and objective not in MAIN else []
    metrics = [*own, *(time_metric(frame) if name == "train_seconds" else name for name in MAIN if name in frame)]
    names = [*knobs, *seed, *metrics]
    columns = [Column(words(name), is_number(frame[name])) for name in names]
    rows = []
    for place, trial in frame.head(MAX_ROWS).iterrows():
        cells = [_figure(name, trial[name]) if name in metrics else _param_cell(trial[name]) for name in names]
        cells += [Cell(str(trial["state"]), None), Cell(str(trial["name"]), None)]
        rows.append(TableRow(cells, str(place), "best" if place == best else ""))
    count = f"All {len(frame):,} trials" if len(frame) > 1 else "The trial"
    marked = ", the trial to use is marked" if best is not None and len(frame) > 1 else ""
    return Grid(
        f"{count}{marked}", [*columns, Column("state", False), Column("run", False)], rows, _rows_left_out(len(frame))
    )


def unfinished_grid(frame: pd.DataFrame) -> Grid | None:
    """What did not finish, and why."""
    left = frame[frame["state"] != "FINISHED"]
    if left.empty:
        return None
    rows = [
        TableRow([Cell(str(trial[name]), None, "text") for name in ("name", "state", "reason", "log")], str(place))
        for place, trial in left.head(MAX_ROWS).iterrows()
    ]
    titles = ("run", "state", "reason", "log")
    return Grid(
        "Trials that did not finish", [Column(title, False) for title in titles], rows, _rows_left_out(len(left))
    )


def _param_cell(value: Any) -> Cell:
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value):
        return Cell(value_text(value), repr(float(value)), "number")
    return Cell(value_text(value), None)


def _figure(name: str, value: Any) -> Cell:
    """A metric or a count: accuracies and losses with four digits, seconds with two."""
    number = float(value)
    if math.isnan(number):
        return Cell("–", "", "number")
    form = ".2f" if "seconds" in name else "g" if name in ("n", "failed") else ".4f"
    return Cell(format(number, form if abs(number) < 1e6 else "g"), repr(number), "number")


def _rows_left_out(count: int) -> str:
    return f"The first {MAX_ROWS:,} of {count:,}; sweepstack table --format csv gives all." if count > MAX_ROWS else ""
