"""The ledger: who trains what, what was interrupted, and in which stack; a small sqlite file beside the journals.

A *session* is one command that trains: it has a journal of its own, and holds a lock as long as it lives. What a dead
session has left open is found by the next one. A trial's row stays until its whole stack is settled and recorded, for
a stack that goes on needs all of its members.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from sweepstack.errors import StoreError
from sweepstack.tracking.entries import (
    LEFT,
    OPEN,
    SCHEMA,
    SETTLED,
    VERSION,
    Composition,
    Entry,
    composition_of,
    entries,
    parts,
)
from sweepstack.tracking.journal import (
    Fold,
    Reader,
    outcome_as_json,
    outcome_from_json,
    trial_as_json,
)
from sweepstack.trial import Outcome, Started, Trial


@dataclass
class Claim:
    """What a session may train, and what others do."""

    fresh: list[Entry] = field(default_factory=list)
    """Now this session's: to be planned. One that has begun before lost its stack, and begins anew."""
    resumed: list[tuple[Composition, dict[str, Entry]]] = field(default_factory=list)
    """Stacks to go on with, now this session's, with all of their trials by id."""
    settled: list[tuple[Trial, Outcome]] = field(default_factory=list)
    """As the sweep knows them, but with the id of their record. Among them is what has just failed elsewhere."""
    held: list[Trial] = field(default_factory=list)
    """Others are training these."""


