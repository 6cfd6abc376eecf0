"""How much each varied param matters: permutation importance (Breiman, Random Forests, 2001) on settings left out, and
of a search PED-ANOVA.

Both use the ranks of trials instead of their metrics, because a single bad setting would make up most of the variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepstack.results.reporting.params import MAX_LISTED_VALUES, NOT_SET, DrawnRange, scale, value_text
from sweepstack.results.reporting.plots.charts import measured
from sweepstack.results.reporting.plots.style import BLUE, INK, figure, legend, objective_words, styled, title, words
from sweepstack.results.tables.columns import written
from sweepstack.search.space import Distribution, Numbers, Options, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from sklearn.ensemble import RandomForestRegressor

MIN_SETTINGS = 8
"""The fewest settings; fewer say nothing about a param."""
MAX_TRIALS = 2000
"""The most trials that are used; more make it slower and not better."""
FOLDS = 5
"""The number of parts in which the settings are left out in turn."""
TREES = 100
"""The number of trees in a forest."""
MIN_SEARCHED = 20
"""The fewest settings of a search; of fewer the best ones say nothing."""
TOP_PART = 10
"""One in so many settings of a search counts as one of the best."""
LEAST_BEST = 5
"""The fewest settings that count as the best."""
REPEATS = 10
"""The number of times that the values of a param are shuffled."""


@dataclass(frozen=True)
class Importance:
    """How much worse a forest of trees predicts the rank of a trial when it does not know a param."""

    params: list[str]
    """The params, the most important first."""
    lost: list[float]
    """How much the mean squared error on left-out settings grows when the values of a param are shuffled, as a part of
    the variance; the mean over shuffles."""
    spread: list[float]
    """The standard deviation of `lost` over shuffles."""
    explained: float
    """R² of the forest on the settings that it has not seen; 1 if it predicts all of them."""


def importance(frame: pd.DataFrame, varied: Sequence[str], objective: str) -> Importance | str:
    """Computes the importance of params, or returns a sentence that says why it cannot.

    The same trials give the same values.

    Args:
        frame: the table of trials.
        varied: the params that vary.
        objective: the metric that ranks the trials.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.metrics import r2_score
    from sklearn.model_selection import GroupKFold

    known = measured(frame, objective)
    if len(varied) < 2:
        return (
            "Importance compares hyperparameters, and this sweep varies only one."
            if varied
            else "No hyperparameter was varied."
        )
    settings = known[list(varied)].map(written).agg("\0".join, axis=1)
    if settings.nunique() < MIN_SETTINGS:
        return (
            f"{settings.nunique()} settings with a result are too few to find how much each hyperparameter matters; "
            f"at least {MIN_SETTINGS} are needed."
        )
    if len(known) > MAX_TRIALS:
        known = known.sample(MAX_TRIALS, random_state=0)
    known = known.sort_values("run_id")
    settings = settings[known.index]
    inputs = np.nan_to_num(np.column_stack([_as_numbers(known[param]) for param in varied]), nan=-1.0)
    values = known[objective].rank(pct=True).to_numpy(dtype=float)
    if values.std() == 0:
        return f"All settings have the same {objective_words(objective)}, so no hyperparameter matters."
    lost: list[np.ndarray[Any, Any]] = []
    predicted = np.zeros(len(values))
    parts = GroupKFold(min(FOLDS, settings.nunique()))
    for train, test in parts.split(inputs, values, pd.factorize(settings)[0]):
        forest = RandomForestRegressor(TREES, random_state=0, n_jobs=1).fit(inputs[train], values[train])
        predicted[test] = forest.predict(inputs[test])
        lost.append(_error_lost(forest, inputs[test], values[test]) * len(test) / len(values) / values.var())
    together = np.sum(lost, axis=0)  # [params, repeats]
    order = sorted(range(len(varied)), key=lambda index: -together[index].mean())
    return Importance(
        [varied[index] for index in order],
        [float(together[index].mean()) for index in order],
        [float(together[index].std(ddof=1)) for index in order],
        float(r2_score(values, predicted)),
    )


