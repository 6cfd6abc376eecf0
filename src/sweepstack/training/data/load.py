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

from sweepstack.config.code_digest import digest_of_dataset
from sweepstack.config.schema import HeldOut, RunConfig, TrialConfig
from sweepstack.config.trial_sections import AugmentConfig, DatasetConfig, TaskConfig
from sweepstack.data_files.facts import TABLE
from sweepstack.errors import ConfigError, DataError, one_line, printable
from sweepstack.training.data import user_dataset
from sweepstack.training.data.augmentation import Augmentation
from sweepstack.training.data.inputs import Inputs, joined, over, rows, tensors_of
from sweepstack.training.data.memory import Checksum, InMemory, digest_of
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
    """Loads the data of a trial, with all that its config says of batches. A line on standard error says what becomes
    of the columns of a table, once in a process.

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
    if config.dataset.target == TABLE:
        from sweepstack.data_files.table import choose  # pandas, which only tables need

        line = f"table {choose(**config.dataset.keywords).load().description}"
        user_dataset.say_once(config.dataset, printable(line))
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
        ConfigError: the groups of a table must stay together, and it has none.
        DataError: the data cannot be loaded, or are not what config and task say.
    """
    learned = task.model_dump_json(by_alias=True, exclude={"loss", "metrics", "objective"})
    held = held if isinstance(held, HeldOut) else HeldOut(held)
    _check_group(config, held)
    chosen = workers or DEFAULT_WORKERS
    read, splits = _read(config.model_dump_json(by_alias=True), str(device), learned, held.grouped, chosen)
    return read.data(*splits.of(held), device, config)


def _check_group(config: DatasetConfig, held: HeldOut) -> None:
    """Checks that a table has groups if they must stay together; a line says that they do not."""
    if config.target != TABLE:
        return
    group = config.keywords.get("group")
    if held.grouped and group is None:
        raise ConfigError(
            "split.grouped needs the column with the groups of a table", remedy="set dataset.group=COLUMN"
        )
    if group is not None and not held.grouped and (held.fraction or held.folds):
        line = f"The rows of one {group} can be both trained on and held out: split.grouped=true keeps them together."
        user_dataset.say_once(config, line)


