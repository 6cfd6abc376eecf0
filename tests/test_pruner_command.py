"""Pruned sweeps as a user types them: the table, exit codes, kills, workers, and mistakes."""

import contextlib
import os
import pty
import re
import signal
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from sweepstack.execution.control.status import find_status
from sweepstack.execution.open_store import ledger_of

from .terminal import Terminal

RATES = "optimizer.lr=0.0003,3,0.001,1,0.003,0.3,0.01,0.1,0.03"
SWEEP = ("train.py", "-m", "dataset=digits", "threads=1", "epochs=9", "launch.stack=force", "checkpoint.every=0", RATES)
HALVING = (*SWEEP, "batch_size=50,100", "pruner=halving", "engine=inline")
Runs = Counter[tuple[str, str, int, float]]


def ask(terminal: Terminal, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(terminal.folder / "mlflow.db", timeout=60)) as database:
        return database.execute(question).fetchall()


def states(terminal: Terminal) -> dict[str, tuple[str, str]]:
    """Of each run its status, and why it was pruned."""
    pruned = "(SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = 'sweepstack.pruned')"
    rows = ask(terminal, f"SELECT name, status, {pruned} FROM runs WHERE name NOT LIKE 'summary%'")
    return {str(name): (str(status), str(reason or "")) for name, status, reason in rows}


def points(terminal: Terminal) -> Counter[tuple[object, ...]]:
    """How often the store holds each point of each run, times apart."""
    at = "SELECT name, key, step, value FROM metrics JOIN runs USING (run_uuid) WHERE key NOT LIKE 'train_seconds%'"
    return Counter(ask(terminal, at))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("undisturbed"))
    done = terminal.type(*HALVING)
    assert (done.returncode, done.stderr) == (0, "")
    assert "18 trials -> 18 trajectories -> 2 stacks" in done.stdout
    assert done.stdout.count(" trials go on\n") == 4
    assert re.search(r"^\d+ trials PRUNED: \d+ of 162 trial-epochs trained$", done.stdout, re.MULTILINE)
    return terminal


def test_the_table_shows_who_was_pruned_and_compares_the_others(undisturbed: Terminal) -> None:
    pruned = sum(bool(reason) for _, reason in states(undisturbed).values())
    assert pruned >= 12
    table = undisturbed.type("sweepstack", "table")
    assert table.stdout.count("PRUNED") == pruned
    assert f"{pruned} trials were pruned, not compared" in table.stdout + table.stderr
    settings = undisturbed.type("sweepstack", "table", "--by-seed")
    assert f"{pruned} settings were pruned, not compared" in settings.stdout + settings.stderr
    assert "without a value" not in settings.stdout
    page = undisturbed.folder / "report.html"
    assert undisturbed.type("sweepstack", "report", "-o", str(page)).returncode == 0
    html = page.read_text()
    assert "Trials that were pruned" in html
    assert "pruned at epoch 1 by halving" in html
    assert "Trials that did not finish" not in html
    name = next(name for name, (_, reason) in states(undisturbed).items() if reason)
    refused = undisturbed.type("sweepstack", "register", name)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is PRUNED" in refused.stderr
    status = undisturbed.type("sweepstack", "status")
    assert "PRUNED" not in status.stdout + status.stderr


def test_the_same_command_again_trains_nothing(undisturbed: Terminal) -> None:
    before = states(undisturbed), points(undisturbed)
    done = undisturbed.type(*HALVING)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^\d+ trials pruned before: left so", done.stdout, re.MULTILINE)
    assert " trials go on" not in done.stdout
    assert (states(undisturbed), points(undisturbed)) == before


