"""What is selected from a table, what is marked, and how often a mark is wrong."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sweepstack.errors import UserError
from sweepstack.metrics import Metric
from sweepstack.results.selection.comparison import (
    BEST,
    NOT_MEASURED,
    NOT_TESTED,
    NOT_TOLD_APART,
    WORSE,
    Predictions,
)
from sweepstack.results.selection.items import PerItem, give
from sweepstack.results.selection.select import one_row_per_seed, select
from sweepstack.results.selection.sequential import FIRST_SHARE
from sweepstack.results.selection.statistics import holm_with_best, mcnemar, paired_t, welch_t, wilson
from sweepstack.results.tables.frame import as_frame
from sweepstack.tracking.runs_as_rows import Row

from .trials import declaring

Figures = dict[str, float]


def trial(setting: dict[str, object], seed: int, metrics: Figures, state: str = "FINISHED") -> Row:
    params = {**{key: str(value) for key, value in setting.items()}, "seed": str(seed), "epochs": "5"}
    name = " ".join(f"{key}={value}" for key, value in params.items())
    return Row(f"id {name}", name, "1", "sweep", state, "", "/log", 1000, params, metrics)


def sweep(table: Mapping[Any, list[float]], metric: str = "val/accuracy", knob: str = "lr") -> pd.DataFrame:
    """A trial for each value of a knob and each of its figures, the seeds being 0, 1, 2, ..."""
    return as_frame(
        [trial({knob: value}, seed, {metric: f}) for value, figures in table.items() for seed, f in enumerate(figures)]
    )


def marks(groups: pd.DataFrame, knob: str = "lr") -> dict[object, str]:
    return dict(zip(groups[knob], groups["mark"], strict=True))


def test_validation_data_select_and_the_test_figure_of_what_was_selected_is_shown() -> None:
    frame = as_frame(
        [
            trial({"lr": lr}, seed, {"val/accuracy": val + seed / 1000, "test/accuracy": test})
            for lr, val, test in [(0.1, 0.93, 0.90), (0.2, 0.91, 0.95)]
            for seed in range(3)
        ]
    )
    found = select(frame, test_count=1000)
    assert found.objective == "val/accuracy"
    assert found.honest
    assert found.trial["lr"] == 0.1
    assert found.trial["seed"] == 2
    assert found.test == wilson(900, 1000)
    assert found.groups["lr"].tolist() == [0.1, 0.2]
    assert found.groups["test/accuracy"].tolist() == pytest.approx([0.90, 0.95])
    by_test = select(frame, objective="test/accuracy")
    assert by_test.trial["lr"] == 0.2
    assert not by_test.honest
    assert by_test.test is None


def test_where_nothing_was_held_out_the_test_data_select_and_that_is_said() -> None:
    found = select(sweep({0.1: [0.8], 0.2: [0.9]}, "test/accuracy"))
    assert found.trial["lr"] == 0.2
    assert "nothing was held out" in found.caution


def test_rows_are_grouped_over_seeds_with_mean_and_interval() -> None:
    found = select(sweep({0.1: [0.90, 0.92, 0.94], 0.2: [0.89, 0.90, 0.91]}))
    best = found.groups.iloc[0]
    assert (best["lr"], best["n"], best["failed"], best["mark"]) == (0.1, 3, 0, BEST)
    assert (best["mean"], best["sd"]) == pytest.approx((0.92, 0.02))
    assert (best["low"], best["high"]) == pytest.approx((0.92 - 0.0496828, 0.92 + 0.0496828), abs=1e-6)
    assert math.isnan(best["p"])
    assert len(best["run_ids"]) == 3
    other = found.groups.iloc[1]
    assert other["p"] == pytest.approx(paired_t([0.90, 0.92, 0.94], [0.89, 0.90, 0.91]).p / FIRST_SHARE, rel=1e-3)
    assert (other["mark"], other["why"]) == (NOT_TOLD_APART, "paired over 3 seeds")


def test_no_interval_of_an_accuracy_reaches_what_is_impossible() -> None:
    figures = {0.1: [0.90, 0.99], 0.2: [0.01, 0.10]}
    best, worst = select(sweep(figures)).groups[["low", "high"]].to_numpy().tolist()
    assert best[1] == 1
    assert worst[0] == 0
    assert 0 < best[0] == pytest.approx(max(0.0, 0.945 - 0.045 * stats.t.ppf(0.975, 1)))
    percent = select(sweep({0.1: [90, 99]})).groups.iloc[0]
    loss = select(sweep({0.1: [0.90, 0.99]}, "val/loss"), objective="val/loss").groups.iloc[0]
    assert percent["high"] > 100
    assert loss["high"] > 1
    assert select(sweep({0.1: [0.9]})).groups[["low", "high"]].isna().all(axis=None)


def test_losses_and_times_are_better_when_they_are_smaller() -> None:
    for metric in ("val/loss", "train_seconds"):
        found = select(sweep({0.1: [0.50, 0.40], 0.2: [0.30, 0.39]}, metric), objective=metric)
        assert found.groups["lr"].tolist() == [0.2, 0.1]
        assert found.trial[metric] == 0.30


def test_a_setting_does_not_win_by_its_lucky_seeds() -> None:
    rows = [trial({"lr": 0.1}, seed, {"val/accuracy": 0.90 + seed / 100}) for seed in range(3)]
    rows += [trial({"lr": 9}, seed, {"val/accuracy": 0.99}) for seed in range(2)]
    rows += [trial({"lr": 9}, 2, {"val/accuracy": 0.99}, "FAILED"), trial({"lr": 99}, 0, {}, "FAILED")]
    found = select(as_frame(rows))
    assert found.groups["lr"].tolist() == [0.1, 9, 99]
    lucky, broken = found.groups.iloc[1], found.groups.iloc[2]
    assert (lucky["n"], lucky["failed"], lucky["mark"]) == (2, 1, NOT_TOLD_APART)
    assert "1 of 3 trials did not finish" in lucky["why"]
    assert "ahead of the best" in lucky["why"]
    assert (broken["n"], broken["failed"], broken["mark"]) == (0, 1, NOT_MEASURED)
    assert math.isnan(broken["mean"])
    assert found.trial["lr"] == 0.1


def test_where_every_setting_lost_a_seed_the_best_of_them_is_selected_all_the_same() -> None:
    rows = [trial({"lr": lr}, seed, {"val/accuracy": lr}) for lr in (0.1, 0.2) for seed in range(2)]
    rows += [trial({"lr": lr}, 2, {}, "KILLED") for lr in (0.1, 0.2)]
    found = select(as_frame(rows))
    assert found.groups["lr"].tolist() == [0.2, 0.1]
    assert found.groups["why"].str.startswith("1 of 3 trials did not finish").all()


def test_a_single_seed_does_not_win_where_others_have_several() -> None:
    found = select(sweep({0.1: [0.95], 0.2: [0.90, 0.91], 0.3: [0.80, 0.85]}))
    assert found.groups["lr"].tolist() == [0.2, 0.3, 0.1]
    assert found.groups.iloc[2][["mark", "why"]].tolist() == [NOT_TESTED, "a single seed, which tells no spread"]


def test_seeds_that_do_not_match_are_compared_by_welch() -> None:
    first, second = [0.920, 0.921, 0.919], [0.80, 0.81, 0.79, 0.80]
    rows = [trial({"lr": 0.1}, seed, {"val/accuracy": figure}) for seed, figure in enumerate(first)]
    rows += [trial({"lr": 0.2}, 10 + seed, {"val/accuracy": figure}) for seed, figure in enumerate(second)]
    other = select(as_frame(rows)).groups.iloc[1]
    assert other["why"] == "Welch's t-test over 3 and 4 seeds that do not match"
    assert other["p"] == pytest.approx(welch_t(first, second).p / FIRST_SHARE, rel=1e-2)
    assert other["mark"] == WORSE


def kept(values: Mapping[str, Any], part: str = "val", items: Mapping[str, str] | None = None) -> Predictions:
    """What `compare_with_targets` gives for runs that have predictions for one part of the data."""

    def compared(run_id: str, asked: str) -> PerItem | str:
        if asked != part or run_id not in values:
            return f"it has no predictions for {asked}"
        return PerItem(values[run_id], (items or {}).get(run_id, ""))

    return compared


def single(right: Mapping[float, Any], metric: str = "val/accuracy") -> tuple[pd.DataFrame, dict[str, Any]]:
    """A trial for each learning rate, and which items it has right, by its run; the metric is their mean."""
    frame = as_frame([trial({"lr": lr}, 0, {metric: float(of_items.mean())}) for lr, of_items in right.items()])
    return frame, {run_id: right[lr] for run_id, lr in zip(frame["run_id"], frame["lr"], strict=True)}


def wrong(*missed: range) -> dict[float, Any]:
    """Which of 1000 items are right, for learning rates 0.1, 0.2, ...; those in a range are not."""
    return {(n + 1) / 10: ~np.isin(np.arange(1000), list(one)) for n, one in enumerate(missed)}


def test_single_seeds_are_compared_over_the_held_out_items() -> None:
    right = wrong(range(80), range(40, 130), range(80, 280), range(40, 120))
    frame, of_run = single(right)
    found = select(frame, kept(of_run))
    assert marks(found.groups) == {0.1: BEST, 0.2: NOT_TOLD_APART, 0.3: WORSE, 0.4: NOT_TOLD_APART}
    assert found.groups["why"].tolist()[1:] == ["McNemar over 1,000 held-out items"] * 3
    p = dict(zip(found.groups["lr"], found.groups["p"], strict=True))
    assert p[0.3] == pytest.approx(holm_with_best([mcnemar(right[0.1], right[lr]) for lr in p][1:], [np.inf] * 3, 4)[2])
    assert found.items == "held-out items"
    assert "this is about the held-out items: what these trained models would give on others" in found.in_short
    groups = select(frame).groups
    assert groups["mark"].tolist() == [BEST, *[NOT_TESTED] * 3]
    assert groups["why"].tolist()[1:] == ["no predictions were read"] * 3
    assert groups["p"].isna().all()


def test_test_predictions_are_never_selected_by() -> None:
    frame, of_run = single(wrong(range(80), range(80, 280)))
    groups = select(frame, kept(of_run, "test")).groups
    assert groups["mark"].tolist() == [BEST, NOT_TESTED]
    assert groups["why"].tolist()[1] == "it has no predictions for val"


def test_where_test_data_selected_the_test_items_are_compared_and_called_so() -> None:
    frame, of_run = single(wrong(range(80), range(80, 280)), "test/accuracy")
    found = select(frame, kept(of_run, "test"))
    assert found.groups["why"].tolist()[1] == "McNemar over 1,000 test items"
    assert "nothing was held out" in found.caution
    assert found.items == "test items"


def test_what_cannot_be_paired_is_said_and_never_marked() -> None:
    frame, of_run = single(wrong(range(80), range(80, 280), range(80, 281), range(80, 282)))
    best, other, third, last = (f"id lr={lr} seed=0 epochs=5" for lr in (0.1, 0.2, 0.3, 0.4))
    elsewhere = select(frame, kept(of_run, items={other: "another split"})).groups
    assert marks(elsewhere) == {0.1: BEST, 0.2: NOT_TESTED, 0.3: WORSE, 0.4: WORSE}
    assert elsewhere["why"].tolist()[1] == "its held-out items are others than those of the best one"
    later = select(frame, kept({**of_run, third: of_run[best]})).groups
    assert marks(later)[0.3] == NOT_TESTED
    assert later["why"].tolist()[2].startswith("its predictions for the held-out items do not give its val/accuracy")
    assert (
        "1 of 4 settings, and 1 could not be tested; " in select(frame, kept({**of_run, third: of_run[best]})).in_short
    )
    without = select(frame, kept({other: of_run[other], last: of_run[last]})).groups
    assert without["mark"].tolist() == [BEST, *[NOT_TESTED] * 3]
    assert without["why"].tolist()[1:] == [
        "the best one cannot be compared: it has no predictions for val",
        "it has no predictions for val",
        "the best one cannot be compared: it has no predictions for val",
    ]


def test_predictions_that_miss_a_metric_by_one_item_are_of_another_measurement() -> None:
    errors = np.arange(10_000) < 500
    assert give(Metric("val/accuracy", "max", proportion=True), errors, 0.95)
    assert not give(Metric("val/accuracy", "max", proportion=True), errors, 0.9501)


def test_the_best_figure_along_the_way_is_not_that_of_the_last_predictions() -> None:
    right = wrong(range(80), range(80, 280))
    rows = [
        trial({"lr": lr}, 0, {"val/accuracy": one.mean(), "val/accuracy_best": 0.99 - lr}) for lr, one in right.items()
    ]
    of_run = {row.run_id: one for row, one in zip(rows, right.values(), strict=True)}
    groups = select(as_frame(rows), kept(of_run), objective="val/accuracy_best").groups
    assert groups["mark"].tolist() == [BEST, NOT_TESTED]
    assert "of another measurement" in groups["why"].tolist()[1]


def test_models_that_are_all_equal_are_rarely_told_apart_over_the_items_that_chose_the_best() -> None:
    """As benchmarks/false_marks.py does it with more tables: Holm's correction alone is wrong in more than 5 %."""
    rng = np.random.default_rng(0)
    tables = 120

    def is_false() -> bool:
        shared = rng.standard_normal(2000)
        right = {lr: 0.7 * shared + 0.7 * rng.standard_normal(2000) > -1.4 for lr in map(float, range(1, 10))}
        frame, of_run = single(right)
        return bool((select(frame, kept(of_run)).groups["mark"] == WORSE).any())

    assert sum(is_false() for _ in range(tables)) <= tables * 0.05 + 2.6 * math.sqrt(tables * 0.05 * 0.95)


