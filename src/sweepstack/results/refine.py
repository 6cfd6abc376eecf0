"""Adds seeds to the settings of a sweep that may be the best, until one of them is left or the budget is spent.

The trials are trained by `train.py` as jobs of the same sweep, side by side in stacks. Looking after every round is
allowed for: the table tests settings whose seeds were added later by `selection.sequential`.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml

from sweepstack.errors import UserError
from sweepstack.files.scratch import scratch
from sweepstack.masking import has_masks
from sweepstack.planning.plan import count
from sweepstack.results.reproduce import is_of, program
from sweepstack.results.selection.comparison import BEST, NOT_TESTED, NOT_TOLD_APART, SEEDS
from sweepstack.results.selection.predictions import compare_with_targets
from sweepstack.results.selection.select import Selection, select
from sweepstack.results.tables.frame import as_frame
from sweepstack.results.tables.objective import objective
from sweepstack.tracking.artifacts import overrides_of
from sweepstack.tracking.store import Store

GROWTH = 0.5
"""Seeds of a round for each seed that the settings have: many small rounds cost starts, few large ones cost trials."""
LARGEST_SEED = 2**31 - 1
"""Seeds above this are not counted when new ones are chosen."""


class Refined(NamedTuple):
    """What `refine` has found."""

    sweep: str
    """The name of the sweep."""
    selection: Selection
    """The settings after the last round."""
    trained: int
    """The number of trials that were trained."""
    why: str
    """Why no further round follows, in words."""


def refine(
    store: Store,
    sweep: str = "latest",
    budget: int | None = None,
    metric: str | None = None,
    say: Callable[[str], None] = print,
) -> Refined:
    """Trains further seeds of the settings that may be the best.

    Args:
        store: the store with the sweep; the new trials are recorded there, too.
        sweep: the name of the sweep, or "latest".
        budget: the most trials to train; by default as many as the sweep has.
        metric: the metric that selects; by default the objective of the task.
        say: takes a line before each round.

    Raises:
        UserError: there is no such sweep or metric, the settings are compared over folds, their overrides are not
            recorded, or the trials cannot be trained here.
        StoreError: the store cannot be read.
    """
    if sweep == "all":
        raise UserError("refine adds seeds to one sweep", sweep, "name it with --sweep NAME")
    sweep, frame = _read(store, sweep, metric)
    budget = len(frame) if budget is None else budget
    trained = 0
    while True:
        selection = select(frame, compare_with_targets(store), objective(frame, metric), goes_on=True)
        if selection.axis is not SEEDS:
            rule = "refine adds seeds, and the settings of this sweep are compared over folds"
            raise UserError(rule, sweep, "sweep further folds, such as folds=10 fold=0,1,2,3,4,5,6,7,8,9")
        groups = _candidates(selection.groups)
        if len(groups) == 1:
            return Refined(sweep, selection, trained, "one setting is the best")
        seeds = _seeds(frame, groups, budget - trained)
        if not seeds:
            why = f"another seed for each takes {count(len(groups), 'trial')}, the budget has {budget - trained}"
            return Refined(sweep, selection, trained, why)
        say(
            f"{count(len(groups), 'setting')} of {len(selection.groups):,} may be the best: "
            f"{count(len(seeds), 'more seed')} for each ({count(len(groups) * len(seeds), 'trial')})"
        )
        _train(store, sweep, list(frame.columns[: frame.attrs["vary"]]), [*_jobs(store, groups, seeds)], seeds[0])
        trained += len(groups) * len(seeds)
        known = set(frame["run_id"])
        _, frame = _read(store, sweep, metric)
        if known >= set(frame["run_id"]):
            rule = f"the new trials of sweep {sweep} are not in this store ({store.uri})"
            raise UserError(rule, remedy="name the store that train.py records in with --store")


def _read(store: Store, sweep: str, metric: str | None) -> tuple[str, pd.DataFrame]:
    """Returns the name and the table of a sweep."""
    rows = store.rows(sweep)
    return rows[0].sweep or sweep, as_frame(rows, metric=metric)


def _candidates(groups: pd.DataFrame) -> pd.DataFrame:
    """Returns the settings that may be the best. As long as all have a single seed, those that were not tested, too."""
    marks = [BEST, NOT_TOLD_APART, *([NOT_TESTED] if groups["n"].max() == 1 else [])]
    return groups[groups["mark"].isin(marks)]


def _seeds(frame: pd.DataFrame, groups: pd.DataFrame, left: int) -> list[int]:
    """Returns the seeds of the next round, which no trial of the sweep has; empty if the budget does not suffice.

    Args:
        frame: the trials.
        groups: the settings that get the seeds.
        left: the trials that are left of the budget.
    """
    number = min(math.ceil(GROWTH * int(groups["n"].max())), left // len(groups))
    used = pd.to_numeric(frame["seed"], errors="coerce") if "seed" in frame else pd.Series([0])
    first = int(used[used <= LARGEST_SEED].max()) + 1
    return [*range(first, first + number)]


def _jobs(store: Store, groups: pd.DataFrame, seeds: Sequence[int]) -> Iterator[list[str]]:
    """Yields the overrides of each trial of the next round.

    Raises:
        UserError: the overrides of a setting are gone, or one holds a password, which was not recorded.
    """
    for run_ids in groups["run_ids"]:
        overrides = overrides_of(store, run_ids[0])
        kept = [line for line in overrides if not any(is_of(line, key) for key in ("seed", "rerun", "tracking.sweep"))]
        kept = [line for line in kept if not (has_masks(line) and is_of(line, "tracking.uri"))]
        if masked := [line for line in kept if has_masks(line)]:
            raise UserError(
                "an override with a password is not recorded", masked[0], "add seeds by hand: type the sweep with more"
            )
        yield from ([*kept, f"seed={seed}"] for seed in seeds)


def _train(store: Store, sweep: str, varied: Sequence[str], jobs: list[list[str]], first: int) -> None:
    """Trains jobs as further ones of a sweep.

    Args:
        store: where they are recorded.
        sweep: the name of the sweep.
        varied: the params that vary in it; the names of the trials contain them.
        jobs: the overrides of each.
        first: the first new seed, which names the folder of the jobs.

    Raises:
        UserError: there is no train.py.
        SystemExit: the trials cannot be trained, or are interrupted; train.py has said why.
    """
    if not Path(program()).is_file():
        raise UserError(
            "the project's train.py trains the seeds", program(), "type the command in the project's folder"
        )
    names = {name.rpartition(".")[2] for name in varied}
    common = [line for line in jobs[0] if all(line in job for job in jobs) and _name_of(line) not in names]
    own = [[line for line in job if line not in common] for job in jobs]
    with scratch() as temporary:
        file = Path(temporary, "jobs.yaml")
        file.write_text(yaml.safe_dump({"jobs": own}, allow_unicode=True), encoding="utf-8")
        words = [
            *(sys.executable, program(), "--multirun", *common),
            f"hydra.sweeper.jobs={file}",
            f"hydra.sweep.dir=multirun/${{tracking.sweep}}/refine_{first}",
            "~hydra.callbacks.sweepstack",  # which prints the table of all trials
            f"tracking.sweep={sweep}",
        ]
        with subprocess.Popen(words, env={**os.environ, "MLFLOW_TRACKING_URI": store.uri}) as process:
            before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            try:
                code = process.wait()  # an interrupt reaches both; the process ends when its records are kept
            finally:
                signal.signal(signal.SIGTERM, before)
    if code not in (0, 1):
        raise SystemExit(code)


def _name_of(override: str) -> str:
    """Returns the last part of the key of an override."""
    return override.lstrip("+~").partition("=")[0].rpartition(".")[2]
