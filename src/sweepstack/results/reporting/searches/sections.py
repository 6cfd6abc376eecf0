"""Makes the sections of a report that are about a search or a pruner: how it went, what matters, who left when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.errors import count
from sweepstack.metrics import Metric, rounded
from sweepstack.results.reporting.importance import searched_bars, searched_importance
from sweepstack.results.reporting.params import DrawnRange, setting
from sweepstack.results.reporting.plots import search
from sweepstack.results.tables.columns import written
from sweepstack.trial import REPLICATES, TrialState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sweepstack.tracking.runs_as_rows import Row

MOST_LISTED = 8
"""The most rungs that a caption tells."""
Drawn = tuple[str, "Figure | None"]
"""A caption, and its figure if there is something to draw."""


def settings_tried(frame: pd.DataFrame, rows: Mapping[str, Row], objective: Metric) -> list[search.Tried]:
    """Returns the settings of a search in the order in which they were asked for; none that the sampler has not chosen.

    Args:
        frame: the table of trials.
        rows: the same trials by the ids of their runs.
        objective: the metric.
    """
    vary = [name for name in frame.columns[: frame.attrs["vary"]] if name not in REPLICATES]
    chosen = {index: rows[run_id] for index, run_id in frame["run_id"].items() if rows[run_id].search}
    numbers = {row.number for row in chosen.values()} - {None}
    numbered = len(numbers) == len(chosen)  # several searches under one name count from 0 each
    asked = {index: (row.number if numbered else row.started, row.run_id) for index, row in chosen.items()}
    groups: dict[tuple[str, ...], list[int]] = {}
    keys = (
        [tuple(map(written, values)) for values in frame[vary].itertuples(index=False)] if vary else [()] * len(frame)
    )
    for index, key in zip(frame.index, keys, strict=True):
        groups.setdefault(key, []).append(int(index))
    searched = [group for group in groups.values() if not asked.keys().isdisjoint(group)]
    order = sorted(searched, key=lambda group: min(asked[index] for index in group if index in asked))
    values = frame[objective].to_numpy(dtype=float, na_value=np.nan)
    value_of, state_of = (dict(zip(frame.index, one, strict=True)) for one in (values, frame["state"]))
    return [_tried(group, [value_of[at] for at in group], {state_of[at] for at in group}) for group in order]


def _tried(trials: Sequence[int], values: Sequence[float], states: set[str]) -> search.Tried:
    rows = tuple(trials)
    if states <= {TrialState.FINISHED, TrialState.PRUNED}:
        state = TrialState.PRUNED if TrialState.PRUNED in states else TrialState.FINISHED
        mean = math.fsum(values) / len(values)
        return search.Tried(rows, str(state), mean if math.isfinite(mean) else math.nan)
    lost = states & {TrialState.FAILED, TrialState.KILLED}
    return search.Tried(rows, str(TrialState.FAILED) if lost else "RUNNING", math.nan)


def history_section(
    tried: Sequence[search.Tried], frame: pd.DataFrame, varied: Sequence[str], objective: Metric, sampler: str,
    best: frozenset[int], tied: frozenset[int],
) -> Drawn:  # fmt: skip
    """Draws how a search went.

    Args:
        tried: its settings in the order in which they were asked for.
        frame: the table of trials.
        varied: the params that vary.
        objective: the metric.
        sampler: what chose the settings.
        best: the rows of the trials of the best setting.
        tied: those of the other settings that may be the best.
    """
    several = any(len(one.trials) > 1 for one in tried)
    what = "setting" if several else "trial"
    whole = sum(one.state == TrialState.FINISHED and math.isfinite(one.value) for one in tried)
    early, running = (sum(one.state == state for one in tried) for state in (TrialState.PRUNED, "RUNNING"))
    states = {"finished": whole, "pruned": early, "still running": running}
    states["without a value"] = len(tried) - sum(states.values())
    counts = ", ".join(f"{number:,} {state}" for state, number in states.items() if number)
    caption = f"{count(len(tried), what)} that {sampler} asked for: {counts}."
    chosen = next((number for number, one in enumerate(tried) if not best.isdisjoint(one.trials)), None)
    if chosen is not None:
        row: pd.Series[Any] = frame.loc[[tried[chosen].trials[0]]].iloc[0]
        caption += f" The best, {setting(row, varied)}, was number {chosen + 1}: {rounded(tried[chosen].value)}."
    caption += " A mark is the mean of the trials of a setting." if several else ""
    if early:
        caption += " What was pruned has its last value, after fewer epochs, and is no best so far."
    caption += " The second objective, the epochs of a point, is not drawn." if sampler == "nsga2" else ""
    return caption, search.history(tried, objective, what, best, tied)


def importance_section(
    tried: Sequence[search.Tried], frame: pd.DataFrame, varied: Sequence[str], objective: Metric,
    ranges: Mapping[str, DrawnRange], rungs: Callable[[int], int],
) -> Drawn:  # fmt: skip
    """Draws how much each param of a search matters.

    Args:
        tried: its settings.
        frame: the table of trials.
        varied: the params that vary.
        objective: the metric.
        ranges: what the search draws params from.
        rungs: returns how many rungs the trial of a row has reached.

    Raises:
        ImportError: there is no Optuna with PED-ANOVA.
    """
    sign = -1 if objective.larger_is_better else 1

    def rank(one: search.Tried) -> tuple[bool, int, float]:
        is_pruned = one.state == TrialState.PRUNED
        return is_pruned, -max(map(rungs, one.trials)) if is_pruned else 0, sign * one.value

    ranked = [one.trials[0] for one in sorted((one for one in tried if math.isfinite(one.value)), key=rank)]
    found = searched_importance(frame, ranked, varied, ranges)
    if isinstance(found, str):
        return found, None
    caption = (
        "PED-ANOVA (Watanabe et al., 2023): a bar shows how differently the values of a hyperparameter are spread in "
        f"the best {found.best} settings and in all {found.settings}. The longer it is, the more the choice of a value "
        "decides whether a setting is among the best. Bars that stay below their mark may be chance."
    )
    if any(one.state == TrialState.PRUNED for one in tried):
        caption += " A pruned setting counts as worse than any that went on."
    return caption, searched_bars(found, objective)


def rungs_section(
    frame: pd.DataFrame, rows: Mapping[str, Row], objective: Metric, best: frozenset[int]
) -> Drawn | None:
    """Draws which trials left at which rung; None if none did.

    Args:
        frame: the table of trials.
        rows: the same trials by the ids of their runs.
        objective: the metric.
        best: the rows of the trials of the best setting.
    """
    rungs = {int(str(index)): rows[run_id].rungs for index, run_id in frame["run_id"].items()}
    found = search.read_rungs(frame, rungs, objective)
    if found is None:
        return None
    percent = "" if found.unit == "epochs" else " %"
    steps = [
        f"At {_rung_in_words(at, percent)}, {judged - left:,} of {judged:,} went on."
        for at, judged, left in zip(found.at, found.judged, found.left, strict=True)
    ]
    if len(steps) > MOST_LISTED:
        steps[MOST_LISTED:] = [f"The last rung at which any left is at {_rung_in_words(found.at[-1], percent)}."]
    caption = f"{count(len(found.paths), 'trial')} that finished or were pruned reached a rung. {' '.join(steps)}"
    if percent:
        caption += " Trials of different lengths are compared at the same part of their own epochs."
    return caption, search.rungs_picture(found, objective, best)


def _rung_in_words(at: float, percent: str) -> str:
    return f"{at:.3g}{percent} of its epochs" if percent else f"epoch {at:g}"
