"""The rows of the ledger as values. A row that cannot be read blocks no other: it is left out, and can be set aside."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sweepstack.errors import one_line
from sweepstack.journal.codec import (
    UnreadableError,
    end_as_json,
    known_fields,
    outcome_from_json,
    stored_trial,
    trial_as_json,
)
from sweepstack.journal.replay import Progress
from sweepstack.journal.schema import STATES_OF_VERSION_1, TABLES, is_whole
from sweepstack.planning.known_trials import INTERRUPTED, SETTLED, Composition, Entry
from sweepstack.trial import StackSettings, Trial

AT_ONCE = 500
"""Values in one question to sqlite."""


@dataclass(frozen=True)
class Unreadable:
    """A row of a trial that cannot be read."""

    number: int
    """Of the row."""
    id: str
    """What its trial was known by, unless that is damaged."""
    run_id: str | None
    session: Any
    """The number of the session that had it, unless that is damaged."""
    why: str


def entries(database: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[Entry]:
    """The trials that fulfil a condition in SQL, but for those whose rows cannot be read."""
    found = (_entry_of(row) for row in _rows(database, condition, values))
    return [entry for entry in found if isinstance(entry, Entry)]


def set_aside(database: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[Unreadable]:
    """Puts away the rows of trials that cannot be read, of those that fulfil a condition in SQL: they are kept, and the
    trials can be trained again."""
    found = (_entry_of(row) for row in _rows(database, condition, values))
    unreadable = [one for one in found if isinstance(one, Unreadable)]
    columns = ", ".join(TABLES["trials"])
    for one in unreadable:
        database.execute(
            f"INSERT INTO set_aside ({columns}) SELECT {columns} FROM trials WHERE rowid = ?", (one.number,)
        )
        database.execute("DELETE FROM trials WHERE rowid = ?", (one.number,))
    return unreadable


def _rows(database: sqlite3.Connection, condition: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    whole = is_whole(database, "trials")
    columns = "trial, session, stack, state, run_id, at, measured, outcome"
    return database.execute(f"SELECT rowid, id, {whole}, {columns} FROM trials WHERE {condition}", values)


def _entry_of(row: tuple[Any, ...]) -> Entry | Unreadable:
    number, trial_id, whole, trial, session, stack, state, run_id, at, measured, outcome = row
    try:
        if not whole:
            raise UnreadableError("its checksum does not match")
        known, outdated = stored_trial(json.loads(trial))
        ended = None if outcome is None else json.loads(outcome)
        result = None if ended is None else outcome_from_json(ended)
    except (UnreadableError, ValueError) as error:
        return Unreadable(number, str(trial_id), run_id, session, one_line(error))
    state = STATES_OF_VERSION_1.get(state, state)
    return Entry(known, session, stack, state, run_id, at, measured, result, ended, outdated)


def composition_of(database: sqlite3.Connection, stack: str) -> Composition | None:
    """How a stack is composed; None for one that is unknown, damaged, or of a version that composed otherwise."""
    row = database.execute(
        f"SELECT content FROM stacks WHERE id = ? AND {is_whole(database, 'stacks')}", (stack,)
    ).fetchone()
    if row is None:
        return None
    try:
        content = json.loads(row[0])
        trajectories = tuple(tuple(trials) for trials in content["trajectories"])
        choice = known_fields(StackSettings, content["choice"])
        StackSettings(**choice)
        return Composition(
            **{**known_fields(Composition, content), "id": stack, "trajectories": trajectories, "choice": choice}
        )
    except (KeyError, TypeError, ValueError):
        return None


def parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many values at once as sqlite takes in one question."""
    for begin in range(0, len(values), AT_ONCE):
        yield values[begin : begin + AT_ONCE]


def note_taken_over(database: sqlite3.Connection, trial_id: str) -> None:
    """Before a trial gets another session."""
    database.execute(
        "INSERT INTO taken_over (trial, session) SELECT id, session FROM trials WHERE id = ? AND session NOT NULL",
        (trial_id,),
    )


def note(database: sqlite3.Connection, line: str) -> None:
    """Keeps a line until the user has been told it."""
    database.execute("INSERT INTO notes (line) VALUES (?)", (line,))


def note_set_aside(database: sqlite3.Connection, rows: Sequence[Unreadable]) -> None:
    """The user is to be told of rows that were set aside."""
    if rows:
        some = "a trial" if len(rows) == 1 else f"{len(rows)} trials"
        note(
            database,
            f"What the journal's ledger holds of {some} cannot be read ({rows[0].why}): it is set aside there, and "
            "what has no outcome yet can be trained again.",
        )


def note_progress(
    database: sqlite3.Connection, session: int, trial_id: str, progress: Progress, left: bool = False
) -> None:
    """Keeps what is known of a trial, unless another session has taken it over.

    Args:
        left: nobody trains it now.
    """
    outcome, ended = progress.outcome, progress.ended
    content = None if ended is None else json.dumps(end_as_json(ended, progress.started))
    state = SETTLED if outcome is not None and outcome.settled else INTERRUPTED if left else None
    database.execute(
        "UPDATE trials SET state = CASE state WHEN 'SETTLED' THEN state ELSE coalesce(?, state) END, "
        "at = max(at, ?), measured = max(measured, ?), outcome = coalesce(?, outcome) WHERE id = ? AND session = ?",
        (state, progress.at, progress.measured, content, trial_id, session),
    )


def trial_of(database: sqlite3.Connection, trial_id: str) -> Trial | None:
    """The trial of an id; None where there is none, or where it cannot be read."""
    return next((entry.trial for entry in entries(database, "id = ?", (trial_id,))), None)


def find_again(database: sqlite3.Connection, session: int, trial: Trial) -> None:
    """A trial that a journal without a session tells of, unless a later one has it."""
    if trial.run.tracking.experiment is not None:
        database.execute(
            "UPDATE sessions SET experiment = ? WHERE number = ?", (trial.run.tracking.experiment, session)
        )
    later = database.execute("SELECT 1 FROM trials WHERE id = ? AND session > ?", (trial.id, session)).fetchone()
    if later is None:
        note_taken_over(database, trial.id)
    database.execute(
        "INSERT INTO trials (id, fingerprint, session, state, trial) VALUES (?, ?, ?, 'CLAIMED', ?) "
        "ON CONFLICT (id) DO UPDATE SET session = max(excluded.session, coalesce(session, 0))",
        (trial.id, trial.fingerprint, session, json.dumps(trial_as_json(trial))),
    )


def restore(database: sqlite3.Connection, session: int, trial: Trial, number: int | None) -> None:
    """Inserts the row of a trial again after a damaged one was removed. The trial belongs to its planned stack again.

    Args:
        session: the session that trains the trial, or whose journal holds what is not delivered yet.
        trial: the trial as a journal tells it.
        number: the rowid of the damaged row, so that the order of the rows stays; None if it is unknown.
    """
    database.execute(
        "INSERT INTO trials (rowid, id, fingerprint, session, state, trial, stack) VALUES (?, ?, ?, ?, 'CLAIMED', ?, "
        "(SELECT id FROM stacks WHERE instr(content, ?) ORDER BY rowid DESC LIMIT 1))",
        (number, trial.id, trial.fingerprint, session, json.dumps(trial_as_json(trial)), json.dumps(trial.id)),
    )