@dataclass(frozen=True)
class Tensors:
    """A dataset that was read."""

    images: Inputs
    labels: Tensor
    test_images: Inputs
    test_labels: Tensor
    digest: str

    def data(self, train: Tensor, held_out: Tensor, device: torch.device, config: DatasetConfig) -> Data:
        """Returns it for a training.

        Args:
            train: the indices of the items to train on.
            held_out: the indices of the items to select by.
            device: the device to train on.
            config: the dataset.
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

    def data(self, train: Tensor, held_out: Tensor, device: torch.device, config: DatasetConfig) -> Data:
        """See `Tensors.data`."""
        return Streamed(
            train=train,
            held_out=held_out,
            device=device,
            mean=config.mean,
            std=config.std,
            digest=self.digest,
            training=self.training,
            selecting=self.selecting,
            testing=self.testing,
            counted_tests=self.test_count,
            item_bytes=self.item_bytes,
        )


@functools.lru_cache(maxsize=2)
def _read(
    config_json: str, device_name: str, task_json: str, grouped: bool, workers: int
) -> tuple[Tensors | Stream, Splits]:
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
            digest = splits.digest(_with_identity(read.digest, parts[0]))
            return replace(read, digest=digest), splits.with_labels(read.labels, read.test_labels)
        except DrawsItems:
            why = "its items draw random numbers, others in each epoch"
            if config.source in ("memory", "mapped"):
                rule = (
                    f"with dataset.source={config.source}, items must always be the same, {config.target} draws random"
                )
                remedy = "set dataset.source=auto or streamed; or give its random transforms as augment.transforms"
                raise DataError(f"{rule} numbers for them", remedy=remedy) from None
    user_dataset.say_once(config, f"Dataset {config.target} is streamed by worker processes: {why}.")
    stream = _open_stream(parts, check_targets, workers)
    digest = splits.digest(_with_identity(stream.digest, parts[0]))
    return replace(stream, digest=digest), splits.with_targets(parts[0])


def _with_identity(digest: str, part: Part) -> str:
    """Returns the checksum of the data of a table together with its columns and classes; that of other data as it is.

    Args:
        digest: the checksum.
        part: the training part.
    """
    if part.config.target != TABLE:
        return digest
    return hashlib.sha1(f"{digest} {part.dataset.identity}".encode(), usedforsecurity=False).hexdigest()[:16]


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


def _open_stream(parts: Sequence[Part], check_targets: CheckTargets, workers: int) -> Stream:
    config = parts[0].config
    collate = None if config.collate_fn is None else bound(config.collate_fn, "dataset.collate_fn")

    def items_of(part: Part) -> Items:
        return Items(part.dataset, config, part.name, check_targets, None, collate)

    readers = [Reader(items_of(Part(config, part.name)), items_of(part), workers) for part in parts]
    firsts: list[Inputs] = []
    for part, reader in zip(parts, readers, strict=True):
        if not part.count:
            rule = f"dataset must give one image or more, {config.target} gives no {part.name} image"
            raise DataError(rule, remedy="correct it")
        keys = [(index, *FIXED) for index in range(min(part.count, TRIED))]
        try:
            user_dataset.check_repeats(part, functools.partial(reader.read_here, keys))
            inputs, _ = reader.read_here(keys)
        except ItemError as error:
            raise error.__cause__ or error from None
        firsts.append(inputs)
        user_dataset.say_where_colours_are(part, inputs)
        _check_parts(firsts[0], inputs, config, part.name)
    size = sum(tensor.nbytes // len(tensor) for tensor in tensors_of(firsts[0]))
    digest = _stated_digest(parts) or _digest_of_items(parts, readers)
    if config.parts.val is not None:
        both: list[ConcatDataset[Any]] = [
            ConcatDataset([one.dataset for one in pair])
            for pair in zip(*((one.items, one.here) for one in readers[:2]), strict=True)
        ]
        first = readers[0]
        readers[0] = Reader(replace(first.items, dataset=both[0]), replace(first.here, dataset=both[1]), workers)
    training = Reader(readers[0].items, readers[0].here, workers)  # items to train on have workers of their own
    test_count = 0 if config.parts.test is None else parts[-1].count
    return Stream(training, readers[0], readers[-1], test_count, size, digest)


def _stated_digest(parts: Sequence[Part]) -> str | None:
    """Returns a checksum that needs no items: of the identity that the user states, or of the names, sizes and times of
    the files in `samples`; None if there is neither."""
    config = parts[0].config
    about: list[Any] = [config.target, config.keywords, digest_of_dataset(config)]
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
    pairs = [(os.fspath(path), label) for path, label in samples]
    root = os.path.commonpath([path for path, _ in pairs])
    found: list[Any] = []
    for path, label in pairs:
        is_file = isinstance(label, str | os.PathLike) and os.path.isfile(label)  # such as a mask
        found += [_state_of(path, root), _state_of(os.fspath(label), root) if is_file else repr(label)]
    return found


def _state_of(path: str, root: str) -> tuple[str, int, int]:
    state = os.stat(path)
    return os.path.relpath(path, root), state.st_size, state.st_mtime_ns


def _digest_of_items(parts: Sequence[Part], readers: Sequence[Reader]) -> str:
    """Reads all items once for the checksum; that of items without random numbers is the one they have in memory."""
    digest = Checksum()
    for part, reader in zip(parts, readers, strict=True):
        keys = [(index, *FIXED) for index in range(part.count)]
        batches = [keys[begin : begin + HASHED_AT_ONCE] for begin in range(0, len(keys), HASHED_AT_ONCE)]
        what = f"Reading the {part.name} part of {part.config.target} for its checksum"
        show = user_dataset.progress(part.count, what)
        targets: list[Tensor] = []
        try:
            for inputs, labels in reader.read(batches):
                digest.add(inputs)
                targets.append(labels)
                show(min(part.count, len(targets) * HASHED_AT_ONCE))
        except ItemError as error:
            raise error.__cause__ or error from None
        finally:
            reader.close()  # the workers of a training are begun when it needs them
        digest.next_part()
        for labels in targets:
            digest.add(labels)
        digest.next_part()
    return digest.text()


def _augmentation(config: AugmentConfig, data: Data) -> Augmentation | None:
    """Returns the changes of whole batches; None if there are none.

    Raises:
        ConfigError: the data are no images, or too small.
    """
    if not (config.crop or config.flip or config.erase):
        return None
    inputs, _ = data.first(1)
    if config.crop and isinstance(inputs, Tensor) and config.crop >= min(inputs.shape[1:][-2:], default=0):
        rule = f"augment.crop must be less than height and width of an image {list(inputs.shape[1:])}"
        raise ConfigError(rule, config.crop, "for example augment.crop=2")
    if not isinstance(inputs, Tensor) or inputs.ndim < 3 or inputs.dtype == torch.int64:
        shape = list(inputs.shape[1:]) if isinstance(inputs, Tensor) else type(inputs).__name__
        rule = "augment.crop, flip and erase must have images [channels, height, width] to change"
        raise ConfigError(rule, shape, "set augment=none")
    return Augmentation(config)


def _transformed(data: Data, config: TrialConfig, workers: int | None) -> Data:
    """Returns data whose training items `augment.transforms` change in worker processes."""
    from torchvision.transforms import v2

    if config.dataset.collate_fn is not None:
        rule = "augment.transforms change single images, dataset.collate_fn makes batches of items"
        raise ConfigError(rule, remedy="let the dataset or collate_fn call the transforms")
    found = []
    for index, one in enumerate(config.augment.transforms):
        key = f"augment.transforms[{index}]"
        try:
            found.append(instantiate({"_target_": one.target, **one.keywords}, key))
        except (ConfigError, DataError):
            raise
        except Exception as error:
            reason = one_line(error)
            raise ConfigError(f"{key}: {one.target} refuses its values: {reason}", remedy="change it") from error
        if not callable(found[-1]):
            rule = f"{key} must name something that can be called with an image, {one.target} gives"
            raise ConfigError(rule, type(found[-1]).__name__, "for example torchvision.transforms.v2.RandomRotation")
    transform = v2.Compose(found)
    changed: Data
    if isinstance(data, Streamed):
        changed = data.with_transform(transform)
    else:
        assert isinstance(data, InMemory)
        if not isinstance(data.images, Tensor):
            rule = "augment.transforms must have one image to change, an item is a"
            raise ConfigError(rule, type(data.images).__name__, "set augment=none")
        changed = TransformedInMemory.of(data, config.dataset, transform, workers or DEFAULT_WORKERS)
    try:
        changed.training.read_here([(index, 0, 1) for index in data.train[:TRIED].tolist()])
    except ItemError as error:
        raise error.__cause__ or error from None
    return changed


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
    if config.collate_fn is None:
        forms = [[list(one.shape[1:]) for one in tensors_of(part)] for part in (images, others)]
        names = [list(part) if isinstance(part, dict) else len(tensors_of(part)) for part in (images, others)]
        if forms[0] != forms[1] or names[0] != names[1]:
            rule = f"training and {name} inputs of {config.target} must be of one shape, {forms[0]} and {forms[1]}"
            raise DataError(rule, remedy="resize them")
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
