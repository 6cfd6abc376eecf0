"""engine=local, as a user sees it: the same figures as in one process, whatever dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweepstack.execution.engines.channel import worker_of

from ..terminal import Terminal, new_store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")

GRID = ("dataset=digits", "epochs=150", "batch_size=50,100", "optimizer.lr=0.1,0.2", "threads=1", "launch.width=2")
SWEEP = ("train.py", "-m", *GRID, "checkpoint.every=0")
LOCAL = (*SWEEP, "engine=local", "engine.workers=2")
Figures = dict[str, tuple[str, dict[str, float]]]


def figures(terminal: Terminal) -> Figures:
    """State and metrics of each trial by its name; of the one that finished, if a trial has several runs."""
    found: Figures = {}
    for run in terminal.store.client.search_runs(["1"], max_results=1000):
        if (name := run.info.run_name) and "lr" in run.data.params and found.get(name, ("",))[0] != "FINISHED":
            metrics = {key: value for key, value in run.data.metrics.items() if "seconds" not in key}
            found[name] = (run.info.status, metrics)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Figures:
    """What a sweep in one process ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    new_store(folder, empty_database)
    done = Terminal(folder).type(*SWEEP, "engine=inline")
    assert done.returncode == 0, done.stderr
    return figures(Terminal(folder))


@pytest.fixture
def terminal(tmp_path: Path, empty_database: Path) -> Terminal:
    new_store(tmp_path, empty_database)
    return Terminal(tmp_path)


def parents() -> dict[int, int]:
    """The parent of each process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def workers(command: subprocess.Popen[str]) -> list[int]:
    """The workers of a command: what the server that it has forked has forked."""
    of = parents()
    return [pid for pid, parent in of.items() if of.get(parent) == command.pid]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def checkpoints(folder: Path) -> list[Path]:
    return [*folder.glob("journal/*/checkpoints/*/latest.pt")]


@pytest.fixture
def training(terminal: Terminal) -> Iterator[subprocess.Popen[str]]:
    """A sweep whose two workers have both saved a state."""
    command = terminal.start(*LOCAL)
    wait_until(lambda: len(checkpoints(terminal.folder)) == 2 and len(workers(command)) == 2)
    yield command
    command.kill()
    command.wait()


def test_workers_end_with_the_figures_of_one_process(terminal: Terminal, undisturbed: Figures) -> None:
    done = terminal.type(*LOCAL)
    assert (done.returncode, done.stderr) == (0, "")
    assert figures(terminal) == undisturbed
    assert not [*terminal.folder.glob("journal/*/work/*")]
    assert not checkpoints(terminal.folder)


@pytest.mark.parametrize("count", [1, 2], ids=["one worker", "all workers"])
def test_a_worker_that_is_killed_is_replaced(
    count: int, terminal: Terminal, training: subprocess.Popen[str], undisturbed: Figures
) -> None:
    for worker in workers(training)[:count]:
        os.kill(worker, signal.SIGKILL)
    out, err = training.communicate(timeout=120)
    assert (training.returncode, err) == (0, "")
    assert out.count("was lost: it was killed by SIGKILL; another one goes on from the checkpoint.") == count
    assert figures(terminal) == undisturbed


def test_workers_end_with_the_command_and_the_same_command_goes_on(
    terminal: Terminal, training: subprocess.Popen[str], undisturbed: Figures
) -> None:
    left = workers(training)
    training.kill()
    training.wait()
    wait_until(lambda: not {*left} & {*parents()})
    again = terminal.type(*LOCAL)
    assert (again.returncode, again.stderr) == (0, "")
    assert "2 stacks interrupted before: resumed" in again.stdout
    assert figures(terminal) == undisturbed


def test_ctrl_c_leaves_nothing_running_and_loses_nothing(
    terminal: Terminal, training: subprocess.Popen[str], undisturbed: Figures
) -> None:
    left = workers(training)
    os.kill(training.pid, signal.SIGINT)
    _, err = training.communicate(timeout=30)
    assert (training.returncode, err) == (130, "Stopped; the same command goes on from here.\n")
    assert not {*left} & {*parents()}
    again = terminal.type(*SWEEP, "engine=inline")
    assert again.returncode == 0
    assert figures(terminal) == undisturbed


def test_a_worker_that_comes_back_too_late_changes_nothing(
    terminal: Terminal, training: subprocess.Popen[str], undisturbed: Figures
) -> None:
    """As if its machine had not been reachable."""
    training.kill()
    training.wait()
    command = terminal.start(*LOCAL, "engine.lease=1")
    wait_until(lambda: len(workers(command)) == 2)
    time.sleep(0.2)
    late, _ = workers(command)
    os.kill(late, signal.SIGSTOP)
    wait_until(lambda: len(workers(command)) == 3)
    os.kill(late, signal.SIGCONT)
    out, err = command.communicate(timeout=120)
    assert (command.returncode, err) == (0, "")
    assert "was lost: nothing was heard of the worker" in out
    assert figures(terminal) == undisturbed


MANY = ("dataset=digits", "epochs=30", "batch_size=50,60,70,80,90,100", "optimizer.lr=0.1,0.2")
MANY_STACKS = ("train.py", "-m", *MANY, "threads=1", "launch.width=2")


def test_a_worker_that_is_killed_in_its_third_stack_loses_only_that(
    terminal: Terminal, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> None:
    command = terminal.start(*MANY_STACKS, "engine=local", "engine.workers=2")
    done: dict[int, set[str]] = {}
    while not any(len(stacks) == 3 for stacks in done.values()):
        assert command.poll() is None
        for folder in terminal.folder.glob("journal/*/work/*"):
            if (worker := worker_of(folder)) is not None:
                done.setdefault(worker["pid"], set()).add(folder.name)
        time.sleep(0.002)
    (killed,) = [pid for pid, stacks in done.items() if len(stacks) == 3]
    os.kill(killed, signal.SIGKILL)
    out, err = command.communicate(timeout=120)
    assert (command.returncode, err) == (0, "")
    assert out.count("was lost: it was killed by SIGKILL; another one") == 1
    folder = tmp_path_factory.mktemp("undisturbed")
    new_store(folder, empty_database)
    assert Terminal(folder).type(*MANY_STACKS, "engine=inline").returncode == 0
    assert figures(terminal) == figures(Terminal(folder))


LOOP = """
import logging

