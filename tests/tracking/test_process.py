"""The writer's process: whoever dies, what has been measured is kept, and nobody waits for the dead."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweepstack.config import TrialConfig
from sweepstack.errors import StoreError
from sweepstack.tracking.process import WriterProcess, writer_process
from sweepstack.tracking.store import Store
from sweepstack.trial import DatasetFacts, Ended, Measured, Measurement, Outcome, Started, Trial, TrialState

FACTS = DatasetFacts("0123", 3, 2, 1)
DONE = Outcome(TrialState.FINISHED, {"val/accuracy": 0.5, "test/accuracy": 0.4, "train_seconds": 1.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def process(store: Store) -> Iterator[WriterProcess]:
    process = WriterProcess(store.uri)
    yield process
    process.close()
    process._process.wait(60)


@pytest.fixture
def trial(digits_config: Callable[..., TrialConfig]) -> Callable[[int], Trial]:
    def make(number: int) -> Trial:
        params = {"dataset": "digits", "lr": number}
        return Trial(digits_config(), number, f"lr={number}", params, Path(), "epochs: 2\n", ("lr=1",), "sweep")

    return make


def measured(trial: Trial, epoch: int, value: float = 0.5) -> Measured:
    return Measured(trial, Measurement(epoch, epoch * 10, 20, {"val/accuracy": value}), time.time())


def states(store: Store) -> dict[str, str]:
    return {row.name: row.state for row in store.rows("all")}


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_recordings_in_one_process_and_the_rows_of_both_come_back(process: WriterProcess, store, trial) -> None:
    for number in (1, 2):
        with process.recording("train", print) as put:
            put(Started(trial(number), time.time(), FACTS))
            put(measured(trial(number), 1, 0.25))
            put(measured(trial(number), 2))
            put(Ended(trial(number), DONE, time.time()))
    rows, link = process.find("latest")()
    assert {row.name: (row.state, row.metrics["val/accuracy"]) for row in rows} == {
        "lr=1": ("FINISHED", 0.5),
        "lr=2": ("FINISHED", 0.5),
    }
    assert rows == store.rows("sweep")
    assert link == store.link(rows[0])
    history = store.client.get_metric_history(rows[0].run_id, "val/accuracy")
    assert sorted((point.step, point.value) for point in history) == [(1, 0.25), (2, 0.5)]


def test_what_cannot_be_found_is_a_store_error_here_too(process: WriterProcess) -> None:
    with pytest.raises(StoreError, match="holds no trials yet; train some"):
        process.find("latest")()


def test_nothing_is_created_where_nothing_is_recorded(process: WriterProcess, store, tmp_path: Path) -> None:
    with process.recording("train", print):
        pass
    with contextlib.suppress(StoreError):
        process.find("latest")()
    assert list(tmp_path.iterdir()) == []


def test_a_command_has_one_process_for_each_store(tmp_path: Path, monkeypatch) -> None:
    one = writer_process(f"sqlite:///{tmp_path}/mlflow.db")
    assert writer_process(f"sqlite:///{tmp_path}/mlflow.db") is one
    other = writer_process(f"sqlite:///{tmp_path}/other.db")
    assert other is not one
    for process in (one, other):
        process.close()
        assert process._process.wait(60) == 0


def test_an_interrupt_kills_what_is_open_and_keeps_what_is_finished(process: WriterProcess, store, trial) -> None:
    def record() -> None:
        with process.recording("train", print) as put:
            for number in (1, 2):
                put(Started(trial(number), time.time(), FACTS))
            put(Ended(trial(1), DONE, time.time()))
            raise KeyboardInterrupt("Ctrl-C")

    with pytest.raises(KeyboardInterrupt):
        record()
    assert {row.name: (row.state, row.reason) for row in store.rows("all")} == {
        "lr=1": ("FINISHED", ""),
        "lr=2": ("KILLED", "Ctrl-C"),
    }


def test_a_refused_trial_is_told_once_and_is_an_error_at_the_end(process: WriterProcess, trial, tmp_path) -> None:
    said: list[str] = []

    def record() -> None:
        with process.recording("train", said.append) as put:
            put(Started(trial(1), time.time(), FACTS))
            put(Ended(trial(1), DONE, time.time(), (tmp_path / "not there",)))
            wait_until(lambda: said != [])

    with pytest.raises(StoreError, match=r"1 of the trials could not be recorded in sqlite.*No such file"):
        record()
    (line,) = said
    assert line.endswith("training goes on.")


def test_an_event_that_cannot_be_sent_is_named_and_holds_up_no_other(process: WriterProcess, store, trial) -> None:
    odd = dataclasses.replace(trial(1), params={"dataset": lambda: None})

    def record() -> None:
        with process.recording("train", print) as put:
            for one in (odd, trial(2)):
                put(Started(one, time.time(), FACTS))
                put(Ended(one, DONE, time.time()))

    with pytest.raises(StoreError, match="1 of the trials could not be recorded"):
        record()
    assert states(store)["lr=2"] == "FINISHED"


def test_when_the_process_is_killed_training_goes_on_and_the_end_says_what_is_lost(process, store, trial) -> None:
    said: list[str] = []
    trained: list[int] = []

    def record() -> None:
        with process.recording("train", said.append) as put:
            put(Started(trial(1), time.time(), FACTS))
            put(Ended(trial(1), DONE, time.time()))
            wait_until(lambda: process._unrecorded == set())
            os.kill(process._process.pid, signal.SIGKILL)
            wait_until(lambda: said != [])
            for number in range(2, 2002):  # more than a pipe holds
                put(Started(trial(number), time.time(), FACTS))
                put(Ended(trial(number), DONE, time.time()))
                trained.append(number)

    with pytest.raises(StoreError, match=r"2000 of the trials could not be recorded in .* ended by SIGKILL.*run again"):
        record()
    assert len(trained) == 2000
    assert said == ["The process that writes records was ended by SIGKILL; training goes on."]
    assert states(store) == {"lr=1": "FINISHED"}
    with pytest.raises(StoreError, match="sweepstack table"):
        process.find("latest")()


def test_putting_ten_thousand_trials_never_waits_for_the_store(process: WriterProcess, trial) -> None:
    """Not even before it has loaded MLflow."""
    one = trial(1)
    slowest = 0.0

    def record() -> None:
        nonlocal slowest
        with process.recording("train", print) as put:
            for number in range(10_000):
                event = Started(dataclasses.replace(one, number=number), time.time(), FACTS)
                begun = time.perf_counter()
                put(event)
                slowest = max(slowest, time.perf_counter() - begun)
            process._process.kill()

    with pytest.raises(StoreError):
        record()
    assert slowest < 0.5  # the GIL may be had by the thread that sends


PARENT = """
import sys, time
from pathlib import Path
from sweepstack.config import TrialConfig
from sweepstack.tracking.process import writer_process
from sweepstack.trial import DatasetFacts, Ended, Measured, Measurement, Outcome, Started, Trial, TrialState

