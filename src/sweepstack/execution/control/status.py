"""What runs where, since when, how far it is, what waits, and what it will take. It reads files, and writes none."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from sweepstack.errors import StoreError
from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.execution.control.eta import Eta
from sweepstack.execution.control.stack_progress import StackProgress, key_of
from sweepstack.execution.engines.channel import EVENTS, reported_events, worker_of
from sweepstack.journal.control import About, Control, Extent
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.log import LogReader
from sweepstack.journal.unfinished import Living, Unfinished, find_unfinished
from sweepstack.metrics import is_better
from sweepstack.planning.known_trials import Composition, Entry
from sweepstack.trial import Trial, TrialState

WAITING, TRAINING, PAUSED, INTERRUPTED = "waiting", "training", "paused", "interrupted"
"""States of trials and stacks, beside those of `TrialState`."""
ENDED = "ended"
"""State of a stack of which all trials have ended."""
REMOTE = ("slurm", "dask")
"""Engines whose workers may outlive their command."""


@dataclass(frozen=True)
class TrialStatus:
    """A trial."""

    name: str
    number: int
    id: str
    run_id: str | None
    """Its run in MLflow, if it has one already."""
    state: str
    epoch: int | None
    """The epoch of its last measurement, or the last step of a loop of the user's own; None if it is not known."""
    epochs: int
    objective: str
    best: float | None
    """The best value of the objective in this session; None if there is none."""
    reason: str = ""
    """Why it ended so, if it did not finish."""


@dataclass(frozen=True)
class StackStatus:
    """Trials that train together."""

    id: str | None
    """None if they are not planned yet."""
    state: str
    engine: str
    """Who trains it: inline, local, slurm or dask; empty if nobody does."""
    host: str | None
    """The machine that trains it; None if none does yet."""
    pid: int | None
    since: float | None
    """Seconds since the epoch."""
    seconds_left: float | None
    """Estimated; None if it is not known."""
    trials: tuple[TrialStatus, ...]


@dataclass(frozen=True)
class CommandStatus:
    """A command that trains; or what an interrupted one has left, with which the same command goes on."""

    sweep: str | None
    """None for a single run."""
    session: int | None
    """None if it is over."""
    about: About | None
    """Who it is or was; None if that is not known."""
    seconds_left: float | None
    """Estimated, with the trials that are to come; None if it is not known."""
    stacks: tuple[StackStatus, ...]
    to_come: int = 0
    """The number of trials that a search has still to choose, as far as it knows that."""

    @property
    def trials(self) -> list[TrialStatus]:
        """The trials of all its stacks."""
        return [trial for stack in self.stacks for trial in stack.trials]


@dataclass(frozen=True)
class Status:
    """What runs, and what was interrupted."""

    journal: str
    """The folder of the journal."""
    running: tuple[CommandStatus, ...] = ()
    interrupted: tuple[CommandStatus, ...] = ()


@dataclass
class _History:
    """What the journal of a session says of a trial."""

    trial: Trial
    started: Started | None = None
    last: Measured | None = None
    ended: Ended | None = None
    best: float = math.nan

    def take(self, event: Measured) -> None:
        config = event.trial.config
        self.last = event
        value = event.measurement.metrics.get(config.objective, math.nan)
        self.best = value if is_better(value, self.best, config.mode) else self.best


def find_status(ledger: Ledger, sweep: str | None = None) -> Status:
    """Returns what runs and what was interrupted.

    Args:
        ledger: the ledger of the store.
        sweep: only this sweep.
    """
    found = find_unfinished(ledger)
    left: dict[tuple[str | None, str], list[Entry]] = {}
    for entry in found.interrupted:
        trial = entry.trial
        left.setdefault((trial.sweep, "" if trial.sweep else trial.fingerprint), []).append(entry)
    running = [_running(ledger, found, one) for one in found.living]
    interrupted = [_interrupted(ledger, found, name, rows) for (name, _), rows in left.items()]
    interrupted = [one for one in interrupted if one.stacks]
    return Status(
        str(ledger.folder),
        tuple(one for one in running if sweep in (None, one.sweep)),
        tuple(one for one in interrupted if sweep in (None, one.sweep)),
    )


