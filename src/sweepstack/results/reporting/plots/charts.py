"""Draws the plots of a sweep from a table of its trials. `best` are the rows of the trials of the selected setting."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.metrics import Metric
from sweepstack.results.reporting.params import NO_RANGES, DrawnRange, Scale, as_fractions, scale
from sweepstack.results.reporting.plots.palette import LINES
from sweepstack.results.reporting.plots.style import (
    BLUE,
    DASHES,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAPER,
    SINGLE,
    figure,
    gid,
    legend,
    objective_words,
    sentence_case,
    shortened,
    styled,
    tick_text,
    title,
    words,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAY_BE_BEST = "may be the best, too"
"""What the legends call the other settings that may be the best."""
RANGES = 6
"""The number of parts of a range of values that have a mean each; all parts have about as many trials."""


def measured(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Returns the trials with a finite value of a metric."""
    finite: pd.DataFrame = frame[np.isfinite(frame[metric].to_numpy(dtype=float, na_value=np.nan))]
    return finite


def learning_curves(
    frame: pd.DataFrame,
    history: pd.DataFrame,
    objective: Metric,
    best: Collection[int],
    label: str,
    tied: Collection[int] = (),
) -> Figure:
    """Draws how the objective changes during training: all trials, the best in front.

    Args:
        frame: the table of trials.
        history: columns run_id, step, value; the rows of a run are next to each other, in the order of their steps.
        objective: the metric.
        best: the rows of the trials of the best setting.
        tied: those of the other settings that may be the best.
        label: the best setting, as it is typed; empty if it is the only one.
    """
    from matplotlib.ticker import MaxNLocator

    with styled():
        drawn = figure()
        axes = drawn.subplots()
        codes, run_ids = pd.factorize(history["run_id"])
        points = history[["step", "value"]].to_numpy(dtype=float)
        curves = dict(zip(run_ids, np.split(points, np.flatnonzero(np.diff(codes)) + 1), strict=True))
        paths = {index: curves[run_id] for index, run_id in frame["run_id"].items() if run_id in curves}
        _lines(axes, paths, dict.fromkeys(paths, GREY), best, (0.8, 2.0), tied)
        of_set = [(GREEN, [index for index in paths if index in tied])] if tied else []
        for colour, indices in ((GREY, [*paths]), *of_set, (ORANGE, [index for index in paths if index in best])):
            ends = np.array([paths[index][-1] for index in indices]).reshape(-1, 2)
            axes.plot(ends[:, 0], ends[:, 1], ".", color=colour, ms=4, zorder=2)
        others = len(paths) - sum(index in paths for index in (*best, *tied))
        axes.plot(
            [], [], color=ORANGE, lw=2, label=f"the best setting: {shortened(label, 60)}" if label else "this setting"
        )
        if not {*tied}.isdisjoint(paths):
            axes.plot([], [], color=GREEN, lw=1.4, ls=DASHES, label=MAY_BE_BEST)
        if others:
            axes.plot(
                [], [], color=GREY, lw=0.8, label=f"the other {others} trials" if others > 1 else "the other trial"
            )
        axes.set_ylim(*window(history["value"].to_numpy(dtype=float), objective))
        last = history.groupby("run_id")["step"].max()
        by_epoch = "epochs" in frame and last.max() <= pd.to_numeric(frame["epochs"], errors="coerce").max()
        axes.set(xlabel="epoch" if by_epoch else "optimizer updates", ylabel=wrapped(objective))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(drawn, 3)
        title(drawn, f"{sentence_case(objective_words(objective))} while training")
    return drawn


