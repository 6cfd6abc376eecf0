"""Collects what a report shows of a sweep: its selection, and its plots with their captions."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sweepstack.errors import UserError
from sweepstack.metrics import Metric
from sweepstack.results.reporting.importance import importance, importance_bars
from sweepstack.results.reporting.params import (
    MAX_LISTED_VALUES,
    DrawnRange,
    drawn_ranges,
    scale,
    setting,
    varied_params,
)
from sweepstack.results.reporting.plots import charts, heat_maps, pareto, tuning
from sweepstack.results.reporting.plots.search import Tried
from sweepstack.results.reporting.plots.style import objective_words
from sweepstack.results.reporting.searches.sections import (
    history_section,
    importance_section,
    rungs_section,
    settings_tried,
)
from sweepstack.results.reporting.tables import row_numbers
from sweepstack.results.selection.comparison import BEST, NOT_TOLD_APART
from sweepstack.results.selection.predictions import compare_with_targets
from sweepstack.results.selection.select import (
    Selection,
    accuracy_interval,
    one_row_per_seed,
    refuse_no_result,
    select,
)
from sweepstack.results.tuning.curves import curve_of_points
from sweepstack.results.tuning.searches import settings_in_order
from sweepstack.tracking.histories import histories
from sweepstack.tracking.origin import Origin, origin
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.tracking.store import Store
from sweepstack.trial import TrialState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OnProgress = Callable[[str], None]
"""Takes a text that says what is being done."""


@dataclass(frozen=True)
class ReportSection:
    """A plot with its caption; only the caption if there is nothing to draw."""

    name: str
    caption: str
    figure: Figure | None = None


@dataclass(frozen=True)
class About:
    """The sweep that a report is about, and what was selected in it."""

    store: Store
    frame: pd.DataFrame
    varied: list[str]
    objective: Metric | None
    """The metric that selects; None if no trial has one."""
    selection: Selection | None
    why_none: str
    """Why there is no selection, in words."""
    origin: Origin | None
    """What the trial to use was trained with."""
    rows: Mapping[str, Row] = field(default_factory=dict)
    """The trials of one sweep as the store has them, by the ids of their runs; empty if that is not of interest."""

    @functools.cached_property
    def sampler(self) -> str:
        """What chose settings, such as tpe; empty if that was no search, or several ones. Other trials may have been
        added by hand, or by `refine`."""
        samplers = {row.search for row in self.rows.values()} - {""}
        return samplers.pop() if len(samplers) == 1 else ""

    @functools.cached_property
    def ranges(self) -> dict[str, DrawnRange]:
        """The ranges that its search draws params from."""
        return drawn_ranges([*self.rows.values()], self.frame) if self.sampler else {}

    @functools.cached_property
    def pruned(self) -> pd.DataFrame:
        """The rows of the trials that were pruned."""
        return self.frame[self.frame["state"] == TrialState.PRUNED]

    @functools.cached_property
    def finished(self) -> pd.DataFrame:
        """One row for each setting, seed and fold, so that plots show the means that selected."""
        return one_row_per_seed(self.frame, self.objective) if self.objective else self.frame.iloc[:0]

    @functools.cached_property
    def best(self) -> frozenset[int]:
        """The rows of the table with the trials of the best setting."""
        return self._rows_marked(BEST)

    @functools.cached_property
    def tied(self) -> frozenset[int]:
        """The rows of the table with the trials of the other settings that may be the best."""
        return self._rows_marked(NOT_TOLD_APART)

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """The finite values of the objective while the trials trained: columns run_id, step, value."""
        points = histories(self.store, list(self.frame["run_id"]), self.objective) if self.objective else []
        known = pd.DataFrame(points, columns=["run_id", "step", "value"])
        finite: pd.DataFrame = known[np.isfinite(known["value"].to_numpy(dtype=float))]
        return finite

    @property
    def inputs(self) -> bytes:
        """All that `make_sections` depends on."""
        frame, rows = self.frame, sorted(self.rows.items())
        known = (frame, frame.attrs, self.varied, self.objective, self.selection, self.why_none, rows, self.history)
        return pickle.dumps(known, protocol=5)

    def _rows_marked(self, mark: str) -> frozenset[int]:
        if self.selection is None:
            return frozenset()
        groups = self.selection.groups
        ids = {run_id for run_ids in groups.loc[groups["mark"] == mark, "run_ids"] for run_id in run_ids}
        return frozenset(int(index) for index in self.frame.index[self.frame["run_id"].isin(ids)])


def about_sweep(store: Store, frame: pd.DataFrame, objective: Metric | None, rows: Sequence[Row] = ()) -> About:
    """Selects the best setting of a table, and collects what a report needs.

    Args:
        store: the store that the table was read from.
        frame: the table.
        objective: the metric that selects; None if no trial has one.
        rows: the trials of the table, if these are one sweep.

    Raises:
        UserError: the objective is not a result of training.
    """
    refuse_no_result(objective or "")
    selection, chosen, why = None, None, "no trial has been measured"
    if objective is not None:
        try:
            selection = select(frame, compare_with_targets(store), objective)
        except UserError as error:  # no trial has finished with a finite value
            why = str(error).split(";")[0]
    if selection is not None:
        chosen = origin(store, str(selection.trial["run_id"]))
        if selection.test is None:  # an earlier version kept no predictions
            selection = replace(selection, test=accuracy_interval(selection.trial, chosen.counts.get("test")))
    of_sweep = {row.run_id: row for row in rows}
    return About(store, frame, varied_params(frame), objective, selection, why, chosen, of_sweep)


def make_sections(about: About, on_progress: OnProgress) -> Iterator[ReportSection]:
    """Draws the plots of a sweep, the most important first."""
    if about.objective is None or about.selection is None:
        yield ReportSection("none", "No trial has finished with a value to draw.")
        yield from _rungs(about)
        return
    objective, names, best, tied = about.objective, about.varied, about.best, about.tied
    label = setting(about.selection.trial, names)
    tried = settings_tried(about.frame, about.rows, objective) if about.sampler else []
    if tried:
        on_progress("drawing how the search went")
        drawn = history_section(tried, about.frame, names, objective, about.sampler, best, tied)
        yield ReportSection("history", *drawn)
    finished = len(charts.measured(about.finished, objective))
    if not names or finished + len(charts.measured(about.pruned, objective)) < 2:
        yield ReportSection("hyperparameters", "No hyperparameter was varied, so there is nothing to compare.")
    else:
        on_progress("drawing what each hyperparameter does")
        yield _slices(about, objective)
        if finished > 1:
            yield from _combinations(about, objective)
        on_progress("computing how much each hyperparameter matters")
        yield _importance(about, tried)
        if len(about.selection.groups) > 1:
            yield _tuning_section(about)
    yield from _rungs(about)
    on_progress("reading the histories")
    history = about.history
    if len(history):
        caption = "Dots mark the ends. A curve that leaves the plot at its edge is far worse there."
        yield ReportSection(
            "curves", caption, charts.learning_curves(about.frame, history, objective, best, label, tied)
        )
    else:
        yield ReportSection("curves", f"There is no history of the {objective_words(objective)} to draw.")
    if objective not in pareto.TIMES:  # else both axes would be the time
        yield _time_section(about)


def _slices(about: About, objective: Metric) -> ReportSection:
    """Draws the objective against each hyperparameter."""
    frame, pruned = about.finished, about.pruned
    caption = "Axes are logarithmic where values span decades. Triangles at the edge are trials that lie outside."
    if len(frame) < int((about.frame["state"] == TrialState.FINISHED).sum()):
        caption += " A trial that was recorded several times is one mark, with the mean of its records."
    if about.ranges:
        caption = (
            "Each range that the search draws from is shown as a whole, by the logarithm where that is what it spreads "
            "evenly. Triangles at the edge are trials that lie outside."
        )
        axes = [scale(name, about.frame[name], about.ranges.get(name)) for name in about.varied]
        if any(np.isnan(axis.at).any() for axis in axes):
            caption += " A trial without a hyperparameter is not in its panel."
    panels = charts.by_param(frame, about.varied, objective, about.best, about.tied, about.ranges, pruned)
    return ReportSection("hyperparameters", caption, panels)


def _combinations(about: About, objective: Metric) -> Iterator[ReportSection]:
    """Draws which values go together: in pairs, if few were tried of each, and all of them."""
    frame, best, tied = about.finished, about.best, about.tied
    names = [name for name in about.varied if name not in about.ranges]
    if pairs := heat_maps.pairs(frame, names):
        caption = (
            "Each cell is the mean over all other hyperparameters, seeds and folds; the frame marks the best "
            f"setting{', dashes mark others that may be the best' if tied else ''}."
        )
        yield ReportSection("pairs", caption, heat_maps.heat_maps(frame, pairs, objective, best, tied))
    elif len(names) > 1 and not about.sampler:
        yield ReportSection(
            "pairs", f"Heat maps need two hyperparameters with at most {MAX_LISTED_VALUES} values each."
        )
    lines = charts.parallel_coordinates(frame, about.varied, objective, best, tied, about.ranges)
    yield ReportSection("together", "", lines)


def _rungs(about: About) -> Iterator[ReportSection]:
    """Draws which trials left at which rung, if any did."""
    if about.rows and about.objective is not None and about.objective in about.frame:
        drawn = rungs_section(about.frame, about.rows, about.objective, about.best)
        if drawn is not None:
            yield ReportSection("rungs", *drawn)


def _importance(about: About, tried: Sequence[Tried]) -> ReportSection:
    """Draws how much each hyperparameter matters: of a search by PED-ANOVA, if Optuna is there."""
    assert about.objective is not None
    lacks = ""
    if about.sampler:
        rows = dict(about.frame["run_id"].items())

        def rungs(index: int) -> int:
            return len(about.rows[rows[index]].rungs)

        try:
            drawn = importance_section(tried, about.frame, about.varied, about.objective, about.ranges, rungs)
            return ReportSection("importance", *drawn)
        except ImportError:
            lacks = ' With pip install "sweepstack[search]" it is PED-ANOVA, which knows where a search has looked.'
    found = importance(about.finished, about.varied, about.objective)
    if isinstance(found, str):
        return ReportSection("importance", f"{found}{lacks}")
    caption = (
        "Permutation importance: a random forest learns to rank the trials by their hyperparameters. A bar shows how "
        "much worse it predicts settings that it has not seen when the values of one hyperparameter are shuffled (with "
        f"the standard deviation). With all of them it explains {max(found.explained, 0):.0%} of the ranks there."
    )
    if found.explained < 0.3:
        caption += " That is little: do not trust the bars much."
    caption += lacks
    return ReportSection("importance", caption, importance_bars(found, about.objective))


def _tuning_section(about: About) -> ReportSection:
    assert about.selection is not None
    objective = about.selection.objective
    values, _ = settings_in_order(about.frame, about.selection)
    curve = curve_of_points(values, objective.larger_is_better)
    caption = (
        "How good the best of so many settings is, if they are tried in random order: the median, and 95 % of the "
        "orders. It is about these settings as they were measured. sweepstack compare puts two sweeps side by side."
    )
    return ReportSection("tuning", caption, tuning.tuning_curves({"tuning": curve}, objective, "settings"))


def _time_section(about: About) -> ReportSection:
    assert about.selection is not None
    assert about.objective is not None
    frame = about.finished
    metric = pareto.time_metric(frame)
    if metric not in frame or not len(charts.measured(charts.measured(frame, about.objective), metric)):
        return ReportSection("time", "The store does not know how long the trials took.")
    index = row_numbers(frame)
    groups = [[index[one] for one in ids if one in index] for ids in about.selection.groups["run_ids"]]
    squares = ", squares are others that may be the best" if about.tied else ""
    drawn = pareto.time_and_objective(frame, groups, about.varied, about.objective, about.best, about.tied)
    caption = (
        f"A mark is a setting, with the means of its trials; the ring is the best one{squares}. The line is the Pareto "
        "front: no other setting is both faster and better."
    )
    return ReportSection("time", caption, drawn)
