"""The process beside: whoever dies, what has been measured is recorded once, and nobody waits for the dead."""

import contextlib
import os
import pickle
import select
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweepstack.errors import StoreError
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.address import sweepstack_command as command_of
from sweepstack.tracking.store import Store
from sweepstack.tracking.ui import views
from sweepstack.tracking.writer import process as writing
from sweepstack.tracking.writer.client import Close, Closed, Loaded, Open, WriterProcess, writer_process

from ..stories import (
    Command,
    MakeTrial,
    ask,
    deliver_all,
    fingerprint,
    kill_myself,
    points,
    points_of,
    recording,
    rows,
    run_names,
    start_process,
    started,
    states,
    wait_for,
    wait_until,
)


@pytest.fixture
def process(store: Store) -> Iterator[WriterProcess]:
    with started(store) as process:
        yield process


def kill_the_child(process: WriterProcess) -> None:
    """And waits until it is started again, or is not."""
    pid = process._process.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process._process.pid != pid or process._dead)


def wait_until_gone(process: int, seconds: float = 60) -> None:
    wait_until(lambda: not Path(f"/proc/{process}").exists(), seconds)


def test_one_process_records_command_after_command_and_answers_what_it_is_asked(
    process: WriterProcess, store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    with pytest.raises(StoreError, match="holds no trials yet; train some"):
        process.find("latest")()
    for number in (1, 2):
        with recording(process, ledger) as command:
            command.train(trial(number))
            known = process.look([fingerprint(1), fingerprint(3)])
            assert set(known.finished) == ({fingerprint(1)} if number == 2 else set())
    found, link = process.find("latest")()
    assert {row.name: (row.state, row.metrics["val/accuracy"]) for row in found} == {
        "lr=1": ("FINISHED", 0.5),
        "lr=2": ("FINISHED", 0.5),
    }
    assert found == store.rows("sweep")
    assert link == views.link(store, found)
    assert points(store) == points_of("lr=1", "lr=2")
    assert ledger.end_dead_sessions() == []
    assert [path.name for path in ledger.folder.iterdir()] == ["ledger.db"]


def test_the_end_of_a_command_is_no_pause(store: Store, ledger: Ledger, trial: MakeTrial, monkeypatch) -> None:
    """However long the process waits for more. It is a thread here, so that its pause can be too long for any test."""
    monkeypatch.setattr(writing, "INTERVAL", 3600.0)
    orders_out, orders_in = os.pipe()
    answers_out, answers_in = os.pipe()
    with (
        open(orders_out, "rb") as orders,
        open(orders_in, "wb", 0) as ours,
        open(answers_out, "rb") as answers,
        open(answers_in, "wb") as its,
    ):
        process = threading.Thread(target=writing._Child(orders, its, os.getppid()).work, daemon=True)
        process.start()
        command = Command(ledger)
        for message in (store.uri, Open(ledger.folder, command.number)):
            ours.write(pickle.dumps(message))
        assert isinstance(pickle.load(answers), Loaded)
        command.train(trial(1))
        command.end()
        ours.write(pickle.dumps(Close()))
        assert select.select([answers], [], [], 60)[0]
        assert pickle.load(answers) == Closed(None)
        ours.close()
        process.join(60)
    assert states(store) == {"lr=1": "FINISHED"}


def test_a_command_has_one_process_for_each_store(tmp_path: Path, monkeypatch) -> None:
    one = writer_process(f"sqlite:///{tmp_path}/mlflow.db")
    assert writer_process(f"sqlite:///{tmp_path}/mlflow.db") is one
    other = writer_process(f"sqlite:///{tmp_path}/other.db")
    assert other is not one
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "another")
    third = writer_process(f"sqlite:///{tmp_path}/mlflow.db")
    assert third is not one
    for process in (one, other, third):
        process.close()
        assert process._process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


