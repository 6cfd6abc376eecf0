"""The address of a store: reads and checks it without MLflow, whose import takes seconds."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from sweepstack.config.names import URI_PATTERN
from sweepstack.errors import StoreError
from sweepstack.files.replacing import check_replaceable
from sweepstack.journal.files import resolve_folder
from sweepstack.masking import MASK, hide, lacks_secrets, reveal
from sweepstack.paths import began_in, project_root, typed_path
from sweepstack.tracking.private.tables import newer_schema

DRIVERS = {
    "postgresql+psycopg2": ("psycopg2", "psycopg2-binary"),
    "postgresql+psycopg": ("psycopg", "'psycopg[binary]'"),
    "postgresql+pg8000": ("pg8000", "pg8000"),
    **dict.fromkeys(("mysql", "mysql+mysqldb"), ("MySQLdb", "mysqlclient")),
    "mysql+pymysql": ("pymysql", "pymysql"),
    "mysql+mysqlconnector": ("mysql", "mysql-connector-python"),
    **dict.fromkeys(("mssql", "mssql+pyodbc"), ("pyodbc", "pyodbc")),
    "mssql+pymssql": ("pymssql", "pymssql"),
}
"""For the scheme of an address, the module of its driver and the package that contains it."""
SQLITE_HEADER = b"SQLite format 3\0"
"""The first bytes of an sqlite database."""
BESIDE = ("-journal", "-wal", "-shm")
"""What sqlite appends to the name of a database for the names of its other files."""


def default_uri() -> str:
    """Returns the address of the project's own store, mlruns/mlflow.db."""
    return sqlite_uri(project_root() / "mlruns" / "mlflow.db")


def sqlite_uri(database: Path) -> str:
    """Returns the address of a database file; special characters of addresses are written as %23 and so on."""
    return f"sqlite:///{re.sub('[?#%]', lambda sign: quote(sign[0]), database.as_posix())}"


def resolve_uri(uri: str | None) -> str:
    """Returns the tracking URI with masked secrets: `uri`, else MLFLOW_TRACKING_URI, else the project's own store.

    A relative sqlite path begins in the current folder, as for MLflow.

    Raises:
        StoreError: the address is a folder, which MLflow 3 refuses, or is incomplete, or has a masked secret that is
            not known.
    """
    of_environment = hide(os.environ.get("MLFLOW_TRACKING_URI") or "")  # always, so that its secrets are known
    uri = hide(uri) if uri else of_environment or default_uri()
    if lacks_secrets(uri):
        raise StoreError(
            "the address of a store must have its password",
            uri,
            f"write it instead of {MASK}, or set MLFLOW_TRACKING_URI to the whole address",
        )
    remedy = "for example sqlite:///mlruns/mlflow.db or http://127.0.0.1:5000"
    address = urlsplit(uri)
    if not re.match(URI_PATTERN, uri):
        raise StoreError(
            f"the tracking store must be a database or a server, got {uri!r}",
            remedy=remedy,
        )
    if address.scheme == "sqlite":
        path = uri.removeprefix("sqlite:///")
        if path == uri or not path or "?" in path:
            raise StoreError("an sqlite store must be sqlite:///FILE, a ? in it written as %3F", uri, remedy)
        return sqlite_uri(began_in() / unquote(path))
    try:
        complete = address.scheme not in ("http", "https") or (bool(address.hostname) and address.port != 0)
    except ValueError:  # the port is not a number
        complete = False
    if not complete:
        raise StoreError(
            f"the tracking server must have a host and a port that is a number, got {uri!r}",
            remedy=remedy,
        )
    return uri


