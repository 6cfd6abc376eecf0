"""Where a store is, and whether it can be had: known before MLflow is imported, which takes seconds."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import socket
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

from sweepstack.config import URI_PATTERN
from sweepstack.errors import StoreError

DRIVERS = {
    **dict.fromkeys(("postgresql", "postgresql+psycopg2"), ("psycopg2", "psycopg2-binary")),
    "postgresql+psycopg": ("psycopg", "'psycopg[binary]'"),
    "postgresql+pg8000": ("pg8000", "pg8000"),
    **dict.fromkeys(("mysql", "mysql+mysqldb"), ("MySQLdb", "mysqlclient")),
    "mysql+pymysql": ("pymysql", "pymysql"),
    "mysql+mysqlconnector": ("mysql", "mysql-connector-python"),
    **dict.fromkeys(("mssql", "mssql+pyodbc"), ("pyodbc", "pyodbc")),
    "mssql+pymssql": ("pymssql", "pymssql"),
}
"""By the scheme of an address: the module that it needs, and the package that brings it."""
SQLITE_HEADER = b"SQLite format 3\0"


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


def database_of(uri: str) -> Path | None:
    """The file of an sqlite store; None for any other kind."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def has_content(database: Path) -> bool:
    """Whether there is a database, and not an empty file that something has left."""
    return database.exists() and database.stat().st_size > 0


def check(uri: str) -> str | None:
    """That a store can be had, as far as a moment can tell: a folder can be written to, a host has an address.

    Returns:
        A line for the user when a server does not answer now; it may later.

    Raises:
        StoreError: it cannot be had.
    """
    database = database_of(uri)
    if database is None:
        check_driver(uri)
        return _check_server(uri)
    _check_database(database)
    return None


def check_driver(uri: str) -> None:
    """That the driver of a database is installed, which SQLAlchemy imports only when it connects.

    Raises:
        StoreError: it is not.
    """
    scheme = urlsplit(uri).scheme
    module, package = DRIVERS.get(scheme, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise StoreError(
            f"a store at {scheme}:// needs the driver {module}, which is not installed",
            remedy=f"type: pip install {package}",
        )


def _check_database(database: Path) -> None:
    choose = "choose another with tracking.uri=sqlite:///FILE"
    folder = next(parent for parent in database.parents if parent.exists())
    writable = folder.is_dir() and os.access(folder, os.W_OK)
    if database.is_dir():
        raise StoreError(f"{database} must be an sqlite database, it is a folder; {choose}")
    if has_content(database):
        writable = writable and os.access(database, os.W_OK)
        with database.open("rb") as stream:
            if stream.read(len(SQLITE_HEADER)) != SQLITE_HEADER:
                raise StoreError(f"{database} must be an sqlite database, it is none; {choose}")
        _check_version(database)
    if not writable:
        raise StoreError(f"the tracking store must be writable, got {database}; {choose}")


def _check_version(database: Path) -> None:
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


def _check_server(uri: str) -> str | None:
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or not address.hostname:
        return None
    port = address.port or {"http": 80, "https": 443}[address.scheme]
    try:
        socket.create_connection((address.hostname, port), timeout=5).close()
    except socket.gaierror as error:
        raise StoreError(
            f"the tracking server must have a host that is known, got {uri} ({error.strerror}); correct "
            "tracking.uri or MLFLOW_TRACKING_URI, or leave them unset to use the project's own store"
        ) from error
    except OSError as error:
        return (
            f"The tracking server {uri} does not answer ({error.strerror or error}). Training goes on; "
            "the journal keeps all records until they can be delivered."
        )
    return None
