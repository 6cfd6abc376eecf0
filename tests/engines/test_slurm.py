"""engine=slurm, with a Slurm of one node that runs here: the same figures as in one process, whatever dies."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweepstack.config.run_sections import EngineConfig
from sweepstack.errors import ConfigError
from sweepstack.execution.control.status import find_status
from sweepstack.execution.engines.channel import worker_of
from sweepstack.execution.engines.conformance import ExecutorConformance, Recorder, assign, make_trials, wait
from sweepstack.execution.engines.slurm.executor import SlurmExecutor
from sweepstack.execution.executor import Executor, Handle, InProcessExecutor, Lost
from sweepstack.execution.prepare import prepare
from sweepstack.journal.ledger import Ledger

from ..stories import wait_until
from ..terminal import ROOT, Terminal, new_store
from .slurm_node import SlurmNode, slurm_node, why_not
from .test_local import Figures, checkpoints, figures

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(why_not() != "", reason=why_not())]

GRID = ("dataset=digits", "epochs=60", "batch_size=50,100", "optimizer.lr=0.1,0.2", "threads=1", "launch.width=2")
SWEEP = ("train.py", "-m", *GRID, "checkpoint.every=0")
SLURM = (*SWEEP, "engine=slurm", "engine.lease=600")
Submit = Callable[..., tuple[Handle, Recorder]]
Held = Callable[..., tuple[subprocess.Popen[str], list[int]]]


@pytest.fixture(scope="module")
def node() -> Iterator[SlurmNode]:
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        slurm_node(Path(folder), Path(folder, "hidden")) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
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
def held(terminal: Terminal, node: SlurmNode) -> Iterator[Held]:
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
    node.clear()


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process that is stopped."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def go_on(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def read_until(command: subprocess.Popen[str], words: str) -> str:
    """What a command prints up to the line with some words."""
    read = ""
    while words not in read:
        line = command.stdout.readline()
        assert line, read
        read += line
    return read


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


@pytest.mark.usefixtures("node")
def test_the_example_is_trained_as_it_is_typed(terminal: Terminal) -> None:
    folder = terminal.folder / "slurm"
    shutil.copytree(ROOT / "examples" / "slurm", folder)
    *_, command = re.findall(r"^python (train\.py .*)$", (folder / "README.md").read_text(), re.MULTILINE)
    program = [sys.executable, *shlex.split(command), "epochs=1", "threads=1"]
    done = subprocess.run(program, cwd=folder, env=terminal.environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = terminal.store.rows()
    assert [row.state for row in rows] == ["FINISHED"] * 4
    runs = terminal.store.client.search_runs(["1"])
    assert {"slurm" in run.data.tags["trained"] for run in runs if "trained" in run.data.tags} == {True}


def test_a_killed_worker_is_replaced_and_a_job_near_its_time_limit_goes_on(
    terminal: Terminal, node: SlurmNode, held: Held, undisturbed: Figures
) -> None:
    command, (one, other) = held()
    killed, limited = job_of(one), job_of(other)
    node.run("scancel", "--signal=USR2", limited)  # as Slurm does then
    wait_until(lambda: is_pending(other, signal.SIGUSR2))  # it comes by way of two daemons
    os.kill(one, signal.SIGKILL)
    go_on(other)
    out, err = command.communicate(timeout=120)
    assert (command.returncode, err) == (0, "")
    assert f"was lost: Slurm says FAILED, NonZeroExitCode of job {killed}: " in out
    assert out.count("was lost") == 1
    assert "Restarts=1" in node.run("scontrol", "show", "job", limited)
    assert figures(terminal) == undisturbed


HUNGRY = """
import os, pathlib, time, torch

class Net(torch.nn.Linear):
    def __init__(self, shape, classes):
        super().__init__(64, classes)

    def forward(self, images):
        deaths = pathlib.Path("deaths")
        if "SLURM_JOB_ID" in os.environ and len([*deaths.glob("*")]) < 3:
            (deaths / str(os.getpid())).touch()
            held = torch.ones(500_000_000)
            time.sleep(60 * float(held[0]))
        return super().forward(images.flatten(1))
