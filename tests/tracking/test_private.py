"""The tricks with MLflow still fit the MLflow that is installed, and the public way gives the same."""

import contextlib
import inspect
import os
import sqlite3
from collections.abc import Callable

import pytest

from sweepstack.errors import StoreError
from sweepstack.private_api_switch import NO_TRICKS
from sweepstack.tracking.experiments import check_not_deleted, experiment_name
from sweepstack.tracking.histories import histories
from sweepstack.tracking.private import client, environment, relocation, server, tables
from sweepstack.tracking.runs_as_rows import FINGERPRINT_TAG
from sweepstack.tracking.store import Store

from ..terminal import new_store


@pytest.fixture
def store(tmp_path, empty_database) -> Store:
    return new_store(tmp_path, empty_database)


@pytest.fixture(params=[True, False], ids=["tricks", "the public way"])
def use_tricks(request, monkeypatch) -> bool:
    if request.param:
        monkeypatch.delenv(NO_TRICKS, raising=False)
    else:
        monkeypatch.setenv(NO_TRICKS, "1")
    return request.param


def commits(store: Store, write: Callable[[], None]) -> int:
    """How many transactions of the database end well while `write` runs."""
    from sqlalchemy import event

    seen: list[object] = []
    engine = store.client._tracking_client.store.engine

    def count(connection: object) -> None:
        seen.append(connection)

    event.listen(engine, "commit", count)
    try:
        write()
    finally:
        event.remove(engine, "commit", count)
    return len(seen)


def test_what_is_replaced_is_there() -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri
    from mlflow.utils.rest_utils import http_request_safe

    assert "self.ManagedSessionMaker(" in inspect.getsource(SqlAlchemyStore)
    assert list(inspect.signature(SqlAlchemyStore).parameters)[:2] == ["db_uri", "default_artifact_root"]
    assert list(inspect.signature(SqlAlchemyStore.get_metric_history_bulk).parameters)[1:] == [
        "run_ids",
        "metric_key",
        "max_results",
    ]
    assert next(iter(inspect.signature(_use_tracking_uri).parameters)) == "uri"
    assert callable(http_request_safe)


def test_mlflow_knows_the_environment_variables_that_are_set() -> None:
    from mlflow import environment_variables

    assert [name for name in environment.CLIENT | environment.SERVER if not hasattr(environment_variables, name)] == []


def test_the_server_gets_the_variables_that_mlflow_server_would_set(use_tricks) -> None:
    from mlflow import environment_variables
    from mlflow.server import constants, fastapi_app

    command, given = server.server_command("127.0.0.1", 5000, "localhost", "sqlite:///a.db", "file:///a")
    names = {constants.BACKEND_STORE_URI_ENV_VAR, constants.REGISTRY_STORE_URI_ENV_VAR, constants.ARTIFACT_ROOT_ENV_VAR}
    names |= {constants.SERVE_ARTIFACTS_ENV_VAR, environment_variables._MLFLOW_SGI_NAME.name}
    names |= {environment_variables.MLFLOW_SERVER_ALLOWED_HOSTS.name}
    assert {*given} == (names if use_tricks else {"MLFLOW_BACKEND_STORE_URI"})
    assert fastapi_app.app
    assert ("uvicorn" in command) == use_tricks
    assert "sqlite:///a.db" not in command


def test_the_columns_that_follow_a_moved_store_are_there(empty_database) -> None:
    with contextlib.closing(sqlite3.connect(empty_database)) as opened:
        for table, column in (*relocation.OF_FILES, ("experiments", "artifact_location")):
            opened.execute(f"SELECT {column} FROM {table}")
    assert relocation.moved_from(empty_database) is None


def test_the_tables_tell_what_the_client_tells(store, monkeypatch) -> None:
    """(What they tell of settled runs is in test_known_fingerprints.py.)"""
    run = store.client.create_run(store.experiment_id("train"), tags={FINGERPRINT_TAG: "f"}).info
    monkeypatch.delenv(NO_TRICKS, raising=False)  # or nothing is read
    assert tables.artifact_uris(store.database) == [(run.run_id, run.artifact_uri, "f")]
    assert tables.artifact_uris(store.database, run.run_id) == [(run.run_id, run.artifact_uri, "f")]
    assert tables.artifact_uris(store.database, "another") == []
    assert tables.settled_runs(store.database, ["c"]) == []
    assert tables.experiment(store.database, "name", "train") == ("train", "active")
    assert tables.experiment(store.database, "experiment_id", run.experiment_id) == ("train", "active")


def test_the_schema_of_the_installed_mlflow_is_known_and_no_other(store, monkeypatch) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # or nothing is read
    assert tables.newer_schema(store.database) is None
    with contextlib.closing(sqlite3.connect(store.database)) as opened:
        assert opened.execute("UPDATE alembic_version SET version_num = 'f'").rowcount == 1
        opened.commit()
    assert tables.newer_schema(store.database) == "f"


def test_without_its_tables_a_store_is_asked_through_the_client(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # it is what happens when the trick no longer fits
    database = tmp_path / "other.db"
    sqlite3.connect(database).close()
    assert tables.settled_runs(database, ["c"]) is None
    assert tables.artifact_uris(database) is None


@pytest.mark.parametrize("name", ["train", "gone", "another"])
def test_an_experiment_is_known_in_both_ways(store, use_tricks, name, monkeypatch) -> None:
    store.experiment_id("train")
    number = store.experiment_id("gone")
    store.client.delete_experiment(number)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    assert experiment_name(None, "task", store.database) == "gone"
    if name == "gone":
        with pytest.raises(StoreError, match="must not be deleted"):
            check_not_deleted(name, store.database)
    else:
        check_not_deleted(name, store.database)


def test_a_block_is_one_transaction_or_with_the_public_way_many(store, use_tricks) -> None:
    run = store.client.create_run(store.experiment_id("train")).info.run_id

    def write() -> None:
        with store.transaction():
            for step in range(5):
                store.client.log_metric(run, "loss", 1.0, step=step)
            assert store.client.get_run(run).data.metrics == {"loss": 1.0}

    found = commits(store, write)
    assert found == 1 if use_tricks else found >= 5
    assert [point.step for point in histories(store, [run], "loss")] == [0, 1, 2, 3, 4]


def test_a_block_that_fails_leaves_nothing_but_with_the_public_way_what_it_had_written(store, use_tricks) -> None:
    run = store.client.create_run(store.experiment_id("train")).info.run_id

    def write() -> None:
        with store.transaction():
            store.client.log_metric(run, "loss", 1.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert store.client.get_run(run).data.metrics == ({} if use_tricks else {"loss": 1.0})


@pytest.mark.parametrize("uri", ["sqlite:////of/the/environment.db", None])
def test_mlflow_is_set_to_a_store_meanwhile(store, use_tricks, uri, monkeypatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with client.as_tracking_uri(store.uri):
        assert mlflow.get_tracking_uri() == store.uri
    assert os.environ.get("MLFLOW_TRACKING_URI") == uri


def test_a_folder_of_artifacts_is_deleted(store) -> None:
    run = store.client.create_run(store.experiment_id("train")).info.run_id
    store.client.log_text(run, "x", "plots/a.txt")
    client.delete_artifacts(store.client, run, "plots")
    assert store.client.list_artifacts(run) == []
