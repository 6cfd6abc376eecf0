"""The command that trains a run again, and whether it ends the same."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sweepstack.config import Fingerprint, TrialConfig
from sweepstack.errors import UserError, one_line
from sweepstack.tracking.address import project_root
from sweepstack.tracking.artifacts import artifact, config_of, overrides_of, predictions
from sweepstack.tracking.delivery import environment
from sweepstack.tracking.rows import FINGERPRINT_TAG, TRAINED_TAG, VERSION_TAG
from sweepstack.tracking.runs import Record, find
from sweepstack.tracking.store import Store
from sweepstack.training.code import digest
from sweepstack.training.predicting import distance
from sweepstack.trial import WEIGHTS, TrialState

ROUNDING = 1e-5
"""A smooth model that was trained in a stack has weights at most so far from those of the plain trainer."""
IMAGES = 2
"""Where a hidden unit is just at its kink, rounding decides: of a ReLU network so many test images, in 10,000, may be
classified otherwise."""
COMMIT, UNCOMMITTED = "mlflow.source.git.commit", "git.uncommitted_changes"


@dataclass(frozen=True)
class Comparison:
    """What a run and its repetition have in common."""

    equal: bool
    how: str
    """In words: bit for bit, or within which tolerance."""
    differences: tuple[str, ...]
    """A line for each figure that differs."""


def command(store: Store, run: Record) -> list[str]:
    """The words of the command that trains the run again, on its own.

    Raises:
        UserError: its overrides are gone, or hold a password that was not recorded.
    """
    overrides = overrides_of(store, run.row.run_id)
    masked = [line for line in overrides if "***@" in line]
    if masked:
        raise UserError(
            f"run {run.row.name} has an override with a password, which is not recorded ({masked[0]}); type the "
            "command by hand"
        )
    return ["python", _program(), *overrides]


def _program() -> str:
    return os.path.relpath(project_root() / "train.py")


def code_change(run: Record, config: TrialConfig) -> str:
    """Whether the code that trains a run, the user's own with it, is another one than it was: in words, empty when it
    is the same or was not recorded."""
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
    """One line on what is not as it was when the run was trained, of the user's and the project's code and of packages;
    empty when all is the same, as far as it was recorded."""
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
    """Trains a run again, on its own, in a store and a folder that are thrown away, and compares.

    Raises:
        UserError: the run has no outcome to compare with, or cannot be trained here.
    """
    if run.row.state not in (TrialState.FINISHED, TrialState.FAILED):
        raise UserError(f"a run must have ended to be compared with, {run.row.name} is {run.row.state}; choose another")
    _, program, *overrides = command(store, run)
    with tempfile.TemporaryDirectory(prefix="sweepstack-") as aside:
        uri = f"sqlite:///{aside}/mlflow.db"
        here = [f"tracking.uri={uri}", f"tracking.journal={aside}/journal", f"hydra.run.dir={aside}/run"]
        words = [sys.executable, program, *overrides, *_threads(run), *here]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            raise UserError(f"the command cannot be run here: {one_line(said.removeprefix('error: '))}")
        again = Store(uri)
        return compare(store, run, again, find(again, again.rows("all")[0].run_id))


def _threads(run: Record) -> list[str]:
    """Sums round differently with another number of threads, which the plan of a sweep may have chosen."""
    alone = re.match(r"alone, (\d+) threads? ", run.tags.get(TRAINED_TAG, ""))
    return [f"threads={alone[1]}"] if alone else []


def compare(store: Store, run: Record, again_store: Store, again: Record) -> Comparison:
    """Whether the repetition of a run has ended as the run has: bit for bit where it was trained on its own, else
    within the rounding of a stack. Seconds are not compared."""
    alone = run.tags.get(TRAINED_TAG, "").startswith("alone")
    differences = _of_identity(run, again)
    weights, images, count = None, None, 0
    if run.row.state == again.row.state == TrialState.FINISHED:
        weights = _apart(store, run, again_store, again)
        images, count = _otherwise(store, run, again_store, again)
    figures = _figures(run.row.metrics, again.row.metrics)
    exact = not figures and weights in (None, 0.0) and images in (None, 0)
    lines = [f"{key}: {was!r} before, {now!r} now" for key, (was, now) in figures.items()]
    if weights:
        lines.append(f"weights: up to {weights:.2g} apart")
    if images:
        lines.append(f"test predictions: {images} of {count} images otherwise")
    if differences or exact:
        return Comparison(not differences, "bit for bit", (*differences, *lines))
    if alone:
        return Comparison(False, "it was trained alone, so every bit counts", tuple(lines))
    if weights is not None and weights <= ROUNDING:
        how = f"it was trained in a stack, and the weights are {weights:.2g} apart ({ROUNDING:g} is allowed)"
        return Comparison(True, f"within rounding: {how}", tuple(lines))
    allowed = max(IMAGES, round(IMAGES * count / 10_000))
    near = images is not None and images <= allowed
    some = "none" if images is None else images
    how = f"it was trained in a stack, and {some} of {count} test images are classified otherwise ({allowed} allowed)"
    return Comparison(near, f"within rounding: {how}" if near else how, tuple(lines))


def _of_identity(run: Record, again: Record) -> list[str]:
    """Why the two cannot be the same: another fingerprint, another end."""
    lines = []
    was, now = run.tags.get(FINGERPRINT_TAG, ""), again.tags.get(FINGERPRINT_TAG, "")
    if was and was != now:
        lines.append(f"fingerprint: {Fingerprint.parse(now).change_since(Fingerprint.parse(was))}")
    if run.row.state != again.row.state:
        lines.append(f"state: {run.row.state} before, {again.row.state} now {again.row.reason}".rstrip())
    elif run.row.reason != again.row.reason:
        lines.append(f"reason: {run.row.reason!r} before, {again.row.reason!r} now")
    return lines


def _figures(was: Mapping[str, float], now: Mapping[str, float]) -> dict[str, tuple[float | None, float | None]]:
    """The figures that differ; NaN is like NaN."""
    keys = sorted(key for key in {*was, *now} if "seconds" not in key)
    pairs = {key: (was.get(key), now.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if repr(pair[0]) != repr(pair[1])}


def _apart(store: Store, run: Record, again_store: Store, again: Record) -> float | None:
    """The largest difference between two weights; None when there are none to compare."""
    was, now = artifact(store, run.row.run_id, WEIGHTS), artifact(again_store, again.row.run_id, WEIGHTS)
    return None if was is None or now is None else distance(io.BytesIO(was), io.BytesIO(now))


def _otherwise(store: Store, run: Record, again_store: Store, again: Record) -> tuple[int | None, int]:
    """The test images that are classified otherwise, and how many there are."""
    was, now = predictions(store, run.row.run_id), predictions(again_store, again.row.run_id)
    if was is None or now is None or was.shape != now.shape:
        return None, 0
    return int(np.count_nonzero(was != now)), len(now)
