"""Logs a trained model with its run in MLflow, registers it under a name with an alias, and loads it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sweepstack.child_process import is_running
from sweepstack.errors import StoreError, UserError, did_you_mean, one_line
from sweepstack.files.scratch import scratch
from sweepstack.tracking.address import connectable
from sweepstack.tracking.artifacts import local_folder
from sweepstack.tracking.objectives import NOTE_TAG
from sweepstack.tracking.private.client import as_tracking_uri
from sweepstack.tracking.runs import Record
from sweepstack.tracking.runs_as_rows import VERSION_TAG
from sweepstack.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.models import Model
    from numpy.typing import NDArray

VERSIONS_TAG = "mlflow.modelVersions"
"""The tag of a model that links it to its registered versions in MLflow's UI."""
BY_TAG = "sweepstack.registering"
"""The tag of a model that is not registered yet: the host and the process that register it."""
LOADER = "sweepstack.inference.predictor"
"""The module with the function that loads our models for MLflow; nothing is pickled."""
EARLIER_LOADERS = ("sweepstack.training.predicting", "sweepstack.inference.classifier")
"""The modules of that function in earlier versions, whose models name them."""
FORBIDDEN = "/:.%\"'@"
"""Characters that the name of a model must not have: MLflow refuses the first six, and @ is before an alias."""
MAX_NAME_CHARACTERS = 255
"""The length of the longest name or alias that MLflow's databases accept."""
MAX_QUOTED_CHARACTERS = 60
"""The length of the longest name or alias that an error message quotes in full."""


class Version(NamedTuple):
    """A version of a registered model."""

    name: str
    version: str


def check_names(name: str, alias: str) -> None:
    """Checks that MLflow accepts a name and an alias; MLflow itself would do so after it has logged the model.

    Raises:
        UserError: MLflow does not accept one of them.
    """
    if not name.strip() or set(name) & set(FORBIDDEN) or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS:
        raise UserError(
            f"a model's name must be of 1 to {MAX_NAME_CHARACTERS} characters without {' '.join(FORBIDDEN)}, "
            f"got {_shortened(name)!r}",
            remedy="give another with --name",
        )
    if not re.fullmatch(rf"[\w\-]{{1,{MAX_NAME_CHARACTERS}}}", alias, re.ASCII) or re.fullmatch(
        r"(?i)v\d+|latest", alias
    ):
        raise UserError(
            f"an alias must be of 1 to {MAX_NAME_CHARACTERS} letters, digits, _ and -, and neither latest nor v and a "
            f"number, got {_shortened(alias)!r}",
            remedy="give another with --alias",
        )


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}..."


def log_and_register(
    store: Store,
    run: Record,
    name: str,
    alias: str,
    data: Path,
    code: Sequence[Path],
    requirements: Sequence[str],
    example: NDArray[Any],
    answer: NDArray[Any],
    kind: str | None = None,
    note: str = "",
) -> tuple[int, str]:
    """Logs a model as an output of the run, and registers it as the next version of `name`, with the alias.

    Args:
        store: the store that has the run.
        run: the run that trained the model.
        name: the name of the registered model.
        alias: the alias of the new version.
        data: the folder that the model is loaded from.
        code: files and packages to store with the model.
        requirements: requirements for pip. MLflow infers none, because that takes many seconds.
        example: an example of the input; with `answer`, it gives the signature.
        answer: the output for `example`.
        kind: what MLflow shows as the model's type, such as "classifier"; None for none.
        note: what a user must know of the model: its description, and a tag of the version and of the model.

    Returns:
        The version, and the model's id.

    Raises:
        StoreError: the store does not accept the model.
    """
    check_names(name, alias)
    client = store.client
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    try:
        with scratch() as temporary:
            with store.writing():
                finish_models(store)
                logged = client.create_logged_model(
                    run.row.experiment_id,
                    name,
                    run.row.run_id,
                    params=dict(run.row.params),
                    model_type=kind,
                    tags={BY_TAG: _myself()},
                )
            model = Model(
                logged.artifact_location, run.row.run_id, model_uuid=logged.model_id, model_id=logged.model_id
            )
            folder = temporary / "model"
            _save(model, folder, data, code, requirements, example, answer)
            client.log_model_artifacts(logged.model_id, str(folder))
            with store.writing():
                client.finalize_logged_model(logged.model_id, "READY")
                client.log_outputs(run.row.run_id, [LoggedModelOutput(logged.model_id, 0)])
                version = _register(store, name, alias, run, logged.model_id, note)
    except UserError:
        raise
    except Exception as error:  # MLflow does not convert the errors of drivers, sockets and disks
        rule = f"{store.uri} does not take the model ({one_line(error)})"
        raise StoreError(rule, remedy="try again when the store can be written to") from error
    return version, str(logged.model_id)


