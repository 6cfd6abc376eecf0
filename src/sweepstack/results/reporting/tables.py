"""Makes the tables of a report: settings, trials, and unfinished trials. Cells are text that the template escapes."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sweepstack.metrics import rounded
from sweepstack.results.reporting.params import value_text
from sweepstack.results.reporting.plots.charts import measured
from sweepstack.results.reporting.plots.pareto import time_metric
from sweepstack.results.reporting.plots.style import listed, objective_words, words
from sweepstack.results.reporting.searches.savings import Savings, written_ratio
from sweepstack.results.selection.comparison import BEST, NOT_MEASURED, NOT_TESTED, NOT_TOLD_APART, WORSE
from sweepstack.results.selection.select import Selection, one_row_per_seed, param_values
from sweepstack.results.tables.columns import is_number
from sweepstack.results.tables.objective import note_columns, own_metrics
from sweepstack.trial import REPLICATES, TrialState

MAX_ROWS = 1000
"""The most rows of a table on the page."""
MOST_WITH_REASONS = 3
"""The most settings that always have a column with how their marks were found; more have it only if that differs."""
LEAST_FOLDED = 6
"""The least settings, known not to be the best, that are folded away."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    number: bool
    """True if its cells are numbers."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: str | None
    """A number to sort by, with all its digits; empty if there is none; None to sort by the text."""
    kind: str = ""
    """Its class in the style sheet."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    cells: list[Cell]
    trials: str
    """Its rows in the table of trials, separated by blanks."""
    kind: str = ""
    """Its class in the style sheet."""


@dataclass(frozen=True)
class ReportTable:
    """A table of the report."""

    title: str
    columns: list[Column]
    rows: list[TableRow]
    note: str = ""
    folded: Sequence[TableRow] = ()
    """Further rows, which a reader unfolds."""
    folded_title: str = ""


def row_numbers(frame: pd.DataFrame) -> dict[str, int]:
    """Returns the row of each run in the table, by the run's id."""
    return dict(zip(frame["run_id"], frame.index.tolist(), strict=True))


def settings_table(frame: pd.DataFrame, selection: Selection, varied: Sequence[str]) -> ReportTable:
    """Makes the table of settings: first those that may be the best, then those that could not be tested, then all that
    are known not to be the best. Many of the last kind are folded away.

    Args:
        frame: the table of trials.
        selection: what was selected in it.
        varied: the params that vary.
    """
    groups, objective = selection.groups, selection.objective
    row_of = row_numbers(frame)
    metrics = (selection.test_metric, time_metric(frame))
    shown = [name for name in metrics if name is not None and name in frame and name != objective]
    order = groups["mark"].map({BEST: 0, NOT_TOLD_APART: 0, NOT_TESTED: 1}).fillna(2).sort_values(kind="stable")
    possible = int((order < 2).sum())
    groups = groups.loc[order.index].head(MAX_ROWS)
    others = [name for name in shown if name not in groups]
    single = measured(one_row_per_seed(frame, objective), objective).set_index("run_id")[others]
    means = [single[single.index.isin(run_ids)].mean() for run_ids in groups["run_ids"]]
    groups = groups.assign(**{name: [mean[name] for mean in means] for name in others})
    spread = bool((groups["n"] > 1).any())
    statistics = ["mean", *(["sd", "low", "high"] if spread else [])]
    statistics += ["behind"] if groups["behind"].notna().any() else []
    titles = {
        **_titles(shown, objective),
        "mean": f"mean {objective_words(objective)}" if spread else objective_words(objective),
        "sd": "standard deviation",
        "low": "95 % from",
        "high": "to",
        "behind": "behind by at least",
        "n": "trials",
        "failed": "without a value",
    }
    folds = ["folds_done"] if "folds_done" in groups else []
    failed = ["failed"] if groups["failed"].any() else []
    numeric = ["trials" if folds else "n", *failed, *statistics, *shown]
    columns = [Column(words(param), is_number(frame[param])) for param in varied]
    columns += [Column("folds", number=False) for _ in folds]
    columns += [Column(titles.get(name, words(name)), number=True) for name in numeric]
    reasons = set(selection.groups["why"].iloc[1:])
    alike = len(reasons) == 1 and len(selection.groups) > MOST_WITH_REASONS
    rows = []
    for _, group in groups.iterrows():
        cells = [*map(_param_cell, param_values(group, varied)), *(Cell(group[name], None) for name in folds)]
        cells += [_metric_cell(name, group[name]) for name in numeric]
        cells += [Cell(group["mark"] or "worse", None), *([] if alike else [Cell(group["why"], None, "text")])]
        kind = {BEST: "best", NOT_TOLD_APART: "tied"}.get(group["mark"], "")
        rows.append(TableRow(cells, " ".join(str(row_of[run_id]) for run_id in group["run_ids"]), kind))
    title = f"Settings of {listed([words(param) for param in varied])}, the best first" if varied else "The setting"
    columns += [Column("mark", False), *([] if alike else [Column("how that was found", False)])]
    note = f"How the marks were found: {reasons.pop()}. " if alike else ""
    note = f"{note}{_rows_left_out(len(selection.groups))}".strip()
    if len(rows) - possible < LEAST_FOLDED:
        return ReportTable(title, columns, rows, note)
    untested = " or could not be tested" if (selection.groups["mark"] == NOT_TESTED).any() else ""
    return ReportTable(
        f"{title}: {possible:,} of {len(selection.groups):,}, those that may be the best{untested}",
        columns,
        rows[:possible],
        note,
        rows[possible:],
        f"The other {len(selection.groups) - possible:,} settings: {_counted(selection.groups['mark'])}",
    )


