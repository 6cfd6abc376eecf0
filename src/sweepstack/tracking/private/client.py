"""Code that uses private modules and attributes of MLflow in Python."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sweepstack.private_api_switch import tricks

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from sqlalchemy import Connection

MOST_VALUES = 25_000
"""The largest number of values in one answer of MLflow about many runs."""


def import_sqlite_store() -> None:
    """Imports what the client of an sqlite store imports at its first use.

    So the import can run beside other work. Without this, the first use takes longer.
    """
    if tricks():
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def make_database(address: str, artifacts: str) -> None:
    """Makes the tables of a new sqlite store.

    There is no public way: `MlflowClient` has no parameter for the artifacts' folder of experiment 0.

    Args:
        address: the address of the database for SQLAlchemy.
        artifacts: the address of the folder of its artifacts.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(address, artifacts).engine.dispose()


@contextlib.contextmanager
def one_transaction(client: MlflowClient, check: Callable[[Connection], None]) -> Iterator[None]:
    """Writes everything that the block writes through the client of an sqlite store in one transaction, or nothing.

    MLflow's store opens a session for each call, from `ManagedSessionMaker`. In the block, all these sessions use one
    connection. The public way is a transaction for each call: twelve for a trial, each of which waits for the disk. A
    delivery that is killed between two of them repeats them, which is harmless.

    Args:
        client: the client of the store.
        check: called before each use of the connection and before the commit. It raises an exception if the transaction
            no longer exists.
    """
    if not tricks():
        yield
        return
    from sqlalchemy.orm import Session

    store: Any = client._tracking_client.store
    with store.engine.connect() as connection:
        # MLflow's settings of each session. That of foreign keys has no effect inside a transaction.
        for setting in ("foreign_keys = ON", "busy_timeout = 20000", "case_sensitive_like = true"):
            connection.exec_driver_sql(f"PRAGMA {setting}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

        @contextlib.contextmanager
        def session(read_only: bool = True) -> Iterator[Session]:
            check(connection)
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                yield session
                session.commit()

        of_mlflow, store.ManagedSessionMaker = store.ManagedSessionMaker, session
        try:
            yield
            check(connection)
            connection.commit()
        finally:
            store.ManagedSessionMaker = of_mlflow


def metric_histories(client: MlflowClient, run_ids: Sequence[str], metric: str) -> list[tuple[str, Metric]]:
    """Returns the values of a metric in many runs, each with the id of its run, by one query or request.

    The public way is one request for each run, which takes minutes for a sweep of thousands. It is used if there is no
    bulk request, or if its answer is incomplete.

    Args:
        client: the client of the store.
        run_ids: at most 100 ids, the limit of a server.
        metric: the key of the metric.
    """
    behind: Any = client._tracking_client.store
    found: list[tuple[str, Metric]] | None = None
    if tricks() and hasattr(behind, "get_metric_history_bulk"):
        found = [(one.run_id, one) for one in behind.get_metric_history_bulk(run_ids, metric, MOST_VALUES)]
    elif tricks() and hasattr(behind, "get_host_creds"):
        found = _by_request(behind.get_host_creds(), run_ids, metric)
    if found is None or len(found) == MOST_VALUES:
        return [(run_id, value) for run_id in run_ids for value in client.get_metric_history(run_id, metric)]
    return found


def _by_request(credentials: Any, run_ids: Sequence[str], metric: str) -> list[tuple[str, Metric]]:
    from mlflow.entities import Metric
    from mlflow.utils.rest_utils import http_request_safe

    answer = http_request_safe(
        credentials,
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        "GET",
        params={"run_id": list(run_ids), "metric_key": metric, "max_results": MOST_VALUES},
    )
    return [
        (one["run_id"], Metric(one["key"], float(one["value"]), one["timestamp"], one["step"]))
        for one in answer.json()["metrics"]
    ]


def delete_artifacts(client: MlflowClient, run_id: str, folder: str) -> None:
    """Deletes a folder of a run's artifacts. There is no public way: MLflow's client only adds artifacts.

    Args:
        client: the client of the store.
        run_id: the id of the run.
        folder: the path of the folder among the artifacts.
    """
    client._tracking_client._get_artifact_repo(run_id).delete_artifacts(folder)


def server_version(address: str) -> str:
    """Returns the version of MLflow on a server. There is no public way: no client asks for it."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return str(http_request(get_default_host_creds(address), "/version", "GET", max_retries=0, timeout=5).text)


@contextlib.contextmanager
def as_tracking_uri(address: str) -> Iterator[None]:
    """Sets the tracking URI of the process to `address` for the block, because MLflow reads a model's files from it.

    The public way sets it and then sets the old one. After that, a process that took its store from the environment no
    longer follows the environment.
    """
    import mlflow
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    of_environment = os.environ.get("MLFLOW_TRACKING_URI")  # MLflow changes or deletes it
    try:
        if tricks():
            with _use_tracking_uri(address):
                yield
            return
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(address)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if of_environment is not None:
            os.environ["MLFLOW_TRACKING_URI"] = of_environment
