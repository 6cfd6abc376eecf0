"""Where the store is, its first use, and its runs as rows."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweepstack.errors import StoreError
from sweepstack.journal.ledger import Ledger
from sweepstack.paths import project_root
from sweepstack.private_api_switch import NO_TRICKS
from sweepstack.tracking.address import resolve_uri
from sweepstack.tracking.histories import histories
from sweepstack.tracking.runs_as_rows import member_tag
from sweepstack.tracking.store import Store

from .. import here
from ..stories import Command, MakeTrial, content, deliver_all, in_process, read_only
from ..terminal import ROOT


def test_the_store_is_the_projects_own_whatever_the_working_directory(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert project_root() == ROOT
    assert resolve_uri(None) == f"sqlite:///{ROOT}/mlruns/mlflow.db"
    assert resolve_uri("sqlite:///other/my.db") == f"sqlite:///{tmp_path}/other/my.db"
    assert resolve_uri(f"sqlite:///{tmp_path}/my.db") == f"sqlite:///{tmp_path}/my.db"


def test_mlflows_own_variable_is_heeded_and_the_config_goes_first(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5123")
    assert Store().uri == "http://127.0.0.1:5123"
    assert Store("http://127.0.0.1:5124").uri == "http://127.0.0.1:5124"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(StoreError, match=r"must be a database or a server, got '\./mlruns'"):
        Store()


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_trains(reachable: Path, store: Store) -> None:
    with pytest.raises(StoreError, match="must be writable"):
        Store("sqlite:////proc/1/mlflow.db").check()
    assert store.database is not None
    shutil.copy(store.database, reachable / "mlflow.db")
    with read_only(reachable):
        for name in ("mlflow.db", "new.db", "deep/new.db"):
            with pytest.raises(StoreError, match=r"must be writable, got .*; choose another with tracking\.uri="):
                Store(f"sqlite:///{reachable}/{name}").check()


def test_a_database_that_needs_files_beside_it_says_so_where_none_can_be(
    reachable: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sqlite in WAL mode makes two of them, also to read."""
    assert store.database is not None
    shutil.copy(store.database, reachable / "a store.db")
    with contextlib.closing(sqlite3.connect(reachable / "a store.db")) as database:
        assert database.execute("PRAGMA journal_mode=wal").fetchall() == [("wal",)]
    monkeypatch.chdir(reachable)
    option = ("--store", f"sqlite:///{reachable}/a store.db")
    with read_only(reachable):
        for words in (("table",), ("show", "lr=1"), ("report", "-o", "-"), ("compare", "a", "b")):
            done = here.sweepstack(*words, *option)
            assert (done.code, done.out) == (2, "")
            assert done.err == (
                "error: a database in WAL mode must lie in a folder that can be written to, even to be read, "
                f"got '{reachable}/a store.db'; copy it to such a folder, or type where it can be written: "
                "sqlite3 'a store.db' 'PRAGMA journal_mode=delete'\n"
            )
        assert here.sweepstack("status", *option).code == 0  # it asks the journal
    assert "holds no trials yet" in here.sweepstack("table", *option).err


def test_a_store_that_can_be_had_is_not_touched_by_the_check(store: Store, tmp_path: Path) -> None:
    before = content(tmp_path)
    assert store.check() is None
    assert Store(f"sqlite:///{tmp_path}/deep/new.db").check() is None
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "what",
    [
        "text",
        "folder",
    ],
)
def test_what_is_no_database_is_said_before_anything_trains(tmp_path: Path, what: str) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("results of last year, not to be overwritten") if what == "text" else path.mkdir()
    with pytest.raises(StoreError, match=r"mlflow\.db.*; choose another with tracking\.uri=sqlite:///FILE") as caught:
        Store(f"sqlite:///{path}").check()
    assert "\n" not in str(caught.value)


