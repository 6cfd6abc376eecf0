"""Compares settings by their values for several seeds or folds: which are worse than the best, and by how much."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from sweepstack.results.selection.spread import Floats, fit, limits, p_values, spreads
from sweepstack.results.selection.statistics import (
    Interval,
    TTest,
    holm_with_best,
    p_of_first_step,
    paired_t,
    welch_t,
)
from sweepstack.results.selection.winner import winner_interval

ENOUGH_TO_BORROW = 3
"""Settings with several values each from which the spread of a single value is estimated. With fewer, one that happens
to spread most has too much weight."""
POWER = 0.8
"""The chance that as many seeds as are named tell two settings apart."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """How settings [k] compare with the best one."""

    p: Floats
    """Two-sided p-values [k], corrected for the number of settings and for the best having been chosen by the same
    values; NaN for the best itself, and where nothing could be tested. 1 where a setting is ahead of the best."""
    ahead: Floats
    """How far the best is ahead of each setting [k], as if all had the same replicates; below 0 where it is behind."""
    behind: Floats
    """How far each setting is behind the best at least [k]: the bounds hold together in 95 of 100 sweeps."""
    winner: Interval | None
    """An interval of the true mean of the best setting that knows that it was chosen (95 %); None if there is none."""
    needed: Floats
    """The number of replicates of each setting [k] that would probably tell it apart from the best, if both are as far
    from each other as they seem; NaN if that is not known."""
    settings: int
    """The number of settings whose spreads were estimated together; 0 if two were compared on their own."""


def compare(
    objectives: Sequence[Mapping[Hashable, float]],
    larger_is_better: bool,
    level: float = 0.05,
    match: bool = True,
    overlap: float = 0.0,
) -> Comparison:
    """Compares settings with the best one. With two settings this is Student's t-test of the differences, or Welch's
    where their seeds do not match; with more, all spreads are estimated together, see `spread`.

    Args:
        objectives: the values of each setting by their replicates; at least one each. The best setting comes first.
        larger_is_better: the direction of the values.
        level: the chance that any setting that is as good as the best is told apart.
        match: False if equal replicates have nothing in common.
        overlap: see `statistics.mean_interval`.
    """
    labels = {label: number for number, label in enumerate(dict.fromkeys(one for each in objectives for one in each))}
    values = np.full((len(objectives), len(labels)), np.nan)
    for row, each in zip(values, objectives, strict=True):
        row[[labels[label] for label in each]] = list(each.values())
    return compare_values(values, larger_is_better, level, match, overlap)


def compare_values(
    values: Floats, larger_is_better: bool, level: float = 0.05, match: bool = True, overlap: float = 0.0
) -> Comparison:
    """Compares settings with the best one; see `compare`.

    Args:
        values: of k settings, the best first, and their replicates [k, n]; NaN where there is none.
        larger_is_better: the direction of the values.
        level: see `compare`.
        match: see `compare`.
        overlap: see `compare`.
    """
    unit = float(np.nanmax(np.abs(values))) or 1.0  # else squares might be too large, or 0
    found = (_compare_two if len(values) == 2 else _compare)(values / unit, larger_is_better, level, match, overlap)
    winner = None if found.winner is None else Interval(unit * found.winner.low, unit * found.winner.high)
    return replace(found, ahead=unit * found.ahead, behind=unit * found.behind, winner=winner)


def _compare(values: Floats, larger_is_better: bool, level: float, match: bool, overlap: float) -> Comparison:
    """Compares settings whose spreads are estimated together."""
    k, sign = len(values), 1 if larger_is_better else -1
    found = fit(values, match, overlap)
    ahead = sign * (found.means[0] - found.means)
    nothing = np.full(k, np.nan)
    known = spreads(found)
    if known is None:
        p = np.where(ahead <= found.tolerance + found.tolerance[0], 1.0, np.nan) if found.df.any() else nothing.copy()
        p[0] = np.nan
        return Comparison(p, ahead, nothing, None, nothing, k)
    variances, chances = known.mixtures(0)
    p = np.where(ahead < 0, 1.0, p_values(ahead, variances, chances))
    p[1:] = np.where(ahead[1:] < 0, 1.0, holm_with_best(p[1:], np.full(k - 1, np.inf), k))
    single = p_of_first_step(k, level) if k > 1 else level
    behind = np.maximum(ahead - limits(single, variances, chances), 0.0)
    needed = _needed(known.typical()[0] + known.typical(), ahead, single)
    unknown = found.counts < 2 if np.sum(found.counts > 1) < ENOUGH_TO_BORROW else np.zeros(k, dtype=bool)
    unknown[0] = True
    for each in (p, behind, needed):
        each[unknown] = np.nan
    winner = winner_interval(known, 0, larger_is_better) if k > 1 else None
    return Comparison(p, ahead, behind, winner, needed, k)


def _compare_two(values: Floats, larger_is_better: bool, level: float, match: bool, overlap: float) -> Comparison:
    """Compares two settings, which have nobody to borrow from."""
    sign = 1 if larger_is_better else -1
    found = fit(values, match, overlap)
    shared = found.seen.all(0)
    if match and shared.sum() > 1:
        one, other = values[:, shared]
        test = paired_t(one, other, overlap)
        ahead = float(sign * (one.mean() - other.mean()))
        variance = float((one - other).var(ddof=1))
    else:
        one, other = (row[np.isfinite(row)] for row in values)
        test = welch_t(one, other) if min(len(one), len(other)) > 1 else TTest(math.nan, math.nan)
        ahead = float(sign * (one.mean() - other.mean()))
        variance = float(one.var(ddof=1) + other.var(ddof=1)) if np.isfinite(test.p) else math.nan
    p, behind = test.p, math.nan
    if np.isfinite(p):
        t = float(stats.t.isf(p / 2, test.df))
        behind = max(ahead * (1 - float(stats.t.isf(level / 2, test.df)) / t), 0.0) if t > 0 else 0.0
    if ahead < 0 and np.isfinite(p):
        p, behind = 1.0, 0.0
    known = spreads(fit(values, False, overlap))
    winner = winner_interval(known, 0, larger_is_better) if known is not None else None
    pair = np.array([math.nan, ahead])
    return Comparison(
        np.array([math.nan, p]),
        pair,
        np.array([math.nan, behind]),
        winner,
        _needed(np.array([math.nan, variance]), pair, level),
        0,
    )


def _needed(variances: Floats, ahead: Floats, p: float) -> Floats:
    """Returns the replicates that give differences the p-value with the chance `POWER`.

    Args:
        variances: of the differences of single values [k].
        ahead: the differences [k].
        p: the p-value.
    """
    quantiles = stats.norm.isf(p / 2) + stats.norm.ppf(POWER)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.ceil(quantiles**2 * variances / ahead**2)
    return np.where((ahead > 0) & np.isfinite(needed), np.maximum(needed, 2.0), np.nan)
