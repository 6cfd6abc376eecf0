"""Compares settings by their values for several seeds or folds: which are worse than the best, and by how much."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sweepstack.results.selection.spread import Fit, Floats, Levels, Spreads, fit, limits, p_values, spreads
from sweepstack.results.selection.statistics import (
    Interval,
    TTest,
    holm_with_best,
    normal_quantile,
    p_of_first_step,
    paired_t,
    student_quantile,
    welch_t,
)
from sweepstack.results.selection.winner import mean_of_left_out, winner_interval

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
    left_out: float = math.nan
    """An estimate of the true mean of the best setting, see `winner.mean_of_left_out`; NaN if there is none."""

    def times(self, unit: float) -> Comparison:
        """Returns the comparison of values that were divided by a unit, for the values themselves."""
        winner = None if self.winner is None else Interval(unit * self.winner.low, unit * self.winner.high)
        left_out = unit * self.left_out
        return replace(self, ahead=unit * self.ahead, behind=unit * self.behind, winner=winner, left_out=left_out)

    def of(self, order: NDArray[np.intp]) -> Comparison:
        """Returns the comparison of the same settings in another order [k]."""
        rows = {name: getattr(self, name)[order] for name in ("p", "ahead", "behind", "needed")}
        return replace(self, **rows)


def as_array(objectives: Sequence[Mapping[Hashable, float]], order: Sequence[Hashable] | None = None) -> Floats:
    """Returns the values of settings and their replicates [k, n]; NaN where there is none.

    Args:
        objectives: the values of each setting by their replicates.
        order: the replicates [n]; by default those of the first setting first.
    """
    labels = order if order is not None else dict.fromkeys(one for each in objectives for one in each)
    column_of = {label: column for column, label in enumerate(labels)}
    values = np.full((len(objectives), len(column_of)), np.nan)
    for row, each in zip(values, objectives, strict=True):
        row[[column_of[label] for label in each]] = list(each.values())
    return values


def compare_values(
    values: Floats,
    larger_is_better: bool,
    level: float = 0.05,
    match: bool = True,
    overlap: float = 0.0,
    levels: Levels | None = None,
    share: float = 1.0,
) -> Comparison:
    """Compares settings with the best one. With two settings this is Student's t-test of the differences, or Welch's
    where their seeds do not match; with more, all spreads are estimated together, see `spread`.

    Args:
        values: of k settings, the best first, and their replicates [k, n]; NaN where there is none, at least one each.
        larger_is_better: the direction of the values.
        level: the chance that any setting that is as good as the best is told apart.
        match: False if equal replicates have nothing in common.
        overlap: see `statistics.mean_interval`.
        levels: the levels of the params of each setting, on which its spread may depend.
        share: the share of that chance which this test has; the p-values are divided by it, so that `level` is their
            limit. The others are of further tests of the same settings, see `sequential`.
    """
    unit = unit_of(values)
    if len(values) == 2:
        return _compare_two(values / unit, larger_is_better, level, match, overlap, share).times(unit)
    found = fit(values / unit, match, overlap)
    known = spreads(found, levels)
    among = np.ones(len(values), dtype=bool)
    compared = compare_among(found, known, among, 0, len(values), larger_is_better, level, share)
    if known is not None and len(values) > 1:
        winner = winner_interval(known, 0, larger_is_better, 1 - level)
        compared = replace(compared, winner=winner, left_out=mean_of_left_out(known, larger_is_better))
    return compared.times(unit)


def unit_of(values: Floats) -> float:
    """Returns the unit in which values are at most 1: squares of very large or small ones would be infinite or 0."""
    return float(np.nanmax(np.abs(values))) or 1.0


def compare_among(
    found: Fit,
    known: Spreads | None,
    among: NDArray[np.bool_],
    best: int,
    number: int,
    larger_is_better: bool,
    level: float,
    share: float = 1.0,
) -> Comparison:
    """Compares some of three or more settings with the best of them, by spreads that all settings tell.

    Args:
        found: all settings [k].
        known: what is known of their spreads; None if there is none.
        among: the settings that are compared [k]. The others have NaN in the result.
        best: the index of the best one.
        number: the number of settings that it was chosen from.
        larger_is_better: the direction of the values.
        level, share: see `compare_values`.
    """
    k = len(found.means)
    ahead = (1 if larger_is_better else -1) * (found.means[best] - found.means)
    others = among & (np.arange(k) != best)
    p, behind, needed = (np.full(k, np.nan) for _ in range(3))
    if known is None:
        if found.df.any():
            p[others & (ahead <= found.tolerance + found.tolerance[best])] = 1.0
        return Comparison(p, ahead, behind, None, needed, k)
    variances, chances = known.mixtures(best, others)
    single = p_of_first_step(number, level * share) if number > 1 else level * share
    gaps = ahead[others]
    raw = np.ones(max(number - 1, len(gaps)))  # those that cannot be compared count as equal
    raw[: len(gaps)] = np.where(gaps < 0, 1.0, p_values(gaps, variances, chances))
    corrected = holm_with_best(raw, np.full(len(raw), np.inf), len(raw) + 1)[: len(gaps)]
    p[others] = np.where(gaps < 0, 1.0, np.minimum(corrected / share, 1.0))
    behind[others] = np.maximum(gaps - limits(single, variances, chances), 0.0)
    typical = known.typical()
    needed[others] = _needed(typical[best] + typical[others], gaps, single)
    if np.sum(found.counts > 1) < ENOUGH_TO_BORROW:
        for each in (p, behind, needed):
            each[found.counts < 2] = np.nan
    return Comparison(p, ahead, behind, None, needed, k)


def _compare_two(
    values: Floats, larger_is_better: bool, level: float, match: bool, overlap: float, share: float
) -> Comparison:
    """Compares two settings, which have nobody to borrow from; see `compare_values`."""
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
        t = student_quantile(p / 2, test.df)
        behind = max(ahead * (1 - student_quantile(level * share / 2, test.df) / t), 0.0) if t > 0 else 0.0
        p = min(p / share, 1.0)
    if ahead < 0 and np.isfinite(p):
        p, behind = 1.0, 0.0
    known = spreads(fit(values, False, overlap))
    winner = winner_interval(known, 0, larger_is_better, 1 - level) if known is not None else None
    left_out = mean_of_left_out(known, larger_is_better) if known is not None else math.nan
    pair = np.array([math.nan, ahead])
    return Comparison(
        np.array([math.nan, p]),
        pair,
        np.array([math.nan, behind]),
        winner,
        _needed(np.array([math.nan, variance]), pair, level * share),
        0,
        left_out,
    )


def _needed(variances: Floats, ahead: Floats, p: float) -> Floats:
    """Returns the replicates that give differences the p-value with the chance `POWER`.

    Args:
        variances: of the differences of single values [k].
        ahead: the differences [k].
        p: the p-value.
    """
    quantiles = normal_quantile(POWER) - normal_quantile(p / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.ceil(quantiles**2 * variances / ahead**2)
    return np.where((ahead > 0) & np.isfinite(needed), np.maximum(needed, 2.0), np.nan)
