"""The batched model of a stack, in the faster way that its module admits, tried before it is trusted."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sweepstack.config import OptimizerConfig, TrialConfig
from sweepstack.errors import one_line
from sweepstack.training import models
from sweepstack.training.dense import DenseModel
from sweepstack.training.stacked_models import MappedModel, StackedModel, Unstackable
from sweepstack.training.trainer import autocast_of

PROBE = OptimizerConfig.model_validate({"_target_": "torch.optim.SGD", "lr": 0.05})
PROBED, CLOSE = 16, {"float32": (1e-3, 1e-4), "bfloat16": (0.05, 0.05)}
"""What a module is tried with before it is stacked: images, and how near its logits must be (relative, absolute)."""


def build(configs: Sequence[TrialConfig], shape: Sequence[int], device: torch.device) -> StackedModel:
    """The members of a stack, in the faster way that their module admits.

    Args:
        shape: of one image.

    Raises:
        Unstackable: it admits none; says why.
    """
    with contextlib.suppress(Unstackable):
        _verify(DenseModel, configs, shape, device)
        return DenseModel(configs, device)
    try:
        _verify(MappedModel, configs, shape, device)
        return MappedModel(configs, device)
    except Unstackable:
        raise
    except Exception as error:  # whatever somebody's module does under vmap
        raise Unstackable(f"torch.func.vmap cannot map it: {one_line(error)}") from error


def _verify(
    way: type[StackedModel], configs: Sequence[TrialConfig], shape: Sequence[int], device: torch.device
) -> None:
    """That a small stack of the same modules evaluates and learns as the modules themselves do: what a module keeps
    outside its parameters and buffers, or does only when it is not mapped, shows here.

    Raises:
        Unstackable: it does not.
    """
    seeds = list(dict.fromkeys(config.seed for config in configs))
    probes = [
        configs[0].model_copy(update={"seed": seed, "optimizer": PROBE}) for seed in (seeds[0], seeds[len(seeds) // 2])
    ]
    stack = way(probes, device)
    classes = configs[0].dataset.classes
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(PROBED, *shape, generator=generator).to(device, stack.dtype)
    labels = (torch.arange(PROBED) % classes).to(device)
    groups, close = len(stack.seeds), CLOSE[configs[0].precision]
    stack.set_factors(torch.ones(2, len(probes), dtype=torch.float64))
    before = stack.logits(images)
    for _ in range(2):  # the second one begins with what the first one left in the buffers
        stack.step(images.expand(groups, *images.shape), labels.expand(groups, -1))
    after = stack.logits(images)
    for member, probe in enumerate(probes):
        expected = [_learn(probe, images, labels, noise, device) for noise in (1, 2)]
        if not torch.allclose(before[member].T.float(), expected[0][0].float(), *close):
            raise Unstackable("batched, it does not compute what it computes alone")
        if not torch.allclose(expected[0][1], expected[1][1], *close):
            continue  # it draws random numbers, as dropout does: it is not the same twice even alone
        if not torch.allclose(after[member].T.float(), expected[0][1].float(), *close):
            raise Unstackable("batched, it does not learn what it learns alone")


def _learn(
    config: TrialConfig, images: Tensor, labels: Tensor, noise: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Logits of a module before and after two plain updates."""
    torch.manual_seed(config.seed)
    model = models.build(config.model).to(device)
    autocast = autocast_of(config, device)

    def logits() -> Tensor:
        with torch.no_grad(), autocast:
            found: Tensor = model.eval()(images)
        return found

    before = logits()
    torch.manual_seed(noise)
    for _ in range(2):
        with autocast:
            loss = cross_entropy(model.train()(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-PROBE.lr)
                    parameter.grad = None
    return before, logits()