def by_param(
    frame: pd.DataFrame,
    varied: Sequence[str],
    objective: Metric,
    best: Collection[int],
    tied: Collection[int] = (),
    ranges: Mapping[str, DrawnRange] = NO_RANGES,
    pruned: pd.DataFrame | None = None,
) -> Figure:
    """Draws the objective against each param: every trial, and mean and standard deviation over all other params.

    Args:
        frame: the table of trials.
        varied: the params that vary.
        objective: the metric.
        best: the rows of the trials of the best setting.
        tied: those of the other settings that may be the best.
        ranges: what a search draws params from.
        pruned: the trials that were pruned; they are drawn at their last value, and are in no mean.
    """
    frame = measured(frame, objective)
    early = measured(frame.iloc[:0] if pruned is None else pruned, objective)
    last = early[objective].to_numpy(dtype=float)
    columns = min(len(varied), 3)
    rows = -(-len(varied) // columns)
    with styled():
        drawn = figure(max(5.5, 3.4 * columns), 0.9 + 3.1 * rows)
        panels = drawn.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        values = frame[objective].to_numpy(dtype=float)
        for axes, param in zip(panels, varied, strict=False):
            both = pd.concat([frame[param], early[param]]) if len(early) else frame[param]
            axis = scale(param, both, ranges.get(param))
            axis.set_up(axes, "x")
            axes.set_ylim(*window(np.concatenate([values, last]), objective))
            at_end = axis.at[len(frame) :]
            axis = replace(axis, at=axis.at[: len(frame)])
            draw_early(axes, at_end, last, list(early.index))
            draw_marks(axes, axis.at, values, [[index] for index in frame.index], best, tied)
            at, mean, spread = _means_on_axis(axis, values)
            axes.errorbar(
                at, mean, spread, color=BLUE, lw=1.8, marker="o", ms=5, capsize=4, zorder=4, label="_means",
                ls="none" if axis.kind == "category" else "-",
            )  # fmt: skip
            axes.set_xlabel(words(param))
            if axis.kind == "category" and max(map(len, axis.labels)) * len(axis.labels) > 40:
                axes.tick_params(axis="x", rotation=30)
        for axes in panels[::columns]:
            axes.set_ylabel(wrapped(objective))
        for axes in panels[len(varied) :]:
            axes.set_visible(False)
        panels[0].errorbar(
            [], [], [], color=BLUE, marker="o", capsize=4, label="mean and standard deviation over everything else"
        )
        panels[0].plot([], [], "o", color=GREY, ms=4, mew=0, label="one trial")
        if len(early):
            panels[0].plot([], [], "x", color=GREY, ms=5, label="pruned, at its last value")
        legend_of_set(panels[0], tied)
        legend(drawn, 4)
        title(drawn, f"{sentence_case(objective_words(objective))} by hyperparameter")
    return drawn


def parallel_coordinates(
    frame: pd.DataFrame,
    varied: Sequence[str],
    objective: Metric,
    best: Collection[int],
    tied: Collection[int] = (),
    ranges: Mapping[str, DrawnRange] = NO_RANGES,
) -> Figure:
    """Draws each trial as a line through its values, coloured by the objective; good ones in front.

    Args:
        frame: the table of trials.
        varied: the params that vary.
        objective: the metric.
        best: the rows of the trials of the best setting.
        tied: those of the other settings that may be the best.
        ranges: what a search draws params from.
    """
    frame = measured(frame, objective).sort_values(objective, ascending=objective.larger_is_better, kind="stable")
    values = frame[objective].to_numpy(dtype=float)
    low, high = window(values, objective, margin=0.0)
    shades = np.clip(as_fractions(np.append(np.clip(values, low, high), [low, high]))[:-2], 0, 1)
    axes_of = [scale(param, frame[param], ranges.get(param)) for param in varied]
    heights = np.column_stack([*(axis.fractions for axis in axes_of), shades])
    with styled():
        drawn = figure(max(6.0, 1.9 * (len(varied) + 1)), 4.5)
        axes = drawn.subplots()
        ramp = [colour.light for colour in LINES]
        goodness = shades if objective.larger_is_better else 1 - shades
        colours = [ramp[step] for step in np.rint(goodness * (len(LINES) - 1)).astype(int)]
        across = np.arange(len(varied) + 1.0)
        paths = {index: np.column_stack([across, line]) for index, line in zip(frame.index, heights, strict=True)}
        _lines(axes, paths, dict(zip(frame.index, colours, strict=True)), best, (1.1, 2.6), tied)
        for number, axis in enumerate([*axes_of, Scale("linear", values, [], [])]):
            axes.axvline(number, color=INK, lw=1, zorder=1)
            for height, label in _ticks(axis, (low, high) if number == len(varied) else None):
                last = number == len(varied)
                at, side = (number + 0.04, "left") if last else (number - 0.04, "right")
                axes.text(at, height, shortened(label, 16), ha=side, va="center", fontsize=9, zorder=5, bbox=_TEXT_BOX)
        axes.set_xticks(range(len(varied) + 1), [wrapped(name, 20) for name in (*varied, objective)])
        axes.set(xlim=(-0.5, len(varied) + 0.5), ylim=(-0.04, 1.04), yticks=[])
        axes.spines[:].set_visible(False)
        axes.grid(False)
        axes.tick_params(axis="x", length=0)
        axes.plot([], [], color=ORANGE, lw=2.6, label="the best setting")
        if not {*tied}.isdisjoint(paths):
            axes.plot([], [], color=GREEN, lw=1.4, ls=DASHES, label=MAY_BE_BEST)
        axes.plot([], [], color=ramp[-1], lw=2, label="good")
        axes.plot([], [], color=ramp[0], lw=2, label="bad")
        legend(drawn, 4)
        title(drawn, "Which values go together: a line for each trial")
    return drawn


_TEXT_BOX = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 1.0}


