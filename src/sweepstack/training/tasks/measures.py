"""Metrics: from sums over batches, or from all outputs of a part of the data at once."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """How a metric is computed; either `summed` or `whole` is given."""

    summed: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Takes the outputs [K, n, ...] and predictions [K, n, ...] of K models for a batch and the targets [n, ...], and
    returns a sum over the batch for each model, [K]."""
    finish: Callable[[float], float] = float
    """Takes the mean over all items; returns the metric."""
    whole: Callable[[Tensor, Tensor], Tensor | float] | None = None
    """Takes all outputs [N, ...] of one model and all targets [N, ...]; returns the metric, NaN if it is undefined."""


LossSums = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | int]]
"""Takes outputs and targets of a batch; returns the sum of the loss, and what to divide the sum by."""


def torchmetric(where: str, name: str, *arguments: Tensor, **keywords: Any) -> Tensor:
    """Calls a function of `torchmetrics.functional`, whose import takes seconds, so that it is late.

    Args:
        where: the module that has the function.
        name: the name of the function.
        arguments: its positional arguments.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that do not occur; the callers leave them out
        function = getattr(importlib.import_module(f"torchmetrics.functional.{where}"), name)
        found: Tensor = function(*arguments, **keywords)
    return found


def mean_where(values: Tensor, defined: Tensor) -> Tensor:
    """Returns the mean of the values that are defined; NaN if none is.

    Args:
        values: [classes].
        defined: bool [classes].
    """
    return values[defined].mean()


class Totals:
    """Collects what a part of the data is measured by, batch by batch.

    Args:
        loss: sums of the loss over a batch, or how it is computed of a whole part.
        measures: the metrics by name.
    """

    def __init__(self, loss: LossSums | Measure, measures: Mapping[str, Measure]) -> None:
        self._loss_sums = None if isinstance(loss, Measure) else loss
        every = {"loss": loss, **measures} if isinstance(loss, Measure) else measures
        self._summed = {name: (one.summed, one.finish) for name, one in every.items() if one.summed is not None}
        self._whole = {name: one.whole for name, one in every.items() if one.whole is not None}
        self._losses: list[Tensor] = []
        self._parts: Tensor | int = 0
        self._sums: dict[str, list[Tensor]] = {name: [] for name in self._summed}
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._count = self._models = 0

    def add(self, outputs: Tensor, predictions: Tensor, targets: Tensor, stacked: bool = False) -> None:
        """Adds a batch.

        Args:
            outputs: of one model [n, ...], or of a stack [K, n, ...].
            predictions: those of the outputs.
            targets: [n, ...].
            stacked: True if the outputs are of a stack.
        """
        if self._loss_sums is not None:
            total, part = self._loss_sums(outputs, targets)
            self._losses.append(total)
            self._parts = self._parts + part
        if not stacked:
            outputs, predictions = outputs[None], predictions[None]
        for name, (summed, _) in self._summed.items():
            self._sums[name].append(summed(outputs, predictions, targets))
        if self._whole:
            self._outputs.append(outputs)
            self._targets.append(targets)
        self._count += len(targets)
        self._models = len(outputs)

    def metrics(self, only: Collection[int] | None = None) -> list[dict[str, float]]:
        """Returns the loss and the metrics of each model, by name.

        Args:
            only: the models to compute the metrics of that need all outputs at once; by default all. A model whose loss
                is not a finite number has no such metrics: they are NaN.
        """
        found: list[dict[str, float]] = [{} for _ in range(self._models)]
        if self._losses:
            losses = torch.stack(self._losses).sum(0).reshape(-1).cpu().double() / float(self._parts)
            for model, loss in zip(found, losses.tolist(), strict=True):
                model["loss"] = loss
        for name, (_, finish) in self._summed.items():
            means = torch.stack(self._sums[name]).sum(0).cpu().double() / self._count
            for model, mean in zip(found, means.tolist(), strict=True):
                model[name] = finish(mean)
        if self._whole:
            outputs, targets = torch.cat(self._outputs, 1), torch.cat(self._targets)
            for index, (model, own) in enumerate(zip(found, outputs, strict=True)):
                for name, whole in self._whole.items() if only is None or index in only else ():
                    diverged = not math.isfinite(model.get("loss", 0.0))
                    model[name] = math.nan if diverged else as_number(name, whole(own, targets))
        return found


def as_number(name: str, value: object) -> float:
    """Returns the value of a metric as a number.

    Args:
        name: the name of the metric.
        value: what its function returned.

    Raises:
        TypeError: it is not one number.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"the metric {name} must be one number, got {got}") from None


def root(mean: float) -> float:
    """Returns the square root of a mean; NaN for NaN."""
    return math.sqrt(mean) if mean >= 0 else math.nan
