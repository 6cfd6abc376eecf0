"""Which setting of a sweep is the best, which others may be as good, and which trial to use: validation data selects,
and test data are read for what was selected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sweepstack.errors import UserError, did_you_mean
from sweepstack.results.selection.comparison import Group, Predictions, Verdict, larger_is_better, verdicts_of
from sweepstack.results.selection.statistics import Interval, mean_interval, wilson
from sweepstack.results.tables.columns import identity
from sweepstack.tracking.rows import OBJECTIVES

SHOWN_METRICS = ("val/accuracy", "val/loss", "test/accuracy", "train_seconds")
"""Metrics whose means are shown beside the objective, where the table has them."""
NO_RESULTS = ("train/lr",)
"""Metrics that a trial was told, and has not achieved."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What `select` found."""

    objective: str
    """The metric that selected."""
    caution: str
    """Why the test figure of what was selected is too good, in words; empty where validation data selected."""
    groups: pd.DataFrame
    """A row for each setting, that is, for all params that vary but the seed; the best first. Columns: those params
    (`params.n` where one has a name that is used here), `n` (finished trials; those of one seed count once), `failed`
    (trials without a figure: they failed, were stopped, still run, or gave no finite one), of the objective `mean`,
    `sd` and `low` to `high` (95 % by t; of an accuracy, a part of 1, the part of it from 0 to 1), means of other
    metrics, `p` (of the comparison with the best, two-sided and corrected, 1 where the best is behind; NaN where
    nothing was tested), `mark` (`BEST`, `NOT_TOLD_APART`, `WORSE`, `NOT_TESTED`, `NOT_MEASURED`), `why` in words,
    `run_ids` (a tuple)."""
    trial: pd.Series[Any]
    """The trial to use: that row of the table, among the finished ones of the best setting, with the best objective. Of
    equal ones the one with the smallest seed, then run id."""
    test: Interval | None
    """Bounds of its test accuracy (95 %, Wilson); None where it or the number of test images is not known."""

    @property
    def honest(self) -> bool:
        """Whether test data had no say in it."""
        return not self.caution


def select(
    frame: pd.DataFrame,
    predictions: Predictions | None = None,
    objective: str | None = None,
    test_count: int | None = None,
) -> Selection:
    """The best setting of a table, by its mean objective over seeds, and what cannot be told apart from it.

    A setting of which a trial failed or is not finished does not win by its lucky seeds: settings are ordered by how
    many such trials they have, then by their mean. Where some have several seeds, those with a single one follow.

    A setting is told apart when the best is better than it with p <= 0.05, corrected over the table: by a paired t-test
    over the seeds that both have, two at least; by Welch's where several seeds do not match; by McNemar's on the test
    predictions where all have a single seed and an accuracy selects. The best was chosen by looking at the same
    figures, so the correction is `holm_with_best`. Only where validation data selected and McNemar's test looks at test
    data, which are fresh, it is `holm`.

    Args:
        frame: what `sweepstack.results.table` gives.
        predictions: which test images a run classified rightly; see `Predictions`.
        objective: the metric that selects, accuracies by being large and anything else by being small. By default
            the accuracy on held-out data, or on test data where nothing was held out.
        test_count: the number of test images, where no predictions tell it.

    Raises:
        UserError: there is no such metric, it is no result of training, or no finished trial has it.
    """
    key, caution = _selecting_metric(frame, objective)
    groups = _ranked(frame, key)
    verdicts = verdicts_of(groups, key, bool(caution), predictions or (lambda run_id: None))
    rows = frame[frame["run_id"].isin(groups[0].run_ids) & _usable(frame, key)]
    by = [key, *(["seed"] if "seed" in frame else []), "run_id"]
    trial = rows.sort_values(by, ascending=[not larger_is_better(key), *[True] * (len(by) - 1)]).iloc[0]
    return Selection(key, caution, _as_frame(groups, verdicts, key), trial, _test(trial, predictions, test_count))


