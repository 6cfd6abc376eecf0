"""How often a table of a sweep sets a setting apart from the best though it is as good, and how often rightly.

Tables are made up: every setting has a figure for each seed, normally distributed, with an effect of the seed that all
settings share. The best is the one with the highest mean, as `results.selection` takes it, and is compared with each
other one by a paired t-test over the seeds. Three corrections for that being many comparisons: Holm's over those with
the best, which forgets that the best was chosen by the same figures; Holm's over all pairs; and `holm_with_best` of
`results.statistics`, which is what the marks of a table are made with. A false mark is a table in which any setting
that is truly as good as the best is told apart from it. Numbers are drawn from a fixed seed.

    python benchmarks/false_marks.py [--tables 10000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sweepstack.results.selection.statistics import holm, holm_with_best

LEVEL = 0.05
Figures = NDArray[np.float64]


class Case(NamedTuple):
    words: str
    settings: int
    seeds: int
    worse: int = 0
    """Settings that are truly worse, by `gap`."""
    gap: float = 0.0
    """In standard deviations of a figure."""
    noisy: int = 0
    """Settings of ten times the standard deviation."""


CASES = (
    *(Case("all equal", settings, seeds) for settings in (2, 9, 27) for seeds in (2, 3, 5, 10)),
    Case("equal, one of 10 times the sd", 27, 3, noisy=1),
    Case("equal, half of 10 times the sd", 27, 3, noisy=13),
    Case("half worse by 10 sd", 9, 3, 4, 10.0),
    Case("half worse by 10 sd", 27, 3, 13, 10.0),
    Case("half worse by 40 sd", 27, 3, 13, 40.0),
    Case("half worse by 10 sd", 27, 5, 13, 10.0),
)


def tables(case: Case, count: int) -> Figures:
    """Figures [count, settings, seeds]; the settings that are worse come last."""
    rng = np.random.default_rng(0)
    figures = rng.normal(size=(count, case.settings, case.seeds))
    figures[:, : case.noisy] *= 10.0
    figures[:, case.settings - case.worse :] -= case.gap
    return figures + rng.normal(size=(count, 1, case.seeds))


def paired(differences: Figures) -> Figures:
    """Two-sided p-values [...] of differences [..., seeds]."""
    seeds = differences.shape[-1]
    t = differences.mean(-1) / (differences.std(-1, ddof=1) / np.sqrt(seeds))
    return np.asarray(2 * stats.t.sf(np.abs(t), seeds - 1))


def with_the_best(table: Figures, best: int) -> Figures:
    return holm(paired(np.delete(table[best] - table, best, axis=0)))


def all_pairs(table: Figures, best: int) -> Figures:
    one, other = np.triu_indices(len(table), 1)
    return holm(paired(table[one] - table[other]))[(one == best) | (other == best)]


def chosen(table: Figures, best: int) -> Figures:
    p = paired(np.delete(table[best] - table, best, axis=0))
    return holm_with_best(p, np.full(len(p), table.shape[1] - 1.0), len(table))


CORRECTIONS: dict[str, Callable[[Figures, int], Figures]] = {
    "Holm, with the best": with_the_best,
    "Holm, all pairs": all_pairs,
    "holm_with_best": chosen,
}


def rates(case: Case, count: int, correct: Callable[[Figures, int], Figures]) -> tuple[float, float]:
    """The share of tables with a false mark, and of the worse settings the share that is told apart."""
    false, right = 0, 0
    for table in tables(case, count):
        best = int(table.mean(1).argmax())
        apart = np.insert(correct(table, best) <= LEVEL, best, False)
        false += bool(apart[: case.settings - case.worse].any())
        right += int(apart[case.settings - case.worse :].sum())
    return false / count, right / count / case.worse if case.worse else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description="How often settings are told apart, falsely and rightly.")
    parser.add_argument("--tables", type=int, default=10_000, help="of each case (default 10000)")
    count = parser.parse_args().tables
    print(f"{count:,} tables each: false marks (goal: at most 5 in 100) / of the worse settings, those told apart\n")
    print(f"| settings | seeds | case | {' | '.join(CORRECTIONS)} |")
    print("|---:|---:|---|" + "---:|" * len(CORRECTIONS))
    for case in CASES:
        found = [rates(case, count, correct) for correct in CORRECTIONS.values()]
        cells = [f"{100 * false:.1f} %" + (f" / {100 * right:.0f} %" if case.worse else "") for false, right in found]
        print(f"| {case.settings} | {case.seeds} | {case.words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
