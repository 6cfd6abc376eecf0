"""engine=dask, with real Dask processes: the same figures as in one process, whatever dies."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweepstack.config.run_sections import EngineConfig
from sweepstack.execution.engines.conformance import ExecutorConformance
from sweepstack.execution.engines.dask.executor import DaskExecutor
from sweepstack.execution.executor import Executor

from .. import here
from ..terminal import Terminal, new_store
from .test_local import Figures, checkpoints, figures, parents, wait_until
from .test_two_hosts import why_not

pytest.importorskip("distributed", reason='needs pip install "sweepstack[dask]"')
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="training processes are forked, and found in /proc")

GRID = ("dataset=digits", "epochs=300", "batch_size=50,100", "optimizer.lr=0.1,0.2", "threads=1", "launch.width=2")
SWEEP = ("train.py", "-m", *GRID, "checkpoint.every=0")


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@dataclass
class Cluster:
    """A Dask scheduler and its workers, started as their users start them.

    Args:
        folder: where they start.
        words: further arguments of both.
        scheme: the protocol of the scheduler's address.
        hidden: a folder that the workers do not see, as if they were other machines.
    """

    folder: Path
    words: tuple[str, ...] = ()
    scheme: str = "tcp"
    hidden: Path | None = None
    port: int = field(default_factory=free_port)
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self, workers: int = 1) -> "Cluster":
        self.scheduler = self._type("scheduler", "--port", str(self.port), "--no-dashboard")
        for _ in range(workers):
            self.start_worker()
        return self

    def start_worker(self, threads: int = 2) -> None:
        """Starts a worker that trains so many stacks at once."""
        words = ("--nthreads", str(threads), "--no-nanny", "--no-dashboard")
        self.workers.append(self._type("worker", self.address, *words))

    def _type(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *words, "--host", "127.0.0.1", *self.words]
        if what == "worker" and self.hidden is not None:
            hide = f"mount -t tmpfs nothing {shlex.quote(str(self.hidden))} && cd / && exec {shlex.join(command)}"
            command = ["unshare", "--mount", "sh", "-c", hide]
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
    """A cluster whose workers do not see the folders of the commands, where namespaces can be made."""
    hidden = None if why_not() else tmp_path_factory.getbasetemp()
    started = Cluster(tmp_path_factory.mktemp("cluster"), hidden=hidden).start()
    yield started
    started.kill()


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """`clusters(...)` is a `Cluster` for one test."""
    made: list[Cluster] = []

    def make(**given: Any) -> Cluster:
        folder = tmp_path / "cluster"
        folder.mkdir()
        made.append(Cluster(folder, **given))
        return made[-1]

    yield make
    for one in made:
        one.kill()


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
    wait_until(lambda: not dask_processes(terminal.folder))


def dask_processes(folder: Path) -> list[Path]:
    """What a cluster has begun in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text()
            if os.readlink(process / "cwd") == str(folder) and ("engines.dask" in words or "multiprocessing" in words):
                found.append(process)
        except OSError:
            continue
    return found


@pytest.fixture
def training(terminal: Terminal, cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    """A sweep whose two training processes have both handed over a state."""
    command = terminal.start(*SWEEP, "engine=dask", f"engine.address={cluster.address}", "engine.lease=10")
    wait_until(lambda: len(checkpoints(terminal.folder)) == 2, 120)
    yield command
    command.kill()
    command.wait()


def ended(command: subprocess.Popen[str]) -> str:
    """Waits until a sweep has ended well; returns what it has printed."""
    out, err = command.communicate(timeout=120)
    assert (command.returncode, err) == (0, "")
    return out


def test_what_is_killed_is_replaced(
    terminal: Terminal, cluster: Cluster, training: subprocess.Popen[str], undisturbed: Figures
) -> None:
    before = cluster.trainings()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len({*cluster.trainings()} - {*before}) == 1)
    cluster.workers[0].kill()
    cluster.start_worker()
    out = ended(training)
    goes_on = "another one goes on from the checkpoint."
    assert out.count(f"was lost: it was killed by SIGKILL; {goes_on}") == 1
    assert out.count(f"was lost: its Dask worker has ended; {goes_on}") >= 1
    assert "in halves" not in out  # it would end within rounding
    assert figures(terminal) == undisturbed
    wait_until(lambda: not cluster.trainings())


def test_ctrl_c_leaves_nothing_running_and_loses_nothing(
    terminal: Terminal, cluster: Cluster, training: subprocess.Popen[str], undisturbed: Figures
) -> None:
    os.kill(training.pid, signal.SIGINT)
    _, err = training.communicate(timeout=30)
    assert (training.returncode, err) == (130, "Stopped; the same command goes on from here.\n")
    wait_until(lambda: not cluster.trainings(), 5)
    again = terminal.type(*SWEEP, "engine=inline")
    assert again.returncode == 0
    assert "2 stacks interrupted before: resumed" in again.stdout
    assert figures(terminal) == undisturbed


def test_the_command_is_killed_and_the_same_command_goes_on(
    terminal: Terminal, cluster: Cluster, training: subprocess.Popen[str], undisturbed: Figures
) -> None:
    training.kill()
    training.wait()
    again = terminal.type(*SWEEP, "engine=dask", f"engine.address={cluster.address}", "engine.lease=10")
    assert (again.returncode, again.stderr) == (0, "")
    assert "2 stacks interrupted before: resumed" in again.stdout
    assert figures(terminal) == undisturbed
    wait_until(lambda: not cluster.trainings())


