"""Commands that are killed while they make something in MLflow that is no trial: the next use leaves nothing of it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from sweepstack.files import scratch
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.leftovers import finish_leftovers
from sweepstack.tracking.models import log_and_register, registered
from sweepstack.tracking.runs import Record, find_run
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import SUMMARY_TAG, record_summary

from ..stories import Command, MakeTrial, ask, deliver_all, in_process, kill_myself, killed_at

KILLED = -9


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder, in which nothing is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def run(store: Store, ledger: Ledger, trial: MakeTrial) -> Record:
    """A finished trial. The store's client is made again in each process that uses it."""
    command = Command(ledger)
    command.train(trial(1))
    command.end()
    deliver_all(store, ledger)
    found = find_run(store, "lr=1")
    store._client = None
    return found


REPORT: dict[str, Callable[[], Any]] = {
    "after the run is made": lambda: killed_at(MlflowClient, "create_run", after=True),
    "before the files": lambda: killed_at(MlflowClient, "log_artifacts"),
    "after the files": lambda: killed_at(MlflowClient, "log_artifacts", after=True),
}


@pytest.mark.parametrize("moment", REPORT.values(), ids=REPORT)
@pytest.mark.parametrize("again", [True, False], ids=["report", "sync"])
def test_a_report_that_is_killed_leaves_no_run_running(
    store: Store, run: Record, moment: Callable[[], Any], again: bool
) -> None:
    def story() -> None:
        moment()
        record_summary(store, "sweep", run.row.experiment_id, {"report.html": b"page"})

    assert in_process(story) == KILLED
    if again:
        record_summary(store, "sweep", run.row.experiment_id, {"report.html": b"page"})
    else:
        finish_leftovers(store)
    found = ask(store, f"SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = '{SUMMARY_TAG}'")
    assert found == [("FINISHED",)]


REGISTER: dict[str, Callable[[], Any]] = {
    "after the model is made": lambda: killed_at(MlflowClient, "create_logged_model", after=True),
    "after its files": lambda: killed_at(MlflowClient, "log_model_artifacts", after=True),
    "after it is ready": lambda: killed_at(MlflowClient, "finalize_logged_model", after=True),
    "after its name is made": lambda: killed_at(MlflowClient, "create_registered_model", after=True),
    "after its version is made": lambda: killed_at(MlflowClient, "create_model_version", after=True),
    "after it has its alias": lambda: killed_at(MlflowClient, "set_registered_model_alias", after=True),
    "before the end": lambda: killed_at(MlflowClient, "delete_logged_model_tag"),
}


@pytest.mark.parametrize("moment", REGISTER.values(), ids=REGISTER)
def test_a_model_that_is_not_registered_as_a_whole_is_removed_or_registered_by_the_next_use(
    store: Store, run: Record, tmp_path: Path, moment: Callable[[], Any], request: pytest.FixtureRequest
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "weights.pt").write_bytes(b"weights")
    image, answer = np.zeros((1, 64), np.float32), np.zeros((1, 10), np.float32)

    def register() -> None:
        log_and_register(store, run, "digits", "best", data, [], ["numpy"], image, answer)

    def story() -> None:
        moment()
        register()

    assert in_process(story) == KILLED
    finish_leftovers(store)
    is_whole = "alias" in request.node.name or "the end" in request.node.name
    kept = [("READY",)] if is_whole else []
    assert ask(store, "SELECT CASE status WHEN 2 THEN 'READY' ELSE status END FROM logged_models "
                      "WHERE lifecycle_stage = 'active'") == kept  # fmt: skip
    versions = store.client.search_model_versions("name = 'digits'")
    assert len(versions) == len(kept)
    assert [*registered(store).get("digits", {})] == (["best"] if is_whole else [])
    folders = list((tmp_path / "artifacts").rglob("MLmodel"))
    assert len(folders) == len(kept)
    register()
    assert registered(store)["digits"].keys() == {"best"}
    assert {path.parent.parent.name for path in (tmp_path / "artifacts").rglob("MLmodel")} == {
        model.model_id for model in store.client.search_logged_models([run.row.experiment_id])
    }


def test_what_somebody_registers_now_is_left_alone(store: Store, run: Record) -> None:
    model = store.client.create_logged_model(
        run.row.experiment_id, "digits", tags={"sweepstack.registering": f"{os.uname().nodename} {os.getppid()}"}
    )
    finish_leftovers(store)
    assert store.client.get_logged_model(model.model_id).status == "PENDING"


def test_a_temporary_folder_is_removed_by_the_next_use_when_its_process_was_killed(temporary: Path) -> None:
    def story() -> None:
        with scratch.scratch() as folder:
            (folder / "file").write_bytes(b"content")
            kill_myself()

    assert in_process(story) == KILLED
    (left,) = temporary.iterdir()
    with scratch.scratch() as mine:
        assert not left.exists()
        with scratch.scratch() as other:
            assert sorted(temporary.iterdir()) == sorted([mine.parent, other.parent])
