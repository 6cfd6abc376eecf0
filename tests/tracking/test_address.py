"""Where a store and its experiment are, and what a user must type to reach them from anywhere."""

import shlex
from pathlib import Path

import pytest

from sweepstack.errors import StoreError
from sweepstack.tracking.address import (
    connectable,
    database_of,
    default_uri,
    own_options,
    sqlite_uri,
    sweepstack_command,
)
from sweepstack.tracking.experiments import check_not_deleted, experiment_name
from sweepstack.tracking.runs_as_rows import newest
from sweepstack.tracking.store import Store


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["c#", "50%", "50%25", "why?", "a b"])
def test_a_store_lies_in_a_folder_of_any_name_and_is_reached_by_the_address_that_is_printed(
    tmp_path: Path, name: str, empty_database: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    store = Store(sqlite_uri(folder / "mlflow.db"))
    assert store.database == folder / "mlflow.db"
    assert store.check() is None
    run = store.client.create_run(store.experiment_id("digits"))
    store.client.log_text(run.info.run_id, "text", "note.txt")
    assert [*folder.glob("artifacts/digits/*/artifacts/note.txt")]
    assert [*tmp_path.iterdir()] == [folder]
    *_, printed = shlex.split(sweepstack_command("table", store.uri))
    assert Store(printed).database == store.database


def test_a_question_mark_in_what_is_typed_would_begin_options() -> None:
    with pytest.raises(StoreError, match=r"a \? in it written as %3F, got 'sqlite:///a\?b.db'"):
        Store("sqlite:///a?b.db")


def test_a_command_names_the_store_unless_it_is_that_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert own_options(None) == []
    assert own_options("sqlite:///my.db") == ["--store", f"sqlite:///{tmp_path}/my.db"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///of_environment.db")
    assert own_options(None) == ["--store", f"sqlite:///{tmp_path}/of_environment.db"]
    assert own_options(default_uri()) == ["--store", default_uri()]
    folder = database_of(own_options(None)[1]).parent / "journal" / "of_environment.db"
    assert "--journal" not in own_options(None, folder)
    assert own_options(None, "mine")[2:] == ["--journal", f"{tmp_path}/mine"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    of_project = f"sqlite:///{tmp_path}/mine/mlruns/mlflow.db"
    assert own_options(of_project) == ["--store", of_project]
    (tmp_path / "mine" / "conf").mkdir(parents=True)
    (tmp_path / "mine" / "conf" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path / "mine" / "conf")
    assert own_options(of_project) == own_options(None) == []


def test_a_masked_address_works_where_the_environment_knows_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "postgresql://somebody:***@127.0.0.1:1/db"
    with pytest.raises(StoreError, match=r"must have its password, got .*; write it instead of \*\*\*"):
        Store(printed)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", printed.replace("***", "hunter22"))
    assert Store(printed).uri == printed
    with connectable(Store(printed).uri) as address:
        assert address == printed.replace("***", "hunter22")


def test_the_experiment_is_chosen_as_mlflow_does_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert experiment_name(None, "train", store.database) == "train"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", store.experiment_id("by id"))
    assert experiment_name(None, "train", store.database) == "by id"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    assert experiment_name(None, "train", store.database) == "by name"
    assert experiment_name("chosen", "train", store.database) == "chosen"


def test_a_deleted_experiment_is_noticed_before_anything_trains(store: Store) -> None:
    store.client.delete_experiment(store.experiment_id("gone"))
    check_not_deleted("another", store.database)
    with pytest.raises(StoreError, match=r"must not be deleted, 'gone' of .* is; restore it with MLflow, or choose"):
        check_not_deleted("gone", store.database)


def test_a_sweep_of_a_clock_that_was_ahead_is_not_the_newest_for_ever() -> None:
    now = 1_000_000_000
    assert newest({"before": now - 5000, "ahead": now + 10**9}, now) == "before"
    assert newest({"before": now - 5000, "ahead": now + 10**9, "after": now - 10}, now) == "after"
    assert newest({"ahead": now + 10**9}, now) == "ahead"
    assert newest({"before": now - 5000, "of another machine": now + 1000}, now) == "of another machine"