def _running(ledger: Ledger, found: Unfinished, living: Living) -> CommandStatus:
    """Returns what a living session does."""
    events = [*_events(ledger, living.number, living.entries)]
    about, histories, now = living.about, _histories(events), time.time()
    by_stack = _by_stack(living.entries)
    paused = {id for id, at in living.paused.items() if at is None}
    eta, progress = _eta(by_stack, found.stacks, events, living.extent, living.paused)
    stacks = []
    for id, rows in by_stack.items():
        trials = tuple(
            _trial_status(entry, histories.get(entry.trial.id), PAUSED if entry.trial.id in paused else WAITING)
            for entry in rows
        )
        unended = [row for row, one in zip(rows, trials, strict=True) if one.state in (WAITING, TRAINING)]
        is_paused = any(one.state == PAUSED for one in trials)
        engine, host, pid, since = "", None, None, None
        if unended and (worker := _worker(ledger, id, rows[0])) is not None:
            engine, host, pid, since = worker
        elif begun := [one.started.at for row in unended if (one := histories.get(row.trial.id)) and one.started]:
            engine, since = "inline", min(begun)
            host, pid = (about.host, about.pid) if about is not None else (None, None)
        trains = engine not in REMOTE or (host is not None and _is_fresh(ledger.work(id or ""), rows[0]))
        over = PAUSED if is_paused else ENDED
        state = over if not unended else TRAINING if engine and trains else WAITING
        left = eta.seconds_of(progress[id], now) if unended else None if is_paused else 0.0
        stacks.append(StackStatus(id, state, engine, host, pid, since, left, trials))
    sweep = about.sweep if about is not None else next((entry.trial.sweep for entry in living.entries), None)
    to_come = living.extent.unplanned if living.extent is not None else 0
    seconds = _seconds(eta, stacks, now, living.extent)
    return CommandStatus(sweep, living.number, about, seconds, tuple(stacks), to_come)


def _interrupted(ledger: Ledger, found: Unfinished, sweep: str | None, rows: Sequence[Entry]) -> CommandStatus:
    """Returns what is left of a sweep. Its workers may still train."""
    sessions = sorted({entry.session for entry in rows if entry.session is not None})
    events = [event for session in sessions for event in _events(ledger, session, rows)]
    for id, members in _by_stack(rows).items():
        if id is not None:  # what its worker has reported, and no command has read
            events += reported_events(ledger.work(id), [entry.trial for entry in members])
    histories = _histories(events)
    stacks = []
    settled = {id for id, one in histories.items() if one.ended is not None and one.ended.outcome.final}
    rows = [entry for entry in rows if entry.trial.id not in settled]  # the next command notes it in the ledger
    by_stack = _by_stack(rows)
    known = [control for one in sessions if (control := ledger.control(one).read()).about is not None]
    last = known[-1] if known else Control()
    eta, progress = _eta(by_stack, found.stacks, events, last.extent)
    for id, members in by_stack.items():
        worker = _worker(ledger, id, members[0])
        if worker is not None and worker[0] in REMOTE and id is not None and _is_fresh(ledger.work(id), members[0]):
            engine, host, pid, since = worker
            state = TRAINING if host is not None else WAITING
        else:
            state, engine, host, pid, since = INTERRUPTED, "", None, None, None
        trials = tuple(_trial_status(entry, histories.get(entry.trial.id), INTERRUPTED) for entry in members)
        left = eta.seconds_of(progress[id], None)
        stacks.append(StackStatus(id, state, engine, host, pid, since, left, trials))
    to_come = last.extent.unplanned if last.extent is not None else 0
    seconds = _seconds(eta, stacks, None, last.extent)
    return CommandStatus(sweep, None, last.about, seconds, tuple(stacks), to_come)


def _worker(ledger: Ledger, stack: str | None, entry: Entry) -> tuple[str, str | None, int | None, float | None] | None:
    """Returns the engine, machine, process and begin of the worker that has a stack; None if none was asked for."""
    if stack is None or not ledger.work(stack).is_dir():
        return None
    name, found = entry.trial.run.engine.name, worker_of(ledger.work(stack)) or {}
    return "local" if name == "auto" else name, found.get("host"), found.get("pid"), found.get("at")


def _is_fresh(folder: Path, entry: Entry) -> bool:
    """True if the worker of an assignment has given a sign of life within its lease."""
    with contextlib.suppress(OSError):
        return time.time() - (folder / EVENTS).stat().st_mtime < entry.trial.run.engine.lease
    return False


def _by_stack(rows: Iterable[Entry]) -> dict[str | None, list[Entry]]:
    """Returns rows by the id of their stack. Those that are not planned yet have None."""
    found: dict[str | None, list[Entry]] = {}
    for entry in rows:
        found.setdefault(entry.stack, []).append(entry)
    return found


