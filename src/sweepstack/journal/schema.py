"""The tables of the ledger, and how the tables of an older version are upgraded.

Each row has a checksum of its values. It shows when a disk has changed a value; sqlite itself notices only some of
these changes.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator

SCHEMA_VERSION = 3
"""Version of the tables and of what is in them. Version 1 had no checksums, and did not know how many lines a journal
should hold; version 2 had no outcome PRUNED."""
TABLES = {
    "sessions": ("number", "experiment", "ended", "delivering", "delivered", "lines", "joined"),
    "stacks": ("id", "content"),
    "trials": ("id", "fingerprint", "session", "stack", "state", "trial", "run_id", "at", "measured", "outcome"),
    "done": ("fingerprint", "run_id", "outcome"),
}
"""The tables with checksums, each with the columns that enter the checksum."""
STATES_OF_VERSION_1 = {"OPEN": "CLAIMED", "LEFT": "INTERRUPTED"}
"""States of a trial that had another name in version 1, each with its name since then."""
_VERSION_1 = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    experiment TEXT NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,      -- 1: its journal is complete, and its trials' rows tell it; 2: delivered
    delivering INTEGER NOT NULL DEFAULT 0, -- a delivery has begun, and runs may have been made
    delivered INTEGER NOT NULL DEFAULT 0   -- so many bytes of its journal are in the store
);
CREATE TABLE stacks (id TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE trials (
    id TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    session INTEGER,           -- the one that trains it, or whose journal holds what is not delivered yet
    stack TEXT,
    state TEXT NOT NULL,       -- CLAIMED, INTERRUPTED, SETTLED
    trial TEXT NOT NULL,
    run_id TEXT,
    at REAL NOT NULL DEFAULT 0,           -- time of the last event; 0: it has not begun
    measured INTEGER NOT NULL DEFAULT 0,  -- the last step that is in a journal
    outcome TEXT
);
CREATE TABLE taken_over (
    trial TEXT NOT NULL,
    session INTEGER NOT NULL   -- from which it was, and which may not be delivered yet
);
CREATE TABLE done (fingerprint TEXT PRIMARY KEY, run_id TEXT NOT NULL, outcome TEXT NOT NULL);
CREATE INDEX by_trial ON taken_over (trial);
CREATE INDEX by_fingerprint ON trials (fingerprint);
CREATE INDEX by_stack ON trials (stack);
CREATE INDEX by_session ON trials (session);
"""


def _with_checksums() -> Iterator[str]:
    """Yields the statements that add checksums. A damaged row stays damaged when another value in it is changed."""
    for table, columns in TABLES.items():
        new, old = (_checksum(f"{which}.{one}" for one in columns) for which in ("new", "old"))
        yield f"ALTER TABLE {table} ADD COLUMN checksum INTEGER"
        yield f"UPDATE {table} SET checksum = {_checksum(columns)}"
        yield (
            f"CREATE TRIGGER inserted_{table} AFTER INSERT ON {table} BEGIN "
            f"UPDATE {table} SET checksum = {new} WHERE rowid = new.rowid; END"
        )
        yield (
            f"CREATE TRIGGER updated_{table} AFTER UPDATE OF {', '.join(columns)} ON {table} "
            f"WHEN old.checksum = {old} BEGIN UPDATE {table} SET checksum = {new} WHERE rowid = new.rowid; END"
        )


def _checksum(columns: Iterable[str]) -> str:
    return (
        f"row_checksum({', '.join(f'CAST({one} AS BLOB)' for one in columns)})"  # a damaged text may not be valid text
    )


UPGRADES: tuple[list[str], ...] = (
    _VERSION_1.strip().removesuffix(";").split(";\n"),
    [
        # what the journal of a session that has ended should hold: lines, and trials that were trained before
        "ALTER TABLE sessions ADD COLUMN lines INTEGER",
        "ALTER TABLE sessions ADD COLUMN joined TEXT",
        *(f"UPDATE trials SET state = '{new}' WHERE state = '{old}'" for old, new in STATES_OF_VERSION_1.items()),
        # what the user has not been told yet
        "CREATE TABLE notes (number INTEGER PRIMARY KEY, line TEXT NOT NULL)",
        # rows of trials that cannot be read
        "CREATE TABLE set_aside (id, fingerprint, session, stack, state, trial, run_id, at, measured, outcome)",
        *_with_checksums(),
    ],
    [],  # the tables are the same
)
"""The statements of each upgrade: the first makes version 1 of an empty database, the second version 2 of that."""


def upgrade(database: sqlite3.Connection, version: int) -> None:
    """Upgrades the tables to this version. Call it inside a transaction.

    Args:
        version: the version of the tables now; 0 if there are none.
    """
    if version == SCHEMA_VERSION:
        return
    for statement in (statement for step in UPGRADES[version:] for statement in step):
        database.execute(statement)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def prepare_connection(database: sqlite3.Connection) -> None:
    """Prepares a connection to read and write rows."""
    database.create_function("row_checksum", -1, _crc, deterministic=True)
    database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")


def _crc(*values: bytes | None) -> int:
    return zlib.crc32(repr(values).encode())


def is_whole(database: sqlite3.Connection, table: str) -> str:
    """Returns a condition in SQL that holds for rows that are as they were written.

    In a ledger of version 1, which has no checksums, it holds for all rows.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return f"checksum IS {_checksum(TABLES[table])}" if version >= 2 else "TRUE"
