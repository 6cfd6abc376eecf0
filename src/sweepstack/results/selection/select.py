"""Selects the best setting of a sweep, the settings that may be as good, and the trial to use.

Validation data select; test data are only read for what was selected.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sweepstack.errors import UserError, did_you_mean
from sweepstack.metrics import NO_RESULTS, Metric, bare_name, rounded
from sweepstack.results.selection.comparison import (
    ADDED_LATER,
    FOLDS,
    ITEMS,
    NOT_TESTED,
    NOT_TOLD_APART,
    SEEDS,
    WORSE,
    Assessment,
    Axis,
    Group,
    Predictions,
    assess_settings,
)
from sweepstack.results.selection.sequential import Added
from sweepstack.results.selection.statistics import Interval, mean_interval, wilson
from sweepstack.results.tables.columns import identity, kind, written
from sweepstack.results.tables.objective import caution_of, in_sweep_order, metric_of, objectives, own_metrics
from sweepstack.trial import REPLICATES, TrialState

NO_PREDICTIONS = "no predictions were read"
"""Why single seeds are not compared where `select` gets no predictions."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The result of `select`."""

    objective: Metric
    """The metric that selected."""
    caution: str
    """Why the selected test metric is too good, in words; empty if validation data selected."""
    groups: pd.DataFrame
    """A row for each setting, the best first. A setting is the values of all params that vary, without `REPLICATES`.

    Columns: the params (`params.n` if a param has the name of another column); `n`, the values that the mean is of:
    of each seed, or of each fold the mean over its seeds; with folds `trials`, the number of pairs of seed and fold,
    and `folds_done`, those that have a value, such as "3 of 5"; `failed`, the trials without a value, because they
    failed, were stopped, still run, or have no finite one; of the objective `mean`, `sd`, and `low` to `high` (95 %
    by t; of a proportion within 0 to 1); means of other metrics; `p` of the comparison with the best setting,
    two-sided and corrected (1 if the best is behind, NaN if nothing was tested); `behind`, how far the setting is
    behind the best at least, and `needed`, the number of seeds that would probably tell it apart (see `Assessment`);
    `mark` (`BEST`, `NOT_TOLD_APART`, `WORSE`, `NOT_TESTED`, `NOT_MEASURED`); `why` in words; `run_ids` (a tuple)."""
    trial: pd.Series[Any]
    """The trial to use: the row of the finished trial of the best setting with the best objective. Among equal ones,
    the smallest seed decides, then the run id."""
    test_metric: str | None
    """The metric on test data that is reported of it: that of the objective of its task; None if there is none."""
    test: Interval | None
    """Bounds of its test accuracy (95 %, Wilson); None if that or the number of test images is not known, or if the
    task does not predict classes."""
    axis: Axis = SEEDS
    """What distinguishes the trials of a setting."""
    folds_differ: bool = False
    """True if settings have values of different folds."""
    winner: Interval | None = None
    """An interval of the true mean of the best setting that knows that it was chosen from all (95 %, the zoom
    correction of Zrnic and Fithian 2024); None if it has a single value, or nobody to be chosen from."""
    left_out: float = float("nan")
    """The mean of the best setting without the luck of having been chosen, see `winner.mean_of_left_out`; NaN if that
    is not known."""
    added: str = ""
    """That seeds were added after somebody may have looked, and how the test allows for that (see `sequential`); empty
    if one command has asked for all of them."""
    pruned: tuple[str, ...] = ()
    """The first run of each setting of which a pruner has ended all trials: such settings are in no group, and
    are not compared."""

    @property
    def honest(self) -> bool:
        """True if test data were not used to select."""
        return not self.caution

    @property
    def compared(self) -> bool:
        """True if any setting was tested against the best one."""
        return bool(self.groups["mark"].isin([NOT_TOLD_APART, WORSE]).any())

    @property
    def items(self) -> str:
        """The items over which single trials were compared, in words, such as "held-out items"; empty if none were, or
        if the settings were compared by their values for several seeds or folds."""
        return ITEMS[self.objective.partition("/")[0]] if self.compared and self.groups["n"].iloc[0] == 1 else ""

    @property
    def variation(self) -> str:
        """What the marks are about, in words: training again, or other items. Empty if nothing was compared."""
        if self.items:
            return f"this is about the {self.items}: what these trained models would give on others, not another seed"
        return f"this is about {self.axis.many}: what another {self.axis.one} would give" if self.compared else ""

    @property
    def of_pruned(self) -> str:
        """How many settings were pruned, in words; empty if none was."""
        number = len(self.pruned)
        return f"{number:,} {'setting was' if number == 1 else 'settings were'} pruned, not compared" if number else ""

    @property
    def in_short(self) -> str:
        """How many settings may be the best, what that is about, and how good the best one is in truth, in words; empty
        if nothing was compared."""
        if not self.compared:
            return ""
        marks = self.groups["mark"]
        tied, untested = (int((marks == mark).sum()) for mark in (NOT_TOLD_APART, NOT_TESTED))
        found = f"the set that may be the best: {1 + tied:,} of {len(marks):,} settings"
        found += f", and {untested:,} could not be tested; " if untested else "; "
        found += self.variation
        if self.winner is None:
            return found
        low, high = map(rounded, self.winner)
        mean = rounded(self.groups["mean"].iloc[0])
        chosen = f"allowing for its having been chosen{self.of_left_out}"
        return f"{found}; the mean of the best one is {mean}, and {low} to {high} with 95 %, {chosen}"

    @property
    def of_left_out(self) -> str:
        """The mean of the best setting without the luck of having been chosen, in words; empty if that is not known."""
        if not np.isfinite(self.left_out):
            return ""
        return f" (about {rounded(self.left_out)} without that luck)"


