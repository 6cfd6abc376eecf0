"""What a sweep has saved of the epochs and the time of a plain loop: by duplicates, prefixes, width and pruning."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sweepstack.errors import count
from sweepstack.tracking.params import from_text
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.trial import TrialState

COSTS = re.compile(r"(\d+) us a step and trial stacked, (\d+) us alone")
"""What `autotune.choose` has measured, in the tag that says how a trial was trained."""
PRUNED_AT = re.compile(r"at epoch ([\d.]+)")
"""When a trial was pruned, in the reason that its pruner gives."""
NOT_RECORDED = "Not recorded: an earlier version has trained some of these trials."


@dataclass(frozen=True)
class Factor:
    """What one way of saving has saved."""

    name: str
    ratio: float
    """What a plain loop would have taken, by what was taken; NaN if that is not known."""
    how: str
    """How it is measured."""


@dataclass(frozen=True)
class Savings:
    """What a sweep has saved."""

    factors: tuple[Factor, ...]
    note: str
    """What the factors make together, and what they leave out."""


@dataclass(frozen=True)
class _Done:
    """A trial that has finished, or was pruned."""

    row: Row
    epochs: float
    """The epochs that it was to have."""
    trained: float
    """The epochs that it has."""


def savings(rows: Sequence[Row]) -> Savings | None:
    """Computes what a sweep has saved; None if no trial of it has finished or was pruned.

    The factors are one after the other, so their product is what is saved in all: the trial-epochs of all jobs, those
    of the trials that the sweep has trained itself, those of the trajectories that these were read from, and those that
    were trained until a pruner ended them. The width is a ratio of times.

    It does not count that workers train side by side, that early stopping ends trainings, and what was trained in vain.

    Args:
        rows: the trials of the sweep.
    """
    done = [one for one in map(_done, rows) if one is not None]
    if not done:
        return None
    own = [one for one in done if not one.row.reused]
    recorded = all(one.row.trajectory and one.row.number is not None for one in own)
    trajectories: dict[str, list[_Done]] = {}
    for one in own:
        trajectories.setdefault(one.row.trajectory or one.row.run_id, []).append(one)
    counted = recorded and not any(one.row.search for one in done)  # the points of a search are jobs one by one
    asked, jobs = sum(one.epochs * one.row.jobs for one in done), sum(one.row.jobs for one in done)
    single = sum(one.epochs for one in own)
    planned = sum(max(one.epochs for one in group) for group in trajectories.values())
    trained = sum(max(one.trained for one in group) for group in trajectories.values())
    if not own:
        note = f"Nothing was trained: all {count(len(done), 'trial')} had been trained by other sweeps."
        return Savings((), note)
    factors = (
        Factor(
            "duplicates",
            asked / single,
            f"Trial-epochs of all jobs, by those of the trials that this sweep has trained: {_epochs(asked)} by "
            f"{_epochs(single)}. {_duplicates(len(done) - len(own), jobs - len(done) if counted else None)}",
        ),
        Factor(
            "prefixes",
            single / planned if recorded else math.nan,
            f"Trial-epochs of these trials, by those of the trainings that they were read from: {_epochs(single)} by "
            f"{_epochs(planned)}. A trial with fewer epochs is a part of a longer one."
            if recorded
            else NOT_RECORDED,
        ),
        _width(own),
        Factor(
            "pruning",
            planned / trained,
            f"Epochs of these trainings as planned, by those until a pruner had ended all of their trials: "
            f"{_epochs(planned)} by {_epochs(trained)}.",
        ),
    )
    known = [one.ratio for one in factors if math.isfinite(one.ratio)]
    among = "" if len(known) == len(factors) else ", of what is known"
    note = (
        f"Together{among}: a plain loop, which trains one job after the other, would have taken about "
        f"{written_ratio(math.prod(known))} times as long. Workers that train side by side come on top."
    )
    if left := len(rows) - len(done):
        note += f" {count(left, 'trial')} that did not finish {'is' if left == 1 else 'are'} left out."
    return Savings(factors, note)


def _duplicates(known: int, same: int | None) -> str:
    """Says what is no trial of its own.

    Args:
        known: the trials that another sweep had trained.
        same: the jobs with the config of another one; None if that is not known.
    """
    parts = [f"{count(known, 'trial')} {'was' if known == 1 else 'were'} trained by another sweep"] if known else []
    parts += [f"{count(same, 'job')} had the same config as another job of its launch"] if same else []
    parts = parts or [
        "No other sweep has trained any of them" + ("" if same is None else ", and no two jobs of a launch were alike")
    ]
    return f"{' and '.join(parts)}.{' Jobs that were alike are not counted.' if same is None else ''}"


def written_ratio(ratio: float) -> str:
    """Writes a ratio with three digits."""
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _done(row: Row) -> _Done | None:
    epochs = from_text(row.params.get("epochs", ""))
    if row.state not in (TrialState.FINISHED, TrialState.PRUNED) or not isinstance(epochs, int | float):
        return None
    if row.state == TrialState.FINISHED:
        return _Done(row, epochs, epochs)
    found = PRUNED_AT.search(row.reason)
    at = float(found[1].rstrip(".")) if found else max(row.rungs, default=float(epochs))
    return _Done(row, epochs, min(at, epochs))


def _width(own: Sequence[_Done]) -> Factor:
    """Returns what stacks have saved: the mean ratio of the times of a step, weighted with the times of the trials."""
    ratios = {one.row.run_id: _ratio(one.row.trained) for one in own}
    weights = {one.row.run_id: one.row.metrics.get("train_seconds_share", math.nan) for one in own}
    known = [key for key, ratio in ratios.items() if math.isfinite(ratio) and weights[key] > 0]
    if not known:
        return Factor("width", math.nan, "Not recorded: no stack of this sweep was timed against a step alone.")
    seconds = sum(weights[key] for key in known)
    stacked = sum(one.row.trained.startswith("stacked") for one in own)
    how = (
        "Time of a step alone, by that of a step and trial in a stack, as measured when the stacks were planned; the "
        f"mean over the training time. {stacked} of {count(len(own), 'trial')} {'was' if stacked == 1 else 'were'} "
        "trained in stacks."
    )
    if any(one.row.state == TrialState.PRUNED for one in own) and stacked:
        how += " That a stack gets narrower when trials leave it is not counted."
    if unknown := len(own) - len(known):
        how += f" Of {count(unknown, 'trial')} it is not known."
    return Factor("width", sum(weights[key] * ratios[key] for key in known) / seconds, how)


def _ratio(trained: str) -> float:
    """Returns the measured time of a step alone by that of a step in the stack; NaN if that is not known."""
    if not trained.startswith("stacked"):
        return 1.0 if trained else math.nan
    found = COSTS.search(trained)
    return int(found[2]) / int(found[1]) if found and int(found[1]) else math.nan


def _epochs(number: float) -> str:
    return f"{number:,.4g}" if number < 1000 else f"{number:,.0f}"
