"""Tuning curves: the best of n is what counting all orders finds, and bands hold as often as they say."""

import dataclasses
import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sweepstack.metrics import Metric
from sweepstack.results.tuning.curves import (
    bounds_of_ranks,
    chance_inside,
    curve_of_draws,
    curve_of_points,
    curve_of_repetitions,
)
from sweepstack.results.tuning.searches import Kind, Search, has_continuous_param
from sweepstack.results.tuning.verdict import compare_tuning, tuning_of

ACCURACY = Metric("val/accuracy", "max", proportion=True)
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


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_the_chance_to_be_inside_bounds_is_the_volume_of_ordered_points(count):
    """By integration of the polynomial of the volume, one coordinate after the other."""
    low, high = bounds_of_ranks(count)
    high = np.minimum(high * 1.01, 1.0)
    grid = np.linspace(0, 1, 20_001)
    inner = np.ones_like(grid)
    for one, other in zip(low, high, strict=True):
        inside = np.where((grid >= one) & (grid <= other), inner, 0.0)
        inner = np.concatenate([[0.0], np.cumsum((inside[1:] + inside[:-1]) / 2) * (grid[1] - grid[0])])
    assert chance_inside(low, high) == pytest.approx(inner[-1] * math.factorial(count), abs=3e-4)


def test_without_limits_every_order_is_inside():
    assert chance_inside(np.zeros(50), np.ones(50)) == pytest.approx(1.0)
    low = np.zeros(3)
    low[0] = 0.5  # the lowest of three uniform draws is above one half
    assert chance_inside(np.maximum.accumulate(low), np.ones(3)) == pytest.approx(1 / 8)


@pytest.mark.parametrize("count", [8, 20, 100])
def test_a_band_holds_with_its_confidence_and_little_more(count):
    rng = np.random.default_rng(count)
    truth = 0.5 ** (1 / np.arange(1, count + 1))  # of uniform draws
    curves = [curve_of_draws(rng.random(count), True) for _ in range(2000)]
    held = np.mean([(one.low <= truth).all() and (truth <= one.high).all() for one in curves])
    assert 0.95 - 2 * math.sqrt(0.95 * 0.05 / 2000) <= held <= 0.98


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


# What is said


def search(name, values, kind=Kind.GRID, metric=ACCURACY):
    repetitions = tuple(map(tuple, values)) if isinstance(values[0], list) else (tuple(values),)
    return Search(name, kind, metric, repetitions, 0, frozenset(), frozenset(), ())


EVEN = [n / 27 for n in range(1, 28)]


def test_a_grid_that_ends_better_by_more_points_alone_was_only_tuned_more():
    found = compare_tuning(search("A", EVEN), search("B", [n / 9 - 0.01 for n in range(1, 10)]))
    assert found.sentence.startswith(
        "A was only tuned more than B. With 9 trials each, the median of the best is 0.9630 "
    )
    assert "B is ahead" in found.sentence
    assert "A ends at 1.0000 after 27 trials, B at 0.9900 after 9." in found.sentence
    mirrored = compare_tuning(search("B", [n / 9 - 0.01 for n in range(1, 10)]), search("A", EVEN))
    assert mirrored.sentence.startswith("A was only tuned more than B.")


def test_a_grid_that_is_ahead_with_as_many_trials_is_better():
    low = [0.3, 0.2, 0.35]
    found = compare_tuning(search("A", [0.1, 0.1, 0.9, 0.9, 0.9, 0.9]), search("B", low))
    assert found.sentence.startswith("A was not only tuned more than B: it is better.")
    fewer = compare_tuning(search("B", low), search("A", [0.5, 0.1]))
    assert fewer.sentence.startswith("A was not tuned more than B, and is better.")
    assert fewer.lead == (0, 1)
    assert "B is ahead at 1 trial; A is ahead from 2 trials on" in fewer.sentence


def test_the_lowest_loss_wins():
    loss = Metric("val/loss", "min")
    found = compare_tuning(search("A", [3.0, 2.0, 1.0], metric=loss), search("B", [5.0, 4.0], metric=loss))
    assert found.lead == (0, 0)
    assert found.sentence.startswith("A was not only tuned more than B: it is better.")


def test_random_searches_that_are_far_apart_are_told_apart_by_their_first_trials():
    rng = np.random.default_rng(0)
    values = [rng.normal(mean, 0.01, 64).tolist() for mean in (0.9, 0.8)]
    found = compare_tuning(search("A", values[0], Kind.RANDOM), search("B", values[1][:32], Kind.RANDOM))
    assert found.sentence.startswith("A was not only tuned more than B: it is better.")
    assert set(found.lead[:3]) == {0}
    assert found.lead[-1] is None
    assert "A is ahead at 1 to" in found.sentence
    same = compare_tuning(search("A", values[0], Kind.RANDOM), search("B", values[0][:20], Kind.RANDOM))
    assert set(same.lead) == {None}
    assert "cannot be said" in same.sentence or "end equally well" in same.sentence


