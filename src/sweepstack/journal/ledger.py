"""The ledger: who trains what, what was interrupted, and in which stack.

A trial's row stays until its whole stack is settled and recorded, for a stack that goes on needs all of its members.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sweepstack.errors import StoreError
from sweepstack.journal.codec import UnreadableError, outcome_from_json, trial_as_json
from sweepstack.journal.database import reading, scratch_copy, transaction
from sweepstack.journal.entries import composition_of, entries, note_taken_over, parts
from sweepstack.journal.log import LogReader
from sweepstack.journal.replay import Replay
from sweepstack.journal.schema import is_whole
from sweepstack.journal.sessions import Sessions
from sweepstack.planning.classify import Resume, Train, classify
from sweepstack.planning.known_trials import CLAIMED, INTERRUPTED, SETTLED, Composition, Entry, KnownTrials
from sweepstack.trial import Outcome, Trial


class Ledger(Sessions):
    """The sessions of a store, and what each of them trains."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folds: dict[int, tuple[LogReader, Replay]] = {}

    def claim(self, session: int, trials: Sequence[Trial], rerun: bool = False) -> KnownTrials:
        """Takes for a session what nobody else trains, see `classify`. Sessions that have died are seen to first.

        Args:
            trials: of different fingerprints; with an id of their own, should they be new.
            rerun: train what is settled, too.

        Returns:
            What was known before.
        """
        with transaction(self.file) as database:
            known = self._known_trials(database, trials, session)
            decisions = classify(trials, known, {}, session, rerun)
            for stack, members in {one.stack.id: one.members for one in decisions if isinstance(one, Resume)}.items():
                for left in (entry.trial.id for entry in known.members[stack] if entry.state == INTERRUPTED):
                    note_taken_over(database, left)
                    database.execute(
                        "UPDATE trials SET session = ?, state = 'CLAIMED', trial = ?, outcome = NULL WHERE id = ?",
                        (session, json.dumps(trial_as_json(members[left].trial)), left),
                    )
            fresh = [one.trial for one in decisions if isinstance(one, Train)]
            for trial in fresh:
                note_taken_over(database, trial.id)
            database.executemany(
                "INSERT INTO trials (id, fingerprint, session, state, trial) VALUES (?, ?, ?, 'CLAIMED', ?) "
                "ON CONFLICT (id) DO UPDATE SET session = excluded.session, stack = NULL, state = 'CLAIMED', "
                "trial = excluded.trial, outcome = NULL",
                ((trial.id, trial.fingerprint, session, json.dumps(trial_as_json(trial))) for trial in fresh),
            )
        return known

    def peek(self, trials: Sequence[Trial]) -> KnownTrials:
        """What a claim of a new session would find known; nothing is written."""
        with scratch_copy(self.file) as database:
            self._check(database)
            return self._known_trials(database, trials, None)

    def plan(self, session: int, compositions: Iterable[Composition]) -> None:
        """Keeps how a session's trials are composed, so that they are resumed in the same stack."""
        with transaction(self.file) as database:
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
        with transaction(self.file) as database:
            content = json.dumps({**vars(composition), "id": None})
            database.execute("UPDATE stacks SET content = ? WHERE id = ?", (content, composition.id))

    def done(self, fingerprints: Sequence[str]) -> dict[str, tuple[str, Outcome]]:
        """Settled trials that a server has recorded, for the time when it cannot be asked: runs and outcomes."""
        if not self.file.exists():
            return {}
        found = {}
        with reading(self.file) as database:
            for part in parts(fingerprints):
                marks = ",".join("?" * len(part))
                rows = database.execute(
                    f"SELECT fingerprint, run_id, outcome FROM done WHERE fingerprint IN ({marks}) "
                    f"AND {is_whole(database, 'done')}",
                    part,
                )
                for key, run_id, text in rows:
                    with contextlib.suppress(UnreadableError, ValueError):  # it is trained again
                        found[key] = (run_id, outcome_from_json(json.loads(text)))
        return found

    def release(self, session: int, trials: Iterable[Trial]) -> None:
        """Gives back what was claimed and is not going to be trained; unless it has begun, nothing of it is kept."""
        with transaction(self.file) as database:
            ids = [(trial.id, session) for trial in trials]
            database.executemany("DELETE FROM trials WHERE id = ? AND session = ? AND at = 0", ids)
            database.executemany("UPDATE trials SET state = 'INTERRUPTED' WHERE id = ? AND session = ?", ids)

    def _known_trials(self, database: sqlite3.Connection, trials: Sequence[Trial], session: int | None) -> KnownTrials:
        """What is known of some trials when the sessions that have died are ended.

        Args:
            session: the one that wants them.
        """
        self._bury(database)
        asked = [
            (f"fingerprint IN ({','.join('?' * len(part))})", part)
            for part in parts([trial.fingerprint for trial in trials])
        ]
        for condition, part in asked:
            self._set_aside(database, condition, part)
        known = {
            entry.trial.fingerprint: entry
            for condition, part in asked
            for entry in entries(database, f"{condition} ORDER BY rowid", part)
        }
        for key, entry in known.items():
            if entry.state == CLAIMED and entry.session != session:
                known[key] = self._as_told(entry)
        mine = (entry for entry in known.values() if entry.state == INTERRUPTED or entry.session == session)
        stacks = dict.fromkeys(entry.stack for entry in mine if entry.stack is not None and entry.state != SETTLED)
        members = {stack: entries(database, "stack = ?", (stack,)) for stack in stacks}
        found = {stack: composition_of(database, stack) for stack in stacks}
        return KnownTrials(known, members, {key: one for key, one in found.items() if one is not None})

    def _as_told(self, entry: Entry) -> Entry:
        """A CLAIMED entry of another session that lives, as that one's journal tells by now."""
        assert entry.session is not None
        if entry.session not in self._folds:
            self._folds[entry.session] = (LogReader(self.journal(entry.session)), Replay())
        reader, fold = self._folds[entry.session]
        with contextlib.suppress(StoreError):  # a newer version writes it
            for _, event in reader.events():
                fold.take(event)
        known = fold.progress.get(entry.trial.id)
        if known is None:
            return entry
        outcome = known.outcome or entry.outcome
        state = SETTLED if outcome is not None and outcome.settled else entry.state
        return replace(entry, state=state, at=known.at, outcome=outcome)
