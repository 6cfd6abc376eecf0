"""What figures can tell: intervals, tests of two settings, and corrections for many of them. scipy does the
mathematics."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

EQUAL_WITHIN = 1e-6
"""Differences that are this near to each other, relative to the figures, are equal: rounding is no spread."""
LEAST = 1e-100  # a difference below it would be 0 when it is squared
MOST_DF = 1000.0  # from here on Student's t is the normal distribution, as far as corrections go
LEAST_P = 1e-200  # scipy finds no quantiles for p-values near the smallest numbers that there are


class Interval(NamedTuple):
    """Bounds that hold the true value in so many of hundred samples, 95 unless told."""

    low: float
    high: float


class Summary(NamedTuple):
    """Figures of some trials in short: mean, standard deviation (of the sample, n - 1), their number, and bounds for
    the mean that would be found with ever more of them. NaN where there are too few to tell."""

    mean: float
    sd: float
    n: int
    low: float
    high: float


class TTest(NamedTuple):
    """The two-sided p-value of a t-test and its degrees of freedom; NaN where the figures cannot tell."""

    p: float
    df: float


def wilson(hits: int, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share, such as an accuracy: unlike the usual one it stays in [0, 1] and is not empty
    at 0 and 1 (Wilson 1927, Journal of the American Statistical Association 22).

    Raises:
        ValueError: there is nothing to count (`count` of 0), or more hits than that.
    """
    if not 0 <= hits <= count or count == 0:
        raise ValueError(f"a share needs 0 <= hits <= count and a count from 1, got {hits} of {count}")
    found = stats.binomtest(hits, count).proportion_ci(confidence, method="wilson")
    share = hits / count  # is inside but for rounding
    return Interval(min(float(found.low), share), max(float(found.high), share))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Summary:
    """Mean of some figures [n] with Student's interval, mean +- t(n - 1) sd / sqrt(n). One figure tells no spread: sd
    and bounds are NaN. So is all but n where there are no figures, or a NaN is among them."""
    figures = np.asarray(values, dtype=float)
    n = len(figures)
    mean = float(figures.mean()) if n else math.nan
    if n < 2 or not np.isfinite(figures).all():
        return Summary(mean, math.nan, n, math.nan, math.nan)
    sd = float(figures.std(ddof=1))
    reach = float(stats.t.isf((1 - confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(mean, sd, n, mean - reach, mean + reach)


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> float:
    """Exact two-sided p-value for two classifiers being equally good, from the same images (McNemar 1947, Psychometrika
    12): only images which one of them alone gets right can tell, and such an image is as likely to be one's as the
    other's. 1.0 where there is no such image.

    Args:
        first_right, second_right: whether each image was classified rightly, bool [n], in the same order.

    Raises:
        ValueError: they are not of the same images.
    """
    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"both should be about the same images, got {first.shape} and {second.shape} of them")
    alone, discordant = int((first & ~second).sum()), int((first != second).sum())
    return float(stats.binomtest(alone, discordant).pvalue) if discordant else 1.0


def paired_t(first: ArrayLike, second: ArrayLike) -> TTest:
    """Student's t-test of the differences of matched figures [n], such as those of two settings with the same seeds:
    what a seed does to both of them cancels. n - 1 degrees of freedom.

    Where all differences are the same, as happens with accuracies on few images, there is no spread to compare with:
    p is 1 if they are zero, else NaN, and never 0."""
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    differences = one - other
    if len(differences) < 2 or not np.isfinite(differences).all():
        return TTest(math.nan, math.nan)
    little = max(EQUAL_WITHIN * max(np.abs(one).max(), np.abs(other).max()), LEAST)
    if np.ptp(differences) <= little:
        return TTest(1.0 if np.abs(differences).max() <= little else math.nan, len(differences) - 1)
    return TTest(float(stats.ttest_1samp(differences, 0.0).pvalue), len(differences) - 1)


def welch_t(first: ArrayLike, second: ArrayLike) -> TTest:
    """Welch's t-test of the means of figures [n] and [m] that do not match, with unequal variances (Welch 1947,
    Biometrika 34). Where neither has any spread, the same as in `paired_t`.

    Where n and m differ, Welch's degrees of freedom are too many: with 2 and 10 equal figures he is wrong in 10 cases
    of 100 at p = 0.05, by simulation. Then it is one less than the smaller of them, the bound for all variances
    (Mickey and Brown 1966, Annals of Mathematical Statistics 37)."""
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if min(len(one), len(other)) < 2 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return TTest(math.nan, math.nan)
    little = max(EQUAL_WITHIN * max(np.abs(one).max(), np.abs(other).max()), LEAST)
    if max(np.ptp(one), np.ptp(other)) <= little:
        return TTest(1.0 if abs(one.mean() - other.mean()) <= little else math.nan, len(one) + len(other) - 2)
    variances = np.array([one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)])
    df = float(min(len(one), len(other)) - 1)
    if len(one) == len(other):
        df *= float(variances.sum() ** 2 / (variances**2).sum())
    distance = abs(one.mean() - other.mean()) / math.sqrt(variances.sum())
    return TTest(float(2 * stats.t.sf(distance, df)), df)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values [k] corrected for being k of them (Holm 1979, Scandinavian Journal of Statistics 6): the smallest times
    k, the next times k - 1, and so on, none smaller than the one before and none above 1. Good for any dependence, as
    long as the comparisons were fixed before the figures were seen; `holm_with_best` is for those that were not."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def holm_with_best(p_values: ArrayLike, df: ArrayLike, groups: int) -> NDArray[np.float64]:
    """p-values [k] of t-tests of the best against others, corrected for being many and for the best having been chosen
    by the same figures.

    The winner of m equal groups was lucky, so its p-values are too small, and Holm's correction is not enough: of 27
    equal settings with 3 seeds it sets one apart in 12 tables of 100, with 10 seeds in 21. Holm's correction over all
    m (m - 1) / 2 pairs is safe whatever was chosen, and needs differences twice as large. Here the p-value in Holm's
    sum over the comparisons that are left is replaced by the chance that the winner of m equal groups has such a
    p-value against one of the others, m being the groups that are left; see `_chances_with_best`. With two groups that
    is p.
    The groups' means are taken as normal and equally exact. By simulation at most 5 tables of 100 are wrong, also where
    standard deviations differ tenfold; a pooled standard deviation (Tukey) is wrong in 30 of those.

    Args:
        df: degrees of freedom of each test [k]; infinity for a test by the normal distribution.
        groups: how many competed for being the best, at least k + 1.
    """
    p, freedom = np.asarray(p_values, dtype=float), np.minimum(np.ceil(df), MOST_DF)  # ceil: Welch's are all different
    order = np.argsort(p, kind="stable")
    corrected = np.ones_like(p)
    highest = 0.0
    for step, place in enumerate(order):
        kinds, counts = np.unique(freedom[order[step:]], return_counts=True)
        highest = max(highest, float(counts @ _chances_with_best(float(p[place]), kinds, groups - step)))
        if highest >= 1.0:
            break
        corrected[place] = highest
    return corrected


def _chances_with_best(p: float, df: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """The chances that the best of so many equal groups differs from a given other one with a p-value of at most `p`,
    for tests with these degrees of freedom [k].

    In units of the standard error of a mean let D be the distance of the best mean from another one, and s^2 ~
    chi^2(df) / df the estimated variance, which does not depend on the means. Then t = D / (sqrt(2) s) is at least c if
    chi^2(df) <= df D^2 / (2 c^2), and the density of D is m * integral of phi(x) Phi(x)^(m - 2) phi(x - D) dx. Both
    integrals are sums over fixed grids, so that the same figures give the same digits."""
    limit = np.maximum(stats.t.isf(max(p, LEAST_P) / 2, df), 1e-9)[:, None]
    distance, x, kernel = _grids()
    density = kernel @ (groups * np.exp((groups - 2) * special.log_ndtr(x)))
    chances: NDArray[np.float64] = (
        special.gammainc(df[:, None] / 2, df[:, None] * (distance / (2 * limit)) ** 2) @ density
    )
    return chances


@functools.cache
def _grids() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Midpoints of distances [d] and of means [x], and phi(x) phi(x - distance) [d, x] times the widths of both."""
    wide, narrow = 14 / 1000, 18 / 360
    distance = wide * (np.arange(1000, dtype=np.float64) + 0.5)
    x = narrow * (np.arange(360, dtype=np.float64) + 0.5) - 9
    kernel: NDArray[np.float64] = stats.norm.pdf(x) * stats.norm.pdf(x - distance[:, None]) * wide * narrow
    return distance, x, kernel
