"""Files of runs: read where they lie, if that is on this machine, else through MLflow."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from yaml import YAMLError

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.config.parsing import parse
from sweepstack.config.schema import TrialConfig
from sweepstack.errors import StoreError, UserError, one_line
from sweepstack.files.scratch import scratch
from sweepstack.tracking.private.tables import artifact_uris
from sweepstack.tracking.runs_as_rows import FINGERPRINT_TAG
from sweepstack.tracking.store import Store
from sweepstack.trial import PREDICTIONS

if TYPE_CHECKING:
    from numpy import integer
    from numpy.typing import NDArray
    from omegaconf import DictConfig

CONFIG, OVERRIDES = "config.yaml", "overrides.yaml"
RETRY = "try again when the store answers"


def local_folder(artifact_uri: str) -> Path | None:
    """The folder of a file:// address; None for any other: MLflow has to carry what lies there."""
    address = urlsplit(artifact_uri)
    return Path(url2pathname(address.path)) if address.scheme == "file" and not address.netloc else None


def artifact(store: Store, run_id: str, name: str, known: Location | None = None) -> bytes | None:
    """A file of a run; None when the run or the file is not there. Its place is looked up unless it is known.

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
    except Exception as error:  # MLflow lets those of its many carriers through
        rule = f"{name} of run {run_id} cannot be had from {store.uri}: {one_line(error)}"
        raise StoreError(rule, remedy=RETRY) from error


def predictions(store: Store, run_id: str, known: Location | None = None) -> NDArray[integer] | None:
    """The classes that a finished trial predicted for the test images, [n] in the order of the test set, uint8 or
    int32. None for a run that has none: it did not finish, is of an earlier version, or its file is gone or damaged.

    Raises:
        StoreError: the store does not answer.
    """
    import numpy as np

    content = artifact(store, run_id, PREDICTIONS, known)
    if content is None:
        return None
    with contextlib.suppress(ValueError, EOFError, OSError):
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray) and found.ndim == 1 and found.dtype.kind in "iu":
            return found
    return None


def config_of(store: Store, run_id: str) -> TrialConfig:
    """What a run was trained with.

    Raises:
        UserError: its config is gone, or of a version that knew other keys.
        StoreError: the store does not answer.
    """
    from omegaconf import OmegaConf

    text = artifact(store, run_id, CONFIG)
    if text is None:
        raise UserError(
            f"run {run_id} must have its {CONFIG}, it is gone",
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
    """The overrides that a run was trained with, in order.

    Raises:
        UserError: they are gone.
        StoreError: the store does not answer.
    """
    text = artifact(store, run_id, OVERRIDES)
    if text is None:
        raise UserError(
            f"run {run_id} must have its {OVERRIDES}, it is gone",
            remedy="choose another run",
        )
    return [line.removeprefix("- ") for line in text.decode().splitlines()]


class Location(NamedTuple):
    """Of a run, what never changes."""

    artifact_uri: str
    fingerprint: str
    """Empty where there is none, as in an earlier version."""

    @property
    def data(self) -> str | None:
        """The checksum of the data that it was trained and tested on, where it has a fingerprint."""
        try:
            return Fingerprint.parse(self.fingerprint).data
        except ValueError:
            return None


def locations(store: Store) -> dict[str, Location]:
    """Of all runs of an sqlite store, by their ids, in one query: one for each run takes most of the time that reading
    something small of it takes. Of other stores nothing; ask for each."""
    found = artifact_uris(store.database) if store.database is not None else None
    return {run_id: Location(uri, fingerprint) for run_id, uri, fingerprint in found or ()}


def location(store: Store, run_id: str) -> Location | None:
    """Of a run; None when it is not there.

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
        raise StoreError(f"run {run_id} cannot be had from {store.uri}: {one_line(error)}", remedy=RETRY) from error
    return Location(run.info.artifact_uri, run.data.tags.get(FINGERPRINT_TAG, ""))
