"""Builds a user's dataset with fixed seeds, reads each item, and checks that a second reading gives the same."""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset

from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError, UserError, one_line
from sweepstack.paths import cache_folder
from sweepstack.training.data.conversion import (
    Given,
    Source,
    check_pixels,
    images_of,
    kind_of,
    no_items,
    pair_of,
    source_of,
    targets_of,
    tensor_of,
)
from sweepstack.training.data.inputs import Inputs, over, tensors_of
from sweepstack.training.instantiate import bound
from sweepstack.training.random_state import seeded

TRIED = 64
"""Items that are read again from a second instance of the dataset, and must be the same."""
SAMPLED = 16
"""Items, spread over a part, that are compared with the tensors that were taken in their place."""
PROGRESS_AFTER = 2.0
"""Seconds of reading after which progress is shown."""

_AS_STORED = {"MNIST", "FashionMNIST", "KMNIST", "EMNIST", "CIFAR10", "CIFAR100"}
"""Classes of `torchvision.datasets` whose items, without a transform, are those of their attributes `data` and
`targets`."""

CheckTargets = Callable[[Tensor, DatasetConfig, str], Tensor]
"""Checks the targets of a part, such as "training" or "test", and returns them as they are trained on; see `Task`."""


_reported: set[tuple[str, str]] = set()
"""Targets of datasets and the lines about them that this process has printed."""


class DrawsItems(Exception):  # noqa: N818 -- a finding, not a fault
    """The items of a part draw random numbers, so they have no fixed values to hold in memory."""


