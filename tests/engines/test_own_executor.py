"""An executor of one's own, as docs/extending.md shows it."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweepstack.execution.engines import dispatch
from sweepstack.execution.engines.conformance import ExecutorConformance
from sweepstack.execution.executor import Executor

from .. import here
from ..terminal import ROOT, Terminal

PAGE = (ROOT / "docs" / "extending.md").read_text().partition("## An executor of your own\n")[2].partition("\n## ")[0]
EXECUTOR, TESTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(COMMAND,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
WRONG = """
class Bare:
    def __init__(self, journal, lease):
        self.workers = 2


class Counted(Bare):
    submit = close = print

    def __init__(self, journal, lease, workers=0):
        self.workers = workers


def raises(journal, lease):
    raise OSError("no such host")


def asks(journal, lease, host):
    return None


class Fails(Counted):
    def submit(self, assignment, reporter):
        raise RuntimeError("the queue is closed")


class Silent(Counted):
    def submit(self, assignment, reporter):
        pass


class Half(Counted):
    def submit(self, assignment, reporter):
        self.stop = self.end = print
        return self


class Chatty(Half):
    stop_trials = print

    def poll(self):
        return "trained"
"""
OTHER = """
import signal
from pathlib import Path

from my_executor import Processes
from sweepstack.execution.executor import Done, Lost


class Busy(Processes):
    refused = 0

    def submit(self, assignment, reporter):
        self.refused += 1
        if self.refused <= 4:
            return Done(Lost("the queue is full", blames_stack=False))
        return super().submit(assignment, reporter)


class Lasting(Processes):
    def reattach(self, assignment, reporter):
        signal.raise_signal(signal.SIGINT)

    def end_workers(self, stacks):
        Path("ended").write_text(str(len(stacks)))

    def leaves_workers(self, error):
        return False
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with the modules of the page, where they can be imported."""
    (tmp_path / "my_executor.py").write_text(EXECUTOR)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "other.py").write_text(OTHER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_executor", "wrong", "other"):
        sys.modules.pop(name, None)


class TestProcesses(ExecutorConformance):
    @pytest.fixture(autouse=True)
    def own(self, modules: Path) -> None:
        """Each test finds the module."""

    def executor(self, journal: Path) -> Executor:
        page: dict[str, Any] = {}
        exec(TESTS, page)
        executor: Executor = page["TestProcesses"]().executor(journal)
        return executor


def test_the_command_of_the_page_trains_with_it(
    modules: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    assert len(EXECUTOR.splitlines()) <= 40
    done = here.train(*shlex.split(COMMAND)[2:])
    assert (done.code, done.err) == (0, "")
    assert [row.state for row in terminal.store.rows()] == ["FINISHED"] * 4
    trained = {run.data.tags["trained"] for run in terminal.store.client.search_runs(["1"])}
    assert all(text.endswith("engine=own)") for text in trained if text)
    assert not [*terminal.folder.glob("journal/*/work/*")]


def test_a_stack_that_is_not_to_blame_is_tried_until_it_is_taken(
    modules: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    monkeypatch.setattr(dispatch, "SHORTEST_DELAY", 0.01)
    done = here.train("-m", "dataset=digits", "optimizer.lr=0.1", "engine=own", "engine._target_=other.Busy")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("could not begin: the queue is full; it is tried again") == 1
    assert [row.state for row in terminal.store.rows()] == ["FINISHED"]


def test_an_interrupt_while_workers_are_looked_for_ends_all_of_them(
    modules: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    grid = ("dataset=digits", "optimizer.lr=0.1,0.2,0.3", "launch.width=1")
    done = here.train("-m", *grid, "engine=own", "engine._target_=other.Lasting")
    assert done.code == 130
    assert (modules / "ended").read_text() == "3"


@pytest.mark.parametrize(
    ("target", "further", "line"),
    [
        (
            "wrong.Bare",
            (),
            "engine._target_ must make an executor with workers, submit, close; that of wrong.Bare lacks ",
        ),
        ("wrong.Counted", (), "the attribute workers of wrong.Counted must be the number of stacks that it trains at "),
        ("wrong.Counted", ("engine.workers=1.5",), "job 0 ("),
        ("wrong.raises", (), "engine: wrong.raises cannot be built: OSError: no such host; correct it, or what the "),
        ("wrong.asks", (), "engine: wrong.asks cannot be called: missing a required argument: 'host'; give it with +"),
        ("wrong.raises", ("+engine.hosts=3",), "engine.hosts is not a keyword of wrong.raises"),
        ("wrong.Fails", ("engine.workers=1",), "RuntimeError: the queue is closed (in your wrong.py, line "),
        (
            "wrong.Silent",
            ("engine.workers=1",),
            "wrong.Silent.submit must return a handle with poll, stop, stop_trials, ",
        ),
        (
            "wrong.Half",
            ("engine.workers=1",),
            "wrong.Half.submit must return a handle with poll, stop, stop_trials, en",
        ),
        (
            "wrong.Chatty",
            ("engine.workers=1",),
            "poll of a handle of wrong.Chatty must return Trained(), Lost(reason), ",
        ),
        ("wrong.Nobody", (), "engine._target_ should name something that can be imported"),
        ("'a b'", (), "job 0 ("),
    ],
)
def test_a_mistake_is_one_line(
    target: str,
    further: tuple[str, ...],
    line: str,
    modules: Path,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    done = here.train("-m", "dataset=digits", "optimizer.lr=0.1", "engine=own", f"engine._target_={target}", *further)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert done.err.startswith(f"error: {line}")
