"""Every executor does what `Executor` says."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweepstack.execution.engines.channel import EVENTS, work_folder
from sweepstack.execution.engines.conformance import ExecutorConformance, Recorder, assign, make_trials, wait
from sweepstack.execution.engines.fork_server import ForkServer
from sweepstack.execution.engines.local import LocalExecutor
from sweepstack.execution.executor import Executor, InProcessExecutor, Lost, Trained
from sweepstack.trial import TrialState


class TestInProcess(ExecutorConformance):
    trains_beside = False

    def executor(self, journal: Path) -> Executor:
        return InProcessExecutor()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
class TestForked(ExecutorConformance):
    def executor(self, journal: Path) -> Executor:
        return LocalExecutor(journal, 2, ForkServer(InProcessExecutor().train_in_worker))


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_a_forked_worker_does_one_stack_after_the_other_until_one_does_not_end_well(tmp_path: Path) -> None:
    executor, recorder = LocalExecutor(tmp_path, 1, ForkServer(InProcessExecutor().train_in_worker)), Recorder()
    made = iter(range(10))

    def worker(count: int, **changes: Any) -> tuple[int, Trained | Lost]:
        """Trains a stack; returns the process of its worker, and the result."""
        number = next(made)
        trials = make_trials(tmp_path / str(number), [0.1 * (1 + one) for one in range(count)], changes)
        trials = [replace(trial, id=f"{number} {trial.id}") for trial in trials]
        (result,) = wait(executor.submit(assign(tmp_path, trials, f"{number:016x}"), recorder))
        hello = json.loads(
            (work_folder(tmp_path, f"{number:016x}") / EVENTS).read_text().splitlines()[0].partition(" ")[2]
        )["hello"]
        return hello["pid"], result

    try:
        first, result = worker(2)
        assert result == Trained()
        assert worker(2) == (first, Trained())
        assert worker(2, batch_size=50) == (first, Trained())
        alone, result = worker(1)  # it needs the compiler, which is loaded once for all
        assert (alone == first, result) == (False, Trained())
        assert worker(1) == (alone, Trained())
        cut, result = worker(2, optimizer={"_target_": "torch.optim.RMSprop"})
        assert isinstance(result, Trained)
        assert result.parts is not None
        again, result = worker(2)
        assert (again == cut, result) == (False, Trained())
        failed, result = worker(1, optimizer={"_target_": "torch.optim.SGD", "momentum": 1e30})
        assert result == Trained()
        assert [state for state, _ in recorder.outcomes().values()].count(TrialState.FAILED) == 1
        assert worker(1)[0] != failed
    finally:
        executor.close()


class TestNewProcesses(ExecutorConformance):
    def executor(self, journal: Path) -> Executor:
        return LocalExecutor(journal, 2)
