"""Removes the trials of a deleted sweep from the ledger: their rows, their checkpoints, what workers have reported.

While it decides, and while their runs are deleted, nobody can claim a trial.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sweepstack.errors import StoreError, as_typed, count
from sweepstack.events import Joined
from sweepstack.journal.database import batches, reading, transaction
from sweepstack.journal.ledger_rows import entries, trial_of
from sweepstack.journal.log import LogReader
from sweepstack.journal.sessions import Sessions
from sweepstack.journal.unfinished import has_tables, is_living
from sweepstack.journal.unneeded import discarding, size_of
from sweepstack.planning.classify import is_pruned
from sweepstack.planning.known_trials import SETTLED, Entry


@dataclass(frozen=True)
class Doomed:
    """A sweep that is about to be deleted, with what the store knows of it."""

    sweep: str
    runs: Mapping[str, str]
    """The fingerprints of the runs that are deleted, by the run's id."""
    trials: frozenset[str]
    """The ids of their trials."""
    shared: Mapping[str, str | None] = field(default_factory=dict)
    """The ids of trials whose runs stay because others have them, each with another sweep that has it, if one does."""


@dataclass(frozen=True)
class Left:
    """What the ledger has of a sweep."""

    rows: tuple[Entry, ...] = ()
    """The rows of trials that are removed with their runs, or that have none."""
    renamed: tuple[Entry, ...] = ()
    """The rows of trials that stay, as trials of others."""
    stacks: tuple[str, ...] = ()
    """Stacks that nobody resumes then: their other rows, if there are any, are settled and recorded."""
    size: int = 0
    """Bytes of their checkpoints."""
    samplers: frozenset[str] = frozenset()
    """The samplers that chose the settings of the rows that stay."""

    @property
    def unfinished(self) -> list[Entry]:
        """The rows of trials that were interrupted or pruned, and that could be resumed."""
        return [row for row in self.rows if row.state != SETTLED]


def find_left(sessions: Sessions, doomed: Doomed) -> Left:
    """Returns what the ledger has of a sweep. Writes nothing.

    Raises:
        StoreError: the sweep must not be deleted now: a command uses it, a journal has records of it, or another sweep
            resumes from its checkpoints.
    """
    if not sessions.file.exists():
        return Left()
    with reading(sessions.file) as database:
        return _Removal(sessions, database, doomed).check() if has_tables(database) else Left()


def remove_left(sessions: Sessions, doomed: Doomed) -> Left:
    """Removes what the ledger has of a sweep; returns it.

    Raises:
        StoreError: see `find_left`.
    """
    if not sessions.file.exists():
        return Left()
    with discarding(sessions) as discard, transaction(sessions.file) as database:
        removal = _Removal(sessions, database, doomed)
        left = removal.check()
        removal.remove(left)
        for stack in left.stacks:
            discard(sessions.checkpoints(stack))
            discard(sessions.work(stack))
    return left


@contextlib.contextmanager
def unclaimed(sessions: Sessions, doomed: Doomed) -> Iterator[None]:
    """Sees to it that no session uses a sweep, or can begin to, before the end of the block.

    Raises:
        StoreError: a command uses it, or a journal has records of it.
    """
    if not sessions.file.exists():
        yield
        return
    with transaction(sessions.file) as database:
        _Removal(sessions, database, doomed).check_sessions(entries(database, "session NOT NULL", ()))
        yield


