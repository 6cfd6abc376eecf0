"""One session: claims trials, and writes their events first to the journal and then to the listeners.

The writer's process reads the journal and records it in MLflow.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import BaseFileLock

from sweepstack.config.run_sections import PrunerConfig
from sweepstack.config.schema import RunConfig
from sweepstack.errors import StoreError, count
from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.execution.assignment import Assignment, Parts, Paused
from sweepstack.execution.control.follow import Requests
from sweepstack.execution.listener import Listener
from sweepstack.execution.open_store import ledger_of
from sweepstack.execution.progress import Display
from sweepstack.execution.remaining_work import Work, claimed_members, lookup_settled, work_for
from sweepstack.execution.signals import interrupt
from sweepstack.execution.undelivered import note_closed
from sweepstack.journal.files import keep_file
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.log import Journal
from sweepstack.journal.replay import Replay
from sweepstack.journal.stack_states import StackStates
from sweepstack.planning.classify import Resume, Reuse, Train
from sweepstack.planning.known_trials import Composition, Entry
from sweepstack.planning.plan import Stack, Trajectory, unite
from sweepstack.search.standings import Standings
from sweepstack.tracking.experiments import experiment_name
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process
from sweepstack.trial import Outcome, Trial, TrialState, Verdict

MissingFiles = Callable[[Sequence[tuple[Trial, Outcome, Path | None]]], Iterable[Sequence[Path]]]
"""Takes settled trials, each with its outcome and the folder of its files if that is on this machine; yields further
files for each."""
INTERRUPTED_WAIT = 1.0
"""Seconds that an interrupted command waits until its records are delivered; the writer's process goes on alone."""


