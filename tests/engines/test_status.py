"""`sweepstack status`: what runs where, how far it is, what waits, and what was interrupted."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sweepstack.cli.main import main
from sweepstack.execution.control.status import Status, find_status
from sweepstack.journal.control import About
from sweepstack.journal.ledger import Ledger
from sweepstack.trial import Outcome, TrialState

from ..stories import Command, MakeTrial, content, wait_until
from ..terminal import Terminal

SWEEP = ("train.py", "-m", "dataset=digits", "epochs=2000", "batch_size=20,40", "optimizer.lr=0.1,0.2", "threads=1")


def sweepstack(terminal: Terminal, *words: str) -> Result:
    return CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": terminal.uri})


def shown(terminal: Terminal) -> Any:
    done = sweepstack(terminal, "status", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def trials_of(command: Any) -> list[Any]:
    return [trial for stack in command["stacks"] for trial in stack["trials"]]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "journal" / "mlflow.db")


def test_workers_are_shown_with_their_processes_and_what_they_leave_is_shown_too(terminal: Terminal) -> None:
    process = terminal.start(*SWEEP, "engine=local", "tracking.sweep=mine")

    def all_train() -> bool:
        running = shown(terminal)["running"]
        return bool(running) and [trial["epoch"] > 1 for trial in trials_of(running[0])] == [True] * 4

    wait_until(all_train, 120)
    (command,) = shown(terminal)["running"]
    assert (command["sweep"], command["about"]["host"]) == ("mine", socket.gethostname())
    assert "batch_size=20,40" in command["about"]["command"]
    workers = {stack["pid"] for stack in command["stacks"]}
    assert len(workers) == 2
    assert command["about"]["pid"] not in workers
    for stack in command["stacks"]:
        os.kill(stack["pid"], 0)  # it is a process of this machine
        assert (stack["state"], stack["engine"], stack["host"]) == ("training", "local", socket.gethostname())
        assert command["about"]["at"] - 1 < stack["since"] < time.time()
        assert 0 < stack["seconds_left"] <= command["seconds_left"]
    assert {(trial["state"], trial["epochs"], trial["objective"]) for trial in trials_of(command)} == {
        ("training", 2000, "val/accuracy")
    }
    assert all(0 < trial["best"] < 1 for trial in trials_of(command))
    lines = sweepstack(terminal, "status").stdout.splitlines()
    assert lines[0].startswith("Sweep mine: 4 trials, 4 training; about ")
    assert sum("engine=local: " in line for line in lines) == 2
    assert sum("/2000  best val/accuracy 0." in line for line in lines) == 4
    assert "Nothing of sweep other trains" in sweepstack(terminal, "status", "--sweep", "other").stdout

    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    journal = terminal.folder / "journal"
    # Its workers end with it; then its records are delivered, and the files of its session are deleted.
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers) and not [*journal.glob("*/0*")])
    before = content(terminal.folder / "journal")
    killed = shown(terminal)
    assert killed["running"] == []
    (left,) = killed["interrupted"]
    assert [trial["state"] for trial in trials_of(left)] == ["interrupted"] * 4
    assert all(1 < trial["epoch"] < 2000 for trial in trials_of(left))
    assert left["about"] is None
    assert "the same command goes on" in sweepstack(terminal, "status").stdout
    assert content(terminal.folder / "journal") == before


def test_a_stack_in_the_process_of_the_command_is_shown_and_so_is_one_that_waits(terminal: Terminal) -> None:
    process = terminal.start(*SWEEP, "engine=inline", "launch.stack=force")
    try:
        wait_until(lambda: any(trial["epoch"] for one in shown(terminal)["running"] for trial in trials_of(one)), 120)
        (command,) = shown(terminal)["running"]
        first, second = command["stacks"]
        assert (first["state"], first["engine"], first["pid"]) == ("training", "inline", command["about"]["pid"])
        assert (second["state"], second["pid"], second["since"]) == ("waiting", None, None)
        assert command["seconds_left"] == pytest.approx(first["seconds_left"] + second["seconds_left"])
        assert "  waiting: bs=40 lr=0.1, bs=40 lr=0.2\n" in sweepstack(terminal, "status").stdout
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_search_says_how_many_trials_are_to_come_and_counts_with_them(terminal: Terminal) -> None:
    words = ("dataset=digits", "epochs=400", "optimizer.lr=interval(0.01,0.2)", "threads=1", "engine=inline")
    process = terminal.start("train.py", "-m", *words, "search=tpe", "search.trials=64")

    def has_trained() -> bool:
        return any(trial["epoch"] for one in shown(terminal)["running"] for trial in trials_of(one))

    try:
        wait_until(has_trained, 120)
        (command,) = shown(terminal)["running"]
        assert (len(trials_of(command)), command["to_come"]) == (8, 56)  # eight at a time
        assert command["seconds_left"] > 4 * sum(stack["seconds_left"] for stack in command["stacks"])
        (first, *_) = sweepstack(terminal, "status").stdout.splitlines()
        assert re.match(r"Sweep \S+: 64 trials, .*[1-8] training, (\d waiting, )?56 to come; about .* left$", first), (
            first
        )
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_the_time_that_is_left_follows_from_the_measurements(ledger: Ledger, trial: MakeTrial) -> None:
    """Stacks of a command that trains two at a time: what is left of both, and then the one that waits."""
    one = Command(ledger)
    one.claim(*(trial(number) for number in (1, 2, 3)))
    for number in (1, 2, 3):
        one.plan(f"stack {number}", trial(number))
    for number in (1, 2):
        one.start(trial(number))
    time.sleep(0.2)
    one.measure(trial(1), 1)
    (command,) = find_status(ledger).running
    left = {stack.id: stack.seconds_left for stack in command.stacks}
    assert command.session == one.number
    assert left["stack 1"] == pytest.approx(0.2, abs=0.1)  # as its first epoch, which took less than the planned 0.5 s
    assert left["stack 2"] == pytest.approx(0.2, abs=0.1)  # two epochs like that, since 0.2 s
    assert left["stack 3"] == pytest.approx(0.4, abs=0.1)
    assert command.seconds_left == pytest.approx(0.6, abs=0.1)
    one.measure(trial(1), 2)
    one.finish(trial(1))
    (command,) = find_status(ledger).running
    assert [stack.state for stack in command.stacks] == ["ended", "training", "waiting"]
    # The second epoch took no time, so that what precedes the epochs took 0.2 s: as long as stack 2 has trained.
    assert command.seconds_left == pytest.approx(0.2, abs=0.1)
    assert command.trials[0].best == 0.5
    one.die()
    assert find_status(ledger).running == ()
    (left_over,) = find_status(ledger).interrupted
    assert [(trial.name, trial.state, trial.epoch) for trial in left_over.trials] == [
        ("lr=2", "interrupted", 0),
        ("lr=3", "interrupted", 0),
    ]


def test_a_trial_that_failed_for_a_reason_that_may_pass_is_left(ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.train(trial(1), outcome=Outcome(TrialState.FAILED, reason="OSError: the cat"))
    one.train(trial(2))
    one.end()
    (left,) = find_status(ledger, "sweep").interrupted
    assert [(trial.name, trial.state, trial.reason) for trial in left.trials] == [
        ("lr=1", "FAILED", "OSError: the cat")
    ]
    assert find_status(ledger, "other") == Status(str(ledger.folder))


def test_sweeps_and_single_runs_are_shown_apart(ledger: Ledger, trial: MakeTrial) -> None:
    for sweep in ("one", "two", None):
        command = Command(ledger)
        command.claim(trial(command.number, sweep))
        command.plan(f"stack {sweep}", trial(command.number, sweep))
        command.die()
    assert [one.sweep for one in find_status(ledger).interrupted] == ["one", "two", None]


def test_a_session_of_an_earlier_version_is_shown_without_its_process(
    ledger: Ledger, trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    (command,) = find_status(ledger).running
    assert (command.about, command.sweep, command.stacks[0].pid) == (None, "sweep", None)
    done = CliRunner().invoke(main, ["status", "--journal", str(ledger.folder)])
    assert "Sweep sweep: 1 trial, 1 training; about 1.0 s left" in done.stdout
    one.die()


def test_a_session_on_a_machine_whose_locks_are_not_seen_lives_by_its_signs(ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    control = ledger.control(one.number)
    control.begin(About("far away", 1, time.time(), "train.py", "sweep"))
    one.die()
    assert [command.about.host for command in find_status(ledger).running if command.about] == ["far away"]
    os.utime(control.path, (0, 0))
    assert find_status(ledger).running == ()


def test_a_ledger_of_version_1_is_shown_and_stays_as_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parents[1] / "journal" / "store_of_version_1.zip") as archive:
        archive.extractall(tmp_path)
    file = tmp_path / "journal" / "mlflow.db" / "ledger.db"
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.executescript((tmp_path / "ledger.sql").read_text())
    before = content(file.parent)
    status = find_status(Ledger(file.parent))
    assert status.running == ()
    assert content(file.parent) == before


@pytest.mark.parametrize("uri", ["sqlite:///nothing/mlflow.db", "http://127.0.0.1:9"])
def test_without_a_journal_one_line_says_that_nothing_trains(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["status", "--store", uri])
    assert (done.exit_code, done.stdout) == (0, "Nothing trains, and nothing was interrupted.\n")
    shown = json.loads(CliRunner().invoke(main, ["status", "--store", uri, "--json"]).stdout)
    assert (shown["running"], shown["interrupted"]) == ([], [])
    assert [*tmp_path.iterdir()] == []
