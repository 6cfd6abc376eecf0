"""In which experiment trials are recorded: known, and looked at, before anything trains."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from sweepstack.config.names import check_experiment
from sweepstack.errors import ConfigError, StoreError
from sweepstack.private_api_switch import tricks
from sweepstack.tracking.address import connectable, sqlite_uri
from sweepstack.tracking.private import tables
from sweepstack.tracking.store import import_client

CHOOSE = "choose another with tracking.experiment=NAME or MLFLOW_EXPERIMENT_NAME"


def experiment_name(chosen: str | None, task: str, database: Path | None) -> str:
    """The experiment: as chosen, else as MLflow's environment variables name it, else of the name of the Hydra task.

    Args:
        chosen: tracking.experiment.
        database: of an sqlite store, where an id can be looked up.

    Raises:
        StoreError: MLFLOW_EXPERIMENT_ID names one that is not there, or cannot be looked up.
        ConfigError: an experiment cannot have the name.
    """
    name = chosen or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    number = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if name or not number:
        return _checked(name or task)
    found = _experiment(database, "experiment_id", number)
    if found is None:
        rule = "MLFLOW_EXPERIMENT_ID must be the id of an experiment in an sqlite store"
        raise StoreError(rule, number, "name the experiment with MLFLOW_EXPERIMENT_NAME")
    return found[0]


def check_not_deleted(name: str, database: Path | None) -> None:
    """That the experiment of an sqlite store has not been deleted; servers tell when records are delivered.

    Raises:
        StoreError: it has, which keeps its name taken.
    """
    found = _experiment(database, "name", name)
    if found is not None and found[1] != "active":
        rule = f"the experiment must not be deleted, {name!r} of {database} is"
        raise StoreError(rule, remedy=f"restore it with MLflow, or {CHOOSE}")


def _checked(name: str) -> str:
    try:
        return check_experiment(name)
    except ValueError as error:
        raise ConfigError(f"the name of an experiment {error}", name, CHOOSE) from None


def _experiment(database: Path | None, column: Literal["name", "experiment_id"], value: str) -> tuple[str, str] | None:
    """Name and lifecycle stage of an experiment of an sqlite store, if it is there."""
    if database is None or not database.is_file():
        return None
    if tricks():
        return tables.experiment(database, column, value)  # if it cannot be read now, MLflow will tell
    with contextlib.suppress(Exception), connectable(sqlite_uri(database)) as address:  # of MLflow, SQLAlchemy, sqlite
        client = import_client()(address)
        found = client.get_experiment_by_name(value) if column == "name" else client.get_experiment(value)
        return None if found is None else (found.name, found.lifecycle_stage)
    return None
