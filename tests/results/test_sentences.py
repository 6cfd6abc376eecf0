"""What a report says in words is what was found, and no more."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest

from sweepstack.results.reporting.answer import answer
from sweepstack.results.reporting.params import varied_params
from sweepstack.results.reporting.tables import settings_table
from sweepstack.results.reporting.text import explain_values
from sweepstack.results.selection.comparison import BEST, NOT_MEASURED
from sweepstack.results.selection.select import select
from sweepstack.results.tables.frame import as_frame

from .trials import row


def sweep(
    table: Mapping[str, Sequence[float | None]], metric: str = "val/accuracy", state: str = "FAILED"
) -> pd.DataFrame:
    """A trial for each learning rate and each of its figures, the seeds being 0, 1, 2, ...; without one, it has not
    finished."""
    trials = [(lr, seed, figure) for lr, figures in table.items() for seed, figure in enumerate(figures)]
    return as_frame(
        [
            row(n, {"lr": lr, "seed": str(seed)}, {}, state)
            if figure is None
            else row(n, {"lr": lr, "seed": str(seed)}, {metric: figure})
            for n, (lr, seed, figure) in enumerate(trials)
        ]
    )


def said(frame: pd.DataFrame, objective: str | None = None) -> str:
    """The answer, without the figures in brackets."""
    text = "".join(piece for piece, _ in answer(select(frame, objective=objective), varied_params(frame)))
    return re.sub(r" \(95 % interval [^)]*\)", "", text)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"1": [0.8, 0.82], "2": [0.7, 0.75]}, "lr=1 has the highest validation accuracy, 0.8100 on average"),
        (
            {"1": [0.8, 0.82], "2": [0.95, None]},
            "lr=1 has the highest validation accuracy of the settings that have a value of every trial, 0.8100 on",
        ),
        (
            {"1": [0.8, 0.82], "2": [0.95, None]},
            "lr=2 has a higher mean, 0.9500, which does not count, since 1 of its 2 trials gave no value.",
        ),
        (
            {"1": [0.8, 0.82], "2": [0.95]},
            "lr=1 has the highest validation accuracy of the settings that have several seeds, 0.8100 on average",
        ),
        (
            {"1": [0.8, 0.82], "2": [0.95]},
            "lr=2 has a higher mean, 0.9500, which does not count, since it has a single",
        ),
        (
            {"1": [0.8, 0.82, None], "2": [0.9, None, None], "3": [0.95, None, None]},
            "of the settings that have the fewest trials without a value, 0.8100 on average over 2 seeds",
        ),
        (
            {"1": [0.8, 0.82], "2": [0.9], "3": [0.95, None]},
            "of the settings that have a value of every trial and have several seeds, 0.8100",
        ),
        (
            {"1": [0.8, 0.82], "2": [0.9], "3": [0.95, None]},
            "lr=3 has a higher mean, 0.9500, which does not count, since 1 of its 2 trials gave no value (nor does "
            "that of 1 other).",
        ),
    ],
)
def test_a_better_mean_that_does_not_count_is_named(table: dict[str, list[float | None]], told: str) -> None:
    assert told in said(sweep(table))


def test_a_lower_loss_that_does_not_count_is_named() -> None:
    told = said(sweep({"1": [0.5, 0.4], "2": [0.1]}, "val/loss"), "val/loss")
    assert told.startswith("lr=1 has the lowest validation loss of the settings that have several seeds, 0.4500")
    assert told.endswith("lr=2 has a lower mean, 0.1000, which does not count, since it has a single seed.")


def test_a_better_mean_is_named_by_its_knobs_even_where_one_is_named_like_a_figure() -> None:
    rows = [row(n, {"mean": "1", "seed": str(n)}, {"val/accuracy": 0.8 + n / 100}) for n in range(2)]
    rows.append(row(2, {"mean": "2", "seed": "0"}, {"val/accuracy": 0.9}))
    assert "; mean=2 has a higher mean, 0.9000" in said(as_frame(rows))


FIGURES: dict[str, list[float | None]] = {"1": [0.9, 0.91, 0.92], "2": [0.5, 0.53, 0.52], "3": [0.4, 0.42, 0.45]}
TWO = {rate: FIGURES[rate] for rate in ("1", "2")}
ONLY_HIGHEST = "lr=1 has the highest validation accuracy, 0.9100 on average over 3 seeds"


@pytest.mark.parametrize("state", ["RUNNING", "KILLED", "FAILED"])
def test_what_gave_no_figure_is_neither_worse_nor_told_apart(state: str) -> None:
    table: dict[str, list[float | None]] = {**FIGURES, "4": [None, None, None], "5": [None], "6": [None]}
    frame = sweep(table, state=state)
    told = "it can be told apart from the 2 others that were measured, which are at least 35 points behind (95 %)"
    chosen = "(0.8649 to 0.9551 with 95 %, allowing for its having been chosen from 3)"
    assert said(frame) == f"{ONLY_HIGHEST} {chosen}; {told}; 3 other settings gave no value."
    grid = settings_table(frame, select(frame), ["lr"])
    titles = [column.title for column in grid.columns]
    assert "failed" not in titles
    shown = [[row.cells[titles.index(title)].text for row in grid.rows] for title in ("without a value", "mark")]
    assert shown == [["0", "0", "0", "1", "1", "3"], [BEST, "worse", "worse", *[NOT_MEASURED] * 3]]
    assert any("“Not measured” (3 other settings)" in line for line in explain_values(frame, select(frame), None))


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (FIGURES, "it can be told apart from every other setting, which are at least 3"),
        ({**FIGURES, "4": [0.1]}, "it can be told apart from every other setting, which"),  # three tell its spread
        (
            {**TWO, "4": [0.1]},
            "the 1 other that was tested, which is at least 32 points behind (95 %); 1 other setting could "
            "not be tested against it.",
        ),
        (
            {**TWO, "4": [0.1], "5": [None]},
            "1 other setting could not be tested against it; 1 other setting gave no",
        ),
        (
            {"1": [0.9, 0.91], "2": [0.9, 0.89], "3": [0.1]},
            ". The set that may be the best: 2 of 3 settings, it and lr=2; 1 other setting could not be tested against "
            "it. ",
        ),
        (
            {"1": [0.9, 0.91], "2": [0.9, 0.89], "3": [0.89, 0.9]},
            ". The set that may be the best: 3 of 3 settings, it, lr=2 and lr=3. ",
        ),
        ({"1": [0.9], "2": [0.8], "3": [0.7]}, "0.9000; 2 other settings could not be tested against it."),
        ({"1": [0.9], "2": [None]}, "0.9000; 1 other setting gave no value."),
    ],
)
def test_tested_and_untested_settings_are_counted_apart(table: dict[str, list[float | None]], told: str) -> None:
    assert told in said(sweep(table))


def test_where_nothing_was_tested_the_report_does_not_explain_a_test() -> None:
    single, both = sweep({"1": [0.1], "2": [0.2], "3": [0.3]}, "val/loss"), sweep({**TWO, "4": [0.1]})
    lines = explain_values(single, select(single, objective="val/loss"), None)
    assert not any("told apart" in line for line in lines)
    assert any(line.startswith("“Not tested” (2 other settings)") for line in lines)
    lines = explain_values(both, select(both), None)
    assert "1 of 2 other settings was tested against the best." in lines
    assert any(line.startswith("“Not told apart” means") for line in lines)


def test_settings_that_are_known_not_to_be_the_best_are_folded_away_if_they_are_many() -> None:
    near: dict[str, list[float | None]] = {"1": [0.9, 0.91, 0.92], "2": [0.9, 0.93, 0.9]}
    far: dict[str, list[float | None]] = {str(rate): [0.3, 0.31, rate / 100] for rate in range(30, 36)}
    few, many = sweep({**near, "30": far["30"]}), sweep({**near, **far, "40": [None]})
    table = settings_table(few, select(few), ["lr"])
    assert (len(table.rows), len(table.folded)) == (3, 0)
    table = settings_table(many, select(many), ["lr"])
    assert {row.cells[0].text for row in table.rows} == {"1", "2"}
    assert len(table.folded) == 7
    assert table.title == "Settings of learning rate, the best first: 2 of 9, those that may be the best"
    assert table.folded_title == "The other 7 settings: 6 worse and 1 not measured"
    untested = sweep({str(rate): [rate / 100] for rate in range(9)})
    assert len(settings_table(untested, select(untested), ["lr"]).rows) == 9  # any of them may be the best


@pytest.mark.parametrize("seeds", [[0.15], [0.1, 0.2, 0.15]])
def test_a_sweep_of_seeds_alone_is_about_this_setting_and_no_seed(seeds: list[float | None]) -> None:
    over = " on average over 3 seeds" if len(seeds) > 1 else ""
    assert said(sweep({"1": seeds})) == f"This setting has a validation accuracy of 0.1500{over}."