config = TrialConfig.model_validate_json(sys.argv[2])
trials = [Trial(config, number, f"lr={number}", {"dataset": "digits"}, Path(), "", (), "sweep") for number in (1, 2)]
with writer_process(sys.argv[1]).recording("train", print) as put:
    for trial in trials:
        put(Started(trial, time.time(), DatasetFacts("0123", 3, 2, 1)))
        put(Measured(trial, Measurement(1, 10, 20, {"val/accuracy": 0.25}), time.time()))
    put(Ended(trials[0], Outcome(TrialState.FINISHED, {"val/accuracy": 0.25}), time.time()))
    time.sleep(float(sys.argv[3]))
    print("go", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("before", [0.2, 8.0])
def test_when_training_is_killed_what_was_measured_is_kept_and_nothing_stays_running(
    store: Store, tmp_path: Path, digits_config: Callable[..., TrialConfig], before: float
) -> None:
    """Before MLflow is loaded, and after the first delivery."""
    config = digits_config().model_dump_json(by_alias=True)
    words = [sys.executable, "-c", PARENT, store.uri, config, str(before)]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"go\n"
    parent.kill()
    parent.wait()

    def over() -> bool:
        with contextlib.suppress(StoreError):
            return len(states(store)) == 2 and "RUNNING" not in states(store).values()
        return False

    wait_until(over)
    assert {row.name: (row.state, row.reason, row.metrics["val/accuracy"]) for row in store.rows("all")} == {
        "lr=1": ("FINISHED", "", 0.25),
        "lr=2": ("KILLED", "the training process has died", 0.25),
    }
