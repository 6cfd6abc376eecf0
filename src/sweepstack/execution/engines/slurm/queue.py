"""Slurm's queue as the command sees it: one `squeue` for all jobs, every two seconds, in the background."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sweepstack.errors import one_line

QUERY_SECONDS, LONGEST_QUERY_SECONDS = 2.0, 30.0
"""Seconds between two looks at the queue: longer each time while Slurm does not answer."""
WAIT_SECONDS = 0.5
"""The same while the command waits for an answer, at its beginning and at its end."""
LONGEST_SECONDS = 60.0
"""Seconds after which a program of Slurm that asks or submits is given up."""
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
    """The queue. Whoever looks does not wait for an answer of Slurm, which may take minutes: the last one counts.

    Args:
        say: takes a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._squeue: subprocess.Popen[bytes] | None = None
        self._output = b""
        self._began = -math.inf
        self._pause = QUERY_SECONDS
        self._looked: float | None = None
        self._jobs: tuple[SlurmJob, ...] = ()
        self._is_silent = False
        self._asked: list[subprocess.Popen[bytes]] = []
        self._to_hasten: set[str] = set()

    def peek(self, since: float) -> Sequence[SlurmJob] | None:
        """Returns the jobs of this user, also those that have ended lately; None if the last look is too old.

        Args:
            since: the look must have begun after this moment of `time.monotonic`.
        """
        if self._squeue is not None:
            self._read()
        elif time.monotonic() - self._began >= self._pause:
            self._begin()
        return self._jobs if self._looked is not None and self._looked > since else None

    def wait(self, until: Callable[[Sequence[SlurmJob]], bool], seconds: float) -> Sequence[SlurmJob] | None:
        """Waits for something that looks at the queue from now on show; returns the jobs, or None if they do not.

        Args:
            until: returns whether the jobs show it.
            seconds: how long.
        """
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self._squeue is None and not self._is_silent and time.monotonic() - self._began > WAIT_SECONDS:
                self._begin()
            jobs = self.peek(began)
            if jobs is not None and until(jobs):
                return jobs
            time.sleep(0.05)
        return None

    def cancel(self, *words: str) -> None:
        """Cancels jobs. Returns at once: later looks show what has become of them.

        Args:
            words: which, as `scancel` takes them.
        """
        self._ask("scancel", "--quiet", *words)

    def hasten(self, job: str) -> None:
        """Lets a job that was requeued begin as soon as there is room; by itself, Slurm first waits for two minutes.

        Slurm is asked before the next look, once for all jobs.
        """
        self._to_hasten.add(job)

    def _ask(self, *command: str) -> None:
        self._asked = [one for one in self._asked if one.poll() is None]
        with suppress(OSError):
            quiet = subprocess.DEVNULL
            one = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
            self._asked.append(one)

    def _begin(self) -> None:
        if self._to_hasten:
            self._ask("scontrol", "update", f"JobId={','.join(sorted(self._to_hasten))}", "StartTime=now")
            self._to_hasten.clear()
        self._began = time.monotonic()
        self._output = b""
        try:
            self._squeue = subprocess.Popen(
                SQUEUE,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._fail(str(error))
            return
        assert self._squeue.stdout is not None
        if sys.platform == "win32":
            raise NotImplementedError
        os.set_blocking(self._squeue.stdout.fileno(), False)

    def _read(self) -> None:
        """Reads the answer if there is one."""
        assert self._squeue is not None
        assert self._squeue.stdout is not None
        code = self._squeue.poll()  # before the rest is read
        self._output += self._squeue.stdout.read() or b""
        if code is None and time.monotonic() - self._began < LONGEST_SECONDS:
            return
        text = self._output.decode(errors="replace")
        if code != 0:
            self._fail(text or f"squeue has not ended within {LONGEST_SECONDS:g} s")
            return
        self._forget()
        fields = [line.split("|", 3) for line in text.splitlines()]
        self._jobs = tuple(SlurmJob(*one) for one in fields if len(one) == 4)
        self._looked, self._pause = self._began, QUERY_SECONDS
        if self._is_silent:
            self._say("Slurm answers again.")
            self._is_silent = False

    def _fail(self, text: str) -> None:
        self._forget()
        self._pause = min(2 * self._pause, LONGEST_QUERY_SECONDS)
        if not self._is_silent:
            self._say(f"Slurm does not answer: {one_line(text)}. Its jobs go on, and this command asks it further.")
            self._is_silent = True

    def close(self) -> None:
        """Ends the look that is under way. What Slurm was asked for before goes on until Slurm answers."""
        self._forget()
        with suppress(subprocess.TimeoutExpired):
            for one in self._asked:
                one.wait(1.0)

    def _forget(self) -> None:
        if self._squeue is not None:
            self._squeue.kill()
            self._squeue.wait()
            assert self._squeue.stdout is not None
            self._squeue.stdout.close()
        self._squeue = None