"""
"""A model that takes 2 GB in the first three jobs."""


def test_a_stack_that_takes_too_much_memory_goes_on_in_halves(terminal: Terminal, node: SlurmNode) -> None:
    (terminal.folder / "hungry.py").write_text(HUNGRY)
    (terminal.folder / "deaths").mkdir()
    words = ("train.py", "-m", "dataset=digits", "epochs=2", "optimizer.lr=0.1,0.2", "model._target_=hungry.Net")
    done = terminal.type(*words, "launch.stack=force", "launch.width=2", "engine=slurm", "engine.memory_gb=1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("Exceeded job memory limit") == 3
    assert "its trials go on in halves, which need less memory." in done.stdout
    assert {state for state, _ in figures(terminal).values()} == {"FINISHED"}


def test_ctrl_c_leaves_no_job_and_loses_nothing(
    terminal: Terminal, node: SlurmNode, held: Held, undisturbed: Figures
) -> None:
    command, pids = held("engine.cores=5", "engine.minutes=5", jobs=1)  # so that the other one waits
    assert sorted(line.split()[0] for line in node.jobs()) == ["PENDING", "RUNNING"]
    (journal,) = terminal.folder.glob("journal/*")
    (status,) = find_status(Ledger(journal)).running
    assert {(one.engine, one.state, one.pid) for one in status.stacks} == {
        ("slurm", "training", pids[0]),
        ("slurm", "waiting", None),
    }
    os.kill(command.pid, signal.SIGINT)
    go_on(*pids)
    _, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (130, "Stopped; the same command goes on from here.\n")
    assert not node.jobs()
    again = terminal.type(*SWEEP, "engine=inline")
    assert again.returncode == 0
    assert figures(terminal) == undisturbed


def test_a_command_that_was_killed_finds_its_jobs_when_it_is_typed_again(
    terminal: Terminal, node: SlurmNode, held: Held, undisturbed: Figures
) -> None:
    command, pids = held()
    command.kill()
    command.wait()
    jobs = {*map(job_of, pids)}
    assert ids(node) == jobs
    again = terminal.start(*SLURM)
    out = read_until(again, " of Slurm goes on")
    go_on(*pids)
    rest, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (0, "")
    assert {job for job in jobs if f"job {job} of Slurm goes on" in out + rest} == jobs
    assert "was lost" not in out + rest
    assert figures(terminal) == undisturbed


def test_jobs_go_on_without_their_command_if_that_is_wanted(
    terminal: Terminal, node: SlurmNode, held: Held, undisturbed: Figures
) -> None:
    """One of them ends meanwhile, one comes near its time limit and waits in the queue."""
    command, (one, other) = held("engine.detach=true")
    limited = job_of(other)
    os.kill(command.pid, signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (130, "Stopped; the same command goes on from here.\n")
    assert "2 jobs go on in Slurm" in out
    node.run("scancel", "--signal=USR2", limited)
    go_on(one, other)
    wait_until(lambda: [line.split()[:2] for line in node.jobs()] == [["PENDING", limited]])
    again = terminal.type(*SLURM, "engine.detach=true")
    assert (again.returncode, again.stderr) == (0, "")
    assert f"job {limited} of Slurm goes on" in again.stdout
    assert "was lost" not in again.stdout
    assert figures(terminal) == undisturbed


def test_a_controller_that_is_restarted_is_waited_for(
    terminal: Terminal, node: SlurmNode, held: Held, undisturbed: Figures
) -> None:
    command, pids = held()  # a job that ends while Slurm is away is noticed by it minutes later
    node.stop_controller()
    out = read_until(command, "Slurm does not answer: ")
    node.start_controller()
    out += read_until(command, "Slurm answers again.")
    go_on(*pids)
    rest, err = command.communicate(timeout=120)
    assert (command.returncode, err) == (0, "")
    assert "was lost" not in out + rest
    assert figures(terminal) == undisturbed


def test_a_job_measures_how_wide_stacks_should_be(
    terminal: Terminal, node: SlurmNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPSTACK_DATA", str(terminal.folder / "data"))  # where nothing is remembered
    done = terminal.type("train.py", "-m", "dataset=digits", "epochs=1", "optimizer.lr=0.1,0.2", "engine=slurm")
    assert (done.returncode, done.stderr) == (0, "")
    assert "A worker measures how wide stacks should be there" in done.stdout
    assert "No worker has measured" not in done.stdout
    assert not node.jobs()


@pytest.fixture
def executor(node: SlurmNode, tmp_path: Path) -> Iterator[Submit]:
    """`executor(partition="gpu")` submits a stack with these keys of `engine`."""
    opened: list[SlurmExecutor] = []

    def submit(journal: Path = tmp_path / "journal", **keys: Any) -> tuple[Handle, Recorder]:
        opened.append(SlurmExecutor(journal, EngineConfig(**{"name": "slurm", **keys})))
        recorder = Recorder()
        trials = make_trials(tmp_path / "trials", changes={"epochs": 20_000})
        return opened[-1].submit(assign(journal, trials), recorder), recorder

    yield submit
    for one in opened:
        one.close()
    assert not ids(node)


def test_a_job_that_is_cancelled_by_hand_is_lost(node: SlurmNode, executor: Submit) -> None:
    handle, recorder = executor()
    wait_until(lambda: handle.poll() is None and bool(recorder.events))
    (job,) = ids(node)
    node.run("scancel", job)
    (result,) = wait(handle)
    assert isinstance(result, Lost)
    assert result.reason == f"it was stopped (SIGTERM); Slurm says CANCELLED of job {job}"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"partition": "mian"}, r"engine\.partition must be .*, got 'mian'; did you mean 'main'\?"),
        ({"memory_gb": 400}, r"a job must ask for .*Memory specification .*, got 'engine\.memory_gb=400\.0'; `sinfo"),
        ({"gpus_per_worker": 2}, r"a job must ask for .*, got 'engine\.gpus_per_worker=2\.0'; `sinfo --format=.*"),
        ({"gpus_per_worker": 0.5}, r"engine\.gpus_per_worker must be at least 1 .*, got 0\.5; for example"),
        ({"minutes": 500}, r"a job must ask for .*Slurm says Partition\w+\), got 'engine\.minutes=500'; `sinfo"),
        ({"setup": ["exit 3"]}, r"a job must be able to start Python .* FAILED, NonZeroExitCode .*; install the same"),
    ],
)
def test_a_mistake_is_one_line(keys: dict[str, Any], line: str, executor: Submit) -> None:
    with pytest.raises(ConfigError) as met:
        wait(executor(**keys)[0])
    assert re.match(line, str(met.value))
    assert str(met.value).count("\n") == 0


@pytest.fixture
def refuse(node: SlurmNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets sbatch fail with some words: those of a Slurm with accounting, or of one that is overloaded."""

    def begin(words: str) -> None:
        program = tmp_path / "bin" / "sbatch"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho 'sbatch: error: Batch job submission failed: {words}' >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return begin


