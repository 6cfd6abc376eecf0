"""Draws heat maps: what two params do together."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sweepstack.metrics import Metric
from sweepstack.results.reporting.params import MAX_LISTED_VALUES, scale, value_text
from sweepstack.results.reporting.plots.palette import COLOURS, on_cell
from sweepstack.results.reporting.plots.style import (
    INK,
    ORANGE,
    PAPER,
    SINGLE,
    figure,
    gid,
    objective_words,
    shortened,
    styled,
    tick_text,
    title,
    words,
    wrapped,
)
from sweepstack.results.tables.columns import identity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

MAX_PAIRS = 6
"""The most heat maps in one figure."""
FIRST = ("lr", "batch_size")
"""Params whose heat maps come first."""


def pairs(frame: pd.DataFrame, varied: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs of params with few values, learning rate and batch size first; as many as one figure holds."""
    few = [param for param in varied if 2 <= identity(frame[param]).nunique(dropna=False) <= MAX_LISTED_VALUES]
    few.sort(key=lambda param: FIRST.index(param) if param in FIRST else len(FIRST))
    return list(itertools.combinations(few, 2))[:MAX_PAIRS]


def heat_maps(
    frame: pd.DataFrame,
    chosen: Sequence[tuple[str, str]],
    objective: Metric,
    best: Collection[int],
    tied: Collection[int] = (),
) -> Figure:
    """Draws the mean objective for each pair of values, over everything else. A cell without a finished trial is empty.

    Args:
        frame: the table of trials.
        chosen: the pairs of params; the first one is on the y axis, the second one on the x axis.
        objective: the metric.
        best: the rows of the trials of the best setting.
        tied: those of the other settings that may be the best.
    """
    from matplotlib import colors

    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    means = [_means_grid(frame, *pair, objective) for pair in chosen]
    low, high = _limits(np.concatenate([mean.to_numpy().flatten() for mean in means]), objective.larger_is_better)
    norm = colors.Normalize(low, high)
    sizes = (max(len(mean.columns) for mean in means), max(len(mean) for mean in means))
    with styled():
        drawn = figure(
            max(6.5, columns * (1.3 + 0.72 * max(sizes[0], 3))), 1.0 + rows * (1.0 + 0.55 * max(sizes[1], 3))
        )
        panels = drawn.subplots(rows, columns, squeeze=False).flatten()
        for axes, pair, mean in zip(panels, chosen, means, strict=False):
            _map(axes, frame, pair, mean, norm, objective, best, tied)
        for axes in panels[len(chosen) :]:
            axes.set_visible(False)
        from matplotlib.cm import ScalarMappable

        colours = ScalarMappable(norm, COLOURS if objective.larger_is_better else f"{COLOURS}_r")
        bar = drawn.colorbar(colours, ax=list(panels[: len(chosen)]), shrink=0.8, label=f"mean {wrapped(objective)}")
        bar.outline.set_visible(False)
        title(drawn, f"Mean {objective_words(objective)} of pairs of values, over everything else")
    return drawn


def _means_grid(frame: pd.DataFrame, down: str, across: str, objective: str) -> pd.DataFrame:
    """Computes means by the texts of the values, in the order of the values."""
    labels = {param: frame[param].map(value_text) for param in (down, across)}
    finite = frame[objective].where(np.isfinite(frame[objective].to_numpy(dtype=float)))
    mean = finite.groupby([labels[down], labels[across]]).mean().unstack()
    order = {
        param: [text for text, _ in sorted(_positions(frame, param).items(), key=lambda item: item[1])]
        for param in labels
    }
    return mean.reindex(index=order[down], columns=order[across])


def _positions(frame: pd.DataFrame, param: str) -> dict[str, float]:
    return dict(zip(frame[param].map(value_text), scale(param, frame[param]).at.tolist(), strict=True))


def _map(
    axes: Axes,
    frame: pd.DataFrame,
    pair: tuple[str, str],
    mean: pd.DataFrame,
    norm: Normalize,
    objective: Metric,
    best: Collection[int],
    tied: Collection[int],
) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colours = colormaps[COLOURS if objective.larger_is_better else f"{COLOURS}_r"]
    texts = [frame[param].map(value_text) for param in pair]
    cells = mean.to_numpy(dtype=float)
    for (row, down), (column, across) in itertools.product(enumerate(mean.index), enumerate(mean.columns)):
        value = float(cells[row, column])
        inside = frame.index[(texts[0] == down) & (texts[1] == across)]
        known = bool(np.isfinite(value))
        colour = colours(norm(value)) if known else PAPER
        ink = on_cell(colours(norm(value))) if known else INK
        name = gid(inside) if len(inside) and len(frame) <= SINGLE else None
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=colour, ec=PAPER, lw=1.5, gid=name))
        label = tick_text(value) if known else "–"
        axes.text(column, row, label, ha="center", va="center", color=ink, fontsize=9)
        if {*best} & {*inside}:
            axes.add_patch(
                Rectangle((column - 0.45, row - 0.45), 0.9, 0.9, fill=False, ec=ORANGE, lw=2.2, label="best")
            )
        elif {*tied} & {*inside}:
            corner = (column - 0.45, row - 0.45)
            axes.add_patch(Rectangle(corner, 0.9, 0.9, fill=False, ec=ink, lw=1.2, ls=(0, (3, 2)), label="tied"))
    axes.set(xlim=(-0.5, len(mean.columns) - 0.5), ylim=(-0.5, len(mean) - 0.5))
    axes.set_xticks(range(len(mean.columns)), [shortened(text, 12) for text in mean.columns])
    axes.set_yticks(range(len(mean)), [shortened(text, 12) for text in mean.index])
    if max(len(text) for text in mean.columns) > 7:
        axes.tick_params(axis="x", rotation=30)
    axes.set(xlabel=words(pair[1]), ylabel=words(pair[0]))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _limits(values: np.ndarray[tuple[int], np.dtype[np.float64]], up: bool) -> tuple[float, float]:
    """Returns the limits of the colours, so that one very bad cell does not make all others look equal."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    first, third = np.quantile(finite, [0.25, 0.75])
    far = 3 * (third - first)
    low, high = (max(finite.min(), first - far), finite.max()) if up else (finite.min(), min(finite.max(), third + far))
    return (float(low), float(high)) if low < high else (float(low) - 0.5, float(high) + 0.5)
