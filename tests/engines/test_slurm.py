"""engine=slurm, with a Slurm of one node that runs here: the same figures as in one process, whatever dies."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweepstack.config.schema import EngineConfig
from sweepstack.execution.engines.conformance import ExecutorConformance
from sweepstack.execution.engines.slurm.executor import SlurmExecutor
from sweepstack.execution.executor import Executor

from ..stories import wait_until
from ..terminal import Terminal, new_store
from .slurm_node import SlurmNode, slurm_node, why_not

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(why_not() != "", reason=why_not())]


@pytest.fixture(scope="module")
def node() -> Iterator[SlurmNode]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, pytest.MonkeyPatch.context() as patch:
        with slurm_node(Path(folder), Path(folder, "hidden")) as running:
            for name, value in running.environment.items():
                patch.setenv(name, value)
            yield running


@pytest.mark.usefixtures("node")
class TestSlurm(ExecutorConformance):
    def executor(self, journal: Path) -> Executor:
        return SlurmExecutor(journal, EngineConfig(name="slurm", workers=2))
