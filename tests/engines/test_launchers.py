"""Hydra's other launchers, which train each job in a process of its own, keep what is promised of a sweep."""

import contextlib
import importlib.util
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweepstack.execution.control.status import CommandStatus, find_status
from sweepstack.journal.ledger import Ledger

from .. import here
from ..stories import ask, points, wait_until
from ..terminal import Terminal

FATES = '''
"""A model that trains, has a mistake in it, dies, or hangs in its third epoch as long as a file is there."""

import os
import pathlib
import signal
import time

import torch


class Model(torch.nn.Linear):
    def __init__(self, fate, shape, classes):
        super().__init__(64, classes)
        self.fate = fate
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        if self.training:
            if self.fate == "bad" and self.calls > 15:
                raise ArithmeticError("this cannot be computed")
            while self.fate == "hangs" and self.calls > 30 and pathlib.Path("hanging").exists():
                time.sleep(0.01)
            if self.fate == "dies" and self.calls > 15:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1
        return super().forward(images.flatten(1))
'''
COMMAND = ("train.py", "-m", "dataset=digits", "epochs=4", "checkpoint.every=0", "model={_target_:fates.Model}")
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=3"),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray",),
}
PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}


def running(terminal: Terminal) -> list[CommandStatus]:
    return [one for journal in terminal.folder.glob("journal/*") for one in find_status(Ledger(journal)).running]


def epochs(terminal: Terminal) -> list[int | None]:
    """How far the trials are that train."""
    return [trial.epoch for one in running(terminal) for trial in one.trials]


@pytest.fixture
def hanging(terminal: Terminal) -> Iterator[Path]:
    (terminal.folder / "fates.py").write_text(FATES)
    file = terminal.folder / "hanging"
    file.touch()
    yield file
    file.unlink(missing_ok=True)


def fates(terminal: Terminal) -> dict[str, str]:
    """The states of the trials in MLflow, by their fates."""
    known = ask(terminal.store, "SELECT name, status FROM runs")
    return {re.findall(r"fate=(\w+)", name)[0]: state for name, state in known}


def installed(launcher: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(f"hydra_plugins.{PLUGINS[launcher]}") is not None
    return pytest.mark.skipif(
        not found, reason=f"{PLUGINS[launcher]} is not installed: it and joblib exclude each other"
    )


@pytest.mark.parametrize("launcher", [pytest.param(name, marks=installed(name)) for name in LAUNCHERS])
def test_failed_and_killed_jobs_are_named_and_the_same_command_goes_on(
    terminal: Terminal, hanging: Path, launcher: str
) -> None:
    process = terminal.start(*COMMAND, *LAUNCHERS[launcher], "+model.fate=good,bad,hangs", "tracking.sweep=first")
    ended = {"good": "FINISHED", "bad": "FAILED", "hangs": "RUNNING"}
    wait_until(lambda: process.poll() is not None or (fates(terminal) == ended and epochs(terminal) == [2]), 120)
    while process.poll() is None:
        for pid in [one.about.pid for one in running(terminal) if one.about is not None]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)  # Ray begins the job again, three times
    out, err = process.communicate(timeout=120)

    assert process.returncode == 1
    table, failed, lost, _ = out[out.index("model.fate  ") :].split("\n\n")
    assert {line.split()[0]: "FINISHED" in line for line in table.splitlines()[2:]} == {
        "good": True,
        "bad": False,
        "hangs": False,
    }
    assert "ArithmeticError: this cannot be computed (in your fates.py, line " in failed
    assert [line.split()[:2] for line in lost.splitlines()] == [
        ["never", "reported"],
        ["----------------", "-" * len(str(terminal.folder / "multirun/first/2/train.log"))],
        ["fate=hangs", str(terminal.folder / "multirun/first/2/train.log")],
    ]
    assert "sweepstack table --sweep first" in out
    assert err.splitlines()[-1].startswith(f"error: hydra/launcher={launcher} has failed: ")
    assert err.splitlines()[-1].endswith("; the same command goes on from here")

    hanging.unlink()
    twins = ("+vars.twin=1,2",) if launcher == "joblib" else ()  # two jobs of one fingerprint
    done = terminal.type(*COMMAND, *LAUNCHERS[launcher], "+model.fate=good,hangs", *twins)
    assert done.returncode == 0, done.stderr
    assert fates(terminal) == {"good": "FINISHED", "bad": "FAILED", "hangs": "FINISHED"}
    measured = points(terminal.store, "key = 'val/accuracy' AND status = 'FINISHED'")
    assert {*measured.values()} == {1}  # neither was trained twice
    by_fate = {
        fate: [point[1:] for point in sorted(measured) if f"fate={fate}" in point[0]] for fate in ("good", "hangs")
    }
    assert by_fate["good"] == by_fate["hangs"]  # as if it had not been disturbed
    assert [step for _, step, _ in by_fate["hangs"]] == [1, 2, 3, 4]


def test_another_sweeper_does_not_know_the_jobs_and_those_that_have_begun_are_named(terminal: Terminal) -> None:
    (terminal.folder / "fates.py").write_text(FATES)
    done = terminal.type(*COMMAND, *LAUNCHERS["joblib"], "hydra/sweeper=basic", "+model.fate=dies")
    assert done.returncode == 1
    assert fates(terminal) == {"dies": "KILLED"}
    assert re.search(r"^never reported .*\n-.*\n.* fate=dies  /.*/0/train.log$", done.stdout, re.MULTILINE)
    assert "error: hydra/launcher=joblib has failed: TerminatedWorkerError: " in done.stderr


def test_a_failed_trial_counts_while_no_server_answers(terminal: Terminal) -> None:
    away = ("tracking.uri=http://127.0.0.1:9", f"tracking.journal={terminal.folder}/waiting")
    digits = ("dataset=digits", "epochs=1", "model=mlp", *LAUNCHERS["joblib"])
    done = terminal.type("train.py", "-m", *digits, "optimizer.lr=0.1,1e30", *away)
    assert done.returncode == 1
    assert "The table must wait: " in done.stderr
    assert "sweepstack sync --store http://127.0.0.1:9" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("optimizer.lr=0.1,-1",), 2, "error: job 1 (dataset=digits optimizer.lr=-1): optimizer.lr should be "),
        (("launch.dry_run=true",), 2, "error: launch.dry_run shows the plan of a sweep, which needs -m and "),
        (
            ("hydra.launcher.n_jobs=0",),
            1,
            "error: hydra/launcher=joblib has failed: ValueError: n_jobs == 0 in Parallel",
        ),
    ],
)
def test_what_is_wrong_before_a_job_begins_is_one_line(
    words: tuple[str, ...], code: int, line: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    (terminal.folder / "there").mkdir()  # as an earlier sweep leaves it
    done = here.train("-m", "dataset=digits", "hydra/launcher=joblib", "hydra.sweep.dir=there", *words)
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert "Table:" not in done.out
    assert done.err.startswith(line)
    assert not [*terminal.folder.glob("there/0*")]