@pytest.mark.parametrize(
    ("words", "keys", "line"),
    [
        (
            "Invalid account or account/partition combination specified",
            {"account": "physics"},
            r"engine\.account must be .* combination specified\), got 'physics'; `sacctmgr show .*",
        ),
        (
            "Requested time limit is invalid (missing or exceeds some limit)",
            {"minutes": 5},
            r"engine\.minutes must be a time that the partition allows .*, got 5; `sinfo .*",
        ),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)".replace("'", ""),
            {"workers": 9},
            r"engine\.workers must be at most .*, got 9; for example engine\.workers=4",
        ),
    ],
)
def test_a_refusal_of_accounting_is_one_line(
    words: str, keys: dict[str, Any], line: str, executor: Submit, refuse: Callable[[str], None]
) -> None:
    refuse(words)
    with pytest.raises(ConfigError) as met:
        executor(**keys)
    assert re.fullmatch(line, str(met.value))


def test_a_job_that_slurm_may_not_have_taken_is_lost_when_the_queue_lacks_it(
    executor: Submit, refuse: Callable[[str], None]
) -> None:
    refuse("Socket timed out on send/recv operation")
    (result,) = wait(executor()[0])
    assert isinstance(result, Lost)
    assert re.fullmatch(r"Slurm has not taken its job \(.*Socket timed out.*\)", result.reason)


def test_a_journal_that_the_nodes_do_not_see_is_one_line(node: SlurmNode, executor: Submit) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.journal must be a folder that the nodes see .*; for example"):
        wait(executor(node.hidden / "journal")[0])


def test_a_model_that_the_nodes_do_not_have_is_one_line_and_no_job_is_left(
    terminal: Terminal, node: SlurmNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node.hidden / "hidden_net.py").write_text("from sweepstack.training.models import Logistic as Net\n")
    monkeypatch.setenv("PYTHONPATH", str(node.hidden))
    done = terminal.type(*SLURM, "model._target_=hidden_net.Net")
    assert done.returncode == 2
    assert re.fullmatch(r"error: job \d+ of Slurm on \w+: model\._target_ should .*'hidden_net'.*\n", done.stderr)
    assert not node.jobs()


@pytest.mark.parametrize(("gpus", "kind"), [(None, "cpu"), (1, "cuda")])
def test_the_device_is_that_of_the_nodes(gpus: int | None, kind: str, tmp_path: Path) -> None:
    trials = make_trials(tmp_path, changes={"device": "auto", "engine.name": "slurm", "engine.gpus_per_worker": gpus})
    assert prepare(trials, "train", InProcessExecutor()).devices == {"auto": kind}


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("sbatch", "sbatch is not on this machine; type the command on"),
        ("", 'submitit; pip install "sweepstack[slurm]"'),
    ],
)
def test_without_slurm_one_line_says_what_is_missing(
    program: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=re.escape(line)):
        SlurmExecutor(tmp_path, EngineConfig(name="slurm"))
