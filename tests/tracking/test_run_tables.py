"""What is read of an sqlite store by SQL is what MLflow's client tells, or the client is asked."""

import contextlib
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweepstack.private_api_switch import NO_TRICKS
from sweepstack.results.show import describe_run
from sweepstack.results.tables import frame, rendering
from sweepstack.tracking.address import sqlite_uri
from sweepstack.tracking.histories import histories
from sweepstack.tracking.origin import origin
from sweepstack.tracking.private import run_tables
from sweepstack.tracking.runs import find_run
from sweepstack.tracking.runs_as_rows import VERSION_TAG, member_tag, row_of
from sweepstack.tracking.store import Store

CONDITIONS = ("", f"tags.`{VERSION_TAG}` LIKE '%'", "tags.`sweep` = 'first'", "attributes.status = 'RUNNING'")
LONG = "ü" * 6000
"""A param of the greatest length that MLflow takes."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A store in an odd folder, with whatever a store can hold."""
    folder = tmp_path_factory.mktemp("odd") / "a b%20#ü?"
    folder.mkdir()
    database = folder / "my store.db"
    shutil.copy(empty_database, database)
    from mlflow.entities import Metric, Param

    store = Store(sqlite_uri(database))
    store.follow_move()
    ids = [store.experiment_id(name) for name in ("train", "größer", "gone")]
    nasty = [("val/accuracy", 0.5), ("val/loss", math.nan), ("test/loss", math.inf), ("loss/ü", -math.inf)]
    for number in range(12):
        tags = {"sweep": "first", member_tag("first"): "1000 first"} if number % 2 else {}
        tags |= {VERSION_TAG: "0.1.0", "note": "äöü\n\t'\"`%_"} if number % 3 else {}
        run = store.client.create_run(ids[number % 3], 1000 - number % 4, tags, f"lr={number} ü")
        run_id = run.info.run_id
        params = {"lr": f"{number}e-3", "text": LONG if number == 1 else f"'{number}", "x": ""}
        values = [
            Metric(key, value if step % 2 else step / 7, 50 + step, step)
            for key, value in nasty
            for step in range(number)
        ]
        values += [Metric(key, 3.0, 1, 0) for key, _ in nasty]  # a step twice, or once
        store.client.log_batch(run_id, values, [Param(*one) for one in params.items()])
        if number != 5:
            status = ("FINISHED", "FAILED", "KILLED")[number % 3]
            store.client.set_terminated(run_id, status, 2000 + number)
        if number == 7:
            store.client.delete_run(run_id)
    store.client.delete_experiment(ids[2])
    return database


def told(database: Path) -> dict[str, Any]:
    """All that is read of a store."""
    store = Store(sqlite_uri(database))
    runs = store.runs("")
    names = ("run_id", "run_name", "experiment_id", "status", "start_time", "end_time", "artifact_uri")
    found: dict[str, Any] = {
        "rows": [row_of(run) for run in runs],
        "infos": [[getattr(run.info, name) for name in names] for run in runs],
        "tags": [run.data.tags for run in runs],
        "curves": {key: histories(store, [run.info.run_id for run in runs], key) for key in ("val/loss", "loss/ü")},
        "origins": [origin(store, run.info.run_id) for run in runs],
        "first": [run.info.run_id for run in store.runs("", only=2)],
        "tables": [rendering.render(frame.table(sweep, store=store), "csv") for sweep in ("latest", "all")],
        "shown": [describe_run(store, find_run(store, row.run_id)) for row in store.rows("all")],
    }
    for condition in CONDITIONS:
        found[condition] = [run.info.run_id for run in store.runs(condition)]
    return found


