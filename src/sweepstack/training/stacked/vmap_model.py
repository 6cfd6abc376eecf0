"""A stack of any module that `torch.func.vmap` can map (functional_call under vmap; model ensembling as in PyTorch's
documentation, HFTA, MLSys 2021)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from sweepstack.config.schema import TrialConfig
from sweepstack.training.data.inputs import Inputs, call, rows
from sweepstack.training.data.source import Batch
from sweepstack.training.module_state import Attributes
from sweepstack.training.stacked.model import Batches, StackedModel, Unstackable

MODULE_PREFIX = "module."
"""The beginning of the names of a module's tensors inside of `Watched`."""


class Watched(nn.Module):
    """Calls a module and returns the buffers that its `forward` assigns, which `functional_call` would lose.

    Args:
        module: the module. Its tensors have names that begin with `MODULE_PREFIX` here.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._owners = [(f"{path}.".lstrip("."), part) for path, part in module.named_modules()]

    def forward(self, function: Callable[..., Tensor], *args: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Calls `function(module, *args)`; returns its result, and the buffers that the module has assigned, by their
        names. `args` are images, and their targets if the function computes a loss.

        Raises:
            Unstackable: the module has assigned a parameter, or made or removed a buffer.
        """
        before = [({**part._parameters}, {**part._buffers}) for _, part in self._owners]
        found = function(self.module, *args)
        assigned: dict[str, Tensor] = {}
        for (path, part), (parameters, buffers) in zip(self._owners, before, strict=True):
            for name, old in parameters.items():
                if part._parameters.get(name) is not old:
                    raise Unstackable(f"its forward assigns the parameter {path}{name}")
            if part._buffers.keys() != buffers.keys() or part._parameters.keys() != parameters.keys():
                raise Unstackable(f"its forward makes or removes parameters or buffers of {path or 'the model'}")
            for name, old in buffers.items():
                new = part._buffers[name]
                if new is old:
                    continue
                if old is None or new is None or (new.shape, new.dtype) != (old.shape, old.dtype):
                    raise Unstackable(f"its forward gives the buffer {path}{name} another shape or dtype")
                assigned[path + name] = new
        return found, assigned


class MappedModel(StackedModel):
    """A stack of any module that `torch.func.vmap` can map.

    It supports BatchNorm with its buffers, buffers that `forward` assigns, dropout with a mask for each member, and
    tied weights. One generator draws the dropout of the whole stack: the distribution is that of the plain trainer, the
    masks are not.
    """

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        super().__init__(configs, device)
        self._attributes, self._watched = Attributes(self.template), Watched(self.template)
        self._clip_norm = configs[0].clip_norm
        self._evaluated *= 4  # an evaluation stores nothing for gradients
        for value in self.parameters.values():
            value.requires_grad_()

    def _arrange_seeds(self, seeds: Sequence[int]) -> None:
        super()._arrange_seeds(seeds)
        device = next(iter(self.parameters.values())).device
        self._seed_of = torch.tensor([self.seeds.index(seed) for seed in seeds], device=device)

    def step(self, images: Inputs, labels: Tensor, *more: Batch) -> Tensor:
        self.template.train()
        if len(self.seeds) == 1:
            images, labels, shared = rows(images, 0), labels[0], True
        else:
            images, labels, shared = rows(images, self._seed_of), labels[self._seed_of], False

        def loss_of(
            parameters: dict[str, Tensor], rest: dict[str, Tensor], images: Inputs, labels: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            return self._call(parameters, rest, self._task.batch_loss, images, labels)

        with self._autocast:
            mapped = vmap(loss_of, in_dims=(0, 0, *[None if shared else 0] * 2), randomness=self._randomness)
            losses, assigned = mapped(self.parameters, self.rest, images, labels)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        self.optimizer.begin_step()
        with torch.no_grad():
            own = _own_memory(gradients)
            if self._clip_norm is not None:
                _clip([gradient for gradient in own if gradient is not None], self._clip_norm)
            for name, gradient in zip(self.parameters, own, strict=True):
                if gradient is None:
                    self.optimizer.skip(name)
                else:
                    self.optimizer.update(name, gradient)
            for name, value in assigned.items():
                self.rest[name].copy_(value)
        return losses.detach()

    @property
    def _randomness(self) -> str:
        return "same" if self.same_draws else "different"

    def _call(
        self, parameters: dict[str, Tensor], rest: dict[str, Tensor], function: Callable[..., Tensor], *args: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Calls a function with one member and `args`; returns its result, and the buffers that were assigned."""
        tensors = {MODULE_PREFIX + name: value for part in (parameters, rest) for name, value in part.items()}
        found: tuple[Tensor, dict[str, Tensor]] = functional_call(self._watched, tensors, (function, *args))
        return found

    def outputs(self, images: Inputs) -> Tensor:
        self.template.eval()

        def outputs_of(parameters: dict[str, Tensor], rest: dict[str, Tensor]) -> Tensor:
            outputs, assigned = self._call(parameters, rest, call, images)
            if assigned:
                raise Unstackable(f"its forward assigns the buffer {next(iter(assigned))} when it is evaluated")
            return outputs

        with self._autocast:
            return vmap(outputs_of, randomness=self._randomness)(self.parameters, self.rest)

    def evaluate(
        self, batches: Batches, predicted: list[Tensor] | None = None, only: Collection[int] | None = None
    ) -> list[dict[str, float]]:
        """See `StackedModel.evaluate`.

        Raises:
            Unstackable: the module has changed a plain attribute, which all members share.
        """
        if changed := self._attributes.changed():
            raise Unstackable(f"it changes its plain attribute {changed[0]}; a buffer could be stacked")
        return super().evaluate(batches, predicted, only)

    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        super().keep(members, seeds)
        for value in self.parameters.values():
            value.requires_grad_()


def _clip(gradients: Sequence[Tensor], clip_norm: float) -> None:
    """Scales the gradients [K, ...] of each member in place, as `torch.nn.utils.clip_grad_norm_` does those of one."""
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    factors = (clip_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


def _own_memory(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Returns the gradients as tensors that can be overwritten.

    It copies those that share memory: both terms of a sum have the same gradient, and the gradient of `sum()` is one
    number with many indices.
    """
    memories: set[int] = set()
    own: list[Tensor | None] = []
    for gradient in gradients:
        if gradient is not None:
            memory = gradient.untyped_storage().data_ptr()
            if memory in memories or not gradient.is_contiguous():
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            memories.add(memory)
        own.append(gradient)
    return own
