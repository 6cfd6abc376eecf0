"""Tuning curves: how good the best of n trials is, by the median, for each n.

Of n independent draws the best one is at most y with probability F(y)^n, so the median of the best is the quantile of F
at 0.5^(1/n). Bounds of F that hold at once become bounds of the whole curve (Lourie, Cho and He 2024,
arXiv:2311.09480). They use nothing but the order of the values: F at the k-th smallest of N draws is distributed as
Beta(k, N + 1 - k), so every F between two quantiles of these distributions is possible. How extreme the quantiles must
be for the curve to be inside at all n at once is computed, not simulated: for draws without ties the band holds with
the given confidence, and with as little more as the steps of its levels admit; with ties more often.

The points of a grid are no draws: they are all there is. The best of n of them in random order follows from counting,
and for random search the same count is the estimate.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

CONFIDENCE = 0.95
"""The chance that a band holds."""
PRECISION = 1e-3
"""How exactly the logarithm of the tails is found."""
SLACK = 1e-9
"""Relative rounding error of probabilities that are counted."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """How good the best of 1, 2, ... n trials is. A trial without a value counts as infinitely bad."""

    median: Floats
    """The median of the best [n]."""
    low: Floats | None = None
    """The lower end of the band [n]; None without a band. It is infinite where nothing is known."""
    high: Floats | None = None
    """The upper end of the band [n]."""

    def __len__(self) -> int:
        return len(self.median)


def curve_of_points(values: ArrayLike, larger_is_better: bool, share: float = CONFIDENCE) -> Curve:
    """Computes the curve of the best of n of some points in random order; it is exact.

    Args:
        values: the values of all points [N].
        larger_is_better: the direction of the values.
        share: the share of random orders inside the band, at each number of trials.
    """
    worth = np.sort(_worth(values, larger_is_better))
    median, worst, best = (_best_of_orders(worth, chance) for chance in (0.5, (1 - share) / 2, (1 + share) / 2))
    return _curve(median, worst, best, larger_is_better)


def curve_of_draws(values: ArrayLike, larger_is_better: bool, confidence: float = CONFIDENCE) -> Curve:
    """Estimates the curve of random search, with a band that holds for all numbers of trials at once.

    Args:
        values: the values of independent draws [N].
        larger_is_better: the direction of the values.
        confidence: the chance, at least, that the band contains the true curve.
    """
    worth = np.sort(_worth(values, larger_is_better))
    low, high = bounds_of_ranks(len(worth), confidence)
    at = _levels(len(worth))
    worst = np.concatenate([[-np.inf], worth])[np.searchsorted(np.append(high, 1.0), at)]
    best = np.append(worth, np.inf)[np.searchsorted(low, at)]
    return _curve(_best_of_orders(worth, 0.5), worst, best, larger_is_better)


def curve_of_repetitions(
    searches: Sequence[ArrayLike], larger_is_better: bool, confidence: float = CONFIDENCE
) -> Curve:
    """Computes the median of the best so far over repeated searches, whose trials have an order.

    The band is of the median search, at each number of trials on its own, by the order statistics of the sign test: it
    leaves the true median out somewhere far more often. Fewer than six searches give none at 95 %.

    Args:
        searches: the values of each search, in the order in which it tried them.
        larger_is_better: the direction of the values.
        confidence: the chance, at least, that the band contains the true median at a number of trials.
    """
    length = min(len(np.asarray(one)) for one in searches)
    so_far = [np.maximum.accumulate(_worth(one, larger_is_better))[:length] for one in searches]
    worth = np.sort(np.stack(so_far), axis=0)
    count = len(worth)
    below = special.bdtr(
        np.arange(count), count, 0.5
    )  # the chances that so many values, or fewer, are below the median
    left_out = int(np.searchsorted(below, (1 - confidence) / 2, side="right")) - 1
    median = worth[(count - 1) // 2]
    if left_out < 0:
        return _curve(median, None, None, larger_is_better)
    return _curve(median, worth[left_out], worth[count - 1 - left_out], larger_is_better)


@functools.lru_cache(maxsize=16)
def bounds_of_ranks(count: int, confidence: float = CONFIDENCE) -> tuple[Floats, Floats]:
    """Computes bounds of a distribution function at the sorted values of draws from it [count].

    They are quantiles of the same two tails for each rank, as extreme as necessary for the tuning curve: it reads them
    at some levels only, and a draw that is out of bounds counts if a level is between them.

    Args:
        count: the number of draws.
        confidence: the chance, at least, that the curve is inside at 1 to `count` trials.
    """
    levels = _levels(count)

    def hold(exponent: float) -> bool:
        low, high = _quantiles(count, math.exp(exponent))
        low = np.concatenate([[0.0], levels])[np.searchsorted(levels, low, side="right")]
        high = np.append(levels, 1.0)[np.searchsorted(levels, high, side="right")]
        return chance_inside(low, high) >= confidence

    tail, too_large = math.log((1 - confidence) / (2 * count)), math.log(1 - confidence)  # from Bonferroni to one side
    while too_large - tail > PRECISION:
        middle = (tail + too_large) / 2
        tail, too_large = (middle, too_large) if hold(middle) else (tail, middle)
    return _quantiles(count, math.exp(tail))


def chance_inside(low: Floats, high: Floats) -> float:
    """Computes the chance that the sorted values of uniform draws [n] all are within bounds.

    The draws are taken as the points of a Poisson process of which there are n, which walks from bound to bound: at
    `low[k]` at most k points have come, at `high[k]` at least k + 1. All terms are positive, so nothing cancels
    (compare Moscovich and Nadler 2017, Statistics & Probability Letters 123).

    Args:
        low, high: the bounds, ascending.
    """
    n = len(low)
    logs = special.gammaln(np.arange(1.0, n + 2))
    steps = [
        *((at, k, True) for k, at in enumerate(low.tolist())),
        *((at, k, False) for k, at in enumerate(high.tolist())),
    ]
    weights, fewest, most, before = np.ones(1), 0, 0, 0.0  # weights[i]: of fewest + i points
    for at, k, is_low in [*sorted(steps), (1.0, n, True)]:
        if at > before:
            mean = n * (at - before)
            size = min(most + 1 - fewest, int(mean + 10 * math.sqrt(mean) + 30))
            chances = np.exp(special.xlogy(np.arange(size), mean) - mean - logs[:size])
            weights = np.convolve(weights, chances)
            before = at
        weights = weights[: most + 1 - fewest]
        if is_low:
            most = k + 1
        else:
            weights, fewest = weights[max(k + 1 - fewest, 0) :], max(k + 1, fewest)
    return float(weights[n - fewest] / math.exp(n * math.log(n) - n - logs[n]))


def _levels(count: int) -> Floats:
    """Returns the levels of F whose quantiles are the medians of the best of 1, 2, ... draws [count]."""
    found: Floats = 0.5 ** (1 / np.arange(1, count + 1))
    return found


def _quantiles(count: int, tail: float) -> tuple[Floats, Floats]:
    """Returns the quantiles of each rank of uniform draws that leave out `tail` on both sides."""
    rank = np.arange(1, count + 1)
    low: Floats = special.betaincinv(rank, count + 1 - rank, tail)
    return low, 1 - low[::-1]


def _best_of_orders(worth: Floats, chance: float) -> Floats:
    """Returns the quantiles of the best of 1, 2, ... N of N sorted points in random order [N].

    The best of n is at most the i-th with probability C(i, n) / C(N, n); the smallest such i is found by bisection.
    """
    count = len(worth)
    n = np.arange(1, count + 1)
    every = special.gammaln(count + 1.0) - special.gammaln(count - n + 1.0)
    low, high = n.copy(), np.full(count, count)
    while (low < high).any():
        middle = (low + high) // 2
        enough = special.gammaln(middle + 1.0) - special.gammaln(middle - n + 1.0) - every >= math.log(chance) - SLACK
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    found: Floats = worth[low - 1]
    return found


def _worth(values: ArrayLike, larger_is_better: bool) -> Floats:
    """Returns values of which the largest is the best; a missing one is the worst."""
    given = np.asarray(values, dtype=float)
    return np.where(np.isfinite(given), given if larger_is_better else -given, -np.inf)


def _curve(median: Floats, worst: Floats | None, best: Floats | None, larger_is_better: bool) -> Curve:
    if larger_is_better:
        return Curve(median, worst, best)
    return Curve(-median, None if best is None else -best, None if worst is None else -worst)
