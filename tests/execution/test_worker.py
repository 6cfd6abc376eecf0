"""The seam of executors: a worker needs plain values and a reporter, and could be anywhere."""

import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sweepstack.config.parsing import parse
from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.execution.assignment import Assignment, Parts
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.prepare import prepare
from sweepstack.execution.worker import run_stack
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.trial import StackSettings, Trial, Verdict


@dataclass
class Events:
    """A reporter that keeps what it hears."""

    heard: list[Event] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def emit(self, event: Event) -> Verdict:
        self.heard.append(event)
        return Verdict.CONTINUE

    def say(self, line: str) -> None:
        self.said.append(line)

    def sync(self) -> None:
        """They are where they are to be."""

    def is_stopping(self) -> bool:
        return False


def work(pipe: Connection) -> None:
    """What a process of its own does: it gets an assignment, and sends the events back."""
    torch.use_deterministic_algorithms(True)
    events = Events()
    parts = run_stack(pickle.loads(pipe.recv_bytes()), events)
    pipe.send((parts, events.heard))


def assignment(digits_plain: Callable[..., dict[str, Any]], folder: Path, **changes: Any) -> Assignment:
    """Two learning rates, each read after 1 and 2 epochs."""
    trials = []
    for number, (lr, epochs) in enumerate([(0.1, 1), (0.1, 2), (0.3, 2)]):
        config = parse(digits_plain({"optimizer.lr": lr, "epochs": epochs, "threads": 1, **changes}))
        name = f"lr={lr} epochs={epochs}"
        trials.append(Trial(config.trial, number, name, {}, folder / str(number), "", config.run, id=f"id{number}"))
    short, long, other = prepare(trials, "train", InProcessExecutor()).trials
    stack = Stack((Trajectory((short, long)), Trajectory((other,))), StackSettings(2, 1, 0.0, "by the test"), id="one")
    return Assignment(stack, frozenset({"id0", "id1", "id2"}), folder / "checkpoints", keep=False)


def without_times(events: list[Event], folder: Path) -> list[Any]:
    """What must not depend on who trains."""

    def metrics(event: Event) -> dict[str, float]:
        found = event.measurement.metrics if isinstance(event, Measured) else {}
        found = event.outcome.metrics if isinstance(event, Ended) else found
        return {key: value for key, value in found.items() if "seconds" not in key}

    def files(event: Event) -> dict[str, bytes]:
        found = event.files if isinstance(event, Ended) else ()
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    return [(type(event), event.trial.id, metrics(event), files(event)) for event in events]


def test_a_worker_in_another_process_ends_with_the_same_bits(
    digits_plain: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    mine = assignment(digits_plain, tmp_path / "here")
    events = Events()
    assert run_stack(mine, events) is None
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,))
    process.start()
    theirs.close()  # or a process that dies would not be noticed
    ours.send_bytes(pickle.dumps(assignment(digits_plain, tmp_path / "there")))
    assert ours.poll(120)
    parts, heard = ours.recv()
    process.join(30)
    assert parts is None
    assert without_times(heard, tmp_path / "there") == without_times(events.heard, tmp_path / "here")
    assert [type(event) for event in heard].count(Started) == 3
    assert [event.trial.id for event in heard if isinstance(event, Ended)] == ["id0", "id1", "id2"]


def test_trials_share_the_name_of_their_trajectory_also_after_their_stack_has_got_another_id(
    digits_plain: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    given = assignment(digits_plain, tmp_path)
    names: dict[str, set[str]] = {}
    for stack in (given.stack, replace(given.stack, id="two")):  # as when its worker was lost
        events = Events()
        run_stack(replace(given, stack=stack), events)
        for event in events.heard:
            if isinstance(event, Ended):
                names.setdefault(event.trajectory, set()).add(event.trial.id)
    assert sorted(names.values(), key=len) == [{"id2"}, {"id0", "id1"}]


def test_a_worker_reports_nothing_of_trials_that_are_not_wanted(
    digits_plain: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    events = Events()
    given = replace(assignment(digits_plain, tmp_path), wanted=frozenset({"id2"}))
    assert run_stack(given, events) is None
    assert {event.trial.id for event in events.heard} == {"id2"}
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_stack_that_fails_as_a_whole_is_given_back_in_parts_of_what_has_not_ended(
    digits_plain: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    given = assignment(digits_plain, tmp_path, model={"_target_": f"{__name__}.Failing"})
    events = Events()
    parts = run_stack(given, events)
    assert isinstance(parts, Parts)
    assert parts.indices == ((0,), (1,))
    assert parts.note == "a stack of 2 failed: it fails even alone, in a small trial: RuntimeError: torn"
    assert not any(isinstance(event, Ended) for event in events.heard)
    given = replace(given, wanted=frozenset({"id2"}))
    again = run_stack(given, Events())
    assert isinstance(again, Parts)
    assert again.indices == ((1,),)


class Failing(torch.nn.Linear):
    """A model that can be evaluated and not trained."""

    def __init__(self) -> None:
        super().__init__(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("torn")
        return super().forward(images.flatten(1))