def test_six_repetitions_of_an_adaptive_search_are_compared_with_a_grid():
    rng = np.random.default_rng(0)
    good = [rng.normal(0.9, 0.01, 8).tolist() for _ in range(7)]
    grid = search("B", [0.1, 0.2, 0.3])
    found = compare_tuning(search("A1, A2", good, Kind.ADAPTIVE), grid)
    assert found.lead == (None, None, 0)  # the band holds at each number of trials on its own, so one decides
    assert "With 3 trials each" in found.sentence
    assert "A1, A2 is ahead with so many (95 %)" in found.sentence
    both = compare_tuning(search("A", good[:6], Kind.ADAPTIVE), search("B", good, Kind.ADAPTIVE))
    assert both.curves[0].low is None  # six are enough for one band, not for two that hold together
    assert both.curves[1].low is not None
    assert "must be done 7 times, and this one was done 6 times" in both.sentence
    once = compare_tuning(search("A1", good[0], Kind.ADAPTIVE), grid)
    assert set(once.lead) == {None}
    assert "A1: no band: an adaptive search must be done 6 times, and this one was done once" in once.sentence


@pytest.mark.parametrize("repeated", [6, 10])
def test_equal_searches_are_seldom_told_apart_if_one_is_adaptive(repeated):
    """A grid, and random orders of its own points, of which each search tries 40."""
    rng = np.random.default_rng(repeated)
    points = rng.normal(0.8, 0.05, 400)
    grid, apart = search("B", points.tolist()), 0
    for _ in range(300):
        orders = [rng.permutation(points)[:40].tolist() for _ in range(repeated)]
        apart += {*compare_tuning(search("A", orders, Kind.ADAPTIVE), grid).lead} != {None}
    assert apart <= 0.05 * 300


def test_a_search_that_ends_better_but_is_surely_behind_at_equal_numbers_was_only_tuned_more():
    rng = np.random.default_rng(0)
    many = [*rng.normal(0.7, 0.01, 599).tolist(), 0.99]
    few = rng.normal(0.9, 0.01, 24).tolist()
    found = compare_tuning(search("A", many, Kind.RANDOM), search("B", few, Kind.RANDOM))
    assert set(found.lead) == {1}
    assert found.sentence.startswith("A was only tuned more than B. With 24 trials each")
    repeated = [[*rng.normal(0.7, 0.01, 40).tolist(), 0.99] for _ in range(7)]
    found = compare_tuning(search("A", repeated, Kind.ADAPTIVE), search("B", few))
    assert found.sentence.startswith("A was only tuned more than B. With 24 trials each")
    unknown = compare_tuning(search("A", many[-32:], Kind.RANDOM), search("B", few, Kind.RANDOM))
    assert set(unknown.lead) == {1, None}  # from 32 trials it is not known how good the best of 24 others can be
    assert "Whether A was only tuned more than B cannot be said." in unknown.sentence


@pytest.mark.parametrize("count", [10, 50, 100])
def test_a_search_that_draws_whole_numbers_has_no_band(count):
    """What is drawn several times counts once, so a band of these would not hold."""
    rng = np.random.default_rng(count)
    units = (np.exp(rng.uniform(0, math.log(64), count)) // 1).astype(int)
    large, rates = rng.integers(12_341, 12_349, count), 10 ** rng.uniform(-4, 0, count)
    for drawn, continuous in ((units, False), (large, False), (rates.round(2), False), (rates, True)):
        frame = pd.DataFrame({"x": np.unique(drawn), "other": 1})
        frame.attrs["vary"] = 1
        assert has_continuous_param(frame, len(frame)) == continuous
    frame = pd.DataFrame({"lr": rates.tolist() * 2, "units": [1] * count + [2] * count})
    frame.attrs["vary"] = 2
    assert not has_continuous_param(frame, 2 * count)  # each rate was tried with all units: these are no draws
    found = search("A", rates.tolist(), Kind.RANDOM)
    merged = dataclasses.replace(found, dependence="drawn twice").curve()
    assert (merged.low, merged.high) == (None, None)
    assert merged.median.tolist() == found.curve().median.tolist()


def test_where_all_values_are_equal_nothing_is_ahead():
    found = compare_tuning(search("A", [0.5] * 5), search("B", [0.5] * 3))
    assert found.sentence.startswith("A and B end equally well.")
    assert "neither is ahead at any number of trials" in found.sentence
    assert "All settings of A that have a value have the same, 0.5000." in tuning_of(search("A", [0.5] * 5)).sentence
