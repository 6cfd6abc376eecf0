"""Every executor does what `Executor` says."""

import sys
from pathlib import Path

import pytest

from sweepstack.execution.engines.conformance import ExecutorConformance
from sweepstack.execution.engines.fork_server import ForkServer
from sweepstack.execution.engines.local import LocalExecutor
from sweepstack.execution.executor import Executor, InProcessExecutor


class TestInProcess(ExecutorConformance):
    trains_beside = False

    def executor(self, journal: Path) -> Executor:
        return InProcessExecutor()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
class TestForked(ExecutorConformance):
    def executor(self, journal: Path) -> Executor:
        return LocalExecutor(journal, 2, ForkServer(InProcessExecutor().train_in_worker))


class TestNewProcesses(ExecutorConformance):
    def executor(self, journal: Path) -> Executor:
        return LocalExecutor(journal, 2)
