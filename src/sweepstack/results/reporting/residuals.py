"""What a regression gets wrong: predictions against targets, and the largest residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweepstack.results.reporting.plots.style import BLUE, GREY, INK, ORANGE, SINGLE, figure, styled
from sweepstack.results.reporting.predicted import Predicted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_OUTPUTS = 6
"""The most outputs that have a panel each."""
MAX_LISTED = 12
"""The most residuals that are listed."""


def largest_residuals(found: Predicted) -> NDArray[Any]:
    """Returns the items and outputs with the largest residuals, int64 [k, 2], the largest first.

    The residuals of an output count in units of the standard deviation of its targets.
    """
    spread = found.targets.std(0, dtype=np.float64)
    sizes = np.abs(found.targets - found.values) / np.where(spread > 0, spread, 1.0)
    order = np.argsort(-sizes, axis=None, kind="stable")[:MAX_LISTED]
    return np.column_stack(np.unravel_index(order, sizes.shape))


def predicted_and_true(found: Predicted) -> Figure:
    """Draws the predictions against the targets, a panel for each output; on the line, both are equal."""
    outputs = min(found.targets.shape[1], MAX_OUTPUTS)
    columns = min(outputs, 3)
    rows = -(-outputs // columns)
    marked = largest_residuals(found)
    with styled():
        drawn = figure(max(5.0, 3.4 * columns), 0.6 + (4.2 if columns == 1 else 3.4) * rows)
        panels = drawn.subplots(rows, columns, squeeze=False).flatten()
        for output, axes in enumerate(panels):
            if output >= outputs:
                axes.set_visible(False)
                continue
            true, predicted = found.targets[:, output], found.values[:, output]
            ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
            axes.plot(ends, ends, color=BLUE, lw=1.2, zorder=3)
            axes.plot(true, predicted, "o", color=GREY, ms=4, mew=0, alpha=0.6, zorder=2, rasterized=len(true) > SINGLE)
            items = marked[marked[:, 1] == output, 0]
            axes.plot(true[items], predicted[items], "o", mfc="none", mec=ORANGE, mew=1.4, ms=7, zorder=4)
            axes.set(xlabel="true value", ylabel="predicted value", title=f"output {output}" if outputs > 1 else "")
        drawn.suptitle("What the model predicts, and what is true", x=0.01, ha="left")
    return drawn


def residual_bars(found: Predicted) -> Figure:
    """Draws the largest residuals, the largest on top, with the target and the prediction of each."""
    listed = largest_residuals(found)
    several = found.targets.shape[1] > 1
    with styled():
        drawn = figure(8.0, 1.2 + 0.36 * len(listed))
        axes = drawn.subplots()
        pairs = [(float(found.targets[item, output]), float(found.values[item, output])) for item, output in listed]
        axes.barh(range(len(listed)), [true - predicted for true, predicted in pairs], color=ORANGE, height=0.6)
        names = [f"item {item}{f', output {output}' if several else ''}" for item, output in listed.tolist()]
        labels = [
            f"{name}: true {true:.4g}, predicted {predicted:.4g}"
            for name, (true, predicted) in zip(names, pairs, strict=True)
        ]
        axes.set_yticks(range(len(listed)), labels)
        axes.invert_yaxis()
        axes.axvline(0, color=INK, lw=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("residual: true minus predicted value")
        drawn.suptitle("The largest residuals of the model", x=0.01, ha="left")
    return drawn
