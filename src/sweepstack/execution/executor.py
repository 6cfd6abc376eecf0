"""Who trains the stacks of a plan: the protocol, and the executor that trains in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from sweepstack.execution.assignment import Assignment, Parts, Reporter
from sweepstack.execution.worker import choose_settings, run_stack
from sweepstack.trial import StackSettings, Trial

InJob = Callable[[Trial], AbstractContextManager[None]]
"""Returns a context in which a user's code runs as in the Hydra job of that trial."""


def no_job(trial: Trial) -> AbstractContextManager[None]:
    """Returns an empty context, for trials that belong to no Hydra job."""
    return nullcontext()


class Executor(Protocol):
    """Trains stacks, and chooses the best settings for the machine where it trains them."""

    def choose_settings(self, trials: Sequence[Trial], wait_for_quiet: Callable[[], None] | None) -> StackSettings:
        """Chooses how the trajectories of some trials are trained best.

        Args:
            trials: one trial of each trajectory; they could be one stack.
            wait_for_quiet: called before anything is timed. None for a dry run, which also estimates the time and
                writes nothing.
        """

    def train(self, assignment: Assignment, reporter: Reporter) -> Parts | None:
        """Trains a stack; see `worker.run_stack`."""


class InProcessExecutor:
    """Trains one stack after the other in this process."""

    def __init__(self, in_job: InJob = no_job) -> None:
        self._in_job = in_job

    def choose_settings(self, trials: Sequence[Trial], wait_for_quiet: Callable[[], None] | None) -> StackSettings:
        """See `Executor`."""
        with self._in_job(trials[0]):
            return choose_settings(trials, wait_for_quiet)

    def train(self, assignment: Assignment, reporter: Reporter) -> Parts | None:
        """See `Executor`."""
        return run_stack(assignment, reporter)
