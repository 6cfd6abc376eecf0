"""Draws how a search went: the objective of one setting after the other, and which trials left at which rung."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.metrics import Metric
from sweepstack.results.reporting.plots.charts import draw_early, draw_marks, legend_of_set, window
from sweepstack.results.reporting.plots.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    SINGLE,
    figure,
    gid,
    legend,
    objective_words,
    sentence_case,
    styled,
    title,
    wrapped,
)
from sweepstack.trial import TrialState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERED = 12
"""The most rungs with a number at each."""
MOST_SINGLE_TICKS = 20
"""The most settings whose axis begins with a tick at the first one; of more it would begin at 0."""
WIDE = 8
"""Ratio of the last and the first rung from which their axis is logarithmic."""


@dataclass(frozen=True)
class Tried:
    """A setting of a search."""

    trials: tuple[int, ...]
    """The rows of its trials in the table."""
    state: str
    """FINISHED if all of its trials have a value, PRUNED if a pruner has ended one, else FAILED or RUNNING."""
    value: float
    """The mean of its trials, of pruned ones with their last values; NaN if one has no value."""


def history(
    tried: Sequence[Tried], objective: Metric, what: str, best: Collection[int], tied: Collection[int] = ()
) -> Figure:
    """Draws the objective of each setting in the order in which they were asked for, and the best so far.

    Args:
        tried: the settings, in that order.
        objective: the metric.
        what: what a setting is called.
        best: the rows of the trials of the best setting.
        tied: those of the other settings that may be the best.
    """
    from matplotlib.ticker import MaxNLocator

    values = np.array([one.value for one in tried])
    number = np.arange(1.0, len(tried) + 1)
    whole = np.array([one.state == TrialState.FINISHED for one in tried]) & np.isfinite(values)
    early = np.array([one.state == TrialState.PRUNED for one in tried]) & np.isfinite(values)
    running = np.array([one.state == "RUNNING" for one in tried], dtype=bool)
    lost = ~(whole | early | running)
    with styled():
        drawn = figure(8.0, 4.2)
        axes = drawn.subplots()
        axes.set_ylim(*window(values[whole | early], objective))
        room = max(0.4, 0.02 * len(tried))
        axes.set_xlim(1 - room, len(tried) + room)
        low, high = axes.get_ylim()
        draw_early(axes, number[early], values[early], [_rows(one) for one in _where(tried, early)])
        draw_marks(axes, number[whole], values[whole], [one.trials for one in _where(tried, whole)], best, tied)
        reached = np.maximum.accumulate if objective.larger_is_better else np.minimum.accumulate
        if whole.any():
            x, y = np.append(number[whole], len(tried) + room), reached(values[whole])
            axes.plot(
                x, np.clip(np.append(y, y[-1]), low, high), color=BLUE, lw=1.8, drawstyle="steps-post", zorder=3,
                label="best so far",
            )  # fmt: skip
        for at, one in zip(number[lost].tolist(), _where(tried, lost), strict=True):
            name = gid(one.trials) if len(tried) <= SINGLE else None
            axes.plot(at, low, "|", color=INK, ms=9, mew=1.4, clip_on=False, zorder=4, gid=name)
        axes.plot([], [], "o", color=GREY, ms=4, mew=0, label=f"one {what}")
        if early.any():
            axes.plot([], [], "x", color=GREY, ms=5, label="pruned, at its last value")
        if lost.any():
            axes.plot([], [], "|", color=INK, ms=9, mew=1.4, label="without a value")
        legend_of_set(axes, tied)
        axes.xaxis.set_major_locator(
            MaxNLocator(integer=True, prune="lower" if len(tried) > MOST_SINGLE_TICKS else None)
        )
        axes.set(xlabel=f"{what}s in the order in which they were asked for", ylabel=wrapped(objective))
        legend(drawn, 5)
        title(drawn, f"{sentence_case(objective_words(objective))}: how the search went")
    return drawn


def _where(tried: Sequence[Tried], mask: np.ndarray[Any, Any]) -> list[Tried]:
    return [one for one, chosen in zip(tried, mask, strict=True) if chosen]


def _rows(one: Tried) -> str:
    return "-".join(map(str, one.trials))


@dataclass(frozen=True)
class Rungs:
    """What became of trials at the rungs of a pruner."""

    unit: str
    """What `at` counts: epochs, or if trials with different numbers of these are compared, parts of them in percent."""
    at: tuple[float, ...]
    """Where trials left, from the first rung to the last one."""
    judged: tuple[int, ...]
    """The trials that have a value there: a short one may begin at a later rung."""
    left: tuple[int, ...]
    """The trials that were pruned there."""
    go_on: tuple[int, ...]
    """The trials that trained on after it."""
    paths: Mapping[int, np.ndarray[Any, Any]]
    """The objective of each trial at its rungs and, if it finished, at its end [points, 2], by its row in the table."""
    pruned: frozenset[int]
    """The rows of those that were pruned."""


def read_rungs(frame: pd.DataFrame, rungs: Mapping[int, Mapping[float, float]], objective: Metric) -> Rungs | None:
    """Finds which trials left at which rung; None if none was pruned.

    Args:
        frame: the table of trials.
        rungs: the objective of trials at the rungs that they have reached, by epochs, by the rows of the trials.
        objective: the metric.
    """
    known = frame[frame["state"].isin([TrialState.FINISHED, TrialState.PRUNED])]
    known = known[np.array([bool(rungs.get(int(str(index)))) for index in known.index], dtype=bool)]
    pruned = frozenset(int(index) for index in known.index[known["state"] == TrialState.PRUNED])
    if not pruned:
        return None
    epochs = pd.to_numeric(known["epochs"], errors="coerce") if "epochs" in known else pd.Series(np.nan, known.index)
    alone = known["reason"].str.contains(r" by (?:threshold|patient)\b", regex=True)  # these compare no trials
    by_epoch = epochs.nunique(dropna=False) == 1 or bool(alone[known["state"] == TrialState.PRUNED].all())
    paths, ends = {}, {}
    judged: Counter[float] = Counter()
    ends_at = dict(zip(epochs.index, known[objective].to_numpy(dtype=float, na_value=np.nan).tolist(), strict=True))
    for index, total in epochs.items():
        row = int(str(index))
        points = sorted(rungs[row].items())
        if row not in pruned and np.isfinite(total):
            points = [one for one in points if one[0] < total] + [(total, ends_at[row])]
        path = np.array(points, dtype=float)
        path[:, 0] = np.round(path[:, 0] if by_epoch else 100 * path[:, 0] / total, 3)
        ends[row] = float(path[-1, 0])
        judged.update(path[: len(path) if row in pruned else -1, 0].tolist())
        paths[row] = path[np.isfinite(path).all(axis=1)]
    at = tuple(sorted({ends[row] for row in pruned}))
    left = tuple(sum(ends[row] == one for row in pruned) for one in at)
    go_on = tuple(sum(end > one for end in ends.values()) for one in at)
    unit = "epochs" if by_epoch else "part of its epochs in percent"
    return Rungs(unit, at, tuple(judged[one] for one in at), left, go_on, paths, pruned)


def rungs_picture(found: Rungs, objective: Metric, best: Collection[int]) -> Figure:
    """Draws the objective of each trial at the rungs that it reached, and below how many trials go on after each.

    Args:
        found: what became of the trials.
        objective: the metric.
        best: the rows of the trials of the best setting.
    """
    with styled():
        drawn = figure(8.0, 5.6)
        above, below = drawn.subplots(2, 1, sharex=True, height_ratios=[3, 1.3])
        values = np.concatenate([path[:, 1] for path in found.paths.values()])
        above.set_ylim(*window(values, objective))
        _paths(above, found, best)
        last = max([*found.at, *(path[-1, 0] for path in found.paths.values() if len(path))])
        edges = [0.0, *found.at, max(last, found.at[-1])]
        counts = [len(found.paths), *found.go_on]
        if last >= WIDE * found.at[0]:
            edges[0] = found.at[0] / 2
            below.set_xscale("log")
            below.minorticks_off()
        numbered = len(found.at) <= MOST_NUMBERED
        below.stairs(counts, edges, fill=True, color=BLUE, alpha=0.18)
        below.stairs(counts, edges, color=BLUE, lw=1.6, baseline=None)
        for begin, number in zip(edges, counts, strict=False) if numbered else ():
            below.annotate(f" {number:,}", (begin, number), (0, 2), textcoords="offset points", fontsize=9)
        if numbered:
            below.set_xticks([*found.at, last] if last > found.at[-1] else found.at)
            below.xaxis.set_major_formatter(lambda value, _: format(value, "g" if found.unit == "epochs" else ".3g"))
        below.set_ylim(0, 1.25 * counts[0])
        above.set_ylabel(wrapped(objective))
        below.set(xlabel=found.unit, ylabel="trials that\ntrain on")
        above.plot([], [], "-x", color=GREY, lw=0.8, ms=5, label="pruned")
        above.plot([], [], "-o", color=BLUE, lw=1.2, ms=4, label="trained to its end")
        above.plot([], [], "-o", color=ORANGE, lw=2, ms=5, label="the best setting")
        legend(drawn, 3)
        title(drawn, "Which trials left at which rung")
    return drawn


def _paths(axes: Axes, found: Rungs, best: Collection[int]) -> None:
    """Draws the line of each trial, the best in front."""
    from matplotlib.collections import LineCollection

    low, high = axes.get_ylim()
    single = len(found.paths) <= SINGLE
    for left, colour, mark in () if single else ((True, GREY, "x"), (False, BLUE, "o")):
        lines = [path for row, path in found.paths.items() if (row in found.pruned) == left and len(path)]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=0.8, alpha=0.4, zorder=2))
        ends = np.array([path[-1] for path in lines]).reshape(-1, 2)
        axes.plot(ends[:, 0], np.clip(ends[:, 1], low, high), mark, color=colour, ms=4, zorder=2)
    for row, path in found.paths.items():
        if not len(path) or (row not in best and not single):
            continue
        colour, width, order = (BLUE, 1.2, 3) if row not in found.pruned else (GREY, 0.8, 2)
        if row in best:
            colour, width, order = ORANGE, 2.0, 4
        axes.plot(
            path[:, 0], np.clip(path[:, 1], low, high), color=colour, lw=width, zorder=order, ms=5,
            marker="x" if row in found.pruned else "o", markevery=[len(path) - 1],
            gid=gid([row]) if single else None,
        )  # fmt: skip
