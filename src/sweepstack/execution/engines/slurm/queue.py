"""Slurm's queue as the command sees it: one `squeue` for all jobs, every few seconds, which nobody waits for."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from sweepstack.errors import one_line

LOOK_SECONDS = 2.0
"""Seconds between two looks at the queue."""
LONGEST_SECONDS = 60.0
"""Seconds after which a program of Slurm that asks or submits is given up."""
COMMAND_SECONDS = 15.0
"""Seconds after which another program of Slurm is killed, while the command waits for it."""
SQUEUE = ("squeue", "--me", "--states=all", "--noheader", "--format=%i|%j|%T|%r")
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
"""States of jobs that do not begin again."""


@dataclass(frozen=True)
class SlurmJob:
    """A job as `squeue` shows it."""

    id: str
    name: str
    state: str
    reason: str
    """Why it is in that state, such as Priority or NonZeroExitCode."""

    @property
    def has_ended(self) -> bool:
        """True if it does not begin again."""
        return self.state in ENDED

    @property
    def is_pending(self) -> bool:
        """True if it waits to begin, perhaps once more."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")

    def __str__(self) -> str:
        reason = "" if self.reason == "None" else f", {self.reason}"
        return f"Slurm says {self.state}{reason} of job {self.id}"


class SlurmQueue:
    """The queue. Nobody waits for an answer of Slurm, which may take minutes: the last one counts.

    Args:
        say: takes a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._squeue: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._began = 0.0
        self._looked: float | None = None
        self._jobs: tuple[SlurmJob, ...] = ()
        self._is_silent = False

    def look(self, since: float) -> Sequence[SlurmJob] | None:
        """Returns the jobs of this user, also those that have ended lately; None if the last look is too old.

        Args:
            since: the look must have begun after this moment of `time.monotonic`.
        """
        if self._squeue is not None:
            self._read()
        elif time.monotonic() - self._began >= LOOK_SECONDS or (self._looked or 0.0) <= since:
            self._begin()
        return self._jobs if self._looked is not None and self._looked > since else None

    def wait(self, until: Callable[[Sequence[SlurmJob]], bool], seconds: float | None = None) -> bool:
        """Waits for something that looks at the queue from now on show; returns False if they do not.

        Args:
            until: returns whether the jobs show it.
            seconds: how long; None: as long as it takes.
        """
        began = time.monotonic()
        while seconds is None or time.monotonic() - began < seconds:
            jobs = self.look(began)
            if jobs is not None and until(jobs):
                return True
            began = began if jobs is None else time.monotonic()
            time.sleep(0.05)
        return False

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._output = tempfile.TemporaryFile()
        try:
            self._squeue = subprocess.Popen(
                SQUEUE, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, start_new_session=True
            )
        except OSError as error:
            self._fail(str(error))

    def _read(self) -> None:
        """Reads the answer if there is one."""
        assert self._squeue is not None
        assert self._output is not None
        code = self._squeue.poll()
        if code is None and time.monotonic() - self._began < LONGEST_SECONDS:
            return
        if code is None:
            self._squeue.kill()
            self._squeue.wait()
        self._output.seek(0)
        text = self._output.read().decode(errors="replace")
        if code != 0:
            self._fail(text or f"squeue has not ended within {LONGEST_SECONDS:g} s")
            return
        self.close()
        fields = [line.split("|", 3) for line in text.splitlines()]
        self._jobs = tuple(SlurmJob(*one) for one in fields if len(one) == 4)
        self._looked = self._began
        if self._is_silent:
            self._say("Slurm answers again.")
            self._is_silent = False

    def _fail(self, text: str) -> None:
        self.close()
        if not self._is_silent:
            self._say(f"Slurm does not answer: {one_line(text)}. Its jobs go on, and this command asks it further.")
            self._is_silent = True

    def close(self) -> None:
        """Ends the look that is under way."""
        if self._squeue is not None and self._squeue.poll() is None:
            self._squeue.kill()
            self._squeue.wait()
        if self._output is not None:
            self._output.close()
        self._squeue = self._output = None


def cancel(*words: str) -> None:
    """Cancels jobs; does nothing if Slurm does not answer.

    Args:
        words: which, as `scancel` takes them.
    """
    _run("scancel", "--quiet", *words)


def hasten(job: str) -> None:
    """Lets a job that was requeued begin as soon as there is room. By itself, Slurm waits for two minutes before."""
    _run("scontrol", "update", f"JobId={job}", "StartTime=now")


def _run(*command: str) -> None:
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, check=False)
