"""Intervals, tests and corrections: figures of papers, and laws that hold for all figures."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from sweepstack.results.selection.statistics import (
    holm_with_best,
    mcnemar,
    mean_interval,
    p_of_first_step,
    paired_t,
    student_quantile,
    welch_t,
    wilson,
)
from sweepstack.results.tuning.curves import curve_of_repetitions

SLEEP = np.array(  # hours gained by ten patients with two drugs, from the paper of the t-test (Student 1908)
    [[0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]]
)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=20)
FIGURES = st.lists(st.floats(-1e3, 1e3), min_size=0, max_size=8)
RIGHT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_figures_of_the_literature(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_stays_within_0_and_1_and_holds_the_share_and_turns_with_it(counts: tuple[int, int]) -> None:
    hits, count = counts
    low, high = wilson(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    assert low < high
    misses = wilson(count - hits, count)
    assert (1 - misses.high, 1 - misses.low) == pytest.approx((low, high), abs=1e-9)


def test_wilson_of_nothing_is_a_mistake() -> None:
    for hits, count in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"got {hits} of {count}"):
            wilson(hits, count)


def test_mean_interval_of_students_figures() -> None:
    mean, sd, n, low, high = mean_interval(SLEEP[1])
    assert (mean, sd, n) == (pytest.approx(2.33), pytest.approx(2.002249, abs=1e-6), 10)
    assert (low, high) == pytest.approx((0.897677, 3.762323), abs=1e-6)


def test_too_few_figures_and_nan_have_no_interval() -> None:
    one = mean_interval([0.9])
    assert (one.mean, one.n) == (0.9, 1)
    assert all(map(math.isnan, [one.sd, one.low, one.high, mean_interval([]).mean]))
    broken = mean_interval([0.9, math.nan, 0.8])
    assert all(map(math.isnan, [broken.mean, broken.sd, broken.low, broken.high]))


def test_mcnemar_counts_the_images_that_one_alone_gets_right() -> None:
    first = np.array([True] * 100 + [True] * 10 + [False] * 2 + [False] * 30)
    second = np.array([True] * 100 + [False] * 10 + [True] * 2 + [False] * 30)
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # at most 2 heads of 12, or of tails
    assert mcnemar(first, first) == 1.0
    with pytest.raises(ValueError, match="same images"):
        mcnemar(first, second[:-1])


@given(RIGHT)
def test_mcnemar_does_not_depend_on_who_is_called_the_first(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.array(pairs).T
    assert mcnemar(first, second) == mcnemar(second, first)
    assert 0 < mcnemar(first, second) <= 1


def test_students_and_welchs_tests_of_students_figures() -> None:
    assert paired_t(*SLEEP) == pytest.approx((0.0028329, 9), rel=1e-4)
    assert welch_t(*SLEEP) == pytest.approx((0.0793941, 17.77647), rel=1e-4)


def test_welchs_test_of_unequal_numbers_is_not_wrong_too_often() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.standard_normal((1000, 3)), rng.standard_normal((1000, 10))
    wrong = sum(welch_t(one, other).p <= 0.05 for one, other in zip(few, many, strict=True))
    by_scipy = (stats.ttest_ind(few, many, axis=1, equal_var=False).pvalue <= 0.05).sum()
    assert wrong <= 50 < by_scipy
    assert welch_t(few[0], many[0]).df == 2


@given(FIGURES, FIGURES)
def test_tests_turn_with_their_sides_and_never_say_0(first: list[float], second: list[float]) -> None:
    shared = min(len(first), len(second))
    for test, sides in ((paired_t, (first[:shared], second[:shared])), (welch_t, (first, second))):
        p, df = test(*sides)
        assert test(*reversed(sides)) == pytest.approx((p, df), nan_ok=True)
        if min(map(len, sides)) < 2:
            assert math.isnan(p)
        else:
            assert math.isnan(p) or 0 < p <= 1


def test_figures_without_spread_tell_nothing() -> None:
    assert math.isnan(paired_t([0.90, 0.91, 0.93], [0.80, 0.81, 0.83]).p)  # equal but for rounding
    assert paired_t([0.9, 0.8], [0.9, 0.8]).p == 1.0
    assert math.isnan(welch_t([0.9, 0.9], [0.8, 0.8]).p)
    assert welch_t([0.9, 0.9], [0.9, 0.9, 0.9]).p == 1.0
    assert math.isnan(paired_t([0.9, math.nan], [0.8, 0.7]).p)


def holm(p_values: list[float]) -> Any:
    """Corrects p-values [k] for being k of them only (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


@given(P_VALUES, st.sampled_from([1, 2, 4, 9, math.inf]), st.integers(0, 5))
def test_the_correction_for_a_chosen_best_is_between_holm_and_all_pairs(p: list[float], df: float, more: int) -> None:
    groups = len(p) + 1 + more
    corrected = holm_with_best(p, [df] * len(p), groups)
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()
    assert (corrected <= 1).all()
    slack = 1e-3 * corrected + 1e-9  # of the integrals
    assert (corrected >= holm(p) - slack).all()
    left = groups - np.arange(len(p))
    pairs = np.minimum(1, np.maximum.accumulate(left * (left - 1) / 2 * np.array(p)[order]))
    assert (corrected[order] <= pairs + slack[order]).all()


@pytest.mark.parametrize("df", [1, 2, 9, math.inf])
def test_the_smallest_p_values_stay_small(df: float) -> None:
    assert (holm_with_best([0.0, 1e-308, 1e-300, 1e-100], [df] * 4, 27) < 1e-50).all()


@pytest.mark.parametrize("df", [1, 2, 7.5, math.inf])
def test_of_two_groups_the_better_one_needs_no_correction(df: float) -> None:
    p = np.geomspace(1e-8, 1, 9)
    assert [holm_with_best([value], [df], 2)[0] for value in p] == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize(("groups", "seeds"), [(5, 2), (9, 3), (27, 5)])
def test_the_chance_of_a_small_p_value_with_the_luckiest_of_equal_groups_is_what_happens(
    groups: int, seeds: int
) -> None:
    figures = np.random.default_rng(0).standard_normal((4000, groups, seeds))
    best = figures.mean(2).argmax(1)
    differences = figures[np.arange(4000), best][:, None] - figures
    p = stats.ttest_1samp(differences[differences.any(2)].reshape(4000, groups - 1, seeds), 0, axis=2).pvalue
    for limit in (0.01, 0.1):
        happens, expected = (p <= limit).mean(), holm_with_best([limit], [seeds - 1], groups)[0]
        assert happens == pytest.approx(expected, rel=0.15)
        assert happens > limit  # which Holm's correction would have taken for granted


def test_the_quick_functions_give_the_digits_of_scipy_stats() -> None:
    for df, tail in itertools.product((1, 2.7, 26, 1e4, math.inf), (1e-300, 1e-10, 0.0025, 0.025, 0.3, 0.7)):
        assert student_quantile(tail, df) == float(stats.t.isf(tail, df))
    for hits, count in ((0, 1), (1, 1), (0, 360), (7, 360), (180, 360), (360, 360), (9_871, 10_000)):
        expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
        assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-15)
    for groups in (3, 27):

        def excess(p: float, groups: int = groups) -> float:
            return float(holm_with_best([p], [math.inf], groups)[0]) * (groups - 1) - 0.05

        root = optimize.brentq(excess, 1e-9, 0.05, xtol=1e-15)
        assert p_of_first_step(groups, 0.05) == pytest.approx(root, rel=1e-6)
    for count, confidence in itertools.product((1, 5, 6, 17, 400), (0.9, 0.95)):
        searches = np.arange(count)[:, None]
        found, tail = curve_of_repetitions([*searches], True, confidence), (1 - confidence) / 2
        left_out = int(stats.binom.ppf(tail, count, 0.5)) - 1
        assert stats.binom.cdf(left_out, count, 0.5) < tail < stats.binom.cdf(left_out + 1, count, 0.5)
        assert (None if found.low is None else found.low[0]) == (None if left_out < 0 else left_out)
