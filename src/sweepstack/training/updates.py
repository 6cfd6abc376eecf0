"""One update of the weights: the gradients of its batches, clipping, the optimizer, and the moving average."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sweepstack.config.schema import TrialConfig
from sweepstack.training import optimizers
from sweepstack.training.checkpoint import CheckpointError
from sweepstack.training.data.source import Batch


def in_groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Yields the batches of each update: `size` of them, the last time perhaps fewer."""
    while group := list(itertools.islice(batches, size)):
        yield group


class Updater:
    """Updates the weights of a model, as its config says.

    Args:
        config: what is trained.
        model: the model, on its device.
        loss_of: returns the mean loss of a batch, with its graph.
        weight_of: returns the weight of a batch in the mean loss of several batches, by its labels.
    """

    def __init__(
        self,
        config: TrialConfig,
        model: nn.Module,
        loss_of: Callable[[Any, Tensor], Tensor],
        weight_of: Callable[[Tensor], Tensor | int],
    ) -> None:
        self.optimizer = optimizers.build_optimizer(config.optimizer, model)
        self._loss_of, self._weight_of, self._clip_norm = loss_of, weight_of, config.clip_norm
        self._parameters = list(model.parameters())
        self._full_rates = [group["lr"] for group in self.optimizer.param_groups]
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is closure.empty
        self._average = None if config.ema is None else MovingAverage(self._parameters, config.ema)

    def update(self, batches: Sequence[Batch], factor: float) -> Tensor:
        """Updates the weights once.

        The gradient is that of the mean loss over all images of the batches, also where one has fewer images. An
        optimizer that needs a closure, such as LBFGS, computes it several times.

        Args:
            batches: the batches of this update.
            factor: the factor on the learning rates.

        Returns:
            The mean loss before the update, without its graph.
        """
        for group, full in zip(self.optimizer.param_groups, self._full_rates, strict=True):
            group["lr"] = full * factor
        if self._needs_closure:
            losses: list[Tensor] = []

            def closure() -> Tensor:
                losses.append(self._compute_gradients(batches))
                return losses[-1]

            self.optimizer.step(closure)  # type: ignore[arg-type]
            loss = losses[0]
        else:
            loss = self._compute_gradients(batches)
            self.optimizer.step()
        if self._average is not None:
            self._average.update()
        return loss

    def _compute_gradients(self, batches: Sequence[Batch]) -> Tensor:
        losses: list[Tensor] = []
        weights = [self._weight_of(labels) for _, labels in batches] if len(batches) > 1 else []
        for index, (images, labels) in enumerate(batches):
            loss = self._loss_of(images, labels)
            if weights:
                loss = loss * (weights[index] / sum(weights))
            if not losses:
                for parameter in self._parameters:  # optimizer.zero_grad() without its bookkeeping, a tenth of a step
                    parameter.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Puts the averaged weights into the model for a block, if the config asks for them: those are measured and
        kept."""
        return contextlib.nullcontext() if self._average is None else self._average.swapped_in()

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint needs beside the model and the optimizer; the tensors are not copied."""
        return {} if self._average is None else {"average": self._average.values}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores copies of what `state` has returned.

        Raises:
            CheckpointError, LookupError: the state is that of another training.
        """
        if self._average is not None:
            self._average.restore(state["average"])


class MovingAverage:
    """The exponential moving average of parameters, by the conventions of `torch.optim.swa_utils.AveragedModel`: the
    first update copies the parameters, and buffers, as those of BatchNorm, are not averaged but those of the model.

    Args:
        parameters: the parameters that are trained.
        decay: the weight of the average so far.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        self._parameters = parameters
        self._add = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.values: list[Tensor] = []
        """The averages; empty before the first update."""

    def update(self) -> None:
        """Adds the parameters as they are now."""
        now = [parameter.detach() for parameter in self._parameters]
        if self.values:
            self._add(self.values, now, None)
        else:
            self.values = [value.clone() for value in now]

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Puts the averages in place of the parameters for a block."""
        trained = [parameter.detach().clone() for parameter in self._parameters]
        self._put(self.values)
        try:
            yield
        finally:
            self._put(trained)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def restore(self, values: Sequence[Tensor]) -> None:
        """Restores copies of saved averages.

        Raises:
            CheckpointError: they are those of other parameters.
        """
        if [value.shape for value in values] != [parameter.shape for parameter in self._parameters]:
            raise CheckpointError("its averaged weights have other shapes")
        self.values = [value.to(like, copy=True) for value, like in zip(values, self._parameters, strict=True)]
