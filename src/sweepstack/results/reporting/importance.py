"""How much each knob matters: permutation importance (Breiman, Random Forests, 2001) on settings that were left out.

It is about the ranks of trials, not their figures: a single setting that went wrong would be most of the variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.results.reporting.params import scale
from sweepstack.results.reporting.plots.charts import measured
from sweepstack.results.reporting.plots.style import BLUE, INK, figure, styled, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 8
"""Settings; fewer tell nothing about a knob."""
MAX_TRIALS = 2000
"""Trials that are looked at: more make it slower and not truer."""
FOLDS, TREES, REPEATS = 5, 200, 10


@dataclass(frozen=True)
class Importance:
    """What a forest of trees, which predicts the rank of a trial from its knobs, loses without each of them."""

    knobs: list[str]
    """The most important first."""
    lost: list[float]
    """How much the mean squared error on left-out settings grows when the values of a knob are shuffled among them, in
    parts of the variance; mean over shuffles."""
    spread: list[float]
    """Its standard deviation, over shuffles."""
    explained: float
    """R² of the forest on the settings that it has not seen; 1 when it knows them all."""


def importance(frame: pd.DataFrame, knobs: Sequence[str], objective: str) -> Importance | str:
    """The importance of knobs, or a sentence on why it cannot be told. The same trials give the same figures."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score
    from sklearn.model_selection import GroupKFold

    known = measured(frame, objective)
    if len(knobs) < 2:
        return "Importance compares knobs, and this sweep has varied one only." if knobs else "No knob was varied."
    settings = known[list(knobs)].astype(str).agg("\0".join, axis=1)
    if settings.nunique() < FEWEST:
        return (
            f"{settings.nunique()} settings with a result are too few to tell how much each knob matters; "
            f"it takes {FEWEST} at least."
        )
    if len(known) > MAX_TRIALS:
        known = known.sample(MAX_TRIALS, random_state=0)
    known = known.sort_values("run_id")
    settings = settings[known.index]
    inputs = np.nan_to_num(np.column_stack([_as_numbers(known[knob]) for knob in knobs]), nan=-1.0)
    values = known[objective].rank(pct=True).to_numpy(dtype=float)
    if values.std() == 0:
        return f"All settings have the same {words(objective)}, so no knob matters."
    lost: list[np.ndarray[Any, Any]] = []
    predicted = np.zeros(len(values))
    parts = GroupKFold(min(FOLDS, settings.nunique()))
    for train, test in parts.split(inputs, values, pd.factorize(settings)[0]):
        forest = RandomForestRegressor(TREES, random_state=0, n_jobs=1).fit(inputs[train], values[train])
        predicted[test] = forest.predict(inputs[test])
        found = permutation_importance(
            forest, inputs[test], values[test], scoring="neg_mean_squared_error", n_repeats=REPEATS, random_state=0
        )
        lost.append(found.importances * len(test) / len(values) / values.var())
    together = np.sum(lost, axis=0)  # [knobs, repeats]
    order = sorted(range(len(knobs)), key=lambda place: -together[place].mean())
    return Importance(
        [knobs[place] for place in order],
        [float(together[place].mean()) for place in order],
        [float(together[place].std(ddof=1)) for place in order],
        float(r2_score(values, predicted)),
    )


def importance_bars(found: Importance, objective: str) -> Figure:
    """The importance of knobs, the most important on top."""
    with styled():
        drawn = figure(8.0, 1.6 + 0.45 * len(found.knobs))
        axes = drawn.subplots()
        places = range(len(found.knobs))
        axes.barh(places, found.lost, xerr=found.spread, color=BLUE, height=0.6, error_kw={"ecolor": INK, "capsize": 3})
        axes.set_yticks(places, [words(knob) for knob in found.knobs])
        axes.invert_yaxis()
        axes.axvline(0, color=INK, lw=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("error added by shuffling the knob (mean square, in parts of the variance)")
        drawn.suptitle(f"How much each knob matters for the {words(objective)}", x=0.01, ha="left")
    return drawn


def _as_numbers(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    return scale(str(column.name), column).at
