"""Builds the command that trains a run again, and checks whether it ends the same."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sweepstack.config.code_digest import digest
from sweepstack.config.fingerprint import Fingerprint
from sweepstack.config.schema import TrialConfig
from sweepstack.errors import UserError, one_line
from sweepstack.files.scratch import scratch
from sweepstack.inference.classifier import Distance, distance, has_kinks
from sweepstack.masking import has_masks
from sweepstack.paths import project_root
from sweepstack.tracking.address import sqlite_uri
from sweepstack.tracking.artifacts import artifact, config_of, overrides_of, predictions
from sweepstack.tracking.runs import Record, find_run
from sweepstack.tracking.runs_as_rows import FINGERPRINT_TAG, RECOMPOSED_TAG, TRAINED_TAG, VERSION_TAG
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.delivery import environment
from sweepstack.trial import WEIGHTS, TrialState

WEIGHTS_TOLERANCE = 1e-5
"""The largest difference between the weights of a smooth model from a stack and from the plain trainer."""
CHANGED_IMAGES = 2
"""The number of test images in 10,000 that a ReLU network may classify differently. Where a hidden unit is just at its
kink, rounding decides."""
RELU_TOLERANCE = 1e-3
"""The largest difference of the weights and losses of such a network, relative to their size. Equal predictions alone
say little: a network that has diverged may call every image a 0."""
KINKS = (
    "rounding decides at the kinks of a network, such as those of ReLU: a stack rounds differently from the plain "
    "trainer, and so does the plain trainer with another number of threads"
)
"""What a user reads about differences of a network with kinks."""
TRAINED_ALONE_PATTERN = re.compile(r"by (the plain trainer|its own loop), (\d+) threads? ")
"""How `TRAINED_TAG` begins if no stack was used; see `plan.Stack.how_trained`."""
COMMIT = "mlflow.source.git.commit"
"""Tag with the commit that a run was trained at."""
UNCOMMITTED = "git.uncommitted_changes"
"""Tag that is "true" if the code had uncommitted changes."""


@dataclass(frozen=True)
class Comparison:
    """How the repetition of a run compares with the run."""

    equal: bool
    how: str
    """Why they count as equal or not, in words, such as "bit for bit"."""
    differences: tuple[str, ...]
    """A line for each value that differs."""


class Command(NamedTuple):
    """The command that trains a run again."""

    words: list[str]
    left_out: list[str]
    """Overrides that say where the run is recorded, and hold a password that was not recorded."""


def repro_command(store: Store, run: Record) -> Command:
    """Builds the command that trains a run again, on its own.

    `rerun=true` makes it train although the store knows the trial; it does not change the fingerprint.

    Args:
        store: the store with the run.
        run: the run.

    Raises:
        UserError: the overrides are gone, or one that is needed holds a password, which was not recorded.
    """
    overrides = overrides_of(store, run.row.run_id)
    masked = [line for line in overrides if has_masks(line)]
    needed = [line for line in masked if not _is_of(line, "tracking.uri")]
    if needed:
        raise UserError(
            f"run {run.row.name} has an override with a password, which is not recorded ({needed[0]})",
            remedy="type the command by hand",
        )
    kept = [line for line in overrides if line not in masked and not _is_of(line, "rerun")]
    return Command(["python", _program(), *kept, "rerun=true"], masked)


def _is_of(override: str, key: str) -> bool:
    return override.lstrip("+").startswith(f"{key}=")


def _program() -> str:
    return os.path.relpath(project_root() / "train.py")


def code_change(run: Record, config: TrialConfig) -> str:
    """Says how the code that trains a run has changed, the user's own code included.

    It returns an empty text if the code is the same, or was not recorded.
    """
    try:
        was, now = Fingerprint.parse(run.tags.get(FINGERPRINT_TAG, "")).code, digest(config)
    except ValueError:
        return ""
    gone = [one for one in (config.model.target, config.optimizer.target) if not _is_found(one)]
    if gone:
        return f"the code of {gone[0]} is not found from here"
    return "" if was == now else f"the training code has changed (checksum {was} then, {now} now)"


def _is_found(target: str) -> bool:
    try:
        return importlib.util.find_spec(target.partition(".")[0]) is not None
    except (ImportError, ValueError):  # a ValueError for __main__
        return False


def changes(store: Store, run: Record) -> str:
    """Says in one line what has changed since a run was trained: code of the user and the project, and packages.

    It returns an empty text if nothing that was recorded has changed.
    """
    now = environment()
    found = []
    with contextlib.suppress(UserError):  # the config is gone
        found += [change for change in [code_change(run, config_of(store, run.row.run_id))] if change]
    for key in (VERSION_TAG, *sorted(tag for tag in now if tag.startswith("versions."))):
        was = run.tags.get(key)
        if was is not None and was != now[key]:
            package = "sweepstack" if key == VERSION_TAG else key.removeprefix("versions.")
            found.append(f"{package} was {was} and is {now[key]}")
    was, commit = run.tags.get(COMMIT), now.get(COMMIT)
    if was and commit and was != commit:
        found.append(f"the project was at commit {was[:10]} and is at {commit[:10]}")
    if run.tags.get(UNCOMMITTED) == "true":
        found.append("it was trained with uncommitted changes")
    elif now.get(UNCOMMITTED) == "true":
        found.append("there are uncommitted changes now")
    return "; ".join(found)


def repeat(store: Store, run: Record) -> Comparison:
    """Trains a run again, on its own, in a temporary store and folder, and compares the results.

    Raises:
        UserError: the run has no outcome to compare with, or cannot be trained here.
    """
    if run.row.state not in (TrialState.FINISHED, TrialState.FAILED):
        raise UserError(
            f"a run must have ended to be compared with, {run.row.name} is {run.row.state}",
            remedy="choose another",
        )
    _, program, *overrides = repro_command(store, run).words
    with scratch() as temporary:
        uri = sqlite_uri(Path(temporary, "mlflow.db"))
        paths = [f"tracking.uri={uri}", f"tracking.journal={temporary}/journal", f"hydra.run.dir={temporary}/run"]
        words = [sys.executable, program, *overrides, *_threads(run), *paths]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            message = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            rule = f"the command cannot be run here: {one_line(message.removeprefix('error: '))}"
            raise UserError(rule, remedy="type it yourself to see more: sweepstack repro prints it")
        repeated = Store(uri)
        return compare(store, run, repeated, find_run(repeated, repeated.rows("all")[0].run_id))


def _threads(run: Record) -> list[str]:
    """Returns the override for the number of threads of a run, because another number rounds sums differently."""
    alone = TRAINED_ALONE_PATTERN.match(run.tags.get(TRAINED_TAG, ""))
    return [f"threads={alone[2]}"] if alone else []


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
    weights, images, count = None, None, 0
    if run.row.state == repeated.row.state == TrialState.FINISHED:
        weights = _distance_of_weights(store, run, repeated_store, repeated)
        images, count = _count_changed_predictions(store, run, repeated_store, repeated)
    metrics = _differing_metrics(run.row.metrics, repeated.row.metrics)
    exact = not metrics and (weights is None or weights.largest == 0) and images in (None, 0)
    lines = [f"{key}: {was!r} before, {now!r} now" for key, (was, now) in metrics.items()]
    if weights and weights.largest:
        lines.append(f"weights: differ by up to {weights.largest:.2g}, by {weights.relative:.2g} of their size")
    if images:
        lines.append(f"test predictions: {images} of {count} images differ")
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
        equal, how = _within_rounding(weights, images, count)
    if equal:
        return Comparison(True, f"within rounding: {why}, and {how}", tuple(lines))
    return Comparison(False, f"{why}, and {how}", (*lines, *_kinks(store, run)))


def _kinks(store: Store, run: Record) -> list[str]:
    with contextlib.suppress(UserError):  # the config is gone
        return [KINKS] if has_kinks(config_of(store, run.row.run_id)) else []
    return []


def _within_rounding(weights: Distance | None, images: int | None, count: int) -> tuple[bool, str]:
    """Decides whether rounding alone can cause the differences of two runs with similar losses, and says why."""
    if weights is not None and weights.largest <= WEIGHTS_TOLERANCE:
        return True, f"the weights differ by {weights.largest:.2g} ({WEIGHTS_TOLERANCE:g} is allowed)"
    if weights is not None and weights.relative > RELU_TOLERANCE:
        return False, f"the weights differ by {weights.relative:.2g} of their size ({RELU_TOLERANCE:g} is allowed)"
    allowed = max(CHANGED_IMAGES, round(CHANGED_IMAGES * count / 10_000))
    some = "an unknown number" if images is None else images or "none"
    near = images is not None and images <= allowed
    return near, f"{some} of {count} test images are classified differently ({allowed} allowed)"


def _loss_distance(metrics: Mapping[str, tuple[float | None, float | None]]) -> float:
    """Returns the largest difference of two losses, relative to the larger one; infinite if only one is finite."""
    distances = [0.0]
    for was, now in (pair for key, pair in metrics.items() if "loss" in key):
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


def _count_changed_predictions(
    store: Store, run: Record, repeated_store: Store, repeated: Record
) -> tuple[int | None, int]:
    """Counts the test images that are classified differently (None if that is not known), and all test images."""
    was, now = predictions(store, run.row.run_id), predictions(repeated_store, repeated.row.run_id)
    if was is None or now is None or was.shape != now.shape:
        return None, 0
    return int(np.count_nonzero(was != now)), len(now)
