"""Builds a user's dataset with fixed seeds, reads each item, and checks that a second reading gives the same."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset

from sweepstack.config.schema import DatasetConfig
from sweepstack.errors import DataError, UserError, one_line
from sweepstack.training.data.conversion import Given, Source, images_of, source_of, targets_of, tensor_of
from sweepstack.training.instantiate import bound
from sweepstack.training.random_state import seeded

TRIED = 64
"""Items that are read again from a second instance of the dataset, and must be the same."""
PROGRESS_AFTER = 2.0
"""Seconds of reading after which progress is shown."""

_AS_STORED = {"MNIST", "FashionMNIST", "KMNIST", "EMNIST", "CIFAR10", "CIFAR100"}
"""Classes of `torchvision.datasets` whose items, without a transform, are those of their attributes `data` and
`targets`."""

CheckTargets = Callable[[Tensor, DatasetConfig, str], Tensor]
"""Checks the targets of a part, "training" or "test", and returns them as they are trained on; see `Task`."""

_reported: set[str] = set()
"""Targets of datasets whose random numbers this process has reported."""


def part(config: DatasetConfig, check_targets: CheckTargets, *, train: bool) -> tuple[Tensor, Tensor]:
    """Reads one part of a dataset: images [n, *config.shape], uint8 pixels or float32, and targets [n, ...].

    They are the items `dataset[i]` for i from 0 to below `len(dataset)`, and share no memory with the dataset. The
    global random generators have the same seed at every call, for both parts. If the dataset uses them, a line on
    standard error says so, once in a process.

    Args:
        config: the dataset.
        check_targets: that of the task.
        train: read the training part; else the test part.

    Raises:
        DataError: the dataset fails, returns something that is not understood, or other data at the second reading.
    """
    name = "training" if train else "test"
    with seeded() as drawn:
        dataset = _build_dataset(config, name, train)
        of_making = drawn()
        given = _given(dataset, config, name)
        of_items = drawn()
    known = config.target.startswith("sweepstack.") or _is_as_stored(dataset)
    del dataset  # a second instance is made below, and the memory may not hold two
    images = images_of(given, config, name)
    labels = check_targets(targets_of(given, config, name), config, name)
    if not isinstance(labels, Tensor) or labels.ndim == 0 or len(labels) != len(images):
        shape = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        rule = f"check_targets of the task must return a tensor with a row for each of {len(images):,} {name} items"
        raise DataError(rule, shape, "return one target for each item")
    if not known:
        if images.data_ptr() == given.images.data_ptr():  # a second instance could change them in place
            images = images.clone()
        if labels.data_ptr() == given.labels.data_ptr():
            labels = labels.clone()
        given = replace(given, images=given.images[:TRIED].clone(), labels=given.labels[:TRIED].clone())
        with seeded():
            _check_same(given, _given(_build_dataset(config, name, train), config, name, TRIED), config, name)
    if of_making or of_items:
        _report_draws(config, name, of_items)
    return images, labels


def _build_dataset(config: DatasetConfig, name: str, train: bool) -> Any:
    with _theirs(config, f"for its {name} part"):
        return bound(config, "dataset")(train=train)


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


def _given(dataset: Any, config: DatasetConfig, name: str, most: int | None = None) -> Given:
    """Reads all items of a dataset, or at least the first `most`.

    It takes the stored tensors of the classes whose items equal them, which is a hundred times as fast.
    """
    images: Any
    labels: Any
    if isinstance(dataset, TensorDataset) and type(dataset).__getitem__ is TensorDataset.__getitem__:
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
        return _items(dataset, config, name, most)
    parts = []
    for what, value in (("images", images), ("labels", labels)):
        try:
            parts.append(tensor_of(value))
        except DataError as error:
            raise error.inside(f"dataset: {name} {what} of {config.target}") from error
    return Given(parts[0], parts[1], source)


def _is_as_stored(dataset: Any) -> bool:
    kind = type(dataset)
    return (
        kind.__module__.startswith("torchvision.datasets.")
        and kind.__name__ in _AS_STORED
        and not any(getattr(dataset, name, None) for name in ("transform", "target_transform", "transforms"))
    )


def _items(dataset: Any, config: DatasetConfig, name: str, most: int | None) -> Given:
    kind = type(dataset)
    if isinstance(dataset, IterableDataset) or not (hasattr(kind, "__len__") and hasattr(kind, "__getitem__")):
        raise DataError(
            f"dataset must have __len__ and __getitem__, {config.target} gives an object without",
            kind.__name__,
            "read it into a list of (image, label) pairs",
        )
    with _theirs(config, f"for its {name} part"):
        count = len(dataset)
    count = count if most is None else min(count, most)
    images, source = torch.empty(0), Source.TENSOR
    labels: list[Any] = []
    show = _progress(count, f"Reading the {name} part of {config.target}") if most is None else lambda index: None
    for index in range(count):
        with _theirs(config, f"at item {index} (from 0) of its {name} part"):
            item = dataset[index]
        try:
            image, label = _pair(item)
            tensor = tensor_of(image)
            if not labels:
                images, source = _room(count, tensor), source_of(image)
            elif tensor.shape != images.shape[1:] or tensor.dtype != images.dtype:
                raise DataError(
                    f"all images must be of one shape and dtype, the first one is {_kind(images[0])}",
                    _kind(tensor),
                    "give it a transform, such as torchvision.transforms.Resize, or convert them",
                )
            images[index] = tensor  # a copy: some datasets return the same tensor every time, with other values
            labels.append(label if type(label) is int else _label(label))
        except DataError as error:
            raise error.inside(f"dataset: item {index} (from 0) of the {name} part of {config.target}") from error
        show(index)
    show(count)
    try:
        return Given(
            images, torch.stack(labels) if labels and isinstance(labels[0], Tensor) else tensor_of(labels), source
        )
    except (DataError, RuntimeError, TypeError) as error:
        raise DataError(
            f"dataset must give labels of one kind, the {name} labels of {config.target} are of several",
            remedy="give each image the index of its class, from 0",
        ) from error


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    shown = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list | dict) else type(item).__name__
    raise DataError("it must be a pair (image, label)", shown, "wrap the dataset, or select two of its parts")


def _label(label: Any) -> Any:
    """Returns a label as a plain number, or as a tensor if it has axes."""
    try:
        tensor = tensor_of(label).clone()
    except DataError as error:
        raise error.inside("its label") from error
    return tensor if tensor.ndim else tensor.item()


def _room(count: int, image: Tensor) -> Tensor:
    try:
        return torch.empty((count, *image.shape), dtype=image.dtype)
    except (RuntimeError, MemoryError) as error:
        size = f"{count:,} images of {_kind(image)}"
        raise DataError("a dataset must fit into memory", size, "give fewer or smaller images") from error


def _kind(image: Tensor) -> str:
    return f"{list(image.shape)} {str(image.dtype).removeprefix('torch.')}"


def _progress(count: int, what: str) -> Callable[[int], None]:
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


def _check_same(given: Given, repeated: Given, config: DatasetConfig, name: str) -> None:
    tried = min(len(repeated.images), len(repeated.labels), TRIED)
    for first, second in ((given.images, repeated.images), (given.labels, repeated.labels)):
        was, now = first[:tried], second[:tried]
        if was.dtype != now.dtype or not torch.equal(was, now):
            raise DataError(
                f"dataset must give the same data whenever it is read, {config.target} gives other {name} data the "
                "second time",
                remedy="if it draws random numbers, draw them from torch, numpy.random or random, which are seeded, or "
                "give its own generator a fixed seed; if it changes data in place, let it copy them first",
            )


def _report_draws(config: DatasetConfig, name: str, of_items: bool) -> None:
    """Prints once in a process that a dataset uses random numbers."""
    if config.target in _reported:
        return
    _reported.add(config.target)
    line = f"Dataset {config.target} draws random numbers while it is made: they are seeded, so it is always the same."
    if of_items:
        line = (
            f"Dataset {config.target} draws random numbers for its {name} images: they are drawn once, with a fixed "
            "seed, not again in each epoch; held-out images, and test images drawn the same way, are changed as well."
        )
    print(line, file=sys.stderr)
