"""Loads the data of a config: chooses where they are held, reads them, and holds a part out."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from sweepstack.config.schema import AugmentConfig, DatasetConfig, HeldOut, RunConfig, TaskConfig, TrialConfig
from sweepstack.errors import ConfigError, DataError, one_line
from sweepstack.training.data import user_dataset
from sweepstack.training.data.augmentation import Augmentation
from sweepstack.training.data.inputs import Inputs, joined, over, rows, tensors_of
from sweepstack.training.data.memory import InMemory, digest_of
from sweepstack.training.data.source import Data
from sweepstack.training.data.splits import Splits
from sweepstack.training.data.streamed import FIXED, ItemError, Items, Reader, Streamed, TransformedInMemory
from sweepstack.training.data.user_dataset import TRIED, CheckTargets, DrawsItems, Part
from sweepstack.training.hardware import memory_budget
from sweepstack.training.instantiate import bound, instantiate

CPU = torch.device("cpu")
"""Where data are read."""
CLASSES = TaskConfig()
"""The default task: classification."""
DEFAULT_WORKERS = max(1, min(8, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 1))
"""Processes that read streamed data: one core is left for the training."""
HASHED_AT_ONCE = 256
"""Items that are read at once to compute the checksum of streamed data."""


def data_of(config: TrialConfig, device: torch.device, run: RunConfig | None = None) -> Data:
    """Loads the data of a trial, with all that its config says of batches.

    Args:
        config: the config of the trial.
        device: the device to train on.
        run: says how many processes read streamed data, and how many items are evaluated at once.

    Raises:
        ConfigError: `augment` does not suit the data.
        DataError: see `load_data`.
    """
    workers = run.workers if run is not None else None
    data = load_data(config.dataset, config.held_out, device, config.task, workers)
    augmentation = _augmentation(config.augment, data)
    if config.augment.transforms:
        data = _transformed(data, config, workers)
    if config.drop_last and len(data.train) < config.batch_size and config.trainer is None:
        rule = f"with drop_last, batch_size must be at most the {len(data.train)} items to train on"
        raise ConfigError(rule, config.batch_size, f"for example batch_size={max(1, len(data.train) // 10)}")
    return data.trained_with(augmentation, config.drop_last, run.eval_batch_size if run is not None else None)


def load_data(
    config: DatasetConfig,
    held: HeldOut | float,
    device: torch.device,
    task: TaskConfig = CLASSES,
    workers: int | None = None,
) -> Data:
    """Loads a dataset. It keeps the last two datasets, so that the trials of a sweep share one copy; its folds, too.

    Args:
        config: the dataset.
        held: the training items to hold out, or their fraction.
        device: the device to train on.
        task: the task whose targets the labels are.
        workers: the number of processes that read streamed data; None: chosen.

    Raises:
        DataError: the data cannot be loaded, or are not what config and task say.
    """
    learned = task.model_dump_json(by_alias=True, exclude={"loss", "metrics", "objective"})
    held = held if isinstance(held, HeldOut) else HeldOut(held)
    read, splits = _read(config.model_dump_json(by_alias=True), str(device), learned, held.grouped)
    return read.data(*splits.of(held), device, config, workers)


@dataclass(frozen=True)
class Tensors:
    """A dataset that was read."""

    images: Inputs
    labels: Tensor
    test_images: Inputs
    test_labels: Tensor
    digest: str

    def data(
        self, train: Tensor, held_out: Tensor, device: torch.device, config: DatasetConfig, workers: int | None
    ) -> Data:
        """Returns it for a training.

        Args:
            train: the indices of the items to train on.
            held_out: the indices of the items to select by.
            device: the device to train on.
            config: the dataset.
            workers: the number of processes that read streamed data; None: as it is.
        """
        where = self.labels.device
        return InMemory(
            train=train.to(where),
            held_out=held_out.to(where),
            device=device,
            mean=config.mean,
            std=config.std,
            digest=self.digest,
            images=self.images,
            labels=self.labels,
            test_images=self.test_images,
            test_labels=self.test_labels,
        )


@dataclass(frozen=True)
class Stream:
    """A dataset that is read while it is trained on. Items to select by are read beside those to train on."""

    training: Reader
    selecting: Reader
    testing: Reader
    test_count: int
    item_bytes: int
    digest: str

    def data(
        self, train: Tensor, held_out: Tensor, device: torch.device, config: DatasetConfig, workers: int | None
    ) -> Data:
        """See `Tensors.data`."""
        return Streamed(
            train=train,
            held_out=held_out,
            device=device,
            mean=config.mean,
            std=config.std,
            digest=self.digest,
            training=self.training.by(workers),
            selecting=self.selecting.by(workers),
            testing=self.testing.by(workers),
            counted_tests=self.test_count,
            item_bytes=self.item_bytes,
        )


@functools.lru_cache(maxsize=2)
def _read(config_json: str, device_name: str, task_json: str, grouped: bool) -> tuple[Tensors | Stream, Splits]:
    from sweepstack.training.tasks.built import build_task  # tasks import `conversion`, which imports this file first

    config = DatasetConfig.model_validate_json(config_json)
    check_targets = build_task(TaskConfig.model_validate_json(task_json)).check_targets
    every = [Part(config, name) for name in ("training", "held-out", "test")]
    parts = [part for part in every if part.keywords is not None]
    splits = Splits.of_parts(parts, grouped)
    why = _why_streamed(parts)
    if why is None:
        try:
            read = _read_whole(parts, check_targets, torch.device(device_name))
            return replace(read, digest=splits.digest(read.digest)), splits.with_labels(read.labels, read.test_labels)
        except DrawsItems:
            why = "its items draw random numbers, others in each epoch"
            if config.source in ("memory", "mapped"):
                rule = (
                    f"with dataset.source={config.source}, items must always be the same, {config.target} draws random"
                )
                remedy = "set dataset.source=auto or streamed; or give its random transforms as augment.transforms"
                raise DataError(f"{rule} numbers for them", remedy=remedy) from None
    user_dataset.say_once(config, f"Dataset {config.target} is streamed by worker processes: {why}.")
    stream = _open_stream(parts, check_targets)
    return replace(stream, digest=splits.digest(stream.digest)), splits.with_targets(parts[0])


def _why_streamed(parts: Sequence[Part]) -> str | None:
    """Says why a dataset is streamed; None if it is to be held in memory or in a file."""
    config = parts[0].config
    for part in parts:
        part.count  # noqa: B018 -- raises the error for a dataset without a length
    if config.collate_fn is not None:
        if config.source in ("memory", "mapped"):
            rule = "dataset.collate_fn makes batches, which only a stream has"
            raise DataError(rule, f"dataset.source={config.source}", "set dataset.source=auto or streamed")
        return "dataset.collate_fn makes its batches"
    if config.source == "streamed":
        return "dataset.source says so"
    if config.source != "auto" or all(part.is_stored for part in parts):
        return None
    if parts[0].draws_items():
        return "its items draw random numbers, others in each epoch"
    size, budget = sum(part.count * part.item_bytes() for part in parts), memory_budget(CPU)
    if size > budget:
        return f"its {size / 2**30:.1f} GB are more than the {budget / 2**30:.1f} GB that data may have in memory"
    return None


def _read_whole(parts: Sequence[Part], check_targets: CheckTargets, device: torch.device) -> Tensors:
    config = parts[0].config
    mapped = config.source == "mapped"
    read = [user_dataset.read(part, check_targets, mapped=mapped) for part in parts]
    images, labels = read[0]
    for part, (others, _) in zip(parts[1:], read[1:], strict=True):
        _check_parts(images, others, config, part.name)
    if config.parts.val is not None:
        if mapped:
            rule = "dataset.source=mapped maps one training part, and dataset.parts.val is another one"
            raise DataError(rule, remedy="set dataset.source=auto or streamed")
        others, of_others = read[1]
        images, labels = joined(torch.cat, [images, others]), torch.cat([labels, of_others])
    if config.parts.test is None:
        _check_parts(images, images, config, "training")
    test_images, test_labels = read[-1] if config.parts.test is not None else (rows(images, slice(0)), labels[:0])
    digest = digest_of(*(one for part in read for one in part))
    tensors = images, labels, test_images, test_labels
    if _fits(sum(one.nbytes for part in tensors for one in tensors_of(part)), device):
        images, labels, test_images, test_labels = (over(lambda one: one.to(device), part) for part in tensors)
    return Tensors(images, labels, test_images, test_labels, digest)


def _open_stream(parts: Sequence[Part], check_targets: CheckTargets) -> Stream:
    config = parts[0].config
    collate = None if config.collate_fn is None else bound(config.collate_fn, "dataset.collate_fn")
    items = [Items(part.dataset, config, part.name, check_targets, None, collate) for part in parts]
    readers = [Reader(one, DEFAULT_WORKERS) for one in items]
    for part, reader in zip(parts, readers, strict=True):
        if not part.count:
            rule = f"dataset must give one image or more, {config.target} gives no {part.name} image"
            raise DataError(rule, remedy="correct it")
        keys = [(index, *FIXED) for index in range(min(part.count, TRIED))]
        try:
            user_dataset.check_repeats(part, functools.partial(reader.read_here, keys))
        except ItemError as error:
            raise error.__cause__ or error from None
    inputs, _ = readers[0].read_here([(0, *FIXED)])
    size = sum(tensor.nbytes for tensor in tensors_of(inputs))
    digest = _stated_digest(parts) or _digest_of_items(parts, readers)
    if config.parts.val is not None:
        both: ConcatDataset[Any] = ConcatDataset([part.dataset for part in parts[:2]])
        readers[0] = Reader(replace(items[0], dataset=both), DEFAULT_WORKERS)
    training = Reader(readers[0].items, DEFAULT_WORKERS)  # items to train on have workers of their own
    test_count = 0 if config.parts.test is None else parts[-1].count
    return Stream(training, readers[0], readers[-1], test_count, size, digest)


def _stated_digest(parts: Sequence[Part]) -> str | None:
    """Returns a checksum that needs no items: of the identity that the user states, or of the names, sizes and times of
    the files in `samples`; None if there is neither."""
    config = parts[0].config
    about: list[Any] = [config.target, config.keywords]
    if config.identity is not None:
        about.append(config.identity)
    else:
        try:
            about += [_manifest(part.dataset.samples) for part in parts]
        except (AttributeError, TypeError, ValueError, OSError):  # no files, or not of this form
            return None
    about += [part.count for part in parts]
    return hashlib.sha1(json.dumps(about, default=repr).encode(), usedforsecurity=False).hexdigest()[:16]


def _manifest(samples: Iterable[tuple[Any, Any]]) -> list[Any]:
    """Returns what is known of files without reading them.

    Args:
        samples: (path, class) pairs, as `torchvision.datasets.ImageFolder` has them.
    """
    pairs = [(os.fspath(path), repr(label)) for path, label in samples]
    root = os.path.commonpath([path for path, _ in pairs])
    states = [os.stat(path) for path, _ in pairs]
    return [
        (os.path.relpath(path, root), label, state.st_size, state.st_mtime_ns)
        for (path, label), state in zip(pairs, states, strict=True)
    ]


def _digest_of_items(parts: Sequence[Part], readers: Sequence[Reader]) -> str:
    """Reads all items once for the checksum; that of items without random numbers is the one they have in memory."""
    digest = hashlib.sha1(usedforsecurity=False)
    for part, reader in zip(parts, readers, strict=True):
        keys = [(index, *FIXED) for index in range(part.count)]
        batches = [keys[begin : begin + HASHED_AT_ONCE] for begin in range(0, len(keys), HASHED_AT_ONCE)]
        show = user_dataset.progress(
            part.count, f"Reading the {part.name} part of {part.config.target} for its checksum"
        )
        targets: list[Tensor] = []
        try:
            for inputs, labels in reader.read(batches):
                for tensor in tensors_of(inputs):
                    digest.update(tensor.contiguous().numpy().data)
                targets.append(labels)
                show(min(part.count, len(targets) * HASHED_AT_ONCE))
        except ItemError as error:
            raise error.__cause__ or error from None
        for labels in targets:
            digest.update(labels.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _augmentation(config: AugmentConfig, data: Data) -> Augmentation | None:
    """Returns the changes of whole batches; None if there are none.

    Raises:
        ConfigError: the data are no images, or too small.
    """
    if not (config.crop or config.flip or config.erase):
        return None
    inputs, _ = data.first(1)
    if not isinstance(inputs, Tensor) or inputs.ndim < 3 or inputs.dtype == torch.int64:
        shape = list(inputs.shape[1:]) if isinstance(inputs, Tensor) else type(inputs).__name__
        rule = "augment.crop, flip and erase must have images [channels, height, width] to change"
        raise ConfigError(rule, shape, "set augment=none")
    return Augmentation(config)


def _transformed(data: Data, config: TrialConfig, workers: int | None) -> Data:
    """Returns data whose training items `augment.transforms` change in worker processes."""
    from torchvision.transforms import v2

    found = []
    for index, one in enumerate(config.augment.transforms):
        key = f"augment.transforms[{index}]"
        try:
            found.append(instantiate({"_target_": one.target, **one.keywords}, key))
        except (ConfigError, DataError):
            raise
        except Exception as error:
            raise ConfigError(
                f"{key}: {one.target} refuses its values: {one_line(error)}", remedy="change it"
            ) from error
    transform = v2.Compose(found)
    try:
        if isinstance(data, Streamed):
            return data.with_transform(transform)
        assert isinstance(data, InMemory)
        changed = TransformedInMemory.of(data, config.dataset, transform, workers or DEFAULT_WORKERS)
        changed.training.read_here([(index, 0, 1) for index in data.train[:TRIED].tolist()])
        return changed
    except ItemError as error:
        raise error.__cause__ or error from None


def _fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes of data leave the device at least half of its free memory."""
    return device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] / 2


