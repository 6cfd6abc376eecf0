"""Events in, MLflow runs out: whatever is refused, interrupted or late."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweepstack.config import TrialConfig
from sweepstack.errors import StoreError
from sweepstack.tracking.store import Row, Store
from sweepstack.tracking.writer import Writer
from sweepstack.trial import DatasetFacts, Ended, Measured, Measurement, Outcome, Started, Trial, TrialState

FACTS = DatasetFacts("0123", 3, 2, 1)
DONE = Outcome(TrialState.FINISHED, {"val/accuracy": 0.5, "test/accuracy": 0.4, "train_seconds": 1.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def trial(digits_config: Callable[..., TrialConfig]) -> Callable[[int], Trial]:
    def make(number: int) -> Trial:
        params = {"dataset": "digits", "lr": number}
        return Trial(digits_config(), number, f"lr={number}", params, Path(), "epochs: 2\n", ("lr=1",), "sweep")

    return make


def measured(trial: Trial, epoch: int, value: float = 0.5) -> Measured:
    return Measured(trial, Measurement(epoch, epoch * 10, 20, {"val/accuracy": value}), time.time())


def rows(store: Store) -> dict[str, Row]:
    return {row.name: row for row in store.rows("all")}


def history(store: Store, row: Row, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in store.client.get_metric_history(row.run_id, key))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_trial_that_ends_long_after_its_last_measurement_gets_no_false_points(store: Store, trial) -> None:
    one = trial(1)
    with Writer(store, "train", print) as writer:
        writer.put(Started(one, time.time(), FACTS))
        writer.put(measured(one, 1))
        writer.put(measured(one, 2))
        wait_until(lambda: not writer._pending and writer._inbox.empty())
        writer.put(Ended(one, DONE, time.time()))
    row = rows(store)["lr=1"]
    assert history(store, row, "val/accuracy") == [(1, 0.5), (2, 0.5)]
    assert history(store, row, "test/accuracy") == [(0, 0.4)]
    assert (row.state, row.metrics["train_seconds"]) == ("FINISHED", 1.0)


def test_a_trial_that_the_store_refuses_holds_up_no_other(store: Store, trial, tmp_path: Path) -> None:
    said: list[str] = []

    def record() -> None:
        with Writer(store, "train", said.append) as writer:
            for number in range(3):
                one = trial(number)
                writer.put(Started(one, time.time(), FACTS))
                files = (tmp_path / "not there",) if number == 0 else ()
                writer.put(Ended(one, DONE, time.time(), files))

    with pytest.raises(StoreError, match="1 of the trials could not be recorded"):
        record()
    assert {name: row.state for name, row in rows(store).items() if name != "lr=0"} == {
        "lr=1": "FINISHED",
        "lr=2": "FINISHED",
    }
    assert len(said) == 1  # one line, however many deliveries fail


def test_what_is_stopped_anywhere_does_not_stay_running(store: Store, trial) -> None:
    def record() -> None:
        with Writer(store, "train", print) as writer:
            writer.put(Started(trial(1), time.time(), FACTS))
            raise KeyboardInterrupt("Ctrl-C")

    with pytest.raises(KeyboardInterrupt):
        record()
    row = rows(store)["lr=1"]
    assert (row.state, row.reason) == ("KILLED", "Ctrl-C")


def test_thousands_of_measurements_nan_and_odd_names_arrive_whole(store: Store, trial) -> None:
    one = dataclasses.replace(trial(1), name="größe=<b>'\"", params={"dataset": "digits", "k" * 300: "v" * 9000})
    with Writer(store, "ünï", print) as writer:
        writer.put(Started(one, time.time(), FACTS))
        for epoch in range(1, 2501):
            writer.put(measured(one, epoch, epoch / 2500))
        writer.put(measured(one, 2501, float("nan")))
        writer.put(Ended(one, DONE, time.time()))
    row = rows(store)["größe=<b>'\""]
    assert len(history(store, row, "val/accuracy")) == 2501
    assert row.state == "FINISHED"
    assert max(map(len, row.params.values())) == 6000


def test_an_infinite_loss_is_read_back_as_infinite(store: Store, trial) -> None:
    one = trial(1)
    with Writer(store, "train", print) as writer:
        writer.put(Started(one, time.time(), FACTS))
        writer.put(Ended(one, Outcome(TrialState.FAILED, {"val/loss": float("inf")}, "too far"), time.time()))
    assert rows(store)["lr=1"].metrics["val/loss"] == float("inf")


def test_a_delivery_that_is_repeated_doubles_nothing_and_undoes_no_other(store: Store, trial, tmp_path: Path) -> None:
    late = tmp_path / "weights.pt"
    said: list[str] = []
    with Writer(store, "train", said.append) as writer:
        for number in range(3):
            writer.put(Started(trial(number), time.time(), FACTS))
            writer.put(measured(trial(number), 1))
            writer.put(Ended(trial(number), DONE, time.time(), (late,) if number == 1 else ()))
        wait_until(lambda: said != [])  # all has been written for the second one but its file
        late.write_bytes(b"weights")
    assert {name: row.state for name, row in rows(store).items()} == dict.fromkeys(("lr=0", "lr=1", "lr=2"), "FINISHED")
    row = rows(store)["lr=1"]
    assert history(store, row, "val/accuracy") == [(1, 0.5)]
    assert history(store, row, "test/accuracy") == [(0, 0.4)]
    kept = {file.path for file in store.client.list_artifacts(row.run_id)}
    assert kept == {"config.yaml", "overrides.yaml", "weights.pt"}


def test_a_transaction_that_is_undone_is_written_again_as_a_whole(store: Store, trial, monkeypatch) -> None:
    whole = Store._check_whole
    checks = iter([True] * 5)

    def undone_once(self: Store, connection: Any) -> None:
        if next(checks, False) is False and not failed:
            failed.append(True)
            connection.connection.driver_connection.execute("ROLLBACK")  # as sqlite does by itself on a full disk
        whole(self, connection)

    failed: list[bool] = []
    monkeypatch.setattr(Store, "_check_whole", undone_once)
    with Writer(store, "train", lambda line: None) as writer:
        for number in range(3):
            writer.put(Started(trial(number), time.time(), FACTS))
            writer.put(Ended(trial(number), DONE, time.time()))
    assert failed
    recorded = sorted((row.name, row.state) for row in store.rows("all"))
    assert recorded == [(f"lr={number}", "FINISHED") for number in range(3)]
