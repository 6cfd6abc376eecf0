"""The members of a stack as one batched model, with parameters [K, ...]. Members of one seed share their batches.

This is the base class. `vmap_model.MappedModel` accepts any module, `dense_model.DenseModel` is faster for linear
layers, and `build.build_stacked_model` chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sweepstack.config.schema import TrialConfig
from sweepstack.training import models
from sweepstack.training.checkpoint import CheckpointError, rows
from sweepstack.training.data.inputs import Inputs
from sweepstack.training.data.source import EVALUATED, Batch
from sweepstack.training.module_state import Attributes
from sweepstack.training.random_state import seed_all
from sweepstack.training.stacked import optimizers
from sweepstack.training.tasks.built import BuiltTask
from sweepstack.training.trainer import autocast_of

Batches = Callable[[int], Iterable[Batch]]
"""A function that yields images and labels to evaluate on, in chunks of the given number of images."""


class Unstackable(Exception):  # noqa: N818 -- a finding, not a fault
    """A model has no stacked form; the message says why."""


class StackedModel:
    """The base of both stacked models: it has the members' tensors and their optimizer.

    Args:
        configs: one for each member, of one `stack_key`.
        device: the device to train on.
    """

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        self.template, members = _build_members(configs, device)
        self.same_draws = False
        """Whether all members draw the random numbers of a single module, for a comparison with it."""
        self._autocast, self._task = autocast_of(configs[0], device), BuiltTask(configs[0], device)
        self._evaluated = configs[0].batch_size
        self._names = [name for name, value in self.template.named_parameters() if value.requires_grad]
        self.parameters = {name: members[name] for name in self._names}
        self.rest = {name: value for name, value in members.items() if name not in self.parameters}
        """Buffers and untrained parameters."""
        if not self.parameters:
            raise Unstackable("it has nothing to train")
        _refuse_what_cannot_be_batched(self.template)
        self.optimizer = optimizers.build_stacked_optimizer([config.optimizer for config in configs], self.parameters)
        self._arrange_seeds([config.seed for config in configs])

    def _arrange_seeds(self, seeds: Sequence[int]) -> None:
        """Sets `seeds`, the batches that `step` needs.

        If every seed has the same number of members, in a row, they share one batch; else each member has its own copy.
        """
        order = list(dict.fromkeys(seeds))
        each = len(seeds) // len(order)
        shared = list(seeds) == [seed for seed in order for _ in range(each)]
        self.seeds = order if shared else list(seeds)
        """The seeds whose batches `step` needs, in this order."""

    @property
    def width(self) -> int:
        """The number of members."""
        return len(next(iter(self.parameters.values())))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(iter(self.parameters.values())).dtype

    def set_factors(self, factors: Tensor, done: int = 0) -> None:
        """Sets the factors of the schedules.

        Args:
            factors: float64 [steps, K].
            done: how many of these steps are done already.
        """
        self.optimizer.set_factors(factors, done)

    def step(self, images: Inputs, labels: Tensor, *more: Batch) -> Tensor:
        """Updates every member once. A `SingleModel` takes further batches of the update, too.

        Args:
            images: float32 [S, batch, ...], one batch for each of `seeds`.
            labels: the targets [S, batch, ...].

        Returns:
            The losses before the update, [K], on the device.
        """
        raise NotImplementedError

    def outputs(self, images: Inputs) -> Tensor:
        """Returns the outputs [K, n, ...] for images [n, ...], the same for all members, in evaluation mode."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(
        self, batches: Batches, predicted: list[Tensor] | None = None, only: Collection[int] | None = None
    ) -> list[dict[str, float]]:
        """Returns the mean loss and the metrics of every member, by name.

        Args:
            batches: what to evaluate on.
            only: the members of interest; see `Totals.metrics`.
            predicted: receives the predictions of each chunk, [K, images, ...], as they are stored, on the device.
        """
        totals = self._task.totals(stacked=True)
        for images, targets in batches(min(EVALUATED, self._evaluated)):
            predictions = self._task.add(totals, self.outputs(images).float(), targets, stacked=True)
            if predicted is not None:
                predicted.append(predictions)
        return totals.metrics(only)

    def weights(self, member: int) -> dict[str, Tensor]:
        """Returns a copy of the `state_dict` of one member, on the CPU."""
        with torch.no_grad():
            for name, value in (*self.template.named_parameters(), *self.template.named_buffers()):
                value.copy_((self.parameters if name in self.parameters else self.rest)[name][member])
        return {name: value.detach().cpu().clone() for name, value in self.template.state_dict().items()}

    @torch.no_grad()
    def freeze(self, member: int) -> None:
        """Stops a member without a change of width: the results of the others stay equal to the bit."""
        self.optimizer.freeze(member)
        for value in self.rest.values():
            value[member] = 0

    @torch.no_grad()
    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """Removes all other members.

        Args:
            members: the indices of the members to keep.
            seeds: their seeds.
        """
        index = torch.tensor(members, device=next(iter(self.parameters.values())).device)
        self.parameters = {name: value.index_select(0, index) for name, value in self.parameters.items()}
        self.rest = {name: value.index_select(0, index) for name, value in self.rest.items()}
        self.optimizer.keep(members, self.parameters)
        self._arrange_seeds(seeds)

    def state(self) -> dict[str, Any]:
        """Returns everything that training changes, as tensors [K, ...] without copies, and the evaluation chunk."""
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "rest": self.rest,
            "optimizer": self.optimizer.state(),
            "evaluated": self._evaluated,
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any], members: Sequence[int]) -> None:
        """Restores a saved state. Call `set_factors` next.

        Args:
            state: the result of `state`.
            members: for each member of this model, the index of its row in the saved tensors.

        Raises:
            CheckpointError: a tensor does not fit.
            LookupError, TypeError: `state` is something else.
        """
        for own, saved in ((self.parameters, state["parameters"]), (self.rest, state["rest"])):
            if own.keys() != saved.keys():
                raise CheckpointError(f"it has {sorted(saved)}, {sorted(own)} is needed")
            for name, value in own.items():
                value.copy_(rows(saved[name], members, value))
        self.optimizer.restore(state["optimizer"], members)
        self._evaluated = state["evaluated"]


def _build_members(configs: Sequence[TrialConfig], device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns a module to compute with, and the stacked parameters and buffers of the members.

    Each member has the initial weights that the plain trainer would give it.
    """
    drawn: dict[int, dict[str, Tensor]] = {}
    marks: Mapping[str, object] | None = None
    for seed in dict.fromkeys(config.seed for config in configs):
        seed_all(seed)
        template = models.build_model(configs[0].model).to(device)
        before, marks = marks, Attributes(template).marks
        other = next((name for name in marks if before is not None and marks[name] != before.get(name)), None)
        if other is not None:
            raise Unstackable(f"its plain attribute {other} differs for each seed; a buffer could be stacked")
        named = (*template.named_parameters(), *template.named_buffers())
        drawn[seed] = {name: value.detach() for name, value in named}
    names = next(iter(drawn.values()))
    return template, {name: torch.stack([drawn[config.seed][name] for config in configs]) for name in names}


def _refuse_what_cannot_be_batched(model: nn.Module) -> None:
    if any(module._backward_hooks or module._backward_pre_hooks for module in model.modules()):
        raise Unstackable("a module has backward hooks")
    for parameter in model.parameters():
        hooks = parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
        if hooks or parameter.is_complex():
            raise Unstackable("a parameter has a hook, or is complex")
