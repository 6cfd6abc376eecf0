"""Compares the predictions of a run with the targets, and with what its model predicts now."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sweepstack.errors import UserError, one_line
from sweepstack.files.kept import config_lines, keep, key_of_targets, load_kept
from sweepstack.results.selection.comparison import Predictions
from sweepstack.results.selection.items import PerItem
from sweepstack.tracking.address import journal_folder
from sweepstack.tracking.artifacts import CONFIG, Location, artifact, config_of, location, locations, predictions
from sweepstack.tracking.store import Store
from sweepstack.trial import HELD_OUT_PREDICTIONS, MOST_AXES, PREDICTIONS

FILES = {"val": HELD_OUT_PREDICTIONS, "test": PREDICTIONS}
"""The files with the predictions for a part of the data."""

ALLOWED_CHANGES = 5
"""The number of test items, in 1,000 or fewer, that may be predicted differently than in training: another device or
processor rounds differently."""
ALLOWED_DISTANCE = 1e-2
"""How far two predicted numbers may be from each other to count as the same, relative to the number and to the standard
deviation of all items. It is about twice the rounding of bfloat16."""


def compare_with_targets(store: Store) -> Predictions:
    """Returns a function from a run's id and a part of its data to how its predictions compare with the targets.

    The part is "val" for the items that were held out, "test" for the test items. The function returns the reason, in
    words, if the run has kept no such predictions; or if its dataset has changed or cannot be obtained any more.
    Targets are loaded once for each dataset and what is held out of it. Nothing is read before the first call.
    """
    known: dict[str, Location] | None = None
    targets: dict[tuple[str, ...], Targets | str] = {}

    def compared(run_id: str, part: str) -> PerItem | str:
        nonlocal known
        if known is None:
            known = locations(store)
        found = known.get(run_id) or location(store, run_id)
        if found is None or found.data is None:
            return "an earlier version has recorded it without the checksum of its data"
        predicted = predictions(store, run_id, found, FILES[part])
        if predicted is None:
            return _why_none(store, run_id, part, found)
        key = key_of_targets(_config_text(store, run_id, found), part, found.data)
        if key not in targets:
            targets[key] = targets_of(store, run_id, part, found)
        right = targets[key]
        if isinstance(right, str):
            return right
        values = _compare(predicted, right.values)
        return "its predictions and the targets cannot be compared" if values is None else PerItem(values, right.items)

    return compared


class Targets(NamedTuple):
    """The targets of the items of a part of a dataset, in their order."""

    values: NDArray[Any]
    """Of classes int64 [n]; of a regression float32 [n, outputs]; of several labels [n, labels] of 0 and 1."""
    items: Hashable
    """See `PerItem.items`."""


def targets_of(store: Store, run_id: str, part: str, known: Location) -> Targets | str:
    """Returns the targets of a part of the data of a run; or says why they cannot be had.

    They are kept for the checksum of the data, and for the lines of the config that say which items these are.

    Args:
        store: the store with the run.
        run_id: the id of the run.
        part: "val" for the items that were held out, "test" for the test items.
        known: where the run is; with the checksum of its data.
    """
    digest = known.data or ""
    folder, key = journal_folder(store.uri, None), key_of_targets(_config_text(store, run_id, known), part, digest)
    kept = load_kept(folder, *key)
    if kept is not None:
        return Targets(kept["values"], (digest, part, *kept["held_out"].tolist()))

    from sweepstack.inference.trial_data import load_targets  # loads PyTorch

    try:
        config = config_of(store, run_id)
        found, targets = load_targets(config, part)
    except UserError as error:
        return f"the targets cannot be loaded ({one_line(error)})"
    if found != digest:
        return "its dataset has changed since it was trained"
    held_out = np.array(config.held_out if part == "val" else (), dtype=str)
    keep(folder, *key, values=targets, held_out=held_out)
    return Targets(targets, (digest, part, *held_out.tolist()))


def _config_text(store: Store, run_id: str, known: Location) -> str:
    return (artifact(store, run_id, CONFIG, known) or b"").decode(errors="replace")


def _compare(predicted: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any] | None:
    """Returns `PerItem.values`; None if predictions and targets are not of one kind and shape."""
    if targets.shape != predicted.shape:
        return None
    if predicted.ndim in (1, 2) and predicted.dtype.kind in "iu":
        return np.asarray(predicted == targets)
    if predicted.ndim == 2 and predicted.dtype.kind == "f" and np.isfinite(predicted).all():
        return np.asarray(targets.astype(np.float64) - predicted)
    return None


def _why_none(store: Store, run_id: str, part: str, known: Location) -> str:
    """Says why a run has no predictions."""
    tested = predictions(store, run_id, known) if part == "val" else None
    if tested is not None and tested.ndim > MOST_AXES:
        return f"its predictions have {tested.ndim} axes, those of at most {MOST_AXES} are compared"
    if tested is not None:
        remedy = "repeat its command to add it (with rerun=true if its weights are gone)"
        return f"it was recorded before {FILES[part]} was kept; {remedy}"
    if config_lines(_config_text(store, run_id, known), "trainer").strip() not in ("", "trainer: null"):
        return "a loop of one's own keeps no predictions"
    return f"its record has no {FILES[part]}"


def count_changed_predictions(store: Store, run_id: str, now: NDArray[Any]) -> int:
    """Counts the test items that are predicted differently than when a run was trained.

    It returns 0 if that is not known, or if rounding can be the cause; see `ALLOWED_CHANGES`.

    Args:
        store: the store with the run.
        run_id: the id of the run.
        now: what is predicted now, [n, ...], as it is stored.
    """
    was = predictions(store, run_id)
    if was is None or was.shape != now.shape:
        return 0
    changed = count_changes(was, now, ALLOWED_DISTANCE)
    return changed if changed > max(ALLOWED_CHANGES, len(now) * ALLOWED_CHANGES // 1000) else 0


def count_changes(was: NDArray[Any], now: NDArray[Any], distance: float) -> int:
    """Counts the items whose predictions have changed.

    Args:
        was: the predictions, [n, ...].
        now: other predictions of the same shape.
        distance: how far two numbers may be from each other to count as the same, relative to the number and to the
            standard deviation of all items. Classes and labels must be equal.
    """
    if was.dtype.kind == "f":
        same = np.isclose(now, was, rtol=distance, atol=distance * was.std(0), equal_nan=True)
    else:
        same = was == now
    return int(np.count_nonzero(~same.reshape(len(same), -1).all(1)))
