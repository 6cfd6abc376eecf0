"""Compares settings whose seeds were added after looking at the results; valid however often one looks.

Whoever adds seeds until settings differ finds a difference in the end, even where there is none. So the chance of an
error is divided between all numbers of seeds at which somebody may look (Bonferroni): with seeds in the order in which
they were added, and the first table at f of them, the test of the first m seeds has the share (f - 1) / (m (m - 1)) of
`LATER_SHARE` of it. The fractions of m = f, f + 1, ... sum to 1, so that the chance of any error at all is bounded,
whenever one stops.

A setting that is told apart from the best of some number of seeds cannot be the best, so it need not get further seeds.
Those that do get some are compared by seeds that all of them have. Undecided settings that get none, because somebody
chose others, count as settings that the best one was chosen from, so that the choice cannot make an error more likely.

The shares are those of all looks of this kind. A first table, to which nothing was added, has `FIRST_SHARE` of the
level. Most of its errors are errors of later looks, too: all together 5.2 sweeps of 100 have an error at the level of
5 %, by simulation of two equal settings that are looked at from 2 seeds to 20, and fewer with more settings or seeds.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sweepstack.results.selection.replicates import Comparison, compare_among, compare_values, unit_of
from sweepstack.results.selection.spread import Floats, Levels, fit, spreads
from sweepstack.results.selection.statistics import Interval
from sweepstack.results.selection.winner import winner_interval

FIRST_SHARE = 0.9
"""The share of the chance of an error that the test of a first table has: seeds may be added to it."""
LATER_SHARE = 0.8
"""The share that all tests after seeds were added have together."""


class Added(NamedTuple):
    """How the replicates of a table were added one after the other."""

    order: tuple[Hashable, ...]
    """The replicates in the order in which they were added."""
    first: int
    """The number of replicates of the first table."""
    later: bool
    """True if some were added; False if that may only follow."""


def share_of_level(count: int, first: int) -> float:
    """Returns which share of the chance of an error the test of the first seeds has.

    Args:
        count: the number of seeds, at least `first`.
        first: the number of seeds of the first table, at least 2.
    """
    return LATER_SHARE * (first - 1) / (count * (count - 1))


def compare_in_stages(
    values: Floats,
    first: int,
    larger_is_better: bool,
    level: float = 0.05,
    match: bool = True,
    overlap: float = 0.0,
    levels: Levels | None = None,
    may_win: NDArray[np.bool_] | None = None,
) -> Comparison:
    """Compares settings with the best one, at each number of replicates that the table has had or may have had. In the
    end, the best one is the first that is not told apart.

    Args:
        values: of k settings, those first that come first in the table, and their replicates in the order in which
            these were added [k, n]; NaN where there is none. Each setting has one value at least.
        first: the number of replicates of the first table.
        larger_is_better: the direction of the values.
        level: the chance that any setting that is as good as the best is told apart, whenever somebody looks.
        match: False if equal replicates have nothing in common.
        overlap: see `statistics.mean_interval`.
        levels: see `compare_values`.
        may_win: the settings that others are compared with [k], unless none of them is left; by default all.

    Returns:
        The comparison. Its p-values are the smallest over all numbers of replicates, each divided by its share of the
        level, so that `level` is their limit; NaN for the best setting.
    """
    k, n = values.shape
    first = min(max(first, 2), n)
    seen = np.isfinite(values)
    may_win = np.ones(k, dtype=bool) if may_win is None else may_win
    sign, unit = 1 if larger_is_better else -1, unit_of(values)
    p, behind, needed = (np.full(k, np.nan) for _ in range(3))
    known = None
    for count in range(max(first, 2), n + 1):
        share = share_of_level(count, first)
        there = seen[:, :count].any(1)
        undecided = ~(p <= level) & there
        goes_on = undecided & (seen[:, count - 1] | (count == first))
        rivals = goes_on & may_win if (goes_on & may_win).any() else goes_on
        if goes_on.sum() < 2:
            continue
        rows = np.flatnonzero(there)
        part = values[rows, :count] / unit
        if k == 2:
            shared = part[:, np.isfinite(part).all(0)] if match else part
            means = sign * np.nanmean(shared if shared.shape[1] else part, axis=1)
            order = np.lexsort([-means, ~rivals])  # of two, its own inverse
            found = compare_values(part[order], larger_is_better, level, match, overlap, share=share).of(order)
        else:
            fitted = fit(part, match, overlap)
            known = spreads(fitted, None if levels is None else levels[rows])
            best = int(np.argmax(np.where(rivals[rows], sign * fitted.means, -np.inf)))
            number = int(undecided.sum())
            found = compare_among(fitted, known, goes_on[rows], best, number, larger_is_better, level, share)
        p[rows] = np.fmin(p[rows], found.p)
        behind[rows] = np.fmax(behind[rows], unit * found.behind)
        needed[rows] = found.needed
    best = int(np.argmin(p <= level))
    p[best] = np.nan
    fitted = fit(values / unit, match and k > 2, overlap)
    if known is None or known.fit.values.shape != values.shape:
        known = spreads(fitted, levels if k > 2 else None)
    winner = None
    if known is not None and n > 1:
        low, high = winner_interval(known, best, larger_is_better, 1 - level * share_of_level(n, first))
        winner = Interval(unit * low, unit * high)
    ahead = unit * sign * (fitted.means[best] - fitted.means)
    return Comparison(p, ahead, behind, winner, needed, k if k > 2 else 0)
