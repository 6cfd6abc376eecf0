"""engine=dask, with real Dask processes: the same figures as in one process, whatever dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sweepstack.config.schema import EngineConfig
from sweepstack.execution.engines.conformance import ExecutorConformance
from sweepstack.execution.engines.dask.executor import DaskExecutor
from sweepstack.execution.executor import Executor

from ..terminal import Terminal, new_store
from .test_local import Figures, checkpoints, figures, parents, wait_until

pytest.importorskip("distributed", reason='needs pip install "sweepstack[dask]"')
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="training processes are forked, and found in /proc")

GRID = ("dataset=digits", "epochs=150", "batch_size=50,100", "optimizer.lr=0.1,0.2", "threads=1", "launch.width=2")
SWEEP = ("train.py", "-m", *GRID, "checkpoint.every=0")


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@dataclass
class Cluster:
    """A Dask scheduler and its workers, started as their users start them."""

    folder: Path
    words: tuple[str, ...] = ()
    scheme: str = "tcp"
    port: int = field(default_factory=free_port)
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self, workers: int = 2) -> "Cluster":
        self.scheduler = self._type("scheduler", "--port", str(self.port), "--no-dashboard")
        self.workers = [self.start_worker() for _ in range(workers)]
        return self

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._type("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")

    def _type(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *words, "--host", "127.0.0.1", *self.words]
        with (self.folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    def trainings(self) -> list[int]:
        """The processes that train: what the servers beside the workers have forked."""
        of, workers = parents(), {worker.pid for worker in self.workers}
        return [pid for pid, parent in of.items() if of.get(parent) in workers]

    def kill(self) -> None:
        for process in (self.scheduler, *self.workers):
            if process is not None:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster")).start()
    yield started
    started.kill()


class TestConformance(ExecutorConformance):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.address = cluster.address

    def executor(self, journal: Path) -> Executor:
        return DaskExecutor(journal, EngineConfig(name="dask", workers=2, address=self.address))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Figures:
    """What a sweep in one process ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    new_store(folder, empty_database)
    done = Terminal(folder).type(*SWEEP, "engine=inline")
    assert done.returncode == 0, done.stderr
    return figures(Terminal(folder))


@pytest.fixture
def terminal(tmp_path: Path, empty_database: Path) -> Terminal:
    new_store(tmp_path, empty_database)
    return Terminal(tmp_path)


def test_a_cluster_of_this_machine_is_started_and_ended(terminal: Terminal, undisturbed: Figures) -> None:
    done = terminal.type(*SWEEP, "engine=dask", "engine.workers=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Dask: 2 workers at tls://127.0.0.1:") == 1
    assert "dashboard: http://127.0.0.1:" in done.stdout
    assert figures(terminal) == undisturbed
    assert not [*terminal.folder.glob("journal/*/work/*")]
    assert not checkpoints(terminal.folder)
