"""The table in the formats that people read and paste, with values that would be markup there."""

import csv
import html
import io
import json
import math
import re

import pandas as pd
import pytest

from sweepstack.results.tables.frame import as_frame
from sweepstack.results.tables.rendering import failures, render, short

from .trials import HOSTILE, row, trials


@pytest.fixture(scope="module")
def hostile() -> pd.DataFrame:
    return trials(*(({"note": note}, 1 - n / 100) for n, note in enumerate(HOSTILE)))


def shown(frame: pd.DataFrame, form: str) -> str:
    return str(render(short(frame), form))


def test_failed_trials_come_last_with_their_reason() -> None:
    rows = [
        row(0, {"lr": "9"}, {}, "FAILED", "the loss was nan"),
        row(1, {"lr": "0.1"}, {"val/accuracy": 0.5}),
    ]
    frame = as_frame(rows)
    assert frame["state"].tolist() == ["FINISHED", "FAILED"]
    last = shown(frame, "text").splitlines()[-1]
    assert "FAILED" in last
    assert "the loss was nan" in last


def test_a_sweep_in_which_all_failed_has_a_table_too() -> None:
    frame = as_frame([row(n, {"lr": str(n)}, {}, "FAILED", "nan") for n in range(3)])
    assert shown(frame, "text").count("FAILED") == 3


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


def test_small_figures_are_not_rounded_to_nothing_and_params_only_as_long_as_they_can_be_told_apart() -> None:
    rows = [row(n, {"lr": f"0.12345678{n}"}, {"val/accuracy": 0.5, "train/loss": 0.00002}) for n in range(2)]
    frame = as_frame(rows)
    assert str(render(frame[["lr", "val/accuracy", "train/loss"]], "text")).split()[-3:] == [
        "0.123456781",
        "0.5000",
        "2e-05",
    ]
    third = trials(({"lr": repr(0.001 / 3)}, 0.5), ({"lr": "0.1"}, 0.4))
    assert [line.split()[0] for line in shown(third, "text").splitlines()[2:]] == ["0.000333333", "0.1"]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_data_stay_as_they_are_whatever_a_spreadsheet_may_make_of_them(hostile: pd.DataFrame, form: str) -> None:
    rendered = render(hostile, form)
    if form == "csv":
        notes = [record["note"] for record in csv.DictReader(io.StringIO(str(rendered)))]
    elif form == "json":
        notes = [record["note"] for record in json.loads(rendered)]
    else:
        assert isinstance(rendered, bytes)
        notes = pd.read_parquet(io.BytesIO(rendered))["note"].tolist()
    assert notes == list(HOSTILE)


def test_json_keeps_whole_numbers_in_columns_of_any_kind() -> None:
    frame = pd.DataFrame({"schedule.every": pd.Series([2, None, "x", math.nan, pd.NA], dtype="object")})
    values = [record["schedule.every"] for record in json.loads(render(frame, "json"))]
    assert values == [2, None, "x", None, None]


def test_a_star_that_begins_a_row_of_latex_is_no_part_of_the_end_of_the_one_before() -> None:
    frame = trials(({"note": "*a"}, 0.5), ({"note": "*b"}, 0.4))
    assert "{*}a &" in str(render(frame, "latex"))
    assert str(render(frame, "latex")).endswith("\\end{tabular}\n")


def test_json_has_every_digit_and_null_for_what_it_has_no_numbers_for() -> None:
    values = [0.1 + 0.2, math.inf, math.nan]
    frame = as_frame([row(n, {"lr": str(n)}, {"val/loss": value}) for n, value in enumerate(values)])
    assert [record["val/loss"] for record in json.loads(render(frame, "json"))] == [0.1 + 0.2, None, None]
    assert [line.split(",")[1] for line in str(render(frame, "csv")).splitlines()[1:]] == [repr(0.1 + 0.2), "inf", ""]
    assert [line.split()[1] for line in str(render(frame[["lr", "val/loss"]], "text")).splitlines()[2:]] == [
        "0.3000",
        "inf",
        "-",
    ]


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html"])
def test_a_trial_is_one_line_and_nothing_reaches_the_terminal_but_what_can_be_printed(hostile, form) -> None:
    text = shown(hostile, form)
    assert all(line.isprintable() for line in text.splitlines())
    assert len([line for line in text.splitlines() if "FINISHED" in line]) == len(HOSTILE)
    assert ("größe ✓" if form != "html" else "gr&#246;&#223;e &#10003;") in text


def test_html_is_a_table_without_any_markup_of_a_users(hostile: pd.DataFrame) -> None:
    text = shown(hostile, "html")
    assert set(re.findall(r"</?(\w+)", text)) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert '<th scope="col">val/accuracy</th>' in text
    first = [re.findall(r"<td>(.*?)</td>", line)[0] for line in text.splitlines() if "<td>" in line]
    assert [html.unescape(cell) for cell in first[:6]] == list(HOSTILE[:6])


def test_markdown_has_as_many_cells_in_each_row_and_escapes_what_would_be_markup(hostile: pd.DataFrame) -> None:
    lines = shown(hostile, "markdown").splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert r"\<script\>alert(1)\</script\>" in lines[2]
    assert r"a\&b" in lines[3]
    assert r"a\|b" in lines[4]
    assert r"\_a_b" in lines[5]


def test_latex_is_booktabs_with_every_special_character_escaped(hostile: pd.DataFrame) -> None:
    text = shown(hostile, "latex")
    for rule in ("\\toprule", "\\midrule", "\\bottomrule", "\\begin{tabular}{lrl}"):
        assert rule in text
    for cell in (r"\textless{}script\textgreater{}", r"a\&b", r"a\textbar{}b", r"\_a\_b", r"50\%", "{[}0.9{]}"):
        assert f"\n{cell}" in text or cell in text
    assert not any(line.startswith("[") for line in text.splitlines())  # it would be an option of the \\ before
    frame = as_frame([row(n, {"note": f"{n}_50%&$#"}, {"val/accuracy": 0.1}) for n in range(2)])
    assert "0\\_50\\%\\&\\$\\#" in shown(frame, "latex")
