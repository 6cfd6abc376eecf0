"""Writes the question that a sweep asks and the answer: which setting is the best, and how certain that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweepstack.metrics import Metric, bare_name, rounded
from sweepstack.results.reporting.params import setting
from sweepstack.results.reporting.plots.style import listed, objective_words, words
from sweepstack.results.selection.comparison import FOLDS, NOT_MEASURED, NOT_TESTED, NOT_TOLD_APART, WORSE
from sweepstack.results.selection.select import Selection, param_values
from sweepstack.results.tables.objective import NO_TEST_PART, NOTE

MOST_NAMED = 4
"""The most settings beside the best that are named in the answer."""
MOST_SEEDS = 1000
"""The most seeds that are counted: more are as good as never."""
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
    """Returns the answer in a few words: the best setting with its objective and test value, the set of settings that
    may be the best, how far behind the others are, and what has a better mean that does not count.

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
    if selection.winner is not None:
        figure += f" ({rounded(selection.winner.low)} to {rounded(selection.winner.high)} with 95 %, allowing for its "
        figure += f"having been chosen from {_measured(selection):,})"
    elif np.isfinite(best["low"]):
        figure += f" (95 % interval {rounded(best['low'])} to {rounded(best['high'])})"
    sentence = [(setting(selection.trial, varied), True) if varied else ("This setting", False)]
    sentence.append((f"{has}{',' if others else ''}{figure}", False))
    sentence.append((_tested(selection, several=best["n"] > 1), False))
    sentence += _compared(selection, varied)
    sentence += [(f"; {selection.of_pruned}", False)] if selection.pruned else []
    return [*sentence, *_why_passed_over(passed, best, varied, selection), (".", False)]


def by_sentence(pieces: Sentence) -> list[Sentence]:
    """Splits an answer at the pieces that begin with the end of a sentence."""
    found: list[Sentence] = [[]]
    for text, typed in pieces:
        if text.startswith(". ") and not typed:
            found[-1].append((". ", False))
            found.append([])
            text = text[2:]
        found[-1].append((text, typed))
    return found


def _replicates(group: pd.Series[Any], selection: Selection) -> str:
    """Says how many trials a mean is of: 3 seeds, 3 of 5 folds."""
    folds, axis = group.get("folds_done", ""), selection.axis
    if axis is FOLDS and folds:
        return f"{folds} folds" + (f" ({group['trials']} trials)" if group["trials"] > group["n"] else "")
    return f"{group['n']} {axis.many}{f' ({folds} folds)' if folds else ''}"


def _measured(selection: Selection) -> int:
    return int((selection.groups["mark"] != NOT_MEASURED).sum())


def _compared(selection: Selection, varied: Sequence[str]) -> Sentence:
    """Says which settings may be the best, how far behind the others are, and how many could not be compared."""
    groups = selection.groups.iloc[1:]
    marks = groups["mark"]
    tied, worse = groups[marks == NOT_TOLD_APART], groups[marks == WORSE]
    untested, unmeasured = (int((marks == mark).sum()) for mark in (NOT_TESTED, NOT_MEASURED))
    pieces: Sentence = []
    if len(tied):
        pieces.append((f". The set that may be the best: {1 + len(tied):,} of {1 + len(groups):,} settings", False))
        for number, (_, group) in enumerate(tied.iterrows() if len(tied) <= MOST_NAMED else ()):
            pieces.append(((", it" if number == 0 else "") + (" and " if number == len(tied) - 1 else ", "), False))
            pieces.append((setting(param_values(group, varied), varied), True))
    elif len(worse) == len(groups) and len(groups):
        pieces.append(("; it can be told apart from every other setting", False))
    elif len(worse):
        which = "the 1 other that was" if len(worse) == 1 else f"the {len(worse):,} others that were"
        pieces.append((f"; it can be told apart from {which} {'tested' if untested else 'measured'}", False))
    least = float(worse["behind"].min()) if len(worse) else float("nan")
    if least > 0:
        which = ", which" if not len(tied) else "; the others" if len(worse) > 1 else "; the other"
        verb = "is" if len(worse) == 1 else "are"
        pieces.append((f"{which} {verb} at least {_distance(least, selection)} behind (95 %)", False))
    if selection.items:
        pieces.append((f" (as trained, on items like the {selection.items}; another seed may differ)", False))
    if untested:
        pieces.append((f"; {others(untested)} could not be tested against it", False))
    if unmeasured:
        pieces.append((f"; {others(unmeasured)} gave no value", False))
    return [*pieces, *_more(tied, selection, varied)]


def _distance(value: float, selection: Selection) -> str:
    """Writes a difference of the objective: of a share in points, which are hundredths."""
    if not selection.objective.proportion:
        return rounded(value)
    points = f"{100 * value:.2g}" if value < 0.1 else f"{100 * value:.0f}"
    return f"{points} point" if points == "1" else f"{points} points"


def _more(tied: pd.DataFrame, selection: Selection, varied: Sequence[str]) -> Sentence:
    """Says how many seeds would tell apart the best setting and the next one that may be as good."""
    known = tied[tied["needed"].notna()]
    if known.empty:
        return []
    first = known.iloc[0]
    count, axis = int(first["needed"]), selection.axis
    if axis is FOLDS or count <= first["n"]:
        return []
    about = f"About {float(f'{count:.2g}'):,.0f}" if count <= MOST_SEEDS else f"More than {MOST_SEEDS:,}"
    return [
        (f". {about} {axis.many} each would tell it apart from ", False),
        (setting(param_values(first, varied), varied), True),
        (" if they differ as much as it seems", False),
    ]


def others(count: int) -> str:
    """Writes how many other settings there are."""
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
