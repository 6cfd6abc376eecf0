"""Rows as the store gives them, and their table."""

from typing import Any

import pandas as pd

from sweepstack.metrics import Direction, Metric, Mode, bare_name
from sweepstack.results.tables.frame import as_frame
from sweepstack.tracking.objectives import Declared
from sweepstack.tracking.params import as_text
from sweepstack.tracking.runs_as_rows import Row

ACCURACY = Metric("val/accuracy", "max", proportion=True)
NOTHING = Declared()
HOSTILE = (
    "<script>alert(1)</script>",
    "a&b",
    "a|b",
    "_a_b",
    "50%",
    "größe ✓",
    "two\nlines",
    "=cmd()",
    "[0.9]",
    "\x1b[2J",
)
"""Values of params that are more than text to somebody."""


def row(
    number: int,
    params: dict[str, str],
    metrics: dict[str, float],
    state: str = "FINISHED",
    reason: str = "",
    declared: Declared = NOTHING,
) -> Row:
    log = f"/jobs/{number}/train.log"
    kept = {name: as_text(text) if text in HOSTILE else text for name, text in params.items()}
    return Row(f"id{number}", f"run {number}", "1", "sweep", state, reason, log, 1000 + number, kept, metrics, declared)


def declaring(objective: str, mode: Mode, **own: Mode) -> Declared:
    """What a run says whose task is selected by this metric, and has metrics of its own with these modes."""
    directions = {bare_name(objective): mode, **own}
    return Declared(objective, {name: Direction(one) for name, one in directions.items()})


def trials(*settings: tuple[dict[str, str], float | None], **options: Any) -> pd.DataFrame:
    """The table of trials with these params and held-out accuracies; those without one have failed."""
    return as_frame(
        [
            row(
                n,
                params,
                {} if accuracy is None else {"val/accuracy": accuracy},
                "FAILED" if accuracy is None else "FINISHED",
            )
            for n, (params, accuracy) in enumerate(settings)
        ],
        **options,
    )