def _counted(marks: pd.Series[Any]) -> str:
    """Says how many settings are known not to be the best, by their marks."""
    counts = {"worse": int((marks == WORSE).sum()), "not measured": int((marks == NOT_MEASURED).sum())}
    return " and ".join(f"{count:,} {word}" for word, count in counts.items() if count)


def trials_table(frame: pd.DataFrame, varied: Sequence[str], objective: str | None, best: int | None) -> ReportTable:
    """Makes the table of all trials, in the order of `frame`.

    Args:
        frame: the table of trials.
        varied: the params that vary.
        objective: the metric that selects.
        best: the row of the trial to use.
    """
    replicates = [name for name in REPLICATES if name in frame.columns[: frame.attrs["vary"]]]
    shown = [f"{part}/{name}" for part in ("val", "test") for name in own_metrics(frame)]
    own = [objective] if objective is not None and objective not in shown else []
    metrics = [name for name in dict.fromkeys([*own, *shown, time_metric(frame)]) if name in frame]
    names = [*varied, *replicates, *metrics]
    titles = _titles(metrics, objective)
    columns = [Column(titles.get(name, words(name)), is_number(frame[name])) for name in names]
    note = note_columns(frame)
    rows = []
    for index, trial in frame.head(MAX_ROWS).iterrows():
        cells = [_metric_cell(name, trial[name]) if name in metrics else _param_cell(trial[name]) for name in names]
        cells += [Cell(str(trial[name]), None) for name in ("state", *note, "name")]
        rows.append(TableRow(cells, str(index), "best" if index == best else ""))
    count = f"All {len(frame):,} trials" if len(frame) > 1 else "The trial"
    marked = ", the trial to use is marked" if best is not None and len(frame) > 1 else ""
    return ReportTable(
        f"{count}{marked}",
        [*columns, *(Column(title, False) for title in ("state", *note, "run"))],
        rows,
        _rows_left_out(len(frame)),
    )


def unfinished_table(frame: pd.DataFrame) -> ReportTable | None:
    """Makes the table of the trials that neither finished nor were pruned, with the reasons; None if there are none."""
    unfinished = frame[~frame["state"].isin([TrialState.FINISHED, TrialState.PRUNED])]
    if unfinished.empty:
        return None
    rows = [
        TableRow([Cell(str(trial[name]), None, "text") for name in ("name", "state", "reason", "log")], str(index))
        for index, trial in unfinished.head(MAX_ROWS).iterrows()
    ]
    titles = ("run", "state", "reason", "log")
    return ReportTable(
        "Trials that did not finish", [Column(title, False) for title in titles], rows, _rows_left_out(len(unfinished))
    )


def pruned_table(frame: pd.DataFrame, objective: str | None) -> ReportTable | None:
    """Makes the table of the trials that were pruned: a row for each epoch and pruner; None if there are none.

    Args:
        frame: the table of trials.
        objective: the metric that selects.
    """
    pruned = frame[frame["state"] == TrialState.PRUNED]
    if pruned.empty:
        return None
    when = pruned["reason"].str.partition(":")[0]
    groups = sorted(pruned.groupby(when), key=lambda one: [int(part) for part in re.findall(r"\d+", str(one[0]))])
    metric = [] if objective is None or objective not in frame else [objective]
    rows = []
    for why, some in groups:
        values = [some[name].astype(float) for name in metric]
        cells = [Cell(str(why), None, "text"), _metric_cell("trials", len(some))]
        cells += [
            _metric_cell(name, value)
            for name, one in zip(metric, values, strict=True)
            for value in (one.min(), one.max())
        ]
        rows.append(TableRow(cells, " ".join(map(str, some.index))))
    titles = [f"{edge} {objective_words(name)}" for name in metric for edge in ("lowest", "highest")]
    columns = [Column("when and by what", False), Column("trials", True), *(Column(title, True) for title in titles)]
    return ReportTable("Trials that were pruned, and are not compared", columns, rows, "")


def savings_table(found: Savings) -> ReportTable:
    """Makes the table of what a sweep has saved: a row for each factor."""
    rows = [
        TableRow(
            [
                Cell(f"by {one.name}", None),
                Cell("not known" if math.isnan(one.ratio) else f"{written_ratio(one.ratio)} ×", None, "number"),
                Cell(one.how, None, "text"),
            ],
            "",
        )
        for one in found.factors
    ]
    titles = ("saved", "factor", "how it is measured")
    columns = [Column(title, number=title == "factor") for title in titles]
    return ReportTable("What a plain loop would have taken, by what was taken", columns, rows, found.note)


def _titles(metrics: Sequence[str], objective: str | None) -> dict[str, str]:
    """Returns metrics in words. If test data select, no metric on them is a test result."""
    selected = objective is not None and objective.startswith("test/")
    return {name: objective_words(name) if selected or name == objective else words(name) for name in metrics}


def _param_cell(value: Any) -> Cell:
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value):
        return Cell(value_text(value), repr(float(value)), "number")
    return Cell(value_text(value), None)


def _metric_cell(name: str, value: Any) -> Cell:
    """Formats a metric or a count; seconds with two digits after the point, or two that count."""
    number = float(value)
    if math.isnan(number):
        return Cell("–", "", "number")
    if name in ("n", "trials", "failed"):
        return Cell(f"{number:g}", repr(number), "number")
    if "seconds" in name and abs(number) < 1e6:
        short = f"{number:.2f}" if abs(number) >= 0.1 else f"{number:.2g}"
    else:
        short = rounded(number)
    return Cell(short, repr(number), "number")


def _rows_left_out(count: int) -> str:
    return f"The first {MAX_ROWS:,} of {count:,}; sweepstack table --format csv gives all." if count > MAX_ROWS else ""
