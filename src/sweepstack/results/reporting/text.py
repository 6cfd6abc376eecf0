"""Writes the warnings of a report, and explains how its values are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweepstack.metrics import rounded
from sweepstack.results.reporting.answer import others
from sweepstack.results.reporting.params import NO_RANGES, DrawnRange, value_text
from sweepstack.results.reporting.plots.style import objective_words, sentence_case, shortened, words
from sweepstack.results.selection.comparison import (
    FOLDS_DIFFER,
    FOLDS_OVERLAP,
    NOT_MEASURED,
    NOT_TESTED,
    SEEDS,
)
from sweepstack.results.selection.items import PAIRED_T
from sweepstack.results.selection.select import Selection
from sweepstack.results.tables.columns import is_number
from sweepstack.results.tables.objective import NO_TEST_PART, NOTE
from sweepstack.tracking.origin import Origin
from sweepstack.trial import REPLICATES, TrialState

EDGE = 0.05
"""The part at either end of the range of a search in which its best value may have a better one beyond."""


def warnings(
    frame: pd.DataFrame,
    varied: Sequence[str],
    selection: Selection | None,
    origin: Origin | None,
    ranges: Mapping[str, DrawnRange] = NO_RANGES,
) -> list[str]:
    """Returns the reasons to doubt the answer.

    Args:
        frame: the table of trials.
        varied: the params that vary.
        selection: what was selected in it, if anything was.
        origin: what the selected trial was trained with.
        ranges: what a search draws params from.
    """
    lines = []
    if selection is not None:
        if selection.caution:
            lines.append(f"Careful: {selection.caution}.")
        lines += at_the_edge(frame, varied, selection.trial, ranges)
        if selection.groups["n"].max() == 1 and len(selection.groups) > 1:
            axis = selection.axis
            lines.append(
                f"Each setting has one {axis.one}, so its spread is not known; sweep {axis.example} as well to see it."
            )
        if selection.folds_differ:
            lines.append(f"{FOLDS_DIFFER[0].upper()}{FOLDS_DIFFER[1:]}.")
    lines += _unfinished(frame)
    if selection is not None:
        odd = frame[(frame["state"] == "FINISHED") & ~np.isfinite(frame[selection.objective].to_numpy(dtype=float))]
        if len(odd):
            lines.append(
                f"{_count(odd, 'has', 'have')} no finite {objective_words(selection.objective)}, and cannot be "
                "selected."
            )
    if origin is not None and origin.uncommitted:
        lines.append("The code had uncommitted changes when the trial to use was trained: its commit is not all of it.")
    return lines


def at_the_edge(
    frame: pd.DataFrame,
    varied: Sequence[str],
    trial: pd.Series[Any],
    ranges: Mapping[str, DrawnRange] = NO_RANGES,
) -> list[str]:
    """Returns a line for each param whose best value is the smallest or largest tried, so that a better one may exist.

    Args:
        frame: the table of trials.
        varied: the params that vary.
        trial: the trial to use.
        ranges: what a search draws params from.
    """
    lines = []
    for param in varied:
        column = frame[param]
        if (drawn := ranges.get(param)) is not None:
            end = drawn.end_near(float(trial[param]), EDGE)
            if end is not None:
                where = f"{value_text(trial[param])} in {drawn.low:g} to {drawn.high:g}"
                lines.append(f"The best {words(param)} is near the {end} end of its range, {where}: widen it.")
            continue
        if not is_number(column) or column.nunique() < 3:
            continue
        for edge, word in ((column.min(), "smallest"), (column.max(), "largest")):
            if trial[param] == edge:
                value = value_text(trial[param])
                lines.append(
                    f"The best setting has the {word} value of {words(param)} that was tried, {value}: widen the grid."
                )
    return lines


def explain_values(frame: pd.DataFrame, selection: Selection | None, images: int | None) -> list[str]:
    """Explains how the values in the report are computed.

    Args:
        frame: the table of trials.
        selection: what was selected in it, if anything was.
        images: the number of test images, if it is known.
    """
    lines = []
    if selection is not None:
        if selection.honest and selection.test_metric is not None:
            name = words(selection.test_metric)
            what = "Validation data selected" if selection.objective.startswith("val/") else "No test data selected"
            lines.append(f"{what}, test data were only read: the {name} is unbiased.")
        if selection.trial.get(NOTE) == NO_TEST_PART:
            lines.append("There is no test part: the value of the best setting is too good, because it selected.")
        if replicates := [name for name in REPLICATES if name in frame.columns[: frame.attrs["vary"]]]:
            lines.append(
                f"Trials that differ in their {' and '.join(replicates)} only are one setting; the interval of its "
                "mean is Student's. The trial to use is the one of the best setting with the best value."
            )
        if selection.axis is not SEEDS:
            lines.append("The seeds of a fold are averaged first: intervals and tests count folds.")
            lines.append(f"{FOLDS_OVERLAP[0].upper()}{FOLDS_OVERLAP[1:]}.")
        if selection.honest and selection.test is not None:
            count = f" on {images:,} images" if images else ""
            lines.append(
                f"The interval of the test accuracy is Wilson's{count}: 95 of 100 such intervals hold the true value."
            )
        lines += _marks(selection)
    if "train_seconds_share" in frame:
        lines.append(
            "Trials that were trained together share the training time; the time of a trial is its share, not the time "
            "that it would take on its own."
        )
    pruned = bool((frame["state"] == TrialState.PRUNED).any())
    lines.append(
        "Plots leave out trials that did not finish; learning curves show them"
        + (", and crosses are trials that were pruned." if pruned else ".")
    )
    return lines


def _marks(selection: Selection) -> list[str]:
    """Explains the marks of the settings, and says how many settings were tested."""
    marks = selection.groups["mark"].iloc[1:]
    untested, unmeasured = (int((marks == mark).sum()) for mark in (NOT_TESTED, NOT_MEASURED))
    tested = len(marks) - untested - unmeasured
    lines = []
    if 0 < tested < len(marks):
        lines.append(f"{tested:,} of {others(len(marks))} {'was' if tested == 1 else 'were'} tested against the best.")
    if tested:
        lines.append(
            "“Not told apart” means that the values do not show that the best setting is better (5 %, corrected for "
            "the number of settings); it does not mean that both are equal."
        )
    several = selection.groups["n"].iloc[0] > 1
    if tested:
        lines.append(f"{sentence_case(selection.variation)}.")
    if tested and several and len(marks) > 1:
        lines[-1] += (
            " How much each setting spreads is estimated from all settings together (empirical Bayes), since a few "
            "values hardly tell it."
        )
    if selection.winner is not None and several:
        lines.append(
            "The interval of the best setting allows for its having been chosen by the same values (zoom correction, "
            "Zrnic and Fithian 2024); the table has Student's interval of each setting on its own."
        )
    if np.isfinite(selection.left_out):
        figure = rounded(selection.left_out)
        lines.append(
            f"Without the luck of having been chosen, the mean of the best setting is about {figure}: each "
            f"{selection.axis.one} in turn is left out of the choice, and read of the best setting by the others; at "
            "most as much luck is taken off as the best of so many equal settings has on average."
        )
    if selection.added:
        lines.append(f"{sentence_case(selection.added)}.")
    if np.isfinite(selection.groups["behind"]).any():
        lines.append(
            "“Behind by at least” holds for all settings together (95 %). That asks for more than the marks do: a "
            "setting that is worse can have 0, which says nothing of how far it is behind."
        )
    if selection.groups["why"].str.contains(PAIRED_T).any():
        lines.append(
            f"“{sentence_case(PAIRED_T)} … items” compares the errors of both models for each item (squared; for the "
            "MAE absolute; for labels the share that is wrong)."
        )
    if untested:
        lines.append(
            f"“Not tested” ({others(untested)}) means that there was nothing to test with, for the reason in the "
            "table: whether the best setting is better than such a one is not known."
        )
    if unmeasured:
        lines.append(f"“Not measured” ({others(unmeasured)}) means that no trial of it has finished with a value.")
    return lines


def _unfinished(frame: pd.DataFrame) -> list[str]:
    lines = []
    for state, verb in (("FAILED", "failed"), ("KILLED", "stopped before the end"), ("RUNNING", "still running")):
        some = frame[frame["state"] == state]
        if len(some):
            is_verb = _count(some, f"is {verb}", f"are {verb}") if state == "RUNNING" else _count(some, verb, verb)
            reason = next((f", for example: {shortened(text, 120)}" for text in some["reason"] if text), "")
            lines.append(f"{is_verb}{reason}.")
    return lines


def _count(some: pd.DataFrame, one: str, many: str) -> str:
    return f"1 trial {one}" if len(some) == 1 else f"{len(some):,} trials {many}"
