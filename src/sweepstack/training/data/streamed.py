"""Data that worker processes read during the training: what does not fit, and what is drawn again for each epoch."""

from __future__ import annotations

import functools
import gc
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

from sweepstack.child_process import end_with_parent, return_memory
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError, UserError, one_line
from sweepstack.training.data.conversion import (
    Given,
    Source,
    images_of,
    kind_of,
    pair_of,
    source_of,
    targets_of,
    tensor_of,
)
from sweepstack.training.data.inputs import grouped, joined, over, rows, tensors_of
from sweepstack.training.data.memory import InMemory
from sweepstack.training.data.source import EVALUATED, Batch, Data
from sweepstack.training.data.user_dataset import CheckTargets
from sweepstack.training.random_state import first_draws, next_draws, seed_cpu, seeded, stream

Key = tuple[int, int, int]
"""An item in an epoch of a trial: its index, the seed and the epoch."""
FIXED = (0, 0)
"""Seed and epoch of items that are not trained on: whatever is drawn for them is always the same."""
LARGE_BYTES = 2**22
"""The size of a batch, in bytes, from which the memory of one is given back before the next is read; 4 MB."""
EVALUATED_BYTES = 2**26
"""The most bytes of items that are evaluated at once; 64 MB."""


class ItemError(Exception):
    """An item cannot be trained on; the message names it. Its causes hold what happened in the worker."""


class WorkerTraceback(Exception):  # noqa: N818 -- text for the log
    """The traceback of an exception in a worker process."""


@dataclass(frozen=True)
class Failed:
    """What a worker gives instead of a batch: exceptions of a user's own classes cannot always be sent."""

    rule: str
    trace: str


