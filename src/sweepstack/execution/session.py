"""One session: what it may train, and where the events of its trials go: to the journal first, then to the listeners.

A process beside reads the journal and records it in MLflow.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import BaseFileLock

from sweepstack.config.schema import RunConfig
from sweepstack.errors import StoreError
from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.execution.assignment import Assignment, Parts
from sweepstack.execution.listener import Listener
from sweepstack.execution.progress import Display
from sweepstack.execution.records import ledger_of, note_closed
from sweepstack.execution.work import Work, lookup_settled, taken, work_for
from sweepstack.journal.files import keep_file
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.log import Journal
from sweepstack.journal.replay import Replay
from sweepstack.planning.classify import Resume, Reuse, Train
from sweepstack.planning.known_trials import Composition, Entry
from sweepstack.planning.plan import Stack
from sweepstack.tracking.experiments import experiment_name
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process
from sweepstack.trial import Outcome, Trial, TrialState, Verdict

Lacking = Callable[[Trial, Outcome, Path | None], Sequence[Path]]
"""Takes a settled trial and the folder of its files, where that is on this machine; gives further files."""
LAST_WORDS = 1.0
"""Seconds that an interrupted command waits for its records to be delivered; the process beside goes on by itself."""


class Session:
    """The session of a command, while it trains: the `Reporter` of the workers that train for it. See `open_session`.

    Args:
        number: of the session in the ledger.
        listeners: hear of every event once it is in the journal.
        max_failures: so many trials that fail stop the training.
    """

    def __init__(
        self,
        ledger: Ledger,
        number: int,
        store: Store,
        listeners: Sequence[Listener],
        max_failures: int | None = None,
    ) -> None:
        self._ledger, self._number, self._store = ledger, number, store
        self._listeners, self._max_failures = listeners, max_failures
        self.outcomes: dict[str, Outcome] = {}
        """Of the trials that were trained, by fingerprint."""
        self._failures = 0
        self.journal = Journal(ledger.journal(number))
        self.fold = Replay()
        self._mine: dict[str, Entry] = {}

    def claim(self, trials: Sequence[Trial], rerun: bool, lacking: Lacking = lambda *_: ()) -> Work:
        """Takes what nobody else trains and nobody has trained.

        Args:
            trials: of different fingerprints.
            rerun: train what is settled, too.
            lacking: makes what is asked for of a settled trial and its record lacks.
        """
        trials = [trial if trial.id else replace(trial, id=secrets.token_hex(8)) for trial in trials]
        known = self._ledger.claim(self._number, trials, rerun)
        work = work_for(trials, known, self._ledger, self._store, self._number, rerun)
        for one in work.decisions:
            match one:
                case Train(entry):
                    self._take(entry)
                case Resume():
                    for entry in taken(one, self._number).values():
                        self._take(entry)
        reused = [one for one in work.decisions if isinstance(one, Reuse)]
        for one, (trial, outcome, files) in zip(reused, work.settled, strict=True):
            run_id = None if one.in_ledger or one.finished is None else one.finished.run_id
            self._join(trial, run_id, lacking(trial, outcome, files))
        self._ledger.release(self._number, [one.trial for one in reused if not one.in_ledger])
        return work

    def _take(self, entry: Entry) -> None:
        self._mine[entry.trial.id] = entry
        self.journal.not_before(entry.at)

    def _join(self, trial: Trial, run_id: str | None, lacking: Sequence[Path]) -> None:
        folder = self._ledger.files(f"{trial.id}-{self._number}")  # that of the trial alone ends with its own delivery
        files: tuple[Path, ...] = ()
        with contextlib.suppress(OSError):  # what cannot be kept is asked for again by the next command
            files = tuple(keep_file(folder, file) for file in lacking)
        if trial.sweep is not None or files:
            self.fold.take(self.journal.put(Joined(trial, time.time(), run_id, files)))

    def keep_plan(self, stacks: Sequence[Stack]) -> list[Stack]:
        """Keeps how trials are composed, before the first of them trains; gives the stacks as they are known then."""
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

    def assign(self, stack: Stack, device: str) -> Assignment:
        """What a worker needs to train a stack.

        Args:
            device: the kind of device that it will train on. The ledger notes it when the stack began on another.
        """
        if stack.device not in ("", device):
            stack = replace(stack, note=f"it began on {stack.device} and went on on {device}")
            self._ledger.recompose(_composition(stack))
        wanted = frozenset(trial.id for trial in stack.trials if self.owns(trial))
        unsettled = any(trial.id not in wanted and not self._is_settled(trial) for trial in stack.trials)
        return Assignment(stack, wanted, self._ledger.checkpoints(stack.id), stack.keep or unsettled)

    def split(self, stack: Stack, parts: Parts, device: str) -> list[Stack]:
        """Makes several stacks of one. Each is resumed from its checkpoint, but for those of a single trajectory: the
        plain trainer begins again.

        Args:
            device: the kind of device that they train on.

        Returns:
            Those with something left to train. What has failed already is kept apart, for a later command.
        """
        choice = replace(stack.choice, reason=parts.note)
        ended = {*range(len(stack.trajectories))} - {place for part in parts.places for place in part}
        failed = [
            (place,) for place in sorted(ended) if not all(map(self._is_settled, stack.trajectories[place].trials))
        ]
        pieces = [
            Stack(
                tuple(stack.trajectories[place] for place in part),
                replace(choice, width=len(part)),
                secrets.token_hex(8),
                stack.keep,
                parts.note,
                device,
            )
            for part in (*parts.places, *failed)
        ]
        checkpoints = self._ledger.checkpoints
        for piece in pieces:
            folder = checkpoints(piece.id)
            with contextlib.suppress(OSError):  # on a full disk they begin again
                for file in checkpoints(stack.id).glob("*.pt") if len(piece.trajectories) > 1 else ():
                    folder.mkdir(parents=True, exist_ok=True)
                    os.link(file, folder / file.name)
        return self.keep_plan(pieces)[: len(parts.places)]

    def owns(self, trial: Trial) -> bool:
        """Whether the trial is this session's to train, and has not ended yet."""
        known = self.fold.progress.get(trial.id)
        return trial.id in self._mine and (known is None or known.outcome is None)

    def _is_settled(self, trial: Trial) -> bool:
        """Whether nothing is left to do for the trial, as far as this session can do it."""
        known = self.fold.progress.get(trial.id)
        outcome = known.outcome if known is not None else None
        return trial.id not in self._mine or (outcome is not None and outcome.settled)

    def emit(self, event: Event) -> Verdict:
        """Takes an event of a trial. What is recorded already, by this session or the one that left the trial, is not
        recorded again: a trial that is resumed from a checkpoint passes there a second time."""
        trial = event.trial
        if not self.owns(trial):
            return Verdict.CONTINUE
        entry = self._mine[trial.id]
        match event:
            case Started() if trial.id in self.fold.progress:
                return Verdict.CONTINUE
            case Started():
                event = replace(event, again=entry.begun)
            case Measured() if event.measurement.step <= self._measured(trial):
                self._announce(event)
                return Verdict.CONTINUE
            case Ended():
                with contextlib.suppress(OSError):  # else they are taken from where they are
                    files = tuple(keep_file(self._ledger.files(trial.id), file) for file in event.files)
                    event = replace(event, files=files)
        event = self.journal.put(event)
        self.fold.take(event)
        if isinstance(event, Ended):
            self.outcomes[trial.fingerprint] = event.outcome
            self._failures += event.outcome.state is TrialState.FAILED
        self._announce(event)
        return Verdict.CONTINUE

    def _measured(self, trial: Trial) -> int:
        known = self.fold.progress.get(trial.id)
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

    def announce_plan(self, stacks: Sequence[Stack]) -> None:
        """Tells the listeners which trials will be trained, too."""
        trials = [trial for stack in stacks for trial in stack.trials if self.owns(trial)]
        for listener in self._listeners:
            listener.on_planned(trials)

    def say(self, line: str) -> None:
        """Lets the listeners pass a line to the user."""
        for listener in self._listeners:
            listener.on_message(line)

    def sync(self) -> None:
        """Returns when all events so far are on the disk."""
        self.journal.sync()

    def is_stopping(self) -> bool:
        """Whether so many trials have failed that no other one is to be trained."""
        return self._max_failures is not None and self._failures >= self._max_failures

    def artifacts(self, trial: Trial) -> Path | None:
        """The folder that holds the files of a settled trial's record, if that is on this machine."""
        finished = lookup_settled(self._ledger, self._store, [trial.fingerprint]).finished.get(trial.fingerprint)
        return finished.artifacts if finished is not None else None


