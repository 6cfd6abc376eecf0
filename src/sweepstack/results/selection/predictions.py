"""Which test images a run has classified rightly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepstack.errors import UserError
from sweepstack.tracking.artifacts import Place, config_of, place, places, predictions
from sweepstack.tracking.store import Store

HANDFUL = 5
"""Test images, or so many of 1,000, may be classified otherwise than in training: another device and other instructions
of the processor round differently."""


def right(store: Store) -> Callable[[str], NDArray[np.bool_] | None]:
    """A function from a run's id to whether it has classified each test image rightly, bool [n] in the order of the
    test set.

    It gives None where that cannot be known: the run has kept no predictions, or its dataset cannot be had any more, or
    is another one by now. Labels are loaded once for each dataset; nothing is read before the first call.
    """
    known: dict[str, Place] | None = None
    labels_of: dict[str, NDArray[np.int64] | None] = {}

    def right_of(run_id: str) -> NDArray[np.bool_] | None:
        nonlocal known
        if known is None:
            known = places(store)
        found = known.get(run_id) or place(store, run_id)
        if found is None or found.data is None:
            return None
        predicted = predictions(store, run_id, found)
        if predicted is None:
            return None
        if found.data not in labels_of:
            labels_of[found.data] = _labels(store, run_id, found.data)
        labels = labels_of[found.data]
        return predicted == labels if labels is not None and labels.shape == predicted.shape else None

    return right_of


def predicted_otherwise(store: Store, run_id: str, now: NDArray[Any]) -> int:
    """How many test images are classified otherwise, [n] classes, than when the run was trained; 0 where that is not
    known, or no more than rounding can do: see `HANDFUL`."""
    was = predictions(store, run_id)
    if was is None or was.shape != now.shape:
        return 0
    otherwise = int(np.count_nonzero(was != now))
    return otherwise if otherwise > max(HANDFUL, len(now) * HANDFUL // 1000) else 0


def _labels(store: Store, run_id: str, digest: str) -> NDArray[np.int64] | None:
    from sweepstack.inference.classifier import labels_of_test  # loads PyTorch

    try:
        found, labels = labels_of_test(config_of(store, run_id).dataset)
    except UserError:
        return None
    return labels if found == digest else None