def test_a_store_of_a_newer_mlflow_is_said_before_anything_trains_and_left_as_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # the public way is to hear it from MLflow, when all is trained
    assert store.database is not None
    with contextlib.closing(sqlite3.connect(store.database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    before = content(store.database.parent)
    newer = r"must be of MLflow 3\.\S+ or an older one, .*mlflow\.db is of a newer one \(schema ffffffffffff\); update"
    with pytest.raises(StoreError, match=newer) as caught:
        store.check()
    assert "\n" not in str(caught.value)
    assert content(store.database.parent) == before


def test_of_a_store_of_an_older_mlflow_it_is_said_how_to_upgrade_it(store: Store) -> None:
    assert store.database is not None
    with contextlib.closing(sqlite3.connect(store.database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
    done = here.sweepstack("table", "--store", store.uri)
    remedy = f"make a copy of it, then type: mlflow db upgrade {store.uri}"
    line = f"error: the tables of the tracking store {store.uri} are those of an older MLflow; {remedy}\n"
    assert (done.code, done.err) == (2, line)


def test_a_server_that_does_not_answer_is_a_line_and_a_host_that_is_not_known_an_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        line = Store(address).check()
        assert line is not None
        assert line.startswith(f"The tracking server {address} does not answer (Connection refused). Training goes on;")
        probe.listen()
        assert Store(address).check() is None
    with pytest.raises(
        StoreError, match=r"^the tracking server must have a host that is known, got http://no\.invalid:5"
    ):
        Store("http://no.invalid:5000").check()


def test_an_experiment_is_created_once_and_its_artifacts_lie_beside_the_database(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/deep/mlflow.db")
    name = "learning rates / größer"
    assert store.experiment_id(name) == store.experiment_id(name) == Store(store.uri).experiment_id(name)
    location = store.client.get_experiment_by_name(name).artifact_location
    assert location.startswith((tmp_path / "deep" / "artifacts").as_uri())


def test_a_deleted_experiment_is_named_with_the_remedy(store: Store) -> None:
    store.client.delete_experiment(store.experiment_id("old"))
    with pytest.raises(StoreError, match=r"experiment 'old' has been deleted .* tracking.experiment=NAME"):
        store.experiment_id("old")


def test_a_first_use_that_is_killed_in_the_middle_bricks_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = (
        f"from sweepstack.tracking.store import Store; print('go', flush=True); Store({uri!r}).experiment_id('train')"
    )
    dice = random.Random(0)
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        child.stdout.readline()
        aside = tmp_path / ".mlflow.db.new"
        deadline = time.monotonic() + 60
        while not aside.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.5))  # the making takes one to two seconds
        with contextlib.suppress(ProcessLookupError):  # one that was not killed in time leaves the next ones no work
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert Store(uri).experiment_id("train") == "1"
    assert not list(tmp_path.glob(".mlflow.db.new*"))


ODD = ("sweep", "größe 1,5", "a=b {x}: (y)", "c", "a_b", "a=b", "2026-07-01_12-00-00_a1b2", "...", "x" * 200)


def test_a_sweep_is_found_by_its_name_whatever_the_name(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    assert len({member_tag(sweep) for sweep in ODD}) == len(ODD)
    command = Command(ledger)
    for number, sweep in enumerate(ODD):
        command.train(trial(number, sweep))
    command.train(trial(99, None))
    command.end()
    deliver_all(store, ledger)
    for number, sweep in enumerate(ODD):
        (row,) = store.rows(sweep)
        assert (row.name, row.sweep) == (f"lr={number}", sweep)
    assert [row.sweep for row in store.rows()] == [ODD[-1]]
    assert len(store.rows("all")) == len(ODD) + 1
    with pytest.raises(StoreError, match=r"there is no sweep 'sweeep' in .*; did you mean 'sweep'\?"):
        store.rows("sweeep")


def test_a_trial_on_its_own_is_a_row_of_no_sweep(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    command = Command(ledger)
    command.train(trial(1, None))
    command.end()
    deliver_all(store, ledger)
    assert [(row.name, row.sweep) for row in store.rows("all")] == [("lr=1", None)]
    with pytest.raises(StoreError, match="holds no sweep yet, only single runs; use --sweep all"):
        store.rows()


def test_runs_of_an_earlier_version_are_rows_of_the_sweep_that_they_name(store: Store) -> None:
    experiment = store.experiment_id("train")
    for number, sweep in enumerate(("old", "old", "newer")):
        tags = {"sweepstack.version": "0.0.1", "sweep": sweep}
        store.client.create_run(experiment, 1000 + number, tags, f"lr={number}")
    assert [row.name for row in store.rows("old")] == ["lr=0", "lr=1"]
    assert [row.name for row in store.rows()] == ["lr=2"]
    assert {row.sweep for row in store.rows("all")} == {"old", "newer"}
    # A later sweep asks for one of them, and later the old one is resumed: none of its runs is lost by that.
    (first, _) = store.runs("tags.sweep = 'old'")
    store.client.set_tag(first.info.run_id, member_tag("later"), "2000 later")
    assert [row.name for row in store.rows("later")] == ["lr=0"]
    assert [row.name for row in store.rows("old")] == ["lr=0", "lr=1"]
    tags = {"sweepstack.version": "0.1.0", "sweep": "old", member_tag("old"): "3000 old"}
    store.client.create_run(experiment, 3000, tags, "lr=3")
    assert [row.name for row in store.rows("old")] == ["lr=0", "lr=1", "lr=3"]
    assert [row.name for row in store.rows()] == ["lr=0", "lr=1", "lr=3"]


def test_infinity_stays_infinity_in_curves(store: Store) -> None:
    run = store.client.create_run(store.experiment_id("train")).info.run_id
    for step, loss in enumerate((0.5, float("inf"), float("-inf"))):
        store.client.log_metric(run, "val/loss", loss, step=step)
    assert [point.value for point in histories(store, [run], "val/loss")] == [0.5, float("inf"), float("-inf")]


def test_a_run_is_found_by_its_trial_and_others_in_the_order_in_which_they_began(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    command = Command(ledger)
    command.train(*map(trial, (3, 1, 2)))
    command.end()
    deliver_all(store, ledger)
    assert [run.info.run_name for run in store.runs("")] == ["lr=3", "lr=1", "lr=2"]
    (run,) = store.runs("params.lr = '1'")
    assert store.run_of("sweep-1") == run.info.run_id
    assert store.run_of("sweep-7") is None


def test_a_store_that_is_not_there_has_no_runs_and_is_not_made(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/deep/mlflow.db")
    assert store.runs("") == []
    assert store.run_of("sweep-1") is None
    with pytest.raises(
        StoreError, match=r"holds no trials yet, there is no such file; correct its address, or train some"
    ):
        store.rows()
    assert list(tmp_path.iterdir()) == []


def test_a_store_whose_trials_were_deleted_says_so(store: Store) -> None:
    experiment = store.experiment_id("gone")
    run = store.client.create_run(experiment, run_name="one", tags={"sweepstack.version": "1"})
    store.client.delete_run(run.info.run_id)
    with pytest.raises(
        StoreError, match="holds no trials yet, because they have been deleted; restore what was deleted"
    ):
        store.rows()
    store.client.restore_run(run.info.run_id)
    store.client.delete_experiment(experiment)
    with pytest.raises(StoreError, match="because experiment 'gone' has been deleted"):
        store.rows()


def test_a_store_whose_trials_wait_in_the_journal_says_so(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/mlflow.db")
    command = Command(Ledger(tmp_path / "journal" / "mlflow.db"))
    command.die()
    with pytest.raises(StoreError, match="was trained by a command waits in the journal; type: sweepstack sync"):
        store.rows()


@pytest.mark.parametrize("scheme", ["mysql", "mysql+pymysql", "mssql+pymssql", "postgresql+pg8000"])
def test_a_driver_that_is_missing_is_named_before_anything_trains(scheme: str) -> None:
    with pytest.raises(StoreError, match=rf"a store at {re.escape(scheme)}:// needs the driver .*pip install"):
        Store(f"{scheme}://host/name").check()


def test_a_transaction_that_fails_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # with the public way each call is a transaction of its own
    experiment = store.experiment_id("train")

    def half() -> None:
        with store.transaction():
            run = store.client.create_run(experiment, run_name="half")
            store.client.set_tag(run.info.run_id, "sweepstack.version", "1")
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        half()
    assert store.runs("") == []
    with store.transaction():
        store.client.create_run(experiment, run_name="whole")
        assert [run.info.run_name for run in store.runs("")] == ["whole"]  # seen from inside
        assert in_process(lambda: _sees_no_run(store)) == 0  # and not from outside
    assert [run.info.run_name for run in store.runs("")] == ["whole"]


def _sees_no_run(store: Store) -> None:
    assert store.database is not None
    with contextlib.closing(sqlite3.connect(store.database)) as database:
        assert database.execute("SELECT * FROM runs").fetchall() == []