def _save(
    model: Model,
    folder: Path,
    data: Path,
    code: Sequence[Path],
    requirements: Sequence[str],
    example: NDArray[Any],
    answer: NDArray[Any],
) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def anything_many(array: NDArray[Any]) -> Schema:
        return Schema([TensorSpec(array.dtype, (-1, *array.shape[1:]))])

    mlflow.pyfunc.save_model(
        str(folder),
        loader_module=LOADER,
        data_path=str(data),
        code_paths=[str(path) for path in code] or None,
        mlflow_model=model,
        signature=ModelSignature(anything_many(example), anything_many(answer)),
        input_example=example,
        pip_requirements=list(requirements),
    )


def _register(store: Store, name: str, alias: str, run: Record, model_id: str, note: str) -> int:
    from mlflow.exceptions import MlflowException

    client = store.client
    tags = {VERSION_TAG: run.tags.get(VERSION_TAG, "")}
    try:
        client.create_registered_model(name, tags=tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with (
        connectable(store.uri) as address,
        as_tracking_uri(address),
    ):  # MLflow reads a model's files from the store of the environment
        source, noted = f"models:/{model_id}", {NOTE_TAG: note} if note else {}
        made = client.create_model_version(
            name, source, run.row.run_id, tags=tags | noted, description=note or None, model_id=model_id
        )
    client.set_registered_model_alias(name, alias, made.version)
    version_tag = [{"name": name, "version": made.version}]
    client.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps(version_tag), **noted})
    client.delete_logged_model_tag(model_id, BY_TAG)
    return int(made.version)


def finish_models(store: Store) -> None:
    """Removes the models that killed processes of this machine did not register completely.

    It removes their versions without an alias, too. A model that has an alias is complete and stays.
    """
    client = store.client
    experiments = [one.experiment_id for one in client.search_experiments()]
    token: str | None = ""
    while experiments and token is not None:
        page = client.search_logged_models(experiments, page_token=token or None)
        for model in page:
            if _is_dead(model.tags.get(BY_TAG, "")):
                _finish_model(store, model.model_id, model.artifact_location)
        token = page.token or None


def _finish_model(store: Store, model_id: str, artifacts: str) -> None:
    client = store.client
    made = [
        version
        for name in registered(store)
        for version in client.search_model_versions(f"name = '{name}'")
        if version.source == f"models:/{model_id}"
    ]
    named = [version for version in made if client.get_model_version(version.name, version.version).aliases]
    if named:
        version_tag = [{"name": named[0].name, "version": int(named[0].version)}]
        client.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps(version_tag)})
        client.delete_logged_model_tag(model_id, BY_TAG)
        return
    for version in made:
        client.delete_model_version(version.name, version.version)
    client.delete_logged_model_tag(model_id, BY_TAG)
    client.finalize_logged_model(model_id, "FAILED")
    client.delete_logged_model(model_id)
    folder = local_folder(artifacts)
    if folder is not None and folder.parent.name == model_id:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _myself() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def _is_dead(who: str) -> bool:
    """Whether `who`, see `_myself`, is a process of this machine that has ended."""
    host, _, process = who.rpartition(" ")
    if host != socket.gethostname() or not process.isdecimal() or int(process) == os.getpid():
        return False
    return not is_running(int(process))


