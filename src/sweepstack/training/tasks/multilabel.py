"""Multi-label classification: any number of labels for each item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import ConfigError, DataError
from sweepstack.training.tasks.classification import AVERAGES
from sweepstack.training.tasks.measures import Measure, mean_where, torchmetric
from sweepstack.training.tasks.task import Task


class Multilabel(Task):
    """Labels that are there (1) or not (0): outputs are logits [n, classes], targets are float32 [n, classes].

    A label is predicted if its logit is positive. The loss is the binary cross entropy in nats, a mean over labels.
    `accuracy` is the share of right labels; the other metrics are those of torchmetrics.
    """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task.loss`: the binary cross entropy."""
        return binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))

    def predictions(self, outputs: Tensor) -> Tensor:
        """See `Task.predictions`: bool [..., n, classes]."""
        return outputs > 0

    def stored(self, predictions: Tensor, outputs: Tensor) -> Tensor:
        """See `Task.stored`: uint8, 0 or 1."""
        return predictions.to(torch.uint8)

    def check_outputs(self, outputs: Tensor, targets: Tensor, config: TrialConfig) -> None:
        """See `Task.check_outputs`: one logit for each label."""
        labels = config.dataset.classes
        if list(outputs.shape[1:]) != [labels]:
            rule = f"model must give one logit for each of the {labels} labels, {config.model.target} gives"
            raise ConfigError(f"{rule} {list(outputs.shape[1:])}", remedy="let it use ${dataset.classes}")

    def check_targets(self, targets: Tensor, dataset: DatasetConfig, part: str) -> Tensor:
        """See `Task.check_targets`: 0 or 1 for each of `dataset.classes` labels; float32 [n, classes]."""
        shape = list(targets.shape[1:])
        if shape != [dataset.classes]:
            rule = f"a target must have 0 or 1 for each of {dataset.classes} labels, as dataset.classes says"
            remedy = f"set dataset.classes={shape[0]}" if len(shape) == 1 else "give each item a row of 0 and 1"
            raise DataError(f"{rule}, a {part} target of {dataset.target} has not", f"shape {shape}", remedy)
        wrong = ((targets != 0) & (targets != 1)).nonzero()
        if len(wrong):
            index = wrong[0].tolist()
            where = f"label {index[1]} of {part} item {index[0]} (from 0) of {dataset.target}"
            rule = f"a label must be 0 or 1, {where} is not"
            raise DataError(rule, targets[tuple(index)].item(), "correct it")
        return targets.float()

    def measures(self) -> Mapping[str, Measure]:
        """See `Task.measures`."""
        averaged = {
            f"{name}_{average}": Measure(whole=_of_labels(f"multilabel_{function}", average=average))
            for name, function, average in AVERAGES
        }
        return {
            **averaged,
            "accuracy": Measure(summed=lambda _, predicted, targets: (predicted == targets).float().mean(2).sum(1)),
            "exact_match": Measure(summed=lambda _, predicted, targets: (predicted == targets).all(2).sum(1)),
            "auroc": Measure(whole=_each_label("multilabel_auroc", needs_others=True)),
            "average_precision": Measure(whole=_each_label("multilabel_average_precision")),
        }

    def examples(self, count: int, dataset: DatasetConfig) -> Tensor:
        """See `Task.examples`."""
        labels = dataset.classes or 1
        return ((torch.arange(count)[:, None] + torch.arange(labels)) % 2).float()


def _of_labels(function: str, **keywords: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def compute(outputs: Tensor, targets: Tensor) -> Tensor:
        labels, predicted = outputs.shape[-1], (outputs > 0).long()
        return torchmetric("classification", function, predicted, targets.long(), num_labels=labels, **keywords)

    return compute


def _each_label(function: str, needs_others: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the mean over labels of a metric of one label, by its probability."""

    def compute(outputs: Tensor, targets: Tensor) -> Tensor:
        labels, probabilities = outputs.shape[-1], outputs.double().sigmoid()
        values = torchmetric(
            "classification", function, probabilities, targets.long(), num_labels=labels, average=None, thresholds=None
        )
        counts = targets.sum(0)
        return mean_where(values, (counts > 0) & ((counts < len(targets)) | (not needs_others)))

    return compute
