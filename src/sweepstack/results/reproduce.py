"""Builds the command that trains a run again, says what has changed since, and runs it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from sweepstack.config.code_digest import digest, targets_in
from sweepstack.config.identity import Fingerprint
from sweepstack.config.run_sections import PrunerConfig, SearchConfig
from sweepstack.config.schema import TrialConfig
from sweepstack.errors import UserError, one_line
from sweepstack.files.scratch import scratch
from sweepstack.masking import has_masks
from sweepstack.paths import project_root
from sweepstack.results.repetition import TRAINED_ALONE_PATTERN, Comparison, compare
from sweepstack.tracking.address import sqlite_uri
from sweepstack.tracking.artifacts import CONFIG, artifact, config_of, overrides_of
from sweepstack.tracking.runs import Record, find_run
from sweepstack.tracking.runs_as_rows import FINGERPRINT_TAG, TRAINED_TAG, VERSION_TAG, as_program
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.records import environment
from sweepstack.trial import TrialState

COMMIT = "mlflow.source.git.commit"
"""Tag with the commit that a run was trained at."""
UNCOMMITTED = "git.uncommitted_changes"
"""Tag that is "true" if the code had uncommitted changes."""


OFF: dict[str, PrunerConfig | SearchConfig] = {"pruner": PrunerConfig(), "search": SearchConfig()}
"""The config groups that are about a sweep, not about a run, as they are without any."""


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
    needed = [line for line in masked if not is_of(line, "tracking.uri")]
    if needed:
        raise UserError(
            f"run {run.row.name} has an override with a password, which is not recorded ({needed[0]})",
            remedy="type the command by hand",
        )
    kept = [line for line in overrides if line not in masked and not is_of(line, "rerun")]
    return Command(["python", *program(run.tags), *of_run_alone(store, run.row.run_id, kept), "rerun=true"], masked)


def is_of(override: str, key: str) -> bool:
    """True if an override sets a key."""
    return override.lstrip("+").startswith(f"{key}=")


def of_run_alone(store: Store, run_id: str, overrides: Sequence[str]) -> list[str]:
    """Returns overrides of a run without those about its sweep: which settings it trains, and which of them end early.

    Args:
        store: the store with the run.
        run_id: the run.
        overrides: its overrides; a file that they name may choose a pruner or a search, too.
    """
    found = [
        line
        for line in overrides
        if not line.lstrip("+").startswith(tuple(f"{name}{at}" for name in OFF for at in "=."))
    ]
    config = yaml.safe_load(artifact(store, run_id, CONFIG) or "") or {}
    for group, default in OFF.items():
        section = config.get(group) or {}
        if section.get("name", default.name) == default.name:
            continue
        found.append(f"{group}={default.name}")
        for key, usual in default.model_dump(mode="json").items():
            value = section.get(key, usual)
            if isinstance(value, dict | list):
                found += [f"~{group}.{key}"] if value else []  # a mapping cannot be replaced by an empty one
            elif key != "name" and value != usual:
                found.append(f"++{group}.{key}={json.dumps(usual)}")
    return found


def program(tags: Mapping[str, str]) -> list[str]:
    """Returns how the program that trained a run is begun from the current folder, after the word `python`.

    Args:
        tags: the tags of the run.
    """
    words = as_program(tags)
    at = [0] if words[0] != "-m" else []
    at += [index for index, word in enumerate(words) if index > 0 and words[index - 1] == "--config-dir"]
    return [os.path.relpath(project_root() / word) if index in at else word for index, word in enumerate(words)]


def code_change(run: Record, config: TrialConfig) -> str:
    """Says how the code that trains a run has changed, the user's own code included.

    It returns an empty text if the code is the same, or was not recorded.
    """
    try:
        was, now = Fingerprint.parse(run.tags.get(FINGERPRINT_TAG, "")).code, digest(config)
    except ValueError:
        return ""
    gone = [one for one in targets_in(config.model_dump(exclude={"dataset"}, by_alias=True)) if not _is_found(one)]
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
    _, *command = repro_command(store, run).words
    with scratch() as temporary:
        uri = sqlite_uri(Path(temporary, "mlflow.db"))
        paths = [f"tracking.uri={uri}", f"tracking.journal={temporary}/journal", f"hydra.run.dir={temporary}/run"]
        words = [sys.executable, *command, *_threads(run), *paths]
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
