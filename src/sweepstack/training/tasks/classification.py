"""Classification: one class for each item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import ConfigError, DataError
from sweepstack.training.data.conversion import REAL, WHOLE
from sweepstack.training.tasks.measures import Measure, mean_where, torchmetric
from sweepstack.training.tasks.task import Task

AVERAGES = (
    *(("f1", "f1_score", average) for average in ("macro", "micro", "weighted")),
    ("precision", "precision", "macro"),
    ("recall", "recall", "macro"),
)
"""Averages over classes: the name of the metric, the end of the name of torchmetrics' function, and the average."""


class Classification(Task):
    """One class for each item: outputs are logits [n, classes], targets are class indices int64 [n].

    The loss is the cross entropy, in nats. The metrics are those of torchmetrics; averages over classes leave out the
    classes for which the metric is undefined because they do not occur.
    """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task.loss`: the cross entropy."""
        return cross_entropy(outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """See `Task.predictions`: the class with the largest logit, int64."""
        if outputs.is_contiguous():
            return outputs.argmax(-1)
        return outputs.max(-1).indices  # 18 times as fast as argmax where the batch is the last axis in memory

    def stored(self, predictions: Tensor, outputs: Tensor) -> Tensor:
        """See `Task.stored`: uint8, or int32 if there are more than 256 classes."""
        return predictions.to(torch.uint8 if outputs.shape[-1] <= 256 else torch.int32)

    def check_outputs(self, outputs: Tensor, targets: Tensor, config: TrialConfig) -> None:
        """See `Task.check_outputs`: one logit for each class."""
        classes = config.dataset.classes
        if list(outputs.shape[1:]) != [classes]:
            rule = f"model must give one logit for each of the {classes} classes, {config.model.target} gives"
            raise ConfigError(f"{rule} {list(outputs.shape[1:])}", remedy="let it use ${dataset.classes}")

    def measures(self) -> Mapping[str, Measure]:
        """See `Task.measures`."""
        averaged = {
            f"{name}_{average}": Measure(whole=_of_classes(f"multiclass_{function}", average=average))
            for name, function, average in AVERAGES
        }
        return {
            **averaged,
            "accuracy": Measure(summed=lambda _, predictions, targets: (predictions == targets).sum(1)),
            "balanced_accuracy": Measure(whole=_balanced_accuracy),
            "auroc": Measure(whole=_each_class("multiclass_auroc", needs_others=True)),
            "average_precision": Measure(whole=_each_class("multiclass_average_precision")),
            "cohen_kappa": Measure(whole=_of_classes("multiclass_cohen_kappa")),
            "matthews_corrcoef": Measure(whole=_of_classes("multiclass_matthews_corrcoef")),
            "calibration_error": Measure(whole=_calibration_error),
        }

    def examples(self, count: int, dataset: DatasetConfig) -> Tensor:
        """See `Task.examples`."""
        return torch.arange(count) % (dataset.classes or 1)

    def check_targets(self, targets: Tensor, dataset: DatasetConfig, part: str) -> Tensor:
        """See `Task.check_targets`: one class index for each item, from 0 to below `dataset.classes`; int64 [n]."""
        labels, target = targets, dataset.target
        if labels.ndim != 1:
            shape = list(labels.shape[1:])
            if labels[0].numel() == 1:
                remedy = "give the number inside it: labels.flatten(), or int(label)"
            elif shape == [dataset.classes] and bool(
                ((labels == 0) | (labels == 1)).all() and (labels.sum(1) > 1).any()
            ):
                remedy = "for several labels of one image use task=multilabel"
            elif shape == [dataset.classes]:
                remedy = "for one-hot labels give labels.argmax(1), or label.argmax()"
            else:
                remedy = "give the class as an integer; for several labels of one image use task=multilabel"
            rule = f"a label must be one class index, a {part} label of {target} has several numbers or axes"
            raise DataError(rule, f"shape {shape}", remedy)
        if labels.dtype not in WHOLE:
            whole = labels.isfinite() & (labels == labels.round())
            if not bool(whole.all()):
                index = int((~whole).nonzero()[0])
                raise DataError(
                    f"a label must be a class index (0, 1, 2, ...), {part} label {index} (from 0) of {target} is none",
                    float(labels[index]),
                    "for numbers to predict use task=regression; else give each class an index",
                )
        low, high = (float(bound) if labels.dtype in REAL else int(bound) for bound in _bounds(labels))
        if low < 0:
            raise DataError(
                f"a label must be a class index from 0, {part} labels of {target} begin below",
                int(low),
                "renumber them",
            )
        if high >= (dataset.classes or 0):
            raise DataError(
                f"dataset.classes must be more than every label, {part} labels of {target} are {low:.0f} to {high:.0f}",
                dataset.classes,
                f"set dataset.classes={high + 1:.0f}, or number the classes from 0",
            )
        return labels.long()


def _bounds(labels: Tensor) -> tuple[Any, Any]:
    numbers = labels.numpy() if labels.dtype in WHOLE else labels.double().numpy()
    return numbers.min(), numbers.max()


def _of_classes(function: str, **keywords: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def compute(outputs: Tensor, targets: Tensor) -> Tensor:
        classes = outputs.shape[-1]
        return torchmetric("classification", function, outputs.argmax(-1), targets, num_classes=classes, **keywords)

    return compute


def _each_class(function: str, needs_others: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the mean over classes of a metric of one class against the others, by their probabilities."""

    def compute(outputs: Tensor, targets: Tensor) -> Tensor:
        classes = outputs.shape[-1]
        probabilities = outputs.double().softmax(-1)
        values = torchmetric(
            "classification", function, probabilities, targets, num_classes=classes, average=None, thresholds=None
        )
        counts = targets.bincount(minlength=classes)
        return mean_where(values, (counts > 0) & ((counts < len(targets)) | (not needs_others)))

    return compute


def _balanced_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    recalls = _of_classes("multiclass_recall", average=None)(outputs, targets)
    return mean_where(recalls, targets.bincount(minlength=outputs.shape[-1]) > 0)


def _calibration_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The expected calibration error in 15 bins (Guo et al., 2017)."""
    probabilities, classes = outputs.double().softmax(-1), outputs.shape[-1]
    return torchmetric("classification", "multiclass_calibration_error", probabilities, targets, num_classes=classes)
