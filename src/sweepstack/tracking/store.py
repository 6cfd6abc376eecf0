"""The MLflow store: its safe first use, its experiments and its runs."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from sweepstack.config.names import as_folder
from sweepstack.errors import StoreError, did_you_mean, one_line
from sweepstack.files.replacing import move_new
from sweepstack.journal.sessions import Sessions
from sweepstack.tracking.address import (
    BESIDE,
    check_driver,
    check_store,
    connectable,
    database_of,
    has_content,
    journal_folder,
    regular_database,
    resolve_uri,
    sqlite_uri,
    sweepstack_command,
)
from sweepstack.tracking.private.client import import_sqlite_store, make_database, one_transaction
from sweepstack.tracking.private.environment import CLIENT
from sweepstack.tracking.private.relocation import ARTIFACTS, follow_move, moved_from
from sweepstack.tracking.runs_as_rows import ID_TAG, OWN_RUNS, SWEEP_TAG, Row, member_tag, newest, row_of, sweeps_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from sqlalchemy import Connection

PAGE = 1000


class Store:
    """A tracking store. Nothing is imported, created or asked before it is needed.

    Args:
        uri: an MLflow tracking URI; None for the project's own (see `resolve_uri`).
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = resolve_uri(uri)
        self._client: MlflowClient | None = None

    @property
    def database(self) -> Path | None:
        """The file of an sqlite store; None for any other kind."""
        return database_of(self.uri)

    @property
    def artifacts(self) -> Path | None:
        """The folder of an sqlite store's artifacts; None for any other kind."""
        return self._file.parent / ARTIFACTS if self.database is not None else None

    @property
    def _file(self) -> Path:
        """The file of an sqlite store, with its links resolved.

        Raises:
            StoreError: it is no regular file.
        """
        assert self.database is not None
        return regular_database(self.database)

    def check(self) -> str | None:
        """Whether it can be had, as far as a moment can tell; see `address.check_store`."""
        return check_store(self.uri)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time on an sqlite file, whatever the number of processes; servers see to it themselves."""
        if self.database is None:
            yield
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock"):
            yield

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Writes all that the block writes through the client at once, or nothing of it; servers have no such thing and
        take request by request. MLflow commits about twelve times for a trial, and each commit waits for the disk."""
        if self.database is None:
            yield
            return
        client = self.client  # before the lock, which making the database takes too
        with self.writing(), one_transaction(client, self._check_whole):
            yield

    def _check_whole(self, connection: Connection) -> None:
        """A full disk, for one, makes sqlite undo a transaction on its own; what follows would be written piecemeal."""
        sqlite: Any = connection.connection.driver_connection
        if not sqlite.in_transaction:
            raise StoreError(
                f"{self.uri} has undone what was being written, the disk may be full",
                remedy="make room",
            )

    def load(self) -> None:
        """Imports what the client needs, which takes seconds, and opens the database if there is one; creates nothing.

        Raises:
            StoreError: see `client`.
        """
        if self.database is None or has_content(self.database):
            _ = self.client
        else:
            import_client()
            import_sqlite_store()

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, with the database made if it is not there yet.

        Raises:
            StoreError: the database is of another MLflow version, or cannot be opened.
        """
        if self._client is None:
            check_driver(self.uri)
            make = import_client()
            self._make_database()
            self.follow_move()
            try:
                with connectable(self.uri) as address:
                    client = make(address)
                    client.search_experiments(max_results=1)
            except Exception as error:  # MLflow lets SQLAlchemy's and the drivers' own errors through
                rule = f"the tracking store {self.uri} cannot be used: {one_line(error)}"
                raise StoreError(rule, remedy="choose another with tracking.uri or --store, or try again") from error
            self._client = client
        return self._client

    def _make_database(self) -> None:
        """First use is a race which can leave a database that nobody can open: so it is made in a temporary file, under
        a lock, and renamed when it is whole. Whatever a killed process left of that is thrown away. An empty file that
        is there is filled, not replaced: it may have links, a mode of its own, or be mounted."""
        if self.database is None or has_content(self.database):
            return
        with self.writing():
            if has_content(self.database):
                return
            file = self._file
            temporary = file.with_name(f".{file.name}.new")
            for end in ("", *BESIDE):
                leftover = regular_database(temporary.with_name(f"{temporary.name}{end}"))
                leftover.unlink(missing_ok=True)
            with connectable(sqlite_uri(temporary)) as address:
                make_database(address, (file.parent / ARTIFACTS).as_uri())
            if move_new(temporary, file):
                return
            if not has_content(file):
                with (
                    contextlib.closing(sqlite3.connect(temporary)) as source,
                    contextlib.closing(sqlite3.connect(file, timeout=30)) as target,
                ):
                    source.backup(target)  # one transaction: as a whole or not at all
            temporary.unlink()

    def follow_move(self) -> str:
        """Lets a database that was moved or copied name the files beside it; see `private.relocation`.

        Returns:
            A line for the user if that was so; else empty. A database that cannot be written stays as it is.
        """
        if self.database is None or not has_content(self.database):
            return ""
        database = self._file
        before = moved_from(database)
        if before is None:
            return ""
        with contextlib.suppress(sqlite3.Error, OSError), self.writing():
            follow_move(database)
            return (
                f"The store was moved or copied from {before} to {database.parent}: its records now name the files "
                "there, and what comes is written there."
            )
        return ""

    def experiment_id(self, name: str) -> str:
        """The id of an experiment, created if it is not there yet.

        Raises:
            StoreError: an experiment of that name has been deleted, which keeps its name taken.
        """
        from mlflow.exceptions import MlflowException

        client = self.client  # before the lock, which making the database takes too
        with self.writing():
            found = client.get_experiment_by_name(name)
            if found is None:
                artifacts = self.artifacts and (self.artifacts / as_folder(name)).as_uri()
                try:
                    return str(client.create_experiment(name, artifact_location=artifacts))
                except MlflowException:  # on a server somebody else may have been faster
                    found = client.get_experiment_by_name(name)
                    if found is None:
                        raise
        if found.lifecycle_stage != "active":
            raise StoreError(
                f"experiment {name!r} has been deleted from {self.uri}",
                remedy="restore it there, or choose another with tracking.experiment=NAME",
            )
        return str(found.experiment_id)

    def rows(self, sweep: str = "latest") -> list[Row]:
        """The runs that sweepstack recorded, oldest first.

        Args:
            sweep: the name of a sweep, "latest" for the one begun last, or "all" for every run.

        Raises:
            StoreError: the store is empty, or holds no such sweep.
        """
        if sweep not in ("latest", "all"):
            runs = self.runs(f"tags.`{member_tag(sweep)}` LIKE '%'")  # a store may have grown for years
            if runs and not self._has_older(sweep):
                return [row_of(run, sweep) for run in runs]
        runs = self.runs(OWN_RUNS)
        if not runs:
            raise self._without_trials()
        if sweep == "all":
            return [row_of(run) for run in runs]
        begun: dict[str, int] = {}
        for run in runs:
            for name, at in sweeps_of(run).items():
                begun[name] = max(at, begun.get(name, 0))
        if sweep == "latest":
            if not begun:
                raise StoreError(
                    f"the tracking store {self.uri} holds no sweep yet, only single runs",
                    remedy="use --sweep all",
                )
            sweep = newest(begun, time.time() * 1000)
        if sweep not in begun:
            raise StoreError(
                f"there is no sweep {sweep!r} in {self.uri}",
                remedy=did_you_mean(sweep, [*begun, "latest", "all"]),
            )
        return [row_of(run, sweep) for run in runs if sweep in sweeps_of(run)]

    def _without_trials(self) -> StoreError:
        """Why there are none, and what helps: they may be in the journal, or have been deleted."""
        rule = f"the tracking store {self.uri} holds no trials yet"
        waiting: Sequence[int] = ()
        with contextlib.suppress(StoreError, sqlite3.Error):
            waiting = Sessions(journal_folder(self.uri, None)).undelivered_sessions()
        if waiting:
            what = "a command waits" if len(waiting) == 1 else f"{len(waiting)} commands wait"
            return StoreError(
                f"{rule}: what was trained by {what} in the journal",
                remedy=f"type: {sweepstack_command('sync', self.uri)}",
            )
        if self.database is None or has_content(self.database):
            every = 3  # MLflow's ViewType.ALL: what is there and what has been deleted
            experiments = {one.experiment_id: one for one in self.client.search_experiments(view_type=every)}
            for run in self.client.search_runs([*experiments], OWN_RUNS, run_view_type=every, max_results=1):
                experiment = experiments[run.info.experiment_id]
                deleted = (
                    f"experiment {experiment.name!r} has" if experiment.lifecycle_stage != "active" else "they have"
                )
                rule += f", for {deleted} been deleted"
                return StoreError(rule, remedy="restore what was deleted with MLflow, or train others: python train.py")
        return StoreError(rule, remedy="train some: python train.py")

    def _has_older(self, sweep: str) -> bool:
        """Whether a sweep has runs of an earlier version, which are not found by its tag: its first run tells."""
        mark = "'" if "'" not in sweep else '"'
        if mark in sweep:  # MLflow's language has no way to write that
            return True
        first = self.runs(f"tags.`{SWEEP_TAG}` = {mark}{sweep}{mark}", only=1)
        return bool(first) and member_tag(sweep) not in first[0].data.tags

    def run_of(self, trial_id: str) -> str | None:
        """The run of a trial, if it was made."""
        runs = self.runs(f"tags.`{ID_TAG}` = '{trial_id}'")
        return runs[0].info.run_id if runs else None

    def runs(self, condition: str, only: int | None = None) -> list[Run]:
        """Runs that fulfil a condition in MLflow's language, oldest first; the first page of so many, or all."""
        if self.database is not None and not has_content(self.database):
            return []
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        runs: list[Run] = []
        token: str | None = ""
        with _without_collections():
            while token is not None:
                page = self.client.search_runs(
                    experiments,
                    filter_string=condition,
                    order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
                    max_results=only or PAGE,
                    page_token=token or None,
                )
                runs += page
                token = page.token or None if only is None else None
        return runs


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Nothing that is read becomes garbage in cycles, and to look for some, again and again in all that has been read,
    takes two thirds of the time for 10,000 runs."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def import_client() -> Callable[[str], MlflowClient]:
    """MLflow's client, which keeps to itself."""
    for name, value in CLIENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # only now: the import sets MLflow's own level
        logging.getLogger(name).setLevel(logging.ERROR)
    return lambda uri: MlflowClient(uri)
