"""Draws tuning curves: how good the best of so many trials is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sweepstack.metrics import Metric
from sweepstack.results.reporting.plots.style import (
    BLUE,
    DASHES,
    ORANGE,
    figure,
    legend,
    objective_words,
    sentence_case,
    shortened,
    styled,
    title,
    wrapped,
)
from sweepstack.results.tuning.curves import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = ((BLUE, "-", "o"), (ORANGE, DASHES, "s"))
"""The colour, line and mark of each curve."""
MANY = 100
"""Trials from which their axis is logarithmic."""


def tuning_curves(curves: Mapping[str, Curve], objective: Metric, what: str = "trials") -> Figure:
    """Draws one curve, or two side by side, with their bands.

    Args:
        curves: the curves by the names of their sweeps.
        objective: the metric.
        what: what is counted.
    """
    from matplotlib.ticker import MaxNLocator

    with styled():
        drawn = figure(8.0, 4.0)
        axes = drawn.subplots()
        most = max(map(len, curves.values()))
        axes.set_ylim(*_limits([*curves.values()]))
        low, high = axes.get_ylim()
        for (colour, line, mark), (name, curve) in zip(LOOKS, curves.items(), strict=False):
            n = np.arange(1, len(curve) + 1)
            if curve.low is not None and curve.high is not None:
                lower, upper = np.clip(curve.low, low, high), np.clip(curve.high, low, high)
                axes.fill_between(n, lower, upper, color=colour, alpha=0.18, lw=0)
            shown = np.where(np.isfinite(curve.median), curve.median, np.nan)
            axes.plot(
                n,
                shown,
                color=colour,
                ls=line,
                lw=2,
                marker=mark if len(curve) <= 30 else "",
                ms=4,
                label=shortened(name, 60),
            )
        if most > MANY:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: format(value, ",g"))
        else:
            axes.set_xlim(1 - 0.03 * most, most + 0.03 * most)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, prune="lower" if most > 20 else None))
        axes.set(xlabel=f"number of {what}", ylabel=wrapped(objective))
        if len(curves) > 1:
            legend(drawn, 2)
        title(drawn, f"{sentence_case(objective_words(objective))}: the best of so many {what}")
    return drawn


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Returns the range of values that holds all medians; of a band as much as it holds is shown."""
    medians = np.concatenate([curve.median for curve in curves])
    medians = medians[np.isfinite(medians)]
    low, high = float(medians.min()), float(medians.max())
    room = 0.06 * (high - low) or 0.01 * abs(high) or 0.5
    return low - room, high + room
