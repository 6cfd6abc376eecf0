"""Datasets in the files of MNIST: `mnist`, `fashion_mnist`, `kmnist`, `emnist`."""

from __future__ import annotations

import gzip
import math
import zipfile

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from sweepstack.errors import DataError, did_you_mean
from sweepstack.training.data import download

UINT8 = 8
"""The type of uint8 numbers in the header of a file."""
EMNIST_CLASSES = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}
"""The splits of EMNIST, each with the number of its classes."""


def mnist(train: bool, folder: str | None = None) -> TensorDataset:
    """MNIST: uint8 images [n, 28, 28] and int64 labels [n]; 60,000 to train with, 10,000 to test with.

    Args:
        train: return the training part; else the test part.
        folder: a root as torchvision has it, with the files in MNIST/raw; None for the cache.

    Raises:
        DataError: the files cannot be obtained, or one is corrupt.
    """
    return _read("mnist", train, folder)


def fashion_mnist(train: bool, folder: str | None = None) -> TensorDataset:
    """Fashion-MNIST, as `mnist`: pictures of clothes (Xiao, Rasul, Vollgraf, 2017). Files are in FashionMNIST/raw.

    Args:
        train: return the training part; else the test part.
        folder: a root as torchvision has it; None for the cache.

    Raises:
        DataError: the files cannot be obtained, or one is corrupt.
    """
    return _read("fashion_mnist", train, folder)


def kmnist(train: bool, folder: str | None = None) -> TensorDataset:
    """Kuzushiji-MNIST, as `mnist`: characters of old Japanese (Clanuwat et al., 2018). Compressed files are in
    KMNIST/raw.

    Args:
        train: return the training part; else the test part.
        folder: a root as torchvision has it; None for the cache.

    Raises:
        DataError: the files cannot be obtained, or one is corrupt.
    """
    return _read("kmnist", train, folder, ".gz")


def emnist(train: bool, split: str = "balanced", folder: str | None = None) -> TensorDataset:
    """EMNIST: digits and letters (Cohen et al., 2017), uint8 images [n, 28, 28] and int64 labels [n] from 0.

    Images are upright; the files, and torchvision, have rows and columns exchanged. The labels of `letters` are from 0
    to 25; in the files, and in torchvision, from 1. The published archive is in EMNIST/raw.

    Args:
        train: return the training part; else the test part.
        split: one of `EMNIST_CLASSES`.
        folder: a root as torchvision has it; None for the cache.

    Raises:
        DataError: the split is unknown, the archive cannot be obtained, or it is corrupt.
    """
    if split not in EMNIST_CLASSES:
        raise DataError("dataset.split must be one of EMNIST", split, did_you_mean(split, EMNIST_CLASSES))
    with zipfile.ZipFile(download.obtain("emnist", folder) / "gzip.zip") as archive:
        prefix = f"gzip/emnist-{split}-{'train' if train else 'test'}"
        images, labels = (
            parse_idx(gzip.decompress(archive.read(name)), name)
            for name in (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
        )
    return TensorDataset(images.mT.contiguous(), labels.long() - int(split == "letters"))


def parse_idx(content: bytes | bytearray, name: str) -> Tensor:
    """Returns the uint8 numbers of a file in the format of MNIST, in the shape that its header says.

    Args:
        content: the file; the numbers share its memory if it is a `bytearray`.
        name: its name, for errors.

    Raises:
        DataError: the header is another one, or does not fit the size of the file.
    """
    header = 4 + 4 * (content[3] if len(content) > 3 else 0)
    shape = [int.from_bytes(content[begin : begin + 4], "big") for begin in range(4, header, 4)]
    if content[:3] != bytes([0, 0, UINT8]) or not shape or len(content) != header + math.prod(shape):
        rule = f"{name} must be a file of uint8 numbers in the format of MNIST (IDX)"
        raise DataError(rule, f"{len(content):,} bytes", "delete it and run again, it will be fetched again")
    return torch.frombuffer(bytearray(content) if isinstance(content, bytes) else content, dtype=torch.uint8)[
        header:
    ].view(shape)


def _read(name: str, train: bool, folder: str | None, end: str = "") -> TensorDataset:
    part = "train" if train else "t10k"
    images, labels = (
        parse_idx(gzip.decompress(content) if end else content, file)
        for file in (f"{part}-images-idx3-ubyte{end}", f"{part}-labels-idx1-ubyte{end}")
        for content in (download.read_file(name, file, folder),)
    )
    return TensorDataset(images, labels.long())
