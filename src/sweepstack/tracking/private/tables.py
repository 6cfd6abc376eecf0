"""Reads the tables of an sqlite store by SQL, in milliseconds. The import of MLflow would take seconds.

Each function returns None if that fails: the database is locked, MLflow has changed its tables, or `tricks.tricks` asks
for the public way. Then the caller asks MLflow's client. The tables of runs have been the same since MLflow 1.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sweepstack.journal.database import batches
from sweepstack.private_api_switch import tricks
from sweepstack.tracking.runs_as_rows import FINGERPRINT_TAG, REASON_TAG, RUNGS_TAG, SETTLED_TAG


@dataclass
class SettledRun:
    """A run whose trial has finished or failed."""

    fingerprint: str
    """The text of the tag; a user may have changed it."""
    run_id: str
    status: str
    artifact_uri: str
    started: int
    reason: str = ""
    rungs: str = ""
    """The text of `RUNGS_TAG`."""
    metrics: dict[str, float] = field(default_factory=dict)


def settled_runs(database: Path, configs: Sequence[str]) -> list[SettledRun] | None:
    """Returns the settled runs of some configs. The public way is `MlflowClient.search_runs` for all settled runs.

    Args:
        database: the file of the store.
        configs: the digests of the configs, which are the first parts of the fingerprints.
    """
    if not tricks():
        return None
    with contextlib.suppress(sqlite3.Error), _open_read_only(database) as opened:
        found: dict[str, SettledRun] = {}
        for part in batches(sorted({*configs})):
            rows = opened.execute(
                "SELECT tags.value, runs.run_uuid, runs.status, runs.artifact_uri, runs.start_time FROM tags "
                "JOIN runs USING (run_uuid) WHERE tags.key = ? AND runs.lifecycle_stage = 'active' "
                "AND runs.status IN ('FINISHED', 'FAILED') "
                f"AND substr(tags.value, 1, 20) IN ({','.join('?' * len(part))})",
                (SETTLED_TAG, *part),
            )
            found |= {run.run_id: run for run in (SettledRun(*row) for row in rows)}
        for part in batches(list(found)):
            marks = ",".join("?" * len(part))
            metrics = opened.execute(
                f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN ({marks})", part
            )
            for run_id, key, value, is_nan in metrics:
                found[run_id].metrics[key] = math.nan if is_nan else value
            texts = opened.execute(
                f"SELECT run_uuid, key, value FROM tags WHERE key IN (?, ?) AND run_uuid IN ({marks})",
                (REASON_TAG, RUNGS_TAG, *part),
            )
            for run_id, key, text in texts:
                setattr(found[run_id], "reason" if key == REASON_TAG else "rungs", text)
        return list(found.values())
    return None


def artifact_uris(database: Path, run_id: str | None = None) -> list[tuple[str, str, str]] | None:
    """Returns (id, artifact address, fingerprint) of one run or of all. The public way is `MlflowClient.get_run`."""
    if not tricks():
        return None
    with contextlib.suppress(sqlite3.Error), _open_read_only(database) as opened:
        rows = opened.execute(
            "SELECT run_uuid, artifact_uri, (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = ?) "
            f"FROM runs {'' if run_id is None else 'WHERE run_uuid = ?'}",
            (FINGERPRINT_TAG,) if run_id is None else (FINGERPRINT_TAG, run_id),
        )
        return [(run, uri, fingerprint or "") for run, uri, fingerprint in rows]
    return None


def experiment(database: Path, column: Literal["name", "experiment_id"], value: str) -> tuple[str, str] | None:
    """Returns the name and the lifecycle stage of an experiment; None if it does not exist, too.

    The public ways are `MlflowClient.get_experiment_by_name` and `get_experiment`; see `experiments`.

    Args:
        database: the file of the store.
        column: the column to search in.
        value: the name or the id of the experiment.
    """
    with contextlib.suppress(sqlite3.Error), _open_read_only(database) as opened:
        found: tuple[str, str] | None = opened.execute(
            f"SELECT name, lifecycle_stage FROM experiments WHERE {column} = ?", (value,)
        ).fetchone()
        return found
    return None


def newer_schema(database: Path) -> str | None:
    """Returns the version of a database's tables if the installed MLflow is too old to know it; else None.

    The public way is to let MLflow refuse the database during delivery; then the journal keeps the records.
    """
    spec = importlib.util.find_spec("mlflow")
    if not tricks() or spec is None or spec.origin is None:
        return None
    steps = Path(spec.origin).parent / "store" / "db_migrations" / "versions"
    known = {file.name.split("_")[0] for file in steps.glob("*.py")}
    with contextlib.suppress(sqlite3.Error), _open_read_only(database) as opened:
        found: list[Any] = opened.execute("SELECT version_num FROM alembic_version").fetchall()
        return next((version for (version,) in found if known and version not in known), None)
    return None


@contextlib.contextmanager
def _open_read_only(database: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=30)) as opened:
        yield opened