class _Removal:
    def __init__(self, sessions: Sessions, database: sqlite3.Connection, doomed: Doomed) -> None:
        self._sessions, self._database, self._doomed = sessions, database, doomed
        self._fingerprints = {*doomed.runs.values()} - {""}

    def check(self) -> Left:
        """Returns what the ledger has of the sweep.

        Raises:
            StoreError: see `find_left`.
        """
        doomed = self._doomed
        every = entries(self._database, "TRUE ORDER BY rowid", ())
        rows = [row for row in every if self._is_removed(row)]
        self.check_sessions(every)
        removed = {row.trial.id for row in rows}
        stacks = {row.stack for row in rows if row.stack is not None}
        others = [row for row in every if row.stack in stacks and row.trial.id not in removed]
        unsettled = [row for row in others if row.state != SETTLED and not is_pruned(row)]
        if unsettled:
            sweeps = sorted({row.trial.sweep or "a single run" for row in unsettled})
            rule = (
                f"sweep {doomed.sweep!r} must not be deleted while others need its checkpoints, as "
                f"{count(len(unsettled), 'interrupted trial')} of {', '.join(sweeps)} in one stack with its trials"
            )
            raise StoreError(rule, remedy="train those to their end with their own command, or delete that sweep first")
        pending = {row.stack for row in others if row.state != SETTLED or row.session is not None}
        gone = tuple(sorted(stacks - pending))
        renamed = [row for row in every if row.trial.sweep == doomed.sweep and row.trial.id not in removed]
        size = sum(size_of(self._sessions.checkpoints(stack)) for stack in gone)
        samplers = frozenset(row.trial.run.search.name for row in every if row.trial.id not in removed)
        return Left(tuple(rows), tuple(renamed), gone, size, samplers)

    def _is_removed(self, row: Entry) -> bool:
        doomed, trial = self._doomed, row.trial
        return trial.id in doomed.trials or (trial.sweep == doomed.sweep and trial.id not in doomed.shared)

    def check_sessions(self, rows: list[Entry]) -> None:
        """Checks that no session trains a trial of the sweep, reuses one, or has records of one."""
        doomed = self._doomed
        for (number,) in self._database.execute("SELECT number FROM sessions ORDER BY number").fetchall():
            mine = (row for row in rows if row.session == number)
            uses = any(self._is_removed(row) or row.trial.fingerprint in self._fingerprints for row in mine)
            if not (uses or self._has_joined(number)):
                continue
            if not is_living(self._sessions, number):
                rule = f"sweep {doomed.sweep!r} must not be deleted while the journal has records of it"
                raise StoreError(rule, remedy="deliver them first: sweepstack sync")
            about = self._sessions.control(number).read().about
            who = "one" if about is None else f"process {about.pid} on {about.host}"
            other = None if about is None else about.sweep
            of = "" if other is None else f" for sweep {other}"
            rule = f"sweep {doomed.sweep!r} must not be deleted while a command uses its trials, as {who} does{of}"
            stop = "sweepstack stop" if other is None else as_typed(["sweepstack", "stop", "--sweep", other])
            raise StoreError(rule, remedy=f"wait until it has ended, or end it: {stop}")

    def _has_joined(self, session: int) -> bool:
        """True if a journal makes a trial of the sweep one of another sweep."""
        doomed = self._doomed
        journal = LogReader(self._sessions.journal(session), lambda trial_id: trial_of(self._database, trial_id))
        return any(
            isinstance(event, Joined)
            and (
                event.run_id in doomed.runs
                or event.trial.id in doomed.trials
                or event.trial.fingerprint in self._fingerprints
            )
            for _, event in journal.events()
        )

    def remove(self, left: Left) -> None:
        """Deletes the rows, and renames the others."""
        for batch in batches([row.trial.id for row in left.rows]):
            marks = ",".join("?" * len(batch))
            self._database.execute(f"DELETE FROM trials WHERE id IN ({marks})", batch)
            self._database.execute(f"DELETE FROM taken_over WHERE trial IN ({marks})", batch)
        for batch in batches([*self._doomed.runs]):
            self._database.execute(f"DELETE FROM done WHERE run_id IN ({','.join('?' * len(batch))})", batch)
        for stack in left.stacks:
            self._database.execute(
                "DELETE FROM trials WHERE stack = ? AND state = 'SETTLED' AND session IS NULL", (stack,)
            )
            self._database.execute("DELETE FROM stacks WHERE id = ?", (stack,))
        for row in (row for row in left.renamed if row.stack not in left.stacks):
            (text,) = self._database.execute("SELECT trial FROM trials WHERE id = ?", (row.trial.id,)).fetchone()
            content = {**json.loads(text), "sweep": self._doomed.shared[row.trial.id]}
            self._database.execute("UPDATE trials SET trial = ? WHERE id = ?", (json.dumps(content), row.trial.id))