class Ledger:
    """The ledger of a store.

    Args:
        folder: of the ledger and all that belongs to it; made when something is to be kept.

    Raises:
        StoreError: from every method, when the file cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._folds: dict[int, tuple[Reader, Fold]] = {}

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
        with self._transaction() as database:
            self._find_the_lost(database)
            number = database.execute("INSERT INTO sessions (experiment) VALUES (?)", (experiment,)).lastrowid
            assert number is not None
            lock = self.lock(number)
            lock.acquire(timeout=10)
        return number, lock

    def claim(self, session: int, trials: Sequence[Trial], again: bool = False) -> Claim:
        """Takes for a session what nobody else trains. Sessions that have died are seen to first.

        Args:
            trials: with a fingerprint and an id of their own, should they be new.
            again: train what is settled, too.
        """
        claim = Claim()
        wanted = {trial.fingerprint: trial for trial in trials}
        stacks: dict[str, list[Entry]] = {}
        with self._transaction() as database:
            self._see_to_the_dead(database)
            known = self._by_fingerprint(database, [*wanted])
            fresh: list[Entry] = []
            for trial in trials:
                entry = known.get(trial.fingerprint)
                if entry is not None and entry.state == OPEN and entry.session != session:
                    entry = self._as_told(entry)
                if entry is None or (again and entry.state == SETTLED):
                    fresh.append(Entry(trial, session, None, OPEN))
                elif entry.state == OPEN and entry.session != session and entry.outcome is None:
                    claim.held.append(trial)
                elif entry.outcome is not None and entry.state != LEFT:
                    claim.settled.append((_renewed(trial, entry), entry.outcome))
                elif entry.stack is None:  # it was claimed and never planned, or its ledger was lost
                    fresh.append(replace(entry, trial=_renewed(trial, entry), session=session, state=OPEN))
                else:
                    stacks.setdefault(entry.stack, []).append(entry)
            for stack, left in stacks.items():
                found = self._resume(database, session, stack, wanted)
                if found is not None:
                    claim.resumed.append(found)
                else:
                    renewed = [(entry, _renewed(wanted[entry.trial.fingerprint], entry)) for entry in left]
                    fresh += [replace(e, trial=trial, session=session, stack=None, state=OPEN) for e, trial in renewed]
            for entry in fresh:
                _note_taken_over(database, entry.trial.id)
            database.executemany(
                "INSERT INTO trials (id, fingerprint, session, state, trial) VALUES (?, ?, ?, 'OPEN', ?) ON CONFLICT "
                "(id) DO UPDATE SET session = excluded.session, stack = NULL, state = 'OPEN', trial = excluded.trial, "
                "outcome = NULL",
                ((e.trial.id, e.trial.fingerprint, session, json.dumps(trial_as_json(e.trial))) for e in fresh),
            )
            claim.fresh = fresh
        return claim

    def look(self, trials: Sequence[Trial]) -> dict[str, Entry]:
        """What is known of some trials by now, by fingerprint; nothing is written."""
        if not self._file.exists():
            return {}
        with self._reading() as database:
            known = self._by_fingerprint(database, [trial.fingerprint for trial in trials])
        return {key: self._as_told(entry, look=True) if entry.state == OPEN else entry for key, entry in known.items()}

    def composition(self, stack: str) -> Composition | None:
        """Of a stack that was planned."""
        with self._reading() as database:
            return composition_of(database, stack)

    def members(self, stack: str) -> list[Trial]:
        """All trials of a stack."""
        with self._reading() as database:
            return [entry.trial for entry in entries(database, "stack = ?", (stack,))]

    def plan(self, session: int, compositions: Iterable[Composition]) -> None:
        """Keeps how a session's trials are composed, so that they are gone on with in the same company."""
        with self._transaction() as database:
            for composition in compositions:
                database.execute(
                    "INSERT INTO stacks (id, content) VALUES (?, ?)",
                    (composition.id, json.dumps({**vars(composition), "id": None})),
                )
                database.executemany(
                    "UPDATE trials SET stack = ? WHERE id = ? AND (session = ? OR state = 'SETTLED')",
                    ((composition.id, one, session) for trials in composition.trajectories for one in trials),
                )
            self._forget(database)

    def recompose(self, composition: Composition) -> None:
        """Keeps what has changed about a stack."""
        with self._transaction() as database:
            content = json.dumps({**vars(composition), "id": None})
            database.execute("UPDATE stacks SET content = ? WHERE id = ?", (content, composition.id))

    def done(self, fingerprints: Sequence[str]) -> dict[str, tuple[str, Outcome]]:
        """Settled trials that a server has recorded, for the time when it cannot be asked: runs and outcomes."""
        if not self._file.exists():
            return {}
        found = {}
        with self._reading() as database:
            for part in parts(fingerprints):
                marks = ",".join("?" * len(part))
                rows = database.execute(f"SELECT * FROM done WHERE fingerprint IN ({marks})", part)
                found.update({key: (run_id, outcome_from_json(json.loads(text))) for key, run_id, text in rows})
        return found

    def release(self, session: int, trials: Iterable[Trial]) -> None:
        """Gives back what was claimed and is not going to be trained; unless it has begun, nothing of it is kept."""
        with self._transaction() as database:
            ids = [(trial.id, session) for trial in trials]
            database.executemany("DELETE FROM trials WHERE id = ? AND session = ? AND at = 0", ids)
            database.executemany("UPDATE trials SET state = 'LEFT' WHERE id = ? AND session = ?", ids)

    def end(self, session: int, fold: Fold) -> None:
        """A session is over; its rows tell what its journal holds."""
        with self._transaction() as database:
            self._end(database, session, fold)

    def see_to_the_dead(self) -> list[int]:
        """Ends the sessions that have died; gives all that are ended and not delivered yet, the oldest first."""
        if not self._file.exists() and not self._journals():
            return []
        with self._transaction() as database:
            self._see_to_the_dead(database)
            return [row[0] for row in database.execute("SELECT number FROM sessions WHERE ended ORDER BY number")]

    def delivery(self, session: int) -> tuple[str, bool, int] | None:
        """The experiment of a session, whether its delivery has been begun before, and how far it got; None when
        nothing of it is left. From now on it has been begun."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT experiment, delivering, delivered FROM sessions WHERE number = ?", (session,)
            ).fetchone()
            database.execute("UPDATE sessions SET delivering = 1 WHERE number = ?", (session,))
        return None if row is None else (row[0], bool(row[1]), row[2])

    def exists(self, session: int) -> bool:
        """Whether anything of a session is still to be delivered."""
        with self._reading() as database:
            return database.execute("SELECT 1 FROM sessions WHERE number = ?", (session,)).fetchone() is not None

    def waits(self, trial_id: str, session: int) -> bool:
        """Whether an earlier session, from which a trial was taken over, is still to be delivered."""
        with self._reading() as database:
            question = "SELECT 1 FROM taken_over JOIN sessions ON number = session WHERE trial = ? AND number < ?"
            return database.execute(question, (trial_id, session)).fetchone() is not None

    def is_pending(self, trial_id: str) -> bool:
        """Whether a session has something of a trial to deliver."""
        with self._reading() as database:
            found = database.execute("SELECT 1 FROM trials WHERE id = ? AND session NOT NULL", (trial_id,))
            return found.fetchone() is not None

    def delivered(self, session: int, offset: int, run_ids: Mapping[str, str]) -> None:
        """So many bytes of a journal are in the store, and these trials have these runs."""
        with self._transaction() as database:
            database.execute("UPDATE sessions SET delivered = ? WHERE number = ?", (offset, session))
            database.executemany(
                "UPDATE trials SET run_id = ? WHERE id = ?", ((run, trial) for trial, run in run_ids.items())
            )

    def run_ids(self, trials: Iterable[str]) -> dict[str, str]:
        """The runs of those trials, by id, that have one."""
        found: dict[str, str] = {}
        with self._reading() as database:
            for part in parts(list(trials)):
                marks = ",".join("?" * len(part))
                rows = database.execute(
                    f"SELECT id, run_id FROM trials WHERE run_id IS NOT NULL AND id IN ({marks})", part
                )
                found.update(rows.fetchall())
        return found

    def left_by(self, session: int) -> list[Entry]:
        """Trials that a session has begun and that nobody has taken up since."""
        with self._reading() as database:
            return entries(database, "session = ? AND state = 'LEFT' AND at > 0", (session,))

    def retire(self, session: int, remember: bool = False) -> None:
        """An ended session is delivered as a whole; nothing of it is needed any more.

        Args:
            remember: the outcomes that are settled, for `done`.
        """
        with self._transaction() as database:
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

    @property
    def _file(self) -> Path:
        return self.folder / "ledger.db"

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self._file, timeout=60, isolation_level=None)
            try:
                yield database
            finally:
                database.close()
        except sqlite3.DatabaseError as error:
            damaged = "malformed" in str(error) or "not a database" in str(error)
            raise StoreError(
                f"the journal's ledger must be an sqlite file, {self._file} is damaged ({error}); delete it and run "
                "again: what the journals beside it hold is recorded, what was interrupted begins anew"
                if damaged
                else f"the journal's ledger must be usable, {self._file} is not ({error}); make room or give leave to "
                "write there, or choose another folder with tracking.journal=DIR"
            ) from error
        except (OSError, Timeout) as error:
            raise StoreError(
                f"the journal's ledger must be usable, {self._file} is not ({error}); make room or give leave to write "
                "there, or choose another folder with tracking.journal=DIR"
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the journal's folder must be writable, {self.folder} cannot be made ({error.strerror}); choose "
                "another with tracking.journal=DIR"
            ) from error
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                self._make(database)
                yield database
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._database() as database:
            self._check_version(database)
            yield database

    def _make(self, database: sqlite3.Connection) -> None:
        if self._check_version(database) == 0:
            for statement in SCHEMA.split(";\n"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")

    def _check_version(self, database: sqlite3.Connection) -> int:
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreError(
                f"the journal must be of this version of sweepstack or an older one, {self._file} is of a newer one; "
                "update sweepstack, or choose another folder with tracking.journal=DIR"
            )
        return version

    def _see_to_the_dead(self, database: sqlite3.Connection) -> None:
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
                    _note_taken_over(database, trial.id)
                    database.execute(
                        "INSERT INTO trials (id, fingerprint, session, state, trial) VALUES (?, ?, ?, 'OPEN', ?) "
                        "ON CONFLICT (id) DO UPDATE SET session = excluded.session",
                        (trial.id, trial.fingerprint, int(path.stem), json.dumps(trial_as_json(trial))),
                    )

    def _is_dead(self, session: int) -> bool:
        lock = self.lock(session)
        if not os.access(self.folder, os.W_OK):  # to be looked at only, as with a dry run
            return not _is_locked(Path(lock.lock_file))
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

    def _by_fingerprint(self, database: sqlite3.Connection, fingerprints: Sequence[str]) -> dict[str, Entry]:
        """Of several trials of one fingerprint (`rerun`) the newest."""
        found: dict[str, Entry] = {}
        for part in parts(fingerprints):
            for entry in entries(database, f"fingerprint IN ({','.join('?' * len(part))}) ORDER BY rowid", part):
                found[entry.trial.fingerprint] = entry
        return found

    def _as_told(self, entry: Entry, look: bool = False) -> Entry:
        """An OPEN entry of another session, as that one's journal tells by now."""
        assert entry.session is not None
        if entry.session not in self._folds:
            self._folds[entry.session] = (Reader(self.journal(entry.session)), Fold())
        reader, fold = self._folds[entry.session]
        for _, event in reader.events():
            fold.take(event)
        known = fold.progress.get(entry.trial.id)
        outcome = known.outcome if known is not None else None
        state = entry.state
        if outcome is not None and outcome.settled:
            state = SETTLED
        elif look and self._is_dead(entry.session):
            state = LEFT
        at = known.at if known is not None else entry.at
        return Entry(entry.trial, entry.session, entry.stack, state, entry.run_id, at, entry.measured, outcome)

    def _resume(
        self, database: sqlite3.Connection, session: int, stack: str, wanted: Mapping[str, Trial]
    ) -> tuple[Composition, dict[str, Entry]] | None:
        """None where a member is missing, or where the stack has not begun and is more than what is wanted."""
        composition = composition_of(database, stack)
        known = entries(database, "stack = ?", (stack,))
        ids = {one for trials in composition.trajectories for one in trials} if composition is not None else set()
        begun = any(entry.begun for entry in known) or all(entry.trial.fingerprint in wanted for entry in known)
        if composition is None or not ids <= {entry.trial.id for entry in known} or not begun:
            return None
        members: dict[str, Entry] = {}
        for entry in known:
            trial = wanted.get(entry.trial.fingerprint)
            if entry.state == LEFT:
                renewed = entry.trial if trial is None else _renewed(trial, entry)
                entry = Entry(renewed, session, stack, OPEN, entry.run_id, entry.at, entry.measured)
                _note_taken_over(database, renewed.id)
                database.execute(
                    "UPDATE trials SET session = ?, state = 'OPEN', trial = ?, outcome = NULL WHERE id = ?",
                    (session, json.dumps(trial_as_json(renewed)), renewed.id),
                )
            members[entry.trial.id] = entry
        return composition, members


