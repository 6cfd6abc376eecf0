"""Who trains the stacks of a plan: the protocol, and the executor that trains in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from sweepstack.execution.assignment import Assignment, Parts, Reporter
from sweepstack.execution.worker import choose_settings, run_stack
from sweepstack.trial import StackSettings, Trial


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

    def in_job(self, trial: Trial) -> AbstractContextManager[None]:
        """Gives a context in which a user's code finds what it finds in the job of a trial; here there is no job."""
        return nullcontext()

    def choose_settings(self, trials: Sequence[Trial], wait_for_quiet: Callable[[], None] | None) -> StackSettings:
        """See `Executor`."""
        with self.in_job(trials[0]):
            return choose_settings(trials, wait_for_quiet)

    def train(self, assignment: Assignment, reporter: Reporter) -> Parts | None:
        """See `Executor`."""
        return run_stack(assignment, reporter)
