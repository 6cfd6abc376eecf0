"""Builds and checks the optimizer that a config names."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sweepstack.config.trial_sections import OptimizerConfig
from sweepstack.errors import ConfigError, did_you_mean, one_line
from sweepstack.planning.compatibility import NUMBERS
from sweepstack.training.instantiate import bound, instantiate

WORDS = ("biases", "norms")
"""What a group of parameters can name beside patterns of names: the biases, and the parameters of normalization layers,
which are the modules whose class has `Norm` in its name. A word may match nothing, so that one config fits any model.
"""


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """Builds the optimizer with its full learning rates; the trainer applies the factor of the schedule.

    Raises:
        ConfigError: the optimizer does not take the shape of a parameter.
        ValueError: the optimizer refuses a value, such as a negative momentum; or a group of the config does not fit.
        TypeError: the target does not return a `torch.optim.Optimizer`.
    """
    if config.target == "torch.optim.Muon":
        for name, parameter in model.named_parameters():
            if parameter.ndim != 2:
                rule = f"optimizer: {config.target} takes matrices only, {name} has the shape {list(parameter.shape)}"
                raise ConfigError(rule, remedy="choose a model without biases, or another optimizer")
    if config.groups:
        return _build(config, _groups(config, model))
    return _build(config, model.parameters())


def _build(config: OptimizerConfig, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> Optimizer:
    optimizer = bound(config, "optimizer")(parameters, lr=config.lr)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{config.target} should give a torch.optim.Optimizer, got {type(optimizer).__name__}")
    for group in optimizer.param_groups:
        on_cpu = all(parameter.device.type == "cpu" for parameter in group["params"])
        if on_cpu and "foreach" in group and group["foreach"] is None and group.get("fused") is None:
            group["foreach"] = False  # PyTorch would choose the same on a CPU, but again at every step
    for given in config.groups:
        if unknown := sorted(given.keywords.keys() - optimizer.defaults.keys()):
            known = did_you_mean(unknown[0], optimizer.defaults)
            raise ValueError(f"{unknown[0]} in optimizer.groups is not one of its keywords; {known}")
    return optimizer


def _groups(config: OptimizerConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Returns the parameters in groups, as `torch.optim` takes them: first those that no group of the config names.

    A group in which no parameter is left does not appear: a model without a normalization layer has no `norms`.

    Raises:
        ValueError: a pattern matches no parameter.
    """
    left = dict(model.named_parameters())
    known = {pattern: _matching(pattern, model) for group in config.groups for pattern in group.params}
    for pattern, names in known.items():
        if not names and pattern not in WORDS:
            raise ValueError(f"{pattern!r} in optimizer.groups matches no parameter; {did_you_mean(pattern, left)}")
    groups = []
    for group in config.groups:
        mine = [name for name in left if any(name in known[pattern] for pattern in group.params)]
        parameters = [left.pop(name) for name in mine]
        if parameters:
            groups.append({**instantiate(group.keywords, "optimizer.groups"), "params": parameters})
    return [{"params": list(left.values())}, *groups] if left else groups


def _matching(pattern: str, model: nn.Module) -> set[str]:
    """Returns the names of the parameters that a pattern or one of the `WORDS` matches."""
    if pattern == "norms":
        return {
            f"{path}.{name}".lstrip(".")
            for path, module in model.named_modules()
            if "Norm" in type(module).__name__
            for name, _ in module.named_parameters(recurse=False)
        }
    names = {name for name, _ in model.named_parameters()}
    if pattern == "biases":
        return {name for name in names if "bias" in name.rpartition(".")[2]}
    return {name for name in names if fnmatch.fnmatchcase(name, pattern)}


def load_compiler() -> None:
    """Loads PyTorch's compiler, which takes a second: PyTorch does so when the first optimizer gets its parameters."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])


class _ValuesAccepted(Exception):  # noqa: N818 -- a signal, not a fault
    pass


def check_values(config: OptimizerConfig, model: nn.Module) -> None:
    """Checks that the optimizer accepts its values; raises what `build_optimizer` raises.

    SGD, Adam and AdamW check their values before they read the parameters. So they get an iterator that raises an
    exception: registering parameters would import `torch._dynamo`, which takes a second and which a stacked sweep does
    not need.
    """

    def none_to_take() -> Iterator[nn.Parameter]:
        raise _ValuesAccepted
        yield

    if config.target not in NUMBERS or config.groups:
        build_optimizer(config, model)
        for index, group in enumerate(config.groups):  # of a group, PyTorch does not check the values
            merged = config.model_copy(update={**group.keywords, "groups": ()})
            try:
                _build(merged, [nn.Parameter(torch.zeros(1, 1))])
            except Exception as error:
                raise ValueError(f"optimizer.groups[{index}]: {one_line(error)}") from error
        return
    with contextlib.suppress(_ValuesAccepted):
        _build(config, none_to_take())
