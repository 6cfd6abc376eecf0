"""The ledger: who trains what, what was interrupted, and in which stack.

A trial's row stays until its whole stack is settled and recorded, for a stack that goes on needs all of its members.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweepstack.errors import StoreError
from sweepstack.journal.codec import UnreadableError, outcome_from_json, trial_as_json
from sweepstack.journal.database import reading, transaction
from sweepstack.journal.entries import (
    LEFT,
    OPEN,
    SETTLED,
    Composition,
    Entry,
    composition_of,
    entries,
    note_taken_over,
    parts,
)
from sweepstack.journal.log import Reader
from sweepstack.journal.replay import Fold
from sweepstack.journal.schema import is_whole
from sweepstack.journal.sessions import Sessions
from sweepstack.trial import Outcome, Trial


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


class Ledger(Sessions):
    """The sessions of a store, and what each of them trains."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folds: dict[int, tuple[Reader, Fold]] = {}

    def claim(self, session: int, trials: Sequence[Trial], again: bool = False) -> Claim:
        """Takes for a session what nobody else trains. Sessions that have died are seen to first.

        Args:
            trials: with a fingerprint and an id of their own, should they be new.
            again: train what is settled, too.
        """
        claim = Claim()
        wanted = {trial.fingerprint: trial for trial in trials}
        stacks: dict[str, list[Entry]] = {}
        with transaction(self.file) as database:
            self._bury(database)
            for part in parts([*wanted]):
                self._set_aside(database, f"fingerprint IN ({','.join('?' * len(part))})", part)
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
                note_taken_over(database, entry.trial.id)
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
        if not self.file.exists():
            return {}
        with reading(self.file) as database:
            known = self._by_fingerprint(database, [trial.fingerprint for trial in trials])
        return {key: self._as_told(entry, look=True) if entry.state == OPEN else entry for key, entry in known.items()}

    def composition(self, stack: str) -> Composition | None:
        """Of a stack that was planned."""
        with reading(self.file) as database:
            return composition_of(database, stack)

    def members(self, stack: str) -> list[Entry]:
        """All that is known of the trials of a stack."""
        with reading(self.file) as database:
            return list(entries(database, "stack = ?", (stack,)))

    def plan(self, session: int, compositions: Iterable[Composition]) -> None:
        """Keeps how a session's trials are composed, so that they are gone on with in the same company."""
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
            database.executemany("UPDATE trials SET state = 'LEFT' WHERE id = ? AND session = ?", ids)

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
        with contextlib.suppress(StoreError):  # a newer version writes it
            for _, event in reader.events():
                fold.take(event)
        known = fold.progress.get(entry.trial.id)
        outcome = known.outcome if known is not None and known.outcome is not None else entry.outcome
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
        if composition is None or not goes_on(composition, known, wanted):
            return None
        members: dict[str, Entry] = {}
        if any(entry.outdated and entry.trial.fingerprint not in wanted for entry in known):
            return None  # what this version does not understand it cannot train
        for entry in known:
            trial = wanted.get(entry.trial.fingerprint)
            if entry.outdated and trial is not None:
                entry = replace(entry, trial=_renewed(trial, entry), outdated="")
            if entry.state == LEFT:
                renewed = entry.trial if trial is None else _renewed(trial, entry)
                entry = Entry(renewed, session, stack, OPEN, entry.run_id, entry.at, entry.measured)
                note_taken_over(database, renewed.id)
                database.execute(
                    "UPDATE trials SET session = ?, state = 'OPEN', trial = ?, outcome = NULL WHERE id = ?",
                    (session, json.dumps(trial_as_json(renewed)), renewed.id),
                )
            members[entry.trial.id] = entry
        return composition, members


def goes_on(composition: Composition, known: Sequence[Entry], wanted: Container[str]) -> bool:
    """Whether a stack that was left open is gone on with: no member is missing, and it has begun or is no more than the
    fingerprints that are wanted."""
    ids = {one for trials in composition.trajectories for one in trials}
    begun = any(entry.begun for entry in known) or all(entry.trial.fingerprint in wanted for entry in known)
    return begun and ids <= {entry.trial.id for entry in known}


def _renewed(trial: Trial, entry: Entry) -> Trial:
    """The trial as the sweep of now knows it, with the record that it has already."""
    return replace(trial, id=entry.trial.id)
