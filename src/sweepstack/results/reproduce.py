"""The command that trains a run again, and whether it ends the same."""

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
from sweepstack.tracking.rows import FINGERPRINT_TAG, RECOMPOSED_TAG, TRAINED_TAG, VERSION_TAG
from sweepstack.tracking.runs import Record, find_run
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.delivery import environment
from sweepstack.trial import WEIGHTS, TrialState

ROUNDING = 1e-5
"""A smooth model that was trained in a stack has weights at most so far from those of the plain trainer."""
IMAGES = 2
"""Where a hidden unit is just at its kink, rounding decides: of a ReLU network so many test images, in 10,000, may be
classified otherwise."""
RELU_TOLERANCE = 1e-3
"""Of their size: so far apart may the weights and the losses of such a network be. That nothing is classified otherwise
says little of one that has diverged and calls everything a 0."""
KINKS = (
    "rounding decides where a network has kinks, as ReLU has: a stack rounds otherwise than the plain trainer, which "
    "differs likewise with another number of threads"
)
TRAINED_ALONE_PATTERN = re.compile(r"by the plain trainer, (\d+) threads? ")
"""How `TRAINED_TAG` begins where no stack was used; see `plan.Stack.how_trained`."""
COMMIT, UNCOMMITTED = "mlflow.source.git.commit", "git.uncommitted_changes"


@dataclass(frozen=True)
class Comparison:
    """What a run and its repetition have in common."""

    equal: bool
    how: str
    """In words: bit for bit, or within which tolerance."""
    differences: tuple[str, ...]
    """A line for each figure that differs."""


class Command(NamedTuple):
    """What trains a run again."""

    words: list[str]
    left_out: list[str]
    """Overrides that say where the record goes, with a password that was not recorded."""


def repro_command(store: Store, run: Record) -> Command:
    """The words of the command that trains the run again, on its own; `rerun=true`, which changes no fingerprint, makes
    it train although the store knows the trial.

    Raises:
        UserError: its overrides are gone, or one that is needed holds a password, which was not recorded.
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
        raise UserError(
            f"a run must have ended to be compared with, {run.row.name} is {run.row.state}",
            remedy="choose another",
        )
    _, program, *overrides = repro_command(store, run).words
    with scratch() as aside:
        uri = sqlite_uri(Path(aside, "mlflow.db"))
        here = [f"tracking.uri={uri}", f"tracking.journal={aside}/journal", f"hydra.run.dir={aside}/run"]
        words = [sys.executable, program, *overrides, *_threads(run), *here]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            rule = f"the command cannot be run here: {one_line(said.removeprefix('error: '))}"
            raise UserError(rule, remedy="type it yourself to see more: sweepstack repro prints it")
        again = Store(uri)
        return compare(store, run, again, find_run(again, again.rows("all")[0].run_id))


def _threads(run: Record) -> list[str]:
    """Sums round differently with another number of threads, which the plan of a sweep may have chosen."""
    alone = TRAINED_ALONE_PATTERN.match(run.tags.get(TRAINED_TAG, ""))
    return [f"threads={alone[1]}"] if alone else []


def compare(store: Store, run: Record, again_store: Store, again: Record) -> Comparison:
    """Whether the repetition of a run has ended as the run has: bit for bit where it was trained on its own, else
    within the rounding of a stack. Seconds are not compared."""
    differences = _of_identity(run, again)
    weights, images, count = None, None, 0
    if run.row.state == again.row.state == TrialState.FINISHED:
        weights = _distance_of_weights(store, run, again_store, again)
        images, count = _otherwise(store, run, again_store, again)
    figures = _figures(run.row.metrics, again.row.metrics)
    exact = not figures and (weights is None or weights.most == 0) and images in (None, 0)
    lines = [f"{key}: {was!r} before, {now!r} now" for key, (was, now) in figures.items()]
    if weights and weights.most:
        lines.append(f"weights: up to {weights.most:.2g} apart, {weights.relative:.2g} of their size")
    if images:
        lines.append(f"test predictions: {images} of {count} images otherwise")
    if differences:
        return Comparison(False, _why_another(run, again), (*differences, *lines))
    if exact:
        return Comparison(True, "bit for bit", ())
    note = run.tags.get(RECOMPOSED_TAG)
    if TRAINED_ALONE_PATTERN.match(run.tags.get(TRAINED_TAG, "")) and not note:
        return Comparison(False, "it was trained by the plain trainer, so every bit counts", tuple(lines))
    why = f"it went on otherwise than it began ({note})" if note else "it was trained in a stack"
    losses = _losses_apart(figures)
    if losses > RELU_TOLERANCE or run.row.state == TrialState.FAILED:
        equal, how = (
            losses <= RELU_TOLERANCE,
            f"the losses are up to {losses:.2g} of their size apart ({RELU_TOLERANCE:g} is allowed)",
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
    """Whether rounding alone can be what parts the two, whose losses are close, and what tells."""
    if weights is not None and weights.most <= ROUNDING:
        return True, f"the weights are {weights.most:.2g} apart ({ROUNDING:g} is allowed)"
    if weights is not None and weights.relative > RELU_TOLERANCE:
        return False, f"the weights are {weights.relative:.2g} of their size apart ({RELU_TOLERANCE:g} is allowed)"
    allowed = max(IMAGES, round(IMAGES * count / 10_000))
    some = "an unknown number" if images is None else images or "none"
    near = images is not None and images <= allowed
    return near, f"{some} of {count} test images are classified otherwise ({allowed} allowed)"


def _losses_apart(figures: Mapping[str, tuple[float | None, float | None]]) -> float:
    """The largest difference of two losses, relative to the larger one; infinite where only one is a number."""
    apart = [0.0]
    for was, now in (pair for key, pair in figures.items() if "loss" in key):
        if was is None or now is None or not math.isfinite(was - now):
            return math.inf
        apart.append(abs(was - now) / max(abs(was), abs(now)))
    return max(apart)


def _why_another(run: Record, again: Record) -> str:
    was, now = run.tags.get(FINGERPRINT_TAG, ""), again.tags.get(FINGERPRINT_TAG, "")
    if was and was != now:
        return f"it is not the same trial any more: {Fingerprint.parse(now).change_since(Fingerprint.parse(was))}"
    return "it has not ended in the same way"


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


def _distance_of_weights(store: Store, run: Record, again_store: Store, again: Record) -> Distance | None:
    """How far the weights are apart; None when there are none to compare."""
    was, now = artifact(store, run.row.run_id, WEIGHTS), artifact(again_store, again.row.run_id, WEIGHTS)
    return None if was is None or now is None else distance(io.BytesIO(was), io.BytesIO(now))


def _otherwise(store: Store, run: Record, again_store: Store, again: Record) -> tuple[int | None, int]:
    """The test images that are classified otherwise, and how many there are."""
    was, now = predictions(store, run.row.run_id), predictions(again_store, again.row.run_id)
    if was is None or now is None or was.shape != now.shape:
        return None, 0
    return int(np.count_nonzero(was != now)), len(now)
