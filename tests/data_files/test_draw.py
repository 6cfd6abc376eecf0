"""The items for tests are always the same ones, of every class its part, and a group is in one part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstack.data_files.draw import draw_test_part
from sweepstack.errors import DataError

FRACTIONS = st.floats(0.05, 0.95)


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5), fraction=FRACTIONS)
def test_the_part_holds_within_each_class(sizes: list[int], fraction: float) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes)
    expected = [min(int(size * fraction + 0.5), size - 1) for size in sizes]
    if not sum(expected):
        with pytest.raises(DataError, match="must leave items to train on and items to test on"):
            draw_test_part(len(classes), fraction, classes)
        return
    tested = draw_test_part(len(classes), fraction, classes)
    assert np.bincount(classes[tested], minlength=len(sizes)).tolist() == expected
    assert np.array_equal(tested, draw_test_part(len(classes), fraction, [f"class {index}" for index in classes]))


@given(groups=st.lists(st.integers(0, 9), min_size=2, max_size=100), fraction=FRACTIONS)
def test_a_group_is_in_one_part(groups: list[int], fraction: float) -> None:
    if len(set(groups)) == 1:
        with pytest.raises(DataError, match="must leave groups to train on and groups to test on"):
            draw_test_part(len(groups), fraction, groups=groups)
        return
    tested = draw_test_part(len(groups), fraction, groups=groups)
    of_groups = np.array(groups)
    assert not set(of_groups[tested]) & set(of_groups[~tested])
    smallest = np.unique(of_groups, return_counts=True)[1].min()
    assert 0 < tested.sum() <= max(round(len(groups) * fraction), smallest)


@pytest.mark.parametrize("seed", range(20))
def test_a_large_group_is_not_for_tests_where_small_ones_fit(seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(41), [60, *[1] * 40]))
    assert draw_test_part(100, 0.2, groups=groups).sum() == 20


@pytest.mark.parametrize("fraction", [0, 1, -0.1, True, "a", float("nan")])
def test_what_is_no_part_is_refused(fraction: object) -> None:
    with pytest.raises(DataError, match=r"dataset.test must be a part of the items, between 0 and 1, got .*=0.2$"):
        draw_test_part(10, fraction)


def test_nothing_can_be_for_tests() -> None:
    assert not draw_test_part(10, None).any()


@pytest.mark.parametrize("count", [0, 1])
def test_what_cannot_be_parted_is_refused(count: int) -> None:
    with pytest.raises(DataError, match="must leave items"):
        draw_test_part(count, 0.5)
