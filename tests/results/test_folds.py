"""Folds are replicates of a setting, as seeds are; and what selected is never called a test result."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import pytest

from sweepstack.results.reporting.answer import answer, question
from sweepstack.results.reporting.params import varied_params
from sweepstack.results.reporting.tables import settings_table, trials_table
from sweepstack.results.reporting.text import explain_values, warnings
from sweepstack.results.selection.comparison import BEST, NOT_TESTED
from sweepstack.results.selection.select import one_row_per_seed, select
from sweepstack.results.selection.sequential import FIRST_SHARE
from sweepstack.results.selection.statistics import mean_interval, paired_t
from sweepstack.results.tables.frame import as_frame
from sweepstack.results.tables.grouping import by_seed, grouped, pivoted
from sweepstack.results.tables.objective import NO_TEST_PART
from sweepstack.results.tables.rendering import render, short, to_text
from sweepstack.tracking.objectives import SELECTED_ON_TEST
from sweepstack.tracking.runs_as_rows import Row

from .trials import row

FIVE = range(5)


def folded(table: dict[str, Iterable[int]], seeds: Iterable[int] = (0,), **metrics: float) -> pd.DataFrame:
    """Trials of learning rates on some of five folds. A fold is worth 0.01 more than the one before, a rate its tenth,
    and a seed hardly anything."""
    settings = [(lr, fold, seed) for lr, folds in table.items() for fold in folds for seed in seeds]
    rows = []
    for number, (lr, fold, seed) in enumerate(settings):
        value = 0.5 + float(lr) / 10 + fold / 100 + seed / 1000 + (number % 3) / 10_000
        params = {"lr": lr, "seed": str(seed), "folds": "5", "fold": str(fold)}
        rows.append(row(number, params, {"val/accuracy": value, **metrics}))
    return as_frame(rows)


def said(frame: pd.DataFrame) -> str:
    return "".join(piece for piece, _ in answer(select(frame), varied_params(frame)))


def test_trials_that_differ_in_their_fold_are_one_setting():
    frame = folded({"1": FIVE, "2": FIVE})
    assert varied_params(frame) == ["lr"]
    found = select(frame)
    best, other = (found.groups.iloc[index] for index in range(2))
    assert (best["lr"], best["n"], best["folds_done"], best["mark"]) == (2, 5, "5 of 5", BEST)
    first, second = (frame[frame["lr"] == lr].sort_values("fold")["val/accuracy"].tolist() for lr in (2, 1))
    mean, sd, _, low, _ = mean_interval(first, overlap=1 / 4)  # a fifth validates what four fifths train
    assert (best["mean"], best["sd"], best["low"]) == pytest.approx((mean, sd, low))
    assert other["why"] == "paired over 5 folds"
    assert other["p"] == pytest.approx(paired_t(first, second, 1 / 4).p / FIRST_SHARE, rel=1e-3)
    assert "on average over 5 of 5 folds" in said(frame)


def test_folds_are_compared_by_the_means_over_their_seeds_and_no_other_folds():
    frame = folded({"1": FIVE, "2": [0, 1, 2]}, seeds=[0, 1])
    found = select(frame)
    assert found.groups["n"].tolist() == [3, 5]
    assert found.groups["trials"].tolist() == [6, 10]
    values = [frame[frame["lr"] == lr].groupby("fold")["val/accuracy"].mean() for lr in (2, 1)]
    assert found.groups["low"].tolist() == pytest.approx([mean_interval(one, overlap=1 / 4).low for one in values])
    assert found.groups["p"][1] == pytest.approx(paired_t(values[0], values[1][:3], 1 / 4).p / FIRST_SHARE, rel=1e-3)
    assert found.groups["folds_done"].tolist() == ["3 of 5", "5 of 5"]
    assert found.groups["why"].tolist() == [
        "best mean over 3 folds",
        "paired over 3 folds",
    ]
    assert "on average over 3 of 5 folds (6 trials)" in said(frame)
    text = warnings(frame, ["lr"], found, None)
    assert "Settings have values of different folds, which may differ in how hard they are." in text


def test_as_many_folds_that_are_others_are_named():
    frame = folded({"1": [0, 1], "2": [2, 3]})
    assert any("values of different folds" in line for line in warnings(frame, ["lr"], select(frame), None))
    assert any("values of different folds" in note for note in by_seed(frame).attrs["notes"])
    same = folded({"1": [0, 1], "2": [0, 1]})
    assert not any("values of different folds" in note for note in by_seed(same).attrs["notes"])


def test_folds_of_different_cuts_are_not_paired():
    rows = []
    for number, (folds, fold) in enumerate([(folds, fold) for folds in (5, 3) for fold in range(3)]):
        params = {"folds": str(folds), "fold": str(fold)}
        rows.append(row(number, params, {"val/accuracy": 0.5 + folds / 100 + number**2 / 1000}))
    why = select(as_frame(rows)).groups["why"][1]
    assert why.startswith("Welch's t-test over 3 and 3 folds that do not match")


def test_a_trial_that_was_recorded_twice_counts_once():
    frame = folded({"1": FIVE})
    twice = as_frame([row(n, {"fold": "0", "folds": "5", "seed": "0"}, {"val/accuracy": n / 10}) for n in (1, 3)])
    assert len(one_row_per_seed(frame, "val/accuracy")) == 5
    (only,) = one_row_per_seed(twice, "val/accuracy")["val/accuracy"]
    assert only == pytest.approx(0.2)


def test_one_fold_tells_no_spread():
    frame = folded({"1": [0], "2": [0, 1]})
    assert select(frame).groups.iloc[1][["mark", "why"]].tolist() == [
        NOT_TESTED,
        "a single fold, which tells no spread",
    ]
    alone = folded({"1": [0], "2": [0]})
    assert any("Each setting has one fold" in line for line in warnings(alone, ["lr"], select(alone), None))


def test_seeds_are_the_replicates_where_all_trials_have_the_same_fold():
    groups = select(folded({"1": [0], "2": [0]}, seeds=range(3))).groups
    assert groups["n"].tolist() == [3, 3]
    assert groups["why"][0] == "best mean over 3 seeds"
    assert groups["why"][1].startswith("paired over 3 seeds")


def test_that_folds_overlap_is_said_wherever_there_is_an_interval():
    frame = folded({"1": FIVE, "2": FIVE})
    assert any(
        "training data of different folds overlap" in line for line in explain_values(frame, select(frame), None)
    )
    groups = by_seed(frame)
    assert [note for note in groups.attrs["notes"] if "folds overlap" in note]
    assert "folds_done" in short(groups)
    seeds = as_frame([row(n, {"seed": str(n)}, {"val/accuracy": 0.5}) for n in range(3)])
    assert by_seed(seeds).attrs["notes"] == []
    assert "folds_done" not in by_seed(seeds)
    assert not any("fold" in line for line in explain_values(seeds, select(seeds), None))


def test_no_text_of_a_report_shows_a_placeholder():
    frame = folded({"1": FIVE, "2": FIVE})
    found = select(frame)
    texts = [said(frame), *warnings(frame, ["lr"], found, None), *explain_values(frame, found, None)]
    assert not [text for text in texts if "{" in text]


def test_a_report_shows_the_folds():
    frame = folded({"1": FIVE, "2": [0, 1]})
    table = settings_table(frame, select(frame), ["lr"])
    column = [one.title for one in table.columns].index("folds")
    assert [one.cells[column].text for one in table.rows] == ["2 of 5", "5 of 5"]
    column = [one.title for one in table.columns].index("trials")
    assert [one.cells[column].text for one in table.rows] == ["2", "5"]
    trials = trials_table(frame, ["lr"], "val/accuracy", None)
    assert "fold" in [one.title for one in trials.columns]


# What selected is no test result


def rows(*kinds: dict[str, Any]) -> list[Row]:
    return [
        row(number, {"lr": str(number + 1), **kind["params"]}, kind["metrics"]) for number, kind in enumerate(kinds)
    ]


HONEST = {"params": {"validation_split": "0.1"}, "metrics": {"val/accuracy": 0.8, "test/accuracy": 0.7}}
BY_TEST = {"params": {"validation_split": "0.0"}, "metrics": {"test/accuracy": 0.9}}
WITHOUT = {"params": {"validation_split": "0.1", "dataset.parts": '{"test": null}'}, "metrics": {"val/accuracy": 0.75}}


def test_the_table_marks_what_was_selected_on_test_data_and_what_has_none():
    frame = as_frame(rows(HONEST, BY_TEST, WITHOUT))
    assert dict(zip(frame["lr"], frame["note"], strict=True)) == {1: "", 2: SELECTED_ON_TEST, 3: NO_TEST_PART}
    for form in ("text", "markdown", "csv"):
        shown = str(render(frame if form == "csv" else short(frame), form))
        assert SELECTED_ON_TEST in shown
        assert NO_TEST_PART in shown
    assert "note" not in as_frame(rows(HONEST, HONEST))
    assert "note" not in as_frame([row(0, {}, {"test/accuracy": 0.1}, "FAILED")])


def test_settings_that_test_data_selected_are_marked():
    groups = by_seed(as_frame(rows(BY_TEST, BY_TEST)))
    assert groups["note"].tolist() == [SELECTED_ON_TEST] * 2
    assert SELECTED_ON_TEST in to_text(groups)
    assert "too good" in groups.attrs["notes"][0]


def test_means_of_groups_say_that_test_data_selected():
    frame = as_frame(rows(BY_TEST, BY_TEST))
    for groups in (grouped(frame, ["lr"]), pivoted(frame, "lr", "validation_split")):
        assert groups.attrs["notes"] == ["nothing was held out, so test data selected: the test value is too good"]
        assert groups["note"].tolist() == [SELECTED_ON_TEST] * 2
        assert SELECTED_ON_TEST in to_text(groups)
    both = grouped(as_frame(rows(HONEST, BY_TEST)), ["validation_split"], "test/accuracy")
    assert dict(zip(both["validation_split"], both["note"], strict=True)) == {0.1: "", 0.0: SELECTED_ON_TEST}
    cells = pivoted(as_frame(rows(HONEST, BY_TEST)), "validation_split", "lr", "test/accuracy")
    assert dict(zip(cells["validation_split"], cells["note"], strict=True)) == {0.1: "", 0.0: SELECTED_ON_TEST}
    honest = as_frame(rows(HONEST, HONEST))
    assert grouped(honest, ["lr"]).attrs["notes"] == []
    assert "note" not in grouped(honest, ["lr"])
    assert "as was asked for" in grouped(honest, ["lr"], "test/accuracy").attrs["notes"][0]
    assert "as was asked for" in as_frame(rows(HONEST, HONEST), metric="test/accuracy").attrs["notes"][0]


def test_no_sentence_of_a_report_calls_it_a_test_accuracy():
    frame = as_frame(rows(BY_TEST, BY_TEST))
    found = select(frame)
    table = trials_table(frame, ["lr"], found.objective, 0)
    texts = [
        question(2, ["lr"], found.objective),
        said(frame),
        *(column.title for column in [*settings_table(frame, found, ["lr"]).columns, *table.columns]),
    ]
    assert "Which of 2 settings of learning rate has the highest accuracy on the test data that selected?" in texts
    assert not [text for text in texts if "test accuracy" in text]
    assert [cell.text for one in table.rows for cell in one.cells].count(SELECTED_ON_TEST) == 2


def test_another_metric_on_test_data_that_selected_has_no_interval():
    both = [
        {"params": {}, "metrics": {"test/loss": 0.5 - n / 10, "test/accuracy": 0.8, "val/accuracy": 0.8}} for n in FIVE
    ]
    frame = as_frame(rows(*both))
    found = select(frame, objective="test/loss", test_count=100)
    text = "".join(piece for piece, _ in answer(found, ["lr"]))
    assert "; on the test data that selected its accuracy is 0.8000;" in text
    assert not [line for line in explain_values(frame, found, 100) if "Wilson" in line]


def test_a_report_without_a_test_part_says_so():
    frame = as_frame(rows(WITHOUT, WITHOUT))
    assert "; there is no test part to measure it on" in said(frame)
    lines = explain_values(frame, select(frame), None)
    assert "There is no test part: the value of the best setting is too good, because it selected." in lines
    assert not [line for line in lines if "unbiased" in line]
