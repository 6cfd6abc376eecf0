"""From trials to their outcomes: what is known already is not trained again, the rest is claimed, planned and run."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from sweepstack.config.schema import RunConfig
from sweepstack.errors import UserError, one_line
from sweepstack.execution.session import Session, open_session, peek, wait_for_quiet
from sweepstack.execution.work import Work
from sweepstack.execution.worker import choose_settings, device_of, draw_pictures, estimate, identify
from sweepstack.files.replacing import replacing
from sweepstack.planning.plan import Plan, Stack, count, plan, summary
from sweepstack.tracking.store import Store
from sweepstack.trial import PICTURES, PREDICTIONS, WEIGHTS, Outcome, StackSettings, Trial, TrialState

POLL = 1.0
"""Seconds between two looks at what another command trains."""

Inside = AbstractContextManager[None]
Run = Callable[[Stack, Session, Callable[[], bool]], None]
"""Trains a stack, see `run_stack`; the last argument tells whether to stop early."""
OnEnded = Callable[[Trial, Outcome], None]
"""Takes the outcome of a trial that has been trained."""
OnSkipped = Callable[[Trial, Outcome, str], None]
"""Takes the outcome of a trial that is not trained by this command, and why it is not."""


def identified(trials: Sequence[Trial], inside: Callable[[int], Inside] = lambda _: nullcontext()) -> list[Trial]:
    """The trials with their fingerprints; their data must be at hand.

    Args:
        inside: gives a context to call a user's code in, by a trial's number.
    """
    digests: dict[str, str] = {}
    return [
        replace(trial, fingerprint=str(identify(trial, digests, partial(inside, trial.number)))) for trial in trials
    ]


def execute(
    trials: Sequence[Trial],
    store: Store,
    task: str,
    apart: str,
    run: Run,
    ended: OnEnded,
    tell: OnSkipped,
    inside: Callable[[Trial], Inside] = lambda _: nullcontext(),
) -> dict[str, Outcome]:
    """Sees to it that every trial has an outcome.

    Args:
        trials: of one sweep, identified; those with one fingerprint are trained once.
        task: name of the Hydra task.
        apart: why every trial must be trained on its own, if it must.
        inside: gives a context to build a trial's model in.

    Returns:
        The outcomes by fingerprint.

    Raises:
        UserError, KeyboardInterrupt: see `run_stack`.
    """
    waiting = unique(trials)
    first = {trial.fingerprint: trial for trial in waiting}
    run_config = trials[0].run
    outcomes: dict[str, Outcome] = {}
    failures = 0

    def take(trial: Trial, outcome: Outcome) -> None:
        nonlocal failures
        outcomes[trial.fingerprint] = outcome
        failures += outcome.state is TrialState.FAILED
        ended(trial, outcome)

    def enough() -> bool:
        return run_config.max_failures is not None and failures >= run_config.max_failures

    def chosen(group: Sequence[Trial]) -> StackSettings:
        with inside(group[0]):
            return choose_settings(group, lambda: wait_for_quiet(store))

    with open_session(trials, store, task, take) as session:
        said: set[str] = set()
        for line in describe_duplicates(trials):
            session.display.say(line)
        while waiting and not enough():
            work = session.claim(waiting, run_config.rerun, partial(_lacking, say=session.display.say))
            for trial, outcome, files in work.settled:
                outcomes[trial.fingerprint] = outcome
                if files is not None and not _keep_files(trial, files):
                    later = session.artifacts(trial)  # what waited in the journal has been delivered meanwhile
                    _ = later is not None and _keep_files(trial, later)
                tell(trial, outcome, "it was trained before")
            planned = plan(work.fresh, chosen, apart)
            stacks = [*work.resumed, *session.keep_plan(planned.stacks, device_of(trials[0]) if work.fresh else "")]
            lines = [*describe_work(work), *([summary(planned)] if work.fresh else [])]
            for line in lines if len(trials) > 1 else describe_work(work):
                if line not in said:
                    session.display.say(line)
                    said.add(line)
            session.display.expect([trial for stack in stacks for trial in stack.trials if session.owns(trial)])
            for stack in stacks:
                if not enough():
                    run(stack, session, enough)
            waiting = work.held
            if waiting and not enough():
                time.sleep(POLL)
    left = {trial.fingerprint for trial in trials} - outcomes.keys()
    why = f", for max_failures={run_config.max_failures} is reached" if enough() else ""
    reason = f"not trained{why}; the same command goes on from here"
    if left:
        print(f"{count(len(left), 'trial')} {reason}")
    for trial in trials:
        known = outcomes.get(trial.fingerprint)
        if known is None:
            outcomes[trial.fingerprint] = known = Outcome(TrialState.KILLED, reason=reason)
            tell(trial, known, reason)
        elif trial is not first[trial.fingerprint]:
            tell(trial, known, f"it is the same as {first[trial.fingerprint].name}")
    return outcomes


def foreseen(
    trials: Sequence[Trial],
    store: Store,
    apart: str,
    inside: Callable[[Trial], Inside] = lambda _: nullcontext(),
) -> tuple[Work, Plan]:
    """What `execute` would find and train; nothing is written."""

    def chosen(group: Sequence[Trial]) -> StackSettings:
        with inside(group[0]):
            return estimate(group)

    work = peek(unique(trials), store, trials[0].run.rerun)
    return work, Plan((*work.resumed, *plan(work.fresh, chosen, apart).stacks))


def describe_work(work: Work, every: bool = False) -> list[str]:
    """For people: what is trained again, left out, waited for and resumed.

    Args:
        every: name each trial that is left out.
    """
    lines = [
        f"{count(number, 'trial')} trained before, but {words} since: trained again"
        for words, number in Counter(work.changed.values()).items()
    ]
    if work.settled:
        failed = sum(outcome.state is TrialState.FAILED for _, outcome, _ in work.settled)
        but = f", {failed} of which diverged" if failed else ""
        lines.append(f"{count(len(work.settled), 'trial')} trained before{but}: not trained again (rerun=true does)")
        lines += _left_out(work) if every else []
        lines += _asked_for(work)
    if work.held:
        lines.append(f"{count(len(work.held), 'trial')} being trained by another command: waited for at the end")
    if work.resumed:
        lines.append(f"{count(len(work.resumed), 'stack')} left open before: resumed")
    return lines


def unique(trials: Sequence[Trial]) -> list[Trial]:
    """One trial of each fingerprint, in their order: the first, or the one that asks for the most pictures."""
    chosen: dict[str, Trial] = {}
    for trial in trials:
        known = chosen.get(trial.fingerprint)
        if known is None or trial.run.pictures > known.run.pictures:
            chosen[trial.fingerprint] = trial
    return [trial for trial in trials if trial is chosen[trial.fingerprint]]


def describe_duplicates(trials: Sequence[Trial]) -> list[str]:
    """For people: which jobs are one trial, and why."""
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(trial.fingerprint, []).append(trial)
    groups: dict[tuple[str, ...], list[list[Trial]]] = {}
    for group in alike.values():
        if len(group) > 1:
            groups.setdefault(tuple(_differs(group)), []).append(group)
    lines = []
    for keys, found in groups.items():
        line = f"{count(sum(len(group) for group in found), 'job')} are {count(len(found), 'trial')}"
        if not keys:
            lines.append(f"{line}: what has the same config is trained once")
            continue
        with_ = {" ".join(f"{key}={_value(unique(group)[0], key)}" for key in keys) for group in found}
        verb = "change" if len(keys) > 1 else "changes"
        lines.append(
            f"{line}: {' and '.join(keys)} {verb} no result but for rounding, so each is trained once, with "
            f"{' or '.join(sorted(with_))}; rerun=true in a command of its own trains it with another value"
        )
    return lines


def _differs(group: Sequence[Trial]) -> list[str]:
    """Keys of the config in which trials of one fingerprint differ."""
    return [key for key in sorted(RunConfig.model_fields) if len({repr(getattr(one.run, key)) for one in group}) > 1]


def _value(trial: Trial, key: str) -> str:
    value = getattr(trial.run, key)
    return "null" if value is None else str(value)


def _asked_for(work: Work) -> list[str]:
    """What is asked for of trials that are not trained: made where it needs no training."""
    lines = []
    finished = [(trial, files) for trial, outcome, files in work.settled if outcome.state is TrialState.FINISHED]
    pictures = [trial for trial, files in finished if trial.run.pictures and not _has_pictures(files)]
    if pictures:
        lines.append(f"pictures need no training: added to the records of {count(len(pictures), 'trial')}")
    kept = [trial for trial, _ in finished if trial.run.checkpoint.keep]
    if kept:
        lines.append(
            f"checkpoint.keep=true keeps nothing of {count(len(kept), 'trial')} trained before: rerun=true trains "
            "again and keeps the checkpoints"
        )
    return lines


def _has_pictures(files: Path | None) -> bool:
    return files is not None and (files / PICTURES).is_file()


def _lacking(trial: Trial, outcome: Outcome, files: Path | None, say: Callable[[str], None]) -> list[Path]:
    """The pictures that are asked for, unless the record of the trial has the same."""
    if not trial.run.pictures or outcome.state is not TrialState.FINISHED:
        return []
    try:
        drawn = draw_pictures(trial)
        recorded = files / PICTURES if files is not None else None
        known = recorded is not None and recorded.is_file() and recorded.read_bytes() == drawn.read_bytes()
    except OSError as error:
        say(f"The pictures of {trial.name} cannot be drawn: {one_line(error)}.")
        return []
    return [] if known else [drawn]


def _left_out(work: Work) -> list[str]:
    """The trials that are not trained, line by line."""
    lines = []
    for trial, outcome, _ in work.settled:
        objective = outcome.metrics.get(trial.config.objective)
        figure = outcome.reason if objective is None else f"{trial.config.objective} {objective:.4f}"
        lines.append(f"    {trial.name}  {outcome.state}  {figure}")
    return lines


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
