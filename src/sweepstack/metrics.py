"""The metrics that sweepstack knows, and which values of a metric are the best. No PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

Mode = Literal["min", "max"]
"""Whether the smallest or the largest value of a metric is the best."""
CLASSIFICATION = "sweepstack.training.tasks.Classification"
REGRESSION = "sweepstack.training.tasks.Regression"
MULTILABEL = "sweepstack.training.tasks.Multilabel"
OWN_METRIC = {CLASSIFICATION: "accuracy", REGRESSION: "rmse", MULTILABEL: "f1_macro"}
"""The metric of each task that is always measured beside the loss, and that selects trials by default."""
BEST = "_best"
"""The end of the name of the best value of a metric so far, such as val/accuracy_best."""
NO_RESULTS = ("train/lr",)
"""Inputs that are logged as metrics; they are not results."""


class Known(NamedTuple):
    """What is known of a metric."""

    mode: Mode
    proportion: bool
    """True if its values are from 0 to 1."""
    tasks: tuple[str, ...]
    """The tasks that can be measured by it."""


_LABELS = (CLASSIFICATION, MULTILABEL)
KNOWN = {
    "loss": Known("min", False, (CLASSIFICATION, REGRESSION, MULTILABEL)),
    "accuracy": Known("max", True, _LABELS),
    "balanced_accuracy": Known("max", True, (CLASSIFICATION,)),
    "f1_macro": Known("max", True, _LABELS),
    "f1_micro": Known("max", True, _LABELS),
    "f1_weighted": Known("max", True, _LABELS),
    "precision_macro": Known("max", True, _LABELS),
    "recall_macro": Known("max", True, _LABELS),
    "auroc": Known("max", True, _LABELS),
    "average_precision": Known("max", True, _LABELS),
    "cohen_kappa": Known("max", False, (CLASSIFICATION,)),
    "matthews_corrcoef": Known("max", False, (CLASSIFICATION,)),
    "calibration_error": Known("min", True, (CLASSIFICATION,)),
    "exact_match": Known("max", True, (MULTILABEL,)),
    "rmse": Known("min", False, (REGRESSION,)),
    "mse": Known("min", False, (REGRESSION,)),
    "mae": Known("min", False, (REGRESSION,)),
    "r2": Known("max", False, (REGRESSION,)),
    "explained_variance": Known("max", False, (REGRESSION,)),
    "pearson": Known("max", False, (REGRESSION,)),
    "spearman": Known("max", False, (REGRESSION,)),
}
"""The metrics by name. `training/tasks` computes them."""


def bare_name(metric: str) -> str:
    """Returns the name of a metric without the part of the data and without `_best`: val/accuracy_best is accuracy."""
    return metric.rpartition("/")[2].removesuffix(BEST)


def rounded(value: float) -> str:
    """Returns a value of a metric as people read it: four digits after the point, or two that count if it is small."""
    return format(value, ".4f" if 0.001 <= abs(value) < 1e6 or value == 0 else ".2g" if abs(value) < 1 else "g")


def is_better(value: float, than: float, mode: Mode) -> bool:
    """True if a value of a metric is better than another one. NaN is never better; any number is better than NaN.

    Args:
        value: the value.
        than: the other one.
        mode: whether the smallest or the largest value is the best.
    """
    if than != than:
        return value == value
    return value > than if mode == "max" else value < than


class Direction(NamedTuple):
    """What a task says of a metric that is not in `KNOWN`."""

    mode: Mode
    proportion: bool = False


class Metric(str):
    """The name of a metric, with the direction of its values.

    Whatever sorts, colours or selects by a metric takes one, so that nobody guesses the direction from a name.

    Args:
        name: the name, such as val/rmse.
        mode: whether the smallest or the largest value is the best.
        proportion: True if its values are from 0 to 1.
    """

    mode: Mode
    proportion: bool

    def __new__(cls, name: str, mode: Mode, proportion: bool = False) -> Self:
        metric = super().__new__(cls, name)
        metric.mode, metric.proportion = mode, proportion
        return metric

    def __getnewargs__(self) -> tuple[str, Mode, bool]:  # type: ignore[override]  # for copies and pickles
        return str(self), self.mode, self.proportion

    @property
    def larger_is_better(self) -> bool:
        """True if the largest value is the best."""
        return self.mode == "max"


def with_direction(name: str, declared: Mapping[str, Direction]) -> Metric:
    """Returns a metric with its direction: a known one, else as it was declared, else the smallest value is the best.

    Args:
        name: the name, such as val/rmse.
        declared: what the task says of metrics that are not known, by their bare names.
    """
    bare = bare_name(name)
    known = KNOWN.get(bare) or declared.get(bare, Direction("min"))
    return Metric(name, known.mode, known.proportion)
