"""Compares the settings of a sweep with the best one: which of them may be as good, and how that was tested."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sweepstack.metrics import Metric
from sweepstack.results.selection.items import (
    ItemTest,
    PerItem,
    compare_errors,
    corrected,
    errors_of,
    give,
    is_mean_over_items,
)
from sweepstack.results.selection.replicates import Comparison, as_array, compare_values
from sweepstack.results.selection.sequential import FIRST_SHARE, Added, compare_in_stages
from sweepstack.results.selection.spread import Levels
from sweepstack.results.selection.statistics import Interval
from sweepstack.results.tables.columns import written

BEST = "best"
"""Mark of the best setting."""
NOT_TOLD_APART = "not told apart"
"""Mark of a setting that may be as good as the best one: the test found no significant difference."""
WORSE = ""
"""Mark of a setting that is significantly worse than the best one."""
NOT_TESTED = "not tested"
"""Mark of a setting that could not be tested against the best one."""
NOT_MEASURED = "not measured"
"""Mark of a setting of which no trial has a value of the metric."""
FOLDS_OVERLAP = (
    "the training data of different folds overlap, so their trials are not independent: intervals and tests over folds "
    "are widened for that (Nadeau and Bengio 2003), which is an approximation"
)
"""What a reader must know of statistics over folds."""
FOLDS_DIFFER = "settings have values of different folds, which may differ in how hard they are"
"""What a reader must know of a comparison of means over different folds."""
ADDED_LATER = (
    "trials were added after a first look at {first} {many}; the test allows for a look after each {one} (Bonferroni)"
)
"""What a reader must know of a test of seeds that were added after looking; see `sequential`."""
SIGNIFICANCE_LEVEL = 0.05
"""The probability, at most, that any setting of a table is marked as worse although it is as good as the best one."""

SETTINGS_PER_LEVEL = 3
"""The settings that each value of a param must have on average, so that their spread may tell that of the others."""

NAN = float("nan")
"""Stands for a p-value or degrees of freedom that do not exist."""

Predictions = Callable[[str, str], PerItem | str]
"""Takes the id of a run and a part of the data ("val" or "test"), and returns how its predictions for that part compare
with the targets; or why that is not known, in words."""
ITEMS = {"val": "held-out items", "test": "test items"}
"""The items of a part of the data, in words."""


class Axis(NamedTuple):
    """What distinguishes the trials of a setting, in words."""

    one: str
    many: str
    example: str
    """The override that sweeps it."""


SEEDS = Axis("seed", "seeds", "seed=0,1,2")
FOLDS = Axis("fold", "folds", "fold=0,1,2")


@dataclass(frozen=True, eq=False)
class Group:
    """The trials of one setting."""

    setting: dict[str, Any]
    objectives: dict[Hashable, float]
    """The objective of the finished trials, by seed; with folds by fold, each the mean over its seeds."""
    trials: int
    """The number of the finished trials, those of one seed (and fold) counted once."""
    failed: int
    """The number of trials without a value of the objective."""
    failure: str
    """Why these have no value, in words that follow their number."""
    run_ids: tuple[str, ...]
    trained: str
    """The id of the first run that finished. Its predictions are compared if the setting has a single seed."""
    trained_value: float
    """The value of the objective of that run; NaN if there is none."""
    means: dict[str, float]
    """Means of other metrics."""
    folds: str = ""
    """How many folds have a value, such as "3 of 5"; empty without folds."""
    overlap: float = 0.0
    """With folds the ratio of the sizes of validation and training data; see `statistics.mean_interval`."""

    @property
    def values(self) -> list[float]:
        """The values of the objective."""
        return list(self.objectives.values())

    @property
    def mean(self) -> float:
        """The mean of the objective."""
        return float(np.mean(self.values))


class Assessment(NamedTuple):
    """What is known of a setting beside the best one."""

    mark: str
    p: float
    """The corrected p-value; NaN if nothing was tested."""
    why: str
    """The reason of the mark, in words."""
    behind: float = NAN
    """How far it is behind the best at least: bounds of all settings, which hold together in 95 of 100 sweeps. NaN if
    that is not known."""
    needed: float = NAN
    """The number of seeds or folds that would probably tell it apart; NaN if that is not known."""


class Assessments(NamedTuple):
    """What is known of the settings of a sweep."""

    groups: list[Group]
    """The settings, the best first."""
    settings: list[Assessment]
    """What is known of each of them."""
    winner: Interval | None
    """An interval of the true mean of the best setting, which knows that it was chosen (95 %)."""
    left_out: float
    """An estimate of that mean, see `winner.mean_of_left_out`; NaN if there is none."""


def assess_settings(
    groups: list[Group], key: Metric, predictions: Predictions, axis: Axis = SEEDS, added: Added | None = None
) -> Assessments:
    """Compares each setting with the best one, and decides on its mark.

    Settings with several seeds or folds are compared by their values, see `replicates.compare_values` and `sequential`;
    if some were added after others, settings that are told apart come last. Single trials are compared by
    their predictions for the items that selected: those that were held out, or the test items if nothing was held out;
    see `items.compare_errors`. For a metric that is no mean over items nothing is tested.

    Args:
        groups: the settings, the best first.
        key: the metric that selected the best one.
        predictions: returns how the predictions of a run compare with the targets.
        axis: what distinguishes the trials of a setting.
        added: how the replicates were added one after the other; None if all are of one command.
    """
    several = len(groups[0].objectives) > 1 and sum(bool(group.objectives) for group in groups) > 1
    compared = None
    if several:
        groups, compared = _compare_values(groups, key, axis, added)
    best = groups[0]
    single = best.trials == 1
    count = len(best.objectives)
    won = "best single trial" if single else f"best mean over {count} {axis.one if count == 1 else axis.many}"
    first = Assessment(BEST, NAN, _reason_of(best, best, won))
    if compared is not None:
        others = _by_values(groups, compared, axis, added)
        return Assessments(groups, [first, *others], compared.winner, compared.left_out)
    return Assessments(groups, [first, *_by_items(groups, key, predictions, axis)], None, NAN)


def _compare_values(
    groups: list[Group], key: Metric, axis: Axis, added: Added | None
) -> tuple[list[Group], Comparison]:
    """Compares settings by their values for several seeds or folds; returns the settings with the best first."""
    measured = [group for group in groups if group.objectives]
    match = _are_matched(measured, axis)
    overlap = max(group.overlap for group in measured)
    objectives = [group.objectives for group in measured]
    levels = _levels(measured)
    larger, level = key.larger_is_better, SIGNIFICANCE_LEVEL
    if added is None:
        return groups, compare_values(as_array(objectives), larger, level, match, overlap, levels, FIRST_SHARE)
    values = as_array(objectives, added.order)
    failed = np.array([group.failed for group in measured])
    may_win = failed == failed.min()
    found = compare_in_stages(values, added.first, larger, level, match, overlap, levels, may_win)
    order = np.argsort(found.p <= SIGNIFICANCE_LEVEL, kind="stable")  # NaN for the best one itself
    unmeasured = [group for group in groups if not group.objectives]
    return [*(measured[index] for index in order), *unmeasured], found.of(order)


def _levels(measured: list[Group]) -> Levels | None:
    """Returns the levels of the params that have several settings at each; None if there is no such param."""
    found = []
    for name in measured[0].setting:
        texts = [written(group.setting[name]) for group in measured]
        number = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        if 1 < len(number) <= len(measured) / SETTINGS_PER_LEVEL:
            found.append([number[text] for text in texts])
    return np.array(found, dtype=np.intp).T if found else None


def _are_matched(measured: list[Group], axis: Axis) -> bool:
    """False if settings have folds that were cut differently."""
    return axis is not FOLDS or len({tuple(sorted(_cut(group).items())) for group in measured}) == 1


def _by_values(groups: list[Group], found: Comparison, axis: Axis, added: Added | None) -> list[Assessment]:
    """Says how the settings after the first compare by their values for several seeds or folds."""
    best = groups[0]
    match = _are_matched([group for group in groups if group.objectives], axis)
    borrowed = f"; the spread is estimated from {found.settings:,} settings" if found.settings else ""
    if added is not None:
        borrowed += f"; valid for a look after each {axis.one} from {added.first} on"
    assessments, number = [], 0
    for group in groups[1:]:
        if not group.objectives:
            assessments.append(Assessment(NOT_MEASURED, NAN, _reason_of(group, best, "no trial gave a value")))
            continue
        number += 1
        p = float(found.p[number])
        shared = sum(one in best.objectives for one in group.objectives)
        how = f"{len(best.objectives)} and {len(group.objectives)} {axis.many} that do not match"
        if match and shared == len(group.objectives) == len(best.objectives):
            how = f"paired over {shared} {axis.many}"
        elif not found.settings:
            how = f"paired over {shared} {axis.many}" if match and shared > 1 else f"Welch's t-test over {how}"
        if found.ahead[number] < 0 and np.isfinite(p):
            how += ", where it is ahead of the best"
        elif np.isnan(p):
            alone = len(group.objectives) == 1
            none = f"a single {axis.one}, which tells no spread"
            how = none if alone else f"{how}, whose differences are all the same: no spread to compare with"
        else:
            how += borrowed
        behind, needed = float(found.behind[number]), float(found.needed[number])
        assessments.append(Assessment(_mark(group, p), p, _reason_of(group, best, how), behind, needed))
    return assessments


def _by_items(groups: list[Group], key: Metric, predictions: Predictions, axis: Axis) -> list[Assessment]:
    """Compares the settings after the first by the errors of their single trials on the items that selected."""
    best, *others = groups
    first = _errors(key, best, predictions, axis) if others else ""
    tests = []
    for other in others:  # one at a time: the errors of all may not fit into memory
        found = _errors(key, other, predictions, axis)
        if isinstance(found, str):
            tests.append(ItemTest(NAN, NAN, found))
        elif isinstance(first, str):
            tests.append(ItemTest(NAN, NAN, f"the best one cannot be compared: {first}"))
        elif found.items != first.items:
            tests.append(ItemTest(NAN, NAN, f"its {ITEMS[found.part]} are others than those of the best one"))
        else:
            tests.append(compare_errors(first.values, found.values, ITEMS[found.part]))
    values = corrected(tests, sum(bool(group.objectives) for group in groups))
    return [
        Assessment(_mark(other, p), p, _reason_of(other, best, test.how))
        for other, p, test in zip(others, values, tests, strict=True)
    ]


class _Errors(NamedTuple):
    values: NDArray[Any]
    """See `items.errors_of`."""
    items: Hashable
    part: str


def _errors(key: Metric, group: Group, predictions: Predictions, axis: Axis) -> _Errors | str:
    """Returns the errors of the single trial of a setting on the part of the data that `key` is of; or why there are
    none, in words."""
    part = key.partition("/")[0]
    if not group.objectives:
        return "no trial gave a value"
    if group.trials != 1 or part not in ITEMS or not is_mean_over_items(key):
        return f"a single {axis.one}, which tells no spread"
    found = predictions(group.trained, part)
    if isinstance(found, str):
        return found
    errors = errors_of(key, found)
    if errors is None:
        return f"a single {axis.one}, which tells no spread"
    if not give(key, errors, group.trained_value):
        why = "that is of another measurement, or no plain mean over items"
        return f"its predictions for the {ITEMS[part]} do not give its {key}: {why}"
    return _Errors(errors, found.items, part)


def _mark(other: Group, p: float) -> str:
    if not other.objectives:
        return NOT_MEASURED
    if np.isnan(p):
        return NOT_TESTED
    return WORSE if p <= SIGNIFICANCE_LEVEL else NOT_TOLD_APART


def _cut(group: Group) -> dict[str, str]:
    """Returns the params that say how the data of a setting are cut into folds."""
    keys = ("dataset", "folds", "split")
    return {name: written(value) for name, value in group.setting.items() if name.partition(".")[0] in keys}


def _reason_of(group: Group, best: Group, how: str) -> str:
    """Says in words why a setting has its mark and its rank."""
    if not group.failed:
        return how
    lucky = group.failed > best.failed and group.objectives
    but = ", so that its mean does not count for the first place" if lucky else ""
    return f"{group.failed} of {len(group.run_ids)} trials {group.failure}{but}; {how}"