def train(config, context):
    logging.getLogger("loop").warning("seed %d", config.seed)
    context.report({"val/accuracy": 0.5}, step=1)
    return {}
"""


def test_the_jobs_of_one_worker_have_logs_of_their_own(terminal: Terminal) -> None:
    (terminal.folder / "logging_loop.py").write_text(LOOP)
    words = ("dataset=digits", "+trainer._target_=logging_loop.train", "seed=0,1,2,3,4,5", "epochs=1")
    done = terminal.type("train.py", "-m", *words, "engine=local", "engine.workers=2")
    assert (done.returncode, done.stderr) == (0, "")
    logs = [file.read_text() for file in sorted(terminal.folder.glob("multirun/*/*/train.log"))]
    assert [[line.split()[-1] for line in log.splitlines() if "[loop]" in line] for log in logs] == [
        [str(seed)] for seed in range(6)
    ]


GREEDY = """
import os, pathlib, signal, torch

class Net(torch.nn.Linear):
    def __init__(self, shape, classes):
        super().__init__(64, classes)

    def forward(self, images):
        by_worker = os.getsid(0) == os.getppid()  # the server is the first process of a session
        deaths = pathlib.Path("deaths")
        if by_worker and len([*deaths.glob("*")]) < LIMIT:
            (deaths / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images.flatten(1))
"""
"""A model that ends its first workers, as the kernel ends whoever takes too much memory."""
TWO_STACKS = ("dataset=digits", "epochs=2", "batch_size=100,1437", "launch.width=2", "engine=local", "retries=0")


def furnish(terminal: Terminal, limit: int) -> tuple[str, str]:
    (terminal.folder / "greedy.py").write_text(GREEDY.replace("LIMIT", str(limit)))
    (terminal.folder / "deaths").mkdir()
    return "model._target_=greedy.Net", "engine.workers=2"


def test_a_stack_that_ends_its_workers_goes_on_in_halves(terminal: Terminal) -> None:
    words = ("train.py", "-m", *TWO_STACKS, *furnish(terminal, 6), "optimizer.lr=0.1,0.2")
    done = terminal.type(*words)
    assert done.returncode == 0, done.stderr
    assert "; its trials go on in halves, which need less memory." in done.stdout
    assert {state for state, _ in figures(terminal).values()} == {"FINISHED"}


def test_a_trial_that_ends_all_of_its_workers_has_failed(terminal: Terminal) -> None:
    words = ("train.py", "-m", *TWO_STACKS, *furnish(terminal, 99), "optimizer.lr=0.1")
    done = terminal.type(*words)
    assert done.returncode == 1
    assert "FAILED: it has lost 3 workers, the last one because it was killed by SIGKILL" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert [state for state, _ in figures(terminal).values()] == ["FAILED", "FAILED"]
