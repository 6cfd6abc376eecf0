"""The metrics that sweepstack knows: which values are better, and which are proportions. No PyTorch."""

from __future__ import annotations

from typing import Literal, NamedTuple

Mode = Literal["min", "max"]
"""Whether the smallest or the largest value of a metric is the best."""
CLASSIFICATION = "sweepstack.training.tasks.Classification"
REGRESSION = "sweepstack.training.tasks.Regression"
MULTILABEL = "sweepstack.training.tasks.Multilabel"
OWN_METRIC = {CLASSIFICATION: "accuracy", REGRESSION: "rmse", MULTILABEL: "f1_macro"}
"""The metric of each task that is always measured beside the loss, and that selects trials by default."""
BEST = "_best"
"""The end of the name of the best value of a metric so far, such as val/accuracy_best."""


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


def is_better(value: float, than: float, mode: Mode) -> bool:
    """True if a value of a metric is better than another one. NaN is never better; any number is better than NaN.

    Args:
        value: the value.
        than: the other value.
        mode: whether small or large values are better.
    """
    if than != than:
        return value == value
    return value > than if mode == "max" else value < than
