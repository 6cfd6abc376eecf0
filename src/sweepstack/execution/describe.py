"""Describes in lines for people what a command does with its trials, and why it does not train some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sweepstack.config.schema import RunConfig
from sweepstack.errors import count
from sweepstack.execution.remaining_work import Work
from sweepstack.metrics import rounded
from sweepstack.planning.plan import unique
from sweepstack.search.rungs import describe_pruner
from sweepstack.trial import PICTURES, Trial, TrialState


def describe_work(work: Work, every: bool = False) -> list[str]:
    """Says which trials are trained again, skipped, waited for and resumed.

    Args:
        work: what there is to do.
        every: name each skipped trial.
    """
    lines = [
        f"{count(number, 'trial')} trained before, but {change} since: trained again"
        for change, number in Counter(work.changed.values()).items()
    ]
    states = Counter(outcome.state for _, outcome, _ in work.settled)
    if trained := len(work.settled) - states[TrialState.PRUNED]:
        failed = states[TrialState.FAILED]
        diverged = f", {failed} of which diverged" if failed else ""
        lines.append(f"{count(trained, 'trial')} trained before{diverged}: not trained again (rerun=true does)")
    if pruned := states[TrialState.PRUNED]:
        lines.append(f"{count(pruned, 'trial')} pruned before: left so (pruner=none trains on)")
    if work.settled:
        lines += _describe_skipped(work) if every else []
        lines += _describe_requests(work)
    if work.held:
        lines.append(f"{count(len(work.held), 'trial')} being trained by another command: waited for at the end")
    if work.resumed:
        lines.append(f"{count(len(work.resumed), 'stack')} interrupted before: resumed")
    if continued := sum(len(one.stack.trials) for one in work.continued):
        lines.append(f"{count(continued, 'trial')} pruned before: resumed where that was")
    return lines


def describe_duplicates(trials: Sequence[Trial]) -> list[str]:
    """Says which jobs are the same trial, and why."""
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(trial.fingerprint, []).append(trial)
    groups: dict[tuple[str, ...], list[list[Trial]]] = {}
    for group in alike.values():
        if len(group) > 1:
            groups.setdefault(tuple(_differing_keys(group)), []).append(group)
    lines = []
    for keys, same in groups.items():
        line = f"{count(sum(len(group) for group in same), 'job')} are {count(len(same), 'trial')}"
        if not keys:
            lines.append(f"{line}: the same config is trained once")
            continue
        choices = {" ".join(f"{key}={_value(unique(group)[0], key)}" for key in keys) for group in same}
        verb = "change" if len(keys) > 1 else "changes"
        lines.append(
            f"{line}: {' and '.join(keys)} {verb} results by rounding at most, so each is trained once, with "
            f"{' or '.join(sorted(choices))}; rerun=true in a command of its own trains it with another value"
        )
    return lines


def describe_parts(trials: Sequence[Trial], longest: int = 1) -> list[str]:
    """Says of which trials no metric is a test result, when the pruner judges them, and which folds are trained if that
    is not all of them.

    Args:
        trials: the trials.
        longest: the most epochs that a trial of the sweep may have.
    """
    lines = []
    untested = sum(trial.config.dataset.parts.test is None for trial in trials)
    if untested:
        lines.append(f"{count(untested, 'trial')} without a test part: no metrics and no predictions on test data")
    selecting = sum(trial.config.selecting_part == "test" for trial in trials)
    if selecting:
        lines.append(
            f"{count(selecting, 'trial')} selected on the test data, because nothing is held out: what they reach "
            "there is no test result"
        )
    if trials:
        by_epoch = all(trial.config.evaluate_every == "epoch" for trial in trials)
        lines += describe_pruner(trials[0].run.pruner, [trial.config.epochs for trial in trials], by_epoch, longest)
    cut = {trial.config.folds for trial in trials if trial.config.folds is not None}
    for folds in sorted(cut):
        some = {trial.config.fold for trial in trials if trial.config.folds == folds}
        if len(some) < folds:
            lines.append(f"{len(some)} of {folds} folds")
    return lines


def _differing_keys(group: Sequence[Trial]) -> list[str]:
    """Returns the keys of `RunConfig` in which trials of one fingerprint differ."""
    return [key for key in sorted(RunConfig.model_fields) if len({repr(getattr(one.run, key)) for one in group}) > 1]


def _value(trial: Trial, key: str) -> str:
    value = getattr(trial.run, key)
    return "null" if value is None else str(value)


def _describe_requests(work: Work) -> list[str]:
    """Says what happens to files that the config asks for, of trials that are not trained again."""
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


def _describe_skipped(work: Work) -> list[str]:
    """Returns a line for each trial that is not trained again."""
    lines = []
    for trial, outcome, _ in work.settled:
        objective = outcome.metrics.get(trial.config.objective)
        result = outcome.reason if objective is None else f"{trial.config.objective} {rounded(objective)}"
        lines.append(f"    {trial.name}  {outcome.state}  {result}")
    return lines
