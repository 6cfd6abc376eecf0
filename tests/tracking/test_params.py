"""Every type that YAML knows goes into MLflow and comes back."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweepstack.results.tables.frame import as_frame
from sweepstack.results.tables.grouping import grouped, pivoted
from sweepstack.results.tables.rendering import FOR_READERS, render
from sweepstack.tracking.params import as_text, from_text
from sweepstack.tracking.runs_as_rows import Row

LOOKALIKES = [
    "true",
    "True",
    "null",
    "None",
    "1",
    "-0",
    "1.0",
    "1e-3",
    ".5",
    "inf",
    "nan",
    "007",
    '"',
    '"a"',
    "[1]",
    "{}",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(LOOKALIKES),
)
VALUES = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3))


def same(one: object, other: object) -> bool:
    """Equal in value and in type, all the way down."""
    return json.dumps(one) == json.dumps(other) and type(one) is type(other)


@given(VALUES)
def test_a_value_comes_back_as_what_it_was(value: object) -> None:
    assert same(from_text(as_text(value)), value)


def test_nan_comes_back() -> None:
    assert math.isnan(from_text(as_text(math.nan)))


@given(st.text())
def test_a_text_that_looks_like_nothing_else_stays_as_it_is(text: str) -> None:
    assert as_text(f"net {text}") == f"net {text}"


@pytest.mark.parametrize(
    ("written", "value"),
    [("True", True), ("None", None), ("[128, 64]", [128, 64]), ("['a', True]", ["a", True]), ("0.1", 0.1), ("x", "x")],
)
def test_what_an_earlier_version_wrote_is_read(written: str, value: object) -> None:
    assert same(from_text(written), value)


def test_nobody_shares_a_list() -> None:
    from_text("[1]").append(2)
    assert from_text("[1]") == [1]


def rows_of(values: list[object]) -> list[Row]:
    """Runs that were recorded with these values of a param."""
    return [
        Row(str(n), f"run {n}", "1", "s", "FINISHED", "", "", n, {"x": as_text(value)}, {})
        for n, value in enumerate(values)
    ]


def in_json(value: object) -> object:
    """The value as JSON has it, which has neither NaN nor infinity."""
    if isinstance(value, list):
        return [in_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@settings(max_examples=20)
@example([[-math.inf, 5]])
@given(st.lists(SCALARS | st.lists(SCALARS, max_size=2), min_size=1, max_size=4))
def test_values_of_any_kinds_make_a_table_in_every_format(values: list[object]) -> None:
    frame = as_frame(rows_of(values), sort="name")
    found = [record["x"] for record in json.loads(render(frame, "json"))]
    ints_beside_floats = {int, float} <= {type(value) for value in values}
    for value, back in zip(values, found, strict=True):
        assert same(back, in_json(value)) or (ints_beside_floats and back == in_json(value))
    for form in (*FOR_READERS, "csv", "parquet"):
        assert render(frame, form)
    assert len(as_frame(rows_of(values), sort="x")) == len(values)


def test_true_one_and_a_text_are_three_groups() -> None:
    values = [True, 1, "1", 1.5, None, [1, 2]]
    rows = [replace(row, metrics={"val/accuracy": 0.5}) for row in rows_of([*values, *values])]
    groups = grouped(as_frame(rows), ["x"])
    assert groups["n"].tolist() == [2] * len(values)
    assert groups["x"].tolist() == [True, 1, 1.5, "1", (1, 2), None]
    assert pivoted(as_frame(rows), "x", "state").shape[0] == len(values)


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ("x == true", [0]),
        ("x == True", [0]),
        ("x == false", [1]),
        ("x == 1", [2]),
        ('x == "1"', [3]),
        ("x == null", [4]),
        ("x == [1, 2]", [5]),
        ("x in (true, [1, 2])", [0, 5]),
        ("x > 0", [2]),
        ("x != 1", [0, 1, 3, 4, 5]),
    ],
)
def test_conditions_know_types(condition: str, runs: list[int]) -> None:
    rows = rows_of([True, False, 1, "1", None, [1, 2]])
    assert sorted(as_frame(rows, where=condition)["run_id"].astype(int)) == runs