def test_a_sweep_of_seeds_alone_is_one_setting_and_so_is_a_single_trial() -> None:
    found = select(as_frame([trial({"lr": 0.1}, seed, {"val/accuracy": 0.9 + seed / 100}) for seed in range(4)]))
    assert found.groups[["n", "mark"]].to_numpy().tolist() == [[4, BEST]]
    assert found.trial["seed"] == 3
    single = select(as_frame([trial({"lr": 0.1}, 0, {"val/accuracy": 0.9})]))
    assert single.groups[["n", "mean"]].to_numpy().tolist() == [[1, 0.9]]
    assert single.groups[["sd", "low", "high", "p"]].isna().all(axis=None)


def test_a_trial_that_was_recorded_twice_is_no_second_seed() -> None:
    rows = [trial({"lr": lr}, 0, {"val/accuracy": lr}) for lr in (0.1, 0.2)]
    again = [Row(f"{r.run_id} again", r.name, "1", "b", r.state, "", "", 2000, r.params, r.metrics) for r in rows]
    groups = select(as_frame(rows + again)).groups
    assert groups["n"].tolist() == [1, 1]
    assert groups["run_ids"].map(len).tolist() == [2, 2]
    assert groups["sd"].isna().all()


def test_of_a_trial_that_was_recorded_twice_the_record_with_a_figure_counts() -> None:
    rows = [trial({"lr": lr}, seed, {"val/accuracy": 0.5}) for lr in (0.1, 0.2) for seed in range(2)]
    again = [Row(f"{r.run_id} again", r.name, "1", "b", r.state, "", "", 2000, r.params, {}) for r in rows[:2]]
    lost = Row("lost", "lost", "1", "b", "FINISHED", "", "", 2000, {**rows[0].params, "seed": "7"}, {})
    frame = as_frame([*rows, *again, lost])
    found = one_row_per_seed(frame, "val/accuracy")
    assert sorted(found["run_id"]) == sorted([*(row.run_id for row in rows), "lost"])
    assert one_row_per_seed(as_frame(rows), "val/accuracy").equals(as_frame(rows))


