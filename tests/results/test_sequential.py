"""Seeds that are added after looking: the table says so, and is not wrong more often for it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepstack.results.selection.comparison import BEST, NOT_TOLD_APART, WORSE
from sweepstack.results.selection.replicates import compare_values
from sweepstack.results.selection.select import Selection, select
from sweepstack.results.selection.sequential import LATER_SHARE, compare_in_stages, share_of_level
from sweepstack.results.tables.frame import as_frame
from sweepstack.tracking.runs_as_rows import Row

LEVEL = 0.05


def trial(lr: float, seed: int, accuracy: float, asked: str, state: str = "FINISHED") -> Row:
    params = {"lr": str(lr), "seed": str(seed)}
    run_id, metrics = f"id {lr} {seed}", {"val/accuracy": accuracy}
    return Row(run_id, run_id, "1", "sweep", state, "", "", 1000 + seed, params, metrics, asked=asked)


def drawn(count: int, seeds: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    return 0.9 + 0.01 * (rng.normal(size=(count, seeds)) + rng.normal(size=seeds))


def looked(figures: dict[float, list[float]], first: int, failed: tuple[float, ...] = ()) -> Selection:
    """A table of which the first seeds were asked for by one command, and the others by another one."""
    return select(
        as_frame(
            [
                trial(lr, seed, value, "first" if seed < first else "later")
                for lr, values in figures.items()
                for seed, value in enumerate(values)
            ]
            + [trial(lr, 99, 0.0, "first", "FAILED") for lr in failed]
        )
    )


FAR_APART = {0.1: [0.95, 0.951, 0.949, 0.95], 0.2: [0.94, 0.941, 0.938, 0.941], 0.3: [0.80, 0.801, 0.799]}


def test_a_table_says_that_seeds_were_added_after_looking_and_what_was_told_apart_stays_so() -> None:
    found = looked(FAR_APART, first=3)
    assert "added after a first look at 3 seeds" in found.added
    assert found.groups["mark"].tolist() == [BEST, WORSE, WORSE]
    assert "from 3 on" in found.groups["why"][2]
    assert found.groups["n"].tolist() == [4, 4, 3]
    at_once = select(as_frame([trial(lr, s, v, "all") for lr, each in FAR_APART.items() for s, v in enumerate(each)]))
    assert at_once.added == ""
    assert at_once.groups["p"][1] < found.groups["p"][1]


def test_a_setting_that_was_told_apart_does_not_come_first_again_by_its_few_seeds() -> None:
    figures = {0.1: [0.90, 0.901, 0.899, 0.70, 0.70, 0.70], 0.2: [0.85, 0.851, 0.849], 0.3: [0.80, 0.80, 0.801]}
    found = looked(figures, first=3)
    assert found.groups["lr"].tolist() == [0.1, 0.2, 0.3]
    assert found.groups["mean"].is_monotonic_decreasing is False


def test_a_setting_with_failed_trials_tells_no_other_one_apart_by_its_lucky_seeds() -> None:
    found = looked({**FAR_APART, 0.9: [0.99, 0.991, 0.989, 0.99]}, first=3, failed=(0.9,))
    assert found.groups.iloc[0]["lr"] == 0.1
    assert dict(zip(found.groups["lr"], found.groups["mark"], strict=True))[0.9] == NOT_TOLD_APART


def test_settings_that_another_command_added_with_all_their_seeds_need_no_allowance() -> None:
    rows = [trial(lr, seed, 0.9 + lr / 100 + seed / 1000, f"command {lr}") for lr in (0.1, 0.2) for seed in range(3)]
    assert select(as_frame(rows)).added == ""


def test_one_setting_alone_is_no_look() -> None:
    rows = [trial(0.1, 0, 0.9, "alone")] + [
        trial(lr, seed, 0.9 + lr / 100 + seed / 1000, "all")
        for lr in (0.1, 0.2)
        for seed in range(3)
        if lr + seed > 0.1
    ]
    assert select(as_frame(rows)).added == ""


def test_trials_without_a_seed_are_replicates_of_their_own() -> None:
    rows = [trial(lr, seed, 0.9 + lr / 100 + seed / 1000, "first") for lr in (0.1, 0.2) for seed in range(3)]
    found = {"val/accuracy": 0.9}
    bare = [
        Row(f"bare {lr}", "bare", "1", "sweep", "FINISHED", "", "", 2000, {"lr": str(lr)}, found, asked="later")
        for lr in (0.1, 0.2)
    ]
    assert select(as_frame([*rows, *bare])).groups["n"].tolist() == [4, 4]


def test_whoever_chooses_which_settings_get_seeds_makes_no_error_more_likely() -> None:
    rng, wrong, tables = np.random.default_rng(3), 0, 80
    for _ in range(tables):
        values = rng.normal(size=(15, 4)) + rng.normal(size=4)
        values = values[np.argsort(-values[:, :3].mean(1))]
        values[1:-1, 3] = np.nan  # the highest and the lowest go on
        values = values[np.argsort(-np.nanmean(values, 1))]
        wrong += bool((compare_in_stages(values, 3, True).p <= LEVEL).any())
    assert wrong / tables <= LEVEL


def test_the_shares_of_all_later_looks_sum_to_that_of_all_together() -> None:
    for first in (2, 3, 10):
        total = sum(share_of_level(n, first) for n in range(first, 200_000))
        assert total == pytest.approx(LATER_SHARE, abs=1e-4 * first)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 10_000))
def test_more_seeds_never_bring_a_setting_back(count: int, seeds: int, seed: int) -> None:
    values = drawn(count, seeds + 2, seed) - 0.02 * np.arange(count)[:, None]
    values = values[np.argsort(-values.mean(1))]
    before = compare_in_stages(values[:, :seeds], 2, True).p <= LEVEL
    after = compare_in_stages(values, 2, True).p <= LEVEL
    assert not (before & ~after).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 7), st.integers(2, 4), st.integers(0, 10_000))
def test_the_first_look_has_its_share_of_the_usual_test(count: int, seeds: int, seed: int) -> None:
    values = drawn(count, seeds, seed)
    values = values[np.argsort(-values.mean(1))]
    usual = np.minimum(compare_values(values, True).p * seeds / LATER_SHARE, 1)
    assert compare_in_stages(values, seeds, True).p == pytest.approx(usual, nan_ok=True)


def test_looking_after_every_seed_tells_equal_settings_apart_in_few_sweeps_of_many() -> None:
    rng = np.random.default_rng(7)
    wrong, tables = 0, 150
    for _ in range(tables):
        values = rng.normal(size=(4, 10)) + rng.normal(size=10)
        found = compare_in_stages(values[np.argsort(-values.mean(1))], 2, True)
        wrong += bool((found.p <= LEVEL).any())
    assert wrong / tables <= LEVEL + 2 * np.sqrt(LEVEL * (1 - LEVEL) / tables)
