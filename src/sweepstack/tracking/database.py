"""The database of the ledger, a small sqlite file: made when it is needed; whatever is wrong with it is one line."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from sweepstack.errors import StoreError
from sweepstack.tracking.entries import SCHEMA, VERSION


@contextlib.contextmanager
def transaction(file: Path) -> Iterator[sqlite3.Connection]:
    """All that the block writes, or nothing of it; meanwhile nobody else writes.

    Raises:
        StoreError: the file cannot be used.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the journal's folder must be writable, {file.parent} cannot be made ({error.strerror}); choose another "
            "with tracking.journal=DIR"
        ) from error
    with _opened(file) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            if _check_version(database, file) == 0:
                for statement in SCHEMA.split(";\n"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")
            yield database
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A look at what is there.

    Raises:
        StoreError: the file cannot be used.
    """
    with _opened(file) as database:
        _check_version(database, file)
        yield database


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    another = "make room or give leave to write there, or choose another folder with tracking.journal=DIR"
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as database:
            yield database
    except sqlite3.DatabaseError as error:
        damaged = "malformed" in str(error) or "not a database" in str(error)
        raise StoreError(
            f"the journal's ledger must be an sqlite file, {file} is damaged ({error}); delete it and run again: what "
            "the journals beside it hold is recorded, what was interrupted begins anew"
            if damaged
            else f"the journal's ledger must be usable, {file} is not ({error}); {another}"
        ) from error
    except (OSError, Timeout) as error:
        raise StoreError(f"the journal's ledger must be usable, {file} is not ({error}); {another}") from error


def _check_version(database: sqlite3.Connection, file: Path) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreError(
            f"the journal must be of this version of sweepstack or an older one, {file} is of a newer one; update "
            "sweepstack, or choose another folder with tracking.journal=DIR"
        )
    return version
