"""The loss that a config names with `task.loss`: building it, checking it, and sums of it over batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sweepstack.blame import contained
from sweepstack.config.trial_sections import LossConfig
from sweepstack.errors import ConfigError, UserError, one_line
from sweepstack.training.instantiate import instantiate
from sweepstack.training.module_state import Attributes

WEIGHTS = ("weight", "pos_weight")
"""Keywords of a loss that it takes as tensors; a config writes them as lists of numbers."""
WEIGHTED_MEANS = (nn.CrossEntropyLoss, nn.NLLLoss)
"""Losses that PyTorch divides by the weights of the labels, not by the number of items."""


def build_loss(named: LossConfig, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Builds the loss that a config names, on a device.

    Raises:
        ConfigError: it cannot be built, or has parameters.
    """
    keywords = named.keywords
    try:
        for name in WEIGHTS:
            _check_weights(named.target, name, keywords.get(name))
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
        rule = f"task.loss must give something that is called with outputs and targets, {named.target} gives"
        raise ConfigError(rule, type(module).__name__, "name a class such as torch.nn.CrossEntropyLoss")
    return module  # type: ignore[no-any-return]


def is_mean(module: object) -> bool:
    """Returns True if a loss is known to be a mean over the items of a batch, weighted by class or not."""
    return type(module).__module__ == "torch.nn.modules.loss" and getattr(module, "reduction", "") == "mean"


def _check_weights(target: str, name: str, value: object) -> None:
    """Raises a ConfigError if a loss of PyTorch cannot use a value of one of its `WEIGHTS`."""
    if not target.startswith("torch.") or value is None or isinstance(value, dict):  # a dict may be a target
        return
    numbers = value if isinstance(value, list) else []
    known = [one for one in numbers if isinstance(one, int | float) and not isinstance(one, bool)]
    if not numbers or len(known) < len(numbers) or not all(0 <= one < math.inf for one in known) or not any(known):
        rule = f"task.loss.{name} must be a list of numbers from 0, not all of them 0"
        raise ConfigError(rule, value, f"for example +task.loss.{name}=[1,2], with one number a class")


def weight_of(module: object, targets: Tensor) -> Tensor | int:
    """Returns what the mean loss of a batch has to be multiplied by to be a sum: items, or the sum of their weights.

    Args:
        module: the loss.
        targets: those of the batch.
    """
    if type(module) not in WEIGHTED_MEANS:
        return len(targets)
    assert isinstance(module, nn.CrossEntropyLoss | nn.NLLLoss)
    counted = targets[targets != module.ignore_index]
    return counted.numel() if module.weight is None else module.weight[counted].sum()


def check_loss(name: str, loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> None:
    """Checks that a loss takes outputs and targets, and gives one number with a gradient, which is no sum.

    Args:
        name: the key and the target, for the errors.
        loss: takes outputs and targets as the trainer has them.
        outputs: those of the model for a few items.
        targets: those of the same items.

    Raises:
        ConfigError: it does not.
    """
    outputs = outputs.detach().float().clone().requires_grad_()
    try:
        with contained(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # PyTorch broadcasts one against the other
            value = loss(outputs, targets.clone())
            twice = loss(torch.cat([outputs, outputs]), torch.cat([targets, targets]))
    except Exception as error:
        rule = f"{name} does not take outputs {_kind(outputs)} and targets {_kind(targets)}: {one_line(error)}"
        raise ConfigError(rule, remedy="choose a loss for this task; class weights need one number a class") from error
    key, _, target = name.partition(": ")
    check_value(key, target, value)
    assert isinstance(value, Tensor)
    if isinstance(twice, Tensor) and bool(value.detach() != 0) and torch.isclose(twice, 2 * value):
        rule = f"{key} must be a mean over the batch, {target} is a sum: batches of all sizes must compare"
        raise ConfigError(rule, remedy='use its mean, such as reduction="mean"')


class Stateless:
    """Checks that modules beside the model keep no state from batch to batch: no checkpoint would hold it.

    Args:
        modules: the modules, before they are used.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._before = [
            (module, Attributes(module), {name: value.clone() for name, value in _tensors(module).items()})
            for module in modules
        ]

    def check(self, key: str) -> None:
        """Raises a ConfigError if one of them has changed.

        Args:
            key: the key of the config that names them.
        """
        for module, attributes, tensors in self._before:
            now = _tensors(module)
            changed = [name for name, old in tensors.items() if name not in now or not torch.equal(old, now[name])]
            changed += attributes.changed()
            if changed:
                rule = f"{key} must keep no state between batches, {type(module).__name__} changes its {changed[0]}"
                raise ConfigError(rule, remedy="make the state a part of the model, which checkpoints hold")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict((*module.named_parameters(), *module.named_buffers()))


def check_value(key: str, target: str, value: object) -> None:
    """Checks that a loss or a step gave one number with a gradient.

    Args:
        key: the key of the config that names it.
        target: what it names.
        value: what it gave.

    Raises:
        ConfigError: it gave something else.
    """
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        shape = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        shape = "a number without a gradient" if isinstance(value, Tensor) and not value.ndim else shape
        rule = f"{key} must give one number that has a gradient, {target} gives {shape}"
        raise ConfigError(rule, remedy='use the mean over the batch, such as reduction="mean"')


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {['n', *tensor.shape[1:]]}".replace("'", "")
