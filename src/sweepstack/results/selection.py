"""Which setting of a sweep is the best, which others may be as good, and which trial to use: validation data selects,
and test data are read for what was selected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepstack.errors import UserError, did_you_mean
from sweepstack.results.statistics import (
    Interval,
    holm,
    holm_with_best,
    mcnemar,
    mean_interval,
    paired_t,
    welch_t,
    wilson,
)
from sweepstack.tracking.rows import OBJECTIVES

BEST, NOT_TOLD_APART, WORSE = "best", "not told apart", ""
"""The marks of a setting. An empty one says that the best is better than it, or that none of its trials finished."""
SHOWN = ("val/accuracy", "val/loss", "test/accuracy", "train_seconds")
"""Metrics whose means are shown beside the objective, where the table has them."""
LEVEL = 0.05
"""How often, at most, any setting of a table may be told apart from the best though it is as good."""

Predictions = Callable[[str], NDArray[np.bool_] | None]


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
    (trials that did not finish, or gave no finite figure), of the objective `mean`, `sd` and `low` to `high` (95 % by
    t), means of other metrics, `p` (of the comparison with the best, two-sided and corrected, 1 where the best is
    behind; NaN where nothing was tested), `mark` (`BEST`, `NOT_TOLD_APART`, `WORSE`), `why` in words, `run_ids` (a
    tuple)."""
    trial: pd.Series[Any]
    """The trial to use: that row of the table, among the finished ones of the best setting, with the best objective. Of
    equal ones the one with the smallest seed, then run id."""
    test: Interval | None
    """Bounds of its test accuracy (95 %, Wilson); None where it or the number of test images is not known."""

    @property
    def honest(self) -> bool:
        """Whether test data had no say in it."""
        return not self.caution


