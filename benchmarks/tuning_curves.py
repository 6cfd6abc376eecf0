"""How often the band of a tuning curve of random search contains the true curve, everywhere at once; and how often
`sweepstack compare` says that one search was not only tuned more than another, falsely and rightly; falsely, too, of
repeated searches that are compared with the grid whose points they try.

Searches are made up: independent draws from known distributions, whose true curve is a quantile, or random orders of a
grid. `curve_of_draws` and `compare_tuning`, which the command calls, see the draws alone. Numbers are drawn from a
fixed seed.

    python benchmarks/tuning_curves.py [--searches 10000]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sweepstack.metrics import Metric
from sweepstack.results.tuning.curves import CONFIDENCE, curve_of_draws
from sweepstack.results.tuning.searches import Kind, Search
from sweepstack.results.tuning.verdict import compare_tuning

Figures = NDArray[np.float64]
POINTS, TRIED = 2000, 100
"""The points of a grid, and how many of them each adaptive search tries."""
FAILED = 0.3
"""The share of trials that fail, where some do."""


def of_failures(part: Figures) -> Figures:
    """The quantiles of values from 0 to 1 of which some are missing, which is the worst."""
    return np.where(part > FAILED, (part - FAILED) / (1 - FAILED), -np.inf)


class Case(NamedTuple):
    words: str
    quantile: Callable[[Figures], Figures]
    """The inverse of the distribution function."""


CASES = (
    Case("uniform", stats.uniform.ppf),
    Case("normal", stats.norm.ppf),
    Case("heavy tails (t with 2 degrees)", partial(stats.t.ppf, df=2)),
    Case("most near the best (Beta 8, 0.5)", partial(stats.beta.ppf, a=8, b=0.5)),
    Case("accuracies of 360 images", partial(stats.binom.ppf, n=360, p=0.95)),
    Case("accuracies of 10 images", partial(stats.binom.ppf, n=10, p=0.8)),
    Case("two values", partial(stats.bernoulli.ppf, p=0.3)),
    Case("30 % of the trials fail", of_failures),
)
SIZES = (8, 24, 64, 256)


class Found(NamedTuple):
    """Of some searches."""

    held: int
    known: int
    """The most trials for which the band has an upper end."""


def count_held(number: int, size: int, searches: int) -> Found:
    """Makes so many searches of the case of that number; counts those whose band contains the true curve."""
    case, rng = CASES[number], np.random.default_rng((number, size))
    truth = case.quantile(0.5 ** (1 / np.arange(1, size + 1)))
    held, known = 0, 0
    for _ in range(searches):
        curve = curve_of_draws(case.quantile(rng.random(size)), True)
        assert curve.low is not None
        assert curve.high is not None
        held += bool((curve.low <= truth).all() and (truth <= curve.high).all())
        known = int((curve.high < np.inf).sum())
    return Found(held, known)


def count_verdicts(first: int, second: int, shift: float, searches: int) -> tuple[int, int]:
    """Compares so many pairs of searches; counts those in which the first, and the second one, is ahead somewhere.

    Args:
        first, second: the numbers of trials.
        shift: how much better the first search is, in standard deviations of its values.
        searches: the number of pairs.
    """
    rng = np.random.default_rng((first, second, int(100 * shift)))
    metric = Metric("val/accuracy", "max")
    ahead = [0, 0]
    for _ in range(searches):
        values = (rng.normal(shift, 1, first), rng.normal(0, 1, second))
        one, other = (
            Search(name, Kind.RANDOM, metric, (tuple(each.tolist()),), 0, frozenset(), frozenset(), ())
            for name, each in zip("AB", values, strict=True)
        )
        lead = compare_tuning(one, other).lead
        for which in (0, 1):
            ahead[which] += which in lead
    return ahead[0], ahead[1]


def count_equal_told_apart(repeated: int, searches: int) -> tuple[int, int]:
    """Compares a grid with searches that try its own points in random order, so many times.

    Returns:
        How often one is ahead, and how often the sentence says that it is better.
    """
    rng = np.random.default_rng(repeated)
    metric = Metric("val/accuracy", "max")
    points = rng.normal(0, 1, POINTS)
    grid = Search("B", Kind.GRID, metric, (tuple(points.tolist()),), 0, frozenset(), frozenset(), ())
    ahead, better = 0, 0
    for _ in range(searches):
        orders = tuple(tuple(rng.permutation(points)[:TRIED].tolist()) for _ in range(repeated))
        found = compare_tuning(Search("A", Kind.ADAPTIVE, metric, orders, 0, frozenset(), frozenset(), ()), grid)
        ahead += {*found.lead} != {None}
        better += "is better. " in found.sentence
    return ahead, better


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the bands of tuning curves hold.")
    parser.add_argument("--searches", type=int, default=10_000, help="of each case (default 10000)")
    count = parser.parse_args().searches
    error = math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / count)
    print(f"{count:,} searches each. Goal: the band holds in at least 95 %; standard error {100 * error:.2f} points\n")
    print("| distribution | " + " | ".join(f"{size} trials" for size in SIZES) + " |")
    print("|---|" + "---:|" * len(SIZES))
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        known = {}
        for number, case in enumerate(CASES):
            found = pool.starmap(count_held, [(number, size, count) for size in SIZES], chunksize=1)
            known = {size: one.known for size, one in zip(SIZES, found, strict=True)}
            print(
                f"| {case.words} | " + " | ".join(f"{100 * one.held / count:.1f} %" for one in found) + " |", flush=True
            )
        print("| the band has an upper end up to | " + " | ".join(f"{known[size]} trials" for size in SIZES) + " |\n")
        print("| trials of A | of B | A is better by (sd) | A is ahead somewhere | B is ahead somewhere |")
        print("|---:|---:|---:|---:|---:|")
        pairs = [(64, 24), (256, 24), (64, 64), (256, 256)]
        cases = [(first, second, shift) for shift in (0.0, 1.0, 2.0) for first, second in pairs]
        each = pool.starmap(count_verdicts, [(*case, count) for case in cases], chunksize=1)
        for (first, second, shift), ahead in zip(cases, each, strict=True):
            shares = " | ".join(f"{100 * one / count:.1f} %" for one in ahead)
            print(f"| {first} | {second} | {shift:g} | {shares} |", flush=True)
        print(f"\n| random orders of the same {POINTS:,} points | one is ahead | one is said to be better |")
        print("|---:|---:|---:|")
        repetitions = (6, 7, 8, 10, 20)
        each = pool.starmap(count_equal_told_apart, [(one, count) for one in repetitions], chunksize=1)
        for repeated, found_apart in zip(repetitions, each, strict=True):
            shares = " | ".join(f"{100 * one / count:.1f} %" for one in found_apart)
            print(f"| {repeated} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
