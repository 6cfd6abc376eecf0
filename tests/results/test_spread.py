"""Settings of few seeds borrow their spread from one another: laws for all values, and how often a mark is wrong."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from sweepstack.results.selection.replicates import Comparison, as_array, compare_values
from sweepstack.results.selection.spread import fit, spreads
from sweepstack.results.selection.statistics import paired_t, welch_t

Values = NDArray[np.float64]
SHAPES = st.tuples(st.integers(3, 7), st.integers(2, 4), st.integers(0, 10_000))


def drawn(settings: int, seeds: int, seed: int) -> Values:
    """Values of settings that are equally good, the best first, with something that each seed does to all."""
    rng = np.random.default_rng(seed)
    values = 0.9 + 0.01 * (rng.normal(size=(settings, seeds)) + rng.normal(size=seeds))
    return values[np.argsort(-values.mean(1))]


def close(one: Comparison, other: Comparison, factor: float = 1.0) -> None:
    assert other.p == pytest.approx(one.p, rel=1e-4, nan_ok=True)
    assert other.ahead == pytest.approx(factor * one.ahead, rel=1e-6, abs=1e-9 * factor, nan_ok=True)
    assert other.behind == pytest.approx(factor * one.behind, rel=1e-4, abs=1e-9 * factor, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(SHAPES)
def test_the_unit_of_the_values_changes_nothing_nor_does_what_a_seed_does_to_all(shape: tuple[int, int, int]) -> None:
    values = drawn(*shape)
    found = compare_values(values, True)
    close(found, compare_values(1000 * values, True), 1000)
    close(found, compare_values(-values, False))
    moved = compare_values(values + np.arange(values.shape[1]), True)
    assert moved.p == pytest.approx(found.p, rel=1e-3, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(SHAPES)
def test_seeds_and_settings_have_no_order(shape: tuple[int, int, int]) -> None:
    values = drawn(*shape)
    order = np.array([0, *reversed(range(1, len(values)))])
    found, turned = compare_values(values, True), compare_values(values[order][:, ::-1], True)
    assert turned.p == pytest.approx(found.p[order], rel=1e-6, nan_ok=True)
    assert turned.winner is not None
    assert found.winner is not None
    assert turned.winner == pytest.approx(found.winner)


def test_two_settings_are_compared_by_students_t_test_or_welchs() -> None:
    one, other = [0.93, 0.94, 0.95], [0.90, 0.905, 0.922]
    paired = compare_values(as_array([dict(enumerate(one)), dict(enumerate(other))]), True)
    assert paired.p[1] == pytest.approx(paired_t(one, other).p)
    differences = np.subtract(one, other)
    least = differences.mean() - stats.t.isf(0.025, 2) * differences.std(ddof=1) / math.sqrt(3)
    assert paired.behind[1] == pytest.approx(max(0.0, least))
    unlike = compare_values(as_array([dict(enumerate(one)), dict(enumerate(other, 10))]), True)
    assert unlike.p[1] == pytest.approx(welch_t(one, other).p)


def test_values_with_gaps_are_fitted_by_least_squares() -> None:
    values = drawn(5, 4, 1)
    values[1, 0] = values[3, 2] = values[4, 1:] = math.nan
    found = fit(values)
    rows, columns = np.nonzero(np.isfinite(values))
    design = np.zeros((len(rows), 5 + 4))
    design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), 5 + columns] = 1
    solved, *_ = np.linalg.lstsq(design, values[rows, columns], rcond=None)
    left = values[rows, columns] - design @ solved
    assert np.diff(found.means) == pytest.approx(np.diff(solved[:5]))
    assert (found.rests * found.df).sum() == pytest.approx((left**2).sum())
    assert found.df.sum() == pytest.approx(len(rows) - np.linalg.matrix_rank(design))


def test_what_spreads_far_more_than_all_others_does_not_hide_their_differences() -> None:
    values = drawn(9, 3, 2)
    values[5:] -= 0.2
    values[8] = [-1e5, 3e7, -4e2]
    found = compare_values(values, True)
    assert (found.p[5:8] < 0.05).all()
    assert (found.p[1:5] > 0.05).all()
    assert found.p[8] > 0.05


def test_values_that_show_no_spread_are_no_proof() -> None:
    same = compare_values(np.array([[0.9, 0.9], [0.9, 0.9], [0.8, 0.8]]), True)
    assert same.p[1] == 1
    assert math.isnan(same.p[2])
    assert same.winner is None
    zeros = compare_values(np.zeros((3, 2)), True)
    assert zeros.p[1:].tolist() == [1, 1]


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_values_may_be_of_any_size(unit: float) -> None:
    values = drawn(9, 3, 3)
    close(compare_values(values, True), compare_values(unit * values, True), unit)


def test_settings_that_are_equal_are_hardly_ever_told_apart_and_worse_ones_mostly_are() -> None:
    """60 sweeps of 27 settings of 3 seeds, half of them worse by 4 standard deviations; one in 20 may be wrong."""
    rng = np.random.default_rng(0)
    false, right, held = 0, 0, 0
    for _ in range(60):
        truth = np.repeat([0.0, -4.0], [14, 13])
        values = truth[:, None] + rng.normal(size=(27, 3)) + rng.normal(size=3)
        order = np.argsort(-values.mean(1))
        found = compare_values(values[order], True)
        apart = found.p <= 0.05
        false += bool(apart[truth[order] == truth[order[0]]].any())
        right += int(apart[truth[order] < 0].sum())
        assert found.winner is not None
        held += found.winner.low <= truth[order[0]] <= found.winner.high
    assert false <= 7  # 99 % of the samples at 5 %
    assert right >= 0.5 * 60 * 13
    assert held >= 53


def test_the_mean_without_the_luck_of_the_choice_is_nearer_to_the_truth() -> None:
    rng, raw, left_out, tables = np.random.default_rng(5), 0.0, 0.0, 200
    for _ in range(tables):
        values = rng.normal(size=(9, 4))
        values = values[np.argsort(-values.mean(1))]
        found = compare_values(values, True)
        raw += values[0].mean() / tables
        left_out += found.left_out / tables
        assert found.left_out <= values[0].mean() + 1e-9
        assert compare_values(-values, False).left_out == pytest.approx(-found.left_out)
    assert raw > 0.6
    assert abs(left_out) < raw / 3


def test_with_unequal_seeds_there_is_no_such_mean() -> None:
    values = drawn(4, 3, 0)
    values[2, 2] = np.nan
    assert math.isnan(compare_values(values, True).left_out)
    assert math.isnan(compare_values(values[:, :1], True).left_out)


def test_the_spread_of_many_settings_with_many_seeds_is_known_more_finely_than_to_a_step_of_the_grid() -> None:
    for seed in range(5):
        known = spreads(fit(np.random.default_rng(seed).normal(size=(100, 10))))
        assert known is not None
        assert np.sqrt(known.typical().mean()) == pytest.approx(1.0, abs=0.04)
