"""Whether the smallest or the largest value is the best: the same everywhere, and never lost."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps

from sweepstack.errors import UserError
from sweepstack.metrics import KNOWN, Direction, Metric, Mode, bare_name, is_better, rounded
from sweepstack.results.reporting.answer import answer, question
from sweepstack.results.reporting.params import varied_params
from sweepstack.results.reporting.plots.charts import by_param, parallel_coordinates
from sweepstack.results.reporting.plots.heat_maps import heat_maps
from sweepstack.results.reporting.plots.palette import LINES
from sweepstack.results.reporting.plots.pareto import time_and_objective
from sweepstack.results.reporting.plots.style import tick_text, words
from sweepstack.results.reporting.tables import trials_table
from sweepstack.results.reporting.text import explain_values
from sweepstack.results.selection.select import select
from sweepstack.results.tables.frame import as_frame, sorted_by
from sweepstack.results.tables.grouping import by_seed, grouped, pivoted
from sweepstack.results.tables.objective import direction_note, metric_of, objective
from sweepstack.results.tables.rendering import short
from sweepstack.tracking.objectives import Declared
from sweepstack.tracking.runs_as_rows import Row

from .trials import declaring, row

BOTH = pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("val/rmse", "min"),
        ("val/r2", "max"),
        ("val/calibration_error", "min"),
        ("val/cost", "min"),
        ("val/gain", "max"),
    ],
)
"""Metrics that sweepstack knows, and some of a user's own."""


def rows_of(name: str, mode: Mode) -> list[Row]:
    """Two seeds for each of four settings; lr=4 has the largest values, and each setting costs as much as another."""
    return [
        row(
            4 * seed + number,
            {"lr": str(1 + number), "size": str(10 * (1 + number % 2)), "seed": str(seed)},
            {name: number + seed / 10, f"test/{bare_name(name)}": number + 0.5, "train_seconds": 1.0},
            declared=declaring(name, mode),
        )
        for seed in range(2)
        for number in range(4)
    ]


@BOTH
def test_tables_groups_and_selection_agree_on_the_best(name: str, mode: Mode) -> None:
    frame = as_frame(rows_of(name, mode))
    expected = [1, 2, 3, 4] if mode == "min" else [4, 3, 2, 1]
    assert objective(frame) == name
    assert frame["lr"].drop_duplicates().tolist() == expected
    assert as_frame(rows_of(name, mode), sort=name)["lr"].drop_duplicates().tolist() == expected
    assert as_frame(rows_of(name, mode), sort="lr")["lr"].drop_duplicates().tolist() == [1, 2, 3, 4]
    assert grouped(frame, ["lr"])["lr"].tolist() == expected
    groups = by_seed(frame)
    assert groups["lr"].tolist() == expected
    assert sorted_by(groups, "mean")["lr"].tolist() == expected
    assert sorted_by(groups, f"mean {name}")["lr"].tolist() == expected
    assert sorted_by(groups, f"test/{bare_name(name)}")["lr"].tolist() == expected
    assert sorted_by(groups, "lr")["lr"].tolist() == [1, 2, 3, 4]
    assert pivoted(frame, "lr", "size")["lr"].tolist() == [1, 2, 3, 4]
    found = select(frame)
    assert (found.objective, found.objective.mode, found.test_metric) == (name, mode, f"test/{bare_name(name)}")
    assert (found.trial["lr"], found.trial["seed"]) == (expected[0], 0 if mode == "min" else 1)


@BOTH
def test_a_table_that_was_filtered_keeps_the_direction(name: str, mode: Mode, tmp_path: Path) -> None:
    frame = as_frame(rows_of(name, mode))
    filtered = [frame[frame["lr"] > 1.5], frame.query("lr > 1.5"), frame.loc[frame["lr"].isin([2, 3, 4])].copy()]
    filtered += [
        as_frame(rows_of(name, mode), where="lr > 1.5"),
        frame.sort_values("lr").iloc[2:].reset_index(drop=True),
    ]
    for some in filtered:
        assert select(some).trial["lr"] == (2 if mode == "min" else 4)
        assert grouped(some, ["lr"])["lr"].iloc[0] == (2 if mode == "min" else 4)
    frame.to_parquet(tmp_path / "table.parquet")
    assert select(pd.read_parquet(tmp_path / "table.parquet")).trial["lr"] == (1 if mode == "min" else 4)


