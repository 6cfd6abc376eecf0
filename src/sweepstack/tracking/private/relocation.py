"""Corrects the addresses in a store that was moved or copied: MLflow stores absolute addresses of files.

Without that, a copy would write into the original, and the artifacts of a moved store would be missing. The address of
MLflow's experiment 0, which no user chooses, says where a database was made. There is no public way: MLflow's client
changes no address.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "artifacts"
"""The name of the folder of artifacts beside a database."""
OF_FILES = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""The columns that contain addresses of existing files, as (table, column)."""


def moved_from(database: Path) -> Path | None:
    """Returns the folder in which an sqlite store was made or last used, if it is in another one now.

    Another path to the same folder, for example through a link, does not count.
    """
    with (
        contextlib.suppress(sqlite3.Error, OSError),
        contextlib.closing(sqlite3.connect(database, timeout=30)) as opened,
    ):
        home = _home(opened)
        if home is not None and not _is_beside(home, database):
            return _path_of(home).parent
    return None


def follow_move(database: Path) -> None:
    """Changes the addresses in a moved or copied database to those of the files beside it, in one transaction.

    The address of a file that exists only at its old path stays. The caller must hold the lock of the store.

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
        opened.execute(  # in any case: files of new runs are written here
            "UPDATE experiments SET artifact_location = ? || substr(artifact_location, ?) "
            "WHERE substr(artifact_location, 1, ?) = ?",
            (new, len(home) + 1, len(home) + 1, f"{home}/"),
        )
        opened.execute("COMMIT")


def _home(database: sqlite3.Connection) -> str | None:
    """Returns the address of the artifacts' folder that sweepstack made a database with; None for other databases."""
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
            return True  # the user chose that folder: a move would have removed it, a copy would have left a database
        return os.path.samefile(old.parent, database.parent)
    return False


def _path_of(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))
