"""From the journal to MLflow, exactly once: whatever is refused, interrupted, killed or late."""

import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout

from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.errors import StoreError
from sweepstack.events import Measured
from sweepstack.journal.ledger import Ledger
from sweepstack.private_api_switch import NO_TRICKS
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer import delivery as module
from sweepstack.tracking.writer.delivery import TRIALS_PER_TRANSACTION, Delivery, NotYetError, deliver_what_is_left
from sweepstack.trial import Measurement, Outcome, TrialState

from ..stories import (
    DONE,
    ERROR,
    LOST,
    Command,
    MakeTrial,
    ask,
    deliver_all,
    in_process,
    kill_myself,
    killed_at,
    points,
    points_of,
    room_for,
    rows,
    start_process,
    states,
    wait_for,
    wait_until,
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    return file


@pytest.fixture
def command(ledger: Ledger) -> Command:
    return Command(ledger)


def history(store: Store, name: str, key: str) -> list[tuple[int, float]]:
    run_id = rows(store)[name].run_id
    return sorted((point.step, point.value) for point in store.client.get_metric_history(run_id, key))


def artifacts(store: Store, name: str) -> dict[str, bytes]:
    (uri,) = ask(store, f"SELECT artifact_uri FROM runs WHERE name = '{name}'")[0]
    return {file.name: file.read_bytes() for file in Path(uri.removeprefix("file://")).iterdir()}


def tags(store: Store, name: str) -> dict[str, str]:
    (run,) = (run for run in store.runs("") if run.info.run_name == name)
    return dict(run.data.tags)


def test_a_trial_is_recorded_with_all_that_it_is_made_of(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial, weights: Path
) -> None:
    command.train(trial(1), files=(weights,))
    command.end()
    assert deliver_all(store, ledger) == 1
    row = rows(store)["lr=1"]
    assert (row.state, row.reason, row.sweep, row.log) == ("FINISHED", "", "sweep", "/nowhere/sweep/1/train.log")
    assert row.params == {"dataset": "digits", "lr": "1"}
    assert row.metrics == DONE.metrics
    assert artifacts(store, "lr=1") == {
        "config.yaml": b"epochs: 2\n",
        "overrides.yaml": b"- lr=1\n",
        "weights.pt": b"weights",
    }
    told = tags(store, "lr=1")
    expected = {
        "sweepstack.trial": "sweep-1",
        "fingerprint": trial(1).fingerprint,
        "sweepstack.settled": trial(1).fingerprint,
        "trained": "alone",
        "reason": "",
    }
    assert told | expected == told
    assert {"sweepstack.version", "versions.torch", "mlflow.source.git.commit"} <= set(told)
    assert "recomposed" not in told
    (run,) = store.runs("")
    inputs = store.client.get_run(run.info.run_id).inputs.dataset_inputs
    assert [(one.dataset.name, one.dataset.digest) for one in inputs] == [("digits", "0123")]
    assert run.info.start_time <= run.info.end_time
    assert store.client.get_experiment(row.experiment_id).name == "train"


def test_a_trial_that_ends_long_after_its_last_measurement_gets_no_false_points(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial
) -> None:
    command.claim(trial(1))
    delivery = Delivery(store, ledger, command.number)
    command.start(trial(1))
    command.measure(trial(1), 1, 2)
    delivery.deliver()
    assert states(store) == {"lr=1": "RUNNING"}
    command.finish(trial(1))
    delivery.deliver()
    assert history(store, "lr=1", "val/accuracy") == [(1, 0.5), (2, 0.5)]
    assert history(store, "lr=1", "test/accuracy") == [(0, 0.4)]
    assert (rows(store)["lr=1"].state, rows(store)["lr=1"].metrics["train_seconds"]) == ("FINISHED", 1.0)
    assert (delivery.delivered, delivery.waiting) == (1, 0)


def test_a_trial_that_is_measured_by_iterations_is_drawn_against_them(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial, digits_config: Callable[..., TrialConfig]
) -> None:
    one = trial(1, config=digits_config({"evaluate_every": 5}))
    command.claim(one)
    command.start(one)
    command.put(Measured(one, Measurement(1, 5, 20, {"val/accuracy": 0.5}), time.time()))
    command.put(Measured(one, Measurement(1, 10, 20, {"val/accuracy": 0.5}), time.time()))
    Delivery(store, ledger, command.number).deliver()
    assert [step for step, _ in history(store, "lr=1", "val/accuracy")] == [5, 10]


def test_a_trial_that_the_store_refuses_holds_up_no_other(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial, weights: Path
) -> None:
    command.train(trial(0), files=(weights,))
    command.train(trial(1), trial(2))
    kept, elsewhere = ledger.files("sweep-0") / "weights.pt", weights.with_name("elsewhere.pt")
    kept.rename(elsewhere)
    delivery = Delivery(store, ledger, command.number)
    with pytest.raises(FileNotFoundError):
        delivery.deliver()
    assert {name: state for name, state in states(store).items() if name != "lr=0"} == {
        "lr=1": "FINISHED",
        "lr=2": "FINISHED",
    }
    assert (delivery.delivered, delivery.waiting) == (2, 1)
    command.train(trial(3))
    with pytest.raises(FileNotFoundError):
        delivery.deliver()
    assert states(store)["lr=3"] == "FINISHED"
    elsewhere.rename(kept)
    delivery.deliver()
    assert (delivery.delivered, delivery.waiting) == (4, 0)
    assert artifacts(store, "lr=0")["weights.pt"] == b"weights"
    assert points(store) == points_of("lr=0", "lr=1", "lr=2", "lr=3")


def test_what_a_dead_process_has_left_open_does_not_stay_running(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    def story() -> None:
        command = Command(ledger)
        command.train(trial(1))
        command.claim(trial(2), trial(3))
        command.plan("stack", trial(2), trial(3))
        command.start(trial(2))
        command.measure(trial(2), 1)
        kill_myself()

    assert in_process(story) == -signal.SIGKILL
    assert deliver_all(store, ledger) == 1
    found = {name: (row.state, row.reason, row.metrics["val/accuracy"]) for name, row in rows(store).items()}
    assert found == {"lr=1": ("FINISHED", "", 0.5), "lr=2": ("KILLED", "its process died", 0.5)}
    assert ledger.end_dead_sessions() == []
    assert not ledger.journal(1).exists()


def test_a_trial_that_was_killed_says_what_killed_it(store: Store, ledger: Ledger, trial: MakeTrial, command) -> None:
    command.train(trial(1), outcome=Outcome(TrialState.KILLED, reason="Ctrl-C"))
    command.train(trial(2), outcome=ERROR)
    command.end()
    deliver_all(store, ledger)
    assert {name: (row.state, row.reason) for name, row in rows(store).items()} == {
        "lr=1": ("KILLED", "Ctrl-C"),
        "lr=2": ("FAILED", ERROR.reason),
    }
    assert "sweepstack.settled" not in tags(store, "lr=1").keys() | tags(store, "lr=2").keys()


def test_thousands_of_measurements_nan_and_odd_names_arrive_whole(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    params = {"dataset": "digits", "k" * 300: "v" * 9000}
    one = trial(1, sweep="größe 1,5", name="größe=<b>'\"", params=params)
    command = Command(ledger, "ünï")
    command.claim(one)
    command.start(one)
    for epoch in range(1, 2501):
        command.measure(one, epoch, value=epoch / 2500)
    command.measure(one, 2501, value=float("nan"))
    command.finish(one)
    command.end()
    deliver_all(store, ledger)
    row = rows(store)["größe=<b>'\""]
    assert ask(store, "SELECT count(*), sum(is_nan) FROM metrics WHERE key = 'val/accuracy'") == [(2501, 1)]
    assert row.state == "FINISHED"
    assert max(map(len, row.params.values())) == 6000
    assert [one.run_id for one in store.rows("größe 1,5")] == [row.run_id]
    assert store.client.get_experiment(row.experiment_id).name == "ünï"


def test_an_infinite_loss_is_read_back_as_infinite(store: Store, ledger: Ledger, command, trial: MakeTrial) -> None:
    metrics = {"train_seconds": float("inf"), "test/loss": float("-inf")}
    command.train(trial(1), outcome=Outcome(TrialState.FAILED, metrics, "too far", diverged=True))
    command.end()
    deliver_all(store, ledger)
    found = rows(store)["lr=1"].metrics
    assert (found["train_seconds"], found["test/loss"]) == (float("inf"), float("-inf"))


def test_a_delivery_that_is_repeated_doubles_nothing(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial, weights: Path, monkeypatch
) -> None:
    """Whatever is noted of it is lost."""
    command.train(trial(0), trial(1), files=(weights,))
    command.claim(trial(2))
    command.start(trial(2))
    command.measure(trial(2), 1)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "note_delivered", lambda *note: None)
        patch.setattr(module, "drop_files", lambda *files: None)
        for _ in range(3):
            Delivery(store, ledger, command.number).deliver()
    before = {table: ask(store, f"SELECT count(*) FROM {table}") for table in ("runs", "params", "inputs", "tags")}
    assert before["runs"] == [(3,)]
    assert before["inputs"] == [(3,)]
    command.measure(trial(2), 2)
    command.finish(trial(2))
    delivery = Delivery(store, ledger, command.number)
    delivery.deliver()
    delivery.deliver()
    assert points(store) == points_of("lr=0", "lr=1", "lr=2")
    assert states(store) == dict.fromkeys(("lr=0", "lr=1", "lr=2"), "FINISHED")
    assert artifacts(store, "lr=1")["weights.pt"] == b"weights"
    assert ask(store, "SELECT count(*) FROM inputs") == [(3,)]


def test_a_transaction_that_is_undone_is_written_again_as_a_whole(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial, monkeypatch
) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # with the public way each call is a transaction of its own
    whole = Store._check_whole
    checks = itertools.count()

    def undone_once(self: Store, connection: Any) -> None:
        if next(checks) == 5:
            connection.connection.driver_connection.execute("ROLLBACK")  # as sqlite does by itself on a full disk
        whole(self, connection)

    monkeypatch.setattr(Store, "_check_whole", undone_once)
    command.train(*map(trial, range(3)))
    delivery = Delivery(store, ledger, command.number)
    with pytest.raises(StoreError, match="has undone the last records, the disk may be full; make room"):
        delivery.deliver()
    assert ask(store, "SELECT * FROM runs") == []
    delivery.deliver()
    assert points(store) == points_of("lr=0", "lr=1", "lr=2")
    assert states(store) == dict.fromkeys(("lr=0", "lr=1", "lr=2"), "FINISHED")


def test_a_store_on_a_full_disk_gets_everything_when_there_is_room_again(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # with the public way what came before the full disk stays
    one = trial(1)
    command.claim(one)
    command.start(one)
    for epoch in range(1, 3001):
        command.measure(one, epoch)
    command.finish(one)
    command.end()
    told = tmp_path / "told"

    def story() -> None:
        assert store.database is not None
        _ = store.client
        delivery = Delivery(store, ledger, command.number)
        with room_for(store.database.stat().st_size + 50_000), pytest.raises(Exception, match="disk") as caught:
            delivery.deliver()
        told.write_text(str(caught.value))
        assert ask(store, "SELECT * FROM runs") == []
        delivery.deliver()

    assert in_process(story) == 0
    deliver_all(store, ledger)
    assert states(store) == {"lr=1": "FINISHED"}
    assert points(store) == points_of("lr=1", epochs=tuple(range(1, 3001)))


def test_files_are_as_they_were_when_the_trial_ended_and_are_dropped_when_delivered(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial, weights: Path
) -> None:
    command.train(trial(1), files=(weights,))
    aside = weights.with_name(".weights.pt")
    aside.write_bytes(b"of another trial")
    aside.replace(weights)
    Delivery(store, ledger, command.number).deliver()
    assert artifacts(store, "lr=1")["weights.pt"] == b"weights"
    assert not ledger.files("sweep-1").exists()
    assert weights.exists()


def by_requests(monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """As with a server: each request is written on its own, and files are carried by MLflow."""
    set_attribute = monkeypatch.setattr if monkeypatch else setattr
    set_attribute(Store, "transaction", lambda self: contextlib.nullcontext())
    set_attribute(module, "local_folder", lambda address: None)


MOMENTS: dict[str, Callable[[], Any]] = {
    "before the first": lambda: killed_at(Delivery, "_read", after=True),
    "in a transaction": lambda: killed_at(Delivery, "_deliver_trial", 2),
    "deep in a transaction": lambda: killed_inside_a_transaction(),
    "at the end of a transaction": lambda: killed_at(Delivery, "_deliver_trial", 3, after=True),
    "before the note": lambda: killed_at(Ledger, "note_delivered"),
    "after the note": lambda: killed_at(Ledger, "note_delivered", after=True),
    "after the files": lambda: killed_at(module, "drop_files", after=True),
    "before what is left": lambda: killed_at(Ledger, "interrupted_in"),
    "in what is left": lambda: killed_at(Delivery, "_close"),
    "in the end": lambda: killed_at(Path, "unlink"),
    "before the end": lambda: killed_at(Ledger, "retire"),
    "after the end": lambda: killed_at(Ledger, "retire", after=True),
}


def killed_inside_a_transaction() -> None:
    os.environ.pop(NO_TRICKS, None)  # in this process, which has no such transactions with the public way
    killed_at(Store, "_check_whole", 12)


def client_is_killed_at(name: str, call: int, after: bool) -> None:
    from mlflow import MlflowClient

    by_requests()
    killed_at(MlflowClient, name, call, after)


for _name in ("create_run", "log_inputs", "log_text", "log_batch", "log_artifact", "set_terminated", "set_tag"):
    MOMENTS[f"of a server, after {_name}"] = lambda name=_name: client_is_killed_at(  # type: ignore[misc]
        name, 1 if name == "set_tag" else 2, after=True
    )


def some_trials(ledger: Ledger, trial: MakeTrial, weights: Path) -> None:
    """Two that are finished, and one that its process has left open."""
    command = Command(ledger)
    command.train(trial(1), trial(2), files=(weights,))
    command.claim(trial(3))
    command.plan("stack", trial(3))
    command.start(trial(3))
    command.measure(trial(3), 1)
    command.die()


def are_recorded_once(store: Store, ledger: Ledger) -> None:
    assert states(store) == {"lr=1": "FINISHED", "lr=2": "FINISHED", "lr=3": "KILLED"}
    assert points(store) == points_of("lr=1", "lr=2") + Counter([("lr=3", "val/accuracy", 1, 0.5)])
    assert ask(store, "SELECT count(*) FROM inputs") == [(3,)]
    for name, row in rows(store).items():
        assert row.params == {"dataset": "digits", "lr": name[3:]}
        assert row.reason == ("its process died" if name == "lr=3" else "")
        assert tags(store, name)["sweepstack.trial"] == f"sweep-{name[3:]}"
        files = {"config.yaml", "overrides.yaml"} | (set() if name == "lr=3" else {"weights.pt"})
        assert set(artifacts(store, name)) == files
        assert b"" not in artifacts(store, name).values()
    assert ledger.end_dead_sessions() == []
    assert list(ledger.folder.glob("*.jsonl")) == []


@pytest.mark.parametrize(
    "moment",
    MOMENTS,
)
def test_a_delivery_that_is_killed_and_repeated_records_everything_once(
    store: Store, ledger: Ledger, trial: MakeTrial, weights: Path, moment: str
) -> None:
    some_trials(ledger, trial, weights)

    def story() -> None:
        MOMENTS[moment]()
        deliver_all(store, ledger)

    assert in_process(story) == -signal.SIGKILL
    deliver_all(store, ledger)
    are_recorded_once(store, ledger)
    assert list(ledger.folder.glob("files/*")) == []


def test_a_delivery_that_is_killed_at_any_time_records_everything_once(
    store: Store, ledger: Ledger, trial: MakeTrial, weights: Path
) -> None:
    some_trials(ledger, trial, weights)
    dice, killed = random.Random(1), 0
    for _ in range(6):
        process = start_process(lambda: deliver_all(store, ledger))
        time.sleep(dice.uniform(0.02, 0.25))
        os.kill(process, signal.SIGKILL)
        killed += wait_for(process) == -signal.SIGKILL
    assert killed > 0
    deliver_all(store, ledger)
    are_recorded_once(store, ledger)


def test_a_trial_that_is_gone_on_with_is_one_run(store: Store, ledger: Ledger, trial: MakeTrial, weights: Path) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.measure(trial(1), 1)
    one.die()
    two = Command(ledger)
    ((_, members),) = two.claim(trial(1, "other")).resumed
    again = members["sweep-1"].trial
    two.journal.not_before(members["sweep-1"].at)
    deliver_all(store, ledger)
    assert states(store) == {"lr=1": "RUNNING"}  # somebody has it already
    delivery = Delivery(store, ledger, two.number)
    two.start(again, again=True)
    delivery.deliver()
    assert states(store) == {"lr=1": "RUNNING"}
    two.measure(again, 2)
    two.finish(again, files=(weights,))
    delivery.deliver()
    row = rows(store)["lr=1"]
    assert (row.state, row.reason, row.sweep, row.log) == ("FINISHED", "", "other", "/nowhere/other/1/train.log")
    assert points(store) == points_of("lr=1")
    assert set(artifacts(store, "lr=1")) == {"config.yaml", "overrides.yaml", "weights.pt"}
    assert store.rows("sweep")[0].run_id == store.rows("other")[0].run_id == row.run_id  # it is of both


@pytest.mark.parametrize("alone", [True, False])
def test_a_command_that_has_waited_for_a_newer_one_delivers_after_it(
    store: Store, ledger: Ledger, trial: MakeTrial, alone: bool
) -> None:
    """It has the smaller number, and resumes what the newer one has left."""
    waiting, newer = Command(ledger), Command(ledger)
    newer.claim(trial(1))
    newer.plan("stack", trial(1))
    newer.start(trial(1))
    newer.measure(trial(1), 1)
    newer.finish(trial(1), Outcome(TrialState.PRUNED, reason="it has left"))
    newer.end()
    waiting.claim(trial(1, "other"))
    waiting.start(trial(1), again=True)
    waiting.measure(trial(1), 2)
    waiting.finish(trial(1))
    Delivery(store, ledger, waiting.number).deliver()  # its process delivers while it trains
    with pytest.raises(StoreError, match="holds no trials yet"):
        store.rows("all")
    if alone:
        deliver_what_is_left(store, ledger, but=waiting.number)  # as its process does before
        assert states(store) == {"lr=1": "PRUNED"}
    waiting.end()
    deliver_all(store, ledger)
    (row,) = store.rows("all")
    assert (row.state, row.reason) == ("FINISHED", "")
    assert points(store) == points_of("lr=1")


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.KILLED])
def test_a_late_delivery_keeps_the_files_of_a_trial_that_others_have_resumed_since(
    store: Store, ledger: Ledger, trial: MakeTrial, weights: Path, state: TrialState
) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.measure(trial(1), 1)
    one.finish(trial(1), Outcome(state, reason="it has left"))
    one.end()
    two = Command(ledger)
    two.claim(trial(1, "other"))
    two.start(trial(1), again=True)
    two.measure(trial(1), 2)
    two.finish(trial(1), files=(weights,))
    deliver_all(store, ledger)  # what the first command has recorded
    two.end()
    deliver_all(store, ledger)
    assert states(store) == {"lr=1": "FINISHED"}
    assert "weights.pt" in artifacts(store, "lr=1")
    assert not [*ledger.folder.glob("files/*")]


def test_a_trial_that_is_gone_on_with_later_is_killed_and_then_running_and_then_finished(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.measure(trial(1), 1)
    one.die()
    deliver_all(store, ledger)
    assert states(store) == {"lr=1": "KILLED"}
    two = Command(ledger)
    two.claim(trial(1))
    two.start(trial(1), again=True)
    Delivery(store, ledger, two.number).deliver()
    assert states(store) == {"lr=1": "RUNNING"}
    two.measure(trial(1), 2)
    two.finish(trial(1))
    two.end()
    assert deliver_all(store, ledger) == 1
    assert (rows(store)["lr=1"].state, rows(store)["lr=1"].reason) == ("FINISHED", "")
    assert points(store) == points_of("lr=1")


def test_a_trial_that_nobody_could_record_while_it_was_trained_in_two_goes_is_one_run(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    """The server is away all the time, and the first delivery of all is killed before its note."""
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.measure(trial(1), 1)
    one.die()
    two = Command(ledger)
    two.claim(trial(1))
    two.start(trial(1), again=True)
    two.measure(trial(1), 2)
    two.finish(trial(1))
    two.end()

    def story() -> None:
        killed_at(Ledger, "note_delivered")
        deliver_all(store, ledger)

    assert in_process(story) == -signal.SIGKILL
    assert deliver_all(store, ledger) == 1
    assert states(store) == {"lr=1": "FINISHED"}
    assert points(store) == points_of("lr=1")


@pytest.mark.parametrize(
    "begin",
    [
        "is not delivered",
        "is delivered",
    ],
)
def test_a_trial_that_is_gone_on_with_while_its_first_part_is_not_delivered_yet_ends_as_it_has_ended(
    store: Store, ledger: Ledger, trial: MakeTrial, monkeypatch, begin: str
) -> None:
    """Somebody types Ctrl-C and the same command again, while the process beside the first one is still at it."""
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.1)
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.measure(trial(1), 1)
    if begin == "is delivered":
        Delivery(store, ledger, one.number).deliver()
    one.finish(trial(1), Outcome(TrialState.KILLED, reason="Ctrl-C"))
    one.end()
    two = Command(ledger)
    two.claim(trial(1))
    two.start(trial(1), again=True)
    two.measure(trial(1), 2)
    two.finish(trial(1))
    with ledger.delivery_lock(one.number):
        with contextlib.suppress(Timeout, NotYetError):
            deliver_all(store, ledger)
        with contextlib.suppress(Timeout, NotYetError):
            Delivery(store, ledger, two.number).deliver()
    two.end()
    deliver_all(store, ledger)
    assert [(name, row.state, row.reason) for name, row in rows(store).items()] == [("lr=1", "FINISHED", "")]
    assert ask(store, "SELECT count(*) FROM runs") == [(1,)]
    assert points(store) == points_of("lr=1")


def test_a_settled_trial_is_one_of_every_sweep_that_asks_for_it(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.train(trial(1), trial(2))
    one.end()
    deliver_all(store, ledger)
    run_id = rows(store)["lr=1"].run_id
    two = Command(ledger)
    two.join(trial(1, "other"), run_id)
    two.train(trial(3, "other"))
    two.end()
    deliver_all(store, ledger)
    assert [row.name for row in store.rows("other")] == ["lr=1", "lr=3"]
    assert [row.name for row in store.rows("latest")] == ["lr=1", "lr=3"]
    assert [row.name for row in store.rows("sweep")] == ["lr=1", "lr=2"]
    assert {row.sweep for row in store.rows("other")} == {"other"}
    assert {row.name: row.sweep for row in store.rows("all")} == {"lr=1": "sweep", "lr=2": "sweep", "lr=3": "other"}
    assert rows(store)["lr=1"].state == "FINISHED"
    assert points(store) == points_of("lr=1", "lr=2", "lr=3")


def test_a_trial_knows_for_each_sweep_its_job_and_its_space_unless_that_is_too_long_for_a_tag(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    one, short, long = Command(ledger), '{"optimizer.lr": [0.1, 1.0, true]}', f'{{"{"x" * 9000}": [0.1, 1.0, true]}}'
    one.train(trial(1, space=short), trial(2, space=long, jobs=3))
    one.end()
    deliver_all(store, ledger)
    two = Command(ledger)
    two.join(replace(trial(1, "other (ä)", jobs=2), number=7), rows(store)["lr=1"].run_id)
    two.end()
    deliver_all(store, ledger)
    found = [(row.number, row.jobs, row.space, row.reused) for row in store.rows("sweep")]
    assert sorted(found) == [(1, 1, short, False), (2, 3, "", False)]
    (row,) = store.rows("other (ä)")
    assert (row.number, row.jobs, row.space, row.reused) == (7, 2, "", True)


def test_a_sweep_all_of_which_was_trained_before_is_the_latest(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.train(trial(1))
    one.end()
    two = Command(ledger)
    ((settled, *_),) = two.claim(trial(1, "second try")).settled
    two.join(settled)
    two.end()
    deliver_all(store, ledger)
    assert [(row.name, row.sweep) for row in store.rows()] == [("lr=1", "second try")]


def test_a_trial_that_joins_from_a_command_that_is_not_delivered_waits_for_it(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    one, two = Command(ledger), Command(ledger)
    one.train(trial(1))
    ((settled, *_),) = two.claim(trial(1, "other")).settled
    two.join(settled)
    two.train(trial(2, "other"))
    two.end()
    delivery = Delivery(store, ledger, two.number)
    with pytest.raises(NotYetError):
        delivery.finish()
    assert states(store) == {"lr=2": "FINISHED"}
    assert delivery.waiting == 1
    with contextlib.suppress(NotYetError):
        delivery.deliver()
    Delivery(store, ledger, one.number).deliver()
    delivery.finish()
    assert [row.name for row in store.rows("other")] == ["lr=1", "lr=2"]
    assert [row.name for row in store.rows("sweep")] == ["lr=1"]


def test_an_older_command_that_waits_for_a_newer_one_does_not_hold_it_up(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    """Both ask for the same trial, the newer one trains it, and the older one, which has waited for it, ends first."""
    older, newer = Command(ledger), Command(ledger)
    newer.train(trial(1))
    ((settled, *_),) = older.claim(trial(1, "older")).settled
    older.join(settled)
    older.end()
    newer.end()
    for _ in range(2):
        with contextlib.suppress(Exception):
            deliver_all(store, ledger)
    assert states(store) == {"lr=1": "FINISHED"}
    assert [row.name for row in store.rows("older")] == ["lr=1"]
    assert ledger.end_dead_sessions() == []


def test_a_record_that_is_gone_from_the_store_costs_its_joining_alone(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial
) -> None:
    command.join(trial(1))
    command.train(trial(2))
    command.end()
    assert deliver_all(store, ledger) == 1
    assert states(store) == {"lr=2": "FINISHED"}


def left_open_and_gone_on_with(store: Store, ledger: Ledger, trial: MakeTrial, between: Callable[[str], None]) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.measure(trial(1), 1)
    one.die()
    deliver_all(store, ledger)
    between(rows(store)["lr=1"].run_id)
    two = Command(ledger)
    two.claim(trial(1))
    two.start(trial(1), again=True)
    two.measure(trial(1), 2)
    two.finish(trial(1))
    two.train(trial(2))
    two.end()
    three = Command(ledger)
    three.train(trial(3))
    three.end()
    for _ in range(3):
        with contextlib.suppress(Exception):
            deliver_all(store, ledger)


def test_a_run_that_a_user_has_deleted_holds_up_nobody_when_its_trial_is_gone_on_with(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    left_open_and_gone_on_with(store, ledger, trial, lambda run_id: store.client.delete_run(run_id))
    found = states(store)
    assert (found.get("lr=2"), found.get("lr=3")) == ("FINISHED", "FINISHED")
    assert ledger.end_dead_sessions() == []


def test_a_deleted_run_is_not_held_against_a_trial_that_joins(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.train(trial(1))
    one.end()
    deliver_all(store, ledger)
    run_id = rows(store)["lr=1"].run_id
    two = Command(ledger)
    two.join(trial(1, "other"), run_id)
    two.train(trial(2, "other"))
    two.end()
    store.client.delete_run(run_id)
    three = Command(ledger)
    three.train(trial(3, "other"))
    three.end()
    for _ in range(3):
        with contextlib.suppress(Exception):
            deliver_all(store, ledger)
    assert states(store) == {"lr=2": "FINISHED", "lr=3": "FINISHED"}
    assert ledger.end_dead_sessions() == []


def test_an_experiment_that_is_deleted_holds_up_no_other(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    store.client.delete_experiment(store.experiment_id("old"))
    one = Command(ledger, "old")
    one.train(trial(1))
    one.end()
    two = Command(ledger, "new")
    two.train(trial(2))
    two.end()
    with pytest.raises(StoreError, match="experiment 'old' has been deleted"):
        deliver_all(store, ledger)
    with contextlib.suppress(StoreError):
        deliver_all(store, ledger)
    assert states(store) == {"lr=2": "FINISHED"}


def test_a_session_without_a_trial_makes_no_database(tmp_path: Path, ledger: Ledger) -> None:
    store = Store(f"sqlite:///{tmp_path}/new.db")
    Command(ledger).end()
    assert deliver_all(store, ledger) == 0
    assert ledger.end_dead_sessions() == []
    assert not (tmp_path / "new.db").exists()


@LOST
def test_when_the_ledger_is_lost_everything_is_recorded_once(
    store: Store, ledger: Ledger, trial: MakeTrial, first: str
) -> None:
    if first == "is retired":
        Command(ledger).end()
        deliver_all(store, ledger)
    one, two = Command(ledger), Command(ledger)
    for command in (one, two):
        command.train(trial(10 * command.number))
        Delivery(store, ledger, command.number).deliver()
        command.train(trial(10 * command.number + 1))
        command.end()
    (ledger.folder / "ledger.db").unlink()
    three = Command(ledger)
    three.train(trial(3))
    three.end()
    deliver_all(store, ledger)
    numbers = [10 * command.number + more for command in (one, two) for more in (0, 1)]
    names = [f"lr={number}" for number in (3, *numbers)]
    assert sorted(ask(store, "SELECT name FROM runs")) == sorted((name,) for name in names)
    assert points(store) == points_of(*names)
    assert ledger.end_dead_sessions() == []


def test_when_the_ledger_is_lost_trials_are_recorded_in_the_experiment_that_they_name(
    store: Store, ledger: Ledger, trial: MakeTrial, digits_run: Callable[..., RunConfig]
) -> None:
    Command(ledger).end()
    deliver_all(store, ledger)
    command = Command(ledger, "mine")
    command.train(trial(1, run=digits_run({"tracking.experiment": "mine"})))
    command.end()
    (ledger.folder / "ledger.db").unlink()
    Command(ledger).claim(trial(2))
    deliver_all(store, ledger)
    (row,) = store.rows("all")
    assert store.client.get_experiment(row.experiment_id).name == "mine"


def test_two_who_deliver_the_same_do_it_once(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    command = Command(ledger)
    command.train(*map(trial, range(10)))
    command.end()
    processes = [start_process(lambda: deliver_all(store, ledger)) for _ in range(3)]
    assert [wait_for(process) for process in processes] == [0, 0, 0]
    assert points(store) == points_of(*(f"lr={number}" for number in range(10)))
    assert ask(store, "SELECT count(*) FROM runs") == [(10,)]
    assert sorted(path.name for path in ledger.folder.iterdir()) == ["ledger.db"]


def test_sixty_four_trials_that_report_at_once_from_four_processes_lose_nothing(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    folder = ledger.folder.with_name("told")
    folder.mkdir()

    def story(part: int) -> None:
        mine = [trial(number) for number in range(part * 16, part * 16 + 16)]
        command = Command(ledger)
        command.claim(*mine)
        for one in mine:
            command.plan(f"stack of {one.id}", one)
            command.start(one)
        delivery = Delivery(store, ledger, command.number)
        (folder / str(part)).touch()
        wait_until(lambda: len(list(folder.iterdir())) == 4)
        for epoch in range(1, 6):
            for one in mine:
                command.measure(one, epoch)
            delivery.deliver()
        for one in mine:
            command.finish(one)
            delivery.deliver()
        command.end()
        delivery.finish()

    processes = [start_process(lambda part=part: story(part)) for part in range(4)]  # type: ignore[misc]
    assert [wait_for(process) for process in processes] == [0] * 4
    names = [f"lr={number}" for number in range(64)]
    assert Counter(states(store).values()) == {"FINISHED": 64}
    assert points(store) == points_of(*names, epochs=(1, 2, 3, 4, 5))
    assert ledger.end_dead_sessions() == []


def test_a_trial_that_was_taken_over_again_and_again_is_recorded_in_the_order_of_its_commands(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    """Each of them was killed before anything was delivered."""
    for number in range(4):
        command = Command(ledger)
        command.claim(trial(1))
        if number == 0:
            command.plan("stack", trial(1))
        command.start(trial(1), again=number > 0)
        command.measure(trial(1), number + 1)
        if number < 3:
            command.die()
    command.finish(trial(1))
    command.end()
    assert deliver_all(store, ledger) == 1
    assert states(store) == {"lr=1": "FINISHED"}
    assert sorted(point[2] for point in points(store) if point[1] == "val/accuracy") == [1, 2, 3, 4]
    assert ledger.end_dead_sessions() == []


def test_it_is_time_to_deliver_when_trials_that_have_ended_fill_a_transaction(
    store: Store, ledger: Ledger, command: Command, trial: MakeTrial
) -> None:
    delivery = Delivery(store, ledger, command.number)
    command.train(*(trial(number) for number in range(1, TRIALS_PER_TRANSACTION)))
    assert not delivery.has_many()
    command.train(trial(0))
    assert delivery.has_many()
    delivery.deliver()
    assert not delivery.has_many()