@BOTH
def test_plots_draw_the_best_as_the_best(name: str, mode: Mode) -> None:
    frame = as_frame(rows_of(name, mode))
    metric = metric_of(frame, name)
    good = colormaps["cividis"](1.0)
    (axes,) = parallel_coordinates(frame, ["lr", "size"], metric, []).axes
    drawn = [line for line in axes.lines if line.get_gid()]
    assert [drawn[0].get_color(), drawn[-1].get_color()] == [LINES[0].light, LINES[-1].light]
    cells = [patch for patch in heat_maps(frame, [("lr", "size")], metric, []).axes[0].patches if patch.get_gid()]
    shade_of = {patch.get_gid(): patch.get_facecolor() for patch in cells}
    best = frame.index[frame["lr"] == (1 if mode == "min" else 4)]
    assert shade_of["trial-" + "-".join(map(str, best))] == pytest.approx(good)
    groups = [frame.index[frame["lr"] == lr].tolist() for lr in (1, 2, 3, 4)]
    (axes,) = time_and_objective(frame, groups, ["lr"], metric, []).axes
    (front,) = [line for line in axes.lines if line.get_label() == "_front"]
    assert np.asarray(front.get_ydata()).tolist() == pytest.approx([0.05 if mode == "min" else 3.05])


@pytest.mark.parametrize(("name", "mode"), [("val/rmse", "min"), ("val/r2", "max")])
def test_a_plot_leaves_out_what_is_far_on_the_bad_side_alone(name: str, mode: Mode) -> None:
    far = {"good": -100.0 if mode == "min" else 100.0, "bad": 100.0 if mode == "min" else -100.0}
    rows = [
        row(n, {"lr": str(n)}, {name: value}, declared=declaring(name, mode))
        for n, value in enumerate([*np.linspace(1, 2, 20), *far.values()])
    ]
    frame = as_frame(rows)
    low, high = by_param(frame, ["lr"], metric_of(frame, name), [0]).axes[0].get_ylim()
    assert low < far["good"] < high
    assert not low < far["bad"] < high


@BOTH
def test_a_report_speaks_of_the_metric(name: str, mode: Mode) -> None:
    frame = as_frame(rows_of(name, mode))
    found = select(frame)
    extreme, better = ("lowest", 1) if mode == "min" else ("highest", 4)
    assert question(4, ["lr"], found.objective).endswith(f"has the {extreme} {words(name)}?")
    assert question(1, ["lr"], found.objective) == f"How {extreme.removesuffix('est')} is the {words(name)}?"
    said = "".join(piece for piece, _ in answer(found, varied_params(frame)))
    assert re.match(rf"lr={better} size=\d0 has the {extreme} {re.escape(words(name))}, ", said)
    tested = found.trial[f"test/{bare_name(name)}"]
    assert f"; on test data the {words(bare_name(name))} of the best of its trials is {tested:.4f}; " in said
    lines = explain_values(frame, found, 100)
    unbiased = (
        f"Validation data selected, test data were only read: the {words(f'test/{bare_name(name)}')} is unbiased."
    )
    assert lines[0] == unbiased
    assert not any("Wilson" in line for line in lines)
    titles = [column.title for column in trials_table(frame, ["lr"], found.objective, 0).columns]
    assert titles[2:5] == [words(name), words(f"test/{bare_name(name)}"), "seconds of training"]
    assert short(frame).columns.tolist() == [
        "lr",
        "seed",
        "size",
        name,
        f"test/{bare_name(name)}",
        "train_seconds",
        "state",
    ]


def test_names_of_metrics_are_words_with_their_abbreviations() -> None:
    names = ("val/rmse", "test/r2", "val/f1_macro_best", "val/accuracy_best", "test/auroc", "val/my_metric", "val/loss")
    assert [words(name) for name in names] == [
        "validation RMSE", "test R²", "best validation F1 (macro)", "best validation accuracy", "test AUROC",
        "validation my metric", "validation loss",
    ]  # fmt: skip
    frame = as_frame(rows_of("val/rmse", "min"))
    title = by_param(frame, ["lr"], metric_of(frame, "val/rmse"), []).get_suptitle()
    assert title == "Validation RMSE by hyperparameter"


