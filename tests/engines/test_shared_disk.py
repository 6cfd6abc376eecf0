"""A shared disk that does not answer for a while, or for ever, while a command reads what its workers report."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sweepstack.events import Ended
from sweepstack.execution.engines import channel, dispatch
from sweepstack.execution.engines.channel import EVENTS
from sweepstack.execution.executor import UnreachableError

from .. import here
from ..terminal import Terminal

SWEEP = ("-m", "dataset=digits", "optimizer.lr=0.1,0.2", "epochs=2", "launch.width=1", "engine=local")
WORKERS = ("engine.workers=2", "threads=1")


def fail(patch: pytest.MonkeyPatch, number: int, times: int, after: int = 0) -> list[str]:
    """Lets looks at the reports of workers fail; returns the files that were looked at.

    Args:
        number: the number of the system error.
        times: how many looks fail.
        after: how many looks before do not.
    """
    looks: list[str] = []
    opened = Path.open

    def open_or_fail(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path.name == EVENTS and mode == "rb":
            looks.append(str(path))
            if after < len(looks) <= after + times:
                raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *rest, **named)

    patch.setattr(Path, "open", open_or_fail)
    return looks


@pytest.fixture
def store(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    monkeypatch.chdir(tmp_path)
    return terminal


def states(terminal: Terminal) -> list[str]:
    return [row.state for row in terminal.store.rows()]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_a_disk_that_answers_again_costs_a_line(number: int, store: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = fail(monkeypatch, number, times=6, after=2)
    done = here.train(*SWEEP, *WORKERS)
    assert (done.code, done.err) == (0, ""), done.out
    assert len(looks) > 8
    line = f"Reports of workers cannot be read ({os.strerror(number)}); that is tried again for 10 minutes."
    assert done.out.count("cannot be read") == done.out.count(line) == 1
    assert states(store) == ["FINISHED"] * 2


def weights() -> list[Path]:
    """The weights of the trials, those of the first one first; each is whole."""
    found = sorted(Path("multirun").glob("*/[0-9]/weights.pt"))
    for file in found:
        torch.load(file, weights_only=True)
    return found


def fail_to_move(patch: pytest.MonkeyPatch, number: int, times: int, crosses: bool = False) -> list[Path]:
    """Lets the weights of the first trial fail to get to its folder; returns what was to be moved there.

    Args:
        number: the number of the system error.
        times: how many moves fail.
        crosses: the journal is on another file system than the folder of the trial.
    """
    moved: list[Path] = []
    replaced = os.replace

    def replace_or_fail(source: Any, target: Any) -> None:
        source, target = Path(source), Path(target)
        if target.name == "weights.pt" and target.parent.name in ("0", "1"):
            if crosses and "work" in source.parts:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            if target.parent.name == "0":
                moved.append(source)
                if len(moved) <= times:
                    raise OSError(number, os.strerror(number), str(source))
        replaced(source, target)

    patch.setattr(os, "replace", replace_or_fail)
    return moved


@pytest.mark.parametrize("crosses", [False, True])
def test_files_that_cannot_be_moved_now_are_moved_later(
    crosses: bool, store: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = fail_to_move(monkeypatch, errno.ETIMEDOUT, times=2, crosses=crosses)
    done = here.train(*SWEEP, *WORKERS)
    assert (done.code, done.err) == (0, ""), done.out
    assert len(moved) == 3
    assert states(store) == ["FINISHED"] * 2
    assert len(weights()) == 2
    assert not [*Path("multirun").rglob(".*.pt")]


def test_a_file_that_can_never_be_moved_fails_its_trial_only(store: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "UNREACHABLE_SECONDS", 0.2)
    moved = fail_to_move(monkeypatch, errno.EIO, times=10**6)
    done = here.train(*SWEEP, *WORKERS)
    assert done.code == 1, done.err
    assert len(moved) > 1
    assert {row.name: row.state for row in store.store.rows()} == {"lr=0.1": "FAILED", "lr=0.2": "FINISHED"}
    assert [file.parent.name for file in weights()] == ["1"]
    assert "Input/output error" in done.out + done.err


def test_a_file_that_is_gone_fails_its_trial(store: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with_files = channel.Reports._with_files

    def lose_first(reports: channel.Reports, event: Ended, trace: str) -> Ended:
        if event.trial.number == 0:
            (reports.folder / channel.FILES / event.files[0]).unlink()
        return with_files(reports, event, trace)

    monkeypatch.setattr(channel.Reports, "_with_files", lose_first)
    done = here.train(*SWEEP, *WORKERS)
    assert done.code == 1, done.err
    assert {row.name: row.state for row in store.store.rows()} == {"lr=0.1": "FAILED", "lr=0.2": "FINISHED"}


def test_the_next_command_goes_on_although_a_file_of_a_lost_worker_cannot_be_moved(
    store: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "UNREACHABLE_SECONDS", 0.0)
        patch.setattr(channel.Reports, "_with_files", unreachable_for_ever)
        done = here.train(*SWEEP, *WORKERS)
        assert done.code == 2, done.out
    fail_to_move(monkeypatch, errno.EIO, times=10**6)
    monkeypatch.setattr(channel, "UNREACHABLE_SECONDS", 0.2)  # of a trial that was not done yet
    again = here.train(*SWEEP, *WORKERS)
    assert again.code == 1, again.err
    assert {row.name: row.state for row in store.store.rows()} == {"lr=0.1": "FAILED", "lr=0.2": "FINISHED"}


def unreachable_for_ever(reports: channel.Reports, event: Ended, trace: str) -> Ended:
    raise UnreachableError("Input/output error", 0.0)


def test_a_disk_that_does_not_answer_ends_the_command_and_the_same_command_goes_on(
    store: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "UNREACHABLE_SECONDS", 0.2)
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, errno.EIO, times=10**6, after=1)
        done = here.train(*SWEEP, *WORKERS)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert done.err.startswith("error: the folder of the journal must be readable, the reports of workers in ")
        remedy = "see to its disk, then type the same command again: it goes on from here"
        assert f" are not (Input/output error); {remedy}" in done.err
        blind = here.train(*SWEEP, *WORKERS)  # what the lost workers have reported must be known first
        assert (blind.code, blind.err) == (2, done.err)
    again = here.train(*SWEEP, *WORKERS)
    assert (again.code, again.err) == (0, ""), again.out
    assert sorted(states(store)) == ["FINISHED"] * 2
