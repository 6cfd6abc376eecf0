"""Finds and checks the experiment of the trials before any training."""

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
"""The remedy for an experiment that cannot be used."""


def experiment_name(chosen: str | None, task: str, database: Path | None) -> str:
    """Returns the experiment's name: `chosen`, else that of MLflow's environment variables, else that of the task.

    Args:
        chosen: the value of tracking.experiment.
        task: the name of the Hydra task.
        database: the file of an sqlite store, to look up the id of an experiment; None for other stores.

    Raises:
        StoreError: MLFLOW_EXPERIMENT_ID names an experiment that does not exist, or cannot be looked up.
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
    """Checks that nobody has deleted the experiment of an sqlite store. A server reports it during delivery.

    Raises:
        StoreError: the experiment is deleted, and nothing else can have its name.
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
    """Returns the name and the lifecycle stage of an experiment of an sqlite store; None if it does not exist."""
    if database is None or not database.is_file():
        return None
    if tricks():
        return tables.experiment(database, column, value)  # if this fails, MLflow will report it
    with (
        contextlib.suppress(Exception),
        connectable(sqlite_uri(database)) as address,
    ):  # errors of MLflow, SQLAlchemy, sqlite
        client = import_client()(address)
        found = client.get_experiment_by_name(value) if column == "name" else client.get_experiment(value)
        return None if found is None else (found.name, found.lifecycle_stage)
    return None