@dataclass
class Items(Dataset[Any]):
    """The items of one part, by `Key`: the random numbers of an item depend on its key alone.

    Args:
        dataset: gives (inputs, target) pairs by their index.
        config: the dataset's config.
        part: "training" or "test".
        check_targets: that of the task.
        transform: changes the image of a training item.
        collate_fn: makes a batch of items.
    """

    dataset: Any
    config: DatasetConfig
    part: str
    check_targets: CheckTargets
    transform: Callable[[Tensor], Tensor] | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    _is_large: bool = False
    """Whether the batch before was large."""
    _draws: bool = False
    """Whether an item was seen that draws random numbers; to seed all generators takes longer than many an item."""

    def __getitem__(self, key: Key) -> Batch | Failed:
        """Returns a batch of one item."""
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Key]) -> Batch | Failed:
        """Returns a batch of items; a DataLoader calls it with the keys of a batch."""
        if self._is_large:
            return_memory()  # that of the batch before: else a process that evaluates grows to several of them
        found = self._read(keys)
        if not isinstance(found, Failed):
            self._is_large = sum(tensor.nbytes for tensor in tensors_of(found[0])) >= LARGE_BYTES
        return found

    def _read(self, keys: list[Key]) -> Batch | Failed:
        if not self._draws:
            undrawn = first_draws(0)
            seed_cpu(0)
            items = [self._item(key) for key in keys]
            self._draws = next_draws() != undrawn
        if self._draws:
            items = [self._item(key, is_seeded=True) for key in keys]
        index, seed, epoch = keys[0]
        if self.collate_fn is not None:
            seed_cpu(stream(seed, "collate", epoch, index))
        found = self._batch_of(items, f"a batch of the {self.part} part of {self.config.target}")
        if isinstance(found, Failed) and self.collate_fn is None:  # which item is it?
            each = (self._batch_of([item], self._name(key[0])) for key, item in zip(keys, items, strict=True))
            return next((one for one in each if isinstance(one, Failed)), found)
        return found

    def _item(self, key: Key, is_seeded: bool = False) -> Any:
        index, seed, epoch = key
        if is_seeded:
            seed_cpu(stream(seed, "item", epoch, index))
        try:
            item = self.dataset[index]
            if self.collate_fn is not None:
                return item
            inputs, target = pair_of(item)
            return (inputs if self.transform is None else self._transformed(inputs)), target
        except UserError as error:
            return Failed(f"dataset: {self._name(index)}: {one_line(error)}", "")
        except (Exception, SystemExit) as error:
            rule = f"dataset: {self._name(index)} fails ({type(error).__name__}: {one_line(error)})"
            return Failed(rule, traceback.format_exc())

    def _name(self, index: int) -> str:
        part = self.part
        if isinstance(self.dataset, ConcatDataset) and index >= self.dataset.cumulative_sizes[0]:
            part, index = "held-out", index - self.dataset.cumulative_sizes[0]
        return f"item {index} (from 0) of the {part} part of {self.config.target}"

    def _transformed(self, inputs: Any) -> Tensor:
        assert self.transform is not None
        image: Any = over(tensor_of, inputs)
        if not isinstance(image, Tensor):
            raise DataError("augment.transforms must have one image to change", type(image).__name__, "leave them out")
        given = Given(image[None], torch.zeros(1), source_of(inputs))
        (image,) = images_of(given, self.config, self.part, is_whole=False)
        found: Any = self.transform(image)
        if not isinstance(found, Tensor) or (found.shape, found.dtype) != (image.shape, image.dtype):
            shown = kind_of(found) if isinstance(found, Tensor) else type(found).__name__
            rule = f"augment.transforms must keep shape and dtype {kind_of(image)} of an image, they give"
            remedy = "leave out what resizes, converts or normalizes: evaluation would see other images"
            raise DataError(rule, shown, remedy)
        changed: Tensor = found.as_subclass(Tensor)
        return changed

    def _batch_of(self, items: list[Any], name: str) -> Batch | Failed:
        """Joins items to the inputs and the targets of a batch, as the dataset gives them; `name` is for messages."""
        failed = next((item for item in items if isinstance(item, Failed)), None)
        if failed is not None:
            return failed
        try:
            if self.collate_fn is not None:
                inputs, targets = pair_of(self.collate_fn(items))
                given = Given(over(tensor_of, inputs), tensor_of(targets), Source.TENSOR)
                counts = {len(tensor) for tensor in (*tensors_of(given.images), given.labels)}
                if counts != {len(items)}:
                    rule = f"dataset.collate_fn must keep all {len(items)} items of a batch, it gives"
                    raise DataError(rule, sorted(counts), "replace what cannot be used, or leave it out of the dataset")
            else:
                tensors = joined(_stacked, [inputs for inputs, _ in items])
                given = Given(tensors, _stacked([target for _, target in items]), source_of(items[0][0]))
            images = images_of(given, self.config, self.part, is_whole=False)
            return images, self.check_targets(targets_of(given, self.config, self.part), self.config, self.part)
        except UserError as error:
            return Failed(f"dataset: {name}: {one_line(error)}", "")
        except (Exception, SystemExit) as error:
            return Failed(f"dataset: {name} fails ({type(error).__name__}: {one_line(error)})", traceback.format_exc())


def _stacked(parts: list[Any]) -> Tensor:
    """Returns what items have in one place as one tensor [n, ...]."""
    if all(type(part) is int for part in parts):
        return torch.tensor(parts)
    plain = all(type(part) is Tensor for part in parts)  # their dtype is checked once, at the end
    tensors = parts if plain else [tensor_of(part) for part in parts]
    first = tensors[0]
    odd = next((one for one in tensors if (one.shape, one.dtype) != (first.shape, first.dtype)), None)
    if odd is not None:
        rule = f"all inputs must be of one shape and dtype, the first one is {kind_of(first)}"
        raise DataError(rule, kind_of(odd), "resize them, or give dataset.collate_fn={_target_: my.pad}")
    return tensor_of(torch.stack(tensors))


class Batches:
    """The keys of the batches that the workers read next; a DataLoader asks for them at each epoch."""

    def __init__(self) -> None:
        self.keys: Sequence[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class KeysOfEpoch(Sequence[list[Key]]):
    """The keys of the batches of an epoch. Each list is made when it is asked for: all together need 100 bytes an item.

    Args:
        indices: of each batch, the indices of its items [seeds, batch].
        seeds: the seeds.
        epoch: the epoch.
    """

    indices: Sequence[Tensor]
    seeds: Sequence[int]
    epoch: int

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, batch: int) -> list[Key]: ...
    @overload
    def __getitem__(self, batch: slice) -> list[list[Key]]: ...
    def __getitem__(self, batch: int | slice) -> list[Key] | list[list[Key]]:
        if isinstance(batch, slice):
            return [self[one] for one in range(*batch.indices(len(self)))]
        rows = self.indices[batch].tolist()
        return [(index, seed, self.epoch) for seed, row in zip(self.seeds, rows, strict=True) for index in row]