def select(
    frame: pd.DataFrame,
    predictions: Predictions | None = None,
    objective: str | None = None,
    test_count: int | None = None,
    goes_on: bool = False,
) -> Selection:
    """Selects the best setting of a table by its mean objective over seeds, and the settings that may be as good.

    What is said here of seeds holds for folds if the table has several. The seeds of a fold share its data, so they are
    averaged first: n is the number of folds.

    A setting with trials that failed or have not finished must not win by its lucky seeds: settings are ordered by the
    number of such trials, then by their mean. If some settings have several seeds, those with a single one come last.

    A setting is marked as worse if the best one is better with p <= 0.05, corrected over the table. With several seeds
    the spreads of all settings are estimated together (see `spread`); two settings are compared by a paired t-test, or
    Welch's if their seeds do not match. If all have a single seed, their predictions for the items that selected are
    compared (see `assess_settings`) if there is a test for the metric. The best setting was chosen by the same values,
    so the correction is `holm_with_best`.

    Args:
        frame: what `sweepstack.results.table` returns.
        predictions: returns how the predictions of a run compare with the targets; see `Predictions`.
        objective: the metric that selects, by default the objective of the task: for classes the accuracy on held-out
            data, or on test data if nothing was held out.
        test_count: the number of test images, if no predictions show it.
        goes_on: True if seeds may be added after this look; then the test allows for that, see `sequential`.

    Raises:
        UserError: there is no such metric, it is no result of training, no finished trial has it, or the trials have
            different objectives.
    """
    key, caution = _selecting_metric(frame, objective)
    frame, pruned = _without_pruned(frame)
    axis = _axis(frame)
    ranked, added = _ranked(frame, key, axis, goes_on)
    found = assess_settings(ranked, key, predictions or (lambda *_: NO_PREDICTIONS), axis, added)
    groups = found.groups
    rows = frame[frame["run_id"].isin(groups[0].run_ids) & _usable(frame, key)]
    by = [key, *_replicates(frame), "run_id"]
    trial = rows.sort_values(by, ascending=[not key.larger_is_better, *[True] * (len(by) - 1)]).iloc[0]
    names = own_metrics(frame)
    reported = f"test/{names[0] if len(names) == 1 else bare_name(key)}"
    return Selection(
        key,
        caution,
        _as_frame(groups, found.settings, key),
        trial,
        reported if reported in frame else None,
        _test(trial, predictions, test_count),
        axis,
        axis is FOLDS and len({(one.folds, *sorted(map(str, one.objectives))) for one in groups if one.objectives}) > 1,
        _within(found.winner, groups, key),
        found.left_out,
        ADDED_LATER.format(one=axis.one, many=axis.many, first=added.first) if added and added.later else "",
        pruned,
    )


