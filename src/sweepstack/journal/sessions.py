"""Sessions: who lives, who has died, and how far each journal is delivered; and what lies beside the journals.

A *session* is one command that trains: it has a journal of its own, and holds a lock as long as it lives. What a dead
session has left open is found by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sweepstack.errors import StoreError
from sweepstack.events import Started
from sweepstack.files.owner_only import FILE
from sweepstack.journal.database import damaged, reading, transaction
from sweepstack.journal.entries import (
    composition_of,
    entries,
    find_again,
    note,
    note_progress,
    note_set_aside,
    parts,
    restore,
    set_aside,
    trial_of,
)
from sweepstack.journal.files import is_locked, put_away
from sweepstack.journal.log import LogReader, is_journal
from sweepstack.journal.replay import Progress, Replay
from sweepstack.journal.schema import is_whole
from sweepstack.planning.known_trials import Entry
from sweepstack.trial import Trial


class Sessions:
    """The sessions of a store, and the files that belong to them.

    Args:
        folder: of the ledger's database and all that belongs to it; made when something is to be kept.

    Raises:
        StoreError: from every method that reads or writes, when the database cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "ledger.db"

    def journal(self, session: int) -> Path:
        """The file with the events of a session."""
        return self.folder / f"{session:06}.jsonl"

    def checkpoints(self, stack: str) -> Path:
        """The folder for the checkpoints of a stack."""
        return self.folder / "checkpoints" / stack

    def files(self, trial_id: str) -> Path:
        """The folder for a trial's files until they are delivered."""
        return self.folder / "files" / trial_id

    def lock(self, session: int) -> FileLock:
        """What a session holds while it lives."""
        return FileLock(self.folder / f"{session:06}.lock", mode=FILE)

    def delivery_lock(self, session: int) -> FileLock:
        """What is held by whoever delivers a session's journal."""
        return FileLock(self.folder / f"{session:06}.delivery.lock", mode=FILE)

    def open(self, experiment: str) -> tuple[int, FileLock]:
        """A new session, alive from now on."""
        with transaction(self.file) as database:
            self._check(database)
            self._find_the_lost(database)
            number = database.execute("INSERT INTO sessions (experiment) VALUES (?)", (experiment,)).lastrowid
            assert number is not None
            lock = self.lock(number)
            lock.acquire(timeout=10)
        return number, lock

    def end(self, session: int, fold: Replay, lines: int | None = None) -> None:
        """A session is over; its rows tell what its journal, which is on the disk, holds.

        Args:
            lines: of the journal.
        """
        with transaction(self.file) as database:
            self._end(database, session, fold, lines)

    def tell(self, say: Callable[[str], None]) -> None:
        """Tells what the user has not been told yet of damages: each line once, unless this is killed meanwhile."""
        if not self.file.exists():
            return
        with transaction(self.file) as database:
            notes = database.execute("SELECT number, line FROM notes ORDER BY number").fetchall()
        for _, line in notes:
            say(line)
        if notes:
            with transaction(self.file) as database:
                database.executemany("DELETE FROM notes WHERE number = ?", ((number,) for number, _ in notes))

    def see_to_the_dead(self) -> list[int]:
        """Ends the sessions that have died; gives all that are ended and not delivered yet, the oldest first."""
        if not self.file.exists() and not self._journals():
            return []
        with transaction(self.file) as database:
            self._bury(database)
            return [row[0] for row in database.execute("SELECT number FROM sessions WHERE ended ORDER BY number")]

    def delivery(self, session: int) -> tuple[str, bool, int] | None:
        """The experiment of a session, whether its delivery has been begun before, and how far it got; None when
        nothing of it is left. From now on it has been begun."""
        with transaction(self.file) as database:
            row = database.execute(
                "SELECT experiment, delivering, delivered FROM sessions WHERE number = ?", (session,)
            ).fetchone()
            database.execute("UPDATE sessions SET delivering = 1 WHERE number = ?", (session,))
        return None if row is None else (row[0], bool(row[1]), row[2])

    def exists(self, session: int) -> bool:
        """Whether anything of a session is still to be delivered."""
        with reading(self.file) as database:
            return database.execute("SELECT 1 FROM sessions WHERE number = ?", (session,)).fetchone() is not None

    def waiting(self) -> list[int]:
        """Sessions that do not live any more and whose journals are not delivered; nothing is written."""
        if not self.file.exists():
            return [int(path.stem) for path in self._journals()]
        with reading(self.file) as database:
            found = database.execute("SELECT number, ended FROM sessions ORDER BY number").fetchall()
        return [number for number, ended in found if ended or self._is_dead(number)]

    def is_recorded(self, session: int) -> bool:
        """Whether all of a session is in the store, and `retire` was only broken off."""
        with reading(self.file) as database:
            found = database.execute("SELECT 1 FROM sessions WHERE number = ? AND ended = 2", (session,))
            return found.fetchone() is not None

    def waits(self, trial_id: str, session: int) -> bool:
        """Whether an earlier session, from which a trial was taken over, is still to be delivered."""
        with reading(self.file) as database:
            question = "SELECT 1 FROM taken_over JOIN sessions ON number = session WHERE trial = ? AND number < ?"
            return database.execute(question, (trial_id, session)).fetchone() is not None

    def is_pending(self, trial_id: str) -> bool:
        """Whether a session has something of a trial to deliver."""
        with reading(self.file) as database:
            found = database.execute("SELECT 1 FROM trials WHERE id = ? AND session NOT NULL", (trial_id,))
            return found.fetchone() is not None

    def delivered(
        self, session: int, offset: int, run_ids: Mapping[str, str], known: Mapping[str, Progress] | None = None
    ) -> None:
        """So many bytes of a journal are in the store, and these trials have these runs.

        Args:
            known: what the store knows of trials by now. Should the journal be damaged, the ledger knows it still.
        """
        with transaction(self.file) as database:
            database.execute("UPDATE sessions SET delivered = ? WHERE number = ?", (offset, session))
            database.executemany(
                "UPDATE trials SET run_id = ? WHERE id = ?", ((run, trial) for trial, run in run_ids.items())
            )
            for trial_id, progress in (known or {}).items():
                note_progress(database, session, trial_id, progress)

    def expected(self, session: int) -> tuple[int | None, list[tuple[str, str, str, float, str | None]]]:
        """What the journal of a session that has ended should hold: its number of lines, if that is known, and of each
        trial that was trained before: id, name, sweep, when it joined that, and its run, if that is known."""
        with reading(self.file) as database:
            if not _knows_lines(database):
                return None, []
            row = database.execute("SELECT lines, joined FROM sessions WHERE number = ?", (session,)).fetchone()
        if row is None or row[0] is None:
            return None, []
        return row[0], [tuple(one) for one in json.loads(row[1] or "[]")]

    def trial(self, trial_id: str) -> Trial | None:
        """The trial of an id, whoever trains it."""
        with reading(self.file) as database:
            return trial_of(database, trial_id)

    def ended_in(self, session: int, but: Iterable[str]) -> list[Entry]:
        """Trials of a session that have ended, but for those with these ids."""
        known = set(but)
        with reading(self.file) as database:
            rows = database.execute("SELECT id FROM trials WHERE session = ? AND outcome NOT NULL", (session,))
            ids = [trial_id for (trial_id,) in rows if trial_id not in known]
            return [
                entry
                for part in parts(ids)
                for entry in entries(database, f"id IN ({','.join('?' * len(part))})", part)
                if entry.outcome is not None
            ]

    def known(self, trials: Iterable[str]) -> set[str]:
        """Those of some trials' ids that have a row which can be read."""
        with reading(self.file) as database:
            return {
                entry.trial.id
                for part in parts(list(trials))
                for entry in entries(database, f"id IN ({','.join('?' * len(part))})", part)
            }

    def unreadable(self, session: int) -> list[tuple[str, str | None]]:
        """Ids and runs of the trials of a session whose rows cannot be read; the rows are set aside."""
        with transaction(self.file) as database:
            self._set_aside(database, "session = ?", (session,))
            rows = database.execute("SELECT id, run_id FROM set_aside WHERE session = ?", (session,))
            return rows.fetchall()

    def run_ids(self, trials: Iterable[str]) -> dict[str, str]:
        """The runs of those trials, by id, that have one."""
        found: dict[str, str] = {}
        with reading(self.file) as database:
            for part in parts(list(trials)):
                marks = ",".join("?" * len(part))
                rows = database.execute(
                    f"SELECT id, run_id FROM trials WHERE run_id IS NOT NULL AND id IN ({marks})", part
                )
                found.update(rows.fetchall())
        return found

    def left_by(self, session: int) -> list[Entry]:
        """Trials that a session has begun and that nobody has taken up since."""
        with reading(self.file) as database:
            return entries(
                database, "session = ? AND state = 'INTERRUPTED' AND (at > 0 OR run_id NOT NULL)", (session,)
            )

    def retire(self, session: int, remember: bool = False, damage: str = "") -> None:
        """An ended session is delivered as a whole; nothing of it is needed any more.

        Args:
            remember: the outcomes that are settled, for `done`.
            damage: what is to be told of the journal, if it is damaged; then it is kept.
        """
        journal = self.journal(session)
        with transaction(self.file) as database:
            database.execute("UPDATE sessions SET ended = 2 WHERE number = ?", (session,))
            if damage:
                kept = put_away(journal, self.folder / "damaged") if journal.exists() else None
                note(database, damage + (f" The file is kept as {kept}." if kept else " The file is gone."))
        for path in (journal, self.folder / f"{session:06}.lock"):
            path.unlink(missing_ok=True)  # now: a journal without a session is one that lost its ledger
        with transaction(self.file) as database:
            if remember:
                database.execute(
                    "INSERT OR REPLACE INTO done (fingerprint, run_id, outcome) "
                    "SELECT fingerprint, run_id, outcome FROM trials "
                    "WHERE session = ? AND state = 'SETTLED' AND run_id NOT NULL",
                    (session,),
                )
            database.execute("UPDATE trials SET session = NULL WHERE session = ?", (session,))
            database.execute("DELETE FROM sessions WHERE number = ?", (session,))
            database.execute("DELETE FROM taken_over WHERE session = ?", (session,))
            self._forget(database)

    def _check(self, database: sqlite3.Connection) -> None:
        """What a disk has changed in the ledger is taken for nothing that is true.

        Raises:
            StoreError: it is more than single rows.
        """
        (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise damaged(self.file, found)
        self._set_aside(database, f"NOT {is_whole(database, 'trials')}", ())
        database.execute(f"DELETE FROM done WHERE NOT {is_whole(database, 'done')}")

    def _set_aside(self, database: sqlite3.Connection, condition: str, values: Sequence[Any]) -> None:
        """Puts away the rows of trials that cannot be read, of those that fulfil a condition in SQL. What is not
        delivered yet of these trials is taken from the journals, so that nobody trains it a second time."""
        unreadable = set_aside(database, condition, values)
        note_set_aside(database, unreadable)
        if not unreadable:
            return
        ended = dict(database.execute("SELECT number, ended FROM sessions ORDER BY number").fetchall())
        told: dict[str, dict[int, Progress]] = {}
        for number in ended:
            for trial_id, progress in self._fold(number).progress.items():
                told.setdefault(trial_id, {})[number] = progress
        rows = {row.id: row for row in unreadable}
        for trial_id, by_session in told.items():
            if database.execute("SELECT 1 FROM trials WHERE id = ?", (trial_id,)).fetchone():
                continue
            row = rows.get(trial_id)
            claimed_by = row.session if row is not None and row.session in ended else 0
            session = max(claimed_by, *by_session)
            restore(database, session, by_session[max(by_session)].trial, row.number if row is not None else None)
            for number, progress in by_session.items():
                known = progress if number == session else replace(progress, outcome=None, ended=None)
                note_progress(database, session, trial_id, known, left=bool(ended[session]))
                # delivered again from its beginning, which finds the run of the trial
                database.execute("UPDATE sessions SET delivered = 0, delivering = 1 WHERE number = ?", (number,))

    def _bury(self, database: sqlite3.Connection) -> None:
        self._find_the_lost(database)
        for (number,) in database.execute("SELECT number FROM sessions WHERE NOT ended").fetchall():
            if self._is_dead(number):
                self._end(database, number, self._fold(number, lambda trial_id: trial_of(database, trial_id)), None)

    def _fold(self, session: int, trial_of: Callable[[str], Trial | None] = lambda _: None) -> Replay:
        """What the journal of a session tells by now.

        Args:
            trial_of: as `LogReader` takes it.
        """
        fold = Replay()
        with contextlib.suppress(StoreError):  # what a newer version has written is for that to deliver
            for _, event in LogReader(self.journal(session), trial_of).events():
                fold.take(event)
        return fold

    def _journals(self) -> list[Path]:
        return sorted(filter(is_journal, self.folder.glob("[0-9]*.jsonl")))

    def _find_the_lost(self, database: sqlite3.Connection) -> None:
        """Journals whose ledger was deleted, or whose row in it is damaged, get a session again; their trials begin
        again unless they are settled."""
        names = dict(database.execute("SELECT number, experiment FROM sessions").fetchall())
        database.execute(f"DELETE FROM sessions WHERE NOT {is_whole(database, 'sessions')}")
        known = {number for (number,) in database.execute("SELECT number FROM sessions")}
        mentioned = database.execute("SELECT DISTINCT session FROM trials WHERE session NOT NULL").fetchall()
        for number in sorted(({int(path.stem) for path in self._journals()} | {one for (one,) in mentioned}) - known):
            database.execute(
                "INSERT INTO sessions (number, experiment, delivering) VALUES (?, ?, 1)",
                (number, names.get(number) or "train"),
            )
            with contextlib.suppress(StoreError):
                for _, event in LogReader(self.journal(number)).events():
                    if isinstance(event, Started):
                        find_again(database, number, event.trial)

    def _is_dead(self, session: int) -> bool:
        lock = self.lock(session)
        path = Path(lock.lock_file)
        if not (path.exists() and os.access(self.folder, os.W_OK)):  # a dry run makes no file
            return not is_locked(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True

    def _end(self, database: sqlite3.Connection, session: int, fold: Replay, lines: int | None) -> None:
        for trial_id, progress in fold.progress.items():
            note_progress(database, session, trial_id, progress, left=True)
        joined = [
            (event.trial.id, event.trial.name, event.trial.sweep, event.at, event.run_id)
            for event in fold.joined.values()
        ]
        database.execute("UPDATE trials SET state = 'INTERRUPTED' WHERE session = ? AND state = 'CLAIMED'", (session,))
        database.execute(
            "UPDATE sessions SET ended = 1, lines = ?, joined = ? WHERE number = ?",
            (lines, json.dumps(joined) if lines is not None and joined else None, session),
        )
        database.execute("DELETE FROM trials WHERE session = ? AND at = 0 AND stack IS NULL", (session,))

    def _forget(self, database: sqlite3.Connection) -> None:
        """Drops what is settled and recorded, stack by stack, and what no trial belongs to."""
        database.execute(
            "DELETE FROM trials WHERE state = 'SETTLED' AND session IS NULL AND (stack IS NULL OR NOT EXISTS "
            "(SELECT 1 FROM trials AS other WHERE other.stack = trials.stack "
            "AND (other.state <> 'SETTLED' OR other.session IS NOT NULL)))"
        )
        gone = database.execute("SELECT id FROM stacks WHERE id NOT IN (SELECT stack FROM trials WHERE stack NOT NULL)")
        for (stack,) in gone.fetchall():
            composition = composition_of(database, stack)
            if composition is not None and not composition.keep:
                shutil.rmtree(self.checkpoints(stack), ignore_errors=True)
            database.execute("DELETE FROM stacks WHERE id = ?", (stack,))


def _knows_lines(database: sqlite3.Connection) -> bool:
    """Not in a ledger of version 1, which nobody has written to since."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return bool(version >= 2)
