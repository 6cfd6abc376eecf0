"""How wide stacks are is measured by a worker, on the kind of machine that trains, and once."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweepstack.execution.engines import measuring
from sweepstack.training.stacked import autotune

from .. import here
from ..terminal import Terminal

OTHER = """
from sweepstack.execution.executor import Done, InProcessExecutor, Lost, Trained
from sweepstack.execution.worker import do


class Measuring(InProcessExecutor):
    kind_of_machine = "those of a test"

    def __init__(self, journal, lease):
        pass

    def measure(self, assignment, reporter):
        return Done(Trained(settings=do(assignment, reporter)))

    def submit(self, assignment, reporter):
        return (super().submit if assignment.groups is None else self.measure)(assignment, reporter)


class Refusing(Measuring):
    def measure(self, assignment, reporter):
        return Done(Lost("the queue is full"))


class Ignorant(Measuring):
    def measure(self, assignment, reporter):
        return Done(Trained())


class Asleep(Measuring):
    def measure(self, assignment, reporter):
        return self

    def poll(self):
        pass

    def stop_trials(self, trials):
        pass

    def stop(self):
        print("stopped")

    def end(self):
        print("ended")
"""
GRID = ("dataset=digits", "optimizer.lr=0.1,0.2", "epochs=1", "threads=1")
OWN = (*GRID, "engine=own", "engine._target_=measuring_other.Measuring")
MEASURES = "A worker measures how wide stacks should be there; that is remembered."
Typed = Callable[..., here.Done]


@pytest.fixture
def typed(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    """`typed(WORDS)`: a sweep in a folder with executors, on a machine where nothing is remembered."""
    (tmp_path / "measuring_other.py").write_text(OTHER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    monkeypatch.setenv("SWEEPSTACK_DATA", str(tmp_path / "data"))
    yield lambda *words: here.train("-m", *words)
    sys.modules.pop("measuring_other", None)


def how_trained(terminal: Terminal) -> set[str]:
    runs = terminal.store.client.search_runs(["1"], max_results=100)
    return {run.data.tags["trained"] for run in runs if "trained" in run.data.tags}


def test_a_worker_measures_once(typed: Typed, terminal: Terminal) -> None:
    done = typed(*OWN, "batch_size=50,100")
    assert (done.code, done.err) == (0, "")
    assert done.out.count(MEASURES) == 1
    assert all(" us a step and trial stacked" in how and "command" not in how for how in how_trained(terminal))
    assert not [*terminal.folder.glob("journal/*/work/*")]
    again = typed(*OWN, "rerun=true")
    assert (again.code, MEASURES in again.out) == (0, False)
    other = typed(*OWN, "model=mlp")
    assert (other.code, other.out.count(MEASURES)) == (0, 1)


def test_a_dry_run_asks_no_worker_and_takes_what_is_remembered(
    typed: Typed, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = typed(*OWN, "launch.dry_run=true")
    assert (dry.code, MEASURES in dry.out) == (0, False)
    assert dry.out.count("measured on the machine of the command; engine=own") == 1
    assert not (terminal.folder / "data" / "choices.json").exists()
    assert typed(*OWN).code == 0
    monkeypatch.setattr(autotune, "_time_all_ways", lambda *_: pytest.fail("it is measured again"))
    dry = typed(*OWN, "rerun=true", "launch.dry_run=true")
    assert dry.code == 0
    assert "measured on the machine" not in dry.out


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("Refusing", "the queue is full"),
        ("Ignorant", "it has answered something else"),
        ("Asleep", "it has not answered within 0.1 s"),
    ],
)
def test_if_no_worker_answers_the_command_measures_and_says_so(
    target: str, why: str, typed: Typed, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(measuring, "GROUP_SECONDS", 0.0)
    words = (*GRID, "engine=own", f"engine._target_=measuring_other.{target}")
    done = typed(*words)
    assert (done.code, done.err) == (0, "")
    assert ("stopped\nended\n" in done.out) == (target == "Asleep")
    line = f"No worker has measured how wide stacks should be ({why}): this machine measures instead."
    assert done.out.count(line) == 1
    assert all("measured on the machine of the command; engine=own" in how for how in how_trained(terminal))
    assert not [*terminal.folder.glob("journal/*/work/*")]
    assert MEASURES in typed(*words, "rerun=true").out  # nothing is remembered of that machine


@pytest.mark.parametrize("words", [("launch.width=2",), ("launch.stack=false",), ("seed=0", "optimizer.lr=0.1")])
def test_nobody_measures_what_is_set(words: tuple[str, ...], typed: Typed) -> None:
    done = typed(*OWN, *words)
    assert (done.code, done.err) == (0, "")
    assert MEASURES not in done.out


def test_what_cannot_be_timed_is_not_remembered(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(autotune, "_plain_epoch", lambda *_: 1 / 0)
        assert typed(*OWN).code == 0
    assert typed(*OWN, "rerun=true").out.count(MEASURES) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="training processes are forked")
def test_a_worker_of_dask_measures(typed: Typed, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason='needs pip install "sweepstack[dask]"')
    monkeypatch.setattr(autotune, "_time_all_ways", lambda *_: pytest.fail("the command has measured"))
    done = typed(*GRID, "engine=dask", "engine.workers=1")
    assert (done.code, done.err) == (0, "")
    assert done.out.count(MEASURES) == 1
    assert all(how.endswith("; engine=dask)") and "command" not in how for how in how_trained(terminal))
