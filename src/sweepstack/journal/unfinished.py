"""What is not finished in a ledger: trials of sessions that live, and trials that nobody trains. It writes nothing."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweepstack.journal.control import About, Extent
from sweepstack.journal.database import reading
from sweepstack.journal.files import is_locked
from sweepstack.journal.ledger_rows import composition_of, entries
from sweepstack.journal.sessions import Sessions
from sweepstack.planning.classify import is_pruned
from sweepstack.planning.known_trials import SETTLED, Composition, Entry


@dataclass(frozen=True)
class Living:
    """A session that lives."""

    number: int
    about: About | None
    """Who it is; None if an earlier version has begun it."""
    entries: Sequence[Entry]
    """The rows of its trials, also of those that have ended."""
    extent: Extent | None = None
    """How much it trains; None if that is not known."""
    paused: Mapping[str, float | None] = field(default_factory=dict)
    """See `Control.paused`."""


@dataclass
class Unfinished:
    """What is not finished."""

    living: list[Living] = field(default_factory=list)
    interrupted: list[Entry] = field(default_factory=list)
    """The rows of the trials that nobody trains, and that the same command would train."""
    stacks: Mapping[str, Composition] = field(default_factory=dict)
    """The stacks of all these trials, by id. A lost or damaged one is missing."""


def living_sessions(ledger: Sessions) -> list[int]:
    """Returns the sessions that live now, the oldest first."""
    if not ledger.file.exists():
        return []
    with reading(ledger.file) as database:
        found = []
        if has_tables(database):
            found = database.execute("SELECT number FROM sessions WHERE NOT ended ORDER BY number").fetchall()
    return [number for (number,) in found if is_living(ledger, number)]


def is_living(ledger: Sessions, session: int) -> bool:
    """True if a session that has not ended lives: it holds its lock, or gives signs of life on another machine.

    Args:
        ledger: the ledger.
        session: the number of the session.
    """
    if is_locked(ledger.folder / f"{session:06}.lock"):
        return True
    control = ledger.control(session)
    return control.is_fresh() and (about := control.read().about) is not None and about.host != socket.gethostname()


def find_unfinished(ledger: Sessions) -> Unfinished:
    """Returns what is not finished in a ledger."""
    numbers = living_sessions(ledger)
    if not ledger.file.exists():
        return Unfinished()
    found = Unfinished()
    with reading(ledger.file) as database:
        if not has_tables(database):
            return found
        for number in numbers:
            rows = entries(database, "session = ? ORDER BY rowid", (number,))
            control = ledger.control(number).read()
            found.living.append(Living(number, control.about, rows, control.extent, control.paused))
        marks = ",".join(map(str, numbers))
        found.interrupted = entries(
            database, f"state <> '{SETTLED}' AND (session IS NULL OR session NOT IN ({marks})) ORDER BY rowid", ()
        )
        found.interrupted = [entry for entry in found.interrupted if not is_pruned(entry)]
        every = [*found.interrupted, *(entry for one in found.living for entry in one.entries)]
        ids = dict.fromkeys(entry.stack for entry in every if entry.stack is not None)
        stacks = {stack: composition_of(database, stack) for stack in ids}
        found.stacks = {key: one for key, one in stacks.items() if one is not None}
    return found


def rows_of_sweep(ledger: Sessions, sweep: str) -> list[Entry]:
    """Returns the rows of the trials of a sweep: of those that are not settled, or whose records are not delivered.

    Args:
        ledger: the ledger.
        sweep: the name of the sweep.
    """
    if not ledger.file.exists():
        return []
    with reading(ledger.file) as database:
        rows = entries(database, "TRUE ORDER BY rowid", ()) if has_tables(database) else []
    return [entry for entry in rows if entry.trial.sweep == sweep]


def has_tables(database: sqlite3.Connection) -> bool:
    """False while a command makes the ledger."""
    query = "SELECT count(*) FROM sqlite_master WHERE name IN ('sessions', 'trials', 'stacks')"
    return bool(database.execute(query).fetchone()[0] == 3)
