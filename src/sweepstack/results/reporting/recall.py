"""How much a model finds of each class, or of each label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweepstack.results.reporting.plots.style import BLUE, INK, figure, styled
from sweepstack.results.reporting.predicted import Predicted
from sweepstack.results.selection.statistics import wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNEVEN = 1.5
"""Classes are uneven if the largest has this many times as many test items as the smallest."""
MAX_LISTED = 30
"""The most classes that are drawn: those with the lowest recall."""


@dataclass(frozen=True)
class Recall:
    """How many test items have each class or label, and for how many of them the model says so."""

    kind: str
    """class or label."""
    found: NDArray[Any]
    """int64 [classes]."""
    counts: NDArray[Any]
    """int64 [classes]."""

    @property
    def uneven(self) -> bool:
        """True if some classes have far fewer test items than others."""
        return bool(self.counts.max() >= UNEVEN * self.counts.min())


def recall_of_classes(confusion: NDArray[Any]) -> Recall:
    """Counts by the confusion matrix of true (rows) and predicted classes, int64 [classes, classes]."""
    return Recall("class", np.diag(confusion), confusion.sum(1))


def recall_of_labels(predicted: Predicted) -> Recall:
    """Counts by what was predicted of several labels."""
    targets, values = predicted.targets > 0.5, predicted.values > 0.5
    return Recall("label", (targets & values).sum(0), targets.sum(0))


def recall_bars(recall: Recall) -> Figure:
    """Draws the recall of each class with Wilson's interval, the lowest on top, without classes that no item has."""
    known = np.flatnonzero(recall.counts)
    shares = recall.found[known] / recall.counts[known]
    order = np.argsort(shares, kind="stable")[:MAX_LISTED]
    listed, shares = known[order], shares[order]
    bounds = np.array([wilson(int(recall.found[one]), int(recall.counts[one])) for one in listed]).reshape(-1, 2)
    with styled():
        drawn = figure(8.0, 1.2 + 0.32 * len(listed))
        axes = drawn.subplots()
        reach = np.abs(bounds.T - shares)
        axes.barh(
            range(len(listed)), shares, xerr=reach, color=BLUE, height=0.6, error_kw={"ecolor": INK, "capsize": 3}
        )
        axes.set_yticks(
            range(len(listed)), [f"{recall.kind} {one} (of {recall.counts[one]:,})" for one in listed.tolist()]
        )
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlim=(0, 1), xlabel=f"recall: the part of the test items with the {recall.kind} that the model finds")
        which = "Recall of each" if len(listed) == len(known) else f"The {len(listed)} lowest recalls of a"
        drawn.suptitle(f"{which} {recall.kind}", x=0.01, ha="left")
    return drawn
