"""What every executor must do, as tests that pytest runs: whoever writes one makes a subclass of `ExecutorConformance`.

class TestMine(ExecutorConformance):
    def executor(self, journal):
        return MyExecutor(journal, workers=2)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.config.parsing import parse
from sweepstack.errors import UserError
from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.execution.assignment import Assignment, Groups, Parts
from sweepstack.execution.executor import Executor, Handle, InProcessExecutor, Lost, MeasuringExecutor, Trained
from sweepstack.execution.prepare import prepare
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.trial import HELD_OUT_PREDICTIONS, WEIGHTS, StackSettings, Trial, TrialState, Verdict

PATIENCE = 120.0
"""Seconds until a worker must have done what is asked for in a test."""
MODEL = {"_target_": "sweepstack.training.models.Logistic", "shape": [1, 8, 8], "classes": 10}
"""The model of the trials: a logistic regression."""
TIMES = {"train_seconds", "train_seconds_share", "data_wait_seconds"}
"""Metrics that differ from one training to the next."""


@dataclass
class Recorder:
    """A `Reporter` that keeps what it receives."""

    events: list[Event] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def emit(self, event: Event) -> Verdict:
        """See `Reporter`."""
        self.events.append(event)
        return Verdict.CONTINUE

    def say(self, line: str) -> None:
        """See `Reporter`."""
        self.lines.append(line)

    def sync(self) -> None:
        """See `Reporter`."""

    def is_stopping(self) -> bool:
        """See `Reporter`."""
        return False

    def of(self, trial: Trial) -> list[Event]:
        """Returns the events of a trial."""
        return [event for event in self.events if event.trial.id == trial.id]

    def measured(self) -> dict[str, list[tuple[int, dict[str, float]]]]:
        """Returns the measurements of each trial by its name: the steps and the metrics."""
        found: dict[str, list[tuple[int, dict[str, float]]]] = {}
        for event in self.events:
            if isinstance(event, Measured):
                found.setdefault(event.trial.name, []).append(
                    (event.measurement.step, _untimed(event.measurement.metrics))
                )
        return found

    def outcomes(self) -> dict[str, tuple[TrialState, dict[str, float]]]:
        """Returns the state and the metrics of each trial that has ended, by its name."""
        ends = [event for event in self.events if isinstance(event, Ended)]
        return {event.trial.name: (event.outcome.state, _untimed(event.outcome.metrics)) for event in ends}


def _untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMES}


def make_trials(
    folder: Path, lrs: Sequence[float] = (0.1, 0.2), changes: Mapping[str, Any] | None = None
) -> list[Trial]:
    """Returns trials of a logistic regression on scikit-learn's digits, ready to be trained.

    Args:
        folder: the folder for their files.
        lrs: their learning rates.
        changes: values of other keys of their configs, such as {"checkpoint.every": 0}.
    """
    plain: dict[str, Any] = {
        "dataset": {"_target_": "sweepstack.training.data.digits", "shape": [1, 8, 8], "classes": 10, "std": 1.0},
        "model": MODEL,
        "optimizer": {"_target_": "torch.optim.SGD"},
        "schedule": {"kind": "constant"},
        "epochs": 2,
        "batch_size": 100,
        "device": "cpu",
        "threads": 1,
    }
    for key, value in (changes or {}).items():
        section, _, name = key.partition(".")
        plain[section] = {**plain.get(section, {}), name: value} if name else value
    trials = []
    for number, lr in enumerate(lrs):
        config = parse({**plain, "optimizer": {**plain["optimizer"], "lr": lr}})
        own = folder / str(number)
        trial = Trial(config.trial, number, f"lr={lr:g}", {"lr": lr}, own, "", config.run, own / "train.log")
        trials.append(replace(trial, id=f"{number:016x}"))
    return [*prepare(trials, "train", InProcessExecutor()).trials]


def assign(journal: Path, trials: Sequence[Trial], id: str = "a" * 16) -> Assignment:
    """Returns an assignment to train trials as one stack.

    Args:
        journal: the folder of the journal.
        trials: each is a trajectory of its own.
        id: the id of the stack.
    """
    settings = StackSettings(len(trials), 1, 0.1, "a test says so")
    stack = Stack(tuple(Trajectory((trial,)) for trial in trials), settings, id, device="cpu")
    return Assignment(stack, frozenset(trial.id for trial in trials), journal / "checkpoints" / id, keep=False)


def wait(*handles: Handle, seconds: float = PATIENCE) -> list[Trained | Lost]:
    """Returns the results of workers."""
    until = time.monotonic() + seconds
    while True:
        results = [handle.poll() for handle in handles]
        found = [result for result in results if result is not None]
        if len(found) == len(handles):
            return found
        assert time.monotonic() < until, "a worker has not ended in time"
        time.sleep(0.01)


class ExecutorConformance:
    """The tests. Each has a journal's folder of its own."""

    trains_beside = True
    """False for an executor whose `submit` returns when the stack is trained."""

    def executor(self, journal: Path) -> Executor:
        """Returns a new executor; a subclass overrides it.

        Args:
            journal: the folder of the journal.
        """
        raise NotImplementedError

    def test_a_stack_ends_as_it_does_in_this_process(self, tmp_path: Path) -> None:
        own, theirs = Recorder(), Recorder()
        InProcessExecutor().submit(assign(tmp_path / "own", make_trials(tmp_path / "in process")), own)
        trials = make_trials(tmp_path / "by a worker")
        executor = self.executor(tmp_path / "journal")
        try:
            assert wait(executor.submit(assign(tmp_path / "journal", trials), theirs)) == [Trained()]
        finally:
            executor.close()
        assert theirs.measured() == own.measured()
        assert theirs.outcomes() == own.outcomes()
        for trial in trials:
            first, *_, last = theirs.of(trial)
            assert isinstance(first, Started)
            assert isinstance(last, Ended)
            assert [file.name for file in last.files if not file.is_file()] == []
            assert {trial.folder / name for name in (WEIGHTS, HELD_OUT_PREDICTIONS)} <= {*last.files}
            weights = tmp_path / "in process" / trial.folder.name / WEIGHTS
            assert (trial.folder / WEIGHTS).read_bytes() == weights.read_bytes()

    def test_it_trains_as_many_stacks_at_once_as_it_says(self, tmp_path: Path) -> None:
        recorder, executor = Recorder(), self.executor(tmp_path)
        trials = make_trials(tmp_path / "trials", [0.1 * (1 + one) for one in range(executor.workers)])
        try:
            handles = [executor.submit(assign(tmp_path, [trial], f"{trial.number:016x}"), recorder) for trial in trials]
            assert wait(*handles) == [Trained()] * len(trials)
        finally:
            executor.close()
        assert {state for state, _ in recorder.outcomes().values()} == {TrialState.FINISHED}
        assert len(recorder.outcomes()) == len(trials)

    def test_a_stack_that_fails_comes_back_in_parts(self, tmp_path: Path) -> None:
        recorder, executor = Recorder(), self.executor(tmp_path)
        trials = make_trials(tmp_path / "trials", changes={"optimizer._target_": "torch.optim.RMSprop"})
        unlike = assign(tmp_path, trials)  # no plan would stack this optimizer
        try:
            (result,) = wait(executor.submit(unlike, recorder))
        finally:
            executor.close()
        assert isinstance(result, Trained)
        assert isinstance(result.parts, Parts)
        assert result.parts.indices == ((0,), (1,))

    def test_a_worker_measures_if_the_executor_says_that_it_does(self, tmp_path: Path) -> None:
        recorder, executor = Recorder(), self.executor(tmp_path)
        trials = make_trials(tmp_path / "trials", [0.1, 0.2, 0.3, 0.4, 0.5])
        groups = replace(assign(tmp_path, trials), wanted=frozenset(), groups=Groups((3, 2), (3, 2), 1, 1))
        try:
            if not isinstance(executor, MeasuringExecutor):
                return
            (result,) = wait(executor.submit(groups, recorder))
        finally:
            executor.close()
        assert isinstance(result, Trained)
        assert result.parts is None
        assert [settings.threads for settings in result.settings] == [1, 1]
        assert all(0 < settings.width <= most for settings, most in zip(result.settings, (3, 2), strict=True))
        assert executor.kind_of_machine
        assert recorder.events == []

    def test_a_mistake_of_the_user_is_raised_in_the_command(self, tmp_path: Path) -> None:
        recorder, executor = Recorder(), self.executor(tmp_path)
        (trial,) = make_trials(tmp_path / "trials", [0.1])
        line = ""
        try:
            wait(executor.submit(assign(tmp_path, [_of_other_data(trial)]), recorder))
        except UserError as error:
            line = str(error)
        finally:
            executor.close()
        assert "dataset must give the same data at every load" in line

    def test_a_worker_that_is_stopped_is_resumed_to_the_same_end(self, tmp_path: Path) -> None:
        undisturbed, recorder = Recorder(), Recorder()
        long = {"epochs": 60, "checkpoint.every": 0}
        InProcessExecutor().submit(assign(tmp_path / "own", make_trials(tmp_path / "own", changes=long)), undisturbed)
        trials, executor = make_trials(tmp_path / "trials", changes=long), self.executor(tmp_path)
        try:
            handle = executor.submit(assign(tmp_path, trials), recorder)
            while self.trains_beside and len(recorder.events) < 8 and handle.poll() is None:
                time.sleep(0.001)
            handle.stop()
            wait(handle)
            handle.end()
            killed = {name for name, (state, _) in recorder.outcomes().items() if state is TrialState.KILLED}
            assert killed in (set(), {trial.name for trial in trials})  # set() if it was faster than we
            if killed:
                wait(executor.submit(assign(tmp_path, trials), recorder))
        finally:
            executor.close()
        assert recorder.outcomes() == undisturbed.outcomes()
        assert {name: dict(steps) for name, steps in recorder.measured().items()} == {
            name: dict(steps) for name, steps in undisturbed.measured().items()
        }

    def test_a_worker_that_was_ended_reports_nothing_more(self, tmp_path: Path) -> None:
        if not self.trains_beside:
            return
        recorder, executor = Recorder(), self.executor(tmp_path)
        try:
            handle = executor.submit(
                assign(tmp_path, make_trials(tmp_path / "trials", changes={"epochs": 20_000})), recorder
            )
            handle.end()
            (result,) = wait(handle)
            assert isinstance(result, Lost)
            seen = len(recorder.events)
            time.sleep(0.5)
            handle.poll()
            assert len(recorder.events) == seen
        finally:
            executor.close()


def _of_other_data(trial: Trial) -> Trial:
    """Returns a trial whose fingerprint is of other data than those that are loaded."""
    known = Fingerprint.parse(trial.fingerprint)
    return replace(trial, fingerprint=str(replace(known, data="0" * len(known.data))))
