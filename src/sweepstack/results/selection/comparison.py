"""The settings of a sweep compared with the best one: which of them may be as good, and how that was found out."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sweepstack.results.selection.statistics import holm, holm_with_best, mcnemar, paired_t, welch_t

BEST, NOT_TOLD_APART, WORSE, NOT_TESTED, NOT_MEASURED = "best", "not told apart", "", "not tested", "not measured"
"""The marks of a setting. An empty one says that the best is better than it; the last two, that there was nothing to
test with, or not even a figure."""
LEVEL = 0.05
"""How often, at most, any setting of a table may be told apart from the best though it is as good."""

NOTHING = float("nan")

Predictions = Callable[[str], NDArray[np.bool_] | None]
"""Gives by run id which test images were classified rightly, bool [n], or None if that was not kept."""


@dataclass(frozen=True, eq=False)
class Group:
    """The trials of one setting."""

    setting: dict[str, Any]
    figures: dict[Hashable, float]
    """The objective by seed, of what finished."""
    failed: int
    lack: str
    """What those that failed did not do, in words."""
    run_ids: tuple[str, ...]
    trained: str
    """The first run that finished, whose test predictions stand for it where it has a single seed."""
    means: dict[str, float]

    @property
    def values(self) -> list[float]:
        return list(self.figures.values())

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))


class Verdict(NamedTuple):
    """What is said of a setting: its mark, the corrected p-value (NaN where nothing was tested) and why, in words."""

    mark: str
    p: float
    why: str


class _Test(NamedTuple):
    p: float
    df: float
    how: str


def larger_is_better(metric: str) -> bool:
    """Accuracies are better when they are larger; losses and times when they are smaller."""
    return "accuracy" in metric


def verdicts_of(groups: list[Group], key: str, same_data: bool, predictions: Predictions) -> list[Verdict]:
    """A verdict for each setting.

    Args:
        groups: the best first.
        key: the metric that selected it.
        same_data: whether test data did so; then they are no fresh ones for McNemar's test.
    """
    best, *others = groups
    single = len(best.figures) == 1
    right = predictions(best.trained) if single and others else None
    sign = 1 if larger_is_better(key) else -1
    tests = [_compare(best, other, sign, right, predictions) for other in others]
    p, df = np.array([test.p for test in tests]), np.array([test.df for test in tests])
    done = np.isfinite(p)
    rivals = sum(bool(group.figures) for group in groups)
    fresh = single and not same_data
    p[done] = holm(p[done]) if fresh else holm_with_best(p[done], df[done], rivals)
    won = "best single trial" if single else f"best mean over {len(best.figures)} seeds"
    verdicts = [Verdict(BEST, NOTHING, _story(best, best, won))]
    for other, value, test in zip(others, p.tolist(), tests, strict=True):
        verdicts.append(Verdict(_mark(other, value), value, _story(other, best, test.how)))
    return verdicts


def _mark(other: Group, p: float) -> str:
    if not other.figures:
        return NOT_MEASURED
    if np.isnan(p):
        return NOT_TESTED
    return WORSE if p <= LEVEL else NOT_TOLD_APART


def _compare(best: Group, other: Group, sign: int, right: NDArray[np.bool_] | None, predictions: Predictions) -> _Test:
    """The best against another. `right` are the predictions of the best, where it has a single seed."""
    if not other.figures:
        return _Test(NOTHING, NOTHING, "no trial gave a figure")
    shared = [seed for seed in best.figures if seed in other.figures]
    if len(shared) > 1:
        one, two = [best.figures[seed] for seed in shared], [other.figures[seed] for seed in shared]
        how = f"paired over {len(shared)} seeds"
        return _if_better(*paired_t(one, two), how, sign * float(np.mean(one) - np.mean(two)))
    if len(best.figures) > 1 and len(other.figures) > 1:
        how = f"Welch's t-test over {len(best.figures)} and {len(other.figures)} seeds that do not match"
        return _if_better(*welch_t(best.values, other.values), how, sign * (best.mean - other.mean))
    if len(best.figures) > 1 or sign < 0:  # right and wrong images speak of accuracies alone
        return _Test(NOTHING, NOTHING, "a single seed, which tells no spread")
    of_other = predictions(other.trained) if right is not None else None
    if right is None or of_other is None:
        return _Test(NOTHING, NOTHING, "no test predictions were kept")
    if len(right) != len(of_other):
        return _Test(NOTHING, NOTHING, "the test predictions are of other images")
    how = f"McNemar on {len(right)} test images"
    return _if_better(mcnemar(right, of_other), np.inf, how, float(right.sum()) - float(of_other.sum()))


def _if_better(p: float, df: float, how: str, ahead: float) -> _Test:
    """A difference the other way round does not speak for the best, however clear it is."""
    if ahead < 0:
        return _Test(1.0, df, f"{how}, where it is ahead of the best")
    if np.isnan(p):
        return _Test(p, df, f"{how}, whose differences are all the same: no spread to compare with")
    return _Test(p, df, how)


def _story(group: Group, best: Group, how: str) -> str:
    """Why a setting has its mark and its place, in words."""
    if not group.failed:
        return how
    lucky = group.failed > best.failed and group.figures
    but = ", so that its mean does not count for the first place" if lucky else ""
    return f"{group.failed} of {len(group.run_ids)} trials {group.lack}{but}; {how}"
