"""engine=dask, with real Dask processes: the same figures as in one process, whatever dies."""

from pathlib import Path

from sweepstack.config.schema import EngineConfig
from sweepstack.execution.engines.conformance import ExecutorConformance
from sweepstack.execution.engines.dask.executor import DaskExecutor
from sweepstack.execution.executor import Executor


class TestConformance(ExecutorConformance):
    def executor(self, journal: Path) -> Executor:
        return DaskExecutor(journal, EngineConfig(name="dask", workers=2))