@contextlib.contextmanager
def open_session(run: RunConfig, store: Store, task: str, listeners: Sequence[Listener]) -> Iterator[Session]:
    """Opens a session, until all that it records is in the store or, where that cannot be, in the journal.

    Args:
        run: how the trials are trained and recorded.
        task: name of the Hydra task, and of the experiment unless the config names another.
        listeners: hear of what happens to trials, after the terminal has.

    Raises:
        StoreError: the journal cannot be written.
    """
    ledger = ledger_of(store, run.tracking.journal)
    number, lock = ledger.open(experiment_name(run.tracking.experiment, task, store.database))
    process = writer_process(store.uri)
    stopped = True
    with Display() as display:
        session = Session(ledger, number, store, [display, *listeners], run.max_failures)
        ledger.tell(session.say)
        process.open(ledger.folder, number, session.say)
        try:
            yield session
            stopped = False
        finally:
            _end_session(session, ledger, number, lock)
            complaint = process.finish(LAST_WORDS if stopped else None)
            note_closed(ledger, number, complaint, store.uri)
            with contextlib.suppress(StoreError):
                ledger.tell(session.say)
    if complaint is not None and not process.complained:
        process.complained = True  # of the first of many launches
        print(complaint, file=sys.stderr)


def _end_session(session: Session, ledger: Ledger, number: int, lock: BaseFileLock) -> None:
    """If this cannot be done, the next command that trains finds a dead session and does it."""
    with contextlib.suppress(StoreError):
        session.journal.close()  # which is on the disk before the ledger says that it is complete
        ledger.end(number, session.fold, session.journal.lines)
    lock.release()


def peek(trials: Sequence[Trial], store: Store, rerun: bool) -> Work:
    """What `Session.claim` of a new session would give; nothing is claimed or written."""
    ledger = ledger_of(store, trials[0].run.tracking.journal)
    return work_for(trials, ledger.peek(trials), ledger, store, None, rerun)


def _composition(stack: Stack) -> Composition:
    ids = tuple(tuple(trial.id for trial in trajectory.trials) for trajectory in stack.trajectories)
    return Composition(stack.id, ids, vars(stack.choice), stack.device, stack.keep, stack.note)
