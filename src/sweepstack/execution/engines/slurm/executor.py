"""Trains stacks in jobs of Slurm, one job for each. Reports and checkpoints go through the folder of the journal."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from sweepstack.config.run_sections import EngineConfig
from sweepstack.errors import UserError
from sweepstack.execution.assignment import Assignment, Reporter
from sweepstack.execution.engines.channel import (
    ASSIGNMENT,
    CONTROL,
    Reports,
    ask_to_stop,
    work_folder,
    write_assignment,
)
from sweepstack.execution.engines.slurm.handle import Jobs, SlurmHandle, Submitted
from sweepstack.execution.engines.slurm.queue import SlurmJob, SlurmQueue
from sweepstack.execution.engines.slurm.submission import (
    UnansweredError,
    can_begin,
    check_config,
    job_name,
    submit,
    wait_for_sbatch,
)
from sweepstack.execution.executor import Handle
from sweepstack.execution.signals import StoppedByHand

MAX_JOBS = 100
"""The most jobs that are submitted at once if `engine.workers` does not say how many."""
CONTROL_SECONDS = 0.5
"""Seconds between two looks of a worker at the control file, which is on a shared disk."""
ANSWER_SECONDS = 300.0
"""Seconds until Slurm must have said which jobs of an earlier command there are."""
SBATCH_SECONDS = 30.0
"""Seconds that a command waits at its end for an sbatch that is under way."""
CLOSE_SECONDS = 60.0
"""Seconds until jobs that were cancelled must have ended; Slurm kills them after half a minute."""


class SlurmExecutor:
    """Trains stacks in jobs of Slurm.

    Args:
        journal: the folder of the journal, which the nodes must see under the same path.
        config: what each job asks for.

    Raises:
        ConfigError: see `check_config`.
    """

    def __init__(self, journal: Path, config: EngineConfig) -> None:
        check_config(config)
        self.workers = config.workers or MAX_JOBS
        self._journal, self._config = journal, config
        self._say: Callable[[str], None] = print
        self._jobs = Jobs(config, SlurmQueue(lambda line: self._say(line)))
        self._earlier: Sequence[SlurmJob] | None = None
        """The jobs that there were when the first one of an earlier command was asked for."""
        self._is_left = False

    @property
    def kind_of_machine(self) -> str:
        """See `MeasuringExecutor`."""
        asked = f"{self._config.gpus_per_worker or 0:g} GPUs, {self._config.cores or 1} cores"
        return f"Slurm, partition {self._config.partition or 'of its own choice'}, {asked}"

    def submit(self, assignment: Assignment, reporter: Reporter) -> Handle:
        """See `Executor`. The job may wait in Slurm's queue for long."""
        self._say, stack = reporter.say, assignment.stack
        folder = work_folder(self._journal, stack.id)
        write_assignment(assignment, folder, self._config.lease, CONTROL_SECONDS)
        self._jobs.cancelled.add(job_name(stack.id))  # until it is known that there is a job and who sees to it
        try:
            job = Submitted(submit(folder, stack.id, self._config))
        except UnansweredError as error:
            job = Submitted("", str(error))
        except UserError:
            self._jobs.cancelled.discard(job_name(stack.id))
            raise
        self._jobs.cancelled.discard(job_name(stack.id))
        return SlurmHandle(Reports(folder, stack, reporter), self._jobs, job)

    def reattach(self, assignment: Assignment, reporter: Reporter) -> Handle | None:
        """See `LastingExecutor`. The first call that needs it waits until Slurm answers.

        Raises:
            UserError: Slurm does not.
        """
        self._say, stack = reporter.say, assignment.stack
        folder, name = work_folder(self._journal, stack.id), job_name(stack.id)
        if not folder.is_dir():
            return None
        if self._earlier is None:
            self._earlier = self._jobs.queue.wait(lambda jobs: True, ANSWER_SECONDS)
        if self._earlier is None:
            self._is_left = True
            rule = f"Slurm must say which jobs go on, squeue has not answered for {ANSWER_SECONDS:g} s"
            raise UserError(rule, remedy="type the same command again when `squeue --me` answers")
        found = [job.id for job in self._earlier if job.name == name and not job.has_ended]
        if found and can_begin(folder, found[-1]) and _does(assignment, folder):
            reporter.say(f"{stack.trials[0].name}: job {found[-1]} of Slurm goes on.")
            return SlurmHandle(Reports(folder, stack, reporter), self._jobs, Submitted(found[-1]))
        if found:
            self._jobs.queue.cancel(f"--name={name}")
        return None

    def end_workers(self, stacks: Collection[str]) -> None:
        """See `LastingExecutor`; `close` waits for them."""
        for stack in stacks:
            folder = work_folder(self._journal, stack)
            if folder.is_dir():
                ask_to_stop(folder, "the command was ended")
                self._jobs.cancelled.add(job_name(stack))

    def leaves_workers(self, error: BaseException) -> bool:
        """See `LastingExecutor`."""
        is_left = self._config.detach and isinstance(error, KeyboardInterrupt) and not isinstance(error, StoppedByHand)
        if is_left and self._jobs.unended:
            self._say(
                f"{len(self._jobs.unended)} jobs go on in Slurm; type the same command again to read their results."
            )
        self._is_left = self._is_left or is_left
        return self._is_left

    def close(self) -> None:
        """See `Executor`; it returns when none of its jobs runs any more, unless they are left to Slurm."""
        names = {*self._jobs.cancelled, *([] if self._is_left else map(job_name, self._jobs.unended))}
        try:
            if names:
                wait_for_sbatch(SBATCH_SECONDS)
            for name in names:
                self._jobs.queue.cancel(f"--name={name}")
            if names and self._jobs.queue.wait(lambda jobs: not names & _running(jobs), CLOSE_SECONDS) is None:
                self._say("Slurm does not say that all jobs have ended; `squeue --me` shows those that run.")
        finally:
            self._jobs.queue.close()


def _running(jobs: Sequence[SlurmJob]) -> set[str]:
    """Returns the names of jobs that have not ended."""
    return {job.name for job in jobs if not job.has_ended}


def _does(assignment: Assignment, folder: Path) -> bool:
    """True if the worker of a folder does an assignment whole: nobody has asked it to stop, or to stop a trial."""
    with suppress(OSError, ValueError):
        control = json.loads((folder / CONTROL).read_text(encoding="utf-8"))
        known = json.loads((folder / ASSIGNMENT).read_text(encoding="utf-8"))
        return not control.get("stop") and not control.get("trials") and assignment.wanted <= {*known["wanted"]}
    return False