class Session:
    """The session of a command while it trains: the `Reporter` of its workers. See `open_session`.

    Args:
        number: the number of the session in the ledger.
        listeners: receive every event after it was written to the journal.
        max_failures: the number of failed trials that stops the training; None for no limit.
        requests: what other terminals ask for; None: nothing.
        standings: what is known for the pruner of the sweep; None without one.
    """

    def __init__(
        self,
        ledger: Ledger,
        number: int,
        store: Store,
        listeners: Sequence[Listener],
        max_failures: int | None = None,
        requests: Requests | None = None,
        standings: Standings | None = None,
    ) -> None:
        self._ledger, self._number, self._store = ledger, number, store
        self._states = StackStates(ledger.checkpoints)
        self._listeners, self._max_failures = listeners, max_failures
        self.outcomes: dict[str, Outcome] = {}
        """The outcomes of the trials that were trained, by fingerprint."""
        self.left_out: dict[str, str] = {}
        """Why trials were not trained, by fingerprint: somebody has stopped them before they began."""
        self._stopped = {} if requests is None else requests.stopped
        self._failures = 0
        self.journal = Journal(ledger.journal(number))
        self.replay = Replay()
        self._mine: dict[str, Entry] = {}
        self._standings = standings or Standings(PrunerConfig())
        self._workers = 1
        self._paused: list[tuple[Stack, Paused]] = []
        """Stacks, and what the pruner has left of each."""

    def claim(self, trials: Sequence[Trial], rerun: bool, missing_files: MissingFiles | None = None) -> Work:
        """Claims the trials that are not settled and that no other session trains.

        Args:
            trials: no two have the same fingerprint.
            rerun: train settled trials, too.
            missing_files: makes the files that settled trials ask for and their records lack.
        """
        trials = [trial if trial.id else replace(trial, id=secrets.token_hex(8)) for trial in trials]
        _add(self._standings, trials, self._ledger, self._store)
        known = self._ledger.claim(self._number, trials, rerun, self._standings.judge)
        work = work_for(trials, known, self._ledger, self._store, self._number, rerun)
        for one in work.decisions:
            match one:
                case Train(entry):
                    self._take(entry)
                    if rerun:
                        self._standings.forget(entry.trial)
                case Resume():
                    for entry in claimed_members(one, self._number).values():
                        self._take(entry)
        for continued in work.continued:
            self._states.give(continued.state, continued.stack)
        reused = [one for one in work.decisions if isinstance(one, Reuse)]
        for one in reused:
            self._standings.end(one.trial, one.outcome)
        made = missing_files(work.settled) if missing_files is not None else [()] * len(reused)
        for one, (trial, _, _), files in zip(reused, work.settled, made, strict=True):
            run_id = None if one.in_ledger or one.finished is None else one.finished.run_id
            self._join(trial, run_id, files)
        self._ledger.release(self._number, [one.trial for one in reused if not one.in_ledger])
        return work

    def _take(self, entry: Entry) -> None:
        self._mine[entry.trial.id] = entry
        self.journal.not_before(entry.at)

    def _join(self, trial: Trial, run_id: str | None, made: Sequence[Path]) -> None:
        """Records that a settled trial is one of this sweep, and the files that were made for it."""
        folder = self._ledger.files(f"{trial.id}-{self._number}")  # the trial's own folder may be deleted before
        files: tuple[Path, ...] = ()
        with contextlib.suppress(OSError):  # the next command makes files again that could not be kept
            files = tuple(keep_file(folder, file) for file in made)
        if trial.sweep is not None or files:
            self.replay.take(self.journal.put(Joined(trial, time.time(), run_id, files)))

    def keep_plan(self, stacks: Sequence[Stack]) -> list[Stack]:
        """Stores how trials are composed into stacks, before the first of them trains; returns the stacks with ids."""
        lost = "resumed outside the stack that it started in (the record of that stack is lost)"
        kept = [
            replace(
                stack, id=stack.id or secrets.token_hex(8), note=stack.note or (lost if self._has_begun(stack) else "")
            )
            for stack in stacks
        ]
        self._ledger.plan(self._number, [_composition(stack) for stack in kept])
        return kept

    def _has_begun(self, stack: Stack) -> bool:
        return any(self._mine[trial.id].begun for trial in stack.trials if trial.id in self._mine)

    def assign(self, stack: Stack, device: str, more: bool) -> Assignment:
        """Returns what a worker needs to train a stack.

        Args:
            more: True if other stacks train, or will, with which what is left of this one can go on.
            device: the kind of device that it will train on. If the stack began on another one, the ledger notes it.
        """
        if stack.device not in ("", device):
            stack = replace(stack, note=f"it began on {stack.device} and was resumed on {device}")
            self._ledger.recompose(_composition(stack))
        wanted = frozenset(trial.id for trial in stack.trials if self.owns(trial))
        unsettled = any(trial.id not in wanted and not self._is_settled(trial) for trial in stack.trials)
        keep = stack.keep or unsettled
        checkpoints, known = self._ledger.checkpoints(stack.id), self._standings.known()
        return Assignment(stack, wanted, checkpoints, keep, known, pauses=more or self.paused > 0)

    @property
    def paused(self) -> int:
        """The number of trials that wait for what others reach at the rungs of the pruner."""
        return sum(len(left.ends) for _, left in self._paused)

    def pause(self, stack: Stack, left: Paused) -> None:
        """Takes what a pruner has left of a stack. See `go_on`.

        Args:
            stack: the stack.
            left: those of its trials that are left.
        """
        left = replace(left, ends=tuple(end for end in left.ends if self.owns(end.trial)))
        self._paused.append((stack, left))
        for end in left.ends:
            self._standings.pause(end)
            for listener in self._listeners:
                listener.on_paused(end)

    def go_on(self) -> list[Stack]:
        """Decides which of the paused trials go on, by what is known now of their rungs; these train together, from
        where they stand.

        Returns:
            Their stacks.
        """
        paused, self._paused = self._paused, []
        ends = [end for _, left in paused for end in left.ends]
        pruned = {end.trial.id: end for end in self._standings.judge_paused(ends)}
        stopped = {end.trial.id: self._killed(end, "stopped") for end in ends if end.trial.id in self._stopped}
        for end in {**pruned, **stopped}.values():
            self.emit(replace(end, at=time.time()))
        going: dict[int, list[tuple[Stack, set[str]]]] = {}
        for stack, left in paused:
            if ids := {end.trial.id for end in left.ends if self.owns(end.trial)}:
                going.setdefault(left.step, []).append((stack, ids))
        united: list[Stack] = []
        for _, group in sorted(going.items()):
            for stack in unite(group):
                stack = replace(stack, id=secrets.token_hex(8))
                members = {trial.id for trial in stack.trials}
                self._states.give_parts([one for one, ids in group if ids & members], stack)
                united.append(stack)
        self.sync()  # what has ended must be known after a power cut, for its state is removed
        self._ledger.plan(self._number, [_composition(stack) for stack in united])
        for stack, left in paused:
            if not any(end.trial.id in stopped for end in left.ends):
                self._states.remove(stack)
        for listener in self._listeners:
            listener.on_stacks(united, self._workers)
        if ends:
            number = sum(len(stack.trials) for stack in united)
            verb = "goes" if len(ends) == 1 else "go"
            where = f", in {count(len(united), 'stack')}" if united else ""
            self.say(f"{self._standings.pruner}: {number} of {count(len(ends), 'paused trial')} {verb} on{where}")
        return united

    def stop_paused(self, reason: str) -> None:
        """Ends the paused trials as KILLED. The same command resumes them.

        Args:
            reason: why.
        """
        paused, self._paused = self._paused, []
        for end in (end for _, left in paused for end in left.ends):
            self.emit(self._killed(end, reason))

    @staticmethod
    def _killed(end: Ended, reason: str) -> Ended:
        """Returns the end of a paused trial that is stopped."""
        return Ended(end.trial, Outcome(TrialState.KILLED, reason=reason), time.time())

    def split(self, stack: Stack, parts: Parts, device: str) -> list[Stack]:
        """Replaces a stack by several ones, which resume from its checkpoint.

        A stack of a single trajectory begins from scratch, because the plain trainer cannot read that checkpoint.

        Args:
            device: the kind of device that they train on.

        Returns:
            The stacks that are still to train. Failed trajectories get stacks of their own, for a later command.
        """
        choice = replace(stack.choice, reason=parts.note)
        ended = {*range(len(stack.trajectories))} - {index for part in parts.indices for index in part}
        failed = [
            (index,) for index in sorted(ended) if not all(map(self._is_settled, stack.trajectories[index].trials))
        ]
        pieces = [
            Stack(
                tuple(stack.trajectories[index] for index in part),
                replace(choice, width=len(part)),
                secrets.token_hex(8),
                stack.keep,
                parts.note,
                device,
            )
            for part in (*parts.indices, *failed)
        ]
        for piece in pieces:
            if len(piece.trajectories) > 1:
                self._states.give(stack, piece)
        return self.keep_plan(pieces)[: len(parts.indices)]

    def renewed(self, stack: Stack) -> Stack:
        """Returns a stack with a new id, which has the checkpoints that the stack has now. See `keep_renewed`."""
        renewed = replace(stack, id=secrets.token_hex(8))
        self._states.give(stack, renewed)
        return renewed

    def keep_renewed(self, stack: Stack) -> None:
        """Stores a renewed stack in place of the old one."""
        self._ledger.plan(self._number, [_composition(stack)])

    @property
    def journal_folder(self) -> Path:
        """The folder of the journal, with all that belongs to it."""
        return self._ledger.folder

    def forget_work(self, stack: Stack) -> None:
        """Deletes what a worker has reported of a stack; the journal has it."""
        shutil.rmtree(self._ledger.work(stack.id), ignore_errors=True)

    def has_begun(self, trial: Trial) -> bool:
        """True if this session trains a trial and has recorded that it has begun."""
        return self.owns(trial) and trial.id in self.replay.progress

    def measured(self, stack: Stack) -> int:
        """Returns the sum of the last steps that the trials of a stack have metrics of."""
        return sum(self._measured(trial) for trial in stack.trials if trial.id in self._mine)

    def owns(self, trial: Trial) -> bool:
        """True if this session has claimed a trial, and the trial has not ended."""
        known = self.replay.progress.get(trial.id)
        return trial.id in self._mine and (known is None or known.outcome is None)

    def _is_settled(self, trial: Trial) -> bool:
        """True if this session has nothing left to do for a trial."""
        known = self.replay.progress.get(trial.id)
        outcome = known.outcome if known is not None else None
        return trial.id not in self._mine or (outcome is not None and outcome.final)

    def emit(self, event: Event) -> Verdict:
        """Takes an event of a trial, and writes it to the journal unless it is recorded.

        A trial that is resumed from a checkpoint repeats events that this session, or the one before, has recorded.
        """
        trial = event.trial
        if not self.owns(trial):
            return Verdict.CONTINUE
        entry = self._mine[trial.id]
        match event:
            case Started() if trial.id in self.replay.progress:
                self._announce(replace(event, resumed=True))
                return Verdict.CONTINUE
            case Started():
                event = replace(event, resumed=entry.begun)
            case Measured() if event.measurement.step <= self._measured(trial):
                self._announce(event)
                return self._verdict(trial)
            case Measured():
                self._standings.take(trial, event.measurement, self._measured(trial))
            case Ended():
                event = self._with_reason(event)
                with contextlib.suppress(OSError):  # files that cannot be kept are delivered from the trial's folder
                    files = tuple(keep_file(self._ledger.files(trial.id), file) for file in event.files)
                    event = replace(event, files=files)
        event = self.journal.put(event)
        self.replay.take(event)
        if isinstance(event, Ended):
            self.outcomes[trial.fingerprint] = event.outcome
            self._standings.end(trial, event.outcome)
            self._failures += event.outcome.state is TrialState.FAILED
        self._announce(event)
        return self._verdict(trial)

    def _verdict(self, trial: Trial) -> Verdict:
        return Verdict.STOP if trial.id in self._stopped else Verdict.CONTINUE

    def _with_reason(self, event: Ended) -> Ended:
        """Says in the reason of a trial that was stopped by hand who has stopped it."""
        by, outcome = self._stopped.get(event.trial.id), event.outcome
        if by is None or outcome.state is not TrialState.KILLED:
            return event
        return replace(event, outcome=replace(outcome, reason=f"{outcome.reason} by {by}"))

    def stopped(self, stack: Stack) -> frozenset[str]:
        """Returns the ids of those trials of a stack that have not ended and that somebody has stopped by hand."""
        if not self._stopped:
            return frozenset()
        return frozenset(trial.id for trial in stack.trials if trial.id in self._stopped and self.owns(trial))

    def leave_out(self, stack: Stack) -> bool:
        """Leaves a stack out if all that is left of it was stopped by hand; returns whether it was."""
        left = [trial for trial in stack.trials if self.owns(trial)]
        if not left or len(self.stopped(stack)) < len(left):
            return False
        for trial in left:
            if self.has_begun(trial):
                self.emit(Ended(trial, Outcome(TrialState.KILLED, reason="stopped"), time.time()))
            else:
                self.left_out[trial.fingerprint] = f"not trained, because it was stopped by {self._stopped[trial.id]}"
        return True

    def _measured(self, trial: Trial) -> int:
        known = self.replay.progress.get(trial.id)
        return max(self._mine[trial.id].measured, known.measured if known is not None else 0)

    def _announce(self, event: Event) -> None:
        for listener in self._listeners:
            match event:
                case Started():
                    listener.on_started(event)
                case Measured():
                    listener.on_measured(event)
                case Ended():
                    listener.on_ended(event)

    def announce_plan(self, stacks: Sequence[Stack], workers: int) -> None:
        """Tells the listeners which further trials will be trained.

        Args:
            stacks: their stacks.
            workers: the number of stacks that train at once.
        """
        owned = [self._owned(stack) for stack in stacks]
        self._workers = workers
        for listener in self._listeners:
            listener.on_stacks([stack for stack in owned if stack.trajectories], workers)
            listener.on_planned([trial for stack in owned for trial in stack.trials])

    def _owned(self, stack: Stack) -> Stack:
        """Returns a stack without the trials that this session does not train."""
        kept = (tuple(trial for trial in one.trials if self.owns(trial)) for one in stack.trajectories)
        return replace(stack, trajectories=tuple(map(Trajectory, filter(None, kept))))

    def announce_expected(self, number: int) -> None:
        """Tells the listeners how many trials will be trained in all, if further ones are planned later."""
        for listener in self._listeners:
            listener.on_expected(number)

    def announce_skipped(self, trial: Trial, outcome: Outcome, reason: str) -> None:
        """Tells the listeners the outcome of a trial that this command does not train.

        Args:
            trial: the trial.
            outcome: its outcome.
            reason: why it is not trained.
        """
        for listener in self._listeners:
            listener.on_skipped(trial, outcome, reason)

    def say(self, line: str) -> None:
        """Passes a line for the user to the listeners."""
        for listener in self._listeners:
            listener.on_message(line)

    def sync(self) -> None:
        """Returns when all events so far are on the disk."""
        self.journal.sync()

    def is_stopping(self) -> bool:
        """True if `max_failures` is reached, so that no further trial is trained."""
        return self._max_failures is not None and self._failures >= self._max_failures

    def artifacts(self, trial: Trial) -> Path | None:
        """Returns the folder with the files of a settled trial's record; None if it is not on this machine."""
        finished = lookup_settled(self._ledger, self._store, [trial.fingerprint]).finished.get(trial.fingerprint)
        return finished.artifacts if finished is not None else None


