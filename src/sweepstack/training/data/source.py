"""Where batches come from: the order of an epoch, scaling and standardisation. Its subclasses say where items are."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sweepstack.training.data.augmentation import Augmentation
from sweepstack.training.data.inputs import Inputs, over
from sweepstack.training.random_state import stream
from sweepstack.trial import DatasetFacts

Batch = tuple[Any, Tensor]
"""Inputs (see `Inputs`) and targets."""
EVALUATED = 2000
"""Items that are evaluated at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Data(abc.ABC):
    """A dataset, ready for training.

    Items are numbered as in the dataset. As the dataset gives them, and as they are held in memory, their inputs are
    uint8 pixels, float32 or int64 (tokens); those of a batch are on `device`, pixels are scaled to 0..1, and inputs of
    one tensor are standardised. Targets are what the task learns: classes int64 [n], or what another task makes of
    them.
    """

    train: Tensor
    """int64 indices of the training items to train on."""
    held_out: Tensor
    """int64 indices of the training items to select trials by; may be empty."""
    device: torch.device
    """The device to train on."""
    mean: float | tuple[float, ...] = 0.0
    """For all numbers of an item, or for each channel."""
    std: float | tuple[float, ...] = 1.0
    digest: str = ""
    """Checksum of all items."""
    augmentation: Augmentation | None = None
    """How the images of training batches are changed."""
    drop_last: bool = False
    """Whether the last batch of an epoch is left out if it has fewer items."""
    eval_batch_size: int | None = None
    """The number of items that are evaluated at once; None: what is asked for."""

    @property
    @abc.abstractmethod
    def test_count(self) -> int:
        """The number of test items."""

    @property
    @abc.abstractmethod
    def test_targets(self) -> Tensor:
        """The targets of the test items."""

    @abc.abstractmethod
    def batches(self, batch_size: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yields the batches of one epoch: inputs [batch, *shape] and targets [batch, ...] on `device`.

        Args:
            batch_size: items in a batch; the last one may have fewer.
            seed: determines the order of the items and what is drawn for them, with `epoch` and nothing else.
            epoch: the number of the epoch.
            skip: the number of batches to leave out at the beginning.
        """

    @abc.abstractmethod
    def stacked_batches(self, batch_size: int, seeds: Sequence[int], epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yields the batches of one epoch for several seeds: inputs [seeds, batch, *shape] and targets [seeds, batch,
        ...].

        For each seed they equal those of `batches`.

        Args:
            batch_size: items in a batch of one seed; the last one may have fewer.
            seeds: each determines the order of its items, together with `epoch`.
            epoch: the number of the epoch.
            skip: the number of batches to leave out at the beginning.
        """

    @abc.abstractmethod
    def first(self, count: int) -> Batch:
        """Returns the first training items as the dataset gives them, held-out ones among them, on the CPU."""

    @abc.abstractmethod
    def some(self, count: int = 16) -> Batch:
        """Returns the first items to train on in the form of a batch, not augmented."""

    @abc.abstractmethod
    def test_items(self, chunk: int = EVALUATED) -> Iterator[Batch]:
        """Yields the test items as the dataset gives them, on the CPU, `chunk` at a time."""

    @abc.abstractmethod
    def test(self, chunk: int = EVALUATED) -> Iterator[Batch]:
        """Yields the test items in batches of `chunk`."""

    @abc.abstractmethod
    def _held_out_batches(self, chunk: int) -> Iterator[Batch]:
        """Yields the held-out items in batches of `chunk`."""

    def evaluation(self, chunk: int = EVALUATED) -> Iterator[Batch]:
        """Yields the held-out part, or the test data if nothing is held out, in batches of `chunk` items."""
        yield from self._held_out_batches(chunk) if len(self.held_out) else self.test(chunk)

    @property
    def held_out_targets(self) -> Tensor:
        """The targets of the held-out items, in the order of `held_out`, on the CPU."""
        found = [targets.cpu() for _, targets in self._held_out_batches(EVALUATED)]
        return torch.cat(found) if found else torch.empty(0)

    @property
    def evaluated_count(self) -> int:
        """The number of items of `evaluation`."""
        return len(self.held_out) or self.test_count

    @property
    def prepares_batches(self) -> bool:
        """True if a batch takes more work than to select and to scale its items."""
        return self.augmentation is not None

    @property
    def is_read_beside(self) -> bool:
        """True if other processes read the data while they are trained on."""
        return False

    @property
    def facts(self) -> DatasetFacts:
        """The numbers of items, and a checksum of all of them."""
        return DatasetFacts(self.digest, len(self.train), len(self.held_out), self.test_count)

    def steps_per_epoch(self, batch_size: int, accumulate: int = 1) -> int:
        """Returns the number of updates in an epoch, including a last one with fewer batches.

        Args:
            batch_size: items in a batch.
            accumulate: batches for each update.
        """
        count = len(self.train)
        batches = count // batch_size if self.drop_last else -(-count // batch_size)
        return -(-batches // accumulate)

    def close(self) -> None:  # noqa: B027 -- data in memory have none
        """Ends the processes that read the data, if there are any; the next reading begins others."""

    def trained_with(self, augmentation: Augmentation | None, drop_last: bool, eval_batch_size: int | None) -> Self:
        """Returns the same data with other ways to make batches; items are shared.

        Args:
            augmentation: how images are changed; None: not at all.
            drop_last: whether the last batch of an epoch is left out if it has fewer items.
            eval_batch_size: the number of items that are evaluated at once; None: what is asked for.
        """
        return replace(self, augmentation=augmentation, drop_last=drop_last, eval_batch_size=eval_batch_size)

    def _order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        """Returns the indices of an epoch, in their order."""
        generator = torch.Generator().manual_seed(stream(seed, "order", epoch))
        order = self.train[torch.randperm(len(self.train), generator=generator).to(self.train.device)]
        return order[: len(order) // batch_size * batch_size] if self.drop_last else order

    def _draws(self, seed: int, epoch: int) -> Tensor | None:
        """Returns the random numbers of all training items in an epoch, [items, ...]; None if nothing is drawn."""
        if self.augmentation is None:
            return None
        return self.augmentation.draws(int(self.train.max()) + 1, seed, epoch).to(self.train.device)

    def _augmented(self, images: Inputs, draws: Sequence[Tensor | None], indices: Tensor) -> Inputs:
        """Returns changed images of training items.

        Args:
            images: [seeds * batch, *shape], as the dataset gives them.
            draws: the random numbers of each seed.
            indices: the items of each seed, [seeds, batch].
        """
        rows = [drawn.index_select(0, row) for drawn, row in zip(draws, indices, strict=True) if drawn is not None]
        if self.augmentation is None or not isinstance(images, Tensor):
            return images
        return self.augmentation.apply(images, torch.cat(rows))

    def _ready(self, inputs: Inputs, targets: Tensor) -> Batch:
        """Returns a batch as a model takes it; the given tensors are not changed."""
        targets = targets.to(self.device, non_blocking=True)
        if not isinstance(inputs, Tensor):
            return over(lambda part: _scaled(part.to(self.device, non_blocking=True)), inputs), targets
        images = _scaled(inputs.to(self.device, non_blocking=True))
        if images.is_floating_point():
            fresh = images if images.data_ptr() != inputs.data_ptr() else None
            if self.mean:
                images = fresh = torch.sub(images, self._beside(self.mean, images), out=fresh)
            if self.std != 1:
                images = torch.div(images, self._beside(self.std, images), out=fresh)
        return images, targets

    def _beside(self, value: float | tuple[float, ...], images: Tensor) -> Tensor | float:
        """Returns one number, or the numbers of the channels in a shape that broadcasts to [n, channels, ...]."""
        if isinstance(value, tuple):
            return torch.tensor(value, dtype=images.dtype, device=images.device).view(-1, *[1] * (images.ndim - 2))
        return value


def _scaled(images: Tensor) -> Tensor:
    return images.float().div_(255) if images.dtype == torch.uint8 else images
