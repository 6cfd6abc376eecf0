"""Opens the database of the ledger, a small sqlite file, and turns each of its errors into a one-line `StoreError`."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import Timeout

from sweepstack.errors import StoreError
from sweepstack.files.owner_only import close_to_others, make_file, make_folder
from sweepstack.journal.schema import SCHEMA_VERSION, prepare_connection, upgrade

MAX_SQL_VALUES = 500
"""The most values in one sqlite statement."""

JOURNAL_FILES = ("ledger.db*", "[0-9]*.jsonl", "[0-9]*.lock")
"""Patterns of the files in the folder of a journal."""
MACHINE_ERRORS = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
"""Errors of sqlite that do not mean that the file is damaged. Any other error, such as a missing table, does."""


@contextlib.contextmanager
def transaction(file: Path) -> Iterator[sqlite3.Connection]:
    """Runs the block as one transaction; no other process writes meanwhile. It makes the database if there is none.

    Raises:
        StoreError: the file cannot be used.
    """
    try:
        make_folder(file.parent)
    except OSError as error:
        raise StoreError(
            f"the journal's folder must be writable, {file.parent} cannot be made ({error.strerror})",
            remedy="choose another with tracking.journal=DIR",
        ) from error
    _close_to_others(file)
    with _opened(file) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            upgrade(database, _check_schema_version(database, file))
            yield database
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


@functools.cache
def _close_to_others(file: Path) -> None:
    """Closes the journal's files to other users, once in a process: they hold what the user has typed."""
    make_file(file)
    folder = file.parent
    own = folder.parent.name == "journal"  # else the user has chosen it, and it may hold other files
    close_to_others([folder, *(folder / name for name in ("checkpoints", "files", "damaged"))] if own else [])
    close_to_others(path for pattern in JOURNAL_FILES for path in folder.glob(pattern))


@contextlib.contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """Opens the database for reading.

    Raises:
        StoreError: the file cannot be used.
    """
    with _opened(file) as database:
        _check_schema_version(database, file)
        yield database


@contextlib.contextmanager
def scratch_copy(file: Path) -> Iterator[sqlite3.Connection]:
    """Opens a copy of the database in memory, upgraded to this version. What the block writes changes no file.

    Raises:
        StoreError: the file cannot be used.
    """
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)))
        prepare_connection(database)
        if file.exists():
            stack.enter_context(reading(file)).backup(database)
        upgrade(database, _check_schema_version(database, file))
        yield database


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as database:
            prepare_connection(database)
            yield database
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter if sqlite's message is damaged
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in MACHINE_ERRORS:
            raise _unusable(file, error) from error
        raise damaged(file, str(error)) from error
    except (OSError, Timeout) as error:
        raise _unusable(file, error) from error


def damaged(file: Path, how: str) -> StoreError:
    """Returns the error for a ledger that cannot be read."""
    return StoreError(
        f"the journal's ledger must be an sqlite file, {file} is damaged ({how})",
        remedy="delete it and run again: the journals beside it are recorded then, and interrupted trials begin again",
    )


def _unusable(file: Path, error: Exception) -> StoreError:
    return StoreError(
        f"the journal's ledger must be usable, {file} is not ({error})",
        remedy="make room, correct its permissions, or choose another folder with tracking.journal=DIR",
    )


def _check_schema_version(database: sqlite3.Connection, file: Path) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the journal must be of this version of sweepstack or an older one, {file} is of a newer one",
            remedy="update sweepstack, or choose another folder with tracking.journal=DIR",
        )
    return version


def batches(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cuts values into batches that are small enough for one sqlite statement."""
    for begin in range(0, len(values), MAX_SQL_VALUES):
        yield values[begin : begin + MAX_SQL_VALUES]