@dataclass(frozen=True)
class Part:
    """One part of a dataset, built and not read yet.

    Args:
        config: the dataset.
        name: "training", "held-out" or "test".
    """

    config: DatasetConfig
    name: str

    @property
    def keywords(self) -> dict[str, Any] | None:
        """The keywords of the dataset's target that make it; None if the dataset has no such part."""
        parts = self.config.parts
        return {"training": parts.train, "held-out": parts.val, "test": parts.test}[self.name]

    @functools.cached_property
    def dataset(self) -> Any:
        """The dataset, built while the global random generators have a fixed seed."""
        with seeded() as drawn:
            found = self._built()
            if drawn():
                say_once(
                    self.config,
                    f"Dataset {self.config.target} draws random numbers while it is made: they are seeded, so it is "
                    "always the same.",
                )
        return found

    def _built(self) -> Any:
        with _theirs(self.config, f"for its {self.name} part"):
            return bound(self.config, "dataset")(**(self.keywords or {}))

    @property
    def is_stored(self) -> bool:
        """True if its items are those of tensors that it holds."""
        return _gives_its_tensors(self.dataset) or _is_as_stored(self.dataset)

    @functools.cached_property
    def count(self) -> int:
        """The number of its items.

        Raises:
            DataError: it does not say so.
        """
        kind = type(self.dataset)
        if isinstance(self.dataset, IterableDataset) or not (hasattr(kind, "__len__") and hasattr(kind, "__getitem__")):
            raise DataError(
                f"dataset must have __len__ and __getitem__, {self.config.target} gives an object without",
                kind.__name__,
                "read it into a list of (image, label) pairs, or give each item an index",
            )
        with _theirs(self.config, f"for its {self.name} part"):
            return len(self.dataset)

    def item(self, index: int) -> tuple[Any, Any]:
        """Returns the inputs and the target of an item, as the dataset gives them.

        Raises:
            DataError: the dataset fails, or gives no pair.
        """
        with _theirs(self.config, f"at item {index} (from 0) of its {self.name} part"):
            item = self.dataset[index]
        with self.naming(index):
            return pair_of(item)

    @contextlib.contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Adds to a `DataError` of the block which item it is about."""
        try:
            yield
        except DataError as error:
            name = f"dataset: item {index} (from 0) of the {self.name} part of {self.config.target}"
            raise error.inside(name) from error

    def draws_items(self) -> bool:
        """True if one of its first items draws random numbers."""
        with seeded() as drawn:
            for index in range(min(TRIED, self.count)):
                self.item(index)
            return drawn()

    def item_bytes(self) -> int:
        """Returns the size of its first item in memory.

        Raises:
            DataError: it has none.
        """
        if not self.count:
            raise no_items(self.config, self.name)
        with seeded():
            inputs, _ = self.item(0)
        with self.naming(0):
            return sum(tensor.nbytes for tensor in tensors_of(over(tensor_of, inputs)))


def read(part: Part, check_targets: CheckTargets, *, mapped: bool = False) -> tuple[Inputs, Tensor]:
    """Reads one part of a dataset: its inputs [n, *config.shape], see `images_of`, and targets [n, ...].

    They are the items `dataset[i]` for i from 0 to below `len(dataset)`, and share no memory with the dataset.

    Args:
        part: the part.
        check_targets: that of the task.
        mapped: True to hold the inputs in a file that is mapped into memory.

    Raises:
        DataError: the dataset fails, returns something that is not understood, or other data at the second reading.
        DrawsItems: its items draw random numbers.
    """
    config, name = part.config, part.name
    with seeded() as drawn:
        given = _given(part, None, mapped)
        if drawn():
            raise DrawsItems
    if mapped and part.is_stored:
        say_once(config, f"Dataset {config.target} is in memory already: dataset.source=mapped changes nothing.")
    if mapped and given.count and not part.is_stored:  # its items were converted one by one
        images = given.images
        if isinstance(images, Tensor) and images.dtype == torch.uint8 and config.shape is not None:
            check_pixels(given, config, name)
    else:
        images = images_of(given, config, name)
    labels = check_targets(targets_of(given, config, name), config, name)
    if not isinstance(labels, Tensor) or labels.ndim == 0 or len(labels) != given.count:
        shape = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        rule = f"check_targets of the task must return a tensor with a row for each of {given.count:,} {name} items"
        raise DataError(rule, shape, "return one target for each item")
    if config.target.startswith("sweepstack."):
        return images, labels
    if part.is_stored:
        _check_shortcut(part, given)
    else:
        say_where_colours_are(part, images)
    if _gives_its_tensors(part.dataset):  # who made the tensors may keep them, and change them in place
        if images.data_ptr() == given.images.data_ptr():
            images = images.clone()
        if labels.data_ptr() == given.labels.data_ptr():
            labels = labels.clone()
    vars(part).pop("dataset")  # a second instance is made below, and the memory may not hold two
    first = over(lambda tensor: tensor[:TRIED].clone(), given.images)
    given = replace(given, images=first, labels=given.labels[:TRIED].clone())
    with seeded():
        _check_same(given, _given(Part(config, name), TRIED, mapped), part)
    return images, labels


def say_where_colours_are(part: Part, inputs: Inputs) -> None:
    """Says in a line if the colours of images come last in the dataset, and are moved to the front.

    Args:
        part: the part.
        inputs: its first items as they are trained on, [n, *shape].
    """
    with seeded():
        first, _ = part.item(0)
    if isinstance(first, np.ndarray | Tensor) and isinstance(inputs, Tensor) and first.ndim == inputs.ndim - 1 == 3:
        had, has = list(first.shape), list(inputs.shape[1:])
        if had != has and had == [*has[1:], has[0]]:
            line = f"Dataset {part.config.target} gives its colours last, {had}: they are moved to the front, {has}."
            say_once(part.config, line)


def check_repeats(part: Part, read_first: Callable[[], tuple[Inputs, Tensor]]) -> None:
    """Checks that items are the same whenever they are read with the same random numbers.

    Args:
        part: the part that they are of.
        read_first: reads the first items.
    """
    (images, labels), (other_images, other_labels) = read_first(), read_first()
    _check_same(Given(images, labels, Source.TENSOR), Given(other_images, other_labels, Source.TENSOR), part)


@contextlib.contextmanager
def _theirs(config: DatasetConfig, when: str) -> Iterator[None]:
    """Turns every error of the user's code in this block, `sys.exit` included, into a `DataError`."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"dataset: {config.target} fails {when} ({reason})", remedy="correct it") from error