def draw_marks(
    axes: Axes,
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    trials: Sequence[Sequence[int]],
    best: Collection[int],
    tied: Collection[int] = (),
) -> None:
    """Draws a mark for each of the points [n]: rings for the best, squares for others that may be the best, triangles
    at the edge for points outside the plot.

    Args:
        axes: the plot.
        x: positions of the points.
        y: heights of the points.
        trials: the rows of the trials of each point.
        best: the rows of the trials of the best setting.
        tied: those of the other settings that may be the best.
    """
    low, high = axes.get_ylim()
    chosen, of_set = (
        np.array([not {*rows}.isdisjoint(group) for group in trials], dtype=bool) for rows in (best, tied)
    )
    of_set &= ~chosen
    single = len(y) <= SINGLE
    inside = (y >= low) & (y <= high)
    looks: list[tuple[str, Any, Any]] = [
        *((kind, where & ~chosen & (~of_set | ~inside), {"color": GREY, "mew": 0, "alpha": 0.7, "zorder": 2})
          for kind, where in (("v", y < low), ("^", y > high), ("o", inside))),
        ("s", inside & of_set, {"mfc": "none", "mec": GREEN, "mew": 1.4, "zorder": 4}),
    ]  # fmt: skip
    for kind, where, look in looks:
        indices = np.flatnonzero(where & np.isfinite(x)).tolist()
        for some in [[index] for index in indices] if single else [indices] if indices else []:
            axes.plot(
                x[some], np.clip(y[some], low, high), kind, ls="none",
                ms=4 if len(y) > 40 and kind == "o" else 6, clip_on=kind in "os",
                gid=gid(trials[some[0]]) if single else None, **look,
            )  # fmt: skip
    for index in np.flatnonzero(chosen & np.isfinite(x)).tolist():
        height = np.clip(y[index], low, high)
        axes.plot(x[index], height, "o", mfc="none", mec=ORANGE, mew=1.8, ms=9, zorder=5, gid=gid(trials[index]))


def draw_early(axes: Axes, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], trials: Sequence[Hashable]) -> None:
    """Draws a cross for each pruned trial [n]; at the edge for those outside the plot.

    Args:
        axes: the plot.
        x: positions of the trials.
        y: their last values.
        trials: their rows.
    """
    inside = np.clip(y, *axes.get_ylim())
    indices = np.flatnonzero(np.isfinite(x)).tolist()
    single = len(y) <= SINGLE
    for some in [[index] for index in indices] if single else [indices] if indices else []:
        name = gid([trials[some[0]]]) if single else None
        axes.plot(x[some], inside[some], "x", color=GREY, ms=4, mew=1.0, zorder=2, gid=name)


def legend_of_set(axes: Axes, tied: Collection[int]) -> None:
    """Adds what the rings and squares of `draw_marks` mean to the legend."""
    axes.plot([], [], "o", mfc="none", mec=ORANGE, mew=1.8, label="the best setting")
    if tied:
        axes.plot([], [], "s", mfc="none", mec=GREEN, mew=1.4, label=MAY_BE_BEST)


