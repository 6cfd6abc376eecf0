"""Ends trials, or whole commands, that another terminal has begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweepstack.errors import StoreError, UserError, did_you_mean
from sweepstack.execution.control.follow import who
from sweepstack.execution.control.status import PAUSED, TRAINING, WAITING, CommandStatus, TrialStatus, find_status
from sweepstack.execution.engines.channel import ask_to_stop, worker_of
from sweepstack.journal.control import Request
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.unfinished import is_living

TAKE_SECONDS, END_SECONDS = 15.0, 10.0
"""The longest time that is waited until a command has taken a request, and then until it has ended."""
UNENDED = (WAITING, TRAINING, PAUSED)
"""States of trials that can be stopped."""
SHORTEST_ID = 4
"""The fewest characters of the beginning of an id that name a trial."""


@dataclass(frozen=True)
class Stopped:
    """What a command was asked for, and what has come of it."""

    sweep: str | None
    """None for a single run."""
    host: str | None
    pid: int | None
    trials: tuple[TrialStatus, ...] | None
    """The trials that it was asked to stop; None: all."""
    taken: bool
    """True if the command has taken the request."""
    ended: bool
    """True if the command has ended."""


def stop(ledger: Ledger, words: Sequence[str] = (), sweep: str | None = None) -> list[Stopped]:
    """Stops trials or whole commands; returns what has come of it.

    Args:
        ledger: the ledger of the store.
        words: the trials, each by its name, its number, or the beginning of its id or of that of its run; empty: all
            of the sweep.
        sweep: the name of a sweep; None: the only one that runs.

    Raises:
        UserError: nothing runs that fits, or more than one.
        StoreError: a request cannot be written.
    """
    status = find_status(ledger)
    workers = [one for one in status.interrupted if any(stack.state == TRAINING for stack in one.stacks)]
    running = [one for one in (*status.running, *workers) if sweep in (None, one.sweep)]
    if not running:
        names = [one.sweep for one in (*status.running, *workers) if one.sweep is not None]
        rule = "nothing runs that could be stopped" if sweep is None else f"no command trains sweep {sweep!r}"
        raise UserError(rule, remedy=did_you_mean(sweep, names) if sweep and names else "sweepstack status shows more")
    if not words:
        _check_one(running, "all of it")
        return [_stop_workers(ledger, one) if one.session is None else _ask(ledger, one, None) for one in running]
    found = [pair for word in words for pair in _find(word, [one for one in running if one.session is not None])]
    chosen = [(one, tuple(dict.fromkeys(trial for other, trial in found if other is one))) for one in running]
    return [_ask(ledger, one, trials) for one, trials in chosen if trials]


def _check_one(running: Sequence[CommandStatus], what: str) -> None:
    """Checks that commands train one sweep, or one single run."""
    names = {one.sweep or f"the single run {', '.join(trial.name for trial in one.trials)}" for one in running}
    if len(names) > 1:
        several = "; ".join(sorted(names))
        rule = f"one sweep at a time is stopped, {what} can mean {several}"
        raise UserError(rule, remedy="name the sweep with --sweep, or trials")


def _find(word: str, running: Sequence[CommandStatus]) -> list[tuple[CommandStatus, TrialStatus]]:
    """Returns the trials that a word means, each with its command.

    Raises:
        UserError: there is none, it has ended, or there are several ones.
    """
    every = [(one, trial) for one in running for trial in one.trials]

    def is_named(trial: TrialStatus) -> bool:
        return sorted(trial.name.split()) == sorted(word.split())

    def is_numbered(trial: TrialStatus) -> bool:
        return word.isdecimal() and trial.number == int(word)

    def has_id(trial: TrialStatus) -> bool:
        ids = (trial.id, trial.run_id or "")
        return len(word) >= SHORTEST_ID and any(id.startswith(word) for id in ids)

    kinds: tuple[Callable[[TrialStatus], bool], ...] = (is_named, is_numbered, has_id)
    found = next((some for kind in kinds if (some := [pair for pair in every if kind(pair[1])])), [])
    unended = [pair for pair in found if pair[1].state in UNENDED]
    if not found:
        names = [trial.name for _, trial in every if trial.state in UNENDED]
        raise UserError(f"no trial {word!r} trains or waits", remedy=did_you_mean(word, names))
    if not unended:
        rule = f"a trial must train or wait, {word!r} has ended ({found[0][1].state})"
        raise UserError(rule, remedy="sweepstack status shows what trains")
    _check_one([one for one, _ in unended], repr(word))
    return unended


def _ask(ledger: Ledger, one: CommandStatus, trials: tuple[TrialStatus, ...] | None) -> Stopped:
    """Asks a command to stop, and waits until it has taken the request; if it stops as a whole, until it has ended."""
    assert one.session is not None
    session, control = one.session, ledger.control(one.session)
    host, pid = (one.about.host, one.about.pid) if one.about is not None else (None, None)

    def has_ended() -> bool:
        return not is_living(ledger, session)

    try:
        with control.kept_open() as read:
            control.ask(Request(None if trials is None else tuple(trial.id for trial in trials), who()))
            asked = len(read().requests)

            def is_taken() -> bool:
                return read().taken >= asked

            _wait(lambda: is_taken() or has_ended(), TAKE_SECONDS)
            taken = is_taken() or (trials is None and has_ended())
    except OSError as error:
        if has_ended():
            return Stopped(one.sweep, host, pid, trials, taken=trials is None, ended=True)
        rule = f"a request must be written to {control.path}, it cannot be ({error.strerror})"
        raise StoreError(rule, remedy="end the command where it was typed, with Ctrl-C") from error
    if taken and trials is None:
        _wait(has_ended, END_SECONDS)
    return Stopped(one.sweep, host, pid, trials, taken, has_ended())


def _stop_workers(ledger: Ledger, one: CommandStatus) -> Stopped:
    """Asks the workers that a command has left to save their states and to end."""
    folders = [ledger.work(stack.id) for stack in one.stacks if stack.state == TRAINING and stack.id is not None]
    for folder in folders:
        ask_to_stop(folder, who())

    def have_ended() -> bool:
        return all(worker_of(folder) is None for folder in folders)

    _wait(have_ended, TAKE_SECONDS + END_SECONDS)
    first = next(stack for stack in one.stacks if stack.state == TRAINING)
    return Stopped(one.sweep, first.host, first.pid, None, have_ended(), have_ended())


def _wait(true: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.1)
