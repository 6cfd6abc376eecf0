"""A store that was moved or copied: MLflow keeps absolute addresses of files, which then name the old place.

A copy would write into the original, and the artifacts of a moved store would not be found. So the addresses in its
database follow it. Where a database was made is known from the address of MLflow's experiment 0, which no user chooses.
There is no public way: MLflow's client changes no address.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "artifacts"
"""The folder beside a database."""
OF_FILES = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns that hold addresses of files which exist already."""


def moved_from(database: Path) -> Path | None:
    """The folder in which an sqlite store was made or used last, if it lies in another one now. A folder that is only
    spelt otherwise, such as through a link, is the same."""
    with (
        contextlib.suppress(sqlite3.Error, OSError),
        contextlib.closing(sqlite3.connect(database, timeout=30)) as opened,
    ):
        home = _home(opened)
        if home is not None and not _is_beside(home, database):
            return _path_of(home).parent
    return None


def follow_move(database: Path) -> None:
    """Lets the addresses in a moved or copied database name the files beside it, in one transaction. An address of a
    file that did not come along, and is still at the old place, stays. Call it with the lock of the store held.

    Raises:
        sqlite3.Error: the database cannot be written.
    """
    new = (database.parent / ARTIFACTS).as_uri()
    with contextlib.closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as opened:
        opened.execute("BEGIN IMMEDIATE")
        home = _home(opened)
        if home is None or _is_beside(home, database):  # another process was faster
            opened.execute("ROLLBACK")
            return
        for table, column in OF_FILES:
            try:
                found = opened.execute(f"SELECT rowid, {column} FROM {table} WHERE {column} LIKE 'file:%'").fetchall()
            except sqlite3.OperationalError:  # an older MLflow has no such table
                continue
            changed = [(f"{new}{uri.removeprefix(home)}", row) for row, uri in found if uri.startswith(f"{home}/")]
            came = [
                (uri, row)
                for uri, row in changed
                if _path_of(uri).exists() or not _path_of(home + uri[len(new) :]).exists()
            ]
            opened.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", came)
        opened.execute(  # whatever came along: what is recorded from now on lies here
            "UPDATE experiments SET artifact_location = ? || substr(artifact_location, ?) "
            "WHERE substr(artifact_location, 1, ?) = ?",
            (new, len(home) + 1, len(home) + 1, f"{home}/"),
        )
        opened.execute("COMMIT")


def _home(database: sqlite3.Connection) -> str | None:
    """The address of the artifacts' folder that a database of ours was made with; None for any other database."""
    row = database.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    uri = str(row[0]) if row is not None else ""
    is_ours = uri.startswith("file:///") and uri.endswith(f"/{ARTIFACTS}/0")
    return uri.removesuffix("/0") if is_ours else None


def _is_beside(home: str, database: Path) -> bool:
    if home == (database.parent / ARTIFACTS).as_uri():
        return True
    with contextlib.suppress(OSError):
        old = _path_of(home)
        if old.is_dir() and not (old.parent / database.name).exists():
            return True  # somebody chose so: moved, the folder would be gone; copied, the database would be there
        return os.path.samefile(old.parent, database.parent)
    return False


def _path_of(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))
