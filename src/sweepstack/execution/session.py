"""One session: what it may train, and where the events of its trials go: to the terminal, to the journal and, through a
process beside that reads the journal, to MLflow."""

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

from sweepstack.errors import StoreError
from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.execution.progress import Display
from sweepstack.execution.work import Work, lookup_settled, taken, work_for
from sweepstack.files.replacing import check_replaceable
from sweepstack.journal.files import keep_file
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.log import Journal
from sweepstack.journal.replay import Replay
from sweepstack.planning.classify import Resume, Reuse, Train
from sweepstack.planning.known_trials import Composition, Entry
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.tracking.address import journal_folder, sweepstack_command
from sweepstack.tracking.experiments import check_not_deleted, experiment_name
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process
from sweepstack.trial import Outcome, Trial

Lacking = Callable[[Trial, Outcome, Path | None], Sequence[Path]]
"""Takes a settled trial and the folder of its files, where that is on this machine; gives further files."""
LONGEST_WAIT = 5.0
"""Seconds."""
RECORDS_WAIT = "Records are kept in the journal; the next sweep delivers them, or type: "
LAST_WORDS = 1.0
"""Seconds that an interrupted command waits for its records to be delivered; the process beside goes on by itself."""


class Session:
    """The session of a command, while it trains. See `open_session`."""

    def __init__(
        self,
        ledger: Ledger,
        number: int,
        store: Store,
        display: Display,
        ended: Callable[[Trial, Outcome], None],
    ) -> None:
        self.display = display
        self._ledger, self._number, self._store = ledger, number, store
        self._ended = ended
        self.journal = Journal(ledger.journal(number))
        self.fold = Replay()
        self._mine: dict[str, Entry] = {}

    def claim(self, trials: Sequence[Trial], again: bool, lacking: Lacking = lambda *_: ()) -> Work:
        """Takes what nobody else trains and nobody has trained.

        Args:
            trials: of different fingerprints.
            again: train what is settled, too.
            lacking: makes what is asked for of a settled trial and its record lacks.
        """
        trials = [trial if trial.id else replace(trial, id=secrets.token_hex(8)) for trial in trials]
        known = self._ledger.claim(self._number, trials, again)
        work = work_for(trials, known, self._ledger, self._store, self._number, again)
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

    def keep_plan(self, stacks: Sequence[Stack], device: str) -> list[Stack]:
        """Keeps how trials are composed, before the first of them trains; gives the stacks as they are known then."""
        lost = "resumed outside the stack that it started in (the record of that stack is lost)"
        kept = [
            replace(
                stack, id=stack.id or secrets.token_hex(8), note=stack.note or (lost if self._has_begun(stack) else "")
            )
            for stack in stacks
        ]
        self._ledger.plan(self._number, [_composition(stack, device) for stack in kept])
        return kept

    def _has_begun(self, stack: Stack) -> bool:
        return any(self._mine[trial.id].begun for trial in stack.trials if trial.id in self._mine)

    def split(self, stack: Stack, parts: Sequence[Sequence[Trajectory]], device: str, note: str) -> list[Stack]:
        """Several stacks in place of one. Each goes on from its checkpoint, but for those of a single trajectory: the
        plain trainer begins again.

        Returns:
            Those with something left to train. What has failed already is kept apart, for a later command.
        """
        choice = replace(stack.choice, reason=note)
        rest = [one for one in stack.trajectories if not any(one in part for part in parts)]
        failed = [[one] for one in rest if not all(self.is_settled(trial) for trial in one.trials)]
        pieces = [
            Stack(tuple(part), replace(choice, width=len(part)), secrets.token_hex(8), stack.keep, note)
            for part in [*parts, *failed]
        ]
        for piece in pieces:
            folder = self.checkpoints(piece)
            with contextlib.suppress(OSError):  # on a full disk they begin again
                for file in self.checkpoints(stack).glob("*.pt") if len(piece.trajectories) > 1 else ():
                    folder.mkdir(parents=True, exist_ok=True)
                    os.link(file, folder / file.name)
        return self.keep_plan(pieces, device)[: len(parts)]

    def note(self, stack: Stack) -> None:
        """Keeps the note of a stack."""
        self._ledger.recompose(_composition(stack, stack.device))

    def checkpoints(self, stack: Stack) -> Path:
        """The folder for the checkpoints of a stack."""
        return self._ledger.checkpoints(stack.id)

    def owns(self, trial: Trial) -> bool:
        """Whether the trial is this session's to train, and has not ended yet."""
        known = self.fold.progress.get(trial.id)
        return trial.id in self._mine and (known is None or known.outcome is None)

    def outcome(self, trial: Trial) -> Outcome:
        """Of a trial that this session has trained."""
        outcome = self.fold.progress[trial.id].outcome
        assert outcome is not None
        return outcome

    def is_settled(self, trial: Trial) -> bool:
        """Whether nothing is left to do for the trial, as far as this session can do it."""
        known = self.fold.progress.get(trial.id)
        outcome = known.outcome if known is not None else None
        return trial.id not in self._mine or (outcome is not None and outcome.settled)

    def emit(self, event: Event) -> None:
        """Takes an event of a trial. What is recorded already, by this session or the one that left the trial, is not
        recorded again: a trial that goes on from a checkpoint comes by there once more."""
        trial = event.trial
        if not self.owns(trial):
            return
        entry = self._mine[trial.id]
        match event:
            case Started() if trial.id in self.fold.progress:
                return
            case Started():
                event = replace(event, again=entry.begun)
            case Measured() if event.measurement.step <= self._measured(trial):
                self._show(event)
                return
            case Ended():
                with contextlib.suppress(OSError):  # else they are taken from where they are
                    files = tuple(keep_file(self._ledger.files(trial.id), file) for file in event.files)
                    event = replace(event, files=files)
        event = self.journal.put(event)
        self.fold.take(event)
        self._show(event)
        if isinstance(event, Ended):
            self._ended(trial, event.outcome)

    def _measured(self, trial: Trial) -> int:
        known = self.fold.progress.get(trial.id)
        return max(self._mine[trial.id].measured, known.measured if known is not None else 0)

    def _show(self, event: Event) -> None:
        with contextlib.suppress(SystemExit):  # rich's answer to a reader that is gone: `| head`; training goes on
            self.display.show(event)

    def artifacts(self, trial: Trial) -> Path | None:
        """The folder that holds the files of a settled trial's record, if that is on this machine."""
        finished = lookup_settled(self._ledger, self._store, [trial.fingerprint]).finished.get(trial.fingerprint)
        return finished.artifacts if finished is not None else None


