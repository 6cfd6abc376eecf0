"""A store that was moved or copied: its files are found where it is, and nothing is written to where it was."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.artifacts import artifact
from sweepstack.tracking.private.relocation import moved_from
from sweepstack.tracking.store import Store

from ..stories import Command, MakeTrial, content, deliver_all
from ..terminal import Terminal

SAID = "The store was moved or copied from "


def ledger_in(project: Path) -> Ledger:
    return Ledger(project / "journal" / "mlflow.db")


def train(project: Path, trial: MakeTrial, number: int) -> None:
    """One trial, which leaves weights, by a command that does not deliver."""
    command = Command(ledger_in(project))
    one = trial(number, folder=project / str(number))
    one.folder.mkdir()
    (one.folder / "weights.pt").write_text(f"weights {number}")
    command.train(one, files=(one.folder / "weights.pt",))
    command.end()


def store_in(project: Path) -> Store:
    return Store(f"sqlite:///{project}/mlflow.db")


@pytest.fixture
def project(tmp_path: Path, trial: MakeTrial) -> Path:
    """With a store that was made there, a trial that is recorded and one whose records wait."""
    project = tmp_path / "a project"
    project.mkdir()
    store = store_in(project)
    assert store.client is not None
    train(project, trial, 1)
    deliver_all(store, ledger_in(project))
    train(project, trial, 2)
    return project


def weights(store: Store) -> dict[str, bytes | None]:
    return {row.name: artifact(store, row.run_id, "weights.pt") for row in store.rows("all")}


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_store_takes_its_files_along(project: Path, tmp_path: Path, trial: MakeTrial, how: str) -> None:
    new = tmp_path / "deep" / "new, place"
    new.parent.mkdir()
    before = content(project)
    (shutil.move if how == "moved" else shutil.copytree)(project, new)
    store = store_in(new)
    assert store.follow_move().startswith(f"{SAID}{project} to {new}: ")
    assert store.follow_move() == ""
    train(new, trial, 3)
    deliver_all(store, ledger_in(new))
    expected = {f"lr={number}": f"weights {number}".encode() for number in (1, 2, 3)}
    assert weights(store) == expected
    assert len([*new.glob("artifacts/*/*/artifacts/weights.pt")]) == 3
    assert project.exists() == (how == "copied")
    if how == "copied":
        assert content(project) == before
        deliver_all(store_in(project), ledger_in(project))
        assert weights(store_in(project)) == {name: expected[name] for name in ("lr=1", "lr=2")}


def test_a_reader_follows_too_and_files_that_stayed_are_found_where_they_are(project: Path, tmp_path: Path) -> None:
    shutil.copy(project / "mlflow.db", tmp_path / "mlflow.db")
    assert weights(store_in(tmp_path)) == {"lr=1": b"weights 1"}
    location = store_in(tmp_path).client.get_experiment_by_name("train").artifact_location
    assert location == (tmp_path / "artifacts" / "train").as_uri()


def test_another_spelling_of_the_same_place_is_no_move(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project)
    (tmp_path / "link.db").symlink_to(project / "mlflow.db")
    before = (project / "mlflow.db").read_bytes()
    for path in (tmp_path / "link" / "mlflow.db", tmp_path / "link.db", project / ".." / project.name / "mlflow.db"):
        store = Store(f"sqlite:///{path}")
        assert store.follow_move() == ""
        assert weights(store) == {"lr=1": b"weights 1"}
    assert (project / "mlflow.db").read_bytes() == before


def test_addresses_that_are_none_of_ours_stay(project: Path, tmp_path: Path) -> None:
    client = store_in(project).client
    kept = {
        "s3": "s3://bucket/artifacts/s3",
        "disk": "file:///big/artifacts/disk",
        "near": f"file://{project}/artifacts2",
    }
    for name, location in kept.items():
        client.create_experiment(name, location)
    moved = Path(shutil.move(project, tmp_path / "new"))
    client = store_in(moved).client
    assert {name: client.get_experiment_by_name(name).artifact_location for name in kept} == kept


def test_a_store_that_another_tool_made_is_left_as_it_is(tmp_path: Path, empty_database: Path) -> None:
    copied = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    assert moved_from(copied) == empty_database.parent
    with contextlib.closing(sqlite3.connect(copied)) as database, database:
        database.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'")
    assert moved_from(copied) is None
    assert moved_from(tmp_path / "none.db") is None


def test_a_registered_model_comes_along(terminal: Terminal, tmp_path: Path) -> None:
    old, new = Terminal(tmp_path / "old"), Terminal(tmp_path / "new")
    old.folder.mkdir()
    shutil.move(terminal.folder / "mlflow.db", old.folder)
    grid = ("-m", "dataset=digits", "epochs=1", "optimizer.lr=0.1,0.2", "tracking.sweep=one")
    assert old.type("train.py", *grid).returncode == 0
    assert old.type("sweepstack", "register").returncode == 0
    shutil.move(old.folder, new.folder)
    again = new.type("train.py", *grid, "hydra.sweep.dir=again")
    assert (again.returncode, again.stderr.count(SAID)) == (0, 1)
    assert (new.folder / "again" / "0" / "weights.pt").exists()
    assert new.type("sweepstack", "register", "--alias", "second").returncode == 0
    from sweepstack.results.register import load_predictor

    for alias in ("best", "second"):
        with load_predictor(new.store, alias) as (_, what):
            assert what.startswith("digits, version ")
    assert not old.folder.exists()
