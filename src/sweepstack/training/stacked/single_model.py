"""A model that is not batched, with the interface of a stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sweepstack.config.schema import TrialConfig
from sweepstack.training import models, optimizers
from sweepstack.training.module_state import Attributes
from sweepstack.training.random_state import seed_all
from sweepstack.training.stacked.model import EVALUATED, Batches
from sweepstack.training.tasks.built import BuiltTask
from sweepstack.training.trainer import autocast_of, evaluate, restore, state_of, warm_up


class SingleModel:
    """The module and the optimizer of the plain trainer, with the interface of a stack of one member.

    It trains a trajectory that several trials read and that has no stacked form.
    """

    width = 1

    def __init__(self, config: TrialConfig, device: torch.device) -> None:
        warm_up(device)
        seed_all(config.seed)
        self._model = models.build_model(config.model).to(device).train()
        self._attributes = Attributes(self._model)
        self._optimizer = optimizers.build_optimizer(config.optimizer, self._model.parameters())
        self._full_rates = [group["lr"] for group in self._optimizer.param_groups]
        self._autocast, self._task = autocast_of(config, device), BuiltTask(config, device)
        self._factors: Iterator[float] = iter(())
        self._clip_norm = config.clip_norm
        self.seeds = [config.seed]

    def set_factors(self, factors: Tensor, done: int = 0) -> None:
        """See `StackedModel.set_factors`; factors are [steps, 1]."""
        self._factors = iter(factors[done:, 0].tolist())

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `StackedModel.step`; images are [1, batch, ...], losses [1]."""
        factor = next(self._factors)
        for group, full in zip(self._optimizer.param_groups, self._full_rates, strict=True):
            group["lr"] = full * factor
        with self._autocast:
            loss = self._task.batch_loss(self._model, images[0], labels[0])
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimizer.step()
        return loss.detach()[None]

    def evaluate(self, batches: Batches, predicted: list[Tensor] | None = None) -> list[dict[str, float]]:
        """See `StackedModel.evaluate`."""
        parts: list[Tensor] = []
        measured = evaluate(self._model, batches(EVALUATED), self._autocast, self._task, parts)
        if predicted is not None:
            predicted += [part[None] for part in parts]
        return [measured]

    def weights(self, member: int) -> dict[str, Tensor]:
        """See `StackedModel.weights`."""
        return {name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}

    def freeze(self, member: int) -> None:
        """Does nothing: no other member needs the model."""

    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """Does nothing: the only member stays."""

    def state(self) -> dict[str, Any]:
        """See `StackedModel.state`."""
        return state_of(self._model, self._attributes, self._optimizer)

    def restore(self, state: Mapping[str, Any], members: Sequence[int]) -> None:
        """See `StackedModel.restore`.

        Raises:
            LookupError, RuntimeError, ValueError: the state is that of another model or optimizer.
        """
        restore(self._model, self._attributes, self._optimizer, state)
