"""A model that is not batched, with the interface of a stack."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sweepstack.config.schema import TrialConfig
from sweepstack.training import models
from sweepstack.training.data.inputs import Inputs, rows
from sweepstack.training.data.source import EVALUATED, Batch
from sweepstack.training.module_state import Attributes
from sweepstack.training.random_state import seed_all
from sweepstack.training.stacked.model import Batches
from sweepstack.training.tasks.built import BuiltTask
from sweepstack.training.trainer import autocast_of, evaluate, restore, state_of, warm_up
from sweepstack.training.updates import Updater


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
        self._autocast, self._task = autocast_of(config, device), BuiltTask(config, device)
        self._updater = Updater(config, self._model, self._loss_of, self._task.weight)
        self._factors: Iterator[float] = iter(())
        self.seeds = [config.seed]

    def set_factors(self, factors: Tensor, done: int = 0) -> None:
        """See `StackedModel.set_factors`; factors are [steps, 1]."""
        self._factors = iter(factors[done:, 0].tolist())

    def _loss_of(self, images: Inputs, labels: Tensor) -> Tensor:
        with self._autocast:
            return self._task.batch_loss(self._model, images, labels)

    def step(self, images: Inputs, labels: Tensor, *more: Batch) -> Tensor:
        """See `StackedModel.step`; images are [1, batch, ...], losses [1]; `more` are further batches of the update."""
        batches = [(rows(inputs, 0), targets[0]) for inputs, targets in ((images, labels), *more)]
        return self._updater.update(batches, next(self._factors))[None]

    def evaluate(
        self, batches: Batches, predicted: list[Tensor] | None = None, only: Collection[int] | None = None
    ) -> list[dict[str, float]]:
        """See `StackedModel.evaluate`."""
        parts: list[Tensor] = []
        with self._updater.averaged():
            measured = evaluate(self._model, batches(EVALUATED), self._autocast, self._task, parts, only)
        if predicted is not None:
            predicted += [part[None] for part in parts]
        return [measured]

    def weights(self, member: int) -> dict[str, Tensor]:
        """See `StackedModel.weights`."""
        with self._updater.averaged():
            return {name: value.detach().to("cpu", copy=True) for name, value in self._model.state_dict().items()}

    def freeze(self, member: int) -> None:
        """Does nothing: no other member needs the model."""

    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """Does nothing: the only member stays."""

    def state(self) -> dict[str, Any]:
        """See `StackedModel.state`."""
        return {**state_of(self._model, self._attributes, self._updater.optimizer), **self._updater.state()}

    def restore(self, state: Mapping[str, Any], members: Sequence[int]) -> None:
        """See `StackedModel.restore`.

        Raises:
            LookupError, RuntimeError, ValueError: the state is that of another model or optimizer.
        """
        restore(self._model, self._attributes, self._updater.optimizer, state)
        self._updater.restore(state)
