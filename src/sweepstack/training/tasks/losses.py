"""The loss that a config names with `task.loss`: building it, checking it, and sums of it over batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sweepstack.blame import contained
from sweepstack.config.schema import LossConfig
from sweepstack.errors import ConfigError, UserError, one_line
from sweepstack.training.instantiate import instantiate

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


def check_loss(
    name: str, loss: Callable[[Tensor, Tensor], Tensor], module: object, outputs: Tensor, targets: Tensor
) -> None:
    """Checks that a loss takes outputs and targets, gives one number with a gradient, and keeps no state.

    Args:
        name: the key and the target, for the errors.
        loss: takes outputs and targets as the trainer has them.
        module: the module that computes it, if it is one.
        outputs: those of the model for a few items.
        targets: those of the same items.

    Raises:
        ConfigError: it does not.
    """
    outputs = outputs.detach().float().clone().requires_grad_()
    buffers = dict(module.named_buffers()) if isinstance(module, nn.Module) else {}
    before = {name: value.clone() for name, value in buffers.items()}
    try:
        with contained(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # PyTorch broadcasts one against the other
            value = loss(outputs, targets)
    except Exception as error:
        rule = f"{name} does not take outputs {_kind(outputs)} and targets {_kind(targets)}: {one_line(error)}"
        raise ConfigError(rule, remedy="choose a loss for this task; class weights need one number a class") from error
    key, _, target = name.partition(": ")
    check_value(key, target, value)
    changed = [name for name, old in before.items() if not torch.equal(old, buffers[name])]
    if changed:
        rule = f"{name} must keep no state between batches, it changes its buffer {changed[0]}"
        raise ConfigError(rule, remedy="make the state a buffer of the model, which checkpoints hold")


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
