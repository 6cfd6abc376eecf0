"""Datasets as tensors in memory, and the batches of an epoch."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sweepstack.config.schema import DatasetConfig, TaskConfig
from sweepstack.errors import DataError
from sweepstack.training.data import user_dataset
from sweepstack.trial import DatasetFacts

CLASSES = TaskConfig()
"""The default task: classification."""

SPLIT_SEED = 0
"""Seed of the split. Every trial holds out the same images, so that trials of different seeds can be compared."""

AHEAD = 2000
"""Images that a second thread selects and scales at once, during training: 12 % less time for a small model."""


@dataclass(frozen=True)
class Data:
    """A dataset, ready for training.

    Images [n, *shape] keep their dtype, uint8 pixels or float32. Labels are what the task learns: classes int64 [n], or
    what another task makes of them. The images of a batch are float32 and standardised; pixels are scaled to 0..1
    first. Selecting pixels and scaling a batch takes as long as selecting floats, and pixels need a quarter of the
    memory.
    """

    images: Tensor
    """All training images, including the held-out ones."""
    labels: Tensor
    train: Tensor
    """int64 indices of the `images` to train on."""
    held_out: Tensor
    """int64 indices of the `images` to select trials by; may be empty."""
    test_images: Tensor
    test_labels: Tensor
    device: torch.device
    """The device to train on. The tensors are on it if they fit, else in the host's memory."""
    mean: float
    std: float

    @functools.cached_property
    def facts(self) -> DatasetFacts:
        """The numbers of images, and a checksum of all images and labels."""
        digest = hashlib.sha1(usedforsecurity=False)
        for tensor in (self.images, self.labels, self.test_images, self.test_labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return DatasetFacts(digest.hexdigest()[:16], len(self.train), len(self.held_out), len(self.test_labels))

    def steps_per_epoch(self, batch_size: int, accumulate: int = 1) -> int:
        """Returns the number of updates in an epoch, including the last, short one.

        Args:
            batch_size: images in a batch.
            accumulate: batches for each update.
        """
        return -(-len(self.train) // (batch_size * accumulate))

    def batches(self, batch_size: int, seed: int, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of one epoch: images [batch, *shape] and labels [batch] on `device`.

        Args:
            batch_size: images in a batch; the last one may have fewer.
            seed: determines the order of the images, together with `epoch` and nothing else.
            epoch: the number of the epoch.
            skip: the number of batches to leave out at the beginning. The other batches keep their position in memory,
                because that position can change how sums over a batch round.
        """
        batches_ahead = max(1, AHEAD // batch_size)
        left_out, skip = divmod(skip, batches_ahead)
        indices = torch.split(self._order(seed, epoch), batch_size * batches_ahead)[left_out:]
        with ThreadPoolExecutor(1, "sweepstack-batches") as beside:  # prepares the next images during training
            ready = None
            for index in (*indices, None):
                following = None if index is None else beside.submit(self._select, index)
                if ready is not None:
                    images, labels = ready.result()
                    parts = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
                    yield from itertools.islice(parts, skip, None)
                    skip = 0
                ready = following

    def stacked_batches(
        self, batch_size: int, seeds: Sequence[int], epoch: int, skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of one epoch for several seeds: images [seeds, batch, *shape], labels [seeds, batch, ...].

        For each seed they equal those of `batches`. It uses no second thread: a second team of OpenMP threads on the
        same cores made the steps of a stack take 1.4 to 2.6 times as long.

        Args:
            batch_size: images in a batch of one seed; the last one may have fewer.
            seeds: each determines the order of its images, together with `epoch`.
            epoch: the number of the epoch.
            skip: the number of batches to leave out at the beginning.
        """
        for index in torch.split(torch.stack([self._order(seed, epoch) for seed in seeds]), batch_size, 1)[skip:]:
            images, labels = self._select(index.flatten())
            yield images.view(*index.shape, *images.shape[1:]), labels.view(*index.shape, *labels.shape[1:])

    def _order(self, seed: int, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(stream(seed, "order", epoch))
        return self.train[torch.randperm(len(self.train), generator=generator).to(self.train.device)]

    def _select(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self._ready(self.images.index_select(0, index), self.labels.index_select(0, index))

    def some(self, count: int = 16) -> tuple[Tensor, Tensor]:
        """Returns the first training images and their labels in the form of a batch, on `device`."""
        return self._select(self.train[:count])

    def evaluation(self, chunk: int = 2000) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the held-out part, or the test data if nothing is held out, in batches of `chunk` images."""
        if not len(self.held_out):
            yield from self.test(chunk)
            return
        for index in torch.split(self.held_out, chunk):
            yield self._select(index)

    def test(self, chunk: int = 2000) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the test data in batches of `chunk` images."""
        for images, labels in zip(
            torch.split(self.test_images, chunk), torch.split(self.test_labels, chunk), strict=True
        ):
            yield self._ready(images.clone(), labels)  # a model may change its input in place

    def _ready(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(self.device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        if self.mean:
            images = images - self.mean
        if self.std != 1:
            images = images / self.std
        return images, labels.to(self.device, non_blocking=True)


def stream(seed: int, purpose: str, epoch: int) -> int:
    """Returns a seed for one purpose and epoch of a trial. It has 32 bits: PyTorch's CPU generator uses no more."""
    text = f"{seed}/{purpose}/{epoch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def load_data(config: DatasetConfig, validation_split: float, device: torch.device, task: TaskConfig = CLASSES) -> Data:
    """Loads the dataset of a config. It keeps the last two datasets, so that the trials of a sweep share one copy.

    Args:
        config: the dataset.
        validation_split: the fraction of the training images to hold out.
        device: the device to train on.
        task: the task whose targets the labels are.

    Raises:
        DataError: the data cannot be loaded, or are not what config and task say.
    """
    learned = task.model_dump_json(by_alias=True, exclude={"loss", "metrics", "objective"})
    return _load(config.model_dump_json(by_alias=True), validation_split, str(device), learned)


@functools.lru_cache(maxsize=2)
def _load(config_json: str, validation_split: float, device_name: str, task_json: str) -> Data:
    from sweepstack.training.tasks.built import build_task  # tasks import `conversion`, which imports this file first

    config = DatasetConfig.model_validate_json(config_json)
    device = torch.device(device_name)
    check_targets = build_task(TaskConfig.model_validate_json(task_json)).check_targets
    images, labels = user_dataset.part(config, check_targets, train=True)
    test_images, test_labels = user_dataset.part(config, check_targets, train=False)
    _check_parts(images, test_images, config)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = round(len(images) * validation_split)
    if held_out == len(images) or (validation_split and not held_out):
        raise DataError(
            f"validation_split must leave images to train on and to select by of {len(images)}",
            validation_split,
            "for example validation_split=0.1",
        )
    tensors = {
        "images": images,
        "labels": labels,
        "train": order[held_out:].sort().values,
        "held_out": order[:held_out].sort().values,
        "test_images": test_images,
        "test_labels": test_labels,
    }
    if _fits(sum(tensor.nbytes for tensor in tensors.values()), device):
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Data(**tensors, device=device, mean=config.mean, std=config.std)


def _fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes of data leave the device at least half of its free memory."""
    return device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] / 2


def _check_parts(images: Tensor, test_images: Tensor, config: DatasetConfig) -> None:
    """Checks that the same scaling fits both parts."""
    kinds = [str(part.dtype).removeprefix("torch.") for part in (images, test_images)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"training and test images must be of one kind, those of {config.target} are {kinds[0]} and {kinds[1]}",
            remedy="give both as uint8 pixels, which are divided by 255, or both as float32",
        )
    scale = 255 if images.dtype == torch.uint8 else 1
    bounds = torch.stack([bound for part in (images, test_images) for bound in torch.aminmax(part)]).float() / scale
    if not bool(((bounds - config.mean) / config.std).isfinite().all()):
        raise DataError(
            "(image - dataset.mean) / dataset.std must be finite as float32, images are from "
            f"{float(bounds.min()):g} to {float(bounds.max()):g}",
            {"mean": config.mean, "std": config.std},
            "change dataset.mean and dataset.std",
        )
