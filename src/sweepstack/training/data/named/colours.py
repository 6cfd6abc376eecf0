"""Datasets of small pictures in colours: `cifar10`, `cifar100`, `svhn`."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import TensorDataset

from sweepstack.training.data import download


def cifar10(train: bool, folder: str | None = None) -> TensorDataset:
    """CIFAR-10 (Krizhevsky, 2009): uint8 images [n, 3, 32, 32] and int64 labels [n]; 50,000 to train with, 10,000 to
    test with.

    Args:
        train: return the training part; else the test part.
        folder: a root as torchvision has it, with the files in cifar-10-batches-py; None for the cache.

    Raises:
        DataError: the files cannot be obtained, or one is corrupt.
    """
    batches = [f"data_batch_{number}" for number in range(1, 6)] if train else ["test_batch"]
    return _cifar("cifar10", batches, "labels", folder)


def cifar100(train: bool, folder: str | None = None) -> TensorDataset:
    """CIFAR-100, as `cifar10`, with 100 fine classes. Files are in cifar-100-python.

    Args:
        train: return the training part; else the test part.
        folder: a root as torchvision has it; None for the cache.

    Raises:
        DataError: the files cannot be obtained, or one is corrupt.
    """
    return _cifar("cifar100", ["train" if train else "test"], "fine_labels", folder)


def svhn(train: bool, folder: str | None = None) -> TensorDataset:
    """Street View House Numbers (Netzer et al., 2011): uint8 images [n, 3, 32, 32] and int64 labels [n], the digit in
    the middle; 73,257 to train with, 26,032 to test with.

    Args:
        train: return the training part; else the test part.
        folder: a root with the files in SVHN; None for the cache.

    Raises:
        DataError: the files cannot be obtained, or one is corrupt.
    """
    from scipy.io import loadmat

    content = download.read_file("svhn", f"{'train' if train else 'test'}_32x32.mat", folder)
    found = loadmat(io.BytesIO(content))
    images = np.ascontiguousarray(found["X"].transpose(3, 2, 0, 1))
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(found["y"].flatten().astype(np.int64) % 10))


def _cifar(name: str, files: Sequence[str], labels: str, folder: str | None) -> TensorDataset:
    batches = [  # the checksum says that a file holds numbers, and nothing that a pickle could do
        pickle.loads(download.read_file(name, file, folder), encoding="latin1") for file in files
    ]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return TensorDataset(
        torch.from_numpy(images), torch.tensor([label for batch in batches for label in batch[labels]])
    )
