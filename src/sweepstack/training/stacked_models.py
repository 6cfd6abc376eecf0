"""A stack's members as one batched model: parameters [K, ...], member first; members with one seed share their batches.

`MappedModel` takes any module, through `torch.func` (functional_call under vmap; model ensembling as in its
documentation, HFTA, MLSys 2021). `dense.DenseModel` is the faster way for linear layers, `stacking.build` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from sweepstack.config import TrialConfig
from sweepstack.training import models, optimizers, stacked_optimizers
from sweepstack.training.checkpoint import CheckpointError, rows
from sweepstack.training.trainer import as_classes, autocast_of, evaluate, restore, state_of

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
        self.template, members = _build(configs, device)
        self._autocast = autocast_of(configs[0], device)
        self._evaluated = configs[0].batch_size
        self._names = [name for name, value in self.template.named_parameters() if value.requires_grad]
        self.parameters = {name: members[name] for name in self._names}
        self.rest = {name: value for name, value in members.items() if name not in self.parameters}
        """Buffers, and parameters that are not trained."""
        if not self.parameters:
            raise Unstackable("it has nothing to train")
        _refuse_what_cannot_be_batched(self.template)
        self.optimizer = stacked_optimizers.build([config.optimizer for config in configs], self.parameters)
        self._place_seeds([config.seed for config in configs])

    def _place_seeds(self, seeds: Sequence[int]) -> None:
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
        self._place_seeds(seeds)

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


class MappedModel(StackedModel):
    """Any module which `torch.func.vmap` can map: BatchNorm with its buffers, dropout with a mask for each member, tied
    weights. Dropout is drawn from one generator for the whole stack: the same distribution as in the plain trainer,
    other masks."""

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        super().__init__(configs, device)
        self._evaluated *= 4  # nothing is kept for a gradient
        for value in self.parameters.values():
            value.requires_grad_()

    def _place_seeds(self, seeds: Sequence[int]) -> None:
        super()._place_seeds(seeds)
        device = next(iter(self.parameters.values())).device
        self._seed_of = torch.tensor([self.seeds.index(seed) for seed in seeds], device=device)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.template.train()
        if len(self.seeds) == 1:
            images, labels, shared = images[0], labels[0], True
        else:
            images, labels, shared = images[self._seed_of], labels[self._seed_of], False

        def loss_of(parameters: dict[str, Tensor], rest: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(functional_call(self.template, (parameters, rest), (images,)), labels)

        with self._autocast:
            mapped = vmap(loss_of, in_dims=(0, 0, *[None if shared else 0] * 2), randomness="different")
            losses = mapped(self.parameters, self.rest, images, labels)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        self.optimizer.begin_step()
        with torch.no_grad():
            for name, gradient in zip(self.parameters, _own_memory(gradients), strict=True):
                if gradient is not None:  # torch.optim too passes over what the loss does not depend on
                    self.optimizer.update(name, gradient)
        return losses.detach()

    def logits(self, images: Tensor) -> Tensor:
        self.template.eval()

        def logits_of(parameters: dict[str, Tensor], rest: dict[str, Tensor]) -> Tensor:
            return functional_call(self.template, (parameters, rest), (images,))  # type: ignore[no-any-return]

        with self._autocast:
            return vmap(logits_of, randomness="different")(self.parameters, self.rest).transpose(1, 2)

    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        super().keep(members, seeds)
        for value in self.parameters.values():
            value.requires_grad_()


def _own_memory(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients as tensors that may be written to: both parts of a sum have one and the same, and that of a sum of
    numbers is one number seen many times."""
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


def _build(configs: Sequence[TrialConfig], device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module to compute with, and the members' parameters and buffers side by side, drawn as the plain trainer draws
    them."""
    drawn: dict[int, dict[str, Tensor]] = {}
    for seed in dict.fromkeys(config.seed for config in configs):
        torch.manual_seed(seed)
        template = models.build(configs[0].model).to(device)
        named = (*template.named_parameters(), *template.named_buffers())
        drawn[seed] = {name: value.detach() for name, value in named}
    names = next(iter(drawn.values()))
    return template, {name: torch.stack([drawn[config.seed][name] for config in configs]) for name in names}


class SingleModel:
    """One member that is not batched: the module and the optimizer as the plain trainer has them, for a trajectory that
    several trials read but that no stack can take."""

    width = 1

    def __init__(self, config: TrialConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self._model = models.build(config.model).to(device).train()
        self._optimizer = optimizers.build(config.optimizer, self._model.parameters())
        self._full_rates = [group["lr"] for group in self._optimizer.param_groups]
        self._autocast = autocast_of(config, device)
        self._factors: Iterator[float] = iter(())
        self.seeds = [config.seed]

    def set_factors(self, factors: Tensor, done: int = 0) -> None:
        """As for a stack; factors [steps, 1]."""
        self._factors = iter(factors[done:, 0].tolist())

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One update; images [1, batch, ...], losses [1]."""
        factor = next(self._factors)
        for group, full in zip(self._optimizer.param_groups, self._full_rates, strict=True):
            group["lr"] = full * factor
        with self._autocast:
            loss = cross_entropy(self._model(images[0]), labels[0])
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()[None]

    def evaluate(self, batches: Batches, predicted: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """As for a stack."""
        classes: list[Tensor] = []
        loss, accuracy = evaluate(self._model, batches(EVALUATED), self._autocast, classes)
        if predicted is not None:
            predicted += [part[None] for part in classes]
        return torch.tensor([loss], dtype=torch.float64), torch.tensor([accuracy], dtype=torch.float64)

    def weights(self, member: int) -> dict[str, Tensor]:
        """As for a stack."""
        return {name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}

    def freeze(self, member: int) -> None:
        """There is nobody to go on for."""

    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """The one member stays."""

    def state(self) -> dict[str, Any]:
        """As for a stack."""
        return state_of(self._model, self._optimizer)

    def restore(self, state: Mapping[str, Any], members: Sequence[int]) -> None:
        """As for a stack.

        Raises:
            LookupError, RuntimeError, ValueError: it is of another model or optimizer.
        """
        restore(self._model, self._optimizer, state)


def _refuse_what_cannot_be_batched(model: nn.Module) -> None:
    if any(module._backward_hooks or module._backward_pre_hooks for module in model.modules()):
        raise Unstackable("a module has backward hooks")
    for parameter in model.parameters():
        hooks = parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
        if hooks or parameter.is_complex():
            raise Unstackable("a parameter has a hook, or is complex")
