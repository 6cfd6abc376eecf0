"""Means by groups and by two params."""

import math
import statistics

import pytest

from sweepstack.errors import UserError
from sweepstack.results.tables.frame import as_frame, only, sorted_by
from sweepstack.results.tables.grouping import by_seed, grouped, pivoted
from sweepstack.results.tables.rendering import render, short

from .trials import HOSTILE, row, trials

GRID = [
    ({"lr": lr, "batch_size": size, "seed": str(seed)}, 0.5 + float(lr) + int(size) / 1000 + seed / 10)
    for lr in ("0.1", "0.01")
    for size in ("100", "50")
    for seed in range(3)
]


def test_groups_have_the_mean_over_everything_else_the_best_first() -> None:
    groups = grouped(trials(*GRID), ["optimizer.lr"])
    values = [[accuracy for params, accuracy in GRID if params["lr"] == lr] for lr in ("0.1", "0.01")]
    assert groups.columns.tolist() == ["lr", "mean", "sd", "n", "missing"]
    assert groups["lr"].tolist() == [0.1, 0.01]
    assert groups["mean"].tolist() == pytest.approx([statistics.mean(group) for group in values])
    assert groups["sd"].tolist() == pytest.approx([statistics.stdev(group) for group in values])
    assert groups["n"].tolist() == [6, 6]
    assert sorted_by(groups, "lr")["lr"].tolist() == [0.01, 0.1]
    assert sorted_by(groups, "mean")["lr"].tolist() == [0.1, 0.01]
    assert sorted_by(groups, "mean val/accuracy").equals(sorted_by(groups, "mean"))  # as the head of the column says


@pytest.mark.parametrize("make", [lambda frame: grouped(frame, ["lr"]), by_seed])
def test_each_printed_header_names_its_column(make) -> None:
    found = make(trials(*(({"lr": lr, "seed": s}, 0.5) for lr in "12" for s in "01"), ({"lr": "2", "seed": "2"}, None)))
    for header in short(found).columns:
        assert len(only(found, [header]).columns) == 1
        sorted_by(found, header)


def test_trials_without_a_value_are_counted_and_not_averaged() -> None:
    rows = [
        row(0, {"lr": "1"}, {"val/accuracy": 0.5}),
        row(1, {"lr": "1"}, {"val/accuracy": 0.9}, "FAILED"),
        row(2, {"lr": "1"}, {"val/accuracy": math.nan}),
        row(3, {"lr": "2"}, {}, "FAILED"),
        row(4, {}, {"val/accuracy": 0.4}),
    ]
    groups = grouped(as_frame(rows), ["lr"])
    assert groups["mean"].tolist()[:2] == [0.5, 0.4]
    assert math.isnan(groups["mean"][2])
    assert groups["n"].tolist() == [1, 1, 0]
    assert groups["missing"].tolist() == [2, 0, 1]
    lines = str(render(short(groups), "text")).splitlines()
    assert lines[0].split() == ["lr", "mean", "val/accuracy", "n", "missing"]
    assert [line.split() for line in lines[2:]] == [
        ["1", "0.5000", "1", "2"],
        ["-", "0.4000", "1", "0"],
        ["2", "-", "0", "1"],
    ]


def test_an_infinite_loss_is_missing_from_the_mean() -> None:
    rows = [row(n, {"lr": str(n // 2)}, {"val/loss": loss}) for n, loss in enumerate((0.1, math.inf, 0.3, 0.5))]
    groups = grouped(as_frame(rows), ["lr"], "val/loss")
    assert groups["mean"].tolist() == [0.1, 0.4]
    assert groups["missing"].tolist() == [1, 0]


def test_a_pivot_is_in_the_order_of_values_and_says_how_many_trials_a_mean_is_of() -> None:
    table = pivoted(trials(*GRID[1:]), "lr", "bs")
    labels = ["batch_size=50", "batch_size=100"]
    assert table.columns.tolist() == ["lr", *labels, *(f"n {label}" for label in labels)]
    assert table["lr"].tolist() == [0.01, 0.1]
    assert table["batch_size=50"].tolist() == pytest.approx([0.66, 0.75])
    assert table["n batch_size=100"].tolist() == [3, 2]
    lines = str(render(short(table), "text")).splitlines()
    assert lines[0].split() == ["lr", *labels]
    assert lines[-1].split() == ["0.1", "0.7500", "(n=3)", "0.8500", "(n=2)"]


def test_single_trials_are_not_counted_and_combinations_that_are_missing_stay_empty() -> None:
    settings = [({"lr": "0.1", "model": "mlp"}, 0.9), ({"lr": "0.2", "model": "logistic"}, 0.8), ({"lr": "0.2"}, 0.7)]
    table = pivoted(trials(*settings), "model", "lr")
    assert [line.split() for line in str(render(short(table), "text")).splitlines()[2:]] == [
        ["logistic", "-", "0.8000"],
        ["mlp", "0.9000", "-"],
        ["-", "-", "0.7000"],
    ]
    other = pivoted(trials(*settings), "lr", "model")
    assert other.columns.tolist()[1:4] == ["model=logistic", "model=mlp", "model=None"]


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html", "csv", "json", "parquet"])
def test_values_that_are_markup_make_columns_all_the_same(form: str) -> None:
    settings = [({"note": note, "lr": "1"}, 0.5) for note in HOSTILE]
    table = pivoted(trials(*settings, ({"note": "x", "lr": "2"}, 0.5)), "lr", "note")
    assert len(table.columns) == 1 + 2 * (len(HOSTILE) + 1)
    rendered = render(short(table), form)
    assert rendered
    if form in ("text", "markdown", "latex", "html"):
        assert all(line.isprintable() for line in str(rendered).splitlines())
        assert form == "text" or "<script>" not in str(rendered)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda frame: grouped(frame, ["lrr"]), "there is no column 'lrr' in this table; did you mean 'lr'?"),
        (lambda frame: grouped(frame, ["val/accuracy"]), "groups are made by params, got the metric 'val/accuracy'"),
        (
            lambda frame: grouped(frame, ["lr"], "val/acuracy"),
            "there is no metric 'val/acuracy' in this table; did you",
        ),
        (lambda frame: pivoted(frame, "lr", "optimizer.lr"), "a pivot takes two different params, got 'lr' twice"),
    ],
)
def test_a_mistake_is_one_line(make, line) -> None:
    with pytest.raises(UserError) as caught:
        make(trials(*GRID))
    assert str(caught.value).startswith(line)


def test_where_nothing_was_measured_there_is_no_mean() -> None:
    frame = trials(({"lr": "1"}, None), ({"lr": "2"}, None))
    with pytest.raises(UserError, match=r"none of the 2 trials has one to be compared by; name one with --metric"):
        grouped(frame, ["lr"])
