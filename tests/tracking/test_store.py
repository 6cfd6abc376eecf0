"""Where the store is, and its first use."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweepstack.errors import StoreError
from sweepstack.tracking.store import Store, project_root, resolve_uri

from ..conftest import ROOT


def test_the_store_is_the_projects_own_whatever_the_working_directory(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert project_root() == ROOT
    assert resolve_uri(None) == f"sqlite:///{ROOT}/mlruns/mlflow.db"
    assert resolve_uri("sqlite:///other/my.db") == f"sqlite:///{ROOT}/other/my.db"
    assert resolve_uri(f"sqlite:///{tmp_path}/my.db") == f"sqlite:///{tmp_path}/my.db"


def test_mlflows_own_variable_is_heeded_and_the_config_goes_first(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5123")
    assert Store().uri == "http://127.0.0.1:5123"
    assert Store("http://127.0.0.1:5124").uri == "http://127.0.0.1:5124"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(StoreError, match=r"must be a database or a server, got '\./mlruns'"):
        Store()


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_trains() -> None:
    with pytest.raises(StoreError, match="must be writable"):
        Store("sqlite:////proc/1/mlflow.db").check()


def test_an_experiment_is_created_once_and_its_artifacts_lie_beside_the_database(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/deep/mlflow.db")
    name = "learning rates / größer"
    assert store.experiment_id(name) == store.experiment_id(name) == Store(store.uri).experiment_id(name)
    location = store.client.get_experiment_by_name(name).artifact_location
    assert location.startswith((tmp_path / "deep" / "artifacts").as_uri())


def test_a_deleted_experiment_is_named_with_the_remedy(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/mlflow.db")
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