@contextlib.contextmanager
def open_session(
    run: RunConfig,
    store: Store,
    task: str,
    listeners: Sequence[Listener],
    sweep: str | None = None,
    longest: int = 1,
) -> Iterator[Session]:
    """Opens a session for the block. At its end all records are in the store; if that fails, they are in the journal.

    Args:
        run: how the trials are trained and recorded.
        task: the name of the Hydra task, and of the experiment unless the config names another one.
        listeners: receive what happens to trials, after the terminal does.
        sweep: the name of the sweep; None for a single run.
        longest: the most epochs that a trial of the sweep may have.

    Raises:
        StoreError: the journal cannot be written.
    """
    ledger = ledger_of(store, run.tracking.journal)
    number, lock = ledger.open(experiment_name(run.tracking.experiment, task, store.database))
    process = writer_process(store.uri)
    requests = Requests(ledger.control(number), interrupt)
    stopped = True
    with Display() as display:
        standings = _standings_of(ledger.folder, sweep, run.pruner)
        standings.longest = max(standings.longest, longest)
        session = Session(ledger, number, store, [display, requests, *listeners], run.max_failures, requests, standings)
        ledger.show_notes(session.say)
        process.open(ledger.folder, number, session.say)
        try:
            with requests.followed(sweep):
                yield session
            stopped = False
        finally:
            _end_session(session, ledger, number, lock)
            complaint = process.finish(INTERRUPTED_WAIT if stopped else None)
            note_closed(ledger, number, complaint, store.uri)
            with contextlib.suppress(StoreError):
                ledger.show_notes(session.say)
    if complaint is not None and not process.complained:
        process.complained = True  # only the first of many launches prints it
        print(complaint, file=sys.stderr)


