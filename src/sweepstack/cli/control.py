"""The commands of `sweepstack` about commands that train in other terminals: status, stop."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from sweepstack.cli.programs import json_option
from sweepstack.cli.runs import store_option
from sweepstack.errors import printable
from sweepstack.strict_json import print_json

if TYPE_CHECKING:
    from sweepstack.execution.control.status import CommandStatus, StackStatus, TrialStatus
    from sweepstack.execution.control.stop import Stopped
    from sweepstack.journal.ledger import Ledger

MOST_TRIALS = 10
"""The most trials of a stack that are named for people."""
NOT_TAKEN = 1
"""Exit code of `stop` if a command has not taken the request."""

journal_option = click.option("--journal", metavar="DIR", help="The journal's folder, if tracking.journal names one.")


@click.command()
@click.option("--sweep", metavar="NAME", help="Only this sweep.  [default: all]")
@json_option
@journal_option
@store_option
def status(sweep: str | None, as_json: bool, journal: str | None, store: str | None) -> None:
    """Show what trains where, since when, how far it is, what waits and what it will take; and what was interrupted."""
    from sweepstack.execution.control.status import find_status

    found = find_status(_ledger(store, journal), sweep)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    lines = [line for one in found.running for line in _describe_running(one)]
    lines += [line for one in found.interrupted for line in _describe_interrupted(one)]
    of = "" if sweep is None else f" of sweep {sweep}"
    for line in lines or [f"Nothing{of} trains, and nothing{of} was interrupted."]:
        click.echo(printable(line))


@click.command()
@click.argument("trials", nargs=-1, metavar="[TRIAL]...")
@click.option("--sweep", metavar="NAME", help="Which sweep.  [default: the only one that trains]")
@json_option
@journal_option
@store_option
def stop(trials: tuple[str, ...], sweep: str | None, as_json: bool, journal: str | None, store: str | None) -> None:
    """End trials, or a whole sweep, that another terminal has begun. The same command there goes on from here.

    A TRIAL is named as `status` shows it, by its number, or by the beginning of the id of its run; it ends KILLED at
    its next measurement, and the others of its stack go on. Without a TRIAL the sweep ends as by Ctrl-C."""
    from sweepstack.execution.control.stop import stop as stop_now

    done = stop_now(_ledger(store, journal), trials, sweep)
    if as_json:
        print_json([dataclasses.asdict(one) for one in done])
    else:
        for one in done:
            click.echo(printable(_describe_stopped(one)))
    sys.exit(0 if all(one.taken for one in done) else NOT_TAKEN)


def _ledger(store: str | None, journal: str | None) -> Ledger:
    from sweepstack.execution.open_store import ledger_of
    from sweepstack.tracking.store import Store

    return ledger_of(Store(store), journal)


def _describe_running(one: CommandStatus) -> Iterator[str]:
    from sweepstack.execution.control.status import PAUSED, TRAINING, WAITING

    yield f"{_name(one)}: {_counts(one)}; {_describe_left(one.seconds_left)}"
    if one.about is not None:
        yield f"  {one.about.host}, process {one.about.pid}, since {_time(one.about.at)}: {one.about.command}"
    for stack in one.stacks:
        if stack.state == TRAINING:
            yield from _describe_stack(stack)
    if paused := [trial for trial in one.trials if trial.state == PAUSED]:
        yield f"  paused: {_names(paused)}"
    waiting = [stack for stack in one.stacks if stack.state == WAITING]
    if waiting:
        trials = [trial for stack in waiting for trial in stack.trials if trial.state == WAITING]
        yield f"  waiting: {_names(trials)}"


def _describe_interrupted(one: CommandStatus) -> Iterator[str]:
    from sweepstack.execution.control.status import TRAINING

    yield f"{_name(one)}: {_counts(one)}; the same command goes on, {_describe_left(one.seconds_left)}"
    if one.about is not None:
        yield f"  {one.about.host}, began at {_time(one.about.at)}: {one.about.command}"
    for stack in one.stacks:
        if stack.state == TRAINING:
            yield from _describe_stack(stack)
    yield f"  left: {_names([trial for stack in one.stacks if stack.state != TRAINING for trial in stack.trials])}"


def _describe_stack(stack: StackStatus) -> Iterator[str]:
    where = f"{stack.host}, process {stack.pid}" if stack.host is not None else "no machine yet"
    since = f", since {_time(stack.since)}" if stack.since is not None else ""
    yield f"  engine={stack.engine}: {where}{since}; {_describe_left(stack.seconds_left)}"
    width = max(len(trial.name) for trial in stack.trials[:MOST_TRIALS])
    for trial in stack.trials[:MOST_TRIALS]:
        best = "" if trial.best is None else f"  best {trial.objective} {trial.best:.4g}"
        yield f"    {trial.name:<{width}}  {trial.state}, epoch {trial.epoch or 0}/{trial.epochs}{best}"
    if len(stack.trials) > MOST_TRIALS:
        yield f"    and {len(stack.trials) - MOST_TRIALS} others; --json names them"


def _describe_stopped(one: Stopped) -> str:
    from sweepstack.execution.control.status import PAUSED, WAITING

    where = f"{one.host}, process {one.pid}" if one.host is not None else "its machine"
    if not one.taken and one.ended:
        return f"The command on {where} ended before it took the request."
    if not one.taken:
        return f"The command on {where} does not answer; it gets the request when it goes on."
    if one.trials is None:
        name = f"Sweep {one.sweep}" if one.sweep is not None else "The single run"
        return f"{name} on {where} {'was stopped' if one.ended else 'is stopping, and saves its states'}."
    begun = [trial for trial in one.trials if trial.state not in (WAITING, PAUSED)]
    waiting = [trial for trial in one.trials if trial.state == WAITING]
    paused = [trial for trial in one.trials if trial.state == PAUSED]
    lines = [f"Stopped at the next measurement: {_names(begun)}."] if begun else []
    lines += [f"Stopped before it begins, or at the first measurement: {_names(waiting)}."] if waiting else []
    lines += [f"Stopped before it goes on, as it is paused now: {_names(paused)}."] if paused else []
    return " ".join(lines)


def _name(one: CommandStatus) -> str:
    return f"Sweep {one.sweep}" if one.sweep is not None else "Single run"


def _counts(command: CommandStatus) -> str:
    from sweepstack.errors import count

    states = Counter(trial.state for trial in command.trials)
    states["to come"] = command.to_come
    parts = [f"{number} {state}" for state, number in states.items() if number]
    return ", ".join([count(states.total(), "trial"), *parts])


def _names(trials: Sequence[TrialStatus]) -> str:
    more = len(trials) - MOST_TRIALS
    return ", ".join([trial.name for trial in trials[:MOST_TRIALS]] + ([f"and {more} others"] if more > 0 else []))


def _describe_left(seconds: float | None) -> str:
    from sweepstack.planning.plan import duration

    return "time left unknown" if seconds is None else f"about {duration(seconds)} left"


def _time(at: float | None) -> str:
    return "an unknown time" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