class WorkerEndedError(OSError):
    """A worker process has ended, perhaps because memory ran out; another try may succeed."""


@dataclass(frozen=True)
class Reader:
    """Reads batches of items with worker processes, which live until it is closed.

    Args:
        items: the items. They are not read in this process: a file that is opened at the first item would be shared.
        here: the same items, of another instance of the dataset, to read in this process.
        workers: the number of processes.
    """

    items: Items
    here: Items
    workers: int
    _next: Batches = field(default_factory=Batches)
    _kinds: list[Any] = field(default_factory=list)
    """The dtypes of the first batch."""

    @functools.cached_property
    def _loader(self) -> DataLoader[Any]:
        in_main_thread = threading.current_thread() is threading.main_thread()
        loader: DataLoader[Any] = DataLoader(
            self.items,
            batch_sampler=self._next,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            persistent_workers=True,
            worker_init_fn=functools.partial(_begin_worker, in_main_thread, os.getpid()),
            generator=torch.Generator(),  # else each epoch would draw from the global one
        )
        # The finalizer owns the loader: one that is garbage in a cycle, as an error's traceback makes it, has lost its
        # queues before it tells its workers to end, and waits 5 seconds for each of them.
        vars(self)["_release"] = release = weakref.finalize(self, _take, loader)
        release.atexit = False
        return loader

    def read(self, batches: Sequence[list[Key]]) -> Iterator[Batch]:
        """Yields batches of items, as the dataset gives them, on the CPU.

        Raises:
            ItemError: an item cannot be read, or is not what the config says.
            WorkerEndedError: a worker process has ended.
        """
        self._next.keys = batches
        try:
            for found in self._loader:
                yield self._checked(found)
        except (RuntimeError, EOFError, ConnectionError) as error:
            self.close()
            rule = f"a worker process that reads the data has ended ({one_line(error)})"
            raise WorkerEndedError(f"{rule}; perhaps memory ran out: try workers=1") from error

    def close(self) -> None:
        """Ends the worker processes; the next reading begins others."""
        vars(self).pop("_loader", None)
        if (release := vars(self).pop("_release", None)) is not None:
            release()

    def read_here(self, keys: list[Key]) -> Batch:
        """Reads one batch in this process, whose random states stay as they are."""
        with seeded():
            return self._checked(self.here.__getitems__(keys))

    def changed_by(self, transform: Callable[[Tensor], Tensor]) -> Reader:
        """Returns a reader of the same items, each changed by a function."""
        changed = [replace(items, transform=transform) for items in (self.items, self.here)]
        return Reader(changed[0], changed[1], self.workers)

    def _checked(self, found: Batch | Failed) -> Batch:
        if not isinstance(found, Failed):
            kinds = [tensor.dtype for tensor in (*tensors_of(found[0]), found[1])]
            self._kinds[:] = self._kinds or kinds
            if kinds == self._kinds:
                return found
            name = f"dataset: a batch of the {self.items.part} part of {self.items.config.target}"
            first, had = (", ".join(str(one).removeprefix("torch.") for one in part) for part in (self._kinds, kinds))
            found = Failed(f"{name} must have the dtypes of the first one, {first}, it has {had}", "")
        mistake = DataError(found.rule, remedy="correct it")
        if found.trace:
            mistake.__cause__ = WorkerTraceback(f"in the worker process:\n{found.trace}")
        raise ItemError(found.rule) from mistake


def _as_it_is(batch: Any) -> Any:
    return batch


def _take(loader: DataLoader[Any]) -> None:
    """Takes the last reference to a loader, whose workers end then."""