def resolve_folder(database: Path | None, uri: str, root: Path, chosen: str | None) -> Path:
    """Where the ledger of a store is: as chosen, else beside the store's database, else in the project's mlruns."""
    if chosen is not None:
        return Path(chosen).expanduser().absolute()
    if database is not None:
        return database.parent / "journal" / database.name
    return root / "mlruns" / "journal" / hashlib.blake2b(uri.encode(), digest_size=6).hexdigest()


def drop_files(ledger: Ledger, trial_ids: Iterable[str]) -> None:
    """The files of trials that are delivered."""
    for trial_id in trial_ids:
        shutil.rmtree(ledger.files(trial_id), ignore_errors=True)


def keep_file(ledger: Ledger, trial_id: str, file: Path) -> Path:
    """A file as it is now, whatever is written in its place later; a link where the file system has them."""
    kept = ledger.files(trial_id) / file.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.unlink(missing_ok=True)
    try:
        os.link(file, kept)
    except OSError:
        shutil.copy2(file, kept)
    return kept


def _note_taken_over(database: sqlite3.Connection, trial_id: str) -> None:
    """Before a trial gets another session."""
    database.execute(
        "INSERT INTO taken_over (trial, session) SELECT id, session FROM trials WHERE id = ? AND session NOT NULL",
        (trial_id,),
    )


def _is_locked(path: Path) -> bool:
    """Whether somebody holds a lock that this process may only look at; where nobody can tell, nobody does."""
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def _renewed(trial: Trial, entry: Entry) -> Trial:
    """The trial as the sweep of now knows it, with the record that it has already."""
    return replace(trial, id=entry.trial.id)