def database_of(uri: str) -> Path | None:
    """Returns the file of an sqlite store; None for any other kind."""
    return Path(unquote(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:///") else None


@contextlib.contextmanager
def connectable(uri: str) -> Iterator[str]:
    """Yields the address with its secrets, for MLflow to connect. Do not write it into any record, message or log.

    MLflow creates the folder of a database before it decodes %23 and so on in its path. The end of the block removes
    the wrong folders.
    """
    database = database_of(uri)
    if database is None:
        yield reveal(uri)
        return
    if not set("?#%") & {*str(database)}:
        yield f"sqlite:///{database.as_posix()}"
        return
    from sqlalchemy import URL  # its versions write such an address differently

    address = URL.create("sqlite", database=database.as_posix()).render_as_string(hide_password=False)
    misread = Path(address.removeprefix("sqlite:///")).parent
    made = [folder for folder in (misread, *misread.parents) if not folder.exists()]
    try:
        yield address
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def own_options(uri: str | None, journal: str | Path | None = None) -> list[str]:
    """Returns the options that make a command of `sweepstack` use this store, typed in the current folder.

    The project's own store needs none; any other one is named so that it is found from any folder.

    Args:
        uri: see `resolve_uri`.
        journal: the folder of the journal, if the command has `--journal` and the user chose one.
    """
    store, default = resolve_uri(uri), default_uri()
    found = store == default == resolve_uri(None)
    options = [] if found else ["--store", store]
    if journal is None or (folder := chosen_folder(journal)) == journal_folder(store, None):
        return options
    return [*options, "--journal", str(folder)]


def journal_folder(uri: str, chosen: str | None) -> Path:
    """Returns the folder of a store's journal: `chosen`, else beside its database, else in the project's mlruns."""
    return chosen_folder(chosen) if chosen else resolve_folder(database_of(uri), uri, project_root(), None)


def chosen_folder(journal: str | Path) -> Path:
    """Returns the absolute path of the journal's folder that the user chose."""
    return Path(os.path.abspath(typed_path(journal)))


def sweepstack_command(name: str, uri: str | None, journal: str | Path | None = None) -> str:
    """Returns the text of a command of `sweepstack` that works in the current folder, such as "sweepstack sync".

    Args:
        name: the name of the command.
        uri: see `resolve_uri`.
        journal: see `own_options`.
    """
    return shlex.join(["sweepstack", name, *own_options(uri, journal)])


def has_content(database: Path) -> bool:
    """Whether a database exists and is not an empty file.

    Raises:
        StoreError: the path is not a regular file.
    """
    regular_database(database)
    return database.exists() and database.stat().st_size > 0


def regular_database(database: Path) -> Path:
    """Returns the path of a database with resolved links; the file may not exist yet.

    Raises:
        StoreError: the path is not a regular file, so it must not be read or replaced.
    """
    remedy = "choose another with tracking.uri=sqlite:///FILE"
    return check_replaceable(database, "the database of a tracking store", remedy, StoreError)


def check_readable(database: Path) -> None:
    """Checks that sqlite can open an existing database: one in WAL mode needs two files beside it, even to be read.

    Raises:
        StoreError: they are missing, and cannot be made.
    """
    with database.open("rb") as stream:
        is_wal = stream.read(20)[18:] == b"\2\2"  # the versions of the file format, for writing and for reading
    if not is_wal or os.access(database.parent, os.W_OK):
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
            opened.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        raise StoreError(
            "a database in WAL mode must lie in a folder that can be written to, even to be read",
            str(database),
            f"copy it to such a folder, or type where it can be written: sqlite3 {shlex.quote(database.name)} "
            "'PRAGMA journal_mode=delete'",
        ) from error


def check_store(uri: str) -> str | None:
    """Checks quickly that a store can be used: a folder is writable, a host has an address.

    Returns:
        A line for the user if a server does not answer now, because it may answer later.

    Raises:
        StoreError: the store cannot be used.
    """
    database = database_of(uri)
    if database is None:
        check_driver(uri)
        return _check_server(uri)
    _check_database(database)
    return None


def check_driver(uri: str) -> None:
    """Checks that the driver of a database is installed. SQLAlchemy imports it only when it connects.

    Raises:
        StoreError: the driver is not installed.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "postgresql":
        version = tuple(int(part) for part in importlib.metadata.version("sqlalchemy").split(".")[:2])
        scheme = "postgresql+psycopg" if version >= (2, 1) else "postgresql+psycopg2"  # SQLAlchemy's default
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
    file = regular_database(database)
    for end in (".lock", *BESIDE):
        regular_database(file.with_name(f"{file.name}{end}"))
    if has_content(database):
        writable = writable and os.access(database, os.W_OK)
        with database.open("rb") as stream:
            if stream.read(len(SQLITE_HEADER)) != SQLITE_HEADER:
                raise StoreError(
                    f"{database} must be an sqlite database, which it is not",
                    remedy=choose,
                )
        _check_mlflow_version(database)
    if not writable:
        raise StoreError(
            f"the tracking store must be writable, got {database}",
            remedy=choose,
        )


def _check_mlflow_version(database: Path) -> None:
    """Refuses a database of a newer MLflow, which MLflow itself would refuse only after the training."""
    schema = newer_schema(database)
    if schema is not None:
        raise StoreError(
            f"the tracking store must be of MLflow {importlib.metadata.version('mlflow')} or an older one, "
            f"{database} is of a newer one (schema {schema})",
            remedy="update mlflow, or choose another store with tracking.uri=sqlite:///FILE",
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
            f"the tracking server must have a host that is known, got {uri} ({error.strerror})",
            remedy="correct tracking.uri or MLFLOW_TRACKING_URI, or leave them unset to use the project's own store",
        ) from error
    except OSError as error:
        return (
            f"The tracking server {uri} does not answer ({error.strerror or error}). Training goes on; "
            "the journal keeps all records until they can be delivered."
        )
    return None