def _events(ledger: Ledger, session: int, rows: Iterable[Entry]) -> Iterable[Event]:
    """Yields what the journal of a session says of some trials."""
    trials = {entry.trial.id: entry.trial for entry in rows}
    with contextlib.suppress(StoreError):  # a newer version writes it
        yield from (event for _, event in LogReader(ledger.journal(session), trials.get).events())


def _histories(events: Iterable[Event]) -> dict[str, _History]:
    """Returns what events say of their trials, by the trial's id."""
    found: dict[str, _History] = {}
    for event in events:
        history = found.setdefault(event.trial.id, _History(event.trial))
        match event:
            case Started():
                found[event.trial.id] = _History(event.trial, event)
            case Measured():
                history.take(event)
            case Ended():
                history.ended = event
    return found


def _trial_status(entry: Entry, history: _History | None, default_state: str) -> TrialStatus:
    """Returns the status of a trial.

    Args:
        entry: its row.
        history: what the journal says of it, if it does.
        default_state: its state if it has not begun, or if nobody trains it.
    """
    config, known = entry.trial.config, history or _History(entry.trial)
    outcome = known.ended.outcome if known.ended is not None else entry.outcome
    trains = history is not None and default_state == WAITING
    state = str(outcome.state) if outcome is not None else TRAINING if trains else default_state
    epoch: int | None = None if history is None and entry.begun else 0
    if (at := known.last.measurement if known.last is not None else None) is not None:
        epoch = at.step if config.trainer is not None else min(at.epoch, config.epochs)
    best = None if math.isnan(known.best) else known.best
    if outcome is not None and outcome.state is TrialState.FINISHED:
        best = outcome.metrics.get(config.objective, best)
    return TrialStatus(
        entry.trial.name,
        entry.trial.number,
        entry.trial.id,
        entry.run_id,
        state,
        epoch,
        config.epochs,
        config.objective,
        best,
        outcome.reason if outcome is not None else "",
    )


def _eta(
    by_stack: Mapping[str | None, Sequence[Entry]],
    compositions: Mapping[str, Composition],
    events: Iterable[Event],
    extent: Extent | None,
    paused: Mapping[str, float | None] = MappingProxyType({}),
) -> tuple[Eta, dict[str | None, StackProgress]]:
    """Returns the estimate of a command, as its terminal makes it, and its stacks by their ids.

    Args:
        by_stack: the rows of the trials that it trains, by stack.
        compositions: the stacks by their ids.
        events: what the journal says of the trials.
        extent: how much it trains; None if that is not known.
        paused: see `Control.paused`.
    """
    taken, before = list[Event](), dict[str, float]()
    for event in events:
        at = paused.get(event.trial.id) or 0.0
        if event.at >= at:
            taken.append(event)
        elif isinstance(event, Started):
            taken.append(replace(event, at=at, resumed=True))
        elif isinstance(event, Measured):  # in the stack that it has left
            epochs, step = event.trial.config.epochs, event.measurement
            before[event.trial.id] = epochs * (1 - step.step / step.steps)
    if before:
        taken.sort(key=lambda event: event.at)
    eta, found = Eta(extent.workers if extent is not None else 1), dict[str | None, StackProgress]()
    for id, rows in by_stack.items():
        composition = compositions.get(id or "")
        trials = {entry.trial.id: entry.trial for entry in rows}
        known = composition.trajectories if composition is not None else [[key] for key in trials]
        planned = float(composition.choice.get("epoch_seconds", 0.0)) if composition is not None else 0.0
        found[id] = eta.add([[trials[key] for key in keys if key in trials] for keys in known], planned)
        found[id].take_over({key_of(trials[key]): before[key] for key in trials if key in before})
    for event in taken:
        eta.take(event)
    for id, rows in by_stack.items():
        for entry in rows:
            if entry.outcome is not None and entry.outcome.final:
                found[id].left.pop(key_of(entry.trial), None)
            elif entry.trial.id in paused and paused[entry.trial.id] is None:
                eta.pause(entry.trial)
    return eta, found


def _seconds(eta: Eta, stacks: Sequence[StackStatus], now: float | None, extent: Extent | None) -> float | None:
    """Returns how long a command still trains; None if that is not known.

    A cluster may give fewer workers than a command asks for: there as many go on to train as do now.

    Args:
        eta: the estimate of the command.
        stacks: its stacks.
        now: the time, in seconds since the epoch; None if nobody trains.
        extent: how much it trains; None if that is not known.
    """
    if extent is None or any(stack.engine in REMOTE for stack in stacks):
        eta.workers = max(1, sum(stack.state == TRAINING for stack in stacks))
    return eta.seconds(now, extent.unplanned if extent is not None else 0)
