"""Compares settings whose seeds were added after looking at the results; valid however often one looks.

Whoever adds seeds until settings differ finds a difference in the end, even where there is none. So the chance of an
error is divided between all numbers of seeds at which somebody may look (Bonferroni): with seeds in the order in which
they were added, and the first table at f of them, the test of the first m seeds has the share (f - 1) / (m (m - 1)) of
it. The shares of m = f, f + 1, ... sum to 1, so that the chance of any error at all is the level, whenever one stops.

A setting that is told apart from the best of some number of seeds cannot be the best, so it need not get further seeds;
those that do are compared by seeds that all of them have. Which settings go on depends on the values, but as long as no
error was made, all that are truly the best are among them; so the correction counts only those that go on, as Holm's
procedure does.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sweepstack.results.selection.replicates import Comparison, compare_among, compare_values
from sweepstack.results.selection.spread import Floats, fit, spreads
from sweepstack.results.selection.statistics import Interval
from sweepstack.results.selection.winner import winner_interval


class Added(NamedTuple):
    """How the replicates of a table were added one after the other."""

    order: tuple[Hashable, ...]
    """The replicates in the order in which they were added."""
    first: int
    """The number of replicates of the first table."""


def share_of_level(count: int, first: int) -> float:
    """Returns which share of the chance of an error the test of the first seeds has.

    Args:
        count: the number of seeds, at least `first`.
        first: the number of seeds of the first table, at least 2.
    """
    return (first - 1) / (count * (count - 1))


def compare_in_stages(
    values: Floats,
    first: int,
    larger_is_better: bool,
    level: float = 0.05,
    match: bool = True,
    overlap: float = 0.0,
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
        may_win: the settings that others are compared with [k], unless none of them is left; by default all.

    Returns:
        The comparison. Its p-values are the smallest over all numbers of replicates, each divided by its share of the
        level, so that `level` is their limit; NaN for the best setting.
    """
    k, n = values.shape
    first = min(max(first, 2), n)
    seen = np.isfinite(values)
    may_win = np.ones(k, dtype=bool) if may_win is None else may_win
    p, behind, needed = (np.full(k, np.nan) for _ in range(3))
    for count in range(max(first, 2), n + 1):
        share = share_of_level(count, first)
        goes_on = ~(p <= level) & (seen[:, :count].any(1) if count == first else seen[:, count - 1])
        if goes_on.sum() < 2:
            continue
        rows = np.flatnonzero(seen[:, :count].any(1))
        part = values[rows, :count]
        among = goes_on[rows]
        rivals = among & may_win[rows] if (goes_on & may_win).any() else among
        test = _compare_both if k == 2 else compare_among
        found = test(part, among, rivals, larger_is_better, level * share, match, overlap)
        p[rows] = np.fmin(p[rows], np.minimum(found.p / share, 1.0))
        behind[rows] = np.fmax(behind[rows], found.behind)
        needed[rows] = found.needed
    best = int(np.argmin(p <= level))
    p[best] = np.nan
    unit = float(np.nanmax(np.abs(values))) or 1.0
    fitted = fit(values / unit, match and k > 2, overlap)
    known, winner = spreads(fitted), None
    if known is not None and n > 1:
        low, high = winner_interval(known, best, larger_is_better, 1 - level * share_of_level(n, first))
        winner = Interval(unit * low, unit * high)
    ahead = unit * (1 if larger_is_better else -1) * (fitted.means[best] - fitted.means)
    return Comparison(p, ahead, behind, winner, needed, k if k > 2 else 0)


def _compare_both(
    values: Floats,
    among: NDArray[np.bool_],
    rivals: NDArray[np.bool_],
    larger_is_better: bool,
    level: float,
    match: bool,
    overlap: float,
) -> Comparison:
    """Compares two settings; see `replicates.compare_among`."""
    del among
    shared = np.isfinite(values).all(0)
    means = np.nanmean(values[:, shared] if match and shared.any() else values, axis=1)
    order = np.lexsort([-means if larger_is_better else means, ~rivals])  # its own inverse
    found = compare_values(values[order], larger_is_better, level, match, overlap)
    return replace(found, p=found.p[order], behind=found.behind[order], needed=found.needed[order])