def _error_lost(forest: RandomForestRegressor, inputs: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Returns how much the mean squared error grows when the values of each param are shuffled: [params, repeats].

    These are the values of `sklearn.inspection.permutation_importance(..., random_state=0)`, which asks each tree once
    for each shuffle. Here each tree is asked once for all of them.

    Args:
        forest: the fitted forest.
        inputs: the params of trials that it has not seen, [n, params].
        values: what it should predict for them, [n].
    """
    params = inputs.shape[1]
    shuffled = np.tile(inputs, (params, REPEATS, 1, 1))
    for param in range(params):
        random = np.random.RandomState(0)  # as scikit-learn draws
        random.seed(random.randint(np.iinfo(np.int32).max + 1))
        index, column = np.arange(len(inputs)), inputs[:, param]
        for repeat in range(REPEATS):
            random.shuffle(index)
            column = column[index]
            shuffled[param, repeat, :, param] = column
    predicted = forest.predict(np.concatenate([inputs, shuffled.reshape(-1, params)]))
    errors = np.square(predicted.reshape(-1, len(values)) - values).mean(axis=1)
    return np.asarray(errors[1:] - errors[0]).reshape(params, REPEATS)


@dataclass(frozen=True)
class SearchedImportance:
    """How differently each param is spread in the best settings of a search and in all; see `search.importance`."""

    params: list[str]
    """The params, the most important first."""
    divergence: list[float]
    """The Pearson divergence of the two spreads."""
    by_chance: list[float]
    """What the divergence would be below of in 95 of 100 cases if the param did not matter."""
    best: int
    """The number of settings that count as the best."""
    settings: int
    """The number of all settings."""


def searched_importance(
    frame: pd.DataFrame, ranked: Sequence[int], varied: Sequence[str], ranges: Mapping[str, DrawnRange]
) -> SearchedImportance | str:
    """Computes the importance of the params of a search by PED-ANOVA, or returns a sentence that says why it cannot.

    Args:
        frame: the table of trials.
        ranked: a row of the table for each setting, the best first.
        varied: the params that vary.
        ranges: what the search draws params from.

    Raises:
        ImportError: there is no Optuna with PED-ANOVA.
    """
    from sweepstack.search.importance import importance as ped_anova

    if len(varied) < 2:
        return "Importance compares hyperparameters, and this search varies only one."
    if len(ranked) < MIN_SEARCHED:
        return (
            f"{len(ranked)} settings with a result are too few to find how much each hyperparameter matters; at least "
            f"{MIN_SEARCHED} are needed."
        )
    columns = {param: _as_drawn(frame.loc[list(ranked), param], ranges.get(param)) for param in varied}
    points: list[dict[str, Value]] = [
        {param: values[row] for param, (_, values) in columns.items() if values[row] is not None}
        for row in range(len(ranked))
    ]
    best = max(LEAST_BEST, len(ranked) // TOP_PART)
    found = ped_anova(points, {param: one for param, (one, _) in columns.items()}, best)
    order = sorted(found, key=lambda param: -found[param][0])
    values, chance = ([found[param][which] for param in order] for which in (0, 1))
    return SearchedImportance(order, values, chance, best, len(ranked))


def _as_drawn(column: pd.Series[Any], drawn: DrawnRange | None) -> tuple[Distribution, list[Any]]:
    """Returns what the values of a param are drawn from, and the values; None for one that is not set.

    Few numbers of which no range is known are taken as options: they were listed.
    """
    axis = scale(str(column.name), column, drawn)
    if axis.kind == "category" or (axis.limits is None and column.nunique() <= MAX_LISTED_VALUES):
        texts = [value_text(value) for value in column]
        missing = column.isna().tolist()
        known = [text for text, lacks in zip(texts, missing, strict=True) if not lacks]
        options = Options(tuple(sorted({*known}))) if known else Options((NOT_SET,))
        return options, [None if lacks else text for text, lacks in zip(texts, missing, strict=True)]
    finite = axis.at[np.isfinite(axis.at)]
    low, high = axis.limits or (float(finite.min()), float(finite.max()))
    return Numbers(float(low), float(high), log=axis.kind == "log"), [
        float(value) if np.isfinite(value) else None for value in axis.at
    ]


def searched_bars(found: SearchedImportance, objective: str) -> Figure:
    """Draws the importance of the params of a search, the most important on top, each with what chance alone gives."""
    with styled():
        drawn = figure(8.0, 1.9 + 0.45 * len(found.params))
        axes = drawn.subplots()
        positions = range(len(found.params))
        axes.barh(positions, found.divergence, color=BLUE, height=0.6)
        for y, chance in zip(positions, found.by_chance, strict=True):
            axes.plot([chance, chance], [y - 0.38, y + 0.38], color=INK, lw=1.6)
        axes.plot([], [], color=INK, lw=1.6, label="chance alone stays below this in 95 of 100 cases")
        axes.set_yticks(positions, [words(param) for param in found.params])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"how differently the best {found.best} of {found.settings} settings are spread (divergence)")
        legend(drawn, 1)
        title(drawn, f"How much each hyperparameter matters for the {objective_words(objective)}")
    return drawn


def importance_bars(found: Importance, objective: str) -> Figure:
    """Draws the importance of params, the most important on top."""
    with styled():
        drawn = figure(8.0, 1.6 + 0.45 * len(found.params))
        axes = drawn.subplots()
        positions = range(len(found.params))
        axes.barh(
            positions, found.lost, xerr=found.spread, color=BLUE, height=0.6, error_kw={"ecolor": INK, "capsize": 3}
        )
        axes.set_yticks(positions, [words(param) for param in found.params])
        axes.invert_yaxis()
        axes.axvline(0, color=INK, lw=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("error added by shuffling the values (mean square, as a part of the variance)")
        drawn.suptitle(f"How much each hyperparameter matters for the {objective_words(objective)}", x=0.01, ha="left")
    return drawn


def _as_numbers(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    return scale(str(column.name), column).at
