"""Who trains the stacks of a plan: the protocol, and the executor that trains in this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sweepstack.execution.assignment import Assignment, Parts, Paused, Reporter
from sweepstack.execution.worker import choose_settings, run_stack
from sweepstack.trial import StackSettings, Trial


@dataclass(frozen=True)
class Trained:
    """A worker has done its assignment."""

    parts: Parts | Paused | None = None
    """The parts into which the stack is to be cut, or what is left of it; None if every wanted trial has ended."""
    settings: tuple[StackSettings, ...] = ()
    """What a worker has measured for each of `Assignment.groups`."""


@dataclass(frozen=True)
class Lost:
    """A worker has ended, or has given no sign of life, before it had done its assignment."""

    reason: str
    """What is known of it, such as "it was killed by signal 9"."""
    blames_stack: bool = True
    """False if the stack cannot have caused that, such as if a queue takes no jobs; it is tried again later."""


class UnreachableError(Exception):
    """What a worker has reported cannot be read now, such as for a shared disk does not answer.

    Args:
        reason: why, in words.
        since: when it could not be read for the first time since it could, as `time.monotonic` counts.
    """

    def __init__(self, reason: str, since: float) -> None:
        super().__init__(reason)
        self.since = since


class Handle(Protocol):
    """A worker that trains a stack."""

    def poll(self) -> Trained | Lost | None:
        """Passes what the worker has reported since the last call to the reporter; returns None while it trains.

        Raises:
            UserError: the worker cannot train anything, such as for its data cannot be obtained.
            UnreachableError: it is not known what the worker has reported; this is called again soon.
        """

    def stop(self) -> None:
        """Asks the worker to save its state and to report its trials as KILLED. Returns at once."""

    def stop_trials(self, trials: Collection[str]) -> None:
        """Asks the worker to end some trials as KILLED at their next measurements. Returns at once.

        Args:
            trials: the ids of all trials of its stack that are to end so.
        """

    def end(self) -> None:
        """Ends the worker now if it still runs. Nothing that it reports later counts."""


class Executor(Protocol):
    """Trains stacks."""

    @property
    def workers(self) -> int:
        """The number of stacks that it trains at once."""

    def submit(self, assignment: Assignment, reporter: Reporter) -> Handle:
        """Begins to train a stack.

        Args:
            assignment: the stack.
            reporter: receives the events of its trials, during calls of this method and of `Handle.poll` only.

        Raises:
            UserError: see `Handle.poll`.
            KeyboardInterrupt: a signal has come.
        """

    def close(self) -> None:
        """Ends everything that it has begun and that may not outlive this command."""


@runtime_checkable
class LastingExecutor(Executor, Protocol):
    """An executor whose workers may go on when the command has ended, and are found by the next one."""

    def reattach(self, assignment: Assignment, reporter: Reporter) -> Handle | None:
        """Returns the handle of a worker that does an assignment already; None if there is none.

        Args:
            assignment: the stack, under the id that it had for an earlier command.
            reporter: see `Executor.submit`; it gets again what the worker has reported so far.
        """

    def end_workers(self, stacks: Collection[str]) -> None:
        """Ends the workers that an earlier command has left. Returns at once.

        Args:
            stacks: the ids of their stacks; those that have no worker, too.
        """

    def leaves_workers(self, error: BaseException) -> bool:
        """Returns whether the workers go on when this error ends the command; `close` then leaves them alone."""


@runtime_checkable
class MeasuringExecutor(Executor, Protocol):
    """An executor whose workers measure, too: `submit` takes assignments with `Assignment.groups`."""

    @property
    def kind_of_machine(self) -> str:
        """Names the machines of its workers, such as by an address. What was measured there is remembered under it."""


@runtime_checkable
class NotifiedExecutor(Executor, Protocol):
    """An executor that is told when a worker has ended or has done its assignment, so that it need not be polled."""

    def wait(self, seconds: float) -> None:
        """Returns when it was told so; after some seconds at the latest."""


@dataclass(frozen=True)
class Done:
    """The handle of a stack that is trained already."""

    result: Trained | Lost

    def poll(self) -> Trained | Lost | None:
        """See `Handle`."""
        return self.result

    def stop(self) -> None:
        """See `Handle`."""

    def stop_trials(self, trials: Collection[str]) -> None:
        """See `Handle`."""

    def end(self) -> None:
        """See `Handle`."""


class InProcessExecutor:
    """Trains one stack after the other in this process."""

    workers = 1

    def in_job(self, trial: Trial) -> AbstractContextManager[None]:
        """Gives a context in which a user's code finds what it finds in the job of a trial; here there is no job."""
        return nullcontext()

    def choose_settings(
        self,
        trials: Sequence[Trial],
        wait_for_quiet: Callable[[], None] | None,
        estimate: bool = False,
        beside: tuple[int, int] | None = None,
    ) -> StackSettings:
        """Chooses how the trajectories of some trials are trained best on this machine; see `worker.choose_settings`.

        Args:
            trials: one trial of each trajectory; they could be one stack.
            wait_for_quiet: called before anything is timed. None for a dry run, which also estimates the time and
                writes nothing.
            estimate: estimate the time of an epoch even if there is only one way to train.
            beside: the threads of each worker and the number of workers that can train these trajectories side by side;
                None: one stack after the other.
        """
        with self.in_job(trials[0]):
            return choose_settings(trials, wait_for_quiet, estimate, beside)

    def submit(self, assignment: Assignment, reporter: Reporter) -> Handle:
        """See `Executor`; it returns when the stack is trained."""
        return Done(Trained(self.train(assignment, reporter)))

    def close(self) -> None:
        """See `Executor`."""

    def train(self, assignment: Assignment, reporter: Reporter) -> Parts | Paused | None:
        """Trains a stack; see `worker.run_stack`."""
        return run_stack(assignment, reporter)

    def train_in_worker(self, assignment: Assignment, reporter: Reporter) -> Parts | Paused | None:
        """Trains a stack in a process that was forked from this one."""
        return run_stack(assignment, reporter)
