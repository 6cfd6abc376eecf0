"""What a training minimizes: the cross entropy, or the loss that the config names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import ConfigError, UserError, one_line
from sweepstack.training.instantiate import check_keywords, instantiate

WEIGHTS = ("weight", "pos_weight")
"""Keywords of a loss that it takes as tensors; a config writes them as lists of numbers."""


class Loss:
    """The mean loss of a batch, and sums over a part of the data from which the mean over all of them follows."""

    def __init__(self, mean: Callable[[Tensor, Tensor], Tensor] = cross_entropy) -> None:
        self.mean = mean
        """Takes logits [n, classes] and labels int64 [n]; gives a tensor without axes."""

    def sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        """The loss summed over images, and what to divide the sum by.

        Args:
            logits: [n, classes].
            labels: int64 [n].
        """
        return cross_entropy(logits, labels, reduction="sum"), len(labels)

    def stacked_sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        """The same for each member of a stack.

        Args:
            logits: [K, classes, n].
            labels: int64 [n].

        Returns:
            The sums [K], and what to divide them by.
        """
        expected = labels.expand(len(logits), -1)
        return cross_entropy(logits, expected, reduction="none").sum(1), len(labels)


class ModuleLoss(Loss):
    """A loss that the config names, such as a cross entropy with label smoothing or class weights."""

    def __init__(self, module: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(module)
        weight = getattr(module, "weight", None)
        self._weight = weight if type(module) is nn.CrossEntropyLoss and isinstance(weight, Tensor) else None
        """PyTorch divides a weighted cross entropy by the weights of the labels."""

    def sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        count = len(labels) if self._weight is None else self._weight[labels].sum()
        return self.mean(logits, labels) * count, count

    def stacked_sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        count = len(labels) if self._weight is None else self._weight[labels].sum()
        return torch.stack([self.mean(one.T, labels) for one in logits]) * count, count


def build_loss(config: TrialConfig, device: torch.device) -> Loss:
    """The loss of a config, on a device.

    Raises:
        ConfigError: it cannot be made, or has parameters.
    """
    named = config.task.loss
    if named is None:
        return Loss()
    keywords = named.keywords
    try:
        for name in WEIGHTS:
            if isinstance(keywords.get(name), list):
                keywords[name] = torch.tensor(keywords[name], dtype=torch.get_default_dtype(), device=device)
        module = instantiate({"_target_": named.target, **keywords}, "task.loss")
    except UserError:
        raise
    except Exception as error:
        rule = f"task.loss: {named.target} refuses its values: {one_line(error)}"
        raise ConfigError(rule, remedy="change it") from error
    if isinstance(module, nn.Module):
        if any(True for _ in module.parameters()):
            rule = f"task.loss must have no parameters of its own, which nothing would train; {named.target} has some"
            raise ConfigError(rule, remedy="make them part of the model")
        module = module.to(device)
    if not callable(module):
        rule = f"task.loss must give something that is called with logits and labels, {named.target} gives"
        raise ConfigError(rule, type(module).__name__, "name a class such as torch.nn.CrossEntropyLoss")
    return ModuleLoss(module)


def check_loss(config: TrialConfig) -> None:
    """Checks that a loss can be made and takes the logits and labels of the dataset.

    Raises:
        ConfigError: it cannot, or gives another thing than one number with a gradient.
    """
    named = config.task.loss
    if named is None:
        return
    check_keywords("task.loss", named.target, 0, named.keywords)
    loss, classes = build_loss(config, torch.device("cpu")), config.dataset.classes or 1
    logits = torch.zeros(2 * classes, classes, requires_grad=True)
    labels = torch.arange(classes).repeat(2)
    try:
        value = loss.mean(logits, labels)
    except Exception as error:
        rule = f"task.loss: {named.target} does not take logits [n, {classes}] and labels [n]: {one_line(error)}"
        raise ConfigError(rule, remedy="correct it; class weights need one number for each class") from error
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        shape = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        shape = "a number without a gradient" if isinstance(value, Tensor) and not value.ndim else shape
        rule = f"task.loss must give one number that has a gradient, {named.target} gives {shape}"
        raise ConfigError(rule, remedy='use its mean, such as reduction="mean"')
