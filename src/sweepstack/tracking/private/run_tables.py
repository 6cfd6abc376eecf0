"""Reads runs, curves and datasets of an sqlite store by SQL, as MLflow's client does after an import of seconds.

Each function returns None if the client must be asked instead: MLflow's tables have a version that was not tried, use
workspaces or hold what MLflow does not write; the database is locked or damaged; the filter has another form; or
`private_api_switch.tricks` asks for the public way. Nothing is written: the database is opened read-only, and all that
one function reads is of one moment.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sweepstack.journal.database import batches
from sweepstack.private_api_switch import tricks

SCHEMAS = frozenset({"dc11669786a5"})
"""The versions of MLflow's tables that these functions were tried with: the one of MLflow 3.17."""
WORKSPACES = "MLFLOW_ENABLE_WORKSPACES"
"""MLflow's environment variable with which its client sees only some of the experiments."""
CLAUSES = {
    r"tags\.`([^`]+)` LIKE '%'": "run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value IS NOT NULL)",
    r"tags\.`([^`]+)` = '([^']*)'": "run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)",
    r"tags\.`([^`]+)` = \"([^\"]*)\"": "run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)",
    r"attributes\.run_id LIKE '([0-9a-f]+)%'": "run_uuid GLOB ? || '*'",
    r"attributes\.run_id IN \(('\w+'(?:, '\w+')*)\)": "instr(?, '''' || run_uuid || '''')",
    r"attributes\.status = '(\w+)'": "status = ?",
}
"""SQL for the parts of filters in MLflow's language, whose groups are the values."""
NAME_TAG = "mlflow.runName"
"""MLflow's tag with the name of a run that has none in the table."""
SECONDS = 30.0
"""How long a writer is waited for."""


@dataclass(frozen=True)
class RunInfo:
    """What `mlflow.entities.RunInfo` has, as far as it is used."""

    run_id: str
    run_name: str
    experiment_id: str
    status: str
    start_time: int
    end_time: int | None
    artifact_uri: str


@dataclass(frozen=True)
class RunData:
    """What `mlflow.entities.RunData` has."""

    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


@dataclass(frozen=True)
class StoredRun:
    """What `mlflow.entities.Run` has, as far as it is used."""

    info: RunInfo
    data: RunData


class StoredPoint(NamedTuple):
    """A value of a metric at one step of a run."""

    run_id: str
    timestamp: int
    step: int
    value: float


class StoredDataset(NamedTuple):
    """The dataset of a run."""

    name: str
    digest: str
    profile: str | None


class _AskClientError(Exception):
    """The client must be asked instead."""


def find_runs(database: Path, condition: str, only: int | None = None) -> list[StoredRun] | None:
    """Returns the active runs of active experiments that match a filter, oldest first, as `search_runs` does.

    Args:
        database: the file of the store.
        condition: a filter in MLflow's language, made of `CLAUSES`; empty for all.
        only: the number of runs to return at most; None for all.
    """
    where = _as_sql(condition)
    if where is None:
        return None
    chosen = (
        "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active' AND experiment_id IN "
        f"(SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active') AND {where[0]} "
        f"ORDER BY start_time IS NULL, start_time, run_uuid {'' if only is None else f'LIMIT {only:d}'}"
    )
    with contextlib.suppress(sqlite3.Error, _AskClientError), _snapshot(database) as opened:
        infos = opened.execute(
            "SELECT run_uuid, name, experiment_id, status, start_time, end_time, artifact_uri FROM runs "
            f"WHERE run_uuid IN ({chosen}) ORDER BY start_time IS NULL, start_time, run_uuid",
            where[1],
        ).fetchall()
        data = {run_id: RunData({}, {}, {}) for run_id, *_ in infos}
        for table in ("params", "tags"):
            texts = opened.execute(f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({chosen})", where[1])
            for run_id, key, value in texts:
                if not isinstance(value, str):
                    raise _AskClientError
                getattr(data[run_id], table)[key] = value
        values = opened.execute(
            f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN ({chosen})", where[1]
        )
        for run_id, key, value, is_nan in values:
            data[run_id].metrics[key] = _number(value, is_nan)
        runs = []
        for run_id, name, experiment, *others in infos:
            own = data[run_id]
            runs.append(StoredRun(RunInfo(run_id, name or own.tags.get(NAME_TAG, ""), str(experiment), *others), own))
        return runs
    return None


def metric_points(database: Path, run_ids: Sequence[str], metric: str) -> list[StoredPoint] | None:
    """Returns all values of a metric in runs, in the order of the runs' ids, times and steps.

    The public way is `MlflowClient.get_metric_history`, for each run.

    Args:
        database: the file of the store.
        run_ids: the ids of the runs.
        metric: the key of the metric.
    """
    with contextlib.suppress(sqlite3.Error, _AskClientError), _snapshot(database) as opened:
        found = []
        for part in batches(run_ids):
            rows = opened.execute(
                "SELECT run_uuid, timestamp, step, value, is_nan FROM metrics "
                f"WHERE key = ? AND run_uuid IN ({','.join('?' * len(part))}) "
                "ORDER BY run_uuid, timestamp, step, value",
                (metric, *part),
            )
            found += [StoredPoint(run_id, at, step, _number(value, nan)) for run_id, at, step, value, nan in rows]
        return found
    return None


def datasets_of(database: Path, run_id: str) -> list[StoredDataset] | None:
    """Returns the datasets of a run. The public way is `MlflowClient.get_run`."""
    with contextlib.suppress(sqlite3.Error, _AskClientError), _snapshot(database) as opened:
        rows = opened.execute(
            "SELECT name, digest, dataset_profile FROM inputs JOIN datasets ON dataset_uuid = source_id "
            "WHERE destination_id = ? AND destination_type = 'RUN' AND source_type = 'DATASET'",
            (run_id,),
        )
        return [StoredDataset(*row) for row in rows]
    return None


def _as_sql(condition: str) -> tuple[str, list[str]] | None:
    """Returns a filter in SQL and its values; None if it has another form than `CLAUSES`."""
    clauses, values = ["1"], list[str]()
    for part in condition.split(" AND ") if condition else ():
        for pattern, clause in CLAUSES.items():
            if found := re.fullmatch(pattern, part):
                clauses.append(clause)
                values += found.groups()
                break
        else:
            return None
    return " AND ".join(clauses), values


def _number(value: object, is_nan: object) -> float:
    if is_nan:
        return math.nan
    if isinstance(value, int | float):
        return float(value)
    raise _AskClientError


@contextlib.contextmanager
def _snapshot(database: Path) -> Iterator[sqlite3.Connection]:
    """Opens a database read-only, in one transaction.

    Raises:
        sqlite3.Error: it cannot be read so; for example, a killed process has left a transaction to undo.
        _AskClientError: its tables are not those that were tried.
    """
    if not tricks() or os.environ.get(WORKSPACES, "").lower() not in ("", "0", "false"):
        raise _AskClientError
    address = f"{database.as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=SECONDS, isolation_level=None)) as opened:
        opened.execute("BEGIN")
        versions = [version for (version,) in opened.execute("SELECT version_num FROM alembic_version")]
        in_workspaces = opened.execute("SELECT 1 FROM experiments WHERE workspace <> 'default' LIMIT 1").fetchone()
        if len(versions) != 1 or versions[0] not in SCHEMAS or in_workspaces:
            raise _AskClientError
        yield opened
