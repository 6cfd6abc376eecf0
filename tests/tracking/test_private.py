"""The tricks with MLflow still fit the MLflow that is installed, and the public way gives the same."""

import inspect
import os
from collections.abc import Callable

import pytest

from sweepstack.tracking.histories import histories
from sweepstack.tracking.private import client
from sweepstack.tracking.store import Store
from sweepstack.tricks import NO_TRICKS

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
