"""Compares a run with its repetition: do both end the same, bit for bit or within rounding?"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sweepstack.config.identity import Fingerprint
from sweepstack.errors import UserError
from sweepstack.inference.weights import Distance, distance, has_kinks
from sweepstack.metrics import KNOWN, REGRESSION, bare_name
from sweepstack.results.selection.predictions import count_changes
from sweepstack.tracking.artifacts import artifact, config_of, predictions
from sweepstack.tracking.runs import Record
from sweepstack.tracking.runs_as_rows import FINGERPRINT_TAG, RECOMPOSED_TAG, TRAINED_TAG
from sweepstack.tracking.store import Store
from sweepstack.trial import WEIGHTS, TrialState

WEIGHTS_TOLERANCE = 1e-5
"""The largest difference between the weights of a smooth model from a stack and from the plain trainer."""
CHANGED_ITEMS = 2
"""The number of test items in 10,000 that a ReLU network may predict differently. Where a hidden unit is just at its
kink, rounding decides."""
RELU_TOLERANCE = 1e-3
"""The largest difference of the weights, losses and predicted numbers of such a network, relative to their size. Equal
predictions alone say little: a network that has diverged may call every image a 0."""
ERRORS = ("loss", *(name for name, one in KNOWN.items() if one.tasks == (REGRESSION,) and one.mode == "min"))
"""Metrics that must be near each other for two runs to be equal: losses, and errors of predicted numbers. All others
follow from weights and predictions, and may jump."""
KINKS = (
    "rounding decides at the kinks of a network, such as those of ReLU: a stack rounds differently from the plain "
    "trainer, and so does the plain trainer with another number of threads"
)
"""What a user reads about differences of a network with kinks."""
TRAINED_ALONE_PATTERN = re.compile(r"by (the plain trainer|its own loop), (\d+) threads? ")
"""How `TRAINED_TAG` begins if no stack was used; see `plan.Stack.how_trained`."""


@dataclass(frozen=True)
class Comparison:
    """How the repetition of a run compares with the run."""

    equal: bool
    how: str
    """Why they count as equal or not, in words, such as "bit for bit"."""
    differences: tuple[str, ...]
    """A line for each value that differs."""


class Changes(NamedTuple):
    """How many predictions of two runs differ."""

    any: int
    """Those with a different bit."""
    large: int
    """Those that differ by more than `RELU_TOLERANCE`; of classes and labels, all that differ."""
    total: int
    """All predictions."""


def compare(store: Store, run: Record, repeated_store: Store, repeated: Record) -> Comparison:
    """Compares a run with its repetition: bit for bit if the run was trained on its own, else within rounding.

    Seconds are not compared.

    Args:
        store: the store with the run.
        run: the run.
        repeated_store: the store with the repetition.
        repeated: the repetition.
    """
    differences = _identity_differences(run, repeated)
    weights, predicted = None, None
    if run.row.state == repeated.row.state == TrialState.FINISHED:
        weights = _distance_of_weights(store, run, repeated_store, repeated)
        predicted = _compare_predictions(store, run, repeated_store, repeated)
    metrics = _differing_metrics(run.row.metrics, repeated.row.metrics)
    exact = not metrics and (weights is None or weights.largest == 0) and (predicted is None or not predicted.any)
    lines = [f"{key}: {was!r} before, {now!r} now" for key, (was, now) in metrics.items()]
    if weights and weights.largest:
        lines.append(f"weights: differ by up to {weights.largest:.2g}, by {weights.relative:.2g} of their size")
    if predicted and predicted.any:
        lines.append(f"test predictions: {predicted.any} of {predicted.total} items differ")
    if differences:
        return Comparison(False, _describe_mismatch(run, repeated), (*differences, *lines))
    if exact:
        return Comparison(True, "bit for bit", ())
    note = run.tags.get(RECOMPOSED_TAG)
    if (alone := TRAINED_ALONE_PATTERN.match(run.tags.get(TRAINED_TAG, ""))) and not note:
        return Comparison(False, f"it was trained by {alone[1]}, so every bit counts", tuple(lines))
    why = f"it did not end in the stack that it began in ({note})" if note else "it was trained in a stack"
    losses = _loss_distance(metrics)
    if losses > RELU_TOLERANCE or run.row.state == TrialState.FAILED:
        equal, how = (
            losses <= RELU_TOLERANCE,
            f"the losses differ by up to {losses:.2g} of their size ({RELU_TOLERANCE:g} is allowed)",
        )
    else:
        equal, how = _within_rounding(weights, predicted)
    if equal:
        return Comparison(True, f"within rounding: {why}, and {how}", tuple(lines))
    return Comparison(False, f"{why}, and {how}", (*lines, *_kinks(store, run)))


def _kinks(store: Store, run: Record) -> list[str]:
    with contextlib.suppress(UserError):  # the config is gone
        return [KINKS] if has_kinks(config_of(store, run.row.run_id)) else []
    return []


def _within_rounding(weights: Distance | None, predicted: Changes | None) -> tuple[bool, str]:
    """Decides whether rounding alone can cause the differences of two runs with similar losses, and says why."""
    if weights is not None and weights.largest <= WEIGHTS_TOLERANCE:
        return True, f"the weights differ by {weights.largest:.2g} ({WEIGHTS_TOLERANCE:g} is allowed)"
    if weights is not None and weights.relative > RELU_TOLERANCE:
        return False, f"the weights differ by {weights.relative:.2g} of their size ({RELU_TOLERANCE:g} is allowed)"
    if predicted is None:
        return False, "the test predictions cannot be compared"
    allowed = max(CHANGED_ITEMS, round(CHANGED_ITEMS * predicted.total / 10_000))
    how = f"{predicted.large or 'none'} of {predicted.total} test items are predicted differently ({allowed} allowed)"
    return predicted.large <= allowed, how


def _loss_distance(metrics: Mapping[str, tuple[float | None, float | None]]) -> float:
    """Returns the largest difference of two `ERRORS`, relative to the larger one; infinite if only one is finite."""
    distances = [0.0]
    for was, now in (pair for key, pair in metrics.items() if "loss" in key or bare_name(key) in ERRORS):
        if was is None or now is None or not math.isfinite(was - now):
            return math.inf
        distances.append(abs(was - now) / max(abs(was), abs(now)))
    return max(distances)


def _describe_mismatch(run: Record, repeated: Record) -> str:
    was, now = run.tags.get(FINGERPRINT_TAG, ""), repeated.tags.get(FINGERPRINT_TAG, "")
    if was and was != now:
        return f"it is not the same trial any more: {Fingerprint.parse(now).change_since(Fingerprint.parse(was))}"
    return "it has not ended in the same way"


def _identity_differences(run: Record, repeated: Record) -> list[str]:
    """Says why two runs cannot be equal: their fingerprints, states or reasons differ."""
    lines = []
    was, now = run.tags.get(FINGERPRINT_TAG, ""), repeated.tags.get(FINGERPRINT_TAG, "")
    if was and was != now:
        lines.append(f"fingerprint: {Fingerprint.parse(now).change_since(Fingerprint.parse(was))}")
    if run.row.state != repeated.row.state:
        lines.append(f"state: {run.row.state} before, {repeated.row.state} now {repeated.row.reason}".rstrip())
    elif run.row.reason != repeated.row.reason:
        lines.append(f"reason: {run.row.reason!r} before, {repeated.row.reason!r} now")
    return lines


def _differing_metrics(
    was: Mapping[str, float], now: Mapping[str, float]
) -> dict[str, tuple[float | None, float | None]]:
    """Returns the metrics that differ, without times. NaN equals NaN."""
    keys = sorted(key for key in {*was, *now} if "seconds" not in key)
    pairs = {key: (was.get(key), now.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if repr(pair[0]) != repr(pair[1])}


def _distance_of_weights(store: Store, run: Record, repeated_store: Store, repeated: Record) -> Distance | None:
    """Computes how much the weights differ; None if there are none to compare."""
    was, now = artifact(store, run.row.run_id, WEIGHTS), artifact(repeated_store, repeated.row.run_id, WEIGHTS)
    return None if was is None or now is None else distance(io.BytesIO(was), io.BytesIO(now))


def _compare_predictions(store: Store, run: Record, repeated_store: Store, repeated: Record) -> Changes | None:
    """Compares the test predictions; None if there are none to compare."""
    was, now = predictions(store, run.row.run_id), predictions(repeated_store, repeated.row.run_id)
    if was is None or now is None or was.shape != now.shape:
        return None
    return Changes(count_changes(was, now, 0.0), count_changes(was, now, RELU_TOLERANCE), len(now))
