"""Builds and checks the optimizer that a config names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn
from torch.optim import Optimizer

from sweepstack.config.schema import OptimizerConfig
from sweepstack.planning.compatibility import NUMBERS
from sweepstack.training.instantiate import bound


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Builds the optimizer with its full learning rate; the trainer applies the factor of the schedule.

    Raises:
        ValueError: the optimizer refuses a value, such as a negative momentum.
        TypeError: the target does not return a `torch.optim.Optimizer`.
    """
    optimizer = bound(config, "optimizer")(parameters, lr=config.lr)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{config.target} should give a torch.optim.Optimizer, got {type(optimizer).__name__}")
    for group in optimizer.param_groups:
        on_cpu = all(parameter.device.type == "cpu" for parameter in group["params"])
        if on_cpu and "foreach" in group and group["foreach"] is None and group.get("fused") is None:
            group["foreach"] = False  # PyTorch would choose the same on a CPU, but again at every step
    return optimizer


class _ValuesAccepted(Exception):  # noqa: N818 -- a signal, not a fault
    pass


def check_values(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> None:
    """Checks that the optimizer accepts its values; raises what `build_optimizer` raises.

    SGD, Adam and AdamW check their values before they read the parameters. So they get an iterator that raises an
    exception: registering parameters would import `torch._dynamo`, which takes a second and which a stacked sweep does
    not need.
    """

    def none_to_take() -> Iterator[nn.Parameter]:
        raise _ValuesAccepted
        yield

    if config.target not in NUMBERS:
        build_optimizer(config, parameters)
        return
    with contextlib.suppress(_ValuesAccepted):
        build_optimizer(config, none_to_take())