def _begin_worker(in_main_thread: bool, parent: int, number: int) -> None:
    """Makes a worker end with its parent, whatever it does then; Ctrl-C, which reaches all processes of a terminal, is
    the parent's affair: it has a step to finish first.

    Args:
        in_main_thread: whether the main thread of the parent begins the worker: the system watches that thread.
        parent: the process id of the parent.
        number: the number of the worker.
    """
    gc.freeze()  # objects of the parent are not ended here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if in_main_thread:
        end_with_parent(parent)


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedTraining(Data):
    """Data whose training items are read for each batch, and drawn again in each epoch."""

    training: Reader

    @property
    def prepares_batches(self) -> bool:
        return True

    @property
    def is_read_beside(self) -> bool:
        return True

    def close(self) -> None:
        self.training.close()

    def batches(self, batch_size: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        for images, targets in self.stacked_batches(batch_size, [seed], epoch, skip):
            yield rows(images, 0), targets[0]

    def stacked_batches(self, batch_size: int, seeds: Sequence[int], epoch: int, skip: int = 0) -> Iterator[Batch]:
        orders = torch.stack([self._order(seed, epoch, batch_size).cpu() for seed in seeds])
        indices = torch.split(orders, batch_size, 1)[skip:]
        keys = KeysOfEpoch(indices, seeds, epoch)
        draws = [self._draws(seed, epoch) for seed in seeds]
        for part, (images, targets) in zip(indices, self.training.read(keys), strict=True):
            images, targets = self._ready(self._augmented(images, draws, part), targets)
            yield grouped(images, len(seeds)), grouped(targets, len(seeds))


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformedInMemory(StreamedTraining, InMemory):
    """Data in memory whose training items worker processes change."""

    @classmethod
    def of(
        cls, data: InMemory, config: DatasetConfig, transform: Callable[[Tensor], Tensor], workers: int
    ) -> TransformedInMemory:
        """Returns data whose training items are changed.

        Args:
            data: the data as they are.
            config: their config.
            transform: changes an image.
            workers: the number of processes.
        """
        assert isinstance(data.images, Tensor)
        items = Items(TensorDataset(data.images.cpu(), data.labels.cpu()), config, "training", _as_they_are, transform)
        values = {one.name: getattr(data, one.name) for one in fields(data)}
        return cls(**values, training=Reader(items, items, workers))


def _as_they_are(targets: Tensor, config: DatasetConfig, part: str) -> Tensor:
    return targets


@dataclass(frozen=True, eq=False, kw_only=True)
class Streamed(StreamedTraining):
    """Data whose items are all read for each batch. What is drawn for items that are not trained on is always the
    same."""

    selecting: Reader
    testing: Reader
    counted_tests: int
    item_bytes: int
    """The size of an item in memory."""
    _targets: list[Tensor] = field(default_factory=list)

    @property
    def test_count(self) -> int:
        return self.counted_tests

    @property
    def test_targets(self) -> Tensor:
        if not self._targets:
            found = [targets for _, targets in self.test_items()]
            self._targets.append(torch.cat(found) if found else torch.empty(0))
        return self._targets[0]

    def close(self) -> None:
        for reader in (self.training, self.selecting, self.testing):
            reader.close()

    def with_transform(self, transform: Callable[[Tensor], Tensor]) -> Streamed:
        """Returns the same data with training items that are changed."""
        return replace(self, training=self.training.changed_by(transform))

    def first(self, count: int) -> Batch:
        total = len(self.train) + len(self.held_out)
        return self.selecting.read_here([(index, *FIXED) for index in range(min(count, total))])

    def some(self, count: int = 16) -> Batch:
        return self._ready(*self.selecting.read_here([(index, *FIXED) for index in self.train[:count].tolist()]))

    def _held_out_batches(self, chunk: int) -> Iterator[Batch]:
        for images, targets in self.selecting.read(self._chunks(self.held_out.tolist(), chunk)):
            yield self._ready(images, targets)

    def test(self, chunk: int = EVALUATED) -> Iterator[Batch]:
        for images, targets in self.test_items(chunk):
            yield self._ready(images, targets)

    def test_items(self, chunk: int = EVALUATED) -> Iterator[Batch]:
        yield from self.testing.read(self._chunks(range(self.test_count), chunk))

    def _chunks(self, indices: Sequence[int], chunk: int) -> list[list[Key]]:
        size = self.eval_batch_size or max(1, min(chunk, EVALUATED_BYTES // max(1, self.item_bytes)))
        keys = [(index, *FIXED) for index in indices]
        return [keys[begin : begin + size] for begin in range(0, len(keys), size)]
