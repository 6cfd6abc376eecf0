"""The table as a DataFrame, from rows as the store gives them."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstack.errors import UserError
from sweepstack.results.tables.columns import find_column
from sweepstack.results.tables.frame import as_frame, only
from sweepstack.results.tables.grouping import by_seed, grouped
from sweepstack.results.tables.rendering import render, short
from sweepstack.tracking.runs_as_rows import Row

from .trials import row, trials

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_selection_is_by_held_out_accuracy_even_where_the_test_data_say_otherwise() -> None:
    rows = [
        row(0, {"lr": "0.1"}, {"val/accuracy": 0.90, "test/accuracy": 0.95}),
        row(1, {"lr": "0.2"}, {"val/accuracy": 0.91, "test/accuracy": 0.89}),
    ]
    assert as_frame(rows)["lr"].tolist() == [0.2, 0.1]
    assert as_frame(rows, sort="test/accuracy")["lr"].tolist() == [0.1, 0.2]
    assert as_frame(rows, metric="metrics.test/accuracy")["lr"].tolist() == [0.1, 0.2]


def test_a_trial_that_did_not_finish_is_never_the_best_whatever_its_figures() -> None:
    rows = [
        row(0, {"lr": "9"}, {"val/accuracy": 0.99}, "FAILED", "the loss was nan"),
        row(1, {"lr": "0.1"}, {"val/accuracy": 0.5}),
        row(2, {"lr": "0.2"}, {"val/accuracy": math.nan}),
        row(3, {"lr": "0.3"}, {"val/accuracy": 0.98}, "KILLED"),
    ]
    assert as_frame(rows)["lr"].tolist() == [0.1, 0.2, 9, 0.3]
    assert as_frame(rows, sort="val/accuracy")["lr"].tolist() == [9, 0.3, 0.1, 0.2]


def test_a_figure_that_is_not_finite_is_never_the_best() -> None:
    losses = [math.nan, math.inf, 0.5, -math.inf]
    rows = [row(n, {"lr": str(n)}, {"val/loss": loss}) for n, loss in enumerate(losses)]
    assert as_frame(rows, metric="val/loss")["lr"].tolist() == [2, 3, 1, 0]
    assert as_frame(rows, sort="val/loss")["lr"].tolist() == [3, 2, 1, 0]


def test_names_that_look_like_numbers_stay_apart() -> None:
    assert trials(({"note": "007"}, 0.5), ({"note": "7"}, 0.4))["note"].tolist() == ["007", 7]


def test_losses_and_times_sort_upwards() -> None:
    rows = [row(n, {"lr": "1"}, {"val/loss": 3.0 - n, "train_seconds": float(n)}) for n in range(3)]
    assert as_frame(rows, sort="val/loss")["val/loss"].tolist() == [1.0, 2.0, 3.0]
    assert as_frame(rows, sort="train_seconds")["train_seconds"].tolist() == [0.0, 1.0, 2.0]


def test_params_that_vary_come_first_and_text_stays_text() -> None:
    rows = [row(n, {"seed": "0", "model": model, "lr": "0.5"}, {}) for n, model in enumerate(["mlp", "logistic"])]
    frame = as_frame(rows)
    assert frame.columns[0] == "model"
    assert frame.attrs["vary"] == 1
    assert frame["seed"].dtype.kind == "i"
    with pytest.raises(UserError, match="did you mean 'model'"):
        only(frame, ["modle"])


def test_among_the_trials_that_fulfil_a_condition_others_vary() -> None:
    settings = [({"lr": lr, "batch_size": size}, 0.5) for lr in ("0.1", "0.2") for size in ("50", "100")]
    frame = trials(*settings, where="lr == 0.1")
    assert list(frame.columns[: frame.attrs["vary"]]) == ["batch_size"]
    assert len(frame) == 2
    with pytest.raises(UserError, match=r"^none of the 4 trials fulfils 'lr > 7'; look at them without --where$"):
        trials(*settings, where="lr > 7")


def test_whole_numbers_stay_whole_where_a_run_of_an_earlier_version_lacks_them_and_keep_every_digit() -> None:
    frame = trials(({"seed": "9007199254740993"}, 0.9), ({}, 0.8), ({"seed": "None"}, 0.7))
    assert str(render(frame, "csv")).splitlines()[1].startswith("9007199254740993,")
    assert str(render(short(frame), "text")).splitlines()[-1].split()[0] == "-"
    longer = trials(({"seed": "12345678901234567890123"}, 0.9), ({}, 0.8))
    assert longer["seed"][0] == 12345678901234567890123


def test_runs_without_params_metrics_and_tags_have_a_table() -> None:
    bare = Row("id", "", "1", None, "RUNNING", "", "", 0, {}, {})
    frame = as_frame([bare])
    assert "RUNNING" in str(render(short(frame), "text"))
    assert frame["run_id"].tolist() == ["id"]


def test_a_param_that_is_called_like_something_else_has_a_column_of_its_own() -> None:
    rows = [row(n, {"state": f"solid {n}", "val/loss": "huber"}, {"val/loss": 0.5}) for n in range(2)]
    frame = as_frame(rows)
    assert frame["params.state"].tolist() == ["solid 0", "solid 1"]
    assert frame["state"].tolist() == ["FINISHED"] * 2
    assert (frame["params.val/loss"][0], frame["val/loss"][0]) == ("huber", 0.5)


@pytest.mark.parametrize(
    ("word", "column"),
    [
        ("lr", "lr"),
        ("optimizer.lr", "lr"),
        ("params.lr", "lr"),
        ("params.optimizer.lr", "lr"),
        ("bs", "batch_size"),
        ("units", "model.units"),
        ("model.units", "model.units"),
        ("metrics.val/accuracy", "val/accuracy"),
        ("state", "state"),
    ],
)
def test_a_column_has_the_names_that_people_give_it(word: str, column: str) -> None:
    frame = trials(({"lr": "0.1", "batch_size": "50", "model.units": "64", "model": "mlp"}, 0.9))
    assert find_column(frame, word) == column


@pytest.mark.parametrize(
    ("word", "kind", "line"),
    [
        ("optimizer.lrr", "param", "there is no param 'optimizer.lrr' in this table; known: batch_size, lr"),
        ("val/acuracy", "metric", "there is no metric 'val/acuracy' in this table; did you mean 'val/accuracy'?"),
        ("lr", "metric", "there is no metric 'lr' in this table; known: val/accuracy"),
        ("params.val/accuracy", "column", "there is no param 'val/accuracy' in this table; known: batch_size, lr"),
        ("metrics.lr", "param", "there is no param 'metrics.lr' in this table; known: batch_size, lr"),
    ],
)
def test_a_column_that_is_not_there_is_a_line(word, kind, line) -> None:
    with pytest.raises(UserError) as caught:
        find_column(trials(({"lr": "0.1", "batch_size": "50"}, 0.9)), word, kind)
    assert str(caught.value) == line


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20), st.randoms())
def test_neither_the_order_of_rows_nor_that_of_params_matters_and_csv_keeps_every_digit(pairs, dice) -> None:
    rows = [row(n, {"lr": repr(lr), "seed": "0"}, {"val/accuracy": value}) for n, (lr, value) in enumerate(pairs)]
    shuffled = [
        Row(**{**vars(one), "params": dict(sorted(one.params.items(), key=lambda _: dice.random()))}) for one in rows
    ]
    dice.shuffle(shuffled)
    once, again = as_frame(rows), as_frame(shuffled)
    for form in ("csv", "json", "parquet", "html"):
        assert render(once, form) == render(again, form)
    assert once["val/accuracy"].tolist() == sorted((accuracy for _, accuracy in pairs), reverse=True)
    assert sorted(once["lr"]) == sorted(lr for lr, _ in pairs)


def test_equal_trials_stand_in_the_order_of_the_sweep_whatever_their_ids() -> None:
    """Trials of a stack begin in the same millisecond, and the ids of runs are random."""
    for ids in ("abcd", "dbca"):
        rows = [
            dataclasses.replace(
                row(n, {"lr": str(n), "seed": str(seed)}, {"val/accuracy": 0.5}),
                run_id=run_id,
                number=2 * n + seed,
                started=0,
                sweep="one",
            )
            for (n, seed), run_id in zip([(0, 0), (0, 1), (1, 0), (1, 1)], ids, strict=True)
        ]
        found = as_frame(rows[::-1])
        assert list(zip(found["lr"], found["seed"], strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert by_seed(found)["lr"].tolist() == [0, 1]
        assert as_frame(rows, where="lr > 0")["seed"].tolist() == [0, 1]
        assert as_frame(rows, sort="sweep")["seed"].tolist() == [0, 1, 0, 1]


def test_a_trial_that_does_not_name_a_later_key_has_its_default() -> None:
    """Records name such a key only once it is used."""
    settings = [{}, {"accumulate": "2", "keep_best": "true", "clip_norm": "1.5"}, {"accumulate": "4", "task": "mine"}]
    frame = trials(*(({"lr": "0.1", **params}, 0.5) for params in settings))
    assert frame["accumulate"].tolist() == [1, 2, 4]
    assert frame["keep_best"].tolist() == [False, True, False]
    assert frame["task"].tolist() == ["classification", "classification", "mine"]
    assert frame["clip_norm"].isna().tolist() == [True, False, True]  # its default is null
    assert "ema" not in frame
    below = trials(*(({"lr": "0.1", **params}, 0.5) for params in settings), where="accumulate < 4")
    assert below["accumulate"].tolist() == [1, 2]
    assert grouped(frame, ["accumulate"])["accumulate"].tolist() == [1, 2, 4]
