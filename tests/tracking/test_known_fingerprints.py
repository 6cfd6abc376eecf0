"""What the store knows the outcome of: the same from sqlite's own tables as through MLflow."""

import contextlib
import math
import sqlite3
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from sweepstack.errors import StoreError
from sweepstack.events import Measured
from sweepstack.journal.ledger import Ledger
from sweepstack.private_api_switch import NO_TRICKS
from sweepstack.tracking.known_fingerprints import StoreLookup, lookup, lookup_on_server
from sweepstack.tracking.store import Store
from sweepstack.trial import Finished, Measurement, Outcome, TrialState

from ..stories import DIVERGED, DONE, ERROR, Command, MakeTrial, ask, content, deliver_all, fingerprint, rows


@pytest.fixture(autouse=True)
def directly(monkeypatch) -> None:
    """What is compared is the direct way with MLflow's, so that it is taken in a run without tricks, too."""
    monkeypatch.delenv(NO_TRICKS, raising=False)


def nobody(fingerprints: Sequence[str]) -> StoreLookup:
    raise AssertionError("MLflow has been asked")


def found(store: Store, *fingerprints: str) -> StoreLookup:
    """What both ways tell, which is the same."""
    directly, through_mlflow = lookup(store, fingerprints, nobody), lookup_on_server(store, fingerprints)
    assert repr(directly) == repr(through_mlflow)  # for NaN is not equal to itself
    return directly


@pytest.fixture
def recorded(store: Store, ledger: Ledger, trial: MakeTrial, tmp_path: Path) -> Store:
    """Trials that ended in all ways: 1 finished, 2 diverged, 3 failed, 4 was interrupted, 5 was killed."""
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    command = Command(ledger)
    command.train(trial(1), files=(weights,))
    command.train(trial(2), outcome=DIVERGED)
    command.train(trial(3), outcome=ERROR)
    command.train(trial(4), outcome=Outcome(TrialState.KILLED, reason="Ctrl-C"))
    command.claim(trial(5))
    command.plan("stack", trial(5))
    command.start(trial(5))
    command.die()
    deliver_all(store, ledger)
    return store


def test_what_is_finished_and_what_diverged_is_known_and_nothing_else(recorded: Store) -> None:
    told = found(recorded, *(fingerprint(number) for number in range(7)))
    assert set(told.finished) == {fingerprint(1), fingerprint(2)}
    assert told.changed == {}
    one = told.finished[fingerprint(1)]
    row = rows(recorded)["lr=1"]
    assert one == Finished(row.run_id, DONE, one.artifacts)
    assert one.artifacts is not None
    assert (one.artifacts / "weights.pt").read_bytes() == b"weights"
    outcome = told.finished[fingerprint(2)].outcome
    assert (outcome.state, outcome.reason, outcome.diverged) == (TrialState.FAILED, DIVERGED.reason, True)
    assert outcome.settled


def test_what_a_user_has_deleted_is_trained_again(recorded: Store) -> None:
    run_id = rows(recorded)["lr=1"].run_id
    recorded.client.delete_run(run_id)
    assert set(found(recorded, fingerprint(1), fingerprint(2)).finished) == {fingerprint(2)}
    recorded.client.restore_run(run_id)
    assert set(found(recorded, fingerprint(1)).finished) == {fingerprint(1)}
    recorded.client.delete_experiment(recorded.experiment_id("train"))
    assert found(recorded, fingerprint(1), fingerprint(2)) == ({}, {})


def test_what_has_changed_since_is_told_in_words(recorded: Store) -> None:
    wanted = {
        fingerprint(1, data=7): "the data have changed",
        fingerprint(1, code=7): "the training code has changed",
        fingerprint(2, data=7, code=7): "the data and the training code have changed",
        fingerprint(3, data=7): None,
        fingerprint(77): None,
    }
    told = found(recorded, *wanted)
    assert told.finished == {}
    assert told.changed == {key: words for key, words in wanted.items() if words}


def test_of_several_records_of_a_trial_the_newest_is_told(recorded: Store, ledger: Ledger, trial: MakeTrial) -> None:
    again = Command(ledger)
    better = Outcome(TrialState.FINISHED, {**DONE.metrics, "test/accuracy": 0.9})
    one = trial(1, "again")
    again.claim(one, again=True)
    again.plan("again", one)
    again.start(one)
    again.measure(one, 1, 2)
    again.finish(one, better)
    again.end()
    deliver_all(recorded, ledger)
    assert found(recorded, fingerprint(1)).finished[fingerprint(1)].outcome == better
    newest = trial(1, "third", fingerprint=fingerprint(1, data=7))
    third = Command(ledger)
    third.train(newest)
    third.end()
    deliver_all(recorded, ledger)
    told = found(recorded, fingerprint(1), fingerprint(1, data=7), fingerprint(1, data=7, code=7))
    assert set(told.finished) == {fingerprint(1), fingerprint(1, data=7)}
    assert told.changed == {fingerprint(1, data=7, code=7): "the training code has changed"}


