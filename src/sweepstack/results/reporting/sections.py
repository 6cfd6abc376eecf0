"""What a report shows of a sweep: its selection, and its plots with what is said about them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sweepstack.errors import UserError
from sweepstack.results.reporting import mistakes
from sweepstack.results.reporting.importance import importance, importance_bars
from sweepstack.results.reporting.params import MAX_LISTED_VALUES, setting
from sweepstack.results.reporting.params import knobs as knobs_of
from sweepstack.results.reporting.plots import charts, heat_maps, pareto
from sweepstack.results.reporting.plots.style import words
from sweepstack.results.reporting.tables import places_of
from sweepstack.results.selection.predictions import right
from sweepstack.results.selection.select import Selection, one_of_each, refuse_no_result, select
from sweepstack.results.selection.statistics import wilson
from sweepstack.tracking.histories import histories
from sweepstack.tracking.origin import Origin, origin
from sweepstack.tracking.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Plate:
    """A plot with what is said about it; or what is said alone, where there is nothing to draw."""

    name: str
    caption: str
    figure: Figure | None = None


@dataclass(frozen=True)
class About:
    """What a report is about."""

    store: Store
    frame: pd.DataFrame
    knobs: list[str]
    objective: str | None
    """None where no trial has a metric that could select."""
    selection: Selection | None
    why_none: str
    origin: Origin | None
    """Of the trial to use."""

    @functools.cached_property
    def finished(self) -> pd.DataFrame:
        """One row for each setting and seed, so that plots show the means that selected."""
        return one_of_each(self.frame, self.objective) if self.objective else self.frame.iloc[:0]

    @property
    def best(self) -> list[int]:
        """Places of the trials of the best setting."""
        if self.selection is None:
            return []
        ids = set(self.selection.groups["run_ids"].iloc[0])
        return [int(place) for place in self.frame.index[self.frame["run_id"].isin(ids)]]


def about_sweep(store: Store, frame: pd.DataFrame, objective: str | None) -> About:
    """What is to be reported of a table.

    Raises:
        UserError: the objective is no result of training.
    """
    refuse_no_result(objective or "")
    selection, chosen, why = None, None, "no trial has been measured"
    if objective is not None:
        try:
            selection = select(frame, right(store), objective)
        except UserError as error:  # none has finished, or none with a number
            why = str(error).split(";")[0]
    if selection is not None:
        chosen = origin(store, str(selection.trial["run_id"]))
        accuracy, count = selection.trial.get("test/accuracy", float("nan")), chosen.counts.get("test")
        if selection.test is None and count and np.isfinite(accuracy):  # of a version that kept no predictions
            selection = replace(selection, test=wilson(round(accuracy * count), count))
    return About(store, frame, knobs_of(frame), objective, selection, why, chosen)


def plates_of(about: About, tell: OnProgress) -> Iterator[Plate]:
    """The plots of a sweep, the most telling first."""
    if about.objective is None or about.selection is None:
        yield Plate("none", "No trial has finished with a figure to draw.")
        return
    frame, objective, names, best = about.finished, about.objective, about.knobs, about.best
    label = setting(about.selection.trial, names)
    several = len(charts.measured(frame, objective)) > 1
    if not names or not several:
        yield Plate("knobs", "No knob was varied, so there is nothing to compare.")
    else:
        tell("drawing what each knob does")
        caption = "Axes are logarithmic where values span decades. Triangles at the edge are trials that lie outside."
        if len(frame) < int((about.frame["state"] == "FINISHED").sum()):
            caption += " A trial that was recorded several times is one mark, with the mean of its records."
        yield Plate("knobs", caption, charts.by_knob(frame, names, objective, best))
        if pairs := heat_maps.pairs(frame, names):
            caption = "Each cell is the mean over all other knobs and seeds; the frame marks the best setting."
            yield Plate("pairs", caption, heat_maps.heat_maps(frame, pairs, objective, best))
        elif len(names) > 1:
            yield Plate("pairs", f"Heat maps need two knobs with at most {MAX_LISTED_VALUES} values each.")
        yield Plate("together", "", charts.parallel_coordinates(frame, names, objective, best))
        tell("asking how much each knob matters")
        yield _importance(about)
    tell("reading the histories")
    points = histories(about.store, list(about.frame["run_id"]), objective)
    history = pd.DataFrame(points, columns=["run_id", "step", "value"])
    history = history[np.isfinite(history["value"])]
    if len(history):
        caption = "Dots are ends. Curves that leave the picture at its edge are far worse for a while."
        yield Plate("curves", caption, charts.learning_curves(about.frame, history, objective, best, label))
    else:
        yield Plate("curves", f"There is no history of the {words(objective)} to draw.")
    if objective not in pareto.TIMES:  # what a better time costs is that time
        yield _time_section(about)


def _importance(about: About) -> Plate:
    assert about.objective is not None
    found = importance(about.finished, about.knobs, about.objective)
    if isinstance(found, str):
        return Plate("importance", found)
    caption = (
        "Permutation importance: a random forest learns from the knobs which trials rank before which others. How much "
        "worse it does on settings that it has not seen, when the values of one knob are shuffled, is that knob's bar "
        f"(with its standard deviation). With all knobs it explains {max(found.explained, 0):.0%} of the ranks there."
    )
    if found.explained < 0.3:
        caption += " That is little: do not read much into the bars."
    return Plate("importance", caption, importance_bars(found, about.objective))


def _time_section(about: About) -> Plate:
    assert about.selection is not None
    assert about.objective is not None
    frame = about.finished
    metric = pareto.time_metric(frame)
    if metric not in frame or not len(charts.measured(charts.measured(frame, about.objective), metric)):
        return Plate("time", "The store does not know how long the trials took.")
    place = places_of(frame)
    groups = [[place[one] for one in ids if one in place] for ids in about.selection.groups["run_ids"]]
    drawn = pareto.time_and_objective(frame, groups, about.knobs, about.objective, about.best)
    caption = (
        "A mark is a setting, with the means of its trials; the ring is the best one. The line is the Pareto front: no "
        "other setting is both faster and better."
    )
    return Plate("time", caption, drawn)


def mistakes_of(about: About, tell: OnProgress) -> Iterator[Plate]:
    if about.selection is None or about.origin is None:
        return
    tell("asking the selected model")
    found = mistakes.answers_of(about.store, str(about.selection.trial["run_id"]), about.origin.digest)
    if isinstance(found, str):
        yield Plate("confusion", found)
        return
    caption = (
        "Numbers are test images. The darker a cell, the larger the part of that row; right answers are left white."
    )
    yield Plate("confusion", caption, mistakes.confusion_matrix(found))
    if len(mistakes.surest_mistakes(found)):
        yield Plate("wrong", "Above each image what it is, and what the model says.", mistakes.wrong_images(found))
    else:
        yield Plate("wrong", "The model gets every test image right.")
