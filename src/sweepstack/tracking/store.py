"""The MLflow store: where it is, its safe first use, its experiments, and its runs as rows."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import logging
import math
import os
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from filelock import FileLock

from sweepstack.config import URI_PATTERN
from sweepstack.errors import StoreError, did_you_mean, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from sqlalchemy import Connection

VERSION_TAG, SWEEP_TAG, REASON_TAG, TRAINED_TAG = "sweepstack.version", "sweep", "reason", "trained"
FINGERPRINT_TAG, LOG_TAG, RECOMPOSED_TAG = "fingerprint", "log", "recomposed"
ID_TAG = "sweepstack.trial"
"""What a run is found by when it is not known whether it was made."""
SETTLED_TAG = "sweepstack.settled"
"""Holds the fingerprint, once its outcome is settled."""
OURS = f"tags.`{VERSION_TAG}` LIKE '%'"
"""What a run of ours is known by, in MLflow's language."""
OBJECTIVES = ("val/accuracy", "test/accuracy")
"""Metrics that select, the one to prefer first: test data selects only where nothing was held out."""
PAGE = 1000
SQLITE_HEADER = b"SQLite format 3\0"
LARGEST = 1.7976931348623157e308

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # 7 block for minutes when a server is gone; and who repeats must know it
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def project_root() -> Path:
    """The project whose store is used when no other is named: the checkout that this package runs from, else the
    nearest folder upwards from the current one that has a conf/config.yaml, else the current one."""
    here = Path.cwd()
    for folder in (Path(__file__).absolute().parents[3], here, *here.parents):
        if (folder / "conf" / "config.yaml").is_file():
            return folder
    return here


