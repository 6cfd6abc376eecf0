"""The plots of a sweep: a table of its trials in, a matplotlib figure out. Trials are known by their places in the
table, its index; those of the selected setting are `best`."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.results.reporting.params import Scale, between, scale
from sweepstack.results.reporting.plots.style import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    SINGLE,
    figure,
    gid,
    legend,
    more_is_better,
    shortened,
    styled,
    title,
    words,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANGES = 6
"""Parts that a range of values is cut into, each with as many trials, to show a mean for each."""


def measured(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The trials that have a number for it."""
    finite: pd.DataFrame = frame[np.isfinite(frame[metric].to_numpy(dtype=float, na_value=np.nan))]
    return finite


def learning_curves(
    frame: pd.DataFrame, history: pd.DataFrame, objective: str, best: Collection[int], label: str
) -> Figure:
    """The objective as training goes on: all trials, the best in front.

    Args:
        history: columns run_id, step, value; a run's rows are beside each other, by step.
        label: the best setting, as it is typed; empty where it is the only one.
    """
    from matplotlib.ticker import MaxNLocator

    with styled():
        drawn = figure()
        axes = drawn.subplots()
        codes, run_ids = pd.factorize(history["run_id"])
        points = history[["step", "value"]].to_numpy(dtype=float)
        curves = dict(zip(run_ids, np.split(points, np.flatnonzero(np.diff(codes)) + 1), strict=True))
        paths = {place: curves[run_id] for place, run_id in frame["run_id"].items() if run_id in curves}
        _lines(axes, paths, dict.fromkeys(paths, GREY), best, (0.8, 2.0))
        for colour, places in ((GREY, [*paths]), (ORANGE, [place for place in paths if place in best])):
            ends = np.array([paths[place][-1] for place in places]).reshape(-1, 2)
            axes.plot(ends[:, 0], ends[:, 1], ".", color=colour, ms=4, zorder=2)
        others = len(paths) - sum(place in paths for place in best)
        axes.plot(
            [], [], color=ORANGE, lw=2, label=f"the best setting: {shortened(label, 60)}" if label else "this setting"
        )
        if others:
            axes.plot(
                [], [], color=GREY, lw=0.8, label=f"the other {others} trials" if others > 1 else "the other trial"
            )
        axes.set_ylim(*window(history["value"].to_numpy(dtype=float), objective))
        last = history.groupby("run_id")["step"].max()
        by_epoch = "epochs" in frame and last.max() <= pd.to_numeric(frame["epochs"], errors="coerce").max()
        axes.set(xlabel="epoch" if by_epoch else "optimizer updates", ylabel=wrapped(objective))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(drawn, 2)
        title(drawn, f"{words(objective).capitalize()} while training")
    return drawn


def by_knob(frame: pd.DataFrame, knobs: Sequence[str], objective: str, best: Collection[int]) -> Figure:
    """The objective against each knob: every trial, and mean and standard deviation over all else."""
    frame = measured(frame, objective)
    columns = min(len(knobs), 3)
    rows = -(-len(knobs) // columns)
    with styled():
        drawn = figure(max(5.5, 3.4 * columns), 0.9 + 3.1 * rows)
        panels = drawn.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        values = frame[objective].to_numpy(dtype=float)
        for axes, knob in zip(panels, knobs, strict=False):
            axis = scale(knob, frame[knob])
            axis.onto(axes, "x")
            axes.set_ylim(*window(values, objective))
            marks(axes, axis.at, values, [[place] for place in frame.index], best)
            at, mean, spread = _means_on_axis(axis, values)
            axes.errorbar(
                at, mean, spread, color=BLUE, lw=1.8, marker="o", ms=5, capsize=4, zorder=4, label="_means",
                ls="none" if axis.kind == "category" else "-",
            )  # fmt: skip
            axes.set_xlabel(words(knob))
            if axis.kind == "category" and max(map(len, axis.labels)) * len(axis.labels) > 40:
                axes.tick_params(axis="x", rotation=30)
        for axes in panels[::columns]:
            axes.set_ylabel(wrapped(objective))
        for axes in panels[len(knobs) :]:
            axes.set_visible(False)
        panels[0].errorbar(
            [], [], [], color=BLUE, marker="o", capsize=4, label="mean and standard deviation over all else"
        )
        panels[0].plot([], [], "o", color=GREY, ms=4, mew=0, label="one trial")
        panels[0].plot([], [], "o", mfc="none", mec=ORANGE, mew=1.8, label="the best setting")
        legend(drawn, 3)
        title(drawn, f"What each knob does to the {words(objective)}")
    return drawn


def parallel_coordinates(frame: pd.DataFrame, knobs: Sequence[str], objective: str, best: Collection[int]) -> Figure:
    """Each trial as a line through its values, coloured by the objective; good ones in front."""
    from matplotlib import colormaps

    frame = measured(frame, objective).sort_values(objective, ascending=more_is_better(objective), kind="stable")
    values = frame[objective].to_numpy(dtype=float)
    low, high = window(values, objective, margin=0.0)
    shades = np.clip(between(np.append(np.clip(values, low, high), [low, high]))[:-2], 0, 1)
    axes_of = [scale(knob, frame[knob]) for knob in knobs]
    heights = np.column_stack([*(axis.between for axis in axes_of), shades])
    with styled():
        drawn = figure(max(6.0, 1.9 * (len(knobs) + 1)), 4.5)
        axes = drawn.subplots()
        colours = colormaps[COLOURS](shades if more_is_better(objective) else 1 - shades)
        across = np.arange(len(knobs) + 1.0)
        paths = {place: np.column_stack([across, line]) for place, line in zip(frame.index, heights, strict=True)}
        _lines(axes, paths, dict(zip(frame.index, colours, strict=True)), best, (1.1, 2.6))
        for number, axis in enumerate([*axes_of, Scale("linear", values, [], [])]):
            axes.axvline(number, color=INK, lw=1, zorder=1)
            for height, label in _ticks(axis, (low, high) if number == len(knobs) else None):
                last = number == len(knobs)
                at, side = (number + 0.04, "left") if last else (number - 0.04, "right")
                axes.text(at, height, shortened(label, 16), ha=side, va="center", fontsize=9, zorder=5, bbox=_PAD)
        axes.set_xticks(range(len(knobs) + 1), [wrapped(name, 20) for name in (*knobs, objective)])
        axes.set(xlim=(-0.5, len(knobs) + 0.5), ylim=(-0.04, 1.04), yticks=[])
        axes.spines[:].set_visible(False)
        axes.grid(False)
        axes.tick_params(axis="x", length=0)
        axes.plot([], [], color=ORANGE, lw=2.6, label="the best setting")
        axes.plot([], [], color=colormaps[COLOURS](1.0), lw=2, label="good")
        axes.plot([], [], color=colormaps[COLOURS](0.0), lw=2, label="bad")
        legend(drawn, 3)
        title(drawn, "Which values go together: a line for each trial")
    return drawn


_PAD = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}