def test_a_setting_that_was_pruned_once_wins_by_what_was_trained_in_full() -> None:
    rows = [
        trial({"lr": 0.05}, 0, {"val/accuracy": 0.5}, "PRUNED"),
        trial({"lr": 0.05}, 0, {"val/accuracy": 0.86}),
        trial({"lr": 0.1}, 0, {"val/accuracy": 0.4}, "PRUNED"),
        trial({"lr": 0.1}, 1, {"val/accuracy": 0.8}),
        trial({"lr": 0.02}, 0, {"val/accuracy": 0.73}),
        trial({"lr": 3.0}, 0, {"val/accuracy": 0.1}, "PRUNED"),
    ]
    found = select(as_frame(rows))
    assert [*found.groups["lr"]] == [0.05, 0.1, 0.02]
    assert [*found.groups["failed"]] == [0, 0, 0]
    assert [*found.groups["mean"]] == [0.86, 0.8, 0.73]
    assert len(found.pruned) == 1


def test_equal_trials_are_told_apart_by_seed() -> None:
    found = select(as_frame([trial({"lr": 0.1}, seed, {"val/accuracy": 0.9}) for seed in (7, 3, 5)]))
    assert found.trial["seed"] == 3
    assert found.groups["sd"].tolist() == [0.0]