def resolve_uri(uri: str | None) -> str:
    """The tracking URI: as given, else MLFLOW_TRACKING_URI, else mlruns/mlflow.db of the project. A relative sqlite
    path is taken from the project's root, so that every working directory has the same store.

    Raises:
        StoreError: it names a folder, which MLflow 3 refuses, or is not a whole address.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlruns/mlflow.db"
    remedy = "for example sqlite:///mlruns/mlflow.db or http://127.0.0.1:5000"
    address = urlsplit(uri)
    if not re.match(URI_PATTERN, uri):
        raise StoreError(f"the tracking store must be a database or a server, got {uri!r}; {remedy}")
    if address.scheme == "sqlite":
        path = uri.removeprefix("sqlite:///")
        if path == uri or not path or set("?#%") & set(path):
            raise StoreError(f"an sqlite store must be sqlite:///FILE without any of ? # %, got {uri!r}; {remedy}")
        return f"sqlite:///{project_root() / path}"
    try:
        complete = address.scheme not in ("http", "https") or (bool(address.hostname) and address.port != 0)
    except ValueError:  # the port is no number
        complete = False
    if not complete:
        raise StoreError(f"the tracking server must have a host and a port that is a number, got {uri!r}; {remedy}")
    return uri


@dataclass(frozen=True)
class Row:
    """One run of the store."""

    run_id: str
    name: str
    experiment_id: str
    sweep: str | None
    state: str
    """FINISHED, FAILED, KILLED or RUNNING."""
    reason: str
    log: str
    """Path of the trial's own log file, on the machine that trained it."""
    started: int
    """Milliseconds since the epoch."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]


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
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    def check(self) -> str | None:
        """That the store can be had, as far as a moment can tell: a folder can be written to, a host has an address.

        Returns:
            A line for the user when a server does not answer now; it may later.

        Raises:
            StoreError: it cannot be had.
        """
        choose = "choose another with tracking.uri=sqlite:///FILE"
        if self.database is not None:
            folder = next(parent for parent in self.database.parents if parent.exists())
            writable = folder.is_dir() and os.access(folder, os.W_OK)
            if self.database.is_dir():
                raise StoreError(f"{self.database} must be an sqlite database, it is a folder; {choose}")
            if _has_content(self.database):
                writable = writable and os.access(self.database, os.W_OK)
                with self.database.open("rb") as stream:
                    if stream.read(len(SQLITE_HEADER)) != SQLITE_HEADER:
                        raise StoreError(f"{self.database} must be an sqlite database, it is none; {choose}")
                self._check_version(self.database)
            if not writable:
                raise StoreError(f"the tracking store must be writable, got {self.database}; {choose}")
            return None
        address = urlsplit(self.uri)
        if address.scheme in ("http", "https") and address.hostname:
            port = address.port or {"http": 80, "https": 443}[address.scheme]
            try:
                socket.create_connection((address.hostname, port), timeout=5).close()
            except socket.gaierror as error:
                raise StoreError(
                    f"the tracking server must have a host that is known, got {self.uri} ({error.strerror}); correct "
                    "tracking.uri or MLFLOW_TRACKING_URI, or leave them unset to use the project's own store"
                ) from error
            except OSError as error:
                return (
                    f"The tracking server {self.uri} does not answer ({error.strerror or error}). Training goes on; "
                    "the journal keeps all records until they can be delivered."
                )
        return None

    def _check_version(self, database: Path) -> None:
        """A database of a newer MLflow, which this one could only refuse when everything is trained."""
        spec = importlib.util.find_spec("mlflow")
        assert spec is not None
        assert spec.origin is not None
        steps = Path(spec.origin).parent / "store" / "db_migrations" / "versions"
        try:
            with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
                found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.Error:  # no tables yet, or locked just now: MLflow will tell
            return
        known = {file.name.split("_")[0] for file in steps.glob("*.py")}
        if known and not {version for (version,) in found} <= known:
            raise StoreError(
                f"the tracking store must be of MLflow {importlib.metadata.version('mlflow')} or an older one, "
                f"{database} is of a newer one (schema {found[0][0]}); update mlflow, or choose another store with "
                "tracking.uri=sqlite:///FILE"
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time on an sqlite file, whatever the number of processes; servers see to it themselves."""
        if self.database is None:
            yield
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.database}.lock"):
            yield

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Writes all that the block writes through the client at once, or nothing of it; servers have no such thing and
        take request by request. MLflow commits about twelve times for a trial, and each commit waits for the disk."""
        if self.database is None:
            yield
            return
        from sqlalchemy.orm import Session

        store = self.client._tracking_client.store  # before the lock, which making the database takes too
        with self.writing(), store.engine.connect() as connection:
            # What MLflow sets for each session, and foreign keys not inside a transaction.
            for setting in ("foreign_keys = ON", "busy_timeout = 20000", "case_sensitive_like = true"):
                connection.exec_driver_sql(f"PRAGMA {setting}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")

            @contextlib.contextmanager
            def session(read_only: bool = True) -> Iterator[Session]:
                self._check_whole(connection)
                with Session(connection, join_transaction_mode="create_savepoint") as session:
                    yield session
                    session.commit()

            of_mlflow, store.ManagedSessionMaker = store.ManagedSessionMaker, session
            try:
                yield
                self._check_whole(connection)
                connection.commit()
            finally:
                store.ManagedSessionMaker = of_mlflow

    def _check_whole(self, connection: Connection) -> None:
        """A full disk, for one, makes sqlite undo a transaction on its own; what follows would be written piecemeal."""
        sqlite: Any = connection.connection.driver_connection
        if not sqlite.in_transaction:
            raise StoreError(f"{self.uri} has undone what was being written, the disk may be full; make room")

    def load(self) -> None:
        """Imports what the client needs, which takes seconds, and opens the database if there is one; creates nothing.

        Raises:
            StoreError: see `client`.
        """
        if self.database is None or _has_content(self.database):
            _ = self.client
        else:
            _import_client()
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, with the database made if it is not there yet.

        Raises:
            StoreError: the database is of another MLflow version, or cannot be opened.
        """
        if self._client is None:
            make = _import_client()
            self._make_database()
            try:
                client = make(self.uri)
                client.search_experiments(max_results=1)
            except Exception as error:  # MLflow lets SQLAlchemy's and the drivers' own errors through
                raise StoreError(f"the tracking store {self.uri} cannot be used: {one_line(error)}") from error
            self._client = client
        return self._client

    def _make_database(self) -> None:
        """First use is a race which can leave a database that nobody can open: so it is made aside, under a lock, and
        renamed when it is whole. Whatever a killed process left aside is thrown away."""
        if self.database is None or _has_content(self.database):
            return
        with self.writing():
            if _has_content(self.database):
                return
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            aside = self.database.with_name(f".{self.database.name}.new")
            for leftover in aside.parent.glob(f"{aside.name}*"):
                leftover.unlink()
            made = SqlAlchemyStore(f"sqlite:///{aside}", (self.database.parent / "artifacts").as_uri())
            made.engine.dispose()
            os.replace(aside, self.database)

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
                artifacts = self.database and (self.database.parent / "artifacts" / quote(name, safe="")).as_uri()
                try:
                    return str(client.create_experiment(name, artifact_location=artifacts))
                except MlflowException:  # on a server somebody else may have been faster
                    found = client.get_experiment_by_name(name)
                    if found is None:
                        raise
        if found.lifecycle_stage != "active":
            raise StoreError(
                f"experiment {name!r} has been deleted from {self.uri}; restore it there, or choose another with "
                "tracking.experiment=NAME"
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
            if runs:
                return [row_of(run, sweep) for run in runs]
        runs = self.runs(OURS)
        if not runs:
            raise StoreError(f"the tracking store {self.uri} holds no trials yet; train some: python train.py")
        if sweep == "all":
            return [row_of(run) for run in runs]
        begun: dict[str, int] = {}
        for run in runs:
            for name, at in _sweeps(run).items():
                begun[name] = max(at, begun.get(name, 0))
        if sweep == "latest":
            if not begun:
                raise StoreError(f"the tracking store {self.uri} holds no sweep yet, only single runs; use --sweep all")
            sweep = max(begun, key=lambda name: begun[name])
        if sweep not in begun:
            raise StoreError(
                f"there is no sweep {sweep!r} in {self.uri}; {did_you_mean(sweep, [*begun, 'latest', 'all'])}"
            )
        return [row_of(run, sweep) for run in runs if sweep in _sweeps(run)]

    def run_of(self, trial_id: str) -> str | None:
        """The run of a trial, if it was made."""
        runs = self.runs(f"tags.`{ID_TAG}` = '{trial_id}'")
        return runs[0].info.run_id if runs else None

    def runs(self, condition: str) -> list[Run]:
        """Runs that fulfil a condition in MLflow's language, oldest first."""
        if self.database is not None and not _has_content(self.database):
            return []
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        runs: list[Run] = []
        token: str | None = ""
        while token is not None:
            page = self.client.search_runs(
                experiments,
                filter_string=condition,
                order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
                max_results=PAGE,
                page_token=token or None,
            )
            runs += page
            token = page.token or None
        return runs

    def link(self, row: Row, host: str = "http://127.0.0.1:5000") -> str:
        """The address in MLflow's UI that compares the runs of a row's sweep as charts, the best first, in the view
        that is made for training."""
        objective = next((key for key in OBJECTIVES if key in row.metrics), OBJECTIVES[0])
        query = {
            "searchFilter": f"tags.`{member_tag(row.sweep)}` LIKE '%'" if row.sweep is not None else "",
            "orderByKey": f"metrics.`{objective}`",
            "orderByAsc": "false",
            "compareRunsMode": "CHART",
            "workflowType": "machine_learning",
        }
        server = self.uri if self.uri.startswith("http") else host
        return f"{server.rstrip('/')}/#/experiments/{row.experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def member_tag(sweep: str) -> str:
    """The tag of all runs of a sweep, those among them which an earlier sweep has trained; its value tells since when,
    in milliseconds since the epoch, and the sweep's name. MLflow does not take every name for a key."""
    plain = re.sub(r"[^\w.\- ]", "_", sweep)
    mark = "" if plain == sweep else f"-{hashlib.blake2b(sweep.encode(), digest_size=3).hexdigest()}"
    return f"{SWEEP_TAG}/{plain}{mark}"


def _sweeps(run: Run) -> dict[str, int]:
    """The sweeps that a run is of, and since when, in milliseconds since the epoch."""
    tags = run.data.tags
    found = {}
    for key, value in tags.items():
        if key.startswith(f"{SWEEP_TAG}/"):
            at, _, name = value.partition(" ")
            found[name] = int(at)
    if not found and SWEEP_TAG in tags:  # of an earlier version
        found[tags[SWEEP_TAG]] = run.info.start_time
    return found


def row_of(run: Run, sweep: str | None = None) -> Row:
    """A run as a row, of that sweep; of the one that trained it, when none is told."""
    tags = run.data.tags
    return Row(
        run_id=run.info.run_id,
        name=run.info.run_name,
        experiment_id=run.info.experiment_id,
        sweep=sweep or tags.get(SWEEP_TAG),
        state=run.info.status,
        reason=tags.get(REASON_TAG, ""),
        log=tags.get(LOG_TAG, ""),
        started=run.info.start_time,
        params=run.data.params,
        metrics={key: _finite_or_not(value) for key, value in run.data.metrics.items()},
    )


def _finite_or_not(value: float) -> float:
    """MLflow's databases keep infinity as the largest number that they have."""
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value


def _has_content(database: Path) -> bool:
    return database.exists() and database.stat().st_size > 0


def _import_client() -> Callable[[str], MlflowClient]:
    """MLflow's client, which keeps to itself."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # only now: the import sets MLflow's own level
        logging.getLogger(name).setLevel(logging.ERROR)
    return lambda uri: MlflowClient(uri)