def both_ways(database: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What is told by SQL and through the client. As text, in which NaN is NaN."""
    monkeypatch.delenv(NO_TRICKS, raising=False)
    by_sql = told(database)
    monkeypatch.setenv(NO_TRICKS, "1")
    by_client = told(database)
    monkeypatch.delenv(NO_TRICKS)
    return repr(by_sql), repr(by_client)


@pytest.mark.parametrize("number", range(2))
def test_sql_tells_what_the_client_tells(filled: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    if number:  # as the database of a server is, and with a record that is not in the main file yet
        opened = sqlite3.connect(filled)
        assert opened.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        opened.execute("UPDATE tags SET value = '0.2.0' WHERE key = ?", (VERSION_TAG,))
        opened.commit()
    before = filled.read_bytes()
    monkeypatch.delenv(NO_TRICKS, raising=False)
    found = run_tables.find_runs(filled, "")
    assert found is not None
    assert len(found) == 7  # of 12, without those of a deleted experiment and a deleted one
    assert {run.info.run_name: run.data.metrics["val/loss"] for run in found}["lr=10 ü"] is math.nan
    assert ("0.2.0" in {run.data.tags.get(VERSION_TAG) for run in found}) == bool(number)
    by_sql, by_client = both_ways(filled, monkeypatch)
    assert by_sql == by_client
    assert filled.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE latest_metrics SET value = 'much' WHERE key = 'val/accuracy'",
        "UPDATE metrics SET value = 'much' WHERE key = 'val/accuracy'",
        "UPDATE tags SET value = x'ff' WHERE key = 'note'",
        "UPDATE runs SET name = NULL, end_time = NULL",
        "UPDATE runs SET name = ''",
        "DELETE FROM latest_metrics",
        "DELETE FROM runs WHERE status = 'KILLED'",  # their params are there still
    ],
)
def test_damaged_rows_are_told_as_by_the_client(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    database = copy_of(filled, tmp_path)
    with contextlib.closing(sqlite3.connect(database)) as opened:
        assert opened.execute(damage).rowcount
        opened.commit()
    ends = []
    for value in ("", "1"):
        monkeypatch.setenv(NO_TRICKS, value)
        try:
            ends.append(repr(told(database)))
        except Exception as error:
            ends.append(f"{type(error).__name__}: {error}")
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE alembic_version SET version_num = '89d3d66ed43f'",
        "DELETE FROM alembic_version",
        "UPDATE experiments SET workspace = 'of others' WHERE name = 'train'",
        "ALTER TABLE latest_metrics RENAME TO renamed",
    ],
)
def test_tables_that_are_not_known_are_left_to_the_client(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)
    database = copy_of(filled, tmp_path)
    assert run_tables.find_runs(database, "") is not None
    with contextlib.closing(sqlite3.connect(database)) as opened:
        opened.execute(change)
        opened.commit()
    assert run_tables.find_runs(database, "") is None


def test_what_sql_cannot_read_is_left_to_the_client(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)
    monkeypatch.setattr(run_tables, "SECONDS", 0.1)
    database = copy_of(filled, tmp_path)
    assert run_tables.find_runs(database, "metrics.`val/loss` > 1") is None
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET name = 'not yet'")
        found = run_tables.find_runs(database, "")
        assert found is not None
        assert "not yet" not in {run.info.run_name for run in found}
        writer.execute("ROLLBACK")
        writer.execute("BEGIN EXCLUSIVE")
        assert run_tables.find_runs(database, "") is None
    (tmp_path / "text.db").write_text("this is no database " * 100)
    for name in ("text.db", "missing.db"):
        assert run_tables.find_runs(tmp_path / name, "") is None
    assert not (tmp_path / "missing.db").exists()
    monkeypatch.setenv(run_tables.WORKSPACES, "true")
    assert run_tables.find_runs(database, "") is None


def test_the_installed_mlflow_makes_tables_that_are_known(empty_database: Path) -> None:
    """Else nothing is wrong, but slow: add the version to `SCHEMAS` if these tests pass with it."""
    with contextlib.closing(sqlite3.connect(empty_database)) as opened:
        assert {version for (version,) in opened.execute("SELECT version_num FROM alembic_version")} <= (
            run_tables.SCHEMAS
        )


@pytest.mark.parametrize("words", [["table", "--sweep", "all"], ["show", "lr=1 ü"]])
def test_table_and_show_import_no_heavy_library(filled: Path, words: list[str]) -> None:
    program = """
import sys
from sweepstack.cli.main import main

main(sys.argv[1:], standalone_mode=False)
sys.exit(str([name for name in ("mlflow", "torch", "matplotlib", "scipy", "sqlalchemy") if name in sys.modules]))
"""
    environment = {name: value for name, value in os.environ.items() if name != NO_TRICKS}
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--store", sqlite_uri(filled)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "lr" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


def copy_of(database: Path, folder: Path) -> Path:
    """A copy beside which lies no journal of sqlite's."""
    copied = folder / "mlflow.db"
    with (
        contextlib.closing(sqlite3.connect(database)) as source,
        contextlib.closing(sqlite3.connect(copied)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")
    Store(sqlite_uri(copied)).follow_move()
    return copied
