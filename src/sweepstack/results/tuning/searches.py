"""Reads what a sweep tried, as draws of a search: the value of each setting, and how the settings were chosen."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from sweepstack.errors import UserError
from sweepstack.metrics import Metric
from sweepstack.results.reporting.params import varied_params
from sweepstack.results.selection.select import Selection, select
from sweepstack.results.tables.columns import identity, written
from sweepstack.results.tables.columns import kind as kind_of
from sweepstack.results.tables.frame import as_frame
from sweepstack.results.tables.objective import direction_note, in_sweep_order, objective
from sweepstack.results.tuning.curves import (
    CONFIDENCE,
    Curve,
    curve_of_draws,
    curve_of_points,
    curve_of_repetitions,
)
from sweepstack.tracking.store import Store

MOST_TYPED_DIGITS = 4
"""The most significant digits of a number that people type; a search draws numbers with more."""

EVEN = "search=qmc spreads its points evenly over the space, so they are no independent draws"
"""Why a search of a low discrepancy sequence has no band."""
REPEATED = (
    f"no varied param looks continuous (a fraction with more than {MOST_TYPED_DIGITS} digits, another in each setting),"
    " so settings may have been drawn several times, count once, and are no independent draws"
)
"""Why a random search has no band in which a setting may have been drawn twice."""


class Kind(enum.StrEnum):
    """How the settings of a sweep were chosen."""

    GRID = "grid"
    RANDOM = "random"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True, eq=False)
class Search:
    """A sweep, or several sweeps that repeat one adaptive search."""

    name: str
    kind: Kind
    objective: Metric
    repetitions: tuple[tuple[float, ...], ...]
    """The value of each setting, in the order in which they were tried, of each sweep: the mean over its seeds; NaN
    for one that must not win, see `failed`."""
    failed: int
    """The settings that count as the worst: trials of theirs gave no value, or they have fewer seeds than the best."""
    data: frozenset[str]
    """What was learned from which data, as typed."""
    held_out: frozenset[str]
    """What part of the data was held out, as typed."""
    notes: tuple[str, ...]
    """What a reader must know."""
    dependence: str = ""
    """Why its settings are no independent draws, so that a random search has no band; empty if they are."""

    @property
    def sweeps(self) -> tuple[str, ...]:
        """The names of its sweeps."""
        return tuple(self.name.split(", "))

    @property
    def values(self) -> tuple[float, ...]:
        """The values of all settings."""
        return tuple(value for one in self.repetitions for value in one)

    @property
    def trials(self) -> int:
        """The number of settings that were tried; of repeated searches, by the shortest."""
        return min(map(len, self.repetitions))

    def curve(self, confidence: float = CONFIDENCE) -> Curve:
        """Returns the tuning curve.

        Args:
            confidence: the chance that its band holds; of a grid always the share `CONFIDENCE` of the random orders.
        """
        up = self.objective.larger_is_better
        if self.kind is Kind.GRID:
            return curve_of_points(self.values, up)
        if self.kind is Kind.RANDOM and self.dependence:
            return Curve(curve_of_points(self.values, up).median)
        if self.kind is Kind.RANDOM:
            return curve_of_draws(self.values, up, confidence)
        return curve_of_repetitions(self.repetitions, up, confidence)


def read_search(store: Store, word: str, kind: Kind | None, metric: str | None) -> Search:
    """Reads a sweep, or several names separated by commas: repetitions of one adaptive search.

    Args:
        store: the store with the sweeps.
        word: the name of the sweep, "latest", or several names.
        kind: how its settings were chosen; None if that is to be inferred, see `inferred_kind`.
        metric: the metric that selects; None for the objective of the task.

    Raises:
        StoreError: there is no such sweep.
        UserError: it has a single setting, no trial with a value, or nothing says how its settings were chosen.
    """
    names = [name.strip() for name in word.split(",")]
    parts: list[Search] = []
    for name in names:
        if len(names) == 1 or kind in (None, Kind.ADAPTIVE):
            parts.append(_read_one(store, name, kind, metric))
        if len(names) > 1 and (kind or parts[-1].kind) is not Kind.ADAPTIVE:
            raise UserError(
                "several sweeps are one search only if they repeat an adaptive one",
                word,
                "add --search adaptive, or name one sweep",
            )
    first = parts[0]
    found = [part.name for part in parts]
    if len(set(found)) < len(found):
        raise UserError("the sweeps that repeat a search must differ", word, "name each of them once")
    for part in parts[1:]:
        refuse_different(first, part)
    return Search(
        ", ".join(found),
        first.kind,
        first.objective,
        tuple(one for part in parts for one in part.repetitions),
        sum(part.failed for part in parts),
        first.data,
        first.held_out,
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        first.dependence,
    )


def _read_one(store: Store, name: str, kind: Kind | None, metric: str | None) -> Search:
    if name == "all":
        raise UserError("a tuning curve is of one sweep", name, "name it, or say latest")
    rows = store.rows(name)
    frame = as_frame(rows, metric=metric)
    selection = select(frame, objective=objective(frame, metric))
    sweep = str(rows[0].sweep)
    count = len(selection.groups) + len(selection.pruned)
    if count < 2:
        raise UserError(
            "a tuning curve needs two settings at least",
            f"1 in sweep {sweep}",
            "sweep another param than the seed: python train.py -m KEY=V1,V2",
        )
    notes = [selection.caution, direction_note(frame, metric) if metric is not None else ""]
    samplers = {row.search for row in rows}
    sampler = samplers.pop() if len(samplers) == 1 else ""
    if kind is None and sampler:
        kind = Kind.RANDOM if sampler in ("random", "qmc") else Kind.ADAPTIVE
    elif kind is None:
        kind, why = inferred_kind(frame, count, sweep)
        notes.append(f"{sweep}: {why}")
    dependence = EVEN if sampler == "qmc" else REPEATED
    if sampler != "qmc" and has_continuous_param(frame, count):
        dependence = ""
    values, why_worst = settings_in_order(frame, selection)
    notes += [f"{sweep}: {line}" for line in why_worst]
    return Search(
        sweep,
        kind,
        selection.objective,
        (values,),
        sum(map(math.isnan, values)),
        _typed(frame, ("dataset", "task")),
        _typed(frame, ("validation_split", "split", "folds")),
        tuple(filter(None, notes)),
        dependence,
    )


def settings_in_order(frame: pd.DataFrame, selection: Selection) -> tuple[tuple[float, ...], list[str]]:
    """Returns the values of the settings in the order of their sweep, and which of them count as the worst.

    A setting counts as the worst, with NaN, if `select` would not let it win by its mean: more trials of it gave no
    value than of the best setting, or it has a single seed and the best one several, or it was pruned.

    Args:
        frame: the table of trials.
        selection: what was selected in it.
    """
    groups = selection.groups
    number = {run_id: n for n, run_id in enumerate(in_sweep_order(frame)["run_id"])}
    begun = [min(number[run_id] for run_id in run_ids) for run_ids in groups["run_ids"]]
    order = np.argsort([*begun, *(number[run_id] for run_id in selection.pruned)])
    failed = (groups["failed"] > groups["failed"].iloc[0]) | groups["mean"].isna()
    alone = (groups["n"] == 1) & (groups["n"].iloc[0] > 1) & ~failed
    values = np.array([*groups["mean"].mask(failed | alone), *[np.nan] * len(selection.pruned)])[order]
    why = {
        "trials gave no value": int(failed.sum()),
        f"there is a single {selection.axis.one}": int(alone.sum()),
        "a pruner ended it": len(selection.pruned),
    }
    lines = [
        f"{count:,} {'setting counts' if count == 1 else 'settings count'} as the worst, because {reason}"
        for reason, count in why.items()
        if count
    ]
    return tuple(float(value) for value in values), lines


def inferred_kind(frame: pd.DataFrame, settings: int, sweep: str) -> tuple[Kind, str]:
    """Infers that a sweep is a grid: its settings are all combinations of the values that it tried. Also returns why.

    Any values of a single param are that, so they must be as people type them, and not as a search draws them.

    Args:
        frame: the table of trials.
        settings: the number of settings.
        sweep: the name of the sweep.

    Raises:
        UserError: they are not.
    """
    params = varied_params(frame)
    counts = [int(identity(frame[param]).nunique(dropna=False)) for param in params]
    drawn = len(params) == 1 and any(_digits(value) > MOST_TYPED_DIGITS for value in frame[params[0]])
    if math.prod(counts) == settings and not drawn:
        what = f"values of {params[0]} are as people type them"
        if len(params) > 1:
            what = f"settings are all combinations of {', '.join(params)}"
        return Kind.GRID, f"taken as a grid, because its {settings:,} {what}; --search says how they were chosen"
    why = "have more digits than people type" if drawn else f"are not all combinations of {', '.join(params)}"
    raise UserError(
        f"the {settings:,} settings of sweep {sweep} {why}, and nothing records how they were chosen",
        remedy="say it: --search random, --search grid or --search adaptive",
    )


def has_continuous_param(frame: pd.DataFrame, settings: int) -> bool:
    """Says whether a varied param looks as if it was drawn from a continuous distribution, so that no setting repeats.

    Each setting has another value of it: a fraction, with more digits than people type.

    Args:
        frame: the table of trials.
        settings: the number of settings.
    """
    return any(
        int(identity(frame[param]).nunique(dropna=False)) == settings
        and all(_digits(value) > MOST_TYPED_DIGITS and value % 1 for value in frame[param])
        for param in varied_params(frame)
    )


def _digits(value: Any) -> int:
    """Returns the number of significant digits of a number; 0 for anything else."""
    if kind_of(value) != "number":
        return 0
    return len(Decimal(written(value)).normalize().as_tuple().digits)


def refuse_different(one: Search, other: Search) -> None:
    """Refuses two searches that are not about the same thing.

    Raises:
        UserError: they are of different objectives, directions, tasks or data; or a sweep is part of both.
    """
    if both := sorted({*one.sweeps} & {*other.sweeps}):
        raise UserError("two different sweeps can be compared", f"{', '.join(both)} twice", "name another one")
    if one.objective != other.objective or one.objective.mode != other.objective.mode:
        raise UserError(
            "sweeps of one objective can be compared",
            f"{_described(one.objective)} of {one.name} and {_described(other.objective)} of {other.name}",
            "choose a metric that both have with --metric",
        )
    if one.data != other.data:
        different = sorted(one.data ^ other.data)
        raise UserError(
            f"{one.name} and {other.name} are about different things: {', '.join(different[:6])}",
            remedy="compare sweeps of one dataset and task",
        )


def _described(metric: Metric) -> str:
    return f"the {'highest' if metric.larger_is_better else 'lowest'} {metric}"


def _typed(frame: pd.DataFrame, sections: Sequence[str]) -> frozenset[str]:
    """Returns the values of the params in some sections, as typed."""
    params = [name for name in frame.attrs["params"] if name.partition(".")[0] in sections and name != "task.metrics"]
    return frozenset(f"{name}={value}" for name in params for value in frame[name].map(written))
