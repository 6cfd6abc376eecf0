"""The tables of the ledger, and their rows as values."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweepstack.tracking.journal import outcome_from_json, trial_from_json
from sweepstack.trial import Outcome, Trial

VERSION = 1
SCHEMA = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    experiment TEXT NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,      -- its journal is complete, and its trials' rows tell what it holds
    delivering INTEGER NOT NULL DEFAULT 0, -- a delivery has begun, and runs may have been made
    delivered INTEGER NOT NULL DEFAULT 0   -- so many bytes of its journal are in the store
);
CREATE TABLE stacks (id TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE trials (
    id TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    session INTEGER,           -- the one that trains it, or whose journal holds what is not delivered yet
    stack TEXT,
    state TEXT NOT NULL,       -- OPEN, LEFT, SETTLED
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
OPEN, LEFT, SETTLED = "OPEN", "LEFT", "SETTLED"
"""A session trains the trial or is about to; it was interrupted or failed; its outcome is known for good."""
AT_ONCE = 500
"""Values in one question to sqlite."""


@dataclass(frozen=True)
class Entry:
    """What the ledger knows of a trial."""

    trial: Trial
    session: int | None
    stack: str | None
    state: str
    run_id: str | None = None
    at: float = 0.0
    measured: int = 0
    outcome: Outcome | None = None

    @property
    def begun(self) -> bool:
        return self.at > 0


@dataclass(frozen=True)
class Composition:
    """Which trials make a stack, and how it is trained. Plain: ids and values."""

    id: str
    trajectories: tuple[tuple[str, ...], ...]
    """Ids of the trials of each trajectory."""
    choice: Mapping[str, Any]
    device: str
    keep: bool = False
    """Whether its checkpoints stay when it is settled."""
    note: str = ""
    """Why it is not the stack that its trials began in, if it is not."""


def entries(database: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[Entry]:
    """The trials that fulfil a condition in SQL."""
    rows = database.execute(
        f"SELECT trial, session, stack, state, run_id, at, measured, outcome FROM trials WHERE {condition}", values
    )
    found = []
    for trial, session, stack, state, run_id, at, measured, outcome in rows:
        ended = None if outcome is None else outcome_from_json(json.loads(outcome))
        entry = Entry(trial_from_json(json.loads(trial)), session, stack, state, run_id, at, measured, ended)
        found.append(entry)
    return found


def composition_of(database: sqlite3.Connection, stack: str) -> Composition | None:
    """How a stack is composed; None for an unknown one."""
    row = database.execute("SELECT content FROM stacks WHERE id = ?", (stack,)).fetchone()
    if row is None:
        return None
    content = json.loads(row[0])
    trajectories = tuple(tuple(trials) for trials in content.pop("trajectories"))
    return Composition(**{**content, "id": stack, "trajectories": trajectories})


def parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many values at once as sqlite takes in one question."""
    for begin in range(0, len(values), AT_ONCE):
        yield values[begin : begin + AT_ONCE]
