"""Reads and writes the rows of the ledger. A row that cannot be read is left out, and can be set aside."""

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


@dataclass(frozen=True)
class Unreadable:
    """A row of a trial that cannot be read."""

    number: int
    """The rowid."""
    id: str
    """The id of its trial, which may be damaged."""
    run_id: str | None
    session: Any
    """The number of its session, which may be damaged."""
    why: str
    """Why it cannot be read."""


def entries(database: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[Entry]:
    """Returns the readable rows of trials that fulfil a condition in SQL.

    Args:
        condition: what follows `WHERE`, with `?` for each of the values.
        values: the values of the condition.
    """
    found = (_entry_of(row) for row in _rows(database, condition, values))
    return [entry for entry in found if isinstance(entry, Entry)]


def set_aside(database: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[Unreadable]:
    """Moves rows of trials that cannot be read to the table `set_aside`; their trials can then be trained again.

    Args:
        condition: selects the rows that are checked; see `entries`.
        values: the values of the condition.
    """
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
    """Returns the composition of a stack; None if it is unknown, damaged, or stored in another format."""
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


def note_taken_over(database: sqlite3.Connection, trial_id: str) -> None:
    """Notes which session a trial has had. Call it before the trial gets another one."""
    database.execute(
        "INSERT INTO taken_over (trial, session) SELECT id, session FROM trials WHERE id = ? AND session NOT NULL",
        (trial_id,),
    )


def note(database: sqlite3.Connection, line: str) -> None:
    """Stores a line until the user has seen it."""
    database.execute("INSERT INTO notes (line) VALUES (?)", (line,))


def note_set_aside(database: sqlite3.Connection, rows: Sequence[Unreadable]) -> None:
    """Stores a line for the user about rows that were set aside."""
    if rows:
        some = "a trial" if len(rows) == 1 else f"{len(rows)} trials"
        note(
            database,
            f"What the journal's ledger holds of {some} cannot be read ({rows[0].why}): it is set aside there, and "
            "what has no outcome yet can be trained again.",
        )


def note_progress(
    database: sqlite3.Connection, session: int, trial_id: str, progress: Progress, interrupted: bool = False
) -> None:
    """Stores the progress of a trial in its row, unless the row belongs to another session by now.

    Args:
        interrupted: nobody trains the trial now.
    """
    outcome, ended = progress.outcome, progress.ended
    content = None if ended is None else json.dumps(end_as_json(ended, progress.started))
    state = SETTLED if outcome is not None and outcome.settled else INTERRUPTED if interrupted else None
    database.execute(
        "UPDATE trials SET state = CASE state WHEN 'SETTLED' THEN state ELSE coalesce(?, state) END, "
        "at = max(at, ?), measured = max(measured, ?), outcome = coalesce(?, outcome) WHERE id = ? AND session = ?",
        (state, progress.at, progress.measured, content, trial_id, session),
    )


def trial_of(database: sqlite3.Connection, trial_id: str) -> Trial | None:
    """Returns the trial of an id; None if there is no row of it, or if the row cannot be read."""
    return next((entry.trial for entry in entries(database, "id = ?", (trial_id,))), None)


def recover_trial(database: sqlite3.Connection, session: int, trial: Trial) -> None:
    """Inserts the row of a trial that was found in the journal of a lost session.

    If a later session has the trial, its row stays with that session.

    Args:
        session: the number of the session, which was inserted again.
        trial: the trial as its event `Started` holds it.
    """
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


def restore_row(database: sqlite3.Connection, session: int, trial: Trial, number: int | None) -> None:
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
