"""Regression: one or more numbers for each item."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import ConfigError, DataError
from sweepstack.training.data.conversion import LARGEST_EXACT_FLOAT32, WHOLE
from sweepstack.training.tasks.measures import Measure, root, torchmetric
from sweepstack.training.tasks.task import Task

ROUNDED = 1e-3
"""The largest error of rounding targets to float32, in their standard deviations."""


class Regression(Task):
    """Numbers for each item: outputs and targets are float [n, outputs].

    A model may give [n] if `dataset.outputs` is 1. The loss is the mean squared error. Metrics are in the units of the
    targets, and means over the outputs.
    """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task.loss`: the mean squared error."""
        return mse_loss(outputs, targets.to(outputs.dtype) if outputs.dtype == torch.float64 else targets)

    def aligned(self, outputs: Tensor, targets: Tensor, stacked: bool = False) -> Tensor:
        """See `Task.aligned`: [n] becomes [n, 1], so that no loss broadcasts it against the targets."""
        return outputs if outputs.ndim == targets.ndim + stacked else outputs.unsqueeze(-1)

    def stored(self, predictions: Tensor, outputs: Tensor) -> Tensor:
        """See `Task.stored`: float32."""
        return predictions.float()

    def check_outputs(self, outputs: Tensor, targets: Tensor, config: TrialConfig) -> None:
        """See `Task.check_outputs`: as many numbers as `dataset.outputs`."""
        wanted = config.dataset.outputs
        if list(outputs.shape[1:]) != [wanted] and not (wanted == 1 and outputs.ndim == 1):
            rule = f"model must give {wanted} numbers for each item, {config.model.target} gives"
            raise ConfigError(f"{rule} {list(outputs.shape[1:])}", remedy="let it use ${dataset.outputs}")

    def check_targets(self, targets: Tensor, dataset: DatasetConfig, part: str) -> Tensor:
        """See `Task.check_targets`: `dataset.outputs` finite numbers for each item; float32 [n, outputs]."""
        wanted, target = dataset.outputs or 1, dataset.target
        shape = list(targets.shape[1:])
        if shape != [wanted] and not (wanted == 1 and shape == []):
            size = 1 if not shape else shape[0]
            remedy = f"set dataset.outputs={size}" if len(shape) < 2 else "give each item one row of numbers"
            rule = f"a target must be {wanted} numbers, as dataset.outputs says; a {part} target of {target} is not"
            raise DataError(rule, f"shape {shape}", remedy)
        if targets.dtype in WHOLE:
            numbers = targets.numpy()
            worst = max(int(numbers.max()), -int(numbers.min()))
            if worst > LARGEST_EXACT_FLOAT32:
                limit = f"{LARGEST_EXACT_FLOAT32:,}"
                rule = f"whole {part} targets of {target} must be at most {limit}, or float32 rounds them"
                raise DataError(rule, worst, "scale them")
            targets = torch.from_numpy(numbers.astype("float32"))
        floats = targets.float().reshape(len(targets), wanted)
        bad = (~floats.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            rule = f"all {part} targets of {target} must be finite as float32"
            remedy = f"correct or leave out {len(bad):,} of {len(floats):,} items, first number {int(bad[0])} (from 0)"
            raise DataError(rule, floats[bad[0]].tolist(), remedy)
        exact = targets.double().reshape(floats.shape)
        lost = (floats.double() - exact).abs().amax(0)
        for column in (lost > ROUNDED * exact.std(0, correction=0)).nonzero().flatten().tolist():
            which = f" (number {column} of each, from 0)" if wanted > 1 else ""
            rule = f"{part} targets of {target}{which} must differ by more than float32 rounds, which is up to"
            value = f"around {float(floats[:, column].mean()):g}"
            raise DataError(f"{rule} {float(lost[column]):g}", value, "subtract their mean, or scale them")
        return floats

    def measures(self) -> Mapping[str, Measure]:
        """See `Task.measures`."""
        return {
            "mse": Measure(summed=_squares),
            "rmse": Measure(summed=_squares, finish=root),
            "mae": Measure(summed=lambda _, predicted, targets: (predicted - targets).abs().mean(2).sum(1)),
            "r2": Measure(whole=_of_several("r2_score")),
            "explained_variance": Measure(whole=_of_several("explained_variance")),
            "pearson": Measure(whole=_of_several("pearson_corrcoef")),
            "spearman": Measure(whole=_of_several("spearman_corrcoef")),
        }

    def examples(self, count: int, dataset: DatasetConfig) -> Tensor:
        """See `Task.examples`."""
        return torch.linspace(-1, 1, count)[:, None].repeat(1, dataset.outputs or 1)


def _squares(outputs: Tensor, predicted: Tensor, targets: Tensor) -> Tensor:
    return (predicted - targets).square().mean(2).sum(1)


def _of_several(function: str) -> Callable[[Tensor, Tensor], Tensor | float]:
    """Returns the mean over the outputs of a metric of two items or more."""

    def compute(outputs: Tensor, targets: Tensor) -> Tensor | float:
        if len(targets) < 2:
            return float("nan")
        pairs = zip(outputs.double().unbind(-1), targets.double().unbind(-1), strict=True)
        return torch.stack([torchmetric("regression", function, *pair) for pair in pairs]).mean()

    return compute
