"""A stack's members as one batched model: parameters [K, ...], member first; members with one seed share their batches.

What both ways have in common: `vmap_model.MappedModel` takes any module, `dense_model.DenseModel` is the faster way
for linear layers, `build.build_stacked_model` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sweepstack.config.schema import TrialConfig
from sweepstack.training import models
from sweepstack.training.checkpoint import CheckpointError, rows
from sweepstack.training.module_state import Attributes
from sweepstack.training.random_state import seed_all
from sweepstack.training.stacked import optimizers
from sweepstack.training.trainer import as_classes, autocast_of

EVALUATED = 2000
"""Images that are evaluated at once, where the memory for training holds as many."""
Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""Images and labels to evaluate on, in chunks of so many images."""


class Unstackable(Exception):  # noqa: N818 -- a finding, not a fault
    """This model has no stacked form; says why."""


class StackedModel:
    """What both ways have in common: the members' tensors and their optimizer.

    Args:
        configs: one for each member, of one `stack_key`.
        device: where to train.
    """

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        self.template, members = _build_members(configs, device)
        self.same_draws = False
        """Whether all members draw the random numbers that one alone draws, to be compared with it."""
        self._autocast = autocast_of(configs[0], device)
        self._evaluated = configs[0].batch_size
        self._names = [name for name, value in self.template.named_parameters() if value.requires_grad]
        self.parameters = {name: members[name] for name in self._names}
        self.rest = {name: value for name, value in members.items() if name not in self.parameters}
        """Buffers, and parameters that are not trained."""
        if not self.parameters:
            raise Unstackable("it has nothing to train")
        _refuse_what_cannot_be_batched(self.template)
        self.optimizer = optimizers.build_stacked_optimizer([config.optimizer for config in configs], self.parameters)
        self._arrange_seeds([config.seed for config in configs])

    def _arrange_seeds(self, seeds: Sequence[int]) -> None:
        """Members of one seed take the same batches; where every seed has as many members, side by side, these share
        the images, else each member has its own copy."""
        order = list(dict.fromkeys(seeds))
        each = len(seeds) // len(order)
        shared = list(seeds) == [seed for seed in order for _ in range(each)]
        self.seeds = order if shared else list(seeds)
        """Whose batches `step` takes, in this order."""

    @property
    def width(self) -> int:
        """The number of members."""
        return len(next(iter(self.parameters.values())))

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(iter(self.parameters.values())).dtype

    def set_factors(self, factors: Tensor, done: int = 0) -> None:
        """Takes the schedules' factors of the steps to come, float64 [steps, K], of which `done` have been taken."""
        self.optimizer.set_factors(factors, done)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One update of every member.

        Args:
            images: float32 [S, batch, ...], for each of `seeds`.
            labels: int64 [S, batch].

        Returns:
            The losses before the update, [K], on the device.
        """
        raise NotImplementedError

    def logits(self, images: Tensor) -> Tensor:
        """Of images [n, ...], the same for all, without dropout and the like: [K, classes, n]."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self, batches: Batches, predicted: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (nats) and accuracy (0 to 1) of every member, [K] each, on the CPU.

        Args:
            predicted: takes the predicted classes of each chunk, [K, images]; they stay on the device.
        """
        losses, hits, count = [], [], 0
        for images, labels in batches(min(EVALUATED, self._evaluated)):
            logits = self.logits(images).float()
            expected = labels.expand(self.width, -1)
            losses.append(cross_entropy(logits, expected, reduction="none").sum(1))
            classes = logits.max(1).indices  # argmax, but 18 times as fast along this axis
            hits.append((classes == labels).sum(1))
            if predicted is not None:
                predicted.append(as_classes(classes, logits.shape[1]))
            count += len(labels)
        return torch.stack(losses).sum(0).cpu().double() / count, torch.stack(hits).sum(0).cpu().double() / count

    def weights(self, member: int) -> dict[str, Tensor]:
        """The `state_dict` of one member, copied to the CPU."""
        with torch.no_grad():
            for name, value in (*self.template.named_parameters(), *self.template.named_buffers()):
                value.copy_((self.parameters if name in self.parameters else self.rest)[name][member])
        return {name: value.detach().cpu().clone() for name, value in self.template.state_dict().items()}

    @torch.no_grad()
    def freeze(self, member: int) -> None:
        """Takes a member out of the training without a change of width: the others go on bit for bit."""
        self.optimizer.freeze(member)
        for value in self.rest.values():
            value[member] = 0

    @torch.no_grad()
    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """Goes on with these members only."""
        index = torch.tensor(members, device=next(iter(self.parameters.values())).device)
        self.parameters = {name: value.index_select(0, index) for name, value in self.parameters.items()}
        self.rest = {name: value.index_select(0, index) for name, value in self.rest.items()}
        self.optimizer.keep(members, self.parameters)
        self._arrange_seeds(seeds)

    def state(self) -> dict[str, Any]:
        """What training changes, tensors [K, ...], and in what chunks it evaluates; nothing is copied."""
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "rest": self.rest,
            "optimizer": self.optimizer.state(),
            "evaluated": self._evaluated,
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any], members: Sequence[int]) -> None:
        """Takes over, for each own member, what `state` gave for the one at this place; factors are to be set next.

        Raises:
            CheckpointError: a tensor does not fit.
            LookupError, TypeError: it is no such state.
        """
        for own, saved in ((self.parameters, state["parameters"]), (self.rest, state["rest"])):
            if own.keys() != saved.keys():
                raise CheckpointError(f"it has {sorted(saved)}, {sorted(own)} is needed")
            for name, value in own.items():
                value.copy_(rows(saved[name], members, value))
        self.optimizer.restore(state["optimizer"], members)
        self._evaluated = state["evaluated"]


def _build_members(configs: Sequence[TrialConfig], device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module to compute with, and the members' parameters and buffers side by side, drawn as the plain trainer draws
    them."""
    drawn: dict[int, dict[str, Tensor]] = {}
    marks: Mapping[str, object] | None = None
    for seed in dict.fromkeys(config.seed for config in configs):
        seed_all(seed)
        template = models.build_model(configs[0].model).to(device)
        before, marks = marks, Attributes(template).marks
        other = next((name for name in marks if before is not None and marks[name] != before.get(name)), None)
        if other is not None:
            raise Unstackable(f"its plain attribute {other} is another one for each seed; a buffer could be stacked")
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
