"""Reads the files of runs: directly if they are on this machine, else through MLflow."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sweepstack.config.identity import Fingerprint
from sweepstack.errors import StoreError, UserError, one_line
from sweepstack.files.scratch import scratch
from sweepstack.tracking.private.tables import artifact_uris
from sweepstack.tracking.runs_as_rows import FINGERPRINT_TAG
from sweepstack.tracking.store import Store
from sweepstack.trial import PREDICTIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from omegaconf import DictConfig

    from sweepstack.config.schema import TrialConfig

CONFIG = "config.yaml"
"""The file with the config of a run."""
OVERRIDES = "overrides.yaml"
"""The file with the typed overrides of a run."""
RETRY = "try again when the store answers"
"""The remedy for a store that does not answer."""


def local_folder(artifact_uri: str) -> Path | None:
    """Returns the folder of a file:// address; None for any other address, which needs MLflow."""
    address = urlsplit(artifact_uri)
    return Path(url2pathname(address.path)) if address.scheme == "file" and not address.netloc else None


def artifact(store: Store, run_id: str, name: str, known: Location | None = None) -> bytes | None:
    """Reads a file of a run; returns None if the run or the file does not exist.

    Args:
        store: the store that has the run.
        run_id: the id of the run.
        name: the name of the file.
        known: the location of the run, if the caller knows it.

    Raises:
        StoreError: the store does not answer.
    """
    known = known or location(store, run_id)
    if known is None:
        return None
    folder = local_folder(known.artifact_uri)
    if folder is not None:
        with contextlib.suppress(OSError):
            return (folder / name).read_bytes()
        return None
    try:
        if name not in {file.path for file in store.client.list_artifacts(run_id)}:
            return None
        with scratch() as temporary:
            return Path(store.client.download_artifacts(run_id, name, str(temporary))).read_bytes()
    except Exception as error:  # MLflow does not convert the errors of the libraries that it downloads with
        rule = f"{name} of run {run_id} cannot be read from {store.uri}: {one_line(error)}"
        raise StoreError(rule, remedy=RETRY) from error


def predictions(
    store: Store, run_id: str, known: Location | None = None, name: str = PREDICTIONS
) -> NDArray[Any] | None:
    """Reads what a finished trial predicted for the test items, or for those that were held out, in their order.

    These are classes, uint8 or int32 [n]; or the numbers of a regression, float32 [n, outputs]; or which of several
    labels an item has, uint8 [n, labels]; or what a task of one's own stores.

    Returns None for a run without them: it did not finish, an earlier version recorded it, or its file is missing or
    damaged.

    Args:
        store: the store that has the run.
        run_id: the id of the run.
        known: the location of the run, if the caller knows it.
        name: the name of the file.

    Raises:
        StoreError: the store does not answer.
    """
    import numpy as np

    content = artifact(store, run_id, name, known)
    if content is None:
        return None
    with contextlib.suppress(ValueError, EOFError, OSError):
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray) and found.ndim > 0 and found.dtype.kind in "biuf":
            return found
    return None


def config_of(store: Store, run_id: str) -> TrialConfig:
    """Reads the config of a run.

    Raises:
        UserError: the config is missing, or another version wrote it with other keys.
        StoreError: the store does not answer.
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    from sweepstack.config.parsing import parse

    text = artifact(store, run_id, CONFIG)
    if text is None:
        raise UserError(
            f"run {run_id} must have its {CONFIG}, which is missing",
            remedy="choose another run",
        )
    try:
        return parse(cast("DictConfig", OmegaConf.create(text.decode()))).trial
    except (UserError, ValueError, TypeError, YAMLError) as error:
        reason = one_line(error)
        raise UserError(
            f"{CONFIG} of run {run_id} cannot be read by this version ({reason})",
            remedy="train it again",
        ) from error


def overrides_of(store: Store, run_id: str) -> list[str]:
    """Reads the overrides of a run, in order.

    Raises:
        UserError: they are missing.
        StoreError: the store does not answer.
    """
    text = artifact(store, run_id, OVERRIDES)
    if text is None:
        raise UserError(
            f"run {run_id} must have its {OVERRIDES}, which is missing",
            remedy="choose another run",
        )
    return [line.removeprefix("- ") for line in text.decode().splitlines()]


class Location(NamedTuple):
    """The facts about a run that never change."""

    artifact_uri: str
    fingerprint: str
    """Empty if there is none, as in runs of an earlier version."""

    @property
    def data(self) -> str | None:
        """The checksum of the data for training and test; None without a fingerprint."""
        try:
            return Fingerprint.parse(self.fingerprint).data
        except ValueError:
            return None


def locations(store: Store) -> dict[str, Location]:
    """Returns the locations of all runs of an sqlite store, by their ids; an empty dict for other stores.

    It needs one query. A query for each run would take longer than reading a small file of it.
    """
    found = artifact_uris(store.database) if store.database is not None else None
    return {run_id: Location(uri, fingerprint) for run_id, uri, fingerprint in found or ()}


def location(store: Store, run_id: str) -> Location | None:
    """Returns the location of a run; None if the run does not exist.

    Raises:
        StoreError: the store does not answer.
    """
    if store.database is not None and (found := artifact_uris(store.database, run_id)) is not None:
        return next((Location(uri, fingerprint) for _, uri, fingerprint in found), None)
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise StoreError(f"run {run_id} cannot be read from {store.uri}: {one_line(error)}", remedy=RETRY) from error
    return Location(run.info.artifact_uri, run.data.tags.get(FINGERPRINT_TAG, ""))