def test_a_best_value_has_the_direction_of_its_metric() -> None:
    frame = as_frame(
        [row(n, {}, {"val/gain": n, "val/gain_best": n}, declared=declaring("val/gain", "max")) for n in range(2)]
    )
    assert metric_of(frame, "val/gain_best").mode == "max"
    assert metric_of(frame, "val/accuracy_best").larger_is_better
    assert metric_of(frame, "val/rmse_best").mode == "min"


def test_what_nobody_declares_is_best_where_it_is_smallest_whatever_its_name() -> None:
    frame = as_frame([row(n, {}, {"val/inaccuracy": n, "val/accuracy": n}) for n in range(2)])
    assert metric_of(frame, "val/inaccuracy").mode == "min"
    assert metric_of(frame, "train_seconds").mode == "min"
    assert as_frame([row(n, {"accuracy": str(n)}, {}) for n in (2, 1)], sort="accuracy")["accuracy"].tolist() == [1, 2]


def mixed() -> list[Row]:
    """Two classifications, of which the first says nothing, and two regressions of one sweep."""
    return [
        row(0, {"lr": "1"}, {"val/accuracy": 0.5, "val/loss": 3}),
        row(1, {"lr": "2"}, {"val/accuracy": 0.6, "val/loss": 2}, declared=declaring("val/accuracy", "max")),
        row(
            2, {"lr": "3", "task": "regression"}, {"val/rmse": 7, "val/loss": 1}, declared=declaring("val/rmse", "min")
        ),
        row(
            3, {"lr": "4", "task": "regression"}, {"val/rmse": 6, "val/loss": 0}, declared=declaring("val/rmse", "min")
        ),
    ]


DIFFERENT = (
    "one metric must select, and these trials have the objectives val/accuracy, val/rmse; "
    "choose one with --metric, for example --metric val/accuracy"
)


def test_trials_with_different_objectives_are_ranked_by_the_one_that_is_asked_for() -> None:
    def message(ask: Callable[[], object]) -> str:
        with pytest.raises(UserError) as caught:
            ask()
        return str(caught.value)

    everything = as_frame(mixed(), sort="started")
    for ask in (lambda: as_frame(mixed()), lambda: select(everything), lambda: grouped(everything, ["lr"])):
        assert message(ask) == DIFFERENT
    assert as_frame(mixed(), metric="val/rmse")["lr"].tolist()[:2] == [4, 3]
    assert as_frame(mixed(), metric="val/accuracy")["lr"].tolist()[:2] == [2, 1]
    assert select(everything, objective="val/loss").trial["lr"] == 4
    assert as_frame(mixed(), where="task == 'regression'")["lr"].tolist() == [4, 3]
    for some, best in ((everything[everything["lr"] > 2], 4), (everything.query("lr < 3"), 2)):
        assert select(some).trial["lr"] == best
        assert grouped(some, ["lr"])["lr"].iloc[0] == best
    assert short(everything).columns.tolist() == ["lr", "task", "val/accuracy", "val/rmse", "state"]


def test_held_out_data_select_where_other_trials_held_nothing_out() -> None:
    rows = [
        row(0, {"lr": "1"}, {"val/rmse": 2.0, "test/rmse": 1.0}, declared=declaring("val/rmse", "min")),
        row(1, {"lr": "2"}, {"test/rmse": 0.5}, declared=declaring("test/rmse", "min")),
    ]
    assert objective(as_frame(rows)) == "val/rmse"
    alone = select(as_frame(rows[1:]))
    assert alone.objective == "test/rmse"
    assert "nothing was held out" in alone.caution


def test_trials_that_contradict_each_other_are_a_line_where_it_matters() -> None:
    modes: tuple[tuple[int, Mode], ...] = ((1, "min"), (2, "max"))
    rows = [row(n, {"lr": str(n)}, {"val/gain": n}, declared=declaring("val/gain", mode)) for n, mode in modes]
    line = (
        "the best gain must be the smallest or the largest, and these trials declare both modes; "
        "choose trials of one mode with --where, or another metric"
    )
    for ask in (lambda: as_frame(rows), lambda: as_frame(rows, metric="val/gain")):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value) == line
    assert as_frame(rows, sort="lr")["lr"].tolist() == [1, 2]
    assert as_frame(rows, where="lr == 2")["lr"].tolist() == [2]