def test_a_scheduler_that_is_restarted_is_found_again(
    terminal: Terminal, clusters: Callable[..., Cluster], undisturbed: Figures
) -> None:
    cluster = clusters().start()
    command = terminal.start(*SWEEP, "engine=dask", f"engine.address={cluster.address}")
    wait_until(lambda: len(checkpoints(terminal.folder)) == 2, 120)
    cluster.kill()
    cluster.start()
    assert "was lost: its Dask worker has ended; another one goes on from the checkpoint." in ended(command)
    assert figures(terminal) == undisturbed


SMALL = ("-m", "dataset=digits", "epochs=1", "optimizer.lr=0.1,0.2", "engine=dask")


@pytest.fixture
def typed(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Callable[..., here.Done]:
    """`typed(WORDS)`: what a small sweep with these words ends with."""
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    return lambda *words: here.train(*SMALL, *words)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate that is its own authority, its key, and another certificate."""
    from distributed.security import Security

    folder, own, other = tmp_path_factory.mktemp("certificates"), Security.temporary(), Security.temporary()
    (folder / "cert.pem").write_text(str(own.tls_client_cert))
    (folder / "key.pem").write_text(str(own.tls_client_key))
    (folder / "other.pem").write_text(str(other.tls_client_cert))
    return folder


def files_of(folder: Path, ca: str = "cert.pem") -> list[str]:
    return [f"engine.tls_ca={folder}/{ca}", f"engine.tls_cert={folder}/cert.pem", f"engine.tls_key={folder}/key.pem"]


def test_certificates_turn_tls_on(
    typed: Callable[..., here.Done], clusters: Callable[..., Cluster], certificates: Path
) -> None:
    cert, key = str(certificates / "cert.pem"), str(certificates / "key.pem")
    words = ("--protocol", "tls", "--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    cluster = clusters(words=words, scheme="tls").start()
    refused = typed(f"engine.address={cluster.address}", *files_of(certificates, "other.pem"))
    assert refused.code == 2
    assert "nobody does in 8 s, or it refuses the certificates" in refused.err
    done = typed(f"engine.address=127.0.0.1:{cluster.port}", *files_of(certificates))
    assert (done.code, done.err) == (0, "")
    assert f"Dask: 1 worker at tls://127.0.0.1:{cluster.port}" in done.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["engine.address=nowhere"], "engine.address must be that of a Dask scheduler, with its port, got 'nowhere'; "),
        (["engine.address=tls://h:1"], "engine.address must begin with tls:// if and only if engine.tls_ca, "),
        (["engine.address=h:1", "engine.tls_ca=a.pem"], "engine.tls_cert and engine.tls_key is missing; give the "),
        (
            ["engine.address=h:1", "engine.tls_ca=a", "engine.tls_cert=b", "engine.tls_key=c"],
            "engine.tls_ca must be a file, got 'a'; give the path of a PEM file",
        ),
        (["engine.address=127.0.0.1:1"], "that answers, nobody does in 8 s, or it wants TLS, got 'tcp://127.0.0.1:1'"),
    ],
    ids=["no address", "TLS without files", "one file", "missing file", "nobody answers"],
)
def test_an_address_that_is_none_is_one_line(words: list[str], line: str, typed: Callable[..., here.Done]) -> None:
    done = typed(*words)
    assert done.code == 2
    assert line in done.err
    assert done.err.count("\n") == 1


def test_files_that_are_no_certificates_are_one_line(typed: Callable[..., here.Done], certificates: Path) -> None:
    (certificates / "cert.txt").write_text("nothing")
    done = typed("engine.address=h:1", *files_of(certificates, "cert.txt"))
    assert done.code == 2
    assert "must be a certificate authority, a certificate and its key" in done.err
    assert done.err.count("\n") == 1


def test_a_missing_package_is_one_line(typed: Callable[..., here.Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = typed()
    assert done.code == 2
    assert done.err.endswith('; install it: pip install "sweepstack[dask]"\n')


def test_a_cluster_without_workers_is_waited_for_and_then_one_line(
    typed: Callable[..., here.Done], clusters: Callable[..., Cluster]
) -> None:
    cluster = clusters().start(0)
    done = typed(f"engine.address={cluster.address}", "engine.lease=1")
    assert done.code == 2
    assert "has had none for 1 s; start one (dask worker tcp://127.0.0.1:" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("patch", "line"),
    [
        ("import sys; sys.modules['sweepstack'] = None", "must have sweepstack"),
        (
            "import importlib.metadata as m; v = m.version; m.version = lambda n: '1.0' if n == 'torch' else v(n)",
            "a Dask worker must have the versions of the command: torch ",
        ),
    ],
    ids=["without sweepstack", "another version"],
)
def test_a_worker_that_cannot_train_for_the_command_is_one_line(
    patch: str,
    line: str,
    typed: Callable[..., here.Done],
    clusters: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = clusters()
    (cluster.folder / "sitecustomize.py").write_text(patch)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(cluster.folder))
        cluster.start()
    done = typed(f"engine.address={cluster.address}")
    assert done.code == 2
    assert line in done.err
    assert done.err.count("\n") == 1


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_model_that_the_workers_lack_is_one_line(
    typed: Callable[..., here.Done], cluster: Cluster, terminal: Terminal
) -> None:
    (terminal.folder / "mine.py").write_text("from sweepstack.training.models import Logistic as Net")
    done = typed(f"engine.address={cluster.address}", "model._target_=mine.Net")
    assert done.code == 2
    assert "a Dask worker must have the code of the command: mine.Net is missing on " in done.err
    assert done.err.count("\n") == 1
