"""What a job of Slurm runs: the assignment of a folder. Before its time limit, the job goes back into the queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from sweepstack.events import Ended, Event
from sweepstack.execution.assignment import Answer, Assignment, Reporter
from sweepstack.execution.engines.channel import reported_events
from sweepstack.execution.engines.worker_main import main
from sweepstack.execution.engines.worker_side import FileSink
from sweepstack.execution.worker import do, run_stack
from sweepstack.files.owner_only import make_file
from sweepstack.files.replacing import replacing
from sweepstack.trial import TrialState, Verdict

LIMIT: Any = getattr(signal, "SIGUSR2", None)
"""The signal that submitit has Slurm send before the time limit of a job; Windows has neither of them."""
COMMAND_SECONDS = 60
"""Seconds after which a command of Slurm that has not ended is killed."""
REASON = "the time limit of its job"
OWNER = "owner"
"""The file, in the folder of an assignment, that says which begin of the job does it: the last one."""


class Requeued(BaseException):
    """The job has gone back into the queue: this process ends, and says nothing of an end."""


class SlurmWorker:
    """What submitit calls in the job.

    Args:
        folder: the folder of the assignment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self) -> None:
        """Does the assignment, and ends the process."""
        job = Job(self._folder)
        signal.signal(LIMIT, job.on_limit)
        code = 0
        with suppress(Requeued):
            code = main(self._folder, lambda folder: JobSink(folder, job), job.work)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without a result for submitit, whose folder is deleted when the command has read everything


class Job:
    """The job of this process, which can begin several times."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.is_near_limit = False
        self.is_stopped = False
        """True if the command wants it to stop."""

    def on_limit(self, number: int, frame: FrameType | None) -> None:
        """The handler of `LIMIT`."""
        self.is_near_limit = True

    def work(self, assignment: Assignment, reporter: Reporter) -> Answer:
        """Does an assignment. What was reported of a stack before the job was requeued is not reported once more.

        Raises:
            Requeued: see there.
            KeyboardInterrupt: the time limit is near, and the job cannot get further.
        """
        if assignment.groups is not None:
            return do(assignment, reporter)
        known = reported_events(self._folder, assignment.stack.trials)
        over = {event.trial.id for event in known if _is_end(event)}
        wanted = assignment.wanted - over
        if not wanted:
            return None
        watched, before = _Watched(reporter, wanted), _state(assignment.checkpoints)
        parts = run_stack(replace(assignment, wanted=wanted), watched)
        if self.is_near_limit and not self.is_stopped and parts is None and watched.unended:
            reporter.sync()
            if _state(assignment.checkpoints) == before:
                raise KeyboardInterrupt(f"{REASON}, before it had saved anything new")
            _requeue()
        return parts


class JobSink(FileSink):
    """The folder of an assignment. A time limit that is near stops the worker as its command would.

    If Slurm has lost the node of a worker that lives on, and has begun the job elsewhere, this worker stops and writes
    nothing more.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        super().__init__(folder)
        self._job, self._owner = job, folder / OWNER
        self._own = f"{os.environ.get('SLURM_JOB_ID')} {os.environ.get('SLURM_RESTART_COUNT', 0)}"
        self._is_replaced = False
        with replacing(self._owner) as temporary:
            make_file(temporary)
            temporary.write_text(self._own, encoding="utf-8")

    def append(self, line: bytes) -> None:
        """See `Sink`."""
        if not self._is_replaced:
            super().append(line)

    def control(self) -> Mapping[str, Any]:
        """See `Sink`."""
        with suppress(OSError):  # the disk cannot be reached; the next look may succeed
            self._is_replaced = self._owner.read_text(encoding="utf-8") != self._own
        found = super().control()
        if self._is_replaced:
            found = {"stop": "its job has begun elsewhere", "over": True}
        self._job.is_stopped = self._job.is_stopped or bool(found.get("stop"))
        return {**found, "stop": REASON} if self._job.is_near_limit and not self._job.is_stopped else found


class _Watched:
    """A reporter that knows which trials have not ended."""

    def __init__(self, reporter: Reporter, unended: frozenset[str]) -> None:
        self._reporter, self.unended = reporter, set(unended)

    def emit(self, event: Event) -> Verdict:
        """See `Reporter`."""
        if _is_end(event):
            self.unended.discard(event.trial.id)
        return self._reporter.emit(event)

    def say(self, line: str) -> None:
        """See `Reporter`."""
        self._reporter.say(line)

    def sync(self) -> None:
        """See `Reporter`."""
        self._reporter.sync()

    def is_stopping(self) -> bool:
        """See `Reporter`."""
        return self._reporter.is_stopping()


def _is_end(event: Event) -> bool:
    """True if an event is the end of a trial, and not only that of a process that trains it."""
    return isinstance(event, Ended) and event.outcome.state is not TrialState.KILLED


def _state(checkpoints: Path) -> tuple[int, int] | None:
    """Returns what tells one saved state from the next; None if there is none."""
    with suppress(OSError):
        found = (checkpoints / "latest.pt").stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _requeue() -> None:
    """Puts this job back into the queue.

    Raises:
        Requeued: it is there.
        KeyboardInterrupt: Slurm refuses.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes at once
    command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
    try:
        subprocess.run(command, capture_output=True, encoding="utf-8", timeout=COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise KeyboardInterrupt(f"{REASON}; scontrol requeue: {error}") from error
    raise Requeued
