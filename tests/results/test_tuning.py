"""Tuning curves: the best of n is what counting all orders finds, and bands hold as often as they say."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sweepstack.results.tuning.curves import (
    bounds_of_ranks,
    chance_inside,
    curve_of_draws,
    curve_of_points,
    curve_of_repetitions,
)

VALUES = some.lists(some.integers(0, 4) | some.just(math.nan), min_size=1, max_size=7)
"""Few different values, so that there are ties, and trials that gave none."""


def best_of_all_orders(values, n, larger_is_better):
    """The best of each choice of n of the points, the worst first."""
    worst = -math.inf if larger_is_better else math.inf
    known = [worst if math.isnan(value) else value for value in values]
    best = max if larger_is_better else min
    return sorted(map(best, itertools.combinations(known, n)), reverse=not larger_is_better)


@given(VALUES, some.booleans())
def test_the_best_of_n_points_is_what_counting_finds(values, up):
    curve = curve_of_points(values, up)
    assert curve.low is not None
    assert curve.high is not None
    for n in range(1, len(values) + 1):
        every = best_of_all_orders(values, n, up)
        assert curve.median[n - 1] == every[math.ceil(0.5 * len(every)) - 1]
        low, high = sorted([every[math.ceil(round(part * len(every), 9)) - 1] for part in (0.025, 0.975)])
        assert (curve.low[n - 1], curve.high[n - 1]) == (low, high)


@given(VALUES, some.booleans())
def test_more_trials_are_never_worse_and_all_trials_find_the_best(values, up):
    known = [value for value in values if not math.isnan(value)]
    for curve in (curve_of_points(values, up), curve_of_draws(values, up)):
        for part in (curve.median, curve.low, curve.high):
            steps = np.array(part if up else -part)
            assert (steps[1:] >= steps[:-1]).all()
        if known:
            assert curve.median[-1] == (max if up else min)(known)
        assert (curve.low <= curve.median).all()
        assert (curve.median <= curve.high).all()


@given(VALUES)
def test_a_search_for_the_lowest_value_is_one_for_the_highest_upside_down(values):
    for make in (curve_of_points, curve_of_draws):
        up, down = make(values, True), make([-value for value in values], False)
        assert np.array_equal(up.median, -down.median)
        assert np.array_equal(up.low, -down.high)
        assert np.array_equal(up.high, -down.low)


def test_of_10000_points_the_curve_is_exact():
    curve = curve_of_points(range(10_000), True)
    for n in (1, 2, 17, 5_000, 9_999):
        i = int(curve.median[n - 1]) + 1
        every = math.comb(10_000, n)
        assert 2 * math.comb(i, n) >= every > 2 * math.comb(i - 1, n)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_chance_to_be_inside_bounds_is_the_volume_of_ordered_points(count):
    """By integration of the polynomial of the volume, one coordinate after the other."""
    low, high = bounds_of_ranks(count)
    grid = np.linspace(0, 1, 20_001)
    inner = np.ones_like(grid)
    for one, other in zip(low, high, strict=True):
        inside = np.where((grid >= one) & (grid <= other), inner, 0.0)
        inner = np.concatenate([[0.0], np.cumsum((inside[1:] + inside[:-1]) / 2) * (grid[1] - grid[0])])
    assert chance_inside(low, high) == pytest.approx(inner[-1] * math.factorial(count), abs=3e-4)
    assert chance_inside(low, high) == pytest.approx(0.95, abs=1e-6)


def test_without_limits_every_order_is_inside():
    assert chance_inside(np.zeros(50), np.ones(50)) == pytest.approx(1.0)
    low = np.zeros(3)
    low[0] = 0.5  # the lowest of three uniform draws is above one half
    assert chance_inside(np.maximum.accumulate(low), np.ones(3)) == pytest.approx(1 / 8)


@pytest.mark.parametrize("count", [2, 20, 300])
def test_a_band_holds_with_exactly_its_confidence(count):
    low, high = bounds_of_ranks(count)
    rng = np.random.default_rng(count)
    draws = np.sort(rng.random((4000, count)), axis=1)
    held = ((low <= draws) & (draws <= high)).all(1).mean()
    assert held == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 4000))


def test_a_band_contains_the_true_curve_of_values_with_ties():
    """Accuracies of ten images: F has ten steps."""
    rng = np.random.default_rng(0)
    steps = np.arange(11) / 10
    cdf = np.cumsum([math.comb(10, k) * 0.8**k * 0.2 ** (10 - k) for k in range(11)])
    truth = steps[np.searchsorted(cdf, 0.5 ** (1 / np.arange(1, 25)) - 1e-12)]
    held = 0
    for _ in range(400):
        curve = curve_of_draws(rng.binomial(10, 0.8, 24) / 10, True)
        held += bool((curve.low <= truth).all() and (truth <= curve.high).all())
    assert held >= 0.95 * 400


def test_of_few_random_trials_the_upper_end_is_not_known():
    curve = curve_of_draws(np.arange(64) / 64, True)
    known = int(np.isfinite(curve.high).sum())
    assert 4 <= known <= 8
    assert np.isfinite(curve.low[1:]).all()


def test_repeated_searches_give_a_band_from_six_on():
    rng = np.random.default_rng(1)
    searches = [rng.random(20) for _ in range(7)]
    few = curve_of_repetitions(searches[:5], True)
    assert few.low is None
    curve = curve_of_repetitions(searches, True)
    so_far = [list(itertools.accumulate(one, max)) for one in searches]
    for n in range(20):
        now = sorted(one[n] for one in so_far)
        assert (curve.low[n], curve.median[n], curve.high[n]) == (now[0], statistics.median(now), now[-1])


def test_searches_that_were_repeated_end_where_the_shortest_does():
    curve = curve_of_repetitions([[3, 2, 1], [2, math.nan]], False)
    assert curve.median.tolist() == [3, 2]
