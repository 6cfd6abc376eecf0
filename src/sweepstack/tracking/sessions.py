"""Sessions: who lives, who has died, and how far each journal is delivered; and what lies beside the journals.

A *session* is one command that trains: it has a journal of its own, and holds a lock as long as it lives. What a dead
session has left open is found by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from sweepstack.tracking.database import reading, transaction
from sweepstack.tracking.entries import LEFT, SETTLED, Entry, composition_of, entries, parts
from sweepstack.tracking.journal import Fold, Reader, outcome_as_json, trial_as_json
from sweepstack.tracking.keeping import is_locked
from sweepstack.trial import Started


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
        return FileLock(self.folder / f"{session:06}.lock")

    def delivery_lock(self, session: int) -> FileLock:
        """What is held by whoever delivers a session's journal."""
        return FileLock(self.folder / f"{session:06}.delivery.lock")

    def open(self, experiment: str) -> tuple[int, FileLock]:
        """A new session, alive from now on."""
        with transaction(self.file) as database:
            self._find_the_lost(database)
            number = database.execute("INSERT INTO sessions (experiment) VALUES (?)", (experiment,)).lastrowid
            assert number is not None
            lock = self.lock(number)
            lock.acquire(timeout=10)
        return number, lock

    def end(self, session: int, fold: Fold) -> None:
        """A session is over; its rows tell what its journal holds."""
        with transaction(self.file) as database:
            self._end(database, session, fold)

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

    def delivered(self, session: int, offset: int, run_ids: Mapping[str, str]) -> None:
        """So many bytes of a journal are in the store, and these trials have these runs."""
        with transaction(self.file) as database:
            database.execute("UPDATE sessions SET delivered = ? WHERE number = ?", (offset, session))
            database.executemany(
                "UPDATE trials SET run_id = ? WHERE id = ?", ((run, trial) for trial, run in run_ids.items())
            )

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
            return entries(database, "session = ? AND state = 'LEFT' AND at > 0", (session,))

    def retire(self, session: int, remember: bool = False) -> None:
        """An ended session is delivered as a whole; nothing of it is needed any more.

        Args:
            remember: the outcomes that are settled, for `done`.
        """
        with transaction(self.file) as database:
            if remember:
                database.execute(
                    "INSERT OR REPLACE INTO done SELECT fingerprint, run_id, outcome FROM trials "
                    "WHERE session = ? AND state = 'SETTLED' AND run_id NOT NULL",
                    (session,),
                )
            database.execute("UPDATE trials SET session = NULL WHERE session = ?", (session,))
            database.execute("DELETE FROM sessions WHERE number = ?", (session,))
            database.execute("DELETE FROM taken_over WHERE session = ?", (session,))
            self._forget(database)
            for path in (self.journal(session), self.folder / f"{session:06}.lock"):
                path.unlink(missing_ok=True)  # now: a journal without a session is one that lost its ledger

    def _bury(self, database: sqlite3.Connection) -> None:
        self._find_the_lost(database)
        for (number,) in database.execute("SELECT number FROM sessions WHERE NOT ended").fetchall():
            if self._is_dead(number):
                fold = Fold()
                for _, event in Reader(self.journal(number)).events():
                    fold.take(event)
                self._end(database, number, fold)

    def _journals(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.jsonl"))

    def _find_the_lost(self, database: sqlite3.Connection) -> None:
        """Journals whose ledger was deleted get a session again; their trials begin anew unless they are settled."""
        known = {number for (number,) in database.execute("SELECT number FROM sessions")}
        for path in self._journals():
            if int(path.stem) in known:
                continue
            database.execute(
                "INSERT INTO sessions (number, experiment, delivering) VALUES (?, 'train', 1)", (int(path.stem),)
            )
            for _, event in Reader(path).events():
                if isinstance(event, Started):
                    trial = event.trial
                    if trial.config.tracking.experiment is not None:
                        database.execute(
                            "UPDATE sessions SET experiment = ? WHERE number = ?",
                            (trial.config.tracking.experiment, int(path.stem)),
                        )
                    note_taken_over(database, trial.id)
                    database.execute(
                        "INSERT INTO trials (id, fingerprint, session, state, trial) VALUES (?, ?, ?, 'OPEN', ?) "
                        "ON CONFLICT (id) DO UPDATE SET session = excluded.session",
                        (trial.id, trial.fingerprint, int(path.stem), json.dumps(trial_as_json(trial))),
                    )

    def _is_dead(self, session: int) -> bool:
        lock = self.lock(session)
        if not os.access(self.folder, os.W_OK):  # to be looked at only, as with a dry run
            return not is_locked(Path(lock.lock_file))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True

    def _end(self, database: sqlite3.Connection, session: int, fold: Fold) -> None:
        for trial_id, progress in fold.progress.items():
            outcome = progress.outcome
            settled = outcome is not None and outcome.settled
            database.execute(
                "UPDATE trials SET state = ?, at = ?, measured = max(measured, ?), outcome = ? "
                "WHERE id = ? AND session = ?",
                (
                    SETTLED if settled else LEFT,
                    progress.at,
                    progress.measured,
                    None if outcome is None else json.dumps(outcome_as_json(outcome)),
                    trial_id,
                    session,
                ),
            )
        database.execute("UPDATE trials SET state = 'LEFT' WHERE session = ? AND state = 'OPEN'", (session,))
        database.execute("UPDATE sessions SET ended = 1 WHERE number = ?", (session,))
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


def note_taken_over(database: sqlite3.Connection, trial_id: str) -> None:
    """Before a trial gets another session."""
    database.execute(
        "INSERT INTO taken_over (trial, session) SELECT id, session FROM trials WHERE id = ? AND session NOT NULL",
        (trial_id,),
    )
