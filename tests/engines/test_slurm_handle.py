"""engine=slurm against programs that stand for those of Slurm, which do what a Slurm that runs does only by chance."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweepstack.config.run_sections import EngineConfig
from sweepstack.errors import ConfigError
from sweepstack.execution.assignment import Assignment
from sweepstack.execution.engines.channel import EVENTS, Reports, work_folder, write_assignment
from sweepstack.execution.engines.conformance import Recorder, assign, make_trials, wait
from sweepstack.execution.engines.slurm import handle, queue
from sweepstack.execution.engines.slurm.executor import SlurmExecutor
from sweepstack.execution.engines.slurm.handle import Jobs, SlurmHandle, Submitted
from sweepstack.execution.engines.slurm.queue import SlurmQueue
from sweepstack.execution.engines.slurm.worker import Job as WorkerJob
from sweepstack.execution.engines.slurm.worker import JobSink
from sweepstack.execution.executor import Lost, Trained
from sweepstack.journal.codec import encode_line

HELLO: dict[str, Any] = {"hello": {"host": "n1", "pid": 1, "at": 0}}
STOPPED = {"stopped": "SIGTERM"}
PROGRAMS = {
    "squeue": 'echo >> "$0.calls"; cat queue',
    "scancel": 'exec 9> lock; flock 9; echo "$@" >> "$0.calls"; grep -v "|${2#--name=}|" queue > rest; mv rest queue',
    "scontrol": 'echo "$@" >> "$0.calls"',
    "srun": "exit 1",
    "sbatch": """name=$(grep -o "job-name=.*" "$1" | cut -d= -f2)
        echo "7|$name|PENDING|None" >> queue
        echo >> "$0.calls"
        echo Submitted batch job 7""",
}


class Stand:
    """The programs: squeue shows a file; sbatch appends a line to it, and scancel takes one away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, lines in PROGRAMS.items():
            self.replace(name, lines)
        self.shows()

    def replace(self, name: str, lines: str) -> None:
        program = self.folder / name
        program.write_text(f"#!/bin/sh\ncd {self.folder}\n{lines}\n")
        program.chmod(0o755)

    def shows(self, *jobs: str) -> None:
        (self.folder / "queue").write_text("".join(f"{job}\n" for job in jobs))

    @property
    def queue(self) -> str:
        return (self.folder / "queue").read_text()

    def calls(self, name: str) -> list[str]:
        """The words of each call."""
        file = self.folder / f"{name}.calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return Stand(tmp_path / "bin")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is asked often, so that a test is short."""
    monkeypatch.setattr(queue, "QUERY_SECONDS", 0.1)
    monkeypatch.setattr(handle, "POLL_SECONDS", 0.0)


@pytest.fixture
def assignment(tmp_path: Path) -> Assignment:
    return assign(tmp_path / "journal", make_trials(tmp_path / "trials"))