def test_while_it_records_it_takes_what_is_new_and_what_others_have_left(
    process: WriterProcess, store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    left = Command(ledger)
    left.train(trial(1))
    left.claim(trial(2))
    left.plan("stack", trial(2))
    left.start(trial(2))
    left.measure(trial(2), 1)
    left.die()
    with recording(process, ledger) as command:
        command.claim(trial(3))
        command.plan("other", trial(3))
        command.start(trial(3))
        command.measure(trial(3), 1)
        wait_until(lambda: run_names(store) == ["lr=1", "lr=2", "lr=3"])
        wait_until(lambda: points(store)[("lr=3", "val/accuracy", 1, 0.5)] == 1)
        command.measure(trial(3), 2)
        command.finish(trial(3))
    found = {name: (row.state, row.reason) for name, row in rows(store).items()}
    assert found == {"lr=1": ("FINISHED", ""), "lr=2": ("KILLED", "its process died"), "lr=3": ("FINISHED", "")}
    assert points(store) == points_of("lr=1", "lr=3") + Counter([("lr=2", "val/accuracy", 1, 0.5)])


def test_a_refused_trial_is_told_once_costs_no_other_and_can_be_delivered_later(
    process: WriterProcess, store: Store, ledger: Ledger, trial: MakeTrial, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    kept, elsewhere = ledger.files("sweep-1") / "weights.pt", tmp_path / "elsewhere.pt"
    said: list[str] = []
    told: list[str | None] = []
    with recording(process, ledger, said.append, told) as command:
        command.claim(trial(1))
        command.plan("stack", trial(1))
        command.start(trial(1))
        command.finish(trial(1), files=(weights,))
        kept.rename(elsewhere)
        command.train(trial(2))
        wait_until(lambda: said != [])
    (complaint,) = told
    assert complaint is not None
    assert complaint.startswith("Records of 1 trial ")
    assert (
        f"kept in the journal, because {store.uri} does not take them ([Errno 2] No such file or directory" in complaint
    )
    assert "); the next sweep delivers them, or type: sweepstack sync --store sqlite:///" in complaint
    assert "\n" not in complaint
    (line,) = said
    assert line.endswith("Training goes on; the journal keeps all records until they can be delivered.")
    assert states(store)["lr=2"] == "FINISHED"
    elsewhere.rename(kept)
    deliver_all(store, ledger)
    assert states(store) == {"lr=1": "FINISHED", "lr=2": "FINISHED"}
    assert ledger.end_dead_sessions() == []


def test_a_process_that_is_killed_is_started_anew_and_everything_is_recorded_once(
    process: WriterProcess, store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    """In the middle of a training, and once more while its end is waited for."""
    said: list[str] = []
    command = Command(ledger)
    process.open(ledger.folder, command.number, said.append)
    command.train(trial(1))
    command.claim(trial(2))
    command.plan("stack", trial(2))
    command.start(trial(2))
    command.measure(trial(2), 1)
    wait_until(lambda: run_names(store) == ["lr=1", "lr=2"])
    kill_the_child(process)
    command.measure(trial(2), 2)
    command.finish(trial(2))
    command.train(*map(trial, range(3, 20)))
    command.end()
    assert process.finish(0) is None
    kill_the_child(process)
    assert process.finish() is None
    found, _ = process.find("latest")()
    names = [f"lr={number}" for number in range(1, 20)]
    assert {row.name: row.state for row in found} == dict.fromkeys(names, "FINISHED")
    assert run_names(store) == sorted(names)
    assert points(store) == points_of(*names)
    assert said == []


def test_a_process_that_is_killed_again_and_again_is_told_and_training_goes_on(
    process: WriterProcess, store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    said: list[str] = []
    told: list[str | None] = []
    with recording(process, ledger, said.append, told) as command:
        command.train(trial(1))
        while not process._dead:
            kill_the_child(process)
        wait_until(lambda: said != [])
        slowest = 0.0
        command.claim(*map(trial, range(2, 52)))
        for number in range(2, 52):
            begun = time.monotonic()
            command.start(trial(number))
            command.measure(trial(number), 1, 2)
            command.finish(trial(number))
            slowest = max(slowest, time.monotonic() - begun)
        begun = time.monotonic()
        with pytest.raises(StoreError, match="ended by SIGKILL"):
            process.look([fingerprint(1)])
    assert time.monotonic() - begun < 10
    assert slowest < 10  # a busy machine takes a while; whoever waited for the process would take much longer
    assert said == ["The process that writes records was ended by SIGKILL again and again; training goes on."]
    assert told == [
        "Records are kept in the journal (the process that writes records was ended by SIGKILL); "
        f"the next sweep delivers them, or type: {command_of('sync', process._uri, ledger.folder)}"
    ]
    for _ in range(2):
        with pytest.raises(StoreError, match=r"ended by SIGKILL.*; type: sweepstack table"):
            process.find("latest")()
    with recording(process, ledger, said.append, told) as command:  # of a further launch of the same sweep
        command.train(trial(52))
    assert told[0] == told[1]
    assert ask(store, "SELECT * FROM runs") == []
    assert deliver_all(store, ledger) == 52
    assert points(store) == points_of(*(f"lr={number}" for number in range(1, 53)))
    assert ledger.end_dead_sessions() == []


def test_whoever_is_in_a_hurry_waits_no_longer_than_told_and_the_process_goes_on(
    process: WriterProcess, store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    """And nobody waits for a process that does nothing at all, however much there is to record."""
    command = Command(ledger)
    process.open(ledger.folder, command.number, print)
    os.kill(process._process.pid, signal.SIGSTOP)
    trials = [trial(number) for number in range(40)]
    command.claim(*trials)
    slowest = 0.0
    for one in trials:
        begun = time.monotonic()
        command.start(one)
        command.measure(one, 1, 2)
        command.finish(one)
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 10  # a busy machine takes a while; whoever waited for the process would take much longer
    command.end()
    begun = time.monotonic()
    assert process.finish(1) is None
    assert 1 <= time.monotonic() - begun < 10
    process.close()
    os.kill(process._process.pid, signal.SIGCONT)
    assert process._process.wait(60) == 0
    assert points(store) == points_of(*(one.name for one in trials))
    assert ledger.end_dead_sessions() == []


@pytest.mark.parametrize("trouble", ["an experiment that was deleted", "somebody who is still at it"])
def test_what_an_earlier_command_has_left_holds_up_nobody(
    process: WriterProcess, store: Store, ledger: Ledger, trial: MakeTrial, trouble: str
) -> None:
    earlier = Command(ledger, "old")
    earlier.train(trial(1))
    earlier.end()
    lock = ledger.delivery_lock(earlier.number)
    if trouble == "an experiment that was deleted":
        store.client.delete_experiment(store.experiment_id("old"))
    else:
        lock.acquire()
    said: list[str] = []
    command = Command(ledger)
    process.open(ledger.folder, command.number, said.append)
    command.train(trial(2))
    try:
        wait_until(lambda: run_names(store) == ["lr=2"])
        assert [line for line in said if "does not take records" in line] == []
    finally:
        lock.release()
        command.end()


def test_trouble_that_is_found_while_nobody_records_is_told_to_the_first_who_does(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    """A database of an older MLflow, which wants to be brought up to date."""
    assert store.database is not None
    with contextlib.closing(sqlite3.connect(store.database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    said: list[str] = []
    told: list[str | None] = []
    with started(store) as process:
        process.wait_loaded(60)
        with recording(process, ledger, said.append, told) as command:
            command.train(trial(1))
            with contextlib.suppress(AssertionError):
                wait_until(lambda: said != [], 3)
    (complaint,) = told
    assert complaint is not None
    assert complaint.startswith("Records of 1 trial ")
    (line,) = said
    assert "older MLflow" in line


def parent_story(store: Store, ledger: Ledger, trial: MakeTrial, told: Path, before: Callable[[], bool]) -> None:
    process = WriterProcess(store.uri)
    command = Command(ledger)
    process.open(ledger.folder, command.number, print)
    command.claim(trial(1), trial(2))
    command.plan("stack", trial(1), trial(2))
    for number in (1, 2):
        command.start(trial(number))
        command.measure(trial(number), 1)
    command.finish(trial(1))
    wait_until(before)
    told.write_text(str(process._process.pid))
    kill_myself()


@pytest.mark.parametrize("when", ["before MLflow is loaded", "after the first delivery"])
def test_when_training_is_killed_what_was_measured_is_kept_and_nothing_stays_running(
    store: Store, ledger: Ledger, trial: MakeTrial, tmp_path: Path, when: str
) -> None:
    """Though a fork of it may live on, a worker that loads data, and have the other end of the pipe, too."""
    told, worker = tmp_path / "told", tmp_path / "worker"
    loaded = when == "after the first delivery"

    def ready() -> bool:
        if loaded and len(run_names(store)) == 2:
            worker.write_text(str(start_process(lambda: time.sleep(120))))
        return not loaded or worker.exists()

    assert wait_for(start_process(lambda: parent_story(store, ledger, trial, told, ready))) == -signal.SIGKILL
    assert (len(run_names(store)) == 2) == loaded
    try:
        wait_until_gone(int(told.read_text()))
    finally:
        if loaded:
            os.kill(int(worker.read_text()), signal.SIGKILL)
    found = {name: (row.state, row.reason, row.metrics["val/accuracy"]) for name, row in rows(store).items()}
    assert found == {"lr=1": ("FINISHED", "", 0.5), "lr=2": ("KILLED", "its process died", 0.5)}
    assert points(store) == points_of("lr=1", epochs=(1,)) + Counter([("lr=2", "val/accuracy", 1, 0.5)])
    assert ledger.end_dead_sessions() == []
    assert not ledger.journal(1).exists()
    ((_, members),) = Command(ledger).claim(trial(2)).resumed
    assert members["sweep-2"].measured == 10


def test_when_training_is_killed_at_once_the_process_notices_it_too(
    store: Store, ledger: Ledger, trial: MakeTrial, tmp_path: Path
) -> None:
    told, worker = tmp_path / "told", tmp_path / "worker"

    def fork() -> bool:
        worker.write_text(str(start_process(lambda: time.sleep(120))))
        return True

    assert wait_for(start_process(lambda: parent_story(store, ledger, trial, told, fork))) == -signal.SIGKILL
    try:
        wait_until_gone(int(told.read_text()), 15)
    finally:
        os.kill(int(worker.read_text()), signal.SIGKILL)
    assert states(store) == {"lr=1": "FINISHED", "lr=2": "KILLED"}
