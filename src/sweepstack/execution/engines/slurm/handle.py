"""The handle of a job: what its worker reports, and what Slurm says of it."""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sweepstack.config.run_sections import EngineConfig
from sweepstack.errors import ConfigError, UserError, one_line
from sweepstack.execution.engines.channel import Reports, WorkerHandle
from sweepstack.execution.engines.slurm.queue import QUERY_SECONDS, SlurmJob, SlurmQueue
from sweepstack.execution.engines.slurm.submission import LOGS, can_begin, cannot_start, job_name
from sweepstack.execution.executor import Lost, Trained

NEVER = {
    *("AccountNotAllowed", "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS"),
    *("PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "QOSNotAllowed", "QOSTimeLimit"),
}
"""Reasons for which a job would wait for ever, beside those that end with `NEVER_ENDS`."""
NEVER_ENDS = ("PerJob", "PerJobLimit")
OWN_ENDS = ("COMPLETED", "FAILED")
"""States of jobs that have ended by themselves."""
NODE_ENDS = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED")
"""States of jobs that have ended for no fault of theirs."""
OUT_OF_MEMORY = re.compile(r"^slurmstepd.*(memory limit|oom.?kill)", re.IGNORECASE)
"""Matches the line in the log of a job that has taken too much memory; its state may not say so."""
POLL_SECONDS = 0.5
"""Seconds between two looks at what a worker has reported, which is on a shared disk."""
HASTEN_SECONDS = 30.0
"""Seconds until Slurm is asked once more to let a job that was requeued begin."""
SILENT_SECONDS = 10.0
"""Seconds that a job waits until the user learns why."""


class Submitted(NamedTuple):
    """What is known of a job when it is submitted."""

    id: str
    """Empty if Slurm has not said whether it has the job."""
    answer: str = ""
    """What sbatch has said then."""


@dataclass
class Jobs:
    """What the handles of a command share."""

    config: EngineConfig
    """What each job asks for."""
    queue: SlurmQueue
    unended: dict[str, SlurmHandle] = field(default_factory=dict)
    """Those of which something is expected, by the ids of their stacks."""
    cancelled: set[str] = field(default_factory=set)
    """The names of jobs that were cancelled, and may not have ended yet."""
    has_begun: bool = False
    """True if one of them has begun to train."""
    reasons: set[str] = field(default_factory=set)
    """Why jobs wait, as far as the user knows it."""


class SlurmHandle(WorkerHandle):
    """The handle of a job.

    Args:
        reports: what its worker reports.
        jobs: what it shares with the others.
        submitted: the job.
    """

    def __init__(self, reports: Reports, jobs: Jobs, submitted: Submitted) -> None:
        super().__init__(reports, jobs.config.lease, self._why_gone, self._cancel, self._is_waiting)
        self._jobs, self._job = jobs, submitted
        self._since = time.monotonic()
        """When the job was submitted or has begun: looks at the queue from before say nothing."""
        self._seen: SlurmJob | None = None
        self._polled = self._hastened = -math.inf
        self._is_cancelled = self._is_over = False
        self._lost: float | None = None
        """When the worker has said that it is stopped."""
        jobs.unended[reports.stack.id] = self

    def poll(self) -> Trained | Lost | None:
        """See `Handle`.

        Raises:
            ConfigError: the job would wait for ever.
            UserError: it has ended before it could begin to train, and so would all others.
        """
        if self._is_over:
            return self._result
        now = time.monotonic()
        if now - self._polled < POLL_SECONDS:
            return None
        self._polled = now
        was_waiting = not self.host
        try:
            self._take_back()
            result = super().poll()
        except UserError as error:
            raise error.inside(f"job {self._job.id} of Slurm on {self.host}") from error
        if self.host and was_waiting:
            self._jobs.has_begun, self._since = True, time.monotonic()
        if isinstance(result, Lost) and not self._knows_state():
            return None
        if isinstance(result, Lost) and self._seen is not None and self._seen.is_pending and not self._is_cancelled:
            self._result, self._lost = None, None  # Slurm has requeued the job, such as for its node was lost
            return None
        if result is not None:
            self._is_over = True
            self._jobs.unended.pop(self.stack.id, None)
        if isinstance(result, Lost):
            also = "" if self._seen is None or str(self._seen) in result.reason else f"; {self._seen}"
            result = self._result = Lost(f"{result.reason}{also}", self._blames_stack())
            if self._seen is None or not self._seen.has_ended:
                self._cancel()
            if not self._jobs.has_begun and self._seen is not None and self._seen.state in OWN_ENDS:
                raise self._cannot_begin(self._seen)
        elif result is None and self._seen is not None and self._seen.is_pending:
            self._check_reason(self._seen.reason)
        return result

    def _take_back(self) -> None:
        """Takes a loss back if the worker has reported further: Slurm has requeued its job."""
        if self._result is not None:
            lines, result = self._reports.pass_on()
            if lines:
                self._result, self._lost, self._heard = result, None, time.monotonic()

    def _blames_stack(self) -> bool:
        """See `Lost`. A job that could not begin is to blame if it has ended by itself."""
        if self._seen is None or not self._seen.has_ended:
            return bool(self.host)
        return self._seen.state not in NODE_ENDS and (bool(self.host) or self._seen.state != "CANCELLED")

    def stop(self) -> None:
        """See `Handle`. A job that waits is cancelled."""
        super().stop()
        if not self.host:
            self._cancel("--state=PENDING")

    def end(self) -> None:
        """See `Handle`."""
        super().end()
        self._jobs.unended.pop(self.stack.id, None)

    def _cancel(self, *words: str) -> None:
        self._is_cancelled = True
        self._jobs.cancelled.add(job_name(self.stack.id))
        self._jobs.queue.cancel(*words, *([self._job.id] if self._job.id else [f"--name={job_name(self.stack.id)}"]))

    def _why_gone(self) -> str | None:
        """Returns why the job does not train any more; None while it may."""
        if self._is_cancelled and not self.host:
            return "its job was cancelled"
        jobs = self._jobs.queue.peek(self._since)
        if jobs is None:
            self._seen = None
            return None
        if not self._job.id:
            found = [job.id for job in jobs if job.name == job_name(self.stack.id) and not job.has_ended]
            if not found or not can_begin(self._reports.folder, found[-1]):
                self._cancel()
                how = "taken its job, which cannot begin, without saying so" if found else "not taken its job"
                return f"Slurm has {how} ({self._job.answer})"
            self._job = Submitted(found[-1])
        self._seen = next((job for job in jobs if job.id == self._job.id), None)
        if self._seen is None:
            return f"Slurm does not know job {self._job.id} any more"
        if not self._seen.has_ended:
            return None
        return f"{self._seen}{': ' * bool(last := self._last_line())}{last}"

    def _knows_state(self) -> bool:
        """True if it is known what Slurm says of a job whose worker is lost, or if nobody needs to know."""
        if self._is_cancelled or self._reports.is_stopping or (self._seen is not None and self._seen.has_ended):
            return True
        now = time.monotonic()
        self._lost = self._lost or now
        jobs = self._jobs.queue.peek(self._lost)
        if jobs is not None:
            self._seen = next((job for job in jobs if job.id == self._job.id), None)
        shows_end = jobs is not None and (self._seen is None or self._seen.state not in ("RUNNING", "COMPLETING"))
        return shows_end or now - self._lost > 3 * QUERY_SECONDS

    def _is_waiting(self) -> bool:
        """True while no sign of life is expected: the job waits in the queue, begins, or is suspended."""
        if self.host and self._seen is not None and self._seen.is_pending:  # it was requeued
            self._reports.host, self._since = "", time.monotonic()
        return not self.host or (self._seen is not None and self._seen.state in ("SUSPENDED", "STOPPED"))

    def _check_reason(self, reason: str) -> None:
        if (reason in NEVER or reason.endswith(NEVER_ENDS)) and not self._jobs.has_begun:  # else it may pass
            self._cancel()
            raise cannot_start(f"Slurm says {reason}", self._jobs.config)
        now = time.monotonic()
        if reason == "BeginTime":
            if now - self._hastened > HASTEN_SECONDS:
                self._hastened = now
                self._jobs.queue.hasten(self._job.id)
            return
        is_late = now - self._since > SILENT_SECONDS
        if is_late and reason not in {"None", *self._jobs.reasons}:
            self._jobs.reasons.add(reason)
            self._reports.reporter.say(f"Job {self._job.id} waits in Slurm's queue: {reason}.")

    @property
    def _log(self) -> Path:
        return self._reports.folder / LOGS / f"{self._job.id}_0_log.out"

    def _last_line(self) -> str:
        """Returns the last line of the job's log, or the last one that speaks of its memory; empty without one."""
        with suppress(OSError):
            lines = [
                line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
            ]
            lines = [line for line in lines if OUT_OF_MEMORY.search(line)] or lines
            return one_line(lines[-1]) if lines else ""
        return ""

    def _cannot_begin(self, job: SlurmJob) -> UserError:
        if not self._log.exists():
            folder = str(self._reports.folder.parent.parent)
            rule = f"tracking.journal must be a folder that the nodes see under the same path ({job}, without a log)"
            return ConfigError(rule, folder, "for example tracking.journal=/shared/journal")
        last = self._last_line() or "its log is empty"
        rule = f"a job must be able to start Python and sweepstack ({job}): {last}"
        return ConfigError(rule, remedy="install the same environment on the nodes; engine.setup can prepare a job")