@contextlib.contextmanager
def open_session(
    trials: Sequence[Trial], store: Store, task: str, ended: Callable[[Trial, Outcome], None]
) -> Iterator[Session]:
    """Opens a session, until all that it records is in the store or, where that cannot be, in the journal.

    Args:
        task: name of the Hydra task, and of the experiment unless the config names another.
        ended: called with each trial that has been trained and its outcome.

    Raises:
        StoreError: the journal cannot be written.
    """
    tracking = trials[0].run.tracking
    ledger = ledger_of(store, tracking.journal)
    number, lock = ledger.open(experiment_name(tracking.experiment, task, store.database))
    process = writer_process(store.uri)
    stopped = True
    with Display() as display:
        session = Session(ledger, number, store, display, ended)
        ledger.tell(display.say)
        process.open(ledger.folder, number, display.say)
        try:
            yield session
            stopped = False
        finally:
            _end_session(session, ledger, number, lock)
            complaint = process.finish(LAST_WORDS if stopped else None)
            _sessions.append((ledger, number, complaint, store.uri))
            with contextlib.suppress(StoreError):
                ledger.tell(display.say)
    if complaint is not None and not process.complained:
        process.complained = True  # of the first of many launches
        print(complaint, file=sys.stderr)


_sessions: list[tuple[Ledger, int, str | None, str]] = []
"""Those of this process that are over, and what was said of their records at the end."""


def undelivered(store: Store | None = None, journal: str | None = None) -> str | None:
    """What this process has recorded and the store has not received: it waits in the journal. The ledger is asked, so
    the answer is true at the moment of the call, however the delivery ended and whoever delivered.

    Args:
        store: ask for all sessions of this store, too, whatever process trained them, except those that live.
        journal: folder of that store's journal, if the config names one.

    Returns:
        A line for the user; None when everything is in the store.
    """
    for ledger, number, complaint, uri in reversed(_sessions):
        with contextlib.suppress(StoreError):  # a ledger that cannot be read is no proof of delivery
            if not ledger.exists(number):
                continue
        return complaint or f"{RECORDS_WAIT}{sweepstack_command('sync', uri, ledger.folder)}"
    if store is not None:
        try:
            left = ledger_of(store, journal).waiting()
            return f"{RECORDS_WAIT}{sweepstack_command('sync', store.uri, journal)}" if left else None
        except StoreError as error:
            return str(error)
    return None


def _end_session(session: Session, ledger: Ledger, number: int, lock: BaseFileLock) -> None:
    """If this cannot be done, the next command that trains finds a dead session and does it."""
    with contextlib.suppress(StoreError):
        session.journal.close()  # which is on the disk before the ledger says that it is complete
        ledger.end(number, session.fold, session.journal.lines)
    lock.release()


def ledger_of(store: Store, chosen: str | None) -> Ledger:
    """The ledger that belongs to a store.

    Raises:
        StoreError: there is something in its place that is no regular file.
    """
    ledger = Ledger(journal_folder(store.uri, chosen))
    remedy = "move it away, or choose another folder with tracking.journal=DIR"
    check_replaceable(ledger.file, "the journal's ledger", remedy, StoreError)
    return ledger


def usable_store(trials: Sequence[Trial], task: str) -> Store:
    """The store that the trials' config names. The process that writes to it begins to load MLflow, which takes about
    as long as loading PyTorch.

    Args:
        task: name of the Hydra task.

    Raises:
        StoreError: it cannot be used, or its experiment cannot; better to know it before anything heavy begins.
    """
    store = Store(trials[0].run.tracking.uri)
    trouble = store.check()
    experiment = trials[0].run.tracking.experiment
    check_not_deleted(experiment_name(experiment, task, store.database), store.database)
    for line in (trouble, store.follow_move()):
        if line:
            print(line, file=sys.stderr)
    writer_process(store.uri)
    return store


def wait_for_quiet(store: Store) -> None:
    """Waits until the process beside has loaded MLflow: what is timed before that comes out wrong."""
    writer_process(store.uri).wait_loaded(LONGEST_WAIT)


def peek(trials: Sequence[Trial], store: Store, rerun: bool) -> Work:
    """What `Session.claim` of a new session would give; nothing is claimed or written."""
    ledger = ledger_of(store, trials[0].run.tracking.journal)
    return work_for(trials, ledger.peek(trials), ledger, store, None, rerun)


def _composition(stack: Stack, device: str) -> Composition:
    ids = tuple(tuple(trial.id for trial in trajectory.trials) for trajectory in stack.trajectories)
    return Composition(stack.id, ids, vars(stack.choice), device, stack.keep, stack.note)
