"""The ledger: which session trains which trial, which trials were interrupted, and in which stack.

A trial's row stays until its whole stack is settled and recorded, because a stack needs all its members to be resumed.
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
from sweepstack.journal.database import batches, reading, scratch_copy, transaction
from sweepstack.journal.ledger_rows import composition_of, entries, note_taken_over
from sweepstack.journal.log import LogReader
from sweepstack.journal.replay import Replay
from sweepstack.journal.schema import is_whole
from sweepstack.journal.sessions import Sessions
from sweepstack.planning.classify import Resume, Train, classify
from sweepstack.planning.known_trials import (
    CLAIMED,
    INTERRUPTED,
    SETTLED,
    Composition,
    Entry,
    JudgePruned,
    KnownTrials,
    leave_none,
)
from sweepstack.trial import Outcome, Trial


class Ledger(Sessions):
    """The sessions of a store, and the trials that each of them trains."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._replays: dict[int, tuple[LogReader, Replay]] = {}

    def claim(
        self, session: int, trials: Sequence[Trial], rerun: bool = False, judge: JudgePruned = leave_none
    ) -> KnownTrials:
        """Claims for a session the trials that no other session trains; see `classify`. Ends dead sessions first.

        Args:
            trials: no two have the same fingerprint; each has an id, which is used if the ledger does not know it.
            rerun: train settled trials, too.
            judge: says which PRUNED trials stay so.

        Returns:
            What was known before the claim.
        """
        with transaction(self.file) as database:
            known = self._known_trials(database, trials, session, judge)
            decisions = classify(trials, known, {}, session, rerun)
            resumed = {one.stack.id: one for one in decisions if isinstance(one, Resume)}
            for stack, one in resumed.items():
                if one.stack != known.compositions[stack]:
                    _recompose(database, one.stack)
                members = one.members
                interrupted = [entry.trial.id for entry in known.members[stack] if entry.state == INTERRUPTED]
                for trial_id in (id for id in interrupted if id in members and members[id].state == CLAIMED):
                    note_taken_over(database, trial_id)
                    database.execute(
                        "UPDATE trials SET session = ?, state = 'CLAIMED', trial = ?, outcome = NULL WHERE id = ?",
                        (session, json.dumps(trial_as_json(members[trial_id].trial)), trial_id),
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

    def peek(self, trials: Sequence[Trial], judge: JudgePruned = leave_none) -> KnownTrials:
        """Returns what a claim of a new session would know; see `claim`. Writes nothing."""
        with scratch_copy(self.file) as database:
            self._check(database)
            return self._known_trials(database, trials, None, judge)

    def plan(self, session: int, compositions: Iterable[Composition]) -> None:
        """Stores how a session's trials are composed into stacks, so that they are resumed in the same stacks."""
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
        """Stores a changed composition of a stack."""
        with transaction(self.file) as database:
            _recompose(database, composition)

    def recorded_outcomes(self, fingerprints: Sequence[str]) -> dict[str, tuple[str, Outcome]]:
        """Returns the runs and outcomes of settled trials that were delivered to a server, by fingerprint.

        They are used while the server does not answer.
        """
        if not self.file.exists():
            return {}
        found = {}
        with reading(self.file) as database:
            for batch in batches(fingerprints):
                placeholders = ",".join("?" * len(batch))
                rows = database.execute(
                    f"SELECT fingerprint, run_id, outcome FROM done WHERE fingerprint IN ({placeholders}) "
                    f"AND {is_whole(database, 'done')}",
                    batch,
                )
                for key, run_id, text in rows:
                    with contextlib.suppress(UnreadableError, ValueError):  # it is trained again
                        found[key] = (run_id, outcome_from_json(json.loads(text)))
        return found

    def release(self, session: int, trials: Iterable[Trial]) -> None:
        """Gives claimed trials back that will not be trained. The rows of trials that have not begun are deleted."""
        with transaction(self.file) as database:
            ids = [(trial.id, session) for trial in trials]
            database.executemany("DELETE FROM trials WHERE id = ? AND session = ? AND at = 0", ids)
            database.executemany("UPDATE trials SET state = 'INTERRUPTED' WHERE id = ? AND session = ?", ids)

    def _known_trials(
        self, database: sqlite3.Connection, trials: Sequence[Trial], session: int | None, judge: JudgePruned
    ) -> KnownTrials:
        """Ends the sessions that have died; returns what is known of some trials then.

        Args:
            session: the session that wants the trials.
            judge: says which PRUNED trials stay so.
        """
        self._end_dead(database)
        asked = [
            (f"fingerprint IN ({','.join('?' * len(batch))})", batch)
            for batch in batches([trial.fingerprint for trial in trials])
        ]
        for condition, batch in asked:
            self._set_aside(database, condition, batch)
        known = {
            entry.trial.fingerprint: entry
            for condition, batch in asked
            for entry in entries(database, f"{condition} ORDER BY rowid", batch)
        }
        for key, entry in known.items():
            if entry.state == CLAIMED and entry.session != session:
                known[key] = self._with_progress(entry)
        mine = (entry for entry in known.values() if entry.state == INTERRUPTED or entry.session == session)
        asked_for = {entry.stack for entry in mine if entry.stack is not None and entry.state != SETTLED}
        rows = database.execute("SELECT id FROM stacks ORDER BY rowid") if asked_for else ()
        planned = [stack for (stack,) in rows if stack in asked_for]
        stacks = [*planned, *sorted(asked_for - {*planned})]  # the order in which they were to be trained
        members = {stack: entries(database, "stack = ?", (stack,)) for stack in stacks}
        found = {stack: composition_of(database, stack) for stack in stacks}
        compositions = {key: one for key, one in found.items() if one is not None}
        outcomes = {key: entry.outcome for key, entry in known.items() if entry.outcome is not None}
        return KnownTrials(known, members, compositions, judge(outcomes))

    def _with_progress(self, entry: Entry) -> Entry:
        """Updates a CLAIMED row of another living session with the events in that session's journal."""
        assert entry.session is not None
        if entry.session not in self._replays:
            self._replays[entry.session] = (LogReader(self.journal(entry.session)), Replay())
        reader, replay = self._replays[entry.session]
        with contextlib.suppress(StoreError):  # a newer version writes the journal
            for _, event in reader.events():
                replay.take(event)
        known = replay.progress.get(entry.trial.id)
        if known is None:
            return entry
        outcome = known.outcome or entry.outcome
        state = SETTLED if outcome is not None and outcome.settled else entry.state
        return replace(entry, state=state, at=known.at, outcome=outcome)


def _recompose(database: sqlite3.Connection, composition: Composition) -> None:
    content = json.dumps({**vars(composition), "id": None})
    database.execute("UPDATE stacks SET content = ? WHERE id = ?", (content, composition.id))
