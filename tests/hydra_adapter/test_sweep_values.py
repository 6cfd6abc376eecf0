"""What is typed with commas, ranges and functions is what trains, in the decimals that were typed."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter.sweep_values import MOST_JOBS, expand, parse_overrides

OPTIONS = {"model": ["logistic", "mlp", "mlp_wide"]}


def expanded(line: str) -> list[str]:
    """The values that jobs get, as text."""
    (override,) = parse_overrides([line])
    found = expand(override, lambda group: OPTIONS.get(group, []))
    return [one.partition("=")[2] for one in found]


def read(text: str) -> Any:
    """A value as Hydra reads it in a single run."""
    return OverridesParser.create().parse_override(f"key={text}").value()


def counted(start: Decimal, stop: Decimal, step: Decimal) -> list[Decimal]:
    """A range by its definition: start + i * step, up to and without stop."""
    found = []
    while (start < stop) if step > 0 else (start > stop):
        found.append(start)
        start += step
    return found


decimals = st.builds("{}{}".format, st.sampled_from(["", "-"]), st.decimals(0, 9, places=2).map(str))
integers = st.integers(-9, 9).map(str)
steps = st.sampled_from(["1", "2", "-1", "-3", "0.1", "0.25", "-0.3", "1e-1", "3e-2", "-7E-2"])


@given(
    bounds=st.one_of(st.tuples(integers, integers), st.tuples(decimals, decimals)),
    step=steps,
    order=st.sampled_from(["{}", "sort({})", "sort({},reverse=true)", "sort(shuffle({}))", "tag(name,{})"]),
)
def test_a_range_is_counted_in_the_decimals_that_were_typed(bounds: tuple[str, str], step: str, order: str) -> None:
    start, stop = bounds
    expected = counted(Decimal(start), Decimal(stop), Decimal(step))
    assume(0 < len(expected) <= 300)
    if "sort" in order:
        expected = sorted(expected, reverse="reverse" in order)
    got = expanded(f"key={order.format(f'range({start},{stop},{step})')}")
    assert [float(text) for text in got] == [float(number) for number in expected]
    whole = all("." not in text and "e" not in text.lower() for text in (start, stop, step))
    assert all(isinstance(read(text), int) for text in got) == whole


@settings(max_examples=10)
@given(numbers=st.integers(2, 30), step=st.sampled_from(["1", "0.1"]))
def test_a_shuffled_range_holds_the_same_numbers(numbers: int, step: str) -> None:
    stop = numbers * Decimal(step)
    assert sorted(map(float, expanded(f"key=shuffle(range(0,{stop},{step}))"))) == [
        float(place * Decimal(step)) for place in range(numbers)
    ]


ELEMENTS = [
    *r"1 -2 007 0.10 1e-3 .5 inf true False null text a/b.c ${dataset.classes} a\,b \[x".split(),  # noqa: SIM905
    *("'quoted, text'", "'1'", '"true"', "'null'", "'1e-3'", '""', "' '", r"'\(x\)'", '"it\'s"', r"a\ b"),
    *("[1,2]", "[]", "['1',[true]]", "{a:1}", "{a:{b:'2'}}"),
]
elements = st.lists(st.sampled_from(ELEMENTS), min_size=2, max_size=5)


@settings(max_examples=30)
@given(values=elements, form=st.sampled_from(["{}", "choice({})"]))
def test_each_job_gets_the_value_that_a_single_run_would(values: Sequence[str], form: str) -> None:
    assume(form == "{}" or "null" not in values)  # Hydra's choice(...) does not take it
    got = [read(text) for text in expanded(f"key={form.format(','.join(values))}")]
    expected = [read(value) for value in values]
    assert [(type(value), repr(value)) for value in got] == [(type(value), repr(value)) for value in expected]


CASTS: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "str": str, "bool": bool}


@settings(max_examples=20)
@given(values=st.lists(st.integers(0, 20), min_size=2, max_size=4), cast=st.sampled_from(sorted(CASTS)))
def test_what_is_cast_keeps_its_type(values: list[int], cast: str) -> None:
    typed = ",".join(map(str, values))
    for line in (f"key={cast}({typed})", f"key={cast}(choice({typed}))"):
        got = [read(text) for text in expanded(line)]
        assert [(type(one), one) for one in got] == [(CASTS[cast], CASTS[cast](value)) for value in values]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("epochs=sort(range(3,8,2),reverse=true)", ["7", "5", "3"]),
        ("epochs=sort(sweep=range(8,3,-2))", ["4", "6", "8"]),
        ("key=int(sort(range(0.5,3.5),reverse=true))", ["2", "1", "0"]),
        ("key=range(0.1,0.4,0.1)", ["0.1", "0.2", "0.3"]),  # Hydra 1.3 adds a fourth, 0.4
        ("key=sort(b,c,a)", ["a", "b", "c"]),
        ("key=str(1)", ["'1'"]),
        ("model=glob(*)", ["logistic", "mlp", "mlp_wide"]),
        ("model=glob(m*,exclude=*wide)", ["mlp"]),
        ("key=5", ["5"]),
        ("key=${hydra:job.num}", ["${hydra:job.num}"]),
        ("key=${a.b},${c}", ["${a.b}", "${c}"]),
        ("key=", [""]),
    ],
)
def test_expressions(line: str, values: list[str]) -> None:
    assert expanded(line) == values


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("key=range(5,1)", "a range must hold a number"),
        ("key=range(1,0)", "a range must hold a number"),
        ("key=sort(range(0))", "a range must hold a number"),
        ("key=range(1,5,0)", "the step of a range must not be 0"),
        ("key=int(range(1.5,1.6,0.01))", ""),  # Hydra 1.3 casts the step to 0, 1.4 casts the numbers
        ("key=range(0,inf)", "a range must end"),
        ("key=range(nan,1)", "a range must end"),
        ("key=range(1,1e9)", "a range must not be too large"),
        ("key=range(1,1000000000000)", "a range must not be too large"),
        ("key=glob(*)", "key is not a group"),
        ("model=glob(x*)", "glob(...) must match an option of model"),
        ("key=interval(0,1)", "a grid has no intervals"),
        ("key=[choice(1,2),3]", "a sweep must be the whole value of its key"),
        ("key={a:range(3)}", "a sweep must be the whole value of its key"),
    ],
)
def test_what_cannot_be_swept_is_refused_with_the_override_and_a_remedy(line: str, rule: str) -> None:
    if not rule:
        assert "0.01" not in expanded_or_refused(line)
        return
    with pytest.raises(ConfigError) as caught:
        expanded(line)
    assert rule in caught.value.rule
    assert caught.value.value == line
    assert caught.value.remedy


def expanded_or_refused(line: str) -> str:
    try:
        return str(expanded(line))
    except ConfigError as error:
        return error.rule


def test_as_much_as_a_sweep_can_hold() -> None:
    assert len(expanded(f"seed=range({MOST_JOBS})")) == MOST_JOBS
