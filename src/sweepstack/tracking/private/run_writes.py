"""Writes a run without metrics into an sqlite store by SQL, as MLflow's client does after an import of seconds.

Each function returns a value that is false if the client must do it instead, for the reasons that `run_tables` gives or
because the database cannot be written to; then nothing has been written. The caller holds the lock `Store.writing`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from sweepstack.tracking.private.run_tables import NAME_TAG, SECONDS, AskClientError, check_tables

LONGEST_NAME = 250
"""Characters that the table has for the name of a run."""


def create_finished_run(database: Path, experiment_id: str, name: str, tags: Mapping[str, str], at: int) -> str | None:
    """Creates a run that is over, and returns its id. The public ways are `create_run` and `set_terminated`.

    Args:
        database: the file of the store.
        experiment_id: its experiment, which must be active and have its artifacts on this machine.
        name: the name of the run.
        tags: its tags.
        at: when it began and ended, in milliseconds since the epoch.
    """
    run_id = uuid.uuid4().hex
    with contextlib.suppress(sqlite3.Error, AskClientError), _transaction(database) as opened:
        found = opened.execute(
            "SELECT artifact_location FROM experiments WHERE experiment_id = ? AND lifecycle_stage = 'active'",
            (int(experiment_id),),
        ).fetchone()
        if found is None or not str(found[0]).startswith("file://") or len(name) > LONGEST_NAME:
            raise AskClientError
        opened.execute(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, "
            "start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
            "VALUES (?, ?, 'UNKNOWN', '', '', 'unknown', 'FINISHED', ?, ?, '', 'active', ?, ?)",
            (run_id, name, at, at, f"{found[0].rstrip('/')}/{run_id}/artifacts", int(experiment_id)),
        )
        rows = [(key, value, run_id) for key, value in {**tags, NAME_TAG: name}.items()]
        opened.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", rows)
        opened.execute("COMMIT")
        return run_id
    return None


def write_tag(database: Path, run_id: str, key: str, value: str) -> bool:
    """Sets a tag of a run. The public way is `MlflowClient.set_tag`.

    Args:
        database: the file of the store.
        run_id: the id of the run.
        key: the key of the tag.
        value: its new value.
    """
    with contextlib.suppress(sqlite3.Error, AskClientError), _transaction(database) as opened:
        opened.execute(
            "INSERT INTO tags (key, value, run_uuid) SELECT ?, ?, run_uuid FROM runs WHERE run_uuid = ? "
            "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value",
            (key, value, run_id),
        )
        opened.execute("COMMIT")
        return True
    return False


@contextlib.contextmanager
def _transaction(database: Path) -> Iterator[sqlite3.Connection]:
    """Opens a database in a transaction, which the block commits; without a commit nothing is written.

    Raises:
        sqlite3.Error: it cannot be written to.
        AskClientError: its tables are not those that were tried.
    """
    address = f"{database.as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=SECONDS, isolation_level=None)) as opened:
        opened.execute("BEGIN IMMEDIATE")
        check_tables(opened)
        yield opened