class Job:
    """A job with the id 7, and its handle. `write` writes lines as its worker does."""

    def __init__(self, assignment: Assignment, journal: Path) -> None:
        self.recorder, self._lines = Recorder(), 0
        self.folder = work_folder(journal, assignment.stack.id)
        write_assignment(assignment, self.folder, 60.0)
        self.jobs = Jobs(EngineConfig(name="slurm"), SlurmQueue(self.recorder.say))
        reports = Reports(self.folder, assignment.stack, self.recorder)
        self.handle = SlurmHandle(reports, self.jobs, Submitted("7"))

    def write(self, *lines: dict[str, Any]) -> None:
        with (self.folder / EVENTS).open("ab") as stream:
            for line in lines:
                stream.write(encode_line(line, self._lines))
                self._lines += 1

    def trains(self, seconds: float) -> None:
        """Asserts that it is not lost for a time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.handle.poll() is None
            time.sleep(0.01)


@pytest.fixture
def job(stand: Stand, assignment: Assignment, tmp_path: Path) -> Job:
    stand.shows("7|sweepstack-a|RUNNING|None")
    return Job(assignment, tmp_path / "journal")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("is_late", [False, True])
def test_a_job_that_was_requeued_and_has_begun_again_is_not_lost(is_late: bool, job: Job, stand: Stand) -> None:
    job.write(HELLO, STOPPED)
    if is_late:
        job.trains(0.2)
    job.write(HELLO)
    job.trains(1.0)
    job.write({"done": None})
    assert wait(job.handle) == [Trained()]
    assert not stand.calls("scancel")


@pytest.mark.usefixtures("quick")
def test_a_reason_to_wait_for_ever_is_a_mistake_only_until_a_job_has_begun(job: Job, stand: Stand) -> None:
    job.write(HELLO)
    job.trains(0.5)
    stand.shows("7|sweepstack-a|PENDING|BadConstraints")  # such as for its node was drained
    job.trains(1.0)
    assert not stand.calls("scancel")
    job.jobs.has_begun = False
    with pytest.raises(ConfigError, match=r"a job must ask for what a partition has .*Slurm says BadConstraints"):
        wait(job.handle)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("state", "lines", "blames_stack"),
    [
        ("PREEMPTED", [HELLO], False),
        ("NODE_FAIL", [HELLO, STOPPED], False),
        ("OUT_OF_MEMORY", [HELLO], True),
        ("CANCELLED", [HELLO], True),
        ("CANCELLED", [], False),
        ("OUT_OF_MEMORY", [], True),
    ],
)
def test_a_stack_is_not_blamed_for_what_slurm_does(
    state: str, lines: list[dict[str, Any]], blames_stack: bool, job: Job, stand: Stand
) -> None:
    job.write(*lines)
    stand.shows(f"7|sweepstack-a|{state}|None")
    (result,) = wait(job.handle)
    assert isinstance(result, Lost)
    assert result.blames_stack == blames_stack


def test_slurm_is_asked_every_two_seconds_once_for_all_jobs(stand: Stand) -> None:
    asked = SlurmQueue(print)
    stand.shows("7|one|PENDING|BeginTime")
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        for id in ("7", "8"):
            asked.peek(time.monotonic())
            asked.hasten(id)
    asked.close()
    assert len(stand.calls("squeue")) == 2
    assert stand.calls("scontrol") == ["update JobId=7,8 StartTime=now"]


def test_slurm_is_asked_less_often_while_it_does_not_answer(stand: Stand) -> None:
    stand.replace("squeue", PROGRAMS["squeue"].replace("cat queue", "exit 1"))
    lines: list[str] = []
    asked = SlurmQueue(lines.append)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        asked.peek(time.monotonic())
    assert len(lines) == 1
    assert len(stand.calls("squeue")) == 1


def test_a_worker_whose_job_has_begun_elsewhere_writes_nothing_more(
    tmp_path: Path, assignment: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = work_folder(tmp_path / "journal", assignment.stack.id)
    write_assignment(assignment, folder, 60.0)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = JobSink(folder, job := WorkerJob(folder))
    assert before.control() == {"stop": ""}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    now = JobSink(folder, WorkerJob(folder))
    assert (before.control()["over"], job.is_stopped) == (True, True)
    before.append(b"before\n")
    now.append(b"now\n")
    assert now.control() == {"stop": ""}
    assert (folder / EVENTS).read_text() == "now\n"


Open = Callable[[], SlurmExecutor]


@pytest.fixture
def executor(stand: Stand, tmp_path: Path) -> Open:
    pytest.importorskip("submitit", reason="engine=slurm needs submitit")
    return lambda: SlurmExecutor(tmp_path / "journal", EngineConfig(name="slurm"))


@pytest.mark.usefixtures("quick")
def test_a_job_that_sbatch_has_submitted_without_saying_so_is_replaced(
    stand: Stand, assignment: Assignment, executor: Open
) -> None:
    stand.replace("sbatch", f"{PROGRAMS['sbatch']}\necho 'sbatch: error: Socket timed out' >&2\nexit 1")
    command = executor()
    (result,) = wait(command.submit(assignment, Recorder()))
    command.close()
    assert isinstance(result, Lost)
    assert (result.blames_stack, stand.queue) == (False, "")
    killed = executor()
    killed.submit(assignment, Recorder())
    found = executor()
    assert "PENDING" in stand.queue
    assert found.reattach(assignment, Recorder()) is None
    found.close()
    assert stand.queue == ""


def test_an_interrupt_during_sbatch_leaves_no_job(stand: Stand, assignment: Assignment, executor: Open) -> None:
    stand.replace("sbatch", f"sleep 1\n{PROGRAMS['sbatch']}")
    command = executor()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        command.submit(assignment, Recorder())
    command.close()
    assert len(stand.calls("sbatch")) == 1
    assert stand.queue == ""


def test_the_jobs_of_an_earlier_command_are_found_by_one_look_and_ended_with_all_others(
    stand: Stand, tmp_path: Path, executor: Open
) -> None:
    trials = make_trials(tmp_path / "trials", [0.1, 0.2, 0.3])
    three = [assign(tmp_path / "journal", [trial], f"{trial.number:016x}") for trial in trials]
    earlier, later = executor(), executor()
    for one in three:
        earlier.submit(one, Recorder())
    assert [later.reattach(one, Recorder()) is not None for one in three[:2]] == [True, True]
    assert len(stand.calls("squeue")) == 1
    later.end_workers([three[2].stack.id, "f" * 16])
    later.close()
    assert stand.queue == ""
    assert len(stand.calls("scancel")) == 3
