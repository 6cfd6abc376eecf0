"""The MLflow store: makes its database safely, and reads its experiments and runs."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from sweepstack.config.names import as_folder
from sweepstack.errors import StoreError, did_you_mean, one_line
from sweepstack.files.replacing import move_new
from sweepstack.tracking.address import (
    BESIDE,
    check_driver,
    check_readable,
    check_store,
    connectable,
    database_of,
    default_uri,
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
from sweepstack.tracking.private.run_tables import StoredRun, find_runs
from sweepstack.tracking.runs_as_rows import ID_TAG, OWN_RUNS, SWEEP_TAG, Row, member_tag, newest, row_of, sweeps_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection

OLDER_TABLES = "out-of-date database schema"
"""Words of MLflow's error about tables that an older version has made."""
PAGE = 1000
"""Runs or experiments in one request to MLflow."""


class Store:
    """A tracking store. It imports MLflow, creates the database and connects only when that is necessary.

    Args:
        uri: an MLflow tracking URI; None for the default, see `resolve_uri`.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = resolve_uri(uri)
        self._client: MlflowClient | None = None
        self._followed_move = False

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
        """The file of an sqlite store, with resolved links.

        Raises:
            StoreError: it is not a regular file.
        """
        assert self.database is not None
        return regular_database(self.database)

    @property
    def tables(self) -> Path | None:
        """The file of an sqlite store, to read it by SQL; see `private.run_tables`. None if the client has to be asked.

        That saves the import of the client, so it is None once the client is open: it alone sees what a transaction has
        not committed.
        """
        if self.database is None or self._client is not None:
            return None
        if not self._followed_move:
            self.follow_move()
            self._followed_move = True
        return self._file

    def check(self) -> str | None:
        """Checks quickly that the store can be used; see `address.check_store`."""
        return check_store(self.uri)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the lock of an sqlite store, so that one process at a time writes. Servers need no lock."""
        if self.database is None:
            yield
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock"):
            yield

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Writes everything that the block writes to an sqlite store in one transaction, or nothing.

        MLflow itself commits about twelve times for a trial, and each commit waits for the disk. A server has no such
        transactions and gets one request after the other.
        """
        if self.database is None:
            yield
            return
        client = self.client  # before the lock, because making the database needs the lock, too
        with self.writing(), one_transaction(client, self._check_whole):
            yield

    def _check_whole(self, connection: Connection) -> None:
        """Checks that the transaction exists: sqlite itself undoes it, for example if the disk is full.

        Without the check, each later write would be a transaction of its own.
        """
        sqlite: Any = connection.connection.driver_connection
        if not sqlite.in_transaction:
            raise StoreError(
                f"{self.uri} has undone the last records, the disk may be full",
                remedy="make room",
            )

    def load(self) -> None:
        """Imports what the client needs, which takes seconds, and opens an existing database; creates nothing.

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
        """MLflow's client. Its first use makes the database if it does not exist yet.

        Raises:
            StoreError: another MLflow version made the database, or it cannot be opened; see `address.check_readable`.
        """
        if self._client is None:
            check_driver(self.uri)
            if self.database is not None and has_content(self.database):
                check_readable(self._file)
            make = import_client()
            self._make_database()
            self.follow_move()
            try:
                with connectable(self.uri) as address:
                    client = make(address)
                    client.search_experiments(max_results=1)
            except Exception as error:  # MLflow does not convert the errors of SQLAlchemy and of drivers
                if OLDER_TABLES in str(error):
                    rule = f"the tables of the tracking store {self.uri} are those of an older MLflow"
                    remedy = f"make a copy of it, then type: mlflow db upgrade {shlex.quote(self.uri)}"
                    raise StoreError(rule, remedy=remedy) from error
                rule = f"the tracking store {self.uri} cannot be used: {one_line(error)}"
                raise StoreError(rule, remedy="choose another with tracking.uri or --store, or try again") from error
            self._client = client
        return self._client

    def _make_database(self) -> None:
        """Makes the database under a lock, in a temporary file that is renamed when it is complete.

        Two processes that make it at once could leave a database that nobody can open. What a killed process has left
        is removed. An existing empty file is filled and not replaced: it may have links or a mode, or be mounted.
        """
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
                    source.backup(target)  # in one transaction
            temporary.unlink()

    def follow_move(self) -> str:
        """Corrects the addresses in a database that was moved or copied; see `private.relocation`.

        Returns:
            A line for the user if anything was corrected; else an empty text, for example if the database is read-only.
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
                "there, and new files are written there."
            )
        return ""

    def experiment_id(self, name: str) -> str:
        """Returns the id of an experiment; creates the experiment if it does not exist yet.

        Raises:
            StoreError: the experiment is deleted, and nothing else can have its name.
        """
        from mlflow.exceptions import MlflowException

        client = self.client  # before the lock, which making the database takes too
        with self.writing():
            found = client.get_experiment_by_name(name)
            if found is None:
                artifacts = self.artifacts and (self.artifacts / as_folder(name)).as_uri()
                try:
                    return str(client.create_experiment(name, artifact_location=artifacts))
                except MlflowException:  # another user of the server may have been faster
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
        """Returns the runs that sweepstack recorded, oldest first.

        Args:
            sweep: the name of a sweep, "latest" for the sweep that began last, or "all" for every run.

        Raises:
            StoreError: the store is empty, or has no such sweep.
        """
        if sweep not in ("latest", "all"):
            runs = self.runs(f"tags.`{member_tag(sweep)}` LIKE '%'")  # fast in a store with many other runs
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
        """Makes the error for a store without trials: they may still be in the journal, or be deleted."""
        from sweepstack.journal.sessions import Sessions

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
        if self.database is not None and not self.database.exists() and self.uri != default_uri():
            return StoreError(f"{rule}, there is no such file", remedy="correct its address, or train some with it")
        if self.database is None or has_content(self.database):
            every = 3  # MLflow's ViewType.ALL: active and deleted ones
            experiments = {one.experiment_id: one for one in self.client.search_experiments(view_type=every)}
            for run in self.client.search_runs([*experiments], OWN_RUNS, run_view_type=every, max_results=1):
                experiment = experiments[run.info.experiment_id]
                deleted = (
                    f"experiment {experiment.name!r} has" if experiment.lifecycle_stage != "active" else "they have"
                )
                rule += f", because {deleted} been deleted"
                return StoreError(rule, remedy="restore what was deleted with MLflow, or train others: python train.py")
        return StoreError(rule, remedy="train some: python train.py")

    def _has_older(self, sweep: str) -> bool:
        """Whether a sweep has runs of an earlier version, which lack the tag of the sweep: its first run shows it."""
        mark = "'" if "'" not in sweep else '"'
        if mark in sweep:  # MLflow's filters cannot quote both marks
            return True
        first = self.runs(f"tags.`{SWEEP_TAG}` = {mark}{sweep}{mark}", only=1)
        return bool(first) and member_tag(sweep) not in first[0].data.tags

    def run_of(self, trial_id: str) -> str | None:
        """Returns the id of a trial's run; None if there is no run."""
        runs = self.runs(f"tags.`{ID_TAG}` = '{trial_id}'")
        return runs[0].info.run_id if runs else None

    def runs(self, condition: str, only: int | None = None) -> list[StoredRun]:
        """Returns the runs that match a filter, oldest first; by SQL if it can be.

        Args:
            condition: a filter in MLflow's language.
            only: the number of runs to return at most; None for all.
        """
        if self.database is not None and not has_content(self.database):
            return []
        with without_collections():
            if self.tables is not None and (found := find_runs(self.tables, condition, only)) is not None:
                return found
            return self._ask_client(condition, only)

    def _ask_client(self, condition: str, only: int | None) -> list[StoredRun]:
        experiments: list[str] = []
        runs: list[StoredRun] = []
        token: str | None = ""
        while token is not None:
            some = self.client.search_experiments(max_results=PAGE, page_token=token or None)
            experiments += [experiment.experiment_id for experiment in some]
            token = some.token or None
        token = ""
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
def without_collections() -> Iterator[None]:
    """Disables garbage collection in the block: it takes two thirds of the time to read 10,000 runs, and a sixth of the
    time to make a report.

    Reading creates no reference cycles, and the figures of a report are few.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def import_client() -> Callable[[str], MlflowClient]:
    """Imports MLflow's client, and sets MLflow to log errors only and to send no telemetry."""
    for name, value in CLIENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets MLflow's own level
        logging.getLogger(name).setLevel(logging.ERROR)
    return lambda uri: MlflowClient(uri)
