"""engine=slurm, with a Slurm of one node that runs here: the same figures as in one process, whatever dies."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweepstack.config.schema import EngineConfig
from sweepstack.execution.control.status import find_status
from sweepstack.execution.engines.channel import worker_of
from sweepstack.execution.engines.conformance import ExecutorConformance
from sweepstack.execution.engines.slurm.executor import SlurmExecutor
from sweepstack.execution.executor import Executor
from sweepstack.journal.ledger import Ledger

from ..stories import wait_until
from ..terminal import Terminal, new_store
from .slurm_node import SlurmNode, slurm_node, why_not
from .test_local import Figures, checkpoints, figures

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(why_not() != "", reason=why_not())]

GRID = ("dataset=digits", "epochs=60", "batch_size=50,100", "optimizer.lr=0.1,0.2", "threads=1", "launch.width=2")
SWEEP = ("train.py", "-m", *GRID, "checkpoint.every=0")
SLURM = (*SWEEP, "engine=slurm", "engine.lease=600")
Held = Callable[..., tuple[subprocess.Popen[str], list[int]]]


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Figures:
    """What a sweep in one process ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    new_store(folder, empty_database)
    done = Terminal(folder).type(*SWEEP, "engine=inline")
    assert done.returncode == 0, done.stderr
    return figures(Terminal(folder))


def workers(terminal: Terminal) -> dict[str, int]:
    """The processes of jobs that have saved a state, by the ids of their stacks."""
    saved = {file.parent.name for file in checkpoints(terminal.folder)}
    folders = [folder for folder in terminal.folder.glob("journal/*/work/*") if folder.name in saved]
    return {folder.name: known["pid"] for folder in folders if (known := worker_of(folder)) is not None}


@pytest.fixture
def held(terminal: Terminal) -> Iterator[Held]:
    """Begins a sweep, and gives the command and the processes of its jobs, which are held in their middle."""
    stopped: dict[str, int] = {}
    commands: list[subprocess.Popen[str]] = []

    def begin(*words: str, jobs: int = 2) -> tuple[subprocess.Popen[str], list[int]]:
        command = terminal.start(*SLURM, *words)
        commands.append(command)

        def hold() -> bool:
            for stack, pid in workers(terminal).items():
                if stack not in stopped:
                    os.kill(pid, signal.SIGSTOP)
                    stopped[stack] = pid
            return len(stopped) == jobs

        wait_until(hold, 120)
        return command, [*stopped.values()]

    yield begin
    for command in commands:
        command.kill()
        command.wait()
    for pid in stopped.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def go_on(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def ids(node: SlurmNode) -> set[str]:
    """The ids of the jobs that wait or run."""
    return {line.split()[1] for line in node.jobs() if not line.startswith("COMPLETING")}


def job_of(pid: int) -> str:
    """The id of the job of a process."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(one.partition(b"=")[2].decode() for one in variables if one.startswith(b"SLURM_JOB_ID="))


def test_jobs_end_with_the_figures_of_one_process(terminal: Terminal, node: SlurmNode, undisturbed: Figures) -> None:
    done = terminal.type(*SLURM)
    assert (done.returncode, done.stderr) == (0, "")
    assert figures(terminal) == undisturbed
    assert not ids(node)
    assert not [*terminal.folder.glob("journal/*/work/*")]
    assert not checkpoints(terminal.folder)


def test_a_killed_worker_is_replaced_and_a_job_near_its_time_limit_goes_on(
    terminal: Terminal, node: SlurmNode, held: Held, undisturbed: Figures
) -> None:
    command, (one, other) = held()
    killed, limited = job_of(one), job_of(other)
    node.run("scancel", "--signal=USR2", limited)  # as Slurm does then
    os.kill(one, signal.SIGKILL)
    go_on(other)
    out, err = command.communicate(timeout=120)
    assert (command.returncode, err) == (0, "")
    assert f"was lost: Slurm says FAILED, NonZeroExitCode of job {killed}: " in out
    assert out.count("was lost") == 1
    assert "Restarts=1" in node.run("scontrol", "show", "job", limited)
    assert figures(terminal) == undisturbed


def test_ctrl_c_leaves_no_job_and_loses_nothing(
    terminal: Terminal, node: SlurmNode, held: Held, undisturbed: Figures
) -> None:
    command, pids = held("engine.cores=5", "engine.minutes=5", jobs=1)  # so that the other one waits
    assert sorted(line.split()[0] for line in node.jobs()) == ["PENDING", "RUNNING"]
    os.kill(command.pid, signal.SIGINT)
    go_on(*pids)
    out, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (130, "Stopped; the same command goes on from here.\n")
    assert not node.jobs()
    again = terminal.type(*SWEEP, "engine=inline")
    assert again.returncode == 0
    assert figures(terminal) == undisturbed


@pytest.mark.parametrize(("words", "number"), [((), signal.SIGKILL), (("engine.detach=true",), signal.SIGINT)])
def test_a_command_that_has_ended_finds_its_jobs_when_it_is_typed_again(
    words: tuple[str, ...],
    number: signal.Signals,
    terminal: Terminal,
    node: SlurmNode,
    held: Held,
    undisturbed: Figures,
) -> None:
    command, pids = held(*words)
    os.kill(command.pid, number)
    out, _ = command.communicate(timeout=60)
    jobs = ids(node)
    assert jobs == {*map(job_of, pids)}
    again = terminal.start(*SLURM, *words)
    lines = []
    while not lines or "goes on" not in lines[-1]:
        lines.append(again.stdout.readline())
    go_on(*pids)
    rest, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (0, "")
    assert {job for job in jobs if f"job {job} of Slurm goes on" in "".join([*lines, rest])} == jobs
    assert "was lost" not in rest
    assert figures(terminal) == undisturbed


def test_a_controller_that_is_restarted_is_waited_for(
    terminal: Terminal, node: SlurmNode, held: Held, undisturbed: Figures
) -> None:
    command, pids = held()
    node.stop_controller()
    go_on(pids[0])
    lines = [command.stdout.readline()]
    while "Slurm does not answer" not in lines[-1]:
        lines.append(command.stdout.readline())
    node.start_controller()
    wait_until(lambda: "answers again" in (lines.append(command.stdout.readline()) or lines[-1]))
    go_on(pids[1])
    out, err = command.communicate(timeout=120)
    assert (command.returncode, err) == (0, "")
    assert "was lost" not in "".join(lines) + out
    assert figures(terminal) == undisturbed