def test_equal_differences_are_no_proof() -> None:
    groups = select(sweep({0.1: [0.92, 0.94, 0.96], 0.2: [0.91, 0.93, 0.95]})).groups
    assert groups["mark"].tolist() == [BEST, NOT_TESTED]
    assert "no spread" in groups["why"].tolist()[1]


def test_figures_that_are_none_count_as_failed() -> None:
    frame = sweep({0.1: [0.90, math.nan], 0.2: [0.80, 0.81], 0.3: [math.inf, math.nan]})
    groups = select(frame).groups
    assert groups["lr"].tolist() == [0.2, 0.1, 0.3]
    assert groups["failed"].tolist() == [0, 1, 2]
    assert groups["mark"].tolist() == [BEST, NOT_TESTED, NOT_MEASURED]
    assert groups["why"].tolist()[2] == "2 of 2 trials gave no val/accuracy; no trial gave a value"


def test_any_text_may_be_a_setting_and_a_setting_may_be_named_like_our_columns() -> None:
    groups = select(sweep({"Größe <script>": [0.9, 0.91], "模型 50%": [0.8, 0.82]}, knob="mean")).groups
    assert groups["params.mean"].tolist() == ["Größe <script>", "模型 50%"]
    assert groups["mean"].tolist() == pytest.approx([0.905, 0.81])


