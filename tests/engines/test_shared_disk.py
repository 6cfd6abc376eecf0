"""A shared disk that does not answer for a while, or for ever, while a command reads what its workers report."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sweepstack.execution.engines import dispatch
from sweepstack.execution.engines.channel import EVENTS

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


def test_files_that_cannot_be_moved_now_are_moved_later(store: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []

    def move(source: Path, target: Path) -> None:
        moved.append(source.name)
        if len(moved) in (1, 3):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(source))
        shutil.copy(source, target)
        source.unlink()

    monkeypatch.setattr(shutil, "move", move)
    done = here.train(*SWEEP, *WORKERS)
    assert (done.code, done.err) == (0, ""), done.out
    assert states(store) == ["FINISHED"] * 2
    assert all((folder / "weights.pt").is_file() for folder in Path("multirun").glob("*/[0-9]"))


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
