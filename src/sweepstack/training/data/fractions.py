"""Draws a fraction of the items, of each class or by whole groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def draw_classes(fraction: float, labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Draws a fraction of the items, and of each class as nearly as whole items allow; one of each stays.

    Args:
        fraction: the part of the items.
        labels: the class of each item, [n].
        seed: determines which ones.

    Returns:
        Whether each item is drawn, [n].
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).numpy()
    classes, sizes = np.unique(labels, return_counts=True)
    taken = np.floor(sizes * fraction).astype(int)
    most_left = np.argsort(taken - sizes * fraction, kind="stable")
    taken[most_left[: round(len(labels) * fraction) - taken.sum()]] += 1
    drawn = np.zeros(len(labels), bool)
    for label, most in zip(classes, np.minimum(taken, sizes - 1), strict=True):
        drawn[order[labels[order] == label][:most]] = True
    return drawn


def draw_groups(fraction: float, groups: Sequence[Hashable], seed: int) -> NDArray[np.bool_]:
    """Draws groups, in a fixed random order each that still fits into the fraction; the smallest if none does.

    Args:
        fraction: the part of the items.
        groups: the group of each item, [n].
        seed: determines the order.

    Returns:
        Whether each item is drawn, [n].
    """
    sizes = list(Counter(groups).items())
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).tolist()
    left, drawn = min(round(len(groups) * fraction), len(groups) - 1), set()
    for group, size in (sizes[index] for index in order):
        if size <= left:
            drawn.add(group)
            left -= size
    drawn = drawn or {min(sizes, key=lambda group: group[1])[0]}
    return np.array([group in drawn for group in groups])