@pytest.mark.parametrize("line", ["halving at epoch 1", "[3/18]", "halving at epoch 3: 1 of 1"])
def test_killed_anywhere_it_ends_with_the_same_states_bit_for_bit(
    terminal: Terminal, undisturbed: Terminal, line: str
) -> None:
    process = terminal.start(*HALVING, fresh=True)
    assert process.stdout is not None
    for said in process.stdout:
        if said.startswith(line):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = terminal.type(*HALVING)
    assert (done.returncode, done.stderr) == (0, "")
    terminal.wait_for_records()
    assert states(terminal) == states(undisturbed)
    assert points(terminal) == points(undisturbed)


BETTER_LAST = ("optimizer.lr=0.0003,0.5,0.001,0.03,0.003,0.3,3,0.1,1", "optimizer.momentum=0.9,0.7")
TOGETHER = (*SWEEP[:-1], *BETTER_LAST, "launch.width=9", "pruner=halving", "engine=inline")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("together"))
    done = terminal.type(*TOGETHER)
    assert (done.returncode, done.stderr) == (0, "")
    assert "18 trials -> 18 trajectories -> 2 stacks" in done.stdout
    assert re.search(r"^halving: 2 of 3 paused trials go on, in 1 stack$", done.stdout, re.MULTILINE)
    return terminal


@pytest.mark.parametrize("line", ["halving at epoch 3: 1 of", "halving: "])
def test_killed_while_trials_are_paused_it_ends_with_the_same_states_bit_for_bit(
    terminal: Terminal, together: Terminal, line: str
) -> None:
    process = terminal.start(*TOGETHER, fresh=True)
    assert process.stdout is not None
    next(said for said in process.stdout if said.startswith(line))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = terminal.type(*TOGETHER)
    assert (done.returncode, done.stderr) == (0, "")
    terminal.wait_for_records()
    assert states(terminal) == states(together)
    assert points(terminal) == points(together)


def test_interrupted_while_trials_are_paused_it_says_so_and_goes_on(terminal: Terminal, together: Terminal) -> None:
    process = terminal.start(*TOGETHER, fresh=True)
    assert process.stdout is not None
    lines = (line for line in process.stdout if line.startswith("halving at epoch 1"))
    assert [next(lines), next(lines)]  # what is left of the first stack waits now
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, (out, err)
    terminal.wait_for_records()
    found = Counter(status for status, _ in states(terminal).values())
    assert found["KILLED"] >= 2
    assert "RUNNING" not in found
    done = terminal.type(*TOGETHER)
    assert (done.returncode, done.stderr) == (0, "")
    terminal.wait_for_records()
    assert states(terminal) == states(together)


def test_paused_trials_are_shown_as_such(terminal: Terminal) -> None:
    mine, theirs = pty.openpty()

    def sit_down() -> None:
        os.dup2(theirs, 1)

    process = terminal.start(*TOGETHER, before=sit_down)
    os.close(theirs)
    shown, paused = "", Counter[str]()
    with contextlib.suppress(OSError):  # the terminal is gone when the command has ended
        while part := os.read(mine, 65536):
            shown += part.decode(errors="replace")
            if ", 1 paused" in shown and not paused:
                (found,) = find_status(ledger_of(terminal.store, None)).running
                paused.update(one.state for one in found.trials)
    _, err = process.communicate()
    os.close(mine)
    assert (process.returncode, err) == (0, "")
    assert paused["paused"] == 1
    numbers = re.findall(r"trial (\d+)/18(?:, (\d+) running)?(?:, (\d+) paused)?", shown)
    assert max(int(number) for number, _, _ in numbers) == 18
    assert {waiting for number, _, waiting in numbers if number == "18"} & {"1", "2", "3"}, numbers
    assert not [one for one in numbers if int(one[1] or 0) > 9]
    assert re.search(r" 2 trials, batch \d+ .*epoch [3-9]/9", shown), shown


