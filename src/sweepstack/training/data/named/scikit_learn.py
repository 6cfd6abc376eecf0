"""Datasets that come with scikit-learn: `digits`, `diabetes`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset


def digits(train: bool) -> TensorDataset:
    """scikit-learn's digits: float32 images [n, 8, 8] in 0..1 and int64 labels [n].

    A fixed shuffle splits them into 1,437 to train with and 360 to test with.
    """
    table = _of_scikit_learn("digits.csv.gz", ",")
    index = _shuffled_part(len(table), 360, train)
    images = table[index, :-1].reshape(-1, 8, 8).astype(np.float32) / 16
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(table[index, -1].astype(np.int64)))


def diabetes(train: bool) -> TensorDataset:
    """scikit-learn's diabetes: float32 rows [n, 10] and float32 targets [n, 1] (Efron et al., 2004).

    A fixed shuffle splits them into 354 to train with and 88 to test with. Each column is standardized by mean and
    standard deviation of the training part. The target is a measure of how the disease progressed, from 25 to 346.
    """
    table, target = _of_scikit_learn("diabetes_data_raw.csv.gz", " "), _of_scikit_learn("diabetes_target.csv.gz", " ")
    training = table[_shuffled_part(len(table), 88, True)]
    index = _shuffled_part(len(table), 88, train)
    rows = (table[index] - training.mean(0)) / training.std(0)
    return TensorDataset(torch.from_numpy(rows).float(), torch.from_numpy(target[index, None]).float())


def _of_scikit_learn(name: str, delimiter: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Reads a file that scikit-learn brings. Its own function reads the same one; importing that takes a second."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return np.loadtxt(Path(package.origin).parent / "datasets" / "data" / name, delimiter=delimiter)


def _shuffled_part(count: int, tested: int, train: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Returns the indices of one part of a table: the first `tested` of a fixed shuffle are the test part."""
    order = np.random.default_rng(0).permutation(count)
    return order[tested:] if train else order[:tested]
