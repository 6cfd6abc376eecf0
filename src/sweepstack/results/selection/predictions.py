"""Compares the test predictions of a run with the targets, and with what its model predicts now."""

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


def compare_with_targets(store: Store) -> Callable[[str], NDArray[Any] | None]:
    """Returns a function from a run's id to how its test predictions compare with the targets, in the order of the test
    set.

    Of classes the function returns which are right, bool [n]; of the numbers of a regression the residuals, target
    minus prediction, float64 [n, outputs]. It returns None for other predictions; or if the run has kept none, or its
    dataset has changed or cannot be obtained any more. Targets are loaded once for each dataset. Nothing is read before
    the first call.
    """
    known: dict[str, Location] | None = None
    targets_of: dict[str, NDArray[Any] | None] = {}

    def compared(run_id: str) -> NDArray[Any] | None:
        nonlocal known
        if known is None:
            known = locations(store)
        found = known.get(run_id) or location(store, run_id)
        if found is None or found.data is None:
            return None
        predicted = predictions(store, run_id, found)
        if predicted is None:
            return None
        if found.data not in targets_of:
            targets_of[found.data] = _targets(store, run_id, found.data)
        targets = targets_of[found.data]
        if targets is None or targets.shape != predicted.shape:
            return None
        if predicted.ndim == 1 and predicted.dtype.kind in "iu":
            return np.asarray(predicted == targets)
        return targets.astype(np.float64) - predicted if predicted.ndim == 2 and predicted.dtype.kind == "f" else None

    return compared


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


def _targets(store: Store, run_id: str, digest: str) -> NDArray[Any] | None:
    from sweepstack.inference.classifier import load_test_targets  # loads PyTorch

    try:
        found, targets = load_test_targets(config_of(store, run_id))
    except UserError:
        return None
    return targets if found == digest else None
