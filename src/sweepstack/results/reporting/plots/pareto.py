"""What a better setting costs: training time against the objective, and the settings that are worth their time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.results.reporting.params import setting
from sweepstack.results.reporting.plots.charts import marks, measured, window
from sweepstack.results.reporting.plots.style import (
    BLUE,
    figure,
    legend,
    more_is_better,
    shortened,
    styled,
    title,
    words,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = ("train_seconds_share", "train_seconds")
"""Metrics that are what a trial has cost, the one to prefer first."""
LISTED = 8
"""Settings of the Pareto front that are written out."""


def time_and_objective(
    frame: pd.DataFrame, settings: Sequence[Sequence[int]], knobs: Sequence[str], objective: str, best: Collection[int]
) -> Figure:
    """Training time against the objective, a mark for each setting (means over its trials), with the Pareto front:
    settings than which no other is both faster and better.

    Args:
        settings: the places of each one's trials.
    """
    metric = time_metric(frame)
    usable = set(measured(measured(frame, objective), metric).index)
    groups = [kept for group in settings if (kept := [place for place in group if place in usable])]
    known = {name: frame[name].to_dict() for name in (metric, objective)}
    seconds = np.array([np.mean([known[metric][place] for place in group]) for group in groups])
    values = np.array([np.mean([known[objective][place] for place in group]) for group in groups])
    front = [int(place) for place in np.flatnonzero(pareto(seconds, values, more_is_better(objective)))]
    front.sort(key=lambda place: seconds[place])
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
        marks(axes, seconds, values, groups, best)
        axes.plot(
            seconds[front], values[front], color=BLUE, lw=1.8, drawstyle="steps-post", marker="o", ms=5, label="_front"
        )
        for number, place in enumerate(shown, start=1):
            axes.annotate(
                str(number), (seconds[place], values[place]), (0, 6), textcoords="offset points", ha="center",
                va="bottom", color=BLUE, weight="bold", annotation_clip=True,
            )  # fmt: skip
            told = shortened(setting(frame.loc[[groups[place][0]]].iloc[0], knobs) or "this setting", 70)
            axes.plot([], [], " ", label=f"{number}   {told}: {values[place]:.4f} in {seconds[place]:.3g} s")
        axes.set(xlabel=words(metric), ylabel=wrapped(objective))
        legend(drawn, 1, handlelength=0, fontsize=9)
        title(drawn, f"What a better {words(objective)} costs")
    return drawn


def time_metric(frame: pd.DataFrame) -> str:
    """The seconds that a trial has cost: its share, where trials were trained together."""
    return next((name for name in TIMES if name in frame), TIMES[-1])


def pareto(seconds: np.ndarray[Any, Any], values: np.ndarray[Any, Any], up: bool) -> np.ndarray[Any, Any]:
    """Which of the points [n] no other is both faster and better than; bool [n]. Of equal ones, the first."""
    worth = values if up else -values
    chosen = np.zeros(len(values), dtype=bool)
    ahead = -np.inf
    for place in np.lexsort((-worth, seconds)):
        if worth[place] > ahead:
            chosen[place] = True
            ahead = worth[place]
    return chosen