def registered(store: Store) -> dict[str, Mapping[str, str]]:
    """Returns the aliases of all our models, each with its version, by the name of the model."""
    found: list[RegisteredModel] = []
    token: str | None = ""
    while token is not None:
        page = store.client.search_registered_models(page_token=token or None)
        found += page
        token = page.token or None
    return {model.name: {alias: str(v) for alias, v in model.aliases.items()} for model in found if _is_ours(model)}


def _is_ours(model: RegisteredModel) -> bool:
    return VERSION_TAG in model.tags


def version(store: Store, name: str, alias: str) -> Version:
    """Returns the version of a model that has an alias.

    Args:
        store: the store that has the model.
        name: the name of the model.
        alias: the alias of the version.

    Raises:
        UserError: the model or the alias does not exist.
    """
    known = registered(store)
    if name not in known:
        raise UserError(
            f"there is no model {name!r} in {store.uri}",
            remedy=did_you_mean(name, known),
        )
    if alias not in known[name]:
        raise UserError(
            f"model {name!r} has no alias {alias!r}",
            remedy=did_you_mean(alias, known[name]),
        )
    return Version(name, str(store.client.get_model_version_by_alias(name, alias).version))


def numbered(store: Store, name: str, number: str) -> Version:
    """Returns the version of a model that has a number.

    Args:
        store: the store that has the model.
        name: the name of the model.
        number: the number of the version, or "latest".

    Raises:
        UserError: the model or the version does not exist.
    """
    known = registered(store)
    if name not in known:
        raise UserError(f"there is no model {name!r} in {store.uri}", remedy=did_you_mean(name, known))
    found = store.client.search_model_versions(f"name = '{name}'")
    numbers = sorted({int(each.version) for each in found})
    if number == "latest" and numbers:
        return Version(name, str(numbers[-1]))
    if number not in map(str, numbers):
        raise UserError(f"model {name!r} has no version {number!r}", remedy=did_you_mean(number, map(str, numbers)))
    return Version(name, number)


@contextmanager
def files(store: Store, found: Version) -> Iterator[Path]:
    """Yields the folder with the files of one of our models; it may exist only until the end of the block.

    Raises:
        StoreError: the files cannot be read.
    """
    import mlflow.artifacts

    with scratch() as temporary:
        try:
            where = store.client.get_model_version_download_uri(found.name, found.version)
            if where.startswith("models:/"):
                where = store.client.get_logged_model(where.removeprefix("models:/")).artifact_location
            folder = local_folder(where)
            if folder is None:
                with connectable(store.uri) as address:
                    got = mlflow.artifacts.download_artifacts(where, dst_path=str(temporary), tracking_uri=address)
                    folder = Path(got)
        except Exception as error:  # MLflow does not convert the errors of the libraries that it downloads with
            reason = one_line(error)
            raise StoreError(
                f"model {found.name} cannot be read from {store.uri} ({reason})",
                remedy="try again",
            ) from error
        if not (folder / "MLmodel").is_file():
            raise StoreError(
                f"the files of model {found.name}, version {found.version}, are gone from {folder}",
                remedy="register it again: sweepstack register",
            )
        yield folder


def load_model(folder: Path) -> Any:
    """Loads the predictor in a model's folder, with the code that is stored with it.

    Raises:
        StoreError: another version wrote the model, or its code does not load here.
    """
    import mlflow.pyfunc

    try:
        for name in EARLIER_LOADERS:
            sys.modules.setdefault(name, importlib.import_module(LOADER))
        return mlflow.pyfunc.load_model(str(folder), suppress_warnings=True).get_raw_model()
    except UserError:
        raise
    except Exception as error:  # the user's code in the model can fail in any way
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise StoreError(
            f"the model in {folder} does not load here ({reason})",
            remedy="register it again",
        ) from error