def _check_parts(images: Inputs, others: Inputs, config: DatasetConfig, name: str) -> None:
    """Checks that the same scaling fits the training part and another one, of this name."""
    kinds = [", ".join(str(one.dtype).removeprefix("torch.") for one in tensors_of(part)) for part in (images, others)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"training and {name} images must be of one kind, those of {config.target} are {kinds[0]} and {kinds[1]}",
            remedy="give both as uint8 pixels, which are divided by 255, or both as float32",
        )
    if not isinstance(images, Tensor) or not isinstance(others, Tensor) or images.dtype == torch.int64:
        if (config.mean, config.std) != (0.0, 1.0):
            rule = "dataset.mean and dataset.std must be 0 and 1 for tokens and for several inputs"
            raise DataError(rule, {"mean": config.mean, "std": config.std}, "set dataset.mean=0 dataset.std=1")
        return
    scale = 255 if images.dtype == torch.uint8 else 1
    bounds = torch.stack([bound for part in (images, others) for bound in torch.aminmax(part)]).float() / scale
    scaled = ((bounds[:, None] - torch.tensor(config.mean)) / torch.tensor(config.std)).isfinite()
    if not bool(scaled.all()):
        raise DataError(
            "(image - dataset.mean) / dataset.std must be finite as float32, images are from "
            f"{float(bounds.min()):g} to {float(bounds.max()):g}",
            {"mean": config.mean, "std": config.std},
            "change dataset.mean and dataset.std",
        )
