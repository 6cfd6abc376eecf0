"""Data in memory, or in a file that is mapped into it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sweepstack.training.data.inputs import Inputs, grouped, over, rows, tensors_of
from sweepstack.training.data.source import EVALUATED, Batch, Data

AHEAD = 2000
"""Images that a second thread selects and scales at once, during training: 12 % less time for a small model."""


@dataclass(frozen=True, eq=False, kw_only=True)
class InMemory(Data):
    """Data as tensors, on the device if they fit, else in the host's memory.

    They keep their dtype, uint8 pixels among them: selecting pixels and scaling a batch takes as long as selecting
    floats, and pixels need a quarter of the memory.
    """

    images: Inputs
    """The inputs of all training items, including the held-out ones."""
    labels: Tensor
    test_images: Inputs
    test_labels: Tensor

    @property
    def test_count(self) -> int:
        return len(self.test_labels)

    @property
    def test_targets(self) -> Tensor:
        return self.test_labels

    @property
    def held_out_targets(self) -> Tensor:
        return self.labels[self.held_out].cpu()

    def batches(self, batch_size: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """See `Data.batches`. The batches behind those that are skipped keep their position in memory, because that
        position can change how sums over a batch round."""
        batches_ahead = max(1, AHEAD // batch_size)
        left_out, skip = divmod(skip, batches_ahead)
        draws = [self._draws(seed, epoch)]
        indices = torch.split(self._order(seed, epoch, batch_size), batch_size * batches_ahead)[left_out:]
        with ThreadPoolExecutor(1, "sweepstack-batches") as beside:  # prepares the next images during training
            ready = None
            for index in (*indices, None):
                following = None if index is None else beside.submit(self._select, index[None], draws)
                if ready is not None:
                    images, labels = ready.result()
                    yield from itertools.islice(_in_batches(images, labels, batch_size), skip, None)
                    skip = 0
                ready = following

    def stacked_batches(self, batch_size: int, seeds: Sequence[int], epoch: int, skip: int = 0) -> Iterator[Batch]:
        """See `Data.stacked_batches`. It uses no second thread: a second team of OpenMP threads on the same cores made
        the steps of a stack take 1.4 to 2.6 times as long."""
        order = torch.stack([self._order(seed, epoch, batch_size) for seed in seeds])
        draws = [self._draws(seed, epoch) for seed in seeds]
        for index in torch.split(order, batch_size, 1)[skip:]:
            images, labels = self._select(index, draws)
            yield grouped(images, len(seeds)), grouped(labels, len(seeds))

    def _select(self, indices: Tensor, draws: Sequence[Tensor | None] = ()) -> Batch:
        """Returns the items of some indices [seeds, batch] as one batch, changed by the draws of each seed."""
        index = indices.flatten()
        images = over(lambda part: part.index_select(0, index), self.images)
        if draws:
            images = self._augmented(images, draws, indices)
        return self._ready(images, self.labels.index_select(0, index))

    def first(self, count: int) -> Batch:
        return over(Tensor.cpu, rows(self.images, slice(count))), self.labels[:count].cpu()

    def some(self, count: int = 16) -> Batch:
        return self._select(self.train[:count][None])

    def _held_out_batches(self, chunk: int) -> Iterator[Batch]:
        for index in torch.split(self.held_out, self.eval_batch_size or chunk):
            yield self._select(index[None])

    def test(self, chunk: int = EVALUATED) -> Iterator[Batch]:
        for images, labels in _in_batches(self.test_images, self.test_labels, self.eval_batch_size or chunk):
            yield self._ready(over(torch.clone, images), labels)  # a model may change its input in place

    def test_items(self, chunk: int = EVALUATED) -> Iterator[Batch]:
        for images, labels in _in_batches(self.test_images, self.test_labels, chunk):
            yield over(Tensor.cpu, images), labels.cpu()


def _in_batches(images: Inputs, labels: Tensor, size: int) -> Iterator[Batch]:
    """Splits inputs and labels into batches of one size; the last one may have fewer items."""
    for begin in range(0, len(labels), size):
        where = slice(begin, begin + size)
        yield rows(images, where), labels[where]


def digest_of(*parts: Inputs) -> str:
    """Returns a checksum of tensors, 16 hex digits."""
    checksum = Checksum()
    for part in parts:
        checksum.add(part)
        checksum.next_part()
    return checksum.text()


class Checksum:
    """A checksum of parts that may come in batches. One part of several tensors has one checksum for each, which are
    joined: so batches of any size give the same."""

    def __init__(self) -> None:
        self._whole = hashlib.sha1(usedforsecurity=False)
        self._each: list[Any] = []

    def add(self, inputs: Inputs) -> None:
        """Adds a batch of a part."""
        if isinstance(inputs, Tensor):
            self._whole.update(inputs.cpu().contiguous().numpy().data)
            return
        tensors = tensors_of(inputs)
        self._each = self._each or [hashlib.sha1(usedforsecurity=False) for _ in tensors]
        for digest, tensor in zip(self._each, tensors, strict=True):
            digest.update(tensor.cpu().contiguous().numpy().data)

    def next_part(self) -> None:
        """Ends a part."""
        for digest in self._each:
            self._whole.update(digest.digest())
        self._each = []

    def text(self) -> str:
        """Returns the checksum, 16 hex digits."""
        return self._whole.hexdigest()[:16]