def one_of_each(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """The finished trials of a table, one row for each setting and seed, as `select` counts them: of a trial that was
    recorded several times, the first row with the means of what its records have measured; those without a finite
    figure only where there is no other."""
    metrics = _metrics(frame)
    frame = frame[frame["state"] == "FINISHED"]
    if "seed" not in frame or frame.empty:
        return frame
    keys = [*_settings(frame), "seed"]
    number = frame[keys].apply(identity).groupby(keys, dropna=False).ngroup()
    usable = _usable(frame, key)
    kept = usable | ~usable.groupby(number).transform("any")
    frame, number = frame[kept], number[kept]
    if number.is_unique:
        return frame
    return frame.assign(**frame[metrics].groupby(number).transform("mean"))[~number.duplicated()]


def of_knobs(group: pd.Series[Any], knobs: Sequence[str]) -> pd.Series[Any]:
    """The values of some knobs in a row of `Selection.groups`, by the names of these."""
    found = group[[f"params.{knob}" if f"params.{knob}" in group else knob for knob in knobs]]
    return found.set_axis(list(knobs))


def _settings(frame: pd.DataFrame) -> list[str]:
    """The params that make a setting."""
    return [column for column in frame.columns[: frame.attrs["vary"]] if column != "seed"]


def _metrics(frame: pd.DataFrame) -> list[str]:
    return list(frame.columns[frame.attrs["vary"] : frame.columns.get_loc("state")])


def _usable(frame: pd.DataFrame, key: str) -> pd.Series[bool]:
    return (frame["state"] == "FINISHED") & np.isfinite(frame[key].astype(float))


def refuse_no_result(key: str) -> None:
    """Refuses a metric that nothing can be selected by.

    Raises:
        UserError: it is no result of training.
    """
    if key in NO_RESULTS:
        raise UserError(
            f"the objective must be a result of training, got {key}, which was set and not found",
            remedy=f"choose {' or '.join(OBJECTIVES)}",
        )


def _selecting_metric(frame: pd.DataFrame, asked: str | None) -> tuple[str, str]:
    """The metric that selects, and what is to be said against it."""
    if frame.empty:
        raise UserError(
            "a selection needs trials, and this table has none",
            remedy="train some: python train.py -m KEY=V1,V2",
        )
    if not (frame["state"] == "FINISHED").any():
        raise UserError(
            f"a selection needs a trial that has finished, none of these {len(frame)} has",
            remedy="sweepstack table says why",
        )
    metrics = _metrics(frame)
    known = [metric for metric in metrics if _usable(frame, metric).any()]
    key = asked or next((metric for metric in OBJECTIVES if metric in known), OBJECTIVES[0])
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
    if not key.startswith("test/"):
        return key, ""
    if OBJECTIVES[0] in known:
        return key, "test data selected, as was asked for: the figure is too good"
    return key, "nothing was held out, so test data selected: the figure is too good"


def _ranked(frame: pd.DataFrame, key: str) -> list[Group]:
    """The settings of a table, the best first; equally good ones as they were begun."""
    settings = _settings(frame)
    frame = frame.sort_values(["started", "run_id"]).reset_index(drop=True)
    alike = frame[settings].apply(identity)
    every = alike.groupby(settings, dropna=False, sort=False) if settings else frame.groupby(lambda _: 0)
    number = every.ngroup().rename("setting")  # as they appear first
    usable = _usable(frame, key)
    seeds = frame["seed" if "seed" in frame else "run_id"].rename("of seed")
    metrics = list(dict.fromkeys([key, *(metric for metric in SHOWN_METRICS if metric in frame)]))
    by_seed = frame.loc[usable, metrics].groupby([number[usable], seeds[usable]], dropna=False).mean()
    figures: dict[int, dict[Hashable, float]] = defaultdict(dict)
    for (place, seed), figure in zip(by_seed.index, by_seed[key], strict=True):
        figures[place][seed] = float(figure)
    means = by_seed[metrics[1:]].groupby(level=0).mean().reindex(range(number.nunique()))
    failed, stopped = ((~good).groupby(number).sum() for good in (usable, frame["state"] == "FINISHED"))
    run_ids = frame.groupby(number)["run_id"].agg(tuple)
    finished = frame[usable].groupby(number[usable])["run_id"].first()
    values = zip(
        frame.loc[~number.duplicated(), settings].to_numpy(dtype=object).tolist(),
        means.to_numpy().tolist(),
        strict=True,
    )
    groups = [
        Group(
            setting=dict(zip(settings, setting, strict=True)),
            figures=figures[place],
            failed=int(failed[place]),
            lack="did not finish" if stopped[place] == failed[place] else f"gave no {key}",
            run_ids=run_ids[place],
            trained=finished.get(place, ""),
            means=dict(zip(metrics[1:], others, strict=True)),
        )
        for place, (setting, others) in enumerate(values)
    ]
    several = any(len(group.figures) > 1 for group in groups)
    sign = -1 if larger_is_better(key) else 1

    def rank(group: Group) -> tuple[bool, int, bool, float]:
        alone = several and len(group.figures) == 1
        return not group.figures, group.failed, alone, sign * group.mean if group.figures else 0.0

    return sorted(groups, key=rank)


def _as_frame(groups: list[Group], verdicts: list[Verdict], key: str) -> pd.DataFrame:
    rows = []
    parts = larger_is_better(key) and all(0 <= figure <= 1 for group in groups for figure in group.values)
    for group, (mark, p, why) in zip(groups, verdicts, strict=True):
        mean, sd, n, low, high = mean_interval(group.values)
        if parts:
            low, high = np.clip([low, high], 0, 1).tolist()
        figures = {"n": n, "failed": group.failed, "mean": mean, "sd": sd, "low": low, "high": high, **group.means}
        found = {**figures, "p": p, "mark": mark, "why": why, "run_ids": group.run_ids}
        setting = {f"params.{name}" if name in found else name: value for name, value in group.setting.items()}
        rows.append(setting | found)
    return pd.DataFrame(rows)


def _test(trial: pd.Series[Any], predictions: Predictions | None, count: int | None) -> Interval | None:
    """Bounds of a trial's test accuracy, from it and the number of test images."""
    right = predictions(str(trial["run_id"])) if predictions and count is None else None
    count = len(right) if right is not None else count
    accuracy = float(trial.get("test/accuracy", float("nan")))
    return wilson(round(accuracy * count), count) if count and np.isfinite(accuracy) else None
