"""What --where reads, and what it refuses to."""

import pytest

from sweepstack.errors import UserError
from sweepstack.results.tables.conditions import fulfilled
from sweepstack.results.tables.frame import as_frame

from .trials import HOSTILE, row

FRAME = as_frame(
    [
        row(
            0,
            {"lr": "0.01", "model": "mlp", "model.units": "64", "nesterov": "True"},
            {"val/accuracy": 0.8, "val/loss": 0.5},
        ),
        row(1, {"lr": "0.1", "model": "logistic"}, {"val/accuracy": 0.9, "val/loss": 0.3}),
        row(2, {"lr": "1", "model": "logistic"}, {"train_seconds": 2.0}, "FAILED", "nan"),
    ],
    sort="lr",
)


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ("params.lr > 0.01", [1, 2]),
        ("lr > +0.01", [1, 2]),
        ("optimizer.lr > 0.01", [1, 2]),
        ("0.01 < lr <= 0.1", [1]),
        ("0.1 == lr", [1]),
        ("lr > -1 and not lr >= 1", [0, 1]),
        ("lr in (0.01, 1)", [0, 2]),
        ("lr not in [0.01, 1]", [1]),
        ("params.model == 'mlp' or state != 'FINISHED'", [0, 2]),
        ('metrics["val/accuracy"] >= 0.9', [1]),
        ("metrics.`val/accuracy` >= 0.9", [1]),
        ("`val/accuracy` >= 0.9", [1]),
        ("metrics.val/accuracy >= 0.9", [1]),
        ("val/accuracy > val/loss", [0, 1]),
        ("not val/accuracy >= 0.9", [0, 2]),
        ("val/accuracy != 0.9", [0, 2]),
        ("val/accuracy == None", [2]),
        ("val/accuracy is not None", [0, 1]),
        ("units == 64", [0]),
        ("units in (64, None)", [0, 1, 2]),
        ("nesterov == True", [0]),
        ("'run 1' in name", [1]),
        ("name in ('run 1', 'run 2')", [1, 2]),
        ('model != "`mlp`"', [0, 1, 2]),
        ("reason == 'nan'", [2]),
    ],
)
def test_a_condition_keeps_the_trials_that_fulfil_it(condition: str, numbers: list[int]) -> None:
    assert [n for n, holds in enumerate(fulfilled(FRAME, condition)) if holds] == numbers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lr >",
        "lr = 0.1",
        "lr",
        "0.1",
        "1 < 2",
        "lr + 1 > 2",
        "lr ** 99999999 > 1",
        "max(lr) > 1",
        "__import__('os').system('true') == 0",
        "name.upper() == 'A'",
        "lr.__class__ == 1",
        "[x for x in (1, 2)] == lr",
        "(lambda: 1) == lr",
        "lr == (0.1, 1)",
        "lr in model",
        "'a' in lr",
        "lr in (model, 1)",
        "lr > 'a'",
        "model > 3",
        "model in (3, 4)",
        "lr == True",
        "lr > model",
        "started > '2026-01-01'",
        "f'{lr}' == name",
        "params['lr']['x'] == 1",
        "lr > 1; state == 'FAILED'",
        "lr > 1\x00",
        "(" * 500 + "lr" + ")" * 500,
        "not " * 20000 + "lr > 1",
        "`" * 3,
        *HOSTILE,
    ],
)
def test_what_is_no_condition_is_refused_in_one_line_with_the_rule_and_an_example(text: str) -> None:
    with pytest.raises(UserError) as caught:
        fulfilled(FRAME, text)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert "for example --where" in line or line.startswith("there is no ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("params.lrr > 1", "there is no param 'lrr' in this table; did you mean 'lr'?"),
        ("metrics.val/acuracy > 1", "there is no metric 'val/acuracy' in this table; did you mean 'val/accuracy'?"),
        ("modle == 'mlp'", "there is no column 'modle' in this table; did you mean 'model'?"),
    ],
)
def test_a_name_that_is_not_there_is_said(text: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        fulfilled(FRAME, text)
    assert str(caught.value) == line


def test_the_line_says_what_was_not_understood() -> None:
    with pytest.raises(UserError) as caught:
        fulfilled(FRAME, "lr > 0.1 and model > 3")
    assert str(caught.value) == (
        "a condition compares params, metrics, state or name with values, joined by and, or, not; got 3 in "
        "'lr > 0.1 and model > 3': model holds text, which is written in quotes; "
        """for example --where 'params.lr > 0.01 and metrics["val/accuracy"] > 0.9'"""
    )
