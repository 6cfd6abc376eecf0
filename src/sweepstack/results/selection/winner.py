"""An interval of the true value of the setting that was selected: being selected, it was lucky.

The zoom correction of Zrnic and Fithian (arXiv:2411.18569): an interval that holds whichever setting is selected, and
that is as narrow as a usual one where the winner is far ahead. Let r be a multiple of the standard error of each mean,
the same multiple for all, and R the largest of these. The winner's mean is off by at most its r if that of no setting
is off by more than its own, or, where that is more than R, by half of what it is behind in truth: for a setting can
only win if it is off by as much as it is behind, less R. A setting that is D behind by its mean is then behind by
2 (D - r) / 3 at least, where that is more than 2 R and r is the winner's; so the chance of an error above r is at most
the sum over all settings of their chances to be off by (D - r) / 3 if that is more than R, else by their own r.

What the common seeds do to all settings does not matter for who wins, but for the value. That error is Student's, and
independent of the other one, so that its sign does not depend on who wins. Nor is the interval narrower than Student's
of the winner's own values: the one setting that spreads far more than all others is taken for one of them now and then.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from sweepstack.results.selection.spread import Floats, Spreads
from sweepstack.results.selection.statistics import Interval, normal_quantile, student_quantile

ERRORS = np.concatenate([[0.0], np.geomspace(0.05, 8.0, 141), np.geomspace(8.0, 1000.0, 51)[1:]])
"""Errors r whose chances are computed, in units of the standard error of the winner."""
BLOCK = 256
"""Settings times errors that are computed at once."""
NEGLIGIBLE = 1e-6
"""A chance that is as good as none."""


def winner_interval(known: Spreads, best: int, larger_is_better: bool, confidence: float = 0.95) -> Interval:
    """Computes an interval of the true mean of the selected setting, which knows that it was selected.

    Args:
        known: what is known of the settings.
        best: the selected one.
        larger_is_better: the direction of the values.
        confidence: the chance, at least, that the interval holds.
    """
    found, count = known.fit, int(known.fit.counts[best])
    behind = np.maximum((found.means[best] - found.means) * (1 if larger_is_better else -1), 0.0)
    unit = math.sqrt(float(known.typical()[best]) * (1 / count + found.overlap))
    multiples, chances = _chances(behind, best, known)
    errors = multiples * unit
    middle, scale = float(found.means[best]), 0.0
    if found.matched and count > 1:
        effects = found.effects[found.seen[best]]
        middle += float(effects.mean())
        scale = float(effects.std(ddof=1)) * math.sqrt(1 / count + found.overlap)
    margin = _margin(errors, chances, scale, count - 1, 1 - confidence)
    if count > 1:
        own = known.fit.values[best][found.seen[best]]
        student = student_quantile((1 - confidence) / 2, count - 1) * float(own.std(ddof=1))
        margin = max(margin, student * math.sqrt(1 / count + found.overlap))
    return Interval(middle - margin, middle + margin)


def mean_of_left_out(known: Spreads, larger_is_better: bool) -> float:
    """Estimates the true mean of the best setting, the first one, without the luck that made it the best.

    Each replicate is left out of the choice in turn, and read of the setting that is the best by the others. That is
    too low where larger values are better, since the choice has one replicate less, and far too low if it falls on
    settings that spread far more; so the luck is at most what the best of so many equal settings has on average.

    Args:
        known: what is known of the settings. NaN if they have different replicates, or one only: who has more of them
            may have been lucky with the first.
        larger_is_better: the direction of the values.
    """
    values, sign = known.fit.values, 1 if larger_is_better else -1
    k, n = values.shape
    if n < 2 or not np.isfinite(values).all():
        return math.nan
    others = values.sum(1, keepdims=True) - values
    best = np.argmax(sign * others, axis=0)
    left_out = float(values[best, np.arange(n)].mean())
    usual = float(normal_quantile((k - 0.375) / (k + 0.25)))  # of the largest of k (Blom 1958)
    most = usual * math.sqrt(float(known.typical()[0]) * (1 / n + known.fit.overlap))
    raw = float(values[0].mean())
    return sign * min(max(sign * left_out, sign * raw - most), sign * raw)


def _chances(behind: Floats, best: int, known: Spreads) -> tuple[Floats, Floats]:
    """Returns some multiples of the winner's standard error [r], and bounds of the chances that its mean is off by more
    than these [r]: from the multiple whose bound is 1 to the one whose bound is negligible.

    Args:
        behind: how far each setting is behind the best one [k].
        best: the best one.
        known: what is known of the settings.
    """
    shares = 1 / known.fit.counts + known.fit.overlap
    usual = np.sqrt(known.typical() * shares)
    one_over = 1 / np.sqrt(known.variances * shares[:, None])  # [k, g]

    def sums(first: int, last: int) -> list[float]:
        errors = ERRORS[first:last, None] * usual
        of_far = (behind - errors[:, best, None]) / 3
        limits = np.where(of_far > errors.max(1, keepdims=True), of_far, errors)
        found: list[float] = np.einsum("kg,rkg->r", known.chances, special.ndtr(-limits[..., None] * one_over)).tolist()
        return found

    decreasing = float(behind.max() / (usual[best] + 3 * usual.max()))  # from here on no setting is far behind
    first = last = min(int(np.searchsorted(ERRORS, decreasing)), len(ERRORS) - 1)
    block = max(1, BLOCK // len(usual))
    found: list[float] = []
    while last < len(ERRORS) and (not found or found[-1] > NEGLIGIBLE):
        found += sums(last, last := min(last + block, len(ERRORS)))
    while first > 0 and max(found) < 0.5:  # which is the chance of any error at all
        end, first = first, max(first - block, 0)
        found = sums(first, end) + found
    bounds: Floats = np.minimum(2 * np.maximum.accumulate(found[::-1])[::-1], 1.0)
    return ERRORS[first:last], bounds


def _margin(errors: Floats, chances: Floats, scale: float, df: int, most: float) -> float:
    """Returns what the absolute sum of two errors exceeds with a given chance at most.

    Args:
        errors: the size of the first one exceeds these [r] ...
        chances: ... with these chances at most [r].
        scale: of the second one, which is Student's and independent; 0 if there is none.
        df: its degrees of freedom.
        most: the chance.
    """
    if scale == 0.0:
        return float(np.interp(-most, -chances, errors))
    shares = np.append(chances[:-1] - chances[1:], chances[-1])  # of errors up to the next one
    upper = np.append(errors[1:], np.inf)
    low, high = 0.0, float(errors[-1]) + scale * student_quantile(most / 4, df)
    for _ in range(60):
        middle = (low + high) / 2
        tails = special.stdtr(df, (upper - middle) / scale) + special.stdtr(df, (-upper - middle) / scale)
        low, high = (middle, high) if float((shares * tails).sum()) > most - 1e-12 else (low, middle)
    return high
