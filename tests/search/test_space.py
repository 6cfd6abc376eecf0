"""Distributions: where their values lie, and how they are typed."""

import pytest

from sweepstack.search.space import Numbers, Options, Space, interval

SHARES = [number / 1000 for number in range(1000)]


@pytest.mark.parametrize(
    ("one", "first", "last"),
    [
        (Numbers(0.0, 1.0), "0.0", "0.999"),
        (Numbers(1e-4, 1.0, None, True), "0.0001", "0.990832"),
        (Numbers(1, 9, 1), "1", "9"),
        (Numbers(1, 9, 2), "1", "9"),
        (Numbers(1, 100, None, True), "1", "100"),
        (Numbers(0.1, 0.5, 0.1), "0.1", "0.5"),
        (Options(("50", "[64]")), "50", "[64]"),
    ],
)
def test_shares_go_through_all_of_a_distribution(one: Numbers | Options, first: str, last: str) -> None:
    values = [one.at(share) for share in SHARES]
    assert (one.text(values[0]), one.text(values[-1])) == (first, last)
    assert all(map(one.contains, values))


def test_whole_numbers_have_the_same_chance_each() -> None:
    drawn = [Numbers(1, 4, 1).at(share) for share in SHARES]
    assert [drawn.count(number) for number in (1, 2, 3, 4)] == [250] * 4


def test_fractions_in_steps_are_typed_in_decimals() -> None:
    one = Numbers(0.1, 0.9, 0.1)
    assert sorted({one.text(one.at(share)) for share in SHARES}) == [f"0.{digit}" for digit in range(1, 10)]


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0.1, 0.7, 0.1), (0.1, 0.3, 0.1), (-0.3, 0.3, 0.1), (1e-7, 5e-7, 1e-7), (1.0, 1.0003, 1e-4)],
)
def test_fractions_in_steps_are_the_decimals_up_to_both_ends(low: float, high: float, step: float) -> None:
    one = Numbers(low, high, step)
    drawn = {one.at(share) for share in SHARES}
    assert (min(drawn), max(drawn)) == (low, high)
    assert all(map(one.contains, drawn))
    assert len(drawn) == len({one.text(value) for value in drawn}) == one.count == Space({"lr": one}).size
    assert {float(one.text(value)) for value in drawn} == drawn


@pytest.mark.parametrize(
    ("one", "has_fractions"),
    [
        (Numbers(1.0, 5.0), True),
        (Numbers(1.0, 64.0, None, True), True),
        (Numbers(1.0, 5.0, 0.5), True),
        (Numbers(1.0, 5.0, 2.0), False),
        (Numbers(1, 5, 1), False),
        (Numbers(1, 64, None, True), False),
    ],
)
def test_a_fraction_is_checked_if_there_is_one(one: Numbers, has_fractions: bool) -> None:
    assert one.has_fractions is has_fractions
    assert all(one.contains(float(text) if "." in text else int(text)) for text in one.probes())


def test_a_short_text_never_leaves_the_interval() -> None:
    assert Numbers(0.12345649, 1.0).text(0.12345649) == "0.12345649"
    assert Numbers(0.0, 1.0).text(0.12345649) == "0.123456"


def test_a_point_lies_in_a_space_with_the_same_keys_only() -> None:
    space = Space({"lr": Numbers(0.1, 1.0), "batch_size": Options(("50", "100"))})
    assert space.contains({"lr": 0.5, "batch_size": "50"})
    assert not space.contains({"lr": 0.5})
    assert not space.contains({"lr": 0.05, "batch_size": "50"})
    assert not space.contains({"lr": 0.5, "batch_size": "200"})
    assert not space.contains({"lr": 0.5, "batch_size": "50", "epochs": 1})
    assert not Space({"n": Numbers(1, 9, 2)}).contains({"n": 2})


def test_a_key_with_a_condition_is_in_those_points_only_that_fulfil_it() -> None:
    space = Space(
        {"optimizer": Options(("sgd", "adam")), "momentum": Numbers(0.0, 0.9)}, {"momentum": ("optimizer", "sgd")}
    )
    assert space.at([0.1, 0.5]) == {"optimizer": "sgd", "momentum": 0.45}
    assert space.at([0.9, 0.5]) == {"optimizer": "adam"}
    assert space.contains({"optimizer": "adam"})
    assert not space.contains({"optimizer": "sgd"})
    assert not space.contains({"optimizer": "adam", "momentum": 0.45})


def test_the_number_of_points() -> None:
    assert Space({"a": Numbers(1, 9, 2), "b": Options(("x", "y"))}).size == 10
    assert Space({"a": interval("a=interval(0,1)", (0.0, 1.0), False)}).size == float("inf")
    twice = Options(("x", "y", "y"))
    nested = Space({"a": twice, "b": Options(("1", "2")), "c": Numbers(1, 3, 1)}, {"b": ("a", "x"), "c": ("b", "1")})
    assert nested.size == 5  # y, x with 2, and x with 1 and each of three
