"""The table as a DataFrame, from rows as the store gives them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstack.errors import UserError
from sweepstack.results.table import as_frame, failures, only, render, short
from sweepstack.tracking.store import Row

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def row(
    number: int, params: dict[str, str], metrics: dict[str, float], state: str = "FINISHED", reason: str = ""
) -> Row:
    log = f"/jobs/{number}/train.log"
    return Row(f"id{number}", f"run {number}", "1", "sweep", state, reason, log, 1000 + number, params, metrics)


def test_selection_is_by_held_out_accuracy_even_where_the_test_data_say_otherwise() -> None:
    rows = [
        row(0, {"lr": "0.1"}, {"val/accuracy": 0.90, "test/accuracy": 0.95}),
        row(1, {"lr": "0.2"}, {"val/accuracy": 0.91, "test/accuracy": 0.89}),
    ]
    assert as_frame(rows)["lr"].tolist() == [0.2, 0.1]
    assert as_frame(rows, sort="test/accuracy")["lr"].tolist() == [0.1, 0.2]


def test_failed_trials_come_last_with_their_reason() -> None:
    rows = [
        row(0, {"lr": "9"}, {}, "FAILED", "the loss was nan"),
        row(1, {"lr": "0.1"}, {"val/accuracy": 0.5}),
    ]
    frame = as_frame(rows)
    assert frame["state"].tolist() == ["FINISHED", "FAILED"]
    last = str(render(short(frame), "text")).splitlines()[-1]
    assert "FAILED" in last
    assert "the loss was nan" in last


def test_a_sweep_in_which_all_failed_has_a_table_too() -> None:
    frame = as_frame([row(n, {"lr": str(n)}, {}, "FAILED", "nan") for n in range(3)])
    assert str(render(short(frame), "text")).count("FAILED") == 3


def test_failures_are_told_with_their_reason_in_full_and_the_path_of_their_log() -> None:
    reason = "RuntimeError: " + "the net tore, " * 20
    rows = [
        row(0, {"lr": "9"}, {}, "FAILED", reason),
        row(1, {"lr": "0.1"}, {"val/accuracy": 0.5}),
        row(2, {"lr": "8"}, {}, "KILLED", "stopped after step 3 of 9"),
    ]
    title, _, *told = failures(as_frame(rows)).splitlines()
    assert title.split() == ["failed", "reason", "log"]
    (line,) = told
    assert line.startswith("run 0 ")
    assert reason.strip() in line
    assert line.endswith("/jobs/0/train.log")
    assert failures(as_frame(rows[1:])) == ""


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


def test_names_with_markup_are_escaped_in_latex() -> None:
    frame = as_frame([row(n, {"note": f"{n}_50%&$#"}, {"val/accuracy": 0.1}) for n in range(2)])
    assert "0\\_50\\%\\&\\$\\#" in str(render(short(frame), "latex"))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20), st.randoms())
def test_order_does_not_depend_on_the_order_of_the_rows_and_csv_keeps_every_digit(pairs, dice) -> None:
    rows = [row(n, {"lr": repr(lr)}, {"val/accuracy": accuracy}) for n, (lr, accuracy) in enumerate(pairs)]
    shuffled = rows.copy()
    dice.shuffle(shuffled)
    once, again = as_frame(rows), as_frame(shuffled)
    assert render(once, "csv") == render(again, "csv")
    assert once["val/accuracy"].tolist() == sorted((accuracy for _, accuracy in pairs), reverse=True)
    assert sorted(once["lr"]) == sorted(lr for lr, _ in pairs)
