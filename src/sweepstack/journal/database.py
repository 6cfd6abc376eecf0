"""The database of the ledger, a small sqlite file: made when it is needed; whatever is wrong with it is one line."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from sweepstack.errors import StoreError
from sweepstack.files.owner_only import close_to_others, make_file, make_folder
from sweepstack.journal.schema import SCHEMA_VERSION, prepare_connection, upgrade

JOURNAL_FILES = ("ledger.db*", "[0-9]*.jsonl", "[0-9]*.lock")
"""What lies in the folder of the journal."""
OF_THE_MACHINE = {
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
"""Errors that say nothing of what is in the file; any other one, such as a missing table, tells that it is damaged."""


@contextlib.contextmanager
def transaction(file: Path) -> Iterator[sqlite3.Connection]:
    """All that the block writes, or nothing of it; meanwhile nobody else writes.

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
    """Once in a process: a journal tells what was typed."""
    make_file(file)
    folder = file.parent
    own = folder.parent.name == "journal"  # else the user has named it, and other things of the user's may be in it
    close_to_others([folder, *(folder / name for name in ("checkpoints", "files", "damaged"))] if own else [])
    close_to_others(path for pattern in JOURNAL_FILES for path in folder.glob(pattern))


@contextlib.contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A look at what is there.

    Raises:
        StoreError: the file cannot be used.
    """
    with _opened(file) as database:
        _check_schema_version(database, file)
        yield database


@contextlib.contextmanager
def scratch_copy(file: Path) -> Iterator[sqlite3.Connection]:
    """What is there, if anything, in memory and of this version: what the block writes changes no file.

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
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of an error's own text
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in OF_THE_MACHINE:
            raise _unusable(file, error) from error
        raise damaged(file, str(error)) from error
    except (OSError, Timeout) as error:
        raise _unusable(file, error) from error


def damaged(file: Path, how: str) -> StoreError:
    """The mistake that a ledger cannot be read."""
    return StoreError(
        f"the journal's ledger must be an sqlite file, {file} is damaged ({how})",
        remedy="delete it and run again: what the journals beside it hold is recorded, what was interrupted begins "
        "again",
    )


def _unusable(file: Path, error: Exception) -> StoreError:
    return StoreError(
        f"the journal's ledger must be usable, {file} is not ({error})",
        remedy="make room or give leave to write there, or choose another folder with tracking.journal=DIR",
    )


def _check_schema_version(database: sqlite3.Connection, file: Path) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the journal must be of this version of sweepstack or an older one, {file} is of a newer one",
            remedy="update sweepstack, or choose another folder with tracking.journal=DIR",
        )
    return version
