"""The test data of a trial, and what it has predicted for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweepstack.errors import UserError
from sweepstack.results.selection.predictions import targets_of
from sweepstack.tracking.artifacts import location, predictions
from sweepstack.tracking.store import Store

if TYPE_CHECKING:
    from sweepstack.config.schema import TrialConfig
    from sweepstack.training.data.source import Data


@dataclass(frozen=True)
class Predicted:
    """What a trial predicted for the test items when it was trained, in their order."""

    targets: NDArray[Any]
    """What is right: of a regression float32 [n, outputs], of several labels [n, labels] of 0 and 1."""
    values: NDArray[Any]
    """The predictions, of the shape of the targets."""


def load_test_data(config: TrialConfig, digest: str) -> Data:
    """Loads the data of a trial.

    Args:
        config: the config of the trial.
        digest: checksum of the data that it was trained and tested on; empty if that is not known.

    Raises:
        UserError: the data cannot be obtained, or are others now.
    """
    from sweepstack.inference import trial_data

    loaded = trial_data.load_test_data(config)
    if digest and loaded.facts.digest != digest:
        rule = f"the checksum of its dataset was {digest}, and is {loaded.facts.digest} now"
        raise UserError(rule, remedy="give the dataset that it had, or train it again")
    return loaded


def predicted_of(store: Store, run_id: str, config: TrialConfig, digest: str) -> Predicted:
    """Returns what a run has predicted for the test items.

    Args:
        store: the store with the run.
        run_id: the id of the run.
        config: its config.
        digest: checksum of the data that it was trained and tested on; empty if that is not known.

    Raises:
        UserError: its predictions are missing or not finite, or its data cannot be obtained or are others now.
    """
    values = predictions(store, run_id)
    if values is None:
        raise UserError("its predictions are not in the store", remedy="train it again with rerun=true")
    known = location(store, run_id)
    found = targets_of(store, run_id, "test", known) if known is not None and known.data == digest else ""
    targets = load_test_data(config, digest).test_targets.numpy() if isinstance(found, str) else found.values
    if targets.shape != values.shape:
        rule = f"its predictions have the shape {values.shape}, and the targets {targets.shape}"
        raise UserError(rule, remedy="let the task give targets and predictions of one shape")
    if not np.isfinite(values).all():
        raise UserError("some of its predictions are not finite", remedy="try a smaller optimizer.lr")
    return Predicted(targets, values)
