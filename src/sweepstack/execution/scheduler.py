"""From trials to their outcomes: what is known already is not trained again, the rest is claimed, planned and run."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sweepstack.errors import UserError, one_line
from sweepstack.execution.describe import describe_duplicates, describe_work
from sweepstack.execution.executor import Executor
from sweepstack.execution.listener import Listener
from sweepstack.execution.outputs import draw
from sweepstack.execution.prepare import Prepared
from sweepstack.execution.records import wait_for_quiet
from sweepstack.execution.session import Session, open_session, peek
from sweepstack.execution.signals import calm
from sweepstack.execution.work import Work
from sweepstack.execution.worker import killed, load_data_of
from sweepstack.files.replacing import replacing
from sweepstack.planning.plan import Plan, Stack, count, plan, summary, unique
from sweepstack.tracking.store import Store
from sweepstack.trial import PICTURES, PREDICTIONS, WEIGHTS, Outcome, Trial, TrialState

POLL = 1.0
"""Seconds between two looks at what another command trains."""


def execute(
    prepared: Prepared, store: Store, executor: Executor, listeners: Sequence[Listener] = ()
) -> dict[str, Outcome]:
    """Sees to it that every trial has an outcome. Trials of one fingerprint are trained once.

    Args:
        listeners: hear of what happens to the trials, after the terminal has.

    Returns:
        The outcomes by fingerprint.

    Raises:
        UserError, KeyboardInterrupt: see `run_stack`.
    """
    trials, run = prepared.trials, prepared.run
    wanted = unique(trials)
    first = {trial.fingerprint: trial for trial in wanted}
    settled: dict[str, Outcome] = {}

    def skip(trial: Trial, outcome: Outcome, reason: str) -> None:
        for listener in listeners:
            listener.on_skipped(trial, outcome, reason)

    with open_session(run, store, prepared.task, listeners) as session:
        said: set[str] = set()
        for line in describe_duplicates(trials):
            session.say(line)
        waiting = wanted
        while waiting and not session.is_stopping():
            work = session.claim(waiting, run.rerun, partial(_lacking, say=session.say))
            for trial, outcome, files in work.settled:
                settled[trial.fingerprint] = outcome
                if files is not None and not _keep_files(trial, files):
                    later = session.artifacts(trial)  # what waited in the journal has been delivered meanwhile
                    _ = later is not None and _keep_files(trial, later)
                skip(trial, outcome, "it was trained before")
            planned = _plan(work.fresh, prepared, executor, lambda: wait_for_quiet(store))
            stacks = [*work.resumed, *session.keep_plan(planned.stacks)]
            lines = [*describe_work(work), *([summary(planned)] if work.fresh else [])]
            for line in lines if len(trials) > 1 else describe_work(work):
                if line not in said:
                    session.say(line)
                    said.add(line)
            session.announce_plan(stacks)
            for stack in stacks:
                if not session.is_stopping():
                    _train(stack, session, prepared, executor)
            waiting = work.held
            if waiting and not session.is_stopping():
                time.sleep(POLL)
    outcomes = {**settled, **session.outcomes}
    left = first.keys() - outcomes.keys()
    why = f", for max_failures={run.max_failures} is reached" if session.is_stopping() else ""
    reason = f"not trained{why}; the same command goes on from here"
    if left:
        print(f"{count(len(left), 'trial')} {reason}")
    for trial in trials:
        known = outcomes.get(trial.fingerprint)
        if known is None:
            outcomes[trial.fingerprint] = known = Outcome(TrialState.KILLED, reason=reason)
            skip(trial, known, reason)
        elif trial is not first[trial.fingerprint]:
            skip(trial, known, f"it is the same as {first[trial.fingerprint].name}")
    return outcomes


def foresee(prepared: Prepared, store: Store, executor: Executor) -> tuple[Work, Plan]:
    """What `execute` would find and train; nothing is written."""
    work = peek(unique(prepared.trials), store, prepared.run.rerun)
    return work, Plan((*work.resumed, *_plan(work.fresh, prepared, executor, None).stacks))


def _plan(
    trials: Sequence[Trial], prepared: Prepared, executor: Executor, wait_for_quiet: Callable[[], None] | None
) -> Plan:
    planned = plan(trials, lambda group: executor.choose_settings(group, wait_for_quiet), prepared.isolation_reason)
    return Plan(tuple(replace(stack, device=prepared.device_of(stack)) for stack in planned.stacks))


def _train(stack: Stack, session: Session, prepared: Prepared, executor: Executor) -> None:
    """Trains a stack; where it fails as a whole, its parts."""
    device = prepared.device_of(stack)
    parts = executor.train(session.assign(stack, device), session)
    if parts is None:
        return
    with calm():  # so that a signal finds the ledger with the old stack or the new ones
        rest = session.split(stack, parts, device)
    for number, part in enumerate(rest, 1):
        try:
            _train(part, session, prepared, executor)
        except KeyboardInterrupt as stop:  # the others have begun, too: in the stack that was cut
            for trial in (trial for later in rest[number:] for trial in later.trials):
                session.emit(killed(trial, stop))
            raise


def _lacking(trial: Trial, outcome: Outcome, files: Path | None, say: Callable[[str], None]) -> list[Path]:
    """The pictures that are asked for, unless the record of the trial has the same."""
    if not trial.run.pictures or outcome.state is not TrialState.FINISHED:
        return []
    try:
        drawn = draw(trial, load_data_of(trial))
        recorded = files / PICTURES if files is not None else None
        known = recorded is not None and recorded.is_file() and recorded.read_bytes() == drawn.read_bytes()
    except OSError as error:
        say(f"The pictures of {trial.name} cannot be drawn: {one_line(error)}.")
        return []
    return [] if known else [drawn]


def _keep_files(trial: Trial, recorded: Path) -> bool:
    """What a trial that was trained before has left, in the folder of its job, too, if there is room.

    Returns:
        Whether its files were there.
    """
    if not recorded.is_dir():
        return False
    for name in (WEIGHTS, PREDICTIONS):
        with contextlib.suppress(OSError, UserError):
            if not (recorded / name).is_file():
                continue
            trial.folder.mkdir(parents=True, exist_ok=True)
            with replacing(trial.folder / name) as aside:
                shutil.copy2(recorded / name, aside)
    return True