def _without_pruned(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Returns a table without pruned trials, and the first run of each setting of which all trials were pruned.

    A pruner is no failure: a setting that was trained in full later, or with other seeds, is compared by these.
    """
    is_pruned = frame["state"] == TrialState.PRUNED
    if not is_pruned.any():
        return frame, ()
    settings = _settings(frame)
    number = frame[settings].apply(identity).groupby(settings, dropna=False).ngroup() if settings else is_pruned * 0
    gone = is_pruned.groupby(number).transform("all")
    first = in_sweep_order(frame[gone]).groupby(number[gone])["run_id"].first()
    return frame[~is_pruned].reset_index(drop=True), tuple(first)


def one_row_per_seed(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """Returns the finished trials of a table, one row for each setting, seed and fold, as `select` counts them.

    A trial that was recorded several times becomes its first row, with the means of the metrics of all its records.
    Records without a finite value count only if there is no other.

    Args:
        frame: what `sweepstack.results.table` returns.
        key: the metric that must be finite.
    """
    metrics = _metrics(frame)
    frame = frame[frame["state"] == "FINISHED"]
    if "seed" not in frame or frame.empty:
        return frame
    keys = [*_settings(frame), *_replicates(frame)]
    number = frame[keys].apply(identity).groupby(keys, dropna=False).ngroup()
    usable = _usable(frame, key)
    kept = usable | ~usable.groupby(number).transform("any")
    frame, number = frame[kept], number[kept]
    if number.is_unique:
        return frame
    return frame.assign(**frame[metrics].groupby(number).transform("mean"))[~number.duplicated()]


def param_values(group: pd.Series[Any], params: Sequence[str]) -> pd.Series[Any]:
    """Returns the values of some params in a row of `Selection.groups`, by the names of the params."""
    found = group[[f"params.{name}" if f"params.{name}" in group else name for name in params]]
    return found.set_axis(list(params))


def _settings(frame: pd.DataFrame) -> list[str]:
    """Returns the params that make up a setting."""
    return [column for column in frame.columns[: frame.attrs["vary"]] if column not in REPLICATES]


def _replicates(frame: pd.DataFrame) -> list[str]:
    return [name for name in REPLICATES if name in frame]


def _axis(frame: pd.DataFrame) -> Axis:
    if "fold" not in frame or frame["fold"].isna().all():
        return SEEDS
    one_fold = frame["fold"].nunique(dropna=False) == 1
    return SEEDS if one_fold and "seed" in frame.columns[: frame.attrs["vary"]] else FOLDS


def _metrics(frame: pd.DataFrame) -> list[str]:
    return list(frame.columns[frame.attrs["vary"] : frame.columns.get_loc("state")])


def _usable(frame: pd.DataFrame, key: str) -> pd.Series[bool]:
    return (frame["state"] == "FINISHED") & np.isfinite(frame[key].astype(float))


def refuse_no_result(key: str) -> None:
    """Refuses a metric that cannot select.

    Raises:
        UserError: the metric is not a result of training.
    """
    if key in NO_RESULTS:
        raise UserError(
            f"the objective must be a result of training, got {key}, which is an input",
            remedy="choose another metric, for example val/loss",
        )


def _selecting_metric(frame: pd.DataFrame, asked: str | None) -> tuple[Metric, str]:
    """Returns the metric that selects, and why the selected test metric is too good (empty if it is not)."""
    if frame.empty:
        raise UserError(
            "a selection needs trials, and this table has none",
            remedy="train some: python train.py -m KEY=V1,V2",
        )
    if not (frame["state"] == "FINISHED").any():
        raise UserError(
            f"a selection needs a trial that has finished, none of these {len(frame)} has",
            remedy="sweepstack table shows why",
        )
    metrics = _metrics(frame)
    known = [metric for metric in metrics if _usable(frame, metric).any()]
    choices = [metric_of(frame, asked)] if asked else objectives(frame)
    key = next((metric for metric in choices if metric in known), choices[0])
    if key not in metrics:
        raise UserError(
            f"the objective must be a metric of these trials, got {key!r}",
            remedy=did_you_mean(key, metrics),
        )
    refuse_no_result(key)
    if key not in known:
        others = ", ".join(metric for metric in known if metric not in NO_RESULTS) or "there is none"
        raise UserError(
            f"no finished trial has a finite {key}, which should select",
            remedy=f"choose another metric: {others}",
        )
    return key, caution_of(frame, key)


def _ranked(frame: pd.DataFrame, key: Metric, axis: Axis, goes_on: bool) -> tuple[list[Group], Added | None]:
    """Returns the settings of a table, the best first; equally good ones in the order of the sweep. And how
    their seeds or folds were added, if not all at once, or if that goes on."""
    settings = _settings(frame)
    seeds_asked: dict[str, list[str]] = json.loads(frame.attrs.get("seeds_asked", "{}"))
    frame = in_sweep_order(frame).reset_index(drop=True)
    alike = frame[settings].apply(identity)
    every = alike.groupby(settings, dropna=False, sort=False) if settings else frame.groupby(lambda _: 0)
    number = every.ngroup().rename("setting")  # in the order of their first trials
    usable = _usable(frame, key)
    replicates = _replicates(frame) or ["run_id"]
    one = frame[replicates[0]] if len(replicates) == 1 else frame[replicates].map(written).agg(" ".join, axis=1)
    seeds = one.rename("of seed")
    names = own_metrics(frame)
    shown = (*(f"val/{name}" for name in names), "val/loss", *(f"test/{name}" for name in names), "train_seconds")
    metrics = list(dict.fromkeys([str(key), *(metric for metric in shown if metric in frame)]))
    by_seed = frame.loc[usable, metrics].groupby([number[usable], seeds[usable]], dropna=False).mean()
    trials = by_seed.groupby(level=0).size()
    if axis is FOLDS:
        fold = frame["fold"].map(written).where(frame["fold"].notna(), seeds)  # without a fold, a seed stands alone
        fold_of = dict(zip(zip(number, seeds, strict=True), fold, strict=True))
        by_seed = by_seed.groupby([by_seed.index.get_level_values(0), by_seed.index.map(fold_of)]).mean()
    added = None
    if seeds_asked or goes_on:
        labels = seeds if axis is not FOLDS else pd.Series([fold_of[pair] for pair in zip(number, seeds, strict=True)])
        asked_of = {run_id: asked for asked, ids in seeds_asked.items() for run_id in ids}
        asked = frame.loc[usable, "run_id"].map(lambda run_id: asked_of.get(run_id, ""))
        added = _added(asked, number[usable], labels[usable], goes_on)
    objectives: dict[int, dict[Hashable, float]] = defaultdict(dict)
    for (index, seed), value in zip(by_seed.index, by_seed[key], strict=True):
        objectives[index][seed] = float(value)
    means = by_seed[metrics[1:]].groupby(level=0).mean().reindex(range(number.nunique()))
    failed, stopped = ((~good).groupby(number).sum() for good in (usable, frame["state"] == "FINISHED"))
    run_ids = frame.groupby(number)["run_id"].agg(tuple)
    trained = frame.loc[usable, ["run_id", key]].groupby(number[usable]).first()
    folds = _folds(frame[usable], number[usable])
    overlaps = _overlaps(frame[usable], number[usable])
    values = zip(
        frame.loc[~number.duplicated(), settings].to_numpy(dtype=object).tolist(),
        means.to_numpy().tolist(),
        strict=True,
    )
    groups = [
        Group(
            setting=dict(zip(settings, setting, strict=True)),
            objectives=objectives[index],
            trials=int(trials.get(index, 0)),
            failed=int(failed[index]),
            failure="did not finish" if stopped[index] == failed[index] else f"gave no {key}",
            run_ids=run_ids[index],
            trained=trained["run_id"].get(index, ""),
            trained_value=float(trained[key].get(index, np.nan)),
            means=dict(zip(metrics[1:], others, strict=True)),
            folds=folds.get(index, ""),
            overlap=overlaps.get(index, 0.0) if axis is FOLDS else 0.0,
        )
        for index, (setting, others) in enumerate(values)
    ]
    several = any(len(group.objectives) > 1 for group in groups)
    sign = -1 if key.larger_is_better else 1

    def rank(group: Group) -> tuple[bool, int, bool, float]:
        alone = several and len(group.objectives) == 1
        return not group.objectives, group.failed, alone, sign * group.mean if group.objectives else 0.0

    return sorted(groups, key=rank), added


def _added(asked: pd.Series[Any], number: pd.Series[Any], replicates: pd.Series[Any], goes_on: bool) -> Added | None:
    """Says how the replicates of settings were added; None if each setting has all of its own from one command.

    Args:
        asked: what the commands asked for (see `Trial.asked`), of the runs that count in the order in which they began.
        number: the numbers of their settings.
        replicates: their seeds or folds.
        goes_on: True if further ones will be added.
    """
    turn = asked.map({one: turn for turn, one in enumerate(asked.unique())})
    seen = [number[turn <= one].nunique() for one in range(int(turn.max()) + 1)]
    turn = turn.clip(lower=next((one for one, settings in enumerate(seen) if settings > 1), 0))  # one setting: no look
    later = bool((turn.groupby(number).nunique() > 1).any())
    if not later and not goes_on:
        return None
    turns = turn.groupby(replicates, dropna=False).min()
    order = sorted(turns.index, key=lambda one: (turns[one], len(str(one)), str(one)))
    at_first = turn == turn.groupby(number).transform("min")
    first = replicates[at_first].groupby(number[at_first]).nunique(dropna=False).min()
    return Added(tuple(order), int(first), later)


def _folds(frame: pd.DataFrame, number: pd.Series[Any]) -> dict[int, str]:
    """Says how many of its folds each setting has, by its number."""
    if "fold" not in frame or "folds" not in frame:
        return {}
    known = frame[frame["fold"].notna()].groupby(number)
    return {index: f"{group['fold'].nunique()} of {group['folds'].iloc[0]:g}" for index, group in known}


def _overlaps(frame: pd.DataFrame, number: pd.Series[Any]) -> dict[int, float]:
    """Returns the ratio of the sizes of validation and training data of each setting with folds, by its number."""
    if "fold" not in frame or "folds" not in frame:
        return {}
    counts = frame.loc[frame["fold"].notna() & (frame["folds"] > 1), "folds"].astype(float)
    found = (1 / (counts - 1)).groupby(number).max()
    return dict(zip(found.index.tolist(), found.tolist(), strict=True))


def _as_frame(groups: list[Group], assessments: list[Assessment], key: Metric) -> pd.DataFrame:
    rows = []
    folded = any(group.folds for group in groups)
    parts = _are_parts(groups, key)
    for group, one in zip(groups, assessments, strict=True):
        mean, sd, n, low, high = mean_interval(group.values, overlap=group.overlap)
        if parts:
            low, high = np.clip([low, high], 0, 1).tolist()
        folds_done = {"folds_done": group.folds, "trials": group.trials} if folded else {}
        columns = {
            "n": n,
            **folds_done,
            "failed": group.failed,
            "mean": mean,
            "sd": sd,
            "low": low,
            "high": high,
            **group.means,
        }
        compared = {"p": one.p, "behind": one.behind, "needed": one.needed, "mark": one.mark, "why": one.why}
        found = {**columns, **compared, "run_ids": group.run_ids}
        setting = {f"params.{name}" if name in found else name: value for name, value in group.setting.items()}
        rows.append(setting | found)
    return pd.DataFrame(rows)


def _are_parts(groups: list[Group], key: Metric) -> bool:
    return key.proportion and all(0 <= value <= 1 for group in groups for value in group.values)


def _within(interval: Interval | None, groups: list[Group], key: Metric) -> Interval | None:
    """Returns the interval of a proportion within 0 to 1."""
    if interval is None or not _are_parts(groups, key):
        return interval
    return Interval(max(interval.low, 0.0), min(interval.high, 1.0))


def accuracy_interval(trial: pd.Series[Any], count: int | None) -> Interval | None:
    """Returns bounds of a trial's test accuracy (95 %, Wilson).

    None if that or the number of test images is not known, or if the task does not predict classes: then the accuracy
    is no share of the images.

    Args:
        trial: its row in the table.
        count: the number of test images.
    """
    accuracy, other_task = float(trial.get("test/accuracy", float("nan"))), kind(trial.get("task"))
    if other_task or not count or not np.isfinite(accuracy):
        return None
    return wilson(round(accuracy * count), count)


def _test(trial: pd.Series[Any], predictions: Predictions | None, count: int | None) -> Interval | None:
    compared = predictions(str(trial["run_id"]), "test") if predictions and count is None else NO_PREDICTIONS
    return accuracy_interval(trial, count if isinstance(compared, str) else len(compared.values))
