"""Draws what a better setting costs: training time against the objective, with the Pareto front."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.metrics import Metric, rounded
from sweepstack.results.reporting.params import setting
from sweepstack.results.reporting.plots.charts import draw_marks, measured, window
from sweepstack.results.reporting.plots.style import (
    BLUE,
    figure,
    legend,
    objective_words,
    shortened,
    styled,
    title,
    words,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = ("train_seconds_share", "train_seconds")
"""Metrics for the cost of a trial; the first one that exists is used."""
LISTED = 8
"""The most settings of the Pareto front that are written out."""


def time_and_objective(
    frame: pd.DataFrame,
    settings: Sequence[Sequence[int]],
    varied: Sequence[str],
    objective: Metric,
    best: Collection[int],
    tied: Collection[int] = (),
) -> Figure:
    """Draws training time against the objective, with a mark for each setting (means over its trials).

    The Pareto front are the settings for which no other one is both faster and better.

    Args:
        frame: the table of trials.
        settings: the rows of the trials of each setting.
        varied: the params that vary.
        objective: the metric.
        best: the rows of the trials of the best setting.
        tied: those of the other settings that may be the best.
    """
    metric = time_metric(frame)
    usable = set(measured(measured(frame, objective), metric).index)
    groups = [kept for group in settings if (kept := [index for index in group if index in usable])]
    known = {name: frame[name].to_dict() for name in (metric, objective)}
    seconds = np.array([np.mean([known[metric][index] for index in group]) for group in groups])
    values = np.array([np.mean([known[objective][index] for index in group]) for group in groups])
    front = [int(index) for index in np.flatnonzero(pareto(seconds, values, objective.larger_is_better))]
    front.sort(key=lambda index: seconds[index])
    with styled():
        shown = front[-LISTED:]
        drawn = figure(8.0, 4.5 + 0.2 * len(shown))
        axes = drawn.subplots()
        if seconds.min() > 0 and seconds.max() / seconds.min() > 8:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: format(value, "g"))
            axes.xaxis.set_minor_formatter(lambda value, _: format(value, "g") if f"{value:e}"[0] in "25" else "")
        low, high = window(values, objective)
        axes.set_ylim(low, high + 0.05 * (high - low))  # room for the numbers
        draw_marks(axes, seconds, values, groups, best, tied)
        axes.plot(
            seconds[front], values[front], color=BLUE, lw=1.8, drawstyle="steps-post", marker="o", ms=5, label="_front"
        )
        for number, index in enumerate(shown, start=1):
            axes.annotate(
                str(number), (seconds[index], values[index]), (0, 6), textcoords="offset points", ha="center",
                va="bottom", color=BLUE, weight="bold", annotation_clip=True,
            )  # fmt: skip
            text = shortened(setting(frame.loc[[groups[index][0]]].iloc[0], varied) or "this setting", 70)
            axes.plot([], [], " ", label=f"{number}   {text}: {rounded(values[index])} in {seconds[index]:.3g} s")
        axes.set(xlabel=words(metric), ylabel=wrapped(objective))
        legend(drawn, 1, handlelength=0, fontsize=9)
        title(drawn, f"What a better {objective_words(objective)} costs")
    return drawn


def time_metric(frame: pd.DataFrame) -> str:
    """Returns the metric for the seconds that a trial has cost: its share, if trials were trained together."""
    return next((name for name in TIMES if name in frame), TIMES[-1])


def pareto(seconds: np.ndarray[Any, Any], values: np.ndarray[Any, Any], up: bool) -> np.ndarray[Any, Any]:
    """Finds the points [n] for which no other one is both faster and better; bool [n]. Of equal points, the first.

    Args:
        seconds: the times of the points.
        values: the metric of the points.
        up: True if larger values are better.
    """
    worth = values if up else -values
    chosen = np.zeros(len(values), dtype=bool)
    ahead = -np.inf
    for index in np.lexsort((-worth, seconds)):
        if worth[index] > ahead:
            chosen[index] = True
            ahead = worth[index]
    return chosen
