"""How often a table of a sweep tells a setting apart from the best though it is as good, how often rightly, and how
often the interval of the winner holds.

Tables are made up: every setting has a value for each seed, with an effect of the seed that all settings share. The
best is the one with the highest mean, and `results.selection.replicates.compare_values`, which marks a table, compares
it with the others. A false mark is a table in which any setting that is truly as good as the best is told apart from
it. Single seeds are compared by their errors on the held-out images, as `results.selection.items` does it: models that
are equally good, whose errors on the same images are correlated. Numbers are drawn from a fixed seed. With --before,
each pair of settings is tested on its own, as versions before did: a paired t-test over the seeds, corrected by
`holm_with_best`.

    python benchmarks/false_marks.py [--tables 20000] [--item-tables 2000] [--only seeds|images] [--before]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import multiprocessing.pool
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sweepstack.results.selection.items import compare_errors, corrected
from sweepstack.results.selection.replicates import Comparison, compare_values
from sweepstack.results.selection.sequential import FIRST_SHARE, compare_in_stages
from sweepstack.results.selection.statistics import holm_with_best

LEVEL = 0.05
FEWER = 10
"""Times that tables which are looked at again and again are fewer than others."""
Figures = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int], Figures]
"""Returns errors [settings, seeds] of standard deviation 1 or so."""


def normal(rng: np.random.Generator, settings: int, seeds: int) -> Figures:
    return rng.normal(size=(settings, seeds))


def noisy(rng: np.random.Generator, settings: int, seeds: int, share: float) -> Figures:
    """Errors of which some settings have ten times as much; one at least."""
    found = normal(rng, settings, seeds)
    found[: max(1, int(settings * share))] *= 10
    return found


def log_normal(rng: np.random.Generator, settings: int, seeds: int) -> Figures:
    return normal(rng, settings, seeds) * np.exp(0.7 * rng.normal(size=(settings, 1)))


def heavy(rng: np.random.Generator, settings: int, seeds: int) -> Figures:
    return rng.standard_t(4, size=(settings, seeds)) / math.sqrt(2)


def shares(rng: np.random.Generator, settings: int, seeds: int, images: int) -> Figures:
    """Accuracies near 0.95 of so many images, in units of their standard deviation, with their steps."""
    return (rng.binomial(images, 0.95, size=(settings, seeds)) / images - 0.95) / math.sqrt(0.95 * 0.05 / images)


def single_seeds(rng: np.random.Generator, settings: int, seeds: int) -> Figures:
    """Errors of which a third of the settings have one seed only."""
    found = normal(rng, settings, seeds)
    found[::3, 1:] = np.nan
    return found


def k_fold(rng: np.random.Generator, settings: int, seeds: int) -> Figures:
    """Accuracies of real cross-validation, less their middle: nearest centroids of two classes, each setting with
    features of its own; all features tell the classes apart equally well."""
    items, features = 200, 8
    labels = np.arange(items) % 2
    inputs = rng.normal(size=(items, settings, features)) + 0.3 * labels[:, None, None]
    fold = rng.permutation(items) % seeds
    found = np.empty((settings, seeds))
    for number in range(seeds):
        centroids = [inputs[(fold != number) & (labels == label)].mean(0) for label in (0, 1)]
        tested = inputs[fold == number] - (centroids[0] + centroids[1]) / 2
        answers = (tested * (centroids[1] - centroids[0])).sum(-1) > 0
        found[:, number] = (answers == (labels[fold == number] == 1)[:, None]).mean(0)
    return (found - 0.66) / 0.05


def missing(rng: np.random.Generator, settings: int, seeds: int) -> Figures:
    """Errors of which a fifth are missing; each setting has one at least."""
    found = normal(rng, settings, seeds)
    gone = rng.random(found.shape) < 0.2
    gone[:, 0] &= ~gone.all(1)
    found[gone] = np.nan
    return found


class Case(NamedTuple):
    words: str
    settings: int
    seeds: int
    draw: Draw = normal
    worse: int = 0
    """Settings that are truly worse, by `gap`."""
    gap: float = 0.0
    """In standard deviations of a value."""
    goal: float = 0.0
    """Of the worse settings, the share that is to be told apart."""
    overlap: float = 0.0
    """Of folds, the ratio of validation to training data."""
    first: int = 0
    """Somebody looks after each seed from so many on; 0: the table is made once."""
    grid: bool = False
    """The 27 settings are a grid of three params, and the table knows it."""
    usual_first: bool = False
    """The first of these tables is tested as if no other one followed."""


CASES = (
    *(Case("all equal", settings, seeds) for settings in (2, 9, 27, 100) for seeds in (2, 3, 5, 10)),
    Case("equal, one of 10 times the sd", 27, 3, partial(noisy, share=0.0)),
    Case("equal, half of 10 times the sd", 27, 3, partial(noisy, share=0.5)),
    Case("equal, one of 10 times the sd", 9, 2, partial(noisy, share=0.0)),
    Case("equal, one of 10 times the sd", 3, 3, partial(noisy, share=0.0)),
    Case("equal, sd log-normal (0.7)", 27, 3, log_normal),
    Case("equal, sd log-normal (0.7)", 9, 5, log_normal),
    Case("equal, a grid", 27, 3, grid=True),
    Case("equal, a grid, 10 times the sd at one rate of three", 27, 3, partial(noisy, share=1 / 3), grid=True),
    Case("equal, a grid, half of 10 times the sd", 27, 3, partial(noisy, share=0.5), grid=True),
    Case("equal, a grid, sd log-normal (0.7)", 27, 3, log_normal, grid=True),
    Case("equal, t with 4 degrees", 27, 3, heavy),
    Case("equal, accuracies of 360 images", 27, 3, partial(shares, images=360)),
    Case("equal, accuracies of 10,000 images", 27, 3, partial(shares, images=10_000)),
    Case("equal, a third with a single seed", 27, 3, single_seeds),
    Case("equal, a fifth missing", 9, 5, missing),
    *(Case(f"equal, {seeds} folds of real data", 9, seeds, k_fold, overlap=1 / (seeds - 1)) for seeds in (3, 5, 10)),
    *(
        Case("equal, a look after each seed", settings, 20, first=first)
        for settings, first in ((2, 2), (9, 2), (9, 3), (27, 3))
    ),
    Case("the same, the first table by the usual test", 9, 20, first=3, usual_first=True),
    Case("half worse by 2 sd, a look after each seed", 9, 20, normal, 4, 2.0, first=3),
    Case("half worse by 10 sd", 27, 3, normal, 13, 10.0, 0.90),
    Case("half worse by 4 sd", 27, 3, normal, 13, 4.0, 0.50),
    Case("half worse by 10 sd", 9, 3, normal, 4, 10.0, 0.97),
    Case("half worse by 10 sd", 27, 2, normal, 13, 10.0, 0.60),
)


class ItemCase(NamedTuple):
    words: str
    settings: int
    items: int
    correlation: tuple[float, ...]
    """Of what makes two models err on an item; settings have these in turn."""
    power: int = 0
    """0: an item is right or wrong, one in twelve is wrong; else the error is this power of the residual."""


ALIKE, UNLIKE, MIXED = (0.95,), (0.5,), (0.95, 0.3)
ITEM_CASES = (
    *(
        ItemCase(words, settings, images, correlation)
        for images in (360, 10_000)
        for settings in (2, 9, 27)
        for words, correlation in (("alike", ALIKE), ("unlike", UNLIKE), ("of both kinds", MIXED))
    ),
    ItemCase("squared errors, unlike", 9, 360, UNLIKE, 2),
    ItemCase("absolute errors, of both kinds", 27, 360, MIXED, 1),
)


def draw_errors(case: ItemCase, rng: np.random.Generator) -> NDArray[np.bool_] | Figures:
    """Errors [settings, items] of models that are equally good: each errs for a reason that all share, and for one of
    its own."""
    share = np.resize(np.asarray(case.correlation, dtype=np.float32), case.settings)[:, None]
    own = rng.standard_normal((case.settings, case.items), dtype=np.float32)
    found = np.sqrt(share) * rng.standard_normal(case.items, dtype=np.float32) + np.sqrt(1 - share) * own
    return np.abs(found.astype(np.float64)) ** case.power if case.power else found < stats.norm.ppf(1 / 12)


def count_false_items(case: ItemCase, number: int, tables: int) -> int:
    """Makes so many tables of single seeds, and counts those with a false mark."""
    rng = np.random.default_rng((number, case.settings, case.items))
    false = 0
    for _ in range(tables):
        errors = draw_errors(case, rng)
        best, *others = errors[np.argsort(errors.mean(1), kind="stable")]
        p = corrected([compare_errors(best, other, "images") for other in others], case.settings)
        false += min(p) <= LEVEL
    return false


def print_item_cases(pool: multiprocessing.pool.Pool, count: int) -> None:
    most = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / count)
    print(f"\nSingle seeds, {count:,} tables each. Goal: false marks at most {100 * most:.2f} %\n")
    print("| settings | items | models | false marks |\n|---:|---:|---|---:|")
    for case in ITEM_CASES:
        false = sum(pool.starmap(count_false_items, [(case, *part) for part in parts(count, 100)], chunksize=1))
        print(f"| {case.settings} | {case.items:,} | {case.words} | {100 * false / count:.1f} % |", flush=True)


def table(case: Case, rng: np.random.Generator) -> tuple[Figures, Figures]:
    """Values [settings, seeds] and true means [settings]; those that are worse come last."""
    truth = np.zeros(case.settings)
    truth[case.settings - case.worse :] -= case.gap
    values = case.draw(rng, case.settings, case.seeds) + truth[:, None] + rng.normal(size=(1, case.seeds))
    return values, truth


def ranks(values: Figures) -> NDArray[np.intp]:
    """The settings with the best one first: of those with most values, as `select` takes it."""
    counts = np.isfinite(values).sum(1)
    means = np.where((counts > 1) | (counts.max() == 1), np.nanmean(values, 1), -np.inf)
    return np.argsort(-means, kind="stable")


def on_its_own(values: Figures) -> Figures:
    """The p-values [settings - 1] of versions before."""
    seeds = values.shape[1]
    differences = values[0] - values[1:]
    t = differences.mean(1) / (differences.std(1, ddof=1) / math.sqrt(seeds))
    return holm_with_best(2 * stats.t.sf(np.abs(t), seeds - 1), np.full(len(t), seeds - 1.0), len(values))


@dataclass
class Counts:
    """What was found in some tables."""

    tables: int = 0
    false: int = 0
    right: int = 0
    held: int = 0
    bounds: int = 0
    """Tables in which a setting is less far behind than the lowest bound says."""
    widths: tuple[float, ...] = ()
    raw_widths: tuple[float, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


def compare(case: Case, values: Figures, order: NDArray[np.intp]) -> Comparison:
    """Compares ranked values; `order` has their settings, which are the points of a grid of three params."""
    if case.first:
        return compare_in_stages(values, case.first, larger_is_better=True)
    levels = np.stack([order // 9, order // 3 % 3, order % 3], axis=1) if case.grid else None
    return compare_values(values, True, overlap=case.overlap, levels=levels, share=FIRST_SHARE)


def count_marks(case: Case, number: int, tables: int, before: bool) -> Counts:
    """Makes so many tables, from a seed of its own."""
    rng = np.random.default_rng((number, case.settings, case.seeds))
    found = Counts()
    widths, raw = [], []
    for _ in range(tables):
        values, truth = table(case, rng)
        order = ranks(values)
        values, truth = values[order], truth[order]
        best = truth[0]
        if before:
            apart = on_its_own(values) <= LEVEL
        else:
            compared = compare(case, values, order)
            apart = compared.p[1:] <= LEVEL
            if case.usual_first:
                at_first = np.argsort(-values[:, : case.first].mean(1), kind="stable")
                usual = compare_values(values[at_first, : case.first], True, share=FIRST_SHARE).p <= LEVEL
                apart = (compared.p <= LEVEL) | usual[np.argsort(at_first)]
                apart = apart[1:]
            behind = np.nan_to_num(compared.behind[1:], nan=0.0)
            found.bounds += bool((behind > best - truth[1:] + 1e-9)[behind > 0].any())
            if compared.winner is not None:
                found.held += compared.winner.low <= best <= compared.winner.high
                widths.append(compared.winner.high - compared.winner.low)
            one = values[0][np.isfinite(values[0])]
            if len(one) > 1:
                raw.append(2 * stats.t.isf(0.025, len(one) - 1) * one.std(ddof=1) / math.sqrt(len(one)))
        found.tables += 1
        found.false += bool(apart[truth[1:] >= best].any())
        found.right += int(apart[truth[1:] < best].sum())
    found.widths, found.raw_widths = tuple(widths), tuple(raw)
    return found


def parts(tables: int, size: int = 250) -> Iterator[tuple[int, int]]:
    """Parts of a simulation, which run side by side: number and tables of each."""
    for number in range(math.ceil(tables / size)):
        yield number, min(size, tables - number * size)


def print_seed_cases(pool: multiprocessing.pool.Pool, count: int, before: bool) -> None:
    most = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / count)
    print(f"{count:,} tables each. Goals: false marks at most {100 * most:.2f} %, intervals hold in at least 94 %")
    print(f"(where somebody looks after each seed, a table is 18 of them: {count // FEWER:,} each)\n")
    print(
        "| settings | seeds | case | false marks | told apart | goal | bounds wrong | interval holds | width / usual |"
    )
    print("|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    for case in CASES:
        number_of_tables = count // FEWER if case.first else count
        each = [(case, number, size, before) for number, size in parts(number_of_tables)]
        found = sum(pool.starmap(count_marks, each, chunksize=1), Counts())
        right = f"{found.right / found.tables / case.worse:.0%}" if case.worse else ""
        goal = f"{case.goal:.0%}" if case.goal else ""
        cells = [f"{100 * found.false / found.tables:.1f} %", right, goal]
        if found.widths:
            ratio = float(np.median(found.widths) / np.median(found.raw_widths))
            cells += [
                f"{100 * found.bounds / found.tables:.1f} %",
                f"{100 * found.held / len(found.widths):.1f} %",
                f"{ratio:.2f}",
            ]
        print(f"| {case.settings} | {case.seeds} | {case.words} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="How often settings are told apart, falsely and rightly.")
    parser.add_argument("--tables", type=int, default=20_000, help="of each case (default 20000)")
    parser.add_argument("--item-tables", type=int, default=2_000, help="of each case of single seeds (default 2000)")
    parser.add_argument("--only", choices=("seeds", "images"), help="leave out the other cases")
    parser.add_argument("--before", action="store_true", help="test each pair on its own, as versions before did")
    arguments = parser.parse_args()
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        if arguments.only != "images":
            print_seed_cases(pool, arguments.tables, arguments.before)
        if arguments.only != "seeds":
            print_item_cases(pool, arguments.item_tables)


if __name__ == "__main__":
    main()
