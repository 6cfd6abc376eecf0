"""`sweepstack stop`: trials and sweeps end by a word from another terminal."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sweepstack.cli.main import main
from sweepstack.execution.control import stop as stopping
from sweepstack.execution.control.follow import Requests
from sweepstack.execution.control.status import find_status
from sweepstack.journal.control import About, Request
from sweepstack.journal.ledger import Ledger

from ..stories import Command, MakeTrial, states, wait_until
from ..terminal import Terminal

GRID = ("train.py", "-m", "dataset=digits", "batch_size=20,40", "optimizer.lr=0.1,0.2", "threads=1")
FORCED = ("launch.stack=force", "checkpoint.every=0.2", "tracking.sweep=mine")


def sweepstack(terminal: Terminal, *words: str) -> Result:
    return CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": terminal.uri})


def epochs(terminal: Terminal) -> dict[str, int]:
    """The trials that train now, each with its epoch."""
    (journal,) = terminal.folder.glob("journal/*")
    running = find_status(Ledger(journal)).running
    return {trial.name: trial.epoch or 0 for one in running for trial in one.trials if trial.state == "training"}


def wait_for_epoch(terminal: Terminal, name: str, epoch: int = 2) -> None:
    wait_until(lambda: [*terminal.folder.glob("journal/*/ledger.db")] != [], 120)
    wait_until(lambda: epochs(terminal).get(name, 0) >= epoch, 120)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "journal" / "mlflow.db")


def living(ledger: Ledger, trial: MakeTrial, sweep: str | None, *numbers: int) -> Command:
    """A command that trains, each trial in a stack of its own, and follows no requests."""
    command = Command(ledger)
    command.claim(*(trial(number, sweep) for number in numbers))
    for number in numbers:
        command.plan(f"stack {number} of {sweep}", trial(number, sweep))
        command.start(trial(number, sweep))
    ledger.control(command.number).begin(About("here", 1, time.time(), "train.py", sweep))
    return command


def stop(ledger: Ledger, *words: str) -> Result:
    return CliRunner().invoke(main, ["stop", "--journal", str(ledger.folder), *words])


def test_trials_of_workers_are_stopped_the_others_go_on_and_the_same_command_trains_them(terminal: Terminal) -> None:
    words = (*GRID, *FORCED, "epochs=150", "engine=local")
    process = terminal.start(*words)
    wait_for_epoch(terminal, "bs=20 lr=0.1")
    done = sweepstack(terminal, "stop", "lr=0.1 bs=20", "3")  # a name in another order, and a number
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "Stopped at the next measurement: bs=20 lr=0.1, bs=40 lr=0.2.\n"
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, err
    assert len(re.findall(r"1 trial KILLED: stopped after step \d+ of \d+ by sweepstack stop of .+ on .+", out)) == 2
    assert states(terminal.store) == {
        "bs=20 lr=0.1": "KILLED",
        "bs=20 lr=0.2": "FINISHED",
        "bs=40 lr=0.1": "FINISHED",
        "bs=40 lr=0.2": "KILLED",
    }
    again = terminal.type(*words)
    assert again.returncode == 0, again.stderr
    assert set(states(terminal.store).values()) == {"FINISHED"}
    assert "has ended" not in sweepstack(terminal, "stop", "lr=0.1 bs=20").stderr
    assert "nothing runs that could be stopped" in sweepstack(terminal, "stop").stderr


def test_in_the_process_of_the_command_trials_that_train_or_wait_are_stopped_and_then_all(terminal: Terminal) -> None:
    words = (*GRID, *FORCED, "epochs=3000", "engine=inline")
    process = terminal.start(*words)
    wait_for_epoch(terminal, "bs=20 lr=0.2")
    assert sweepstack(terminal, "stop", "bs=20 lr=0.1").exit_code == 0
    wait_until(lambda: epochs(terminal).keys() == {"bs=20 lr=0.2"})
    ended = sweepstack(terminal, "stop", "bs=20 lr=0.1")
    assert (ended.exit_code, "has ended (KILLED)" in ended.stderr) == (2, True)
    waiting = sweepstack(terminal, "stop", "bs=40 lr=0.1", "bs=40 lr=0.2", "bs=20 lr=0.2")
    assert "Stopped before it begins, or at the first measurement: bs=40 lr=0.1, bs=40 lr=0.2." in waiting.stdout
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert re.search(r"2 trials not trained, because it was stopped by sweepstack stop of .+; the same command", out)
    assert states(terminal.store) == {"bs=20 lr=0.1": "KILLED", "bs=20 lr=0.2": "KILLED"}


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_sweep_is_stopped_as_by_ctrl_c_and_the_same_command_resumes_it(terminal: Terminal, engine: str) -> None:
    words = (*GRID, *FORCED, "epochs=200", f"engine={engine}")
    process = terminal.start(*words)
    wait_for_epoch(terminal, "bs=20 lr=0.2")
    done = sweepstack(terminal, "stop", "--json", "--sweep", "mine")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"^Stopped by sweepstack stop of .+; the same command goes on from here\.$", err, re.MULTILINE)
    (stopped,) = json.loads(done.stdout)
    assert (done.exit_code, stopped["sweep"], stopped["trials"], stopped["ended"]) == (0, "mine", None, True)
    terminal.wait_for_records()
    assert set(states(terminal.store).values()) == {"KILLED"}
    assert [*terminal.folder.glob("journal/*/checkpoints/*/latest.pt")]
    resumed = terminal.type(*words)
    assert resumed.returncode == 0, resumed.stderr
    assert "interrupted before: resumed" in resumed.stdout
    assert list(states(terminal.store).values()) == ["FINISHED"] * 4


def test_with_several_sweeps_one_must_be_named(ledger: Ledger, trial: MakeTrial) -> None:
    commands = [living(ledger, trial, "one", 1), living(ledger, trial, "two", 1, 2), living(ledger, trial, None, 3)]
    done = stop(ledger)
    assert done.exit_code == 2
    assert "one sweep at a time is stopped, all of it can mean one; the single run lr=3; two; name the" in done.stderr
    unknown = stop(ledger, "--sweep", "tow")
    assert (unknown.exit_code, unknown.stderr) == (2, "error: no command trains sweep 'tow'; did you mean 'two'?\n")
    assert all(ledger.control(command.number).read().requests == [] for command in commands)
    for command in commands:
        command.die()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("lr=11", "no trial 'lr=11' trains or waits; did you mean 'lr=1'?"),
        ("7", "no trial '7' trains or waits; known: lr=1, lr=2"),
        ("lr=3", "a trial must train or wait, 'lr=3' has ended (FINISHED); sweepstack status shows what trains"),
    ],
)
def test_a_trial_that_does_not_train_is_refused(ledger: Ledger, trial: MakeTrial, word: str, line: str) -> None:
    command = living(ledger, trial, "sweep", 1, 2, 3)
    command.finish(trial(3))
    done = stop(ledger, "lr=1", word)
    assert (done.exit_code, done.stderr) == (2, f"error: {line}\n")
    assert ledger.control(command.number).read().requests == []  # nothing was asked for
    command.die()


def test_a_command_that_does_not_answer_gives_exit_code_1(
    ledger: Ledger, trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "TAKE_SECONDS", 0.2)
    command = living(ledger, trial, "sweep", 1, 2)
    done = stop(ledger, "sweep-1")  # the beginning of an id
    assert (done.exit_code, "does not answer" in done.stdout) == (1, True)
    (request,) = ledger.control(command.number).read().requests
    assert request.trials == ("sweep-1",)
    ledger.control(command.number).path.unlink()
    refused = stop(ledger)
    assert (refused.exit_code, "end the command where it was typed, with Ctrl-C" in refused.stderr) == (2, True)
    command.die()


@pytest.mark.parametrize(
    ("takes", "told"),
    [(True, (0, "Stopped at the next measurement: lr=1.\n")), (False, (1, "ended before it took the request.\n"))],
)
def test_a_command_that_ends_at_once_has_removed_the_file_of_requests(
    ledger: Ledger, trial: MakeTrial, monkeypatch: pytest.MonkeyPatch, takes: bool, told: tuple[int, str]
) -> None:
    command = living(ledger, trial, "sweep", 1)

    def end(*_: object) -> None:
        if takes:
            ledger.control(command.number).take(1)
        command.finish(trial(1))
        command.end()
        ledger.retire(command.number)

    monkeypatch.setattr(stopping, "_wait", end)  # in the time between two looks
    done = stop(ledger, "lr=1")
    assert (done.exit_code, done.stdout.endswith(told[1])) == (told[0], True)


def test_a_command_that_ends_before_the_request_is_written_is_no_error(
    ledger: Ledger, trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = living(ledger, trial, "sweep", 1)

    def end() -> str:
        command.end()
        ledger.retire(command.number)
        return "ann"

    monkeypatch.setattr(stopping, "who", end)
    done = stop(ledger, "lr=1")
    assert (done.exit_code, done.stderr) == (1, "")
    assert done.stdout == "The command on here, process 1 ended before it took the request.\n"


def test_requests_are_followed_in_their_order_and_damaged_lines_are_left_out(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command(ledger)
    control, calls = ledger.control(command.number), []
    control.path.write_text('{"stop": null, "by": "an earlier command"}\n')  # of a ledger that was deleted
    requests = Requests(control, calls.append)
    with requests.followed("sweep"):
        assert control.path.stat().st_mode & 0o077 == 0
        with control.path.open("a") as file:
            file.write('{"stop": 7}\nnot JSON\n[]\n')
        control.ask(Request(("a", "b"), "ann"))
        wait_until(lambda: control.read().taken == 1)
        control.ask(Request(("c",), "bob"))
        control.ask(Request(None, "cleo"))
        wait_until(lambda: control.read().taken == 3)
    assert requests.stopped == {"a": "ann", "b": "ann", "c": "bob"}
    assert calls == ["cleo"]
    command.end()


def test_nothing_is_left_of_a_session_that_is_delivered(ledger: Ledger, trial: MakeTrial) -> None:
    command = living(ledger, trial, "sweep", 1)
    command.finish(trial(1))
    command.end()
    ledger.retire(command.number)
    assert sorted(path.name for path in ledger.folder.iterdir()) == ["ledger.db"]


def test_nothing_runs(tmp_path: Path) -> None:
    done: Any = stop(Ledger(tmp_path / "none"))
    rule = "error: nothing runs that could be stopped; sweepstack status shows more\n"
    assert (done.exit_code, done.stderr) == (2, rule)
    assert [*tmp_path.iterdir()] == []


def test_a_paused_trial_is_stopped_too(ledger: Ledger, trial: MakeTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    command = living(ledger, trial, "sweep", 1, 2)
    control = ledger.control(command.number)
    control.note_paused("sweep-1")
    monkeypatch.setattr(stopping, "_wait", lambda *_: control.take(1))
    done = stop(ledger, "lr=1")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "Stopped before it goes on, as it is paused now: lr=1.\n"
    assert [request.trials for request in control.read().requests] == [("sweep-1",)]
    command.die()