def test_intervals_stay_inside_of_0_and_1_for_proportions_alone() -> None:
    def bounds(name: str, declared: Declared) -> tuple[float, float]:
        rows = [row(n, {"seed": str(n)}, {name: value}, declared=declared) for n, value in enumerate((0.05, 0.95))]
        best = select(as_frame(rows)).groups.iloc[0]
        return best["low"], best["high"]

    assert bounds("val/f1_macro", declaring("val/f1_macro", "max")) == (0, 1)
    assert bounds("val/calibration_error", declaring("val/calibration_error", "min")) == (0, 1)
    for name in ("r2", "rmse", "cohen_kappa"):
        low, high = bounds(f"val/{name}", declaring(f"val/{name}", KNOWN[name].mode))
        assert low < 0
        assert high > 1


@pytest.mark.parametrize(("mode", "better"), [("min", 1.0), ("max", 2.0)])
def test_a_number_is_better_than_none(mode: Mode, better: float) -> None:
    worse = 3 - better
    assert is_better(better, worse, mode)
    assert not is_better(worse, better, mode)
    assert not is_better(better, better, mode)
    assert is_better(worse, math.nan, mode)
    assert not is_better(math.nan, worse, mode)


def test_a_metric_is_the_same_after_a_copy() -> None:
    frame = as_frame(rows_of("val/gain", "max"))
    groups = grouped(frame, ["lr"]).head(2).copy()
    metric = groups.attrs["metric"]
    assert isinstance(metric, Metric)
    assert (metric, metric.mode) == ("val/gain", "max")


@pytest.mark.parametrize(
    ("value", "text", "in_a_plot"),
    [
        (0.12345, "0.1235", "0.123"),
        (0.0, "0.0000", "0.000"),
        (-54.321987, "-54.3220", "-54.322"),
        (5012.34567, "5012.3457", "5012.3"),
        (2.5e-6, "2.5e-06", "2.5e-06"),
        (12345678.0, "1.23457e+07", "1.2346e+07"),
        (math.nan, "nan", "nan"),
        (math.inf, "inf", "inf"),
    ],
)
def test_values_of_any_size_are_readable(value: float, text: str, in_a_plot: str) -> None:
    assert (rounded(value), tick_text(value)) == (text, in_a_plot)


def test_the_metrics_that_were_asked_for_are_shown_the_one_that_sorts_first() -> None:
    params = {"task.metrics": '["auroc", "f1_macro", {"_target_": "my.gain", "mode": "max"}]'}
    values = {"val/accuracy": 0.5, "val/auroc": 0.6, "test/auroc": 0.4, "val/f1_macro": 0.3, "val/gain": 2.0}
    rows = [row(number, {"lr": str(number), **params}, values, declared=GAIN) for number in (1, 2)]
    asked = ["val/auroc", "val/f1_macro", "val/gain"]
    assert short(as_frame(rows)).columns.tolist() == ["lr", "val/accuracy", *asked, "state"]
    by_test = short(as_frame(rows, metric="test/auroc"))
    assert by_test.columns.tolist() == ["lr", "test/auroc", "val/accuracy", *asked, "state"]
    by_gain = short(as_frame(rows, metric="val/gain"))
    assert by_gain.columns.tolist() == ["lr", "val/gain", "val/accuracy", *asked[:2], "state"]
    many = {"task.metrics": str([name for name in KNOWN if name != "accuracy"]).replace("'", '"')}
    wide = as_frame([row(1, many, {f"val/{name}": 0.5 for name in KNOWN})])
    assert len([column for column in short(wide) if str(column).startswith("val/")]) == 5


def test_a_metric_whose_direction_nothing_says_gets_a_note() -> None:
    values = {"val/gain": 1.0, "val/cost": 2.0, "val/accuracy": 0.5, "train_seconds": 1.0}
    frame = as_frame([row(1, {}, values, declared=GAIN)])
    assert direction_note(frame, "val/cost") == (
        "nothing says whether small or large values of val/cost are better; the smallest is taken"
    )
    assert not any(direction_note(frame, name) for name in ("val/gain", "val/accuracy", "train_seconds"))


GAIN = Declared("val/accuracy", {"gain": Direction("max")})
"""A run of the default task with a metric of the user's own."""
