"""For people: what a command does with its trials, and why some are not trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sweepstack.config.schema import RunConfig
from sweepstack.execution.work import Work
from sweepstack.planning.plan import count, unique
from sweepstack.trial import PICTURES, Trial, TrialState


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


def _left_out(work: Work) -> list[str]:
    """The trials that are not trained, line by line."""
    lines = []
    for trial, outcome, _ in work.settled:
        objective = outcome.metrics.get(trial.config.objective)
        figure = outcome.reason if objective is None else f"{trial.config.objective} {objective:.4f}"
        lines.append(f"    {trial.name}  {outcome.state}  {figure}")
    return lines