def test_figures_that_are_not_finite_are_told_as_they_were(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    metrics = {"test/loss": math.inf, "test/other": -math.inf, "test/odd": math.nan, "test/large": 1e300}
    command = Command(ledger)
    command.claim(trial(1))
    command.plan("stack", trial(1))
    command.start(trial(1))
    command.finish(trial(1), Outcome(TrialState.FINISHED, metrics))
    command.end()
    deliver_all(store, ledger)
    told = found(store, fingerprint(1)).finished[fingerprint(1)].outcome.metrics
    assert {key: repr(value) for key, value in told.items()} == {key: repr(value) for key, value in metrics.items()}


def test_what_is_known_of_a_trial_is_what_it_ended_with(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    """A trial that is not trained again has the outcome of the one that was."""
    outcome = Outcome(
        TrialState.FINISHED,
        {"train/loss": 0.2, "val/loss": 0.3, "val/accuracy": 0.7, "val/accuracy_best": 0.8, "test/accuracy": 0.6},
    )
    command = Command(ledger)
    command.claim(trial(1))
    command.plan("stack", trial(1))
    command.start(trial(1))
    for epoch, figures in enumerate(({"val/accuracy": 0.8, "val/accuracy_best": 0.8}, dict(outcome.metrics)), 1):
        along = {key: value for key, value in figures.items() if not key.startswith("test/")}
        command.put(Measured(trial(1), Measurement(epoch, 10 * epoch, 20, along), time.time()))
    command.finish(trial(1), outcome)
    command.end()
    deliver_all(store, ledger)
    assert found(store, fingerprint(1)).finished[fingerprint(1)].outcome == outcome


def test_what_a_user_has_written_into_a_tag_costs_no_other_trial(recorded: Store) -> None:
    recorded.client.set_tag(rows(recorded)["lr=2"].run_id, "sweepstack.settled", "mine")
    assert set(found(recorded, fingerprint(1), fingerprint(2)).finished) == {fingerprint(1)}


def test_thousands_of_fingerprints_are_one_question_and_so_are_thousands_of_runs(recorded: Store) -> None:
    assert recorded.database is not None
    (run_id,) = ask(recorded, "SELECT run_uuid FROM runs WHERE name = 'lr=1'")[0]
    with contextlib.closing(sqlite3.connect(recorded.database)) as database, database:
        for number in range(1000, 2200):  # as MLflow would write them, but in a moment
            new = uuid.uuid4().hex
            for table in ("runs", "tags", "latest_metrics"):
                columns = [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
                values = ", ".join("?" if name == "run_uuid" else name for name in columns)
                database.execute(f"INSERT INTO {table} SELECT {values} FROM {table} WHERE run_uuid = ?", (new, run_id))
            changed = (fingerprint(number), new, "sweepstack.settled")
            database.execute("UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", changed)
    told = found(recorded, *(fingerprint(number) for number in range(500, 2500)))
    assert set(told.finished) == {fingerprint(number) for number in range(1000, 2200)}
    assert {one.outcome.metrics["test/accuracy"] for one in told.finished.values()} == {0.4}


def test_a_store_that_is_not_there_knows_nothing_and_is_not_made(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/deep/mlflow.db")
    assert lookup(store, [fingerprint(1)], nobody) == ({}, {})
    assert list(tmp_path.iterdir()) == []


def test_to_ask_writes_nothing(recorded: Store) -> None:
    assert recorded.database is not None
    before = content(recorded.database.parent)
    assert lookup(recorded, [fingerprint(1)], nobody).finished
    assert content(recorded.database.parent) == before


def test_mlflow_is_asked_where_the_tables_are_others_and_about_servers(tmp_path: Path) -> None:
    answer = StoreLookup({}, {fingerprint(1): "the data have changed"})
    asked: list[Sequence[str]] = []

    def ask_mlflow(fingerprints: Sequence[str]) -> StoreLookup:
        asked.append(fingerprints)
        return answer

    def refuse(fingerprints: Sequence[str]) -> StoreLookup:
        raise StoreError("no answer")

    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE runs (id)")
    for store in (Store(f"sqlite:///{other}"), Store("http://127.0.0.1:9")):
        assert lookup(store, [fingerprint(1)], ask_mlflow) is answer
        with pytest.raises(StoreError, match="no answer"):
            lookup(store, [fingerprint(1)], refuse)
    assert asked == [[fingerprint(1)]] * 2