def _lines(
    axes: Axes,
    paths: Mapping[Hashable, np.ndarray[Any, Any]],
    colours: Mapping[Hashable, Any],
    best: Collection[int],
    widths: tuple[float, float],
    tied: Collection[int],
) -> None:
    """Draws a line for each trial, the best in front and wider, others that may be the best dashed.

    Args:
        paths: the points of each line, [points, 2], by the row of its trial.
        widths: the widths of the other lines and of the best.
    """
    from matplotlib.collections import LineCollection

    single = len(paths) <= SINGLE
    for index, path in paths.items():
        name = gid([index]) if single else None
        if index in best:
            axes.plot(path[:, 0], path[:, 1], color=ORANGE, lw=widths[1], zorder=4, gid=name)
        elif index in tied and single:
            axes.plot(path[:, 0], path[:, 1], color=GREEN, lw=1.4, ls=DASHES, zorder=3, gid=name)
        elif single:
            axes.plot(path[:, 0], path[:, 1], color=colours[index], lw=widths[0], zorder=2, gid=name)
    if single:
        return
    for indices, look in (
        ([index for index in paths if index not in best and index not in tied], {"alpha": 0.2, "zorder": 2}),
        ([index for index in paths if index in tied], {"alpha": 0.5, "zorder": 3, "linestyles": [DASHES]}),
    ):
        shades = [GREEN if index in tied else colours[index] for index in indices]
        lines = [paths[index] for index in indices]
        axes.add_collection(LineCollection(lines, colors=shades, linewidths=widths[0], **look))


def _means_on_axis(axis: Scale, values: np.ndarray[Any, Any]) -> tuple[list[float], list[float], list[float]]:
    """Computes positions on the axis, means and standard deviations (0 for a single trial) for values or for ranges."""
    known = np.isfinite(axis.at)
    at, values = axis.at[known], values[known]
    if axis.ticks:
        groups = [np.flatnonzero(at == tick) for tick in axis.ticks]
    else:
        groups = list(np.array_split(np.argsort(at, kind="stable"), min(RANGES, len(at)) or 1))
    groups = [group for group in groups if len(group)]
    middle = [float(np.exp(np.log(at[group]).mean()) if axis.kind == "log" else at[group].mean()) for group in groups]
    spread = [float(values[group].std(ddof=1)) if len(group) > 1 else 0.0 for group in groups]
    return middle, [float(values[group].mean()) for group in groups], spread


def window(values: np.ndarray[Any, Any], objective: Metric, margin: float = 0.06) -> tuple[float, float]:
    """Returns the range of values that a plot shows.

    It contains all values, except bad ones that are so far out (three quartile ranges, Tukey) that the others would
    shrink to a line.

    Args:
        margin: the free space at both ends, as a part of the range.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if len(finite) >= 8:
        first, third = np.quantile(finite, [0.25, 0.75])
        far = 3 * float(third - first)
        low, high = (max(low, first - far), high) if objective.larger_is_better else (low, min(high, third + far))
    room = margin * (high - low) or (0.01 * abs(high) or 0.5) * (margin > 0)
    return float(low - room), float(high + room)


def _ticks(axis: Scale, limits: tuple[float, float] | None) -> list[tuple[float, str]]:
    """Returns heights from 0 to 1 with labels: of the values, or of a few points in the range."""
    if limits is not None:
        return [(part, tick_text(limits[0] + part * (limits[1] - limits[0]))) for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    if axis.ticks:
        heights = Scale(axis.kind, np.array(axis.ticks), [], []).fractions
        return list(zip(map(float, heights), axis.labels, strict=True))
    finite = axis.at[np.isfinite(axis.at)]
    if not len(finite):
        return []
    ends = np.log10([finite.min(), finite.max()]) if axis.kind == "log" else np.array([finite.min(), finite.max()])
    points = np.linspace(ends[0], ends[1], 5)
    return [
        (part, format(10**point if axis.kind == "log" else point, ".2g"))
        for part, point in zip((0.0, 0.25, 0.5, 0.75, 1.0), points, strict=True)
    ]
