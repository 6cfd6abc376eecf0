"""Gives the stacks of a plan to the workers of an executor, until all of them are trained."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweepstack.events import Ended
from sweepstack.execution.assignment import Assignment, Parts, Paused
from sweepstack.execution.engines.channel import UNREACHABLE_SECONDS
from sweepstack.execution.engines.choose import seconds_of
from sweepstack.execution.engines.leftovers import take_over, unreachable
from sweepstack.execution.engines.own import check_handle, check_result
from sweepstack.execution.executor import (
    Executor,
    Handle,
    LastingExecutor,
    Lost,
    NotifiedExecutor,
    Trained,
    UnreachableError,
)
from sweepstack.execution.failures import halves
from sweepstack.execution.prepare import Prepared
from sweepstack.execution.session import Session
from sweepstack.execution.signals import GRACE_SECONDS, deferred_signals
from sweepstack.execution.worker import killed_event
from sweepstack.planning.plan import Stack
from sweepstack.trial import Outcome, TrialState

SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 0.02
"""Seconds between two looks at the workers: short after news, then longer."""
NOTIFIED_PAUSE = 0.05
"""The longest pause if the executor is told when a worker has ended: looks in between only show progress."""
REST = 10
"""Duty cycle: after looks that took t seconds without news, the pause is REST * t if that is longer."""
MAX_LOSSES = 3
"""Workers that a stack may lose. Then it is cut in halves, because its memory may be what ends them; a stack of one
trajectory has failed."""
SHORTEST_DELAY, LONGEST_DELAY = 0.5, 60.0
"""Seconds until a stack that is not to blame for what has ended its worker gets another one: longer each time."""


@dataclass(eq=False)
class Queued:
    """A stack that waits for a worker, or trains."""

    stack: Stack
    has_begun: bool = False
    """True if its trials have begun in a stack that was cut or has paused, or with a worker that was lost."""
    losses: int = 0
    """The workers that it has lost since it has last made progress."""
    delays: int = 0
    """How often it was put off since then."""
    not_before: float = 0.0
    """When it may be given to the next worker, as `time.monotonic` counts."""
    measured: int = 0
    """How far it had got when it lost the last one; see `Session.measured`."""
    stopped: frozenset[str] = frozenset()
    """The trials that its worker was asked to stop."""


class Dispatcher:
    """Trains stacks with the workers of an executor.

    Args:
        session: claims the trials, and receives their events.
        prepared: says which device a stack trains on.
        executor: trains the stacks.
        more: returns whether further stacks may follow after all of these.
    """

    def __init__(
        self, session: Session, prepared: Prepared, executor: Executor, more: Callable[[], bool] = lambda: False
    ) -> None:
        self._session, self._prepared, self._executor, self._more = session, prepared, executor, more
        self._waiting: deque[Queued] = deque()
        self._running: dict[int, tuple[Handle, Queued]] = {}
        self._number = 0
        self._reasons: set[str] = set()
        """Why stacks were put off before they had begun, or reports were not read, as far as the user knows it."""

    def train(self, stacks: Sequence[Stack], refill: Callable[[], Sequence[Stack]] | None = None) -> None:
        """Trains stacks: with several workers those that take longest first.

        Args:
            stacks: the stacks.
            refill: gives further ones when a worker is free and no stack waits; None: there are no others.

        Raises:
            UserError: a worker cannot train anything, or what the workers report cannot be read.
            KeyboardInterrupt: a signal has come; the trials that had begun and not ended were reported as KILLED.
        """
        self._queue(stacks)
        try:
            self._train_all(refill)
        except BaseException as error:
            if not (isinstance(self._executor, LastingExecutor) and self._executor.leaves_workers(error)):
                self._stop_all(error)
            raise

    def _queue(self, stacks: Sequence[Stack]) -> None:
        ordered = sorted(stacks, key=seconds_of, reverse=True) if self._executor.workers > 1 else stacks
        begun = (any(map(self._session.has_begun, stack.trials)) for stack in ordered)  # those that were paused
        self._waiting.extend(Queued(stack, has_begun) for stack, has_begun in zip(ordered, begun, strict=True))

    def _train_all(self, refill: Callable[[], Sequence[Stack]] | None) -> None:
        pause = SHORTEST_PAUSE
        wait: Callable[[float], None] = time.sleep
        most = LONGEST_PAUSE
        if isinstance(self._executor, NotifiedExecutor):
            wait, most = self._executor.wait, NOTIFIED_PAUSE
        asked_to_stop: set[int] = set()
        while True:
            is_free = not self._waiting and len(self._running) < self._executor.workers
            if refill is not None and is_free and not self._session.is_stopping():
                self._queue(refill())
            if not (self._running or self._open()):
                return
            one = next((one for one in self._open() if one.not_before <= time.monotonic()), None)
            is_submitting = one is not None and len(self._running) < self._executor.workers
            if one is not None and is_submitting:  # one at a time: it may take long, and the others report meanwhile
                self._submit(one)
            if self._session.is_stopping():
                self._waiting = deque(waiting for waiting in self._waiting if waiting.has_begun)
                for key in self._running.keys() - asked_to_stop:
                    self._running[key][0].stop()
                    asked_to_stop.add(key)
            for handle, one in self._running.values():
                if (stopped := self._session.stopped(one.stack)) - one.stopped:
                    handle.stop_trials(stopped)
                    one.stopped |= stopped
            with deferred_signals():  # what a worker has reported is taken as a whole
                before, began = self._session.journal.lines, time.monotonic()
                ended = [(key, result) for key, (handle, _) in self._running.items() if (result := self._poll(handle))]
                for key, result in ended:
                    self._end(self._running.pop(key)[1], result)
            news = bool(ended) or self._session.journal.lines > before
            longest = max(most, REST * (time.monotonic() - began))
            pause = SHORTEST_PAUSE if news else min(2 * pause, longest)
            if not (ended or is_submitting):
                wait(pause)

    def _poll(self, handle: Handle) -> Trained | Lost | None:
        """Asks a worker how it has ended. A disk that does not answer is asked again for `UNREACHABLE_SECONDS`."""
        try:
            return check_result(self._executor, handle.poll())
        except UnreachableError as error:
            if time.monotonic() - error.since > UNREACHABLE_SECONDS:
                raise unreachable(self._session.journal_folder, error) from error
            if str(error) not in self._reasons:
                self._reasons.add(str(error))
                minutes = f"{UNREACHABLE_SECONDS / 60:g} minutes"
                self._session.say(f"Reports of workers cannot be read ({error}); that is tried again for {minutes}.")
            return None

    def _open(self) -> list[Queued]:
        """The stacks that are to be given to workers. Trials that have begun must get an end, even while we stop."""
        return [one for one in self._waiting if one.has_begun or not self._session.is_stopping()]

    def _submit(self, one: Queued) -> None:
        handle = self._begin(one)  # until it returns, the stack waits
        self._waiting.remove(one)
        if handle is not None:
            self._number += 1
            self._running[self._number] = (handle, one)

    def _begin(self, one: Queued) -> Handle | None:
        """Returns a worker that trains a stack; None if nothing of it is left to train."""
        device, one.stopped = self._prepared.device_of(one.stack), frozenset()
        if isinstance(self._executor, LastingExecutor) and not (one.losses or one.delays):
            known = self._executor.reattach(self._assign(one, device), self._session)
            if known is not None:
                return check_handle(self._executor, known)
        one.stack = take_over(self._session, one.stack)
        if self._session.leave_out(one.stack):
            return None
        assignment = self._assign(one, device)
        if not assignment.wanted:  # the reports that a lost worker had left have settled all of its trials
            return None
        return check_handle(self._executor, self._executor.submit(assignment, self._session))

    def _assign(self, one: Queued, device: str) -> Assignment:
        others = bool(self._running) or any(waiting is not one for waiting in self._waiting)
        return self._session.assign(one.stack, device, others or self._more())

    def _end(self, one: Queued, result: Trained | Lost) -> None:
        """Takes the result of a worker: what is left of its stack waits again."""
        stack, session = one.stack, self._session
        match result:
            case Trained(None):
                session.forget_work(stack)
            case Trained(Paused() as left):
                session.pause(stack, left)
                session.forget_work(stack)
            case Trained(Parts() as parts):
                pieces = session.split(stack, parts, self._prepared.device_of(stack))
                session.forget_work(stack)
                self._waiting.extendleft(Queued(piece, True) for piece in reversed(pieces))
            case Lost():
                self._take_up(one, result)

    def _take_up(self, one: Queued, lost: Lost) -> None:
        """Lets another worker train a stack that has lost its worker."""
        one.stack = take_over(self._session, one.stack)
        one.has_begun = one.has_begun or any(map(self._session.has_begun, one.stack.trials))
        measured = self._session.measured(one.stack)
        if measured != one.measured:
            one.losses = one.delays = 0
        one.losses, one.measured = one.losses + lost.blames_stack, measured
        open_trials = [trial for trial in one.stack.trials if self._session.owns(trial)]
        if not open_trials or (self._session.is_stopping() and not one.has_begun):
            return
        begun = [trial for trial in open_trials if self._session.has_begun(trial)]
        if self._session.is_stopping() and not lost.blames_stack:
            for trial in begun:
                self._session.emit(killed_event(trial, KeyboardInterrupt("the command was ended")))
            return
        name = open_trials[0].name + (f" and {len(open_trials) - 1} others" if len(open_trials) > 1 else "")
        if not lost.blames_stack:
            one.not_before = time.monotonic() + min(SHORTEST_DELAY * 2 ** min(one.delays, 10), LONGEST_DELAY)
            one.delays += 1
        if one.losses < MAX_LOSSES:
            if begun or lost.blames_stack:
                then = "goes on from the checkpoint" if begun else "is tried"
                self._session.say(f"The worker of {name} was lost: {lost.reason}; another one {then}.")
            elif lost.reason not in self._reasons:
                self._session.say(
                    f"{name} could not begin: {lost.reason}; it is tried again, after longer and longer pauses."
                )
                self._reasons.add(lost.reason)
            self._waiting.appendleft(one)
            return
        why = f"it has lost {one.losses} workers, the last one because {lost.reason}"
        unended = [
            index
            for index, trajectory in enumerate(one.stack.trajectories)
            if any(map(self._session.owns, trajectory.trials))
        ]
        if len(unended) > 1:
            self._session.say(f"{name}: {why}; its trials go on in halves, which need less memory.")
            note = f"a stack of {len(one.stack.trajectories)} failed: {why}"
            pieces = self._session.split(one.stack, Parts(halves(unended), note), self._prepared.device_of(one.stack))
            self._waiting.extendleft(Queued(piece, True) for piece in reversed(pieces))
            return
        for trial in open_trials:
            self._session.emit(Ended(trial, Outcome(TrialState.FAILED, reason=why), time.time()))

    def _stop_all(self, error: BaseException) -> None:
        """Stops all workers: they save their states. Trials that have begun and not ended are reported as KILLED."""
        for handle, _ in self._running.values():
            handle.stop()
        if isinstance(self._executor, LastingExecutor):  # those of an earlier command that were not reattached yet
            self._executor.end_workers([one.stack.id for one in self._waiting])
        stopped: list[Queued] = []
        until = time.monotonic() + GRACE_SECONDS
        while self._running and time.monotonic() < until:
            for key, (handle, _) in [*self._running.items()]:
                if _result_of(handle) is not None:
                    stopped.append(self._running.pop(key)[1])
            time.sleep(SHORTEST_PAUSE)
        for handle, one in self._running.values():
            handle.end()
            stopped.append(one)
        if isinstance(error, KeyboardInterrupt):
            for trial in (trial for one in (*stopped, *self._waiting) for trial in one.stack.trials):
                if self._session.has_begun(trial):
                    self._session.emit(killed_event(trial, error))


def _result_of(handle: Handle) -> Trained | Lost | None:
    try:
        return handle.poll()
    except UnreachableError:
        return None
    except Exception as error:  # the error that stops everything is the one that counts
        return Lost(str(error))