def test_what_is_left_of_stacks_goes_on_together(together: Terminal) -> None:
    """The second stack knows the first one, and both know what the other one has reached when one trial of each is
    left."""
    found = states(together)
    assert len(found) == 18
    assert {status for status, _ in found.values()} == {"FINISHED"}
    whole = [name for name, (_, reason) in found.items() if not reason]
    assert 1 <= len(whole) <= 3
    notes = "SELECT value FROM tags JOIN runs USING (run_uuid) WHERE key = 'recomposed' AND name = "
    assert "left of other stacks" in str(ask(together, f"{notes}'{whole[0]}'"))
    epochs = (
        "SELECT count(DISTINCT step) FROM metrics JOIN runs USING (run_uuid) WHERE key = 'val/accuracy' AND name = "
    )
    assert ask(together, f"{epochs}'{whole[0]}'") == [(9,)]
    again = together.type(*TOGETHER)
    assert (again.returncode, again.stderr) == (0, "")
    assert " go on" not in again.stdout
    assert states(together) == found
    on = together.type(*TOGETHER[:-2], "engine=inline")  # who was pruned while it was paused goes on from there
    assert (on.returncode, on.stderr) == (0, "")
    assert not any(reason for _, reason in states(together).values())
    assert {count for (count,) in ask(together, f"{epochs.removesuffix(' AND name = ')} GROUP BY name")} == {9}


def test_workers_decide_as_this_process_does(terminal: Terminal, undisturbed: Terminal) -> None:
    """The first stack of both knows nobody else; the second one may begin before it has reached a rung."""
    done = terminal.type(*HALVING[:-1], "engine=local", "engine.workers=2")
    assert (done.returncode, done.stderr) == (0, "")
    found, expected = states(terminal), states(undisturbed)
    first = {name: one for name, one in expected.items() if "bs=50" in name}
    assert {name: found[name] for name in first} == first
    assert Counter(bool(reason) for name, (_, reason) in found.items() if "bs=100" in name) == {True: 8, False: 1}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-m", RATES, "pruner=halvng"], "did you mean 'halving'?"),
        (
            ["-m", RATES, "pruner=halving", "validation_split=0"],
            "validation_split must hold data out for pruner=halving",
        ),
        (["-m", RATES, "pruner=halving,median"], "pruner must be the same for all jobs of a sweep"),
        (["-m", RATES, "pruner=threshold"], "pruner.bound is required and missing"),
        (["-m", RATES, "pruner=median", "+pruner.factor=2"], "it is a key of pruner=halving and pruner=hyperband"),
        (["-m", RATES, "pruner=halving", "pruner.factor=1"], "pruner.factor should be greater than or equal to 2"),
        (["pruner=halving"], "which needs -m and hydra/launcher=sweepstack"),
        (["-m", RATES, "pruner=median", "hydra/launcher=basic"], "which needs -m and hydra/launcher=sweepstack"),
    ],
)
def test_a_mistake_is_one_line_before_anything_trains(bare_terminal: Terminal, words: list[str], line: str) -> None:
    done = bare_terminal.type("train.py", *words, "dataset=digits")
    assert done.returncode == 2
    assert line in done.stderr
    assert not (bare_terminal.folder / "mlflow.db").exists()


def test_the_plan_says_where_trials_are_judged(bare_terminal: Terminal) -> None:
    words = ("epochs=9,27", "optimizer.lr=0.1,0.01", "pruner=hyperband", "launch.dry_run=true")
    done = bare_terminal.type("train.py", "-m", "dataset=digits", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "pruner=hyperband: 1 in 3 goes on, in 4 brackets at epochs 1, 3 and 9 of 27 epochs, in a shorter" in done.stdout
    )


def test_the_rungs_of_a_search_are_counted_on_the_longest_training_of_its_space(terminal: Terminal) -> None:
    words = ("search=random", "search.trials=1", "search.seed=2", "epochs=27,1,2,3", "pruner=halving", "engine=inline")
    done = terminal.type("train.py", "-m", "dataset=digits", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[1/1] epochs=27" not in done.stdout
    assert "pruner=halving: 1 in 3 goes on at epochs 1, 3 and 9 of 27 epochs, in a shorter training" in done.stdout