def marks(
    axes: Axes,
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    trials: Sequence[Sequence[int]],
    best: Collection[int],
) -> None:
    """A mark for each of the points [n]: rings for the best, triangles at the edge for what is outside of it."""
    low, high = axes.get_ylim()
    chosen = np.array([not {*best}.isdisjoint(group) for group in trials], dtype=bool)
    single = len(y) <= SINGLE
    for kind, where in (("v", y < low), ("^", y > high), ("o", (y >= low) & (y <= high))):
        places = np.flatnonzero(where & np.isfinite(x) & ~chosen).tolist()
        for some in [[place] for place in places] if single else [places] if places else []:
            axes.plot(
                x[some], np.clip(y[some], low, high), kind, color=GREY, mew=0, alpha=0.7, zorder=2,
                ms=4 if len(y) > 40 and kind == "o" else 6, clip_on=kind == "o",
                gid=gid(trials[some[0]]) if single else None,
            )  # fmt: skip
    for place in np.flatnonzero(chosen & np.isfinite(x)).tolist():
        height = np.clip(y[place], low, high)
        axes.plot(x[place], height, "o", mfc="none", mec=ORANGE, mew=1.8, ms=9, zorder=5, gid=gid(trials[place]))


def _lines(
    axes: Axes,
    paths: Mapping[Hashable, np.ndarray[Any, Any]],
    colours: Mapping[Hashable, Any],
    best: Collection[int],
    widths: tuple[float, float],
) -> None:
    """A line for each trial, [points, 2] by its place: the best in front, and wider."""
    from matplotlib.collections import LineCollection

    single = len(paths) <= SINGLE
    if not single:
        lines = [paths[place] for place in paths if place not in best]
        shades = [colours[place] for place in paths if place not in best]
        axes.add_collection(LineCollection(lines, colors=shades, linewidths=widths[0], alpha=0.2, zorder=2))
    for place, path in paths.items():
        if single or place in best:
            colour, width, front = (ORANGE, widths[1], 3) if place in best else (colours[place], widths[0], 2)
            name = gid([place]) if single else None
            axes.plot(path[:, 0], path[:, 1], color=colour, lw=width, zorder=front, gid=name)


def _means_on_axis(axis: Scale, values: np.ndarray[Any, Any]) -> tuple[list[float], list[float], list[float]]:
    """Places on the axis, means and standard deviations (0 for a single trial); of values, or of parts of a range."""
    known = np.isfinite(axis.at)
    at, values = axis.at[known], values[known]
    if axis.ticks:
        groups = [np.flatnonzero(at == tick) for tick in axis.ticks]
    else:
        groups = list(np.array_split(np.argsort(at, kind="stable"), min(RANGES, len(at))))
    groups = [group for group in groups if len(group)]
    middle = [float(np.exp(np.log(at[group]).mean()) if axis.kind == "log" else at[group].mean()) for group in groups]
    spread = [float(values[group].std(ddof=1)) if len(group) > 1 else 0.0 for group in groups]
    return middle, [float(values[group].mean()) for group in groups], spread


def window(values: np.ndarray[Any, Any], objective: str, margin: float = 0.06) -> tuple[float, float]:
    """From where to where values are shown: all of them, but for those on the bad side that are so far out (three
    quartile ranges, Tukey) that the others would be a line."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if len(finite) >= 8:
        first, third = np.quantile(finite, [0.25, 0.75])
        far = 3 * float(third - first)
        low, high = (max(low, first - far), high) if more_is_better(objective) else (low, min(high, third + far))
    room = margin * (high - low) or (0.01 * abs(high) or 0.5) * (margin > 0)
    return float(low - room), float(high + room)


def _ticks(axis: Scale, limits: tuple[float, float] | None) -> list[tuple[float, str]]:
    """Heights from 0 to 1 with labels: of the values, or of a few points in the range."""
    if limits is not None:
        return [(part, f"{limits[0] + part * (limits[1] - limits[0]):.3f}") for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    if axis.ticks:
        heights = Scale(axis.kind, np.array(axis.ticks), [], []).between
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
