"""Finds which test images a run has classified correctly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepstack.errors import UserError
from sweepstack.tracking.artifacts import Location, config_of, location, locations, predictions
from sweepstack.tracking.store import Store

ALLOWED_CHANGES = 5
"""The number of test images, in 1,000 or fewer, that may be classified differently than in training: another device or
processor rounds differently."""


def correct_predictions(store: Store) -> Callable[[str], NDArray[np.bool_] | None]:
    """Returns a function from a run's id to whether the run has classified each test image correctly.

    The function returns bool [n] in the order of the test set; or None if the run has kept no predictions, or its
    dataset has changed or cannot be obtained any more. Labels are loaded once for each dataset. Nothing is read before
    the first call.
    """
    known: dict[str, Location] | None = None
    labels_of: dict[str, NDArray[np.int64] | None] = {}

    def correct_in(run_id: str) -> NDArray[np.bool_] | None:
        nonlocal known
        if known is None:
            known = locations(store)
        found = known.get(run_id) or location(store, run_id)
        if found is None or found.data is None:
            return None
        predicted = predictions(store, run_id, found)
        if predicted is None:
            return None
        if found.data not in labels_of:
            labels_of[found.data] = _labels(store, run_id, found.data)
        labels = labels_of[found.data]
        return predicted == labels if labels is not None and labels.shape == predicted.shape else None

    return correct_in


def count_changed_predictions(store: Store, run_id: str, now: NDArray[Any]) -> int:
    """Counts the test images that are classified differently than when a run was trained.

    It returns 0 if that is not known, or if rounding can be the cause; see `ALLOWED_CHANGES`.

    Args:
        store: the store with the run.
        run_id: the id of the run.
        now: the classes [n] that are predicted now.
    """
    was = predictions(store, run_id)
    if was is None or was.shape != now.shape:
        return 0
    changed = int(np.count_nonzero(was != now))
    return changed if changed > max(ALLOWED_CHANGES, len(now) * ALLOWED_CHANGES // 1000) else 0


def _labels(store: Store, run_id: str, digest: str) -> NDArray[np.int64] | None:
    from sweepstack.inference.classifier import load_test_labels  # loads PyTorch

    try:
        found, labels = load_test_labels(config_of(store, run_id).dataset)
    except UserError:
        return None
    return labels if found == digest else None