def test_settings_that_lack_a_param_are_settings_too() -> None:
    rows = [trial({"lr": 0.1, "momentum": 0.9}, seed, {"val/accuracy": 0.9}) for seed in range(2)]
    rows += [trial({"lr": 0.1}, seed, {"val/accuracy": 0.8}) for seed in range(2)]
    assert select(as_frame(rows)).groups["n"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("frame", "objective", "message"),
    [
        (sweep({0.1: [0.9]}).iloc[:0], None, "this table has none"),
        (as_frame([trial({"lr": lr}, 0, {"val/accuracy": 0.1}, "FAILED") for lr in (1, 2)]), None, "none of these 2"),
        (sweep({0.1: [0.9], 0.2: [0.8]}), "val/acuracy", "did you mean 'val/accuracy'"),
        (sweep({0.1: [0.9], 0.2: [0.8]}), "lr", "must be a metric"),
        (sweep({0.1: [math.nan], 0.2: [math.nan]}), "val/accuracy", "no finished trial has a finite val/accuracy"),
        (sweep({0.1: [0.9], 0.2: [0.8]}, "val/loss"), None, "known: val/loss"),
        (sweep({0.1: [0.1], 0.2: [0.2]}, "train/lr"), "train/lr", "must be a result of training, got train/lr"),
    ],
)
def test_what_cannot_be_selected_from_is_told_in_a_line(
    frame: pd.DataFrame, objective: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        select(frame, objective=objective)
    assert "\n" not in str(caught.value)


def simulate(tables: int, figures: Callable[[np.random.Generator], np.ndarray], seed: int) -> list[dict[object, str]]:
    """The marks of so many sweeps, whose figures [settings, seeds] are drawn."""
    rng = np.random.default_rng(seed)
    shape = figures(rng).shape
    frame = sweep({setting: [0.0] * shape[1] for setting in range(shape[0])})
    place = tuple(frame[["lr", "seed"]].to_numpy().T)
    return [marks(select(frame.assign(**{"val/accuracy": figures(rng)[place]})).groups) for _ in range(tables)]


def test_of_settings_that_are_equal_hardly_any_table_has_one_told_apart() -> None:
    """Holm's correction, for comparisons that were fixed beforehand, is wrong in 12 % of such tables."""
    tables = simulate(150, lambda rng: 0.9 + 0.01 * (rng.standard_normal((9, 10)) + rng.standard_normal(10)), seed=1)
    false = sum(WORSE in table.values() for table in tables)
    assert false <= 150 * 0.05 + 2.6 * math.sqrt(150 * 0.05 * 0.95)  # 99.5 % of the samples at 5 %


def test_a_setting_that_is_clearly_worse_is_told_apart_from_those_that_are_near_the_best() -> None:
    level = np.array([[0.0], [0.0], [0.0], [-0.8]])
    tables = simulate(100, lambda rng: 0.9 + level + 0.01 * rng.standard_normal((4, 4)), seed=2)
    assert sum(table[3] == WORSE for table in tables) >= 95
    assert sum(WORSE in (table[0], table[1], table[2]) for table in tables) <= 5 + 2.6 * math.sqrt(5 * 0.95)


def regression(val: float, test: float, lr: float) -> Row:
    params = {"lr": str(lr), "task": "regression"}
    metrics = {"val/rmse": val, "val/mae": val, "val/r2": -val, "test/rmse": test, "test/accuracy": 0.5}
    declared = declaring("val/rmse", "min")
    return Row(f"id {lr}", f"lr={lr}", "1", "sweep", "FINISHED", "", "/log", 1000, params, metrics, declared)


def regressions(residuals: Mapping[float, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A trial for each learning rate, with the metrics that its residuals give."""
    rows = []
    for lr, one in residuals.items():
        rmse, mae = math.sqrt((one**2).mean()), float(np.abs(one).mean())
        metrics = {**regression(rmse, 1.0, lr).metrics, "val/mae": mae}
        rows.append(Row(**{**vars(regression(rmse, 1.0, lr)), "metrics": metrics}))
    return as_frame(rows), {f"id {lr}": one for lr, one in residuals.items()}


def test_single_seeds_of_a_regression_are_compared_on_the_residuals_of_the_held_out_items() -> None:
    rng = np.random.default_rng(0)
    best = rng.standard_normal((400, 2))
    residuals = {
        1.0: best,
        2.0: 0.9993 * best + 0.05 * rng.standard_normal((400, 2)),
        3.0: 1.5 * rng.standard_normal((400, 2)),
    }
    frame, of_run = regressions(residuals)
    found = select(frame, kept(of_run), test_count=400)
    assert marks(found.groups) == {1: BEST, 2: NOT_TOLD_APART, 3: WORSE}
    assert found.groups["why"].tolist()[1:] == ["paired t-test over 400 held-out items"] * 2
    assert found.test is None
    assert found.test_metric == "test/rmse"
    by_r2 = select(frame, kept(of_run), objective="val/r2").groups
    assert by_r2["why"].tolist()[1:] == ["a single seed, which tells no spread"] * 2
    unkept = select(frame, kept({})).groups
    assert unkept["why"].tolist()[1:] == ["it has no predictions for val"] * 2


def test_the_errors_that_are_compared_are_those_of_the_metric() -> None:
    """A single large residual among small ones: by the squares it is the worse one, by the sizes the better one."""
    rng = np.random.default_rng(0)
    small, large = 0.1 * rng.standard_normal((500, 1)), 0.5 * rng.standard_normal((500, 1))
    small[0] = 20.0
    frame, of_run = regressions({1.0: small, 2.0: large})
    by_mae, by_rmse = (select(frame, kept(of_run), objective=f"val/{name}").groups for name in ("mae", "rmse"))
    assert marks(by_mae) == {1: BEST, 2: WORSE}
    assert by_mae["p"][1] == pytest.approx(stats.ttest_rel(np.abs(small[:, 0]), np.abs(large[:, 0])).pvalue)
    assert marks(by_rmse) == {2: BEST, 1: NOT_TOLD_APART}


def test_equally_good_regressions_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(0)

    def once() -> bool:
        shared = rng.standard_t(5, (100, 1))
        frame, of_run = regressions({lr: shared + rng.standard_normal((100, 1)) for lr in (1.0, 2.0)})
        return bool(select(frame, kept(of_run)).groups["mark"][1] == WORSE)

    assert np.mean([once() for _ in range(400)]) <= 0.05


@pytest.mark.parametrize(("metric", "how"), [("accuracy", "paired t-test"), ("exact_match", "McNemar")])
def test_labels_are_compared_by_the_share_of_them_that_is_right(metric: str, how: str) -> None:
    rng = np.random.default_rng(0)
    right = {lr: rng.random((500, 3)) < share for lr, share in [(0.1, 0.9), (0.2, 0.6)]}
    rows = [
        trial({"lr": lr}, 0, {f"val/{metric}": one.mean() if metric == "accuracy" else one.all(1).mean()})
        for lr, one in right.items()
    ]
    found = select(
        as_frame(rows), kept({row.run_id: one for row, one in zip(rows, right.values(), strict=True)}), f"val/{metric}"
    )
    assert marks(found.groups) == {0.1: BEST, 0.2: WORSE}
    assert found.groups["why"].tolist()[1] == f"{how} over 500 held-out items"


def test_an_accuracy_of_labels_is_no_share_of_the_images() -> None:
    rows = [trial({"lr": lr, "task": "multilabel"}, 0, {"val/accuracy": lr, "test/accuracy": 0.9}) for lr in (0.1, 0.2)]
    assert select(as_frame(rows), test_count=100).test is None
    plain = [trial({"lr": lr}, 0, {"val/accuracy": lr, "test/accuracy": 0.9}) for lr in (0.1, 0.2)]
    assert select(as_frame(plain), test_count=100).test == wilson(90, 100)
    both = [plain[0], Row(**{**vars(rows[1]), "run_id": "id of another task"})]
    assert select(as_frame(both), test_count=100).test is None


def test_single_seeds_that_are_selected_by_another_metric_of_classes_are_not_compared_by_their_accuracy() -> None:
    declared = declaring("val/f1_macro", "max")
    rows = [
        Row(**{**vars(trial({"lr": lr}, 0, {"val/f1_macro": lr, "test/f1_macro": lr})), "declared": declared})
        for lr in (0.1, 0.2)
    ]
    right = np.arange(100) > 10
    groups = select(as_frame(rows), lambda *_: PerItem(right, "")).groups
    assert groups["lr"].tolist() == [0.2, 0.1]
    assert groups["why"].tolist()[1] == "a single seed, which tells no spread"
