"""Writes the sentences of a report: the question, the answer, and the warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweepstack.metrics import Metric, bare_name, rounded
from sweepstack.results.reporting.params import setting, value_text
from sweepstack.results.reporting.plots.style import listed, objective_words, shortened, words
from sweepstack.results.selection.comparison import (
    BY_ITEMS,
    FOLDS,
    FOLDS_DIFFER,
    FOLDS_OVERLAP,
    NOT_MEASURED,
    NOT_TESTED,
    NOT_TOLD_APART,
    SEEDS,
    WORSE,
)
from sweepstack.results.selection.select import Selection, param_values
from sweepstack.results.tables.columns import REPLICATES, is_number
from sweepstack.results.tables.objective import NO_TEST_PART, NOTE
from sweepstack.tracking.origin import Origin

Sentence = list[tuple[str, bool]]
"""Pieces of text, each with True if it is something that is typed."""


def question(settings: int, varied: Sequence[str], objective: Metric) -> str:
    """Returns the question that the sweep answers.

    Args:
        settings: the number of settings.
        varied: the params that vary.
        objective: the metric that selects.
    """
    if settings < 2 or not varied:
        return f"How {'high' if objective.larger_is_better else 'low'} is the {objective_words(objective)}?"
    extreme = "highest" if objective.larger_is_better else "lowest"
    varied = listed([words(param) for param in varied])
    return f"Which of {settings:,} settings of {varied} has the {extreme} {objective_words(objective)}?"


def answer(selection: Selection, varied: Sequence[str]) -> Sentence:
    """Returns the answer in one sentence: the best setting with its objective and test value, the settings that may
    be as good, and those with a better mean that does not count.

    Args:
        selection: what was selected.
        varied: the params that vary.
    """
    best, objective = selection.groups.iloc[0], selection.objective
    others = len(selection.groups) - 1
    extreme = "highest" if objective.larger_is_better else "lowest"
    passed = _passed_over(selection)
    has = (
        f" has the {extreme} {objective_words(objective)}{_among(passed, best, selection)}"
        if others
        else f" has a {objective_words(objective)} of"
    )
    figure = f" {rounded(best['mean'])}"
    if best["n"] > 1:
        figure += f" on average over {_replicates(best, selection)}"
    if np.isfinite(best["low"]):
        figure += f" (95 % interval {rounded(best['low'])} to {rounded(best['high'])})"
    sentence = [(setting(selection.trial, varied), True) if varied else ("This setting", False)]
    sentence.append((f"{has}{',' if others else ''}{figure}", False))
    sentence.append((_tested(selection, several=best["n"] > 1), False))
    sentence += [(f"; {part}", False) for part in _compared(selection)]
    return [*sentence, *_why_passed_over(passed, best, varied, selection), (".", False)]


def _replicates(group: pd.Series[Any], selection: Selection) -> str:
    """Says how many trials a mean is of: 3 seeds, 3 of 5 folds."""
    folds, axis = group.get("folds_done", ""), selection.axis
    if axis is FOLDS and folds:
        return f"{folds} folds" + (f" ({group['trials']} trials)" if group["trials"] > group["n"] else "")
    return f"{group['n']} {axis.many}{f' ({folds} folds)' if folds else ''}"


def _compared(selection: Selection) -> list[str]:
    """Says how many of the other settings may be as good, could not be tested, and were not measured."""
    marks = selection.groups["mark"].iloc[1:]
    tied, worse, untested, unmeasured = (
        int((marks == mark).sum()) for mark in (NOT_TOLD_APART, WORSE, NOT_TESTED, NOT_MEASURED)
    )
    parts = []
    if tied:
        parts.append(f"{_others(tied)} cannot be told apart from it")
    elif worse == len(marks) and worse:
        parts.append("it can be told apart from every other setting")
    elif worse:
        which = "the 1 other that was" if worse == 1 else f"the {worse:,} others that were"
        parts.append(f"it can be told apart from {which} {'tested' if untested else 'measured'}")
    if untested:
        parts.append(f"{_others(untested)} could not be tested against it")
    if unmeasured:
        parts.append(f"{_others(unmeasured)} gave no value")
    return parts


def _others(count: int) -> str:
    return "1 other setting" if count == 1 else f"{count:,} other settings"


def _passed_over(selection: Selection) -> pd.DataFrame:
    """Returns settings with a better mean than the selected one that have too few trials to count, the best first."""
    groups, up = selection.groups, selection.objective.larger_is_better
    ahead = groups["mean"] > groups["mean"].iloc[0] if up else groups["mean"] < groups["mean"].iloc[0]
    passed: pd.DataFrame = groups[ahead].sort_values("mean", ascending=not up, kind="stable")
    return passed


def _among(passed: pd.DataFrame, best: pd.Series[Any], selection: Selection) -> str:
    """Says among which settings the selected one has the best mean; empty if it is all of them. See `select`."""
    kinds = []
    if (passed["failed"] > best["failed"]).any():
        kinds.append("have the fewest trials without a value" if best["failed"] else "have a value of every trial")
    if (passed["failed"] == best["failed"]).any():
        kinds.append(f"have several {selection.axis.many}")
    return f" of the settings that {' and '.join(kinds)}" if kinds else ""


def _why_passed_over(
    passed: pd.DataFrame, best: pd.Series[Any], varied: Sequence[str], selection: Selection
) -> Sentence:
    if passed.empty:
        return []
    first, more = passed.iloc[0], len(passed) - 1
    lack = f"it has a single {selection.axis.one}"
    if first["failed"] > best["failed"]:
        lack = f"{first['failed']} of its {len(first['run_ids'])} trials gave no value"
    too = "" if not more else " (nor does that of 1 other)" if more == 1 else f" (nor do those of {more:,} others)"
    better = "higher" if selection.objective.larger_is_better else "lower"
    text = f" has a {better} mean, {rounded(first['mean'])}, which does not count, since {lack}"
    return [("; ", False), (setting(param_values(first, varied), varied), True), (f"{text}{too}", False)]


def _tested(selection: Selection, several: bool) -> str:
    metric = selection.test_metric
    if selection.trial.get(NOTE) == NO_TEST_PART:
        return "; there is no test part to measure it on"
    if metric is None or metric == selection.objective or not np.isfinite(float(selection.trial[metric])):
        return ""
    data, inside = "test data", ""
    if not selection.honest:
        data = "the test data that selected"
    elif selection.test is not None:
        inside = f" ({selection.test.low:.4f} to {selection.test.high:.4f})"
    whose = (
        f"the {words(bare_name(metric))} of the best of its trials" if several else f"its {words(bare_name(metric))}"
    )
    return f"; on {data} {whose} is {rounded(selection.trial[metric])}{inside}"


def no_answer(frame: pd.DataFrame, why: str) -> Sentence:
    """Returns the sentence that says why there is no answer."""
    states = ", ".join(f"{count:,} {state}" for state, count in frame["state"].value_counts().sort_index().items())
    return [(f"There is no answer: {why} ({len(frame):,} trials: {states}).", False)]


def warnings(
    frame: pd.DataFrame, varied: Sequence[str], selection: Selection | None, origin: Origin | None
) -> list[str]:
    """Returns the reasons to doubt the answer.

    Args:
        frame: the table of trials.
        varied: the params that vary.
        selection: what was selected in it, if anything was.
        origin: what the selected trial was trained with.
    """
    lines = []
    if selection is not None:
        if selection.caution:
            lines.append(f"Careful: {selection.caution}.")
        lines += at_the_edge(frame, varied, selection.trial)
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


def at_the_edge(frame: pd.DataFrame, varied: Sequence[str], trial: pd.Series[Any]) -> list[str]:
    """Returns a line for each param whose best value is the smallest or largest tried, so that a better one may exist.

    Args:
        frame: the table of trials.
        varied: the params that vary.
        trial: the trial to use.
    """
    lines = []
    for param in varied:
        column = frame[param]
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
            lines.append(f"Validation data selected, test data were only read: the {name} is unbiased.")
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
    lines.append("Plots leave out trials that did not finish; learning curves show them.")
    return lines


def _marks(selection: Selection) -> list[str]:
    """Explains the marks of the settings, and says how many settings were tested."""
    marks = selection.groups["mark"].iloc[1:]
    untested, unmeasured = (int((marks == mark).sum()) for mark in (NOT_TESTED, NOT_MEASURED))
    tested = len(marks) - untested - unmeasured
    lines = []
    if 0 < tested < len(marks):
        lines.append(f"{tested:,} of {_others(len(marks))} {'was' if tested == 1 else 'were'} tested against the best.")
    if tested:
        lines.append(
            "“Not told apart” means that the values do not show that the best setting is better (5 %, corrected for "
            f"the number of settings); it does not mean that both are equal. Few {selection.axis.many} say little: "
            "five say far more than three."
        )
    if selection.groups["why"].str.contains(BY_ITEMS).any():
        lines.append(
            f"“{BY_ITEMS}” is a t-test of the errors of both models for each item (squared; for the MAE absolute). It "
            "compares these trained models; another seed may give others."
        )
    if untested:
        lines.append(
            f"“Not tested” ({_others(untested)}) means that there was nothing to test with, for the reason in the "
            "table: whether the best setting is better than such a one is not known."
        )
    if unmeasured:
        lines.append(f"“Not measured” ({_others(unmeasured)}) means that no trial of it has finished with a value.")
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