@dataclass(frozen=True, eq=False)
class _Group:
    """The trials of one setting."""

    setting: dict[str, Any]
    figures: dict[Hashable, float]
    """The objective by seed, of what finished."""
    failed: int
    run_ids: tuple[str, ...]
    trained: str
    """The first run that finished, whose test predictions stand for it where it has a single seed."""
    means: dict[str, float]

    @property
    def values(self) -> list[float]:
        return list(self.figures.values())

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.figures else float("nan")


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
        predictions: gives by run id which test images were classified rightly, bool [n], or None if that was not kept.
        objective: the metric that selects, accuracies by being large and anything else by being small. By default
            the accuracy on held-out data, or on test data where nothing was held out.
        test_count: the number of test images, where no predictions tell it.

    Raises:
        UserError: there is no such metric, or no finished trial that has it.
    """
    key, caution = _objective(frame, objective)
    groups = _ranked(frame, key)
    best, *others = groups
    count = len(best.figures)
    won = (
        BEST,
        float("nan"),
        _story(best, best, f"best mean over {count} seeds" if count > 1 else "best single trial"),
    )
    verdicts = [won, *_tell_apart(best, others, key, bool(caution), predictions)]
    rows = frame[frame["run_id"].isin(best.run_ids) & _usable(frame, key)]
    by = [key, *(["seed"] if "seed" in frame else []), "run_id"]
    trial = rows.sort_values(by, ascending=[not _larger_is_better(key), *[True] * (len(by) - 1)]).iloc[0]
    return Selection(key, caution, _as_frame(groups, verdicts), trial, _test(trial, predictions, test_count))


def _larger_is_better(metric: str) -> bool:
    return "accuracy" in metric


def _usable(frame: pd.DataFrame, key: str) -> pd.Series[bool]:
    return (frame["state"] == "FINISHED") & np.isfinite(frame[key].astype(float))


def _objective(frame: pd.DataFrame, asked: str | None) -> tuple[str, str]:
    """The metric that selects, and what is to be said against it."""
    if frame.empty:
        raise UserError("a selection needs trials, and this table has none; train some: python train.py -m KEY=V1,V2")
    if not (frame["state"] == "FINISHED").any():
        raise UserError(
            f"a selection needs a trial that has finished, none of these {len(frame)} has; sweepstack table says why"
        )
    metrics = list(frame.columns[frame.attrs["vary"] : frame.columns.get_loc("state")])
    known = [metric for metric in metrics if _usable(frame, metric).any()]
    key = asked or next((metric for metric in OBJECTIVES if metric in known), OBJECTIVES[0])
    if key not in metrics:
        raise UserError(f"the objective must be a metric of these trials, got {key!r}; {did_you_mean(key, metrics)}")
    if key not in known:
        others = ", ".join(known) or "there is none"
        raise UserError(f"no finished trial has a finite {key}, which should select; choose another metric: {others}")
    if not key.startswith("test/"):
        return key, ""
    if OBJECTIVES[0] in known:
        return key, "test data selected, as was asked for: the figure is too good"
    return key, "nothing was held out, so test data selected: the figure is too good"


def _ranked(frame: pd.DataFrame, key: str) -> list[_Group]:
    """The settings of a table, the best first; equally good ones as they were begun."""
    settings = [column for column in frame.columns[: frame.attrs["vary"]] if column != "seed"]
    frame = frame.sort_values(["started", "run_id"]).reset_index(drop=True)
    every = frame.groupby(settings, dropna=False, sort=False) if settings else frame.groupby(lambda _: 0)
    number = every.ngroup().rename("setting")  # as they appear first
    usable = _usable(frame, key)
    seeds = frame["seed" if "seed" in frame else "run_id"].rename("of seed")
    metrics = list(dict.fromkeys([key, *(metric for metric in SHOWN if metric in frame)]))
    by_seed = frame.loc[usable, metrics].groupby([number[usable], seeds[usable]], dropna=False).mean()
    figures: dict[int, dict[Hashable, float]] = defaultdict(dict)
    for (place, seed), figure in zip(by_seed.index, by_seed[key], strict=True):
        figures[place][seed] = float(figure)
    means = by_seed[metrics[1:]].groupby(level=0).mean().reindex(range(number.nunique()))
    failed = (~usable).groupby(number).sum()
    run_ids = frame.groupby(number)["run_id"].agg(tuple)
    finished = frame[usable].groupby(number[usable])["run_id"].first()
    groups = [
        _Group(
            setting=dict(zip(settings, values, strict=True)),
            figures=figures[place],
            failed=int(failed[place]),
            run_ids=run_ids[place],
            trained=finished.get(place, ""),
            means=dict(zip(metrics[1:], means_of, strict=True)),
        )
        for place, (values, means_of) in enumerate(
            zip(
                frame.loc[~number.duplicated(), settings].itertuples(index=False, name=None),
                means.itertuples(index=False, name=None),
                strict=True,
            )
        )
    ]
    several = any(len(group.figures) > 1 for group in groups)
    sign = -1 if _larger_is_better(key) else 1

    def rank(group: _Group) -> tuple[bool, int, bool, float]:
        return not group.figures, group.failed, several and len(group.figures) < 2, sign * group.mean

    return sorted(groups, key=rank)


def _tell_apart(
    best: _Group, others: list[_Group], key: str, same_data: bool, predictions: Predictions | None
) -> list[tuple[str, float, str]]:
    """Mark, corrected p-value and reason for each of the others."""
    sign = 1 if _larger_is_better(key) else -1
    compared = [_compare(best, other, sign, predictions) for other in others]
    p, df = (np.array([one[place] for one in compared], dtype=float) for place in (0, 1))
    tested = np.isfinite(p)
    fresh = len(best.figures) == 1 and not same_data  # then the test is McNemar's, on data that selected nothing
    rivals = 1 + sum(bool(other.figures) for other in others)
    p[tested] = holm(p[tested]) if fresh else holm_with_best(p[tested], df[tested], rivals)
    verdicts = []
    for other, value, (_, _, how) in zip(others, p, compared, strict=True):
        mark = WORSE if value <= LEVEL or not other.figures else NOT_TOLD_APART
        verdicts.append((mark, float(value), _story(other, best, how)))
    return verdicts


def _compare(best: _Group, other: _Group, sign: int, predictions: Predictions | None) -> tuple[float, float, str]:
    """The p-value of the best being better, its degrees of freedom, and how it was found."""
    nothing = float("nan")
    shared = [seed for seed in best.figures if seed in other.figures]
    if len(shared) > 1:
        one, two = [best.figures[seed] for seed in shared], [other.figures[seed] for seed in shared]
        p, df = paired_t(one, two)
        how = f"paired over {len(shared)} seeds"
        if np.isnan(p):
            return p, df, f"{how}, whose differences are all the same: no spread to compare with"
        return _if_better(p, df, how, sign * float(np.mean(one) - np.mean(two)))
    if len(best.figures) > 1 and len(other.figures) > 1:
        p, df = welch_t(best.values, other.values)
        how = f"Welch's t-test over {len(best.figures)} and {len(other.figures)} seeds that do not match"
        if np.isnan(p):
            return p, df, f"{how}: no spread to compare with"
        return _if_better(p, df, how, sign * (best.mean - other.mean))
    if not other.figures:
        return nothing, nothing, "no trial gave a figure"
    if len(best.figures) > 1 or sign < 0:  # right and wrong images speak of accuracies alone
        return nothing, nothing, "a single seed, which tells no spread"
    right = [predictions(group.trained) if predictions else None for group in (best, other)]
    first, second = right
    if first is None or second is None:
        return nothing, nothing, "no test predictions were kept"
    if len(first) != len(second):
        return nothing, nothing, "the test predictions are of other images"
    how = f"McNemar on {len(first)} test images"
    return _if_better(mcnemar(first, second), np.inf, how, float(first.sum()) - float(second.sum()))


def _if_better(p: float, df: float, how: str, ahead: float) -> tuple[float, float, str]:
    """A difference the other way round does not speak for the best, however clear it is."""
    return (p, df, how) if ahead >= 0 else (1.0, df, f"{how}, where it is ahead of the best")


def _story(group: _Group, best: _Group, how: str) -> str:
    """Why a setting has its mark and its place, in words."""
    parts = [how]
    if group.failed:
        but = (
            ", so that its mean does not count for the first place"
            if group.failed > best.failed and group.figures
            else ""
        )
        parts.insert(0, f"{group.failed} of {len(group.run_ids)} trials did not finish{but}")
    return "; ".join(parts)


def _as_frame(groups: list[_Group], verdicts: list[tuple[str, float, str]]) -> pd.DataFrame:
    rows = []
    for group, (mark, p, why) in zip(groups, verdicts, strict=True):
        mean, sd, n, low, high = mean_interval(group.values)
        figures = {"n": n, "failed": group.failed, "mean": mean, "sd": sd, "low": low, "high": high, **group.means}
        found = {**figures, "p": p, "mark": mark, "why": why, "run_ids": group.run_ids}
        rows.append(
            {f"params.{name}" if name in found else name: value for name, value in group.setting.items()} | found
        )
    return pd.DataFrame(rows)


def _test(trial: pd.Series[Any], predictions: Predictions | None, count: int | None) -> Interval | None:
    """Bounds of a trial's test accuracy, from it and the number of test images."""
    right = predictions(str(trial["run_id"])) if predictions and count is None else None
    count = len(right) if right is not None else count
    accuracy = float(trial.get("test/accuracy", float("nan")))
    return wilson(round(accuracy * count), count) if count and np.isfinite(accuracy) else None
