"""A store that version 1 of the stored records has left: an ended sweep, and one that was killed in the middle."""

import json
import os
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sweepstack.cli.main import main
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.open_store import ledger_of
from sweepstack.execution.prepare import prepare
from sweepstack.execution.scheduler import execute
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.ledger_rows import entries
from sweepstack.planning.known_trials import SETTLED
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process
from sweepstack.trial import Outcome, Trial

from ..stories import ask, content, deliver_all
from ..terminal import new_store

KEPT = Path(__file__).with_name("store_of_version_1.zip")
WAS = "/home/user/digits"
"""Where it was."""


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Store:
    """The kept store, moved here: it has MLflow's rows without its tables, which are of MLflow's version."""
    store = new_store(tmp_path, empty_database)
    here: Callable[[bytes], bytes] = lambda text: text.replace(WAS.encode(), os.fsencode(tmp_path))  # noqa: E731
    with zipfile.ZipFile(KEPT) as kept:
        kept.extractall(tmp_path)
    for path in tmp_path.glob("journal/*/*.jsonl"):
        lines = (here(line.partition(b" ")[2]) for line in path.read_bytes().splitlines())
        path.write_bytes(b"".join(b"%08x %b\n" % (zlib.crc32(line), line) for line in lines))
    for name, file in (("mlflow.sql", "mlflow.db"), ("ledger.sql", "journal/mlflow.db/ledger.db")):
        with sqlite3.connect(tmp_path / file) as database:
            database.executescript(here((tmp_path / name).read_bytes()).decode())
        database.close()
    return store


def known(ledger: Ledger) -> list[Trial]:
    """The trials that the ledger has, as the sweep that was killed knows them."""
    from sweepstack.journal.database import reading

    with reading(ledger.file) as database:
        return [replace(entry.trial, id="") for entry in entries(database, "TRUE", ())]


def figures(store: Store) -> dict[tuple[str, str], float]:
    question = "SELECT runs.name, key, value FROM latest_metrics JOIN runs USING (run_uuid)"
    return {(name, key): value for name, key, value in ask(store, question) if "seconds" not in key}


def test_a_store_that_version_1_has_left_is_read_and_nothing_of_it_is_lost(store: Store) -> None:
    before = figures(store)
    deliver_all(store, ledger_of(store, None))
    states = {row.name: (row.state, row.sweep) for row in store.rows("all")}
    assert states == {
        "lr=0.1": ("FINISHED", "first"),
        "lr=1e+38": ("FAILED", "first"),
        "lr=0.3 epochs=3": ("FINISHED", "second"),
        "lr=0.1 epochs=60": ("KILLED", "second"),
        "lr=0.3 epochs=60": ("KILLED", "second"),
    }
    assert sorted(row.name for row in store.rows("second")) == [
        "lr=0.1",
        "lr=0.1 epochs=60",
        "lr=0.3 epochs=3",
        "lr=0.3 epochs=60",
    ]
    now = figures(store)
    assert {key: now[key] for key in before} == before
    (finished,) = (row for row in store.rows("second") if row.name == "lr=0.3 epochs=3")
    assert round(finished.metrics["test/accuracy"], 4) == 0.8972
    assert finished.params["lr"] == "0.3"


def test_what_version_1_has_left_open_is_resumed_and_ends_as_undisturbed(
    store: Store, tmp_path: Path, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = known(ledger_of(store, None))
    assert len(trials) == 3
    process = writer_process(store.uri)
    outcomes = train(trials, store)
    told = capsys.readouterr().out
    (tmp_path / "undisturbed").mkdir()
    elsewhere = new_store(tmp_path / "undisturbed", empty_database)
    other = writer_process(elsewhere.uri)
    expected = train([replace(one, folder=tmp_path / "undisturbed" / one.name) for one in trials], elsewhere)
    for one in (process, other):
        one.close()
        one._process.wait(60)
    # Another kind of processor had trained the first epochs, and rounds differently.
    assert outcomes == {name: pytest.approx(metrics, rel=1e-5) for name, metrics in expected.items()}
    assert "1 trial trained before: not trained again" in told
    assert "1 stack interrupted before" in told
    assert "checkpoint" not in told.lower()
    assert {row.state for row in store.rows("second")} == {"FINISHED"}
    points = "SELECT key, step FROM metrics JOIN runs USING (run_uuid) WHERE runs.name = 'lr=0.3 epochs=60'"
    steps = [step for key, step in ask(store, points) if key == "val/accuracy"]
    assert sorted(steps) == list(range(1, 61))
    ledger = ledger_of(store, None)
    assert all(entry.state == SETTLED for entry in ledger.peek(trials).entries.values())
    assert ledger.end_dead_sessions() == []


def test_what_version_1_has_left_is_cleaned_and_deleted_by_what_it_says(store: Store, tmp_path: Path) -> None:
    folder = ledger_of(store, None).folder
    before = content(folder)

    def sweepstack(*words: str) -> Any:
        done = CliRunner().invoke(main, [*words, "--json", "--store", store.uri])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    found = sweepstack("clean", "--kept")
    assert (found["unneeded"], found["kept"]) == ([], [])
    assert {item["why"] for item in found["needed"]} >= {
        "it is not delivered yet: sweepstack sync delivers it",
        "the command that trained these trials was killed: the same command goes on from here",
    }
    assert content(folder) == before
    deleted = sweepstack("delete", "second", "--yes")
    assert (len(deleted["deleted_runs"]), len(deleted["forgotten_trials"])) == (3, 2)
    assert deleted["checkpoint_bytes"] > 0
    assert list(deleted["shared_runs"].values()) == [["first"]]
    assert {row.name: row.sweep for row in store.rows("all")} == {"lr=0.1": "first", "lr=1e+38": "first"}
    assert [*(folder / "checkpoints").iterdir()] == []


def train(trials: list[Trial], store: Store) -> dict[str, dict[str, float]]:
    """Figures by trial; the plain text of the config is as it was."""
    threads = torch.get_num_threads()
    outcomes: dict[str, Outcome] = execute(prepare(trials, "train", InProcessExecutor()), store, InProcessExecutor())
    torch.set_num_threads(threads)
    return {
        trial.name: {key: value for key, value in outcomes[trial.fingerprint].metrics.items() if "seconds" not in key}
        for trial in trials
    }