@functools.cache
def _standings_of(folder: Path, sweep: str | None, pruner: PrunerConfig) -> Standings:
    """Returns what is known for the pruner of a sweep. A sweeper may launch the trials of a sweep in several sessions.

    Args:
        folder: the folder of the ledger.
        sweep: the name of the sweep.
        pruner: the pruner.
    """
    return Standings(pruner)


def _end_session(session: Session, ledger: Ledger, number: int, lock: BaseFileLock) -> None:
    """Ends a session. If that fails, the next command that trains finds a dead session and ends it."""
    with contextlib.suppress(StoreError):
        session.journal.close()  # the journal is on the disk before the ledger says that it is complete
        ledger.end(number, session.replay, session.journal.lines)
    lock.release()


def peek(trials: Sequence[Trial], store: Store, rerun: bool, longest: int = 1) -> Work:
    """Returns what `Session.claim` of a new session would. Claims and writes nothing.

    Args:
        trials: no two have the same fingerprint.
        rerun: train settled trials, too.
        longest: the most epochs that a trial of the sweep may have.
    """
    ledger = ledger_of(store, trials[0].run.tracking.journal)
    standings = Standings(trials[0].run.pruner, longest)
    _add(standings, trials, ledger, store)
    return work_for(trials, ledger.peek(trials, standings.judge), ledger, store, None, rerun)


def _add(standings: Standings, trials: Sequence[Trial], ledger: Ledger, store: Store) -> None:
    """Adds trials, and what the store knows of them, to what a pruner decides by."""
    standings.add(trials)
    if standings.prunes:
        finished = lookup_settled(ledger, store, [trial.fingerprint for trial in trials]).finished
        for trial in (trial for trial in trials if trial.fingerprint in finished):
            standings.end(trial, finished[trial.fingerprint].outcome)


def _composition(stack: Stack) -> Composition:
    ids = tuple(tuple(trial.id for trial in trajectory.trials) for trajectory in stack.trajectories)
    return Composition(stack.id, ids, vars(stack.choice), stack.device, stack.keep, stack.note)
