"""Sessions: which ones live or have died, how far each journal is delivered, and which files belong to them.

A *session* is one command that trains. It has a journal of its own, and holds a lock as long as it lives. When a
session has died, the next one marks its unfinished trials as interrupted.
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
from sweepstack.journal.control import ControlFile
from sweepstack.journal.database import batches, damaged, reading, transaction
from sweepstack.journal.files import is_locked, keep_damaged_file
from sweepstack.journal.ledger_rows import (
    composition_of,
    entries,
    note,
    note_progress,
    note_set_aside,
    recover_trial,
    restore_row,
    set_aside,
    trial_of,
)
from sweepstack.journal.log import LogReader, is_journal
from sweepstack.journal.replay import Progress, Replay
from sweepstack.journal.schema import is_whole
from sweepstack.planning.known_trials import Entry
from sweepstack.trial import Trial


class Sessions:
    """The sessions of a store, and the files that belong to them.

    Args:
        folder: holds the ledger's database and all that belongs to it. It is made with the first session.

    Raises:
        StoreError: every method that reads or writes raises it if the database cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "ledger.db"

    def journal(self, session: int) -> Path:
        """Returns the path of a session's journal, the file with its events."""
        return self.folder / f"{session:06}.jsonl"

    def checkpoints(self, stack: str) -> Path:
        """Returns the folder for the checkpoints of a stack."""
        return self.folder / "checkpoints" / stack

    def work(self, stack: str) -> Path:
        """Returns the folder of what a worker has been told to do with a stack, and of what it reports."""
        return self.folder / "work" / stack

    def files(self, trial_id: str) -> Path:
        """Returns the folder that keeps a trial's files until they are delivered."""
        return self.folder / "files" / trial_id

    def lock(self, session: int) -> FileLock:
        """Returns the lock that a session holds while it lives."""
        return FileLock(self.folder / f"{session:06}.lock", mode=FILE)

    def delivery_lock(self, session: int) -> FileLock:
        """Returns the lock that a process holds while it delivers a session's journal."""
        return FileLock(self.folder / f"{session:06}.delivery.lock", mode=FILE)

    def control(self, session: int) -> ControlFile:
        """Returns the file in which other terminals ask something of a session."""
        return ControlFile(self.folder / f"{session:06}.control")

    def open(self, experiment: str) -> tuple[int, FileLock]:
        """Opens a new session; returns its number and its lock, which is held."""
        with transaction(self.file) as database:
            self._check(database)
            self._recover_sessions(database)
            number = database.execute("INSERT INTO sessions (experiment) VALUES (?)", (experiment,)).lastrowid
            assert number is not None
            lock = self.lock(number)
            lock.acquire(timeout=10)
        return number, lock

    def end(self, session: int, replay: Replay, lines: int | None = None) -> None:
        """Ends a session: updates the rows of its trials with what its journal holds, which must be on the disk.

        Args:
            replay: the replay of the journal.
            lines: the number of lines in the journal.
        """
        with transaction(self.file) as database:
            self._end(database, session, replay, lines)

    def show_notes(self, say: Callable[[str], None]) -> None:
        """Passes each note about damage that the user has not seen yet to `say`, then deletes it.

        If the process is killed in between, the next one shows the notes again.
        """
        if not self.file.exists():
            return
        with transaction(self.file) as database:
            notes = database.execute("SELECT number, line FROM notes ORDER BY number").fetchall()
        for _, line in notes:
            say(line)
        if notes:
            with transaction(self.file) as database:
                database.executemany("DELETE FROM notes WHERE number = ?", ((number,) for number, _ in notes))

    def end_dead_sessions(self) -> list[int]:
        """Ends the sessions that have died; returns all ended sessions that are not delivered yet, the oldest first."""
        if not self.file.exists() and not self._journals():
            return []
        with transaction(self.file) as database:
            self._end_dead(database)
            return [row[0] for row in database.execute("SELECT number FROM sessions WHERE ended ORDER BY number")]

    def begin_delivery(self, session: int) -> tuple[str, bool, int] | None:
        """Notes that the delivery of a session begins.

        Returns:
            The experiment of the session, whether its delivery has begun before, and how many bytes of its journal
            were delivered; None if all of the session is delivered.
        """
        with transaction(self.file) as database:
            row = database.execute(
                "SELECT experiment, delivering, delivered FROM sessions WHERE number = ?", (session,)
            ).fetchone()
            database.execute("UPDATE sessions SET delivering = 1 WHERE number = ?", (session,))
        return None if row is None else (row[0], bool(row[1]), row[2])

    def is_undelivered(self, session: int) -> bool:
        """True while anything of a session is not delivered."""
        with reading(self.file) as database:
            return database.execute("SELECT 1 FROM sessions WHERE number = ?", (session,)).fetchone() is not None

    def undelivered_sessions(self) -> list[int]:
        """Returns the sessions that have ended or died and are not delivered. Writes nothing."""
        if not self.file.exists():
            return [int(path.stem) for path in self._journals()]
        with reading(self.file) as database:
            found = database.execute("SELECT number, ended FROM sessions ORDER BY number").fetchall()
        return [number for number, ended in found if ended or self._is_dead(number)]

    def is_recorded(self, session: int) -> bool:
        """True if all of a session is in the store, but `retire` was interrupted before it deleted the session."""
        with reading(self.file) as database:
            found = database.execute("SELECT 1 FROM sessions WHERE number = ? AND ended = 2", (session,))
            return found.fetchone() is not None

    def has_undelivered_predecessor(self, trial_id: str, session: int) -> bool:
        """True while the session that ran this trial before has events that MLflow has not received.

        Args:
            session: the session that runs the trial now.
        """
        with reading(self.file) as database:
            query = (  # a session that waited for this one may have begun, and have got its number, earlier
                "SELECT 1 FROM taken_over JOIN sessions ON number = session WHERE trial = :trial AND number <> :mine "
                "AND taken_over.rowid < coalesce((SELECT min(rowid) FROM taken_over WHERE trial = :trial AND "
                "session = :mine), 9e18)"
            )
            return database.execute(query, {"trial": trial_id, "mine": session}).fetchone() is not None

    def predecessors(self, session: int) -> set[int]:
        """Returns the sessions from which a session has taken trials over, as far as they are not delivered."""
        with reading(self.file) as database:
            query = (
                "SELECT DISTINCT taken_over.session FROM taken_over JOIN trials ON trials.id = taken_over.trial "
                "WHERE trials.session = ?"
            )
            return {number for (number,) in database.execute(query, (session,))} - {session}

    def taken_over_from(self, session: int) -> set[str]:
        """Returns the ids of the trials that others have resumed since: kept files may be theirs."""
        with reading(self.file) as database:
            return {
                trial for (trial,) in database.execute("SELECT trial FROM taken_over WHERE session = ?", (session,))
            }

    def is_pending(self, trial_id: str) -> bool:
        """True while a session has events of a trial that are not delivered."""
        with reading(self.file) as database:
            found = database.execute("SELECT 1 FROM trials WHERE id = ? AND session NOT NULL", (trial_id,))
            return found.fetchone() is not None

    def note_delivered(
        self, session: int, offset: int, run_ids: Mapping[str, str], known: Mapping[str, Progress] | None = None
    ) -> None:
        """Notes what of a journal is in the store.

        Args:
            session: the session of the journal.
            offset: the number of bytes that are in the store.
            run_ids: runs of trials, by the trial's id.
            known: the progress of trials that is in the store, by the trial's id. The ledger keeps it in case the
                journal gets damaged.
        """
        with transaction(self.file) as database:
            database.execute("UPDATE sessions SET delivered = ? WHERE number = ?", (offset, session))
            database.executemany(
                "UPDATE trials SET run_id = ? WHERE id = ?", ((run, trial) for trial, run in run_ids.items())
            )
            for trial_id, progress in (known or {}).items():
                note_progress(database, session, trial_id, progress)

    def expected(self, session: int) -> tuple[int | None, list[tuple[str, str, str, float, str | None]]]:
        """Returns what the journal of an ended session should hold.

        Returns:
            The number of its lines, or None if that is not known; and for each `Joined` event the trial's id, name and
            sweep, the time of the event, and the run if that is known.
        """
        with reading(self.file) as database:
            if not _knows_lines(database):
                return None, []
            row = database.execute("SELECT lines, joined FROM sessions WHERE number = ?", (session,)).fetchone()
        if row is None or row[0] is None:
            return None, []
        return row[0], [tuple(one) for one in json.loads(row[1] or "[]")]

    def trial(self, trial_id: str) -> Trial | None:
        """Returns the trial of an id, whichever session trains it."""
        with reading(self.file) as database:
            return trial_of(database, trial_id)

    def ended_in(self, session: int, excluded: Iterable[str]) -> list[Entry]:
        """Returns the rows of the trials of a session that have ended.

        Args:
            excluded: ids of trials to leave out.
        """
        known = set(excluded)
        with reading(self.file) as database:
            rows = database.execute("SELECT id FROM trials WHERE session = ? AND outcome NOT NULL", (session,))
            ids = [trial_id for (trial_id,) in rows if trial_id not in known]
            return [
                entry
                for batch in batches(ids)
                for entry in entries(database, f"id IN ({','.join('?' * len(batch))})", batch)
                if entry.outcome is not None
            ]

    def readable_ids(self, trials: Iterable[str]) -> set[str]:
        """Returns those of the ids whose rows exist and can be read."""
        with reading(self.file) as database:
            return {
                entry.trial.id
                for batch in batches(list(trials))
                for entry in entries(database, f"id IN ({','.join('?' * len(batch))})", batch)
            }

    def unreadable(self, session: int) -> list[tuple[str, str | None]]:
        """Sets the rows of a session aside that cannot be read; returns the ids and runs of all that were."""
        with transaction(self.file) as database:
            self._set_aside(database, "session = ?", (session,))
            rows = database.execute("SELECT id, run_id FROM set_aside WHERE session = ?", (session,))
            return rows.fetchall()

    def run_ids(self, trials: Iterable[str]) -> dict[str, str]:
        """Returns the runs of those of the trials that have one, by the trial's id."""
        found: dict[str, str] = {}
        with reading(self.file) as database:
            for batch in batches(list(trials)):
                marks = ",".join("?" * len(batch))
                rows = database.execute(
                    f"SELECT id, run_id FROM trials WHERE run_id IS NOT NULL AND id IN ({marks})", batch
                )
                found.update(rows.fetchall())
        return found

    def interrupted_in(self, session: int) -> list[Entry]:
        """Returns the rows of the trials that a session has begun, and that were interrupted and not resumed since."""
        with reading(self.file) as database:
            return entries(
                database, "session = ? AND state = 'INTERRUPTED' AND (at > 0 OR run_id NOT NULL)", (session,)
            )

    def retire(self, session: int, remember: bool = False, damage: str = "") -> None:
        """Deletes an ended session of which everything is delivered.

        Args:
            remember: keep its settled outcomes for `recorded_outcomes`.
            damage: a line for the user if the journal is damaged; then a copy of the journal is kept.
        """
        journal = self.journal(session)
        with transaction(self.file) as database:
            database.execute("UPDATE sessions SET ended = 2 WHERE number = ?", (session,))
            if damage:
                kept = keep_damaged_file(journal, self.folder / "damaged") if journal.exists() else None
                note(database, damage + (f" The file is kept as {kept}." if kept else " The file is gone."))
        for path in (journal, self.folder / f"{session:06}.lock", self.control(session).path):
            path.unlink(missing_ok=True)  # before the session's row: a journal without one is taken for a lost session
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
        """Sets rows aside whose content the disk has changed.

        Raises:
            StoreError: more than single rows is damaged.
        """
        (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise damaged(self.file, found)
        self._set_aside(database, f"NOT {is_whole(database, 'trials')}", ())
        database.execute(f"DELETE FROM done WHERE NOT {is_whole(database, 'done')}")

    def _set_aside(self, database: sqlite3.Connection, condition: str, values: Sequence[Any]) -> None:
        """Sets rows of trials aside that cannot be read, among those that fulfil a condition in SQL.

        Rows of trials that are not delivered yet are restored from the journals, so that nobody trains them twice.
        """
        unreadable = set_aside(database, condition, values)
        note_set_aside(database, unreadable)
        if not unreadable:
            return
        ended = dict(database.execute("SELECT number, ended FROM sessions ORDER BY number").fetchall())
        by_trial: dict[str, dict[int, Progress]] = {}
        for number in ended:
            for trial_id, progress in self._replay(number).progress.items():
                by_trial.setdefault(trial_id, {})[number] = progress
        rows = {row.id: row for row in unreadable}
        for trial_id in sorted(by_trial, key=lambda one: one not in rows):  # the others get numbers that are free then
            by_session = by_trial[trial_id]
            if database.execute("SELECT 1 FROM trials WHERE id = ?", (trial_id,)).fetchone():
                continue
            row = rows.get(trial_id)
            claimed_by = row.session if row is not None and row.session in ended else 0
            session = max(claimed_by, *by_session)
            restore_row(database, session, by_session[max(by_session)].trial, row.number if row is not None else None)
            for number, progress in by_session.items():
                known = progress if number == session else replace(progress, outcome=None, ended=None)
                note_progress(database, session, trial_id, known, interrupted=bool(ended[session]))
                # The journal is delivered again from its beginning; that finds the run of the trial.
                database.execute("UPDATE sessions SET delivered = 0, delivering = 1 WHERE number = ?", (number,))

    def _end_dead(self, database: sqlite3.Connection) -> None:
        self._recover_sessions(database)
        for (number,) in database.execute("SELECT number FROM sessions WHERE NOT ended").fetchall():
            if self._is_dead(number):
                self._end(database, number, self._replay(number, lambda trial_id: trial_of(database, trial_id)), None)

    def _replay(self, session: int, trial_of: Callable[[str], Trial | None] = lambda _: None) -> Replay:
        """Replays the journal of a session as far as it is written.

        Args:
            trial_of: see `LogReader`.
        """
        replay = Replay()
        with contextlib.suppress(StoreError):  # a newer version has written it, and will deliver it
            for _, event in LogReader(self.journal(session), trial_of).events():
                replay.take(event)
        return replay

    def _journals(self) -> list[Path]:
        return sorted(filter(is_journal, self.folder.glob("[0-9]*.jsonl")))

    def _recover_sessions(self, database: sqlite3.Connection) -> None:
        """Inserts sessions for journals whose ledger was deleted or whose row is damaged.

        Their trials begin from scratch unless they are settled.
        """
        experiments = dict(database.execute("SELECT number, experiment FROM sessions").fetchall())
        database.execute(f"DELETE FROM sessions WHERE NOT {is_whole(database, 'sessions')}")
        known = {number for (number,) in database.execute("SELECT number FROM sessions")}
        in_trials = database.execute("SELECT DISTINCT session FROM trials WHERE session NOT NULL").fetchall()
        for number in sorted(({int(path.stem) for path in self._journals()} | {one for (one,) in in_trials}) - known):
            database.execute(
                "INSERT INTO sessions (number, experiment, delivering) VALUES (?, ?, 1)",
                (number, experiments.get(number) or "train"),
            )
            with contextlib.suppress(StoreError):
                for _, event in LogReader(self.journal(number)).events():
                    if isinstance(event, Started):
                        recover_trial(database, number, event.trial)

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

    def _end(self, database: sqlite3.Connection, session: int, replay: Replay, lines: int | None) -> None:
        for trial_id, progress in replay.progress.items():
            note_progress(database, session, trial_id, progress, interrupted=True)
        joined = [
            (event.trial.id, event.trial.name, event.trial.sweep, event.at, event.run_id)
            for event in replay.joined.values()
        ]
        database.execute("UPDATE trials SET state = 'INTERRUPTED' WHERE session = ? AND state = 'CLAIMED'", (session,))
        database.execute(
            "UPDATE sessions SET ended = 1, lines = ?, joined = ? WHERE number = ?",
            (lines, json.dumps(joined) if lines is not None and joined else None, session),
        )
        database.execute("DELETE FROM trials WHERE session = ? AND at = 0 AND stack IS NULL", (session,))

    def _forget(self, database: sqlite3.Connection) -> None:
        """Deletes stacks of which all trials are settled and recorded, and stacks that have no trials any more."""
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
            shutil.rmtree(self.work(stack), ignore_errors=True)
            database.execute("DELETE FROM stacks WHERE id = ?", (stack,))


def _knows_lines(database: sqlite3.Connection) -> bool:
    """False for a ledger of version 1 that nobody has written to since."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return bool(version >= 2)