def _given(part: Part, most: int | None, mapped: bool = False) -> Given:
    """Reads all items of a part, or at least the first `most`; with `mapped` in the form that they are trained on.

    It takes the stored tensors of the classes whose items equal them, which is a hundred times as fast.
    """
    dataset, config = part.dataset, part.config
    images: Any
    labels: Any
    if _gives_its_tensors(dataset):
        if len(dataset.tensors) != 2:
            raise DataError(
                f"dataset must give (image, label) pairs, the TensorDataset of {config.target} has another number of "
                "tensors",
                len(dataset.tensors),
                "give it images and labels",
            )
        (images, labels), source = dataset.tensors, Source.TENSOR
    elif _is_as_stored(dataset):
        images, labels, source = dataset.data, dataset.targets, Source.PICTURE
    else:
        return _items(part, most, mapped)
    parts = []
    for what, value in (("images", images), ("labels", labels)):
        try:
            parts.append(tensor_of(value))
        except DataError as error:
            raise error.inside(f"dataset: {part.name} {what} of {config.target}") from error
    return Given(parts[0], parts[1], source)


def _check_shortcut(part: Part, given: Given) -> None:
    """Checks on a sample that the items of a dataset are those of the tensors that it holds."""
    with seeded():
        for index in range(0, given.count, max(1, given.count // SAMPLED)):
            inputs, target = part.item(index)
            image, label = tensor_of(inputs), tensor_of(target)
            had, kept = given.images[index], given.labels[index]
            if (
                image.numel() != had.numel()
                or not torch.equal(image.reshape(had.shape), had)
                or not bool((label == kept).all())
            ):
                rule = (
                    f"items of a {type(part.dataset).__name__} must be those of its tensors, item {index} (from 0) of"
                )
                rule = f"{rule} the {part.name} part of {part.config.target} is not"
                raise DataError(rule, remedy="do not change its __getitem__; let a class of your own give the items")


def _gives_its_tensors(dataset: Any) -> bool:
    return isinstance(dataset, TensorDataset) and type(dataset).__getitem__ is TensorDataset.__getitem__


def _is_as_stored(dataset: Any) -> bool:
    kind = type(dataset)
    return (
        kind.__module__.startswith("torchvision.datasets.")
        and kind.__name__ in _AS_STORED
        and not any(getattr(dataset, name, None) for name in ("transform", "target_transform", "transforms"))
    )


def _items(part: Part, most: int | None, mapped: bool) -> Given:
    count = part.count if most is None else min(part.count, most)
    images: Any = torch.empty(0)
    source = Source.TENSOR
    labels: list[Any] = []
    what = f"Reading the {part.name} part of {part.config.target}"
    show = progress(count, what) if most is None else lambda index: None
    for index in range(count):
        image, label = part.item(index)
        with part.naming(index):
            tensors = over(tensor_of, image)
            if not labels:
                source = source_of(image)
            if mapped:  # in its final form, for the whole part could not be converted in memory
                one = Given(over(lambda tensor: tensor[None], tensors), torch.zeros(1), source)
                tensors = over(lambda tensor: tensor[0], images_of(one, part.config, part.name, is_whole=False))
            if not labels:
                images = over(lambda tensor: _room(count, tensor, mapped and most is None), tensors)
            _store(tensors, images, index)
            labels.append(label if type(label) is int else _label(label))
        show(index)
    show(count)
    try:
        return Given(
            images, torch.stack(labels) if labels and isinstance(labels[0], Tensor) else tensor_of(labels), source
        )
    except (DataError, RuntimeError, TypeError) as error:
        raise DataError(
            f"dataset must give labels of one kind, the {part.name} labels of {part.config.target} are of several",
            remedy="give each image the index of its class, from 0",
        ) from error


def _store(tensors: Any, rooms: Any, index: int) -> None:
    """Copies the inputs of an item: some datasets return the same tensor every time, with other values."""
    had = {name: kind_of(room[0]) for name, room in _named(rooms).items()}
    for name, tensor in _named(tensors).items():
        if name not in had or _shape_and_kind(tensor) != _shape_and_kind(_named(rooms)[name][0]):
            raise DataError(
                f"all images must be of one shape and dtype, the first one is {had.get(name, ', '.join(had.values()))}",
                kind_of(tensor),
                "give it a transform, such as torchvision.transforms.Resize, or convert them; or join them by "
                "dataset.collate_fn={_target_: my.pad}",
            )
    if len(_named(tensors)) != len(had):
        raise DataError(f"all items must have the {len(had)} inputs of the first one", len(_named(tensors)), "pad them")
    for name, tensor in _named(tensors).items():
        _named(rooms)[name][index] = tensor


def _named(inputs: Any) -> dict[Any, Tensor]:
    return dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(tensors_of(inputs)))


def _label(label: Any) -> Any:
    """Returns a label as a plain number, or as a tensor if it has axes."""
    try:
        tensor = tensor_of(label).clone()
    except DataError as error:
        raise error.inside("its label") from error
    return tensor if tensor.ndim else tensor.item()


def _room(count: int, image: Tensor, mapped: bool) -> Tensor:
    """Returns a tensor for `count` images like one."""
    shape = (count, *image.shape)
    try:
        return mapped_room(shape, image.dtype) if mapped else torch.empty(shape, dtype=image.dtype)
    except (RuntimeError, MemoryError, OSError) as error:
        size = f"{count:,} images of {kind_of(image)}"
        where = "on the disk of the cache" if mapped else "into memory"
        remedy = "set dataset.source=streamed" + ("" if mapped else " or mapped")
        raise DataError(f"a dataset must fit {where} with dataset.source=memory or mapped", size, remedy) from error


def mapped_room(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Returns a tensor of zeros in a file of the cache folder, mapped into memory. The file has no name any more, so it
    is gone with the process."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    size = max(1, math.prod(shape) * dtype.itemsize)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, "posix_fallocate") else file.truncate(size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype, count=math.prod(shape)).view(shape)


def _shape_and_kind(image: Tensor) -> tuple[torch.Size, torch.dtype]:
    return image.shape, image.dtype


def progress(count: int, what: str) -> Callable[[int], None]:
    """Returns a function that shows on standard error how many items were read, if reading takes long.

    It rewrites one line on a terminal, and writes a single line elsewhere.
    """
    began, shown_at = time.monotonic(), 0.0

    def show(index: int) -> None:
        nonlocal shown_at
        now, live = time.monotonic(), sys.stderr.isatty()
        if now - began < PROGRESS_AFTER or (shown_at and (not live or (now - shown_at < 1.0 and index < count))):
            return
        shown_at = now
        end = "\n" if index == count or not live else ""
        print(f"{chr(13) if live else ''}{what}: {index:,} of {count:,} items", end=end, file=sys.stderr, flush=True)

    return show


def _check_same(given: Given, repeated: Given, part: Part) -> None:
    for first, second in zip(
        (*tensors_of(given.images), given.labels), (*tensors_of(repeated.images), repeated.labels), strict=True
    ):
        tried = min(len(first), len(second), TRIED)
        was, now = first[:tried], second[:tried]
        if was.dtype != now.dtype or not torch.equal(was, now):
            raise DataError(
                f"dataset must give the same data whenever it is read, {part.config.target} gives other {part.name} "
                "data the second time",
                remedy="if it draws random numbers, draw them from torch, numpy.random or random, which are seeded, or "
                "give its own generator a fixed seed; if it changes data in place, let it copy them first",
            )


def say_once(config: DatasetConfig, line: str) -> None:
    """Prints a line about a dataset to standard error, once in a process."""
    if (config.target, line) not in _reported:
        _reported.add((config.target, line))
        print(line, file=sys.stderr)
