"""Which test images a run has classified rightly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sweepstack.errors import UserError
from sweepstack.tracking.artifacts import config_of, data_digest, predictions
from sweepstack.tracking.store import Store
from sweepstack.training.predicting import labels_of_test


def right(store: Store) -> Callable[[str], NDArray[np.bool_] | None]:
    """A function from a run's id to whether it has classified each test image rightly, bool [n] in the order of the
    test set.

    It gives None where that cannot be known: the run has kept no predictions, or its dataset cannot be had any more, or
    is another one by now. Labels are loaded once for each dataset.
    """
    known: dict[str, NDArray[np.int64] | None] = {}

    def right_of(run_id: str) -> NDArray[np.bool_] | None:
        predicted, digest = predictions(store, run_id), data_digest(store, run_id)
        if predicted is None or digest is None:
            return None
        if digest not in known:
            known[digest] = _labels(store, run_id, digest)
        labels = known[digest]
        return predicted == labels if labels is not None and labels.shape == predicted.shape else None

    return right_of


def _labels(store: Store, run_id: str, digest: str) -> NDArray[np.int64] | None:
    try:
        found, labels = labels_of_test(config_of(store, run_id).dataset)
    except UserError:
        return None
    return labels if found == digest else None
