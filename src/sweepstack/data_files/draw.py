"""Draws which items of a dataset are for tests, always the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweepstack.errors import DataError

SEED = 0
"""Seed of the draw. Nothing else determines it, so that all trials are tested on the same items."""


def draw_test_part(
    count: int, fraction: Any, classes: ArrayLike | None = None, groups: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Returns which items are for tests, [count].

    With classes, the fraction holds within each class as nearly as its size allows; with groups, a group is either for
    tests as a whole or not at all, and classes do not count: groups are taken in a random order, each that still fits,
    and the smallest one if none fits.

    Args:
        count: the number of items.
        fraction: the part of them that is for tests, `dataset.test` of a config; None for no item.
        classes: the class of each item.
        groups: the group of each item.

    Raises:
        DataError: no item would be left for one of the parts.
    """
    if fraction is None:
        return np.zeros(count, bool)
    example = "for example dataset.test=0.2"
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise DataError("dataset.test must be a part of the items, between 0 and 1", fraction, example)
    generator, tested = np.random.default_rng(SEED), np.zeros(count, bool)
    if groups is not None:
        names, group, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        free = max(min(round(count * fraction), count - 1), min(sizes, default=0))
        is_taken = np.zeros(len(names), bool)
        for each in generator.permutation(len(names)):
            if sizes[each] <= free:
                is_taken[each] = True
                free -= sizes[each]
        tested = is_taken[group]
    else:
        order = generator.permutation(count)
        _, kind = np.unique(np.zeros(count) if classes is None else np.asarray(classes), return_inverse=True)
        for each in np.unique(kind):
            own = order[kind[order] == each]
            tested[own[: min(int(len(own) * fraction + 0.5), len(own) - 1)]] = True
    if not 0 < tested.sum() < count:
        what = "items" if groups is None else "groups"
        rule = f"dataset.test must leave {what} to train on and {what} to test on, of {count:,} items"
        raise DataError(rule, fraction, f"{example}, or give more {what}")
    return tested
