"""Adds seeds to the settings of a sweep that may be the best, until one of them is left or the budget is spent.

The trials are trained by `train.py` as jobs of the same sweep, side by side in stacks. Looking after every round is
allowed for: the table tests settings whose seeds were added later by `selection.sequential`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sweepstack.errors import UserError, count
from sweepstack.files.scratch import scratch
from sweepstack.masking import has_masks
from sweepstack.results.reproduce import is_of, of_run_alone, program
from sweepstack.results.selection.comparison import BEST, NOT_TESTED, NOT_TOLD_APART, SEEDS
from sweepstack.results.selection.predictions import compare_with_targets
from sweepstack.results.selection.select import Selection, select
from sweepstack.results.tables.frame import as_frame
from sweepstack.results.tables.objective import objective
from sweepstack.strict_json import is_reserved
from sweepstack.tracking.artifacts import overrides_of
from sweepstack.tracking.runs import find_run
from sweepstack.tracking.store import Store
from sweepstack.trial import TrialState

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
    failed: int
    """The number of those that failed."""
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
    trained, before, failed_before = 0, None, _failed(frame)
    while True:
        if (running := int((frame["state"] == "RUNNING").sum())) > 0:
            rule = f"refine compares what has been trained, and {count(running, 'trial')} of sweep {sweep} still run"
            raise UserError(rule, remedy="wait; of a killed command: sweepstack sync")
        selection = select(frame, compare_with_targets(store), objective(frame, metric), goes_on=True)
        if selection.axis is not SEEDS:
            rule = "refine adds seeds, and the settings of this sweep are compared over folds"
            raise UserError(rule, sweep, "sweep further folds, such as folds=10 fold=0,1,2,3,4,5,6,7,8,9")
        if before is not None and len(selection.groups) > len(before.groups):
            rule = "the new trials have other params than the settings that they were trained for"
            raise UserError(rule, remedy="add seeds by hand, with the config name, folder and code of the first ones")
        if before is not None and selection.groups["n"].sum() <= before.groups["n"].sum():
            why = "the new trials gave no values"
            break
        groups = selection.groups[selection.groups["mark"].isin([BEST, NOT_TOLD_APART, NOT_TESTED])]
        if len(groups) == 1:
            why = "one setting is the best"
            break
        left = budget - trained
        pairs = _next_trials(frame, groups, left)
        if len(pairs) > left:
            why = f"the next round takes {count(len(pairs), 'trial')}, the budget has {left}"
            break
        seeds = sorted({seed for _, seed in pairs})
        of_all = f"{count(len(groups), 'setting')} of {len(selection.groups):,} may be the best"
        say(f"{of_all}: {count(len(pairs), 'trial')} with seed {', '.join(map(str, seeds))}")
        varied, run_id = list(frame.columns[: frame.attrs["vary"]]), groups["run_ids"].iloc[0][0]
        _train(store, sweep, run_id, varied, [*_jobs(store, groups, pairs)])
        trained += len(pairs)
        before, known = selection, len(frame)
        _, frame = _read(store, sweep, metric)
        if len(frame) == known and not {*seeds} & {*_seeds(frame)}:
            rule = f"the new trials are not in this store ({store.uri})"
            raise UserError(rule, remedy="name the store that train.py records in with --store")
    return Refined(sweep, selection, trained, _failed(frame) - failed_before, why)


def _failed(frame: pd.DataFrame) -> int:
    return int((frame["state"] == TrialState.FAILED).sum())


def _read(store: Store, sweep: str, metric: str | None) -> tuple[str, pd.DataFrame]:
    """Returns the name and the table of a sweep."""
    rows = store.rows(sweep)
    return rows[0].sweep or sweep, as_frame(rows, metric=metric)


def _next_trials(frame: pd.DataFrame, groups: pd.DataFrame, left: int) -> list[tuple[int, int]]:
    """Returns the trials of the next round, as pairs of a row of `groups` and a seed.

    First come those of the seeds that some settings lack, such as after an interrupted round; else as many new seeds
    for all as the budget allows, one at least.

    Args:
        frame: the trials.
        groups: the settings that get the seeds.
        left: the trials that are left of the budget.
    """
    seed_of = dict(zip(frame["run_id"], _seeds(frame), strict=True))
    state_of = dict(zip(frame["run_id"], frame["state"], strict=True))
    ended = [  # what was killed is trained again
        {seed_of[run_id] for run_id in run_ids if state_of[run_id] in (TrialState.FINISHED, TrialState.FAILED)}
        for run_ids in groups["run_ids"]
    ]
    wanted = sorted({seed_of[run_id] for run_ids in groups["run_ids"] for run_id in run_ids})
    if missing := [(row, seed) for seed in wanted for row, own in enumerate(ended) if seed not in own]:
        return missing
    number = max(min(math.ceil(GROWTH * int(groups["n"].max())), left // len(groups)), 1)
    first = max((seed for seed in seed_of.values() if seed <= LARGEST_SEED), default=-1) + 1
    return [(row, seed) for seed in range(first, first + number) for row in range(len(groups))]


def _seeds(frame: pd.DataFrame) -> list[int]:
    """Returns the seed of each trial; 0 if no trial has one of its own."""
    return [0] * len(frame) if "seed" not in frame else [int(seed) for seed in frame["seed"].fillna(0)]


def _jobs(store: Store, groups: pd.DataFrame, pairs: Sequence[tuple[int, int]]) -> Iterator[list[str]]:
    """Yields the overrides of each trial of the next round.

    Raises:
        UserError: the overrides of a setting are gone, or one holds a password, which was not recorded.
    """
    overrides = {row: _overrides(store, groups["run_ids"].iloc[row][0]) for row in {row for row, _ in pairs}}
    for row, seed in pairs:
        yield [*overrides[row], f"seed={seed}"]


def _overrides(store: Store, run_id: str) -> list[str]:
    """Returns the overrides of a trial but for its seed and for where it is recorded."""
    replaced = ("seed", "rerun", "tracking.sweep", "tracking.uri")
    lines = of_run_alone(store, run_id, overrides_of(store, run_id))
    kept = [line for line in lines if not any(is_of(line, key) for key in replaced)]
    if masked := [line for line in kept if has_masks(line)]:
        raise UserError(
            "an override with a password is not recorded", masked[0], "add seeds by hand: type the sweep with more"
        )
    return kept


def _train(store: Store, sweep: str, run_id: str, varied: Sequence[str], jobs: list[list[str]]) -> None:
    """Trains jobs as further ones of a sweep.

    Args:
        store: where they are recorded.
        sweep: the name of the sweep.
        run_id: a run of it, whose program trains them.
        varied: the params that vary in it; the names of the trials contain them.
        jobs: the overrides of each.

    Raises:
        UserError: that program is not there.
        SystemExit: the trials cannot be trained, or are interrupted; train.py has said why.
    """
    words = program(find_run(store, run_id).tags)
    if words[0] != "-m" and not Path(words[0]).is_file():
        name = Path(words[0]).name
        raise UserError(f"there must be a {name} that trains", words[0], "type this in the project's folder")
    names = {name.rpartition(".")[2] for name in varied}
    common = [line for line in jobs[0] if all(line in job for job in jobs) and _name_of(line) not in names]
    own = [[line for line in job if line not in common] for job in jobs]
    folder = f"refine_{_name_of_folder(jobs)}"
    with scratch() as temporary:
        file = Path(temporary, "jobs.yaml")
        file.write_text(json.dumps({"jobs": own}), encoding="utf-8")  # JSON is YAML, too
        command = [
            *(sys.executable, *words, "--multirun", *common),
            f"hydra.sweeper.jobs='{file}'",
            f"hydra.sweep.dir=multirun/${{tracking.sweep}}/{folder}",
            "~hydra.callbacks.sweepstack",  # which prints the table of all trials
            f"tracking.sweep='{sweep}'",
        ]
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        begun: list[subprocess.Popen[bytes]] = []
        asked: list[int] = []

        def end(number: int, _: object) -> None:
            asked.append(number)
            for process in begun:
                process.terminate()

        signal.signal(signal.SIGINT, lambda *_: None)  # it reaches train.py, too, which ends when its records are kept
        signal.signal(signal.SIGTERM, end)
        try:
            printed = sys.stderr if is_reserved() else None
            process = subprocess.Popen(command, env={**os.environ, "MLFLOW_TRACKING_URI": store.uri}, stdout=printed)
            begun.append(process)
            if asked:  # while it began
                process.terminate()
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if code not in (0, 1):
        raise SystemExit(code)


def _name_of_folder(jobs: list[list[str]]) -> str:
    """Returns a name for the folder of jobs: the same for the same jobs, so that a resumed round finds its files."""
    return hashlib.sha256(json.dumps(jobs).encode()).hexdigest()[:8]


def _name_of(override: str) -> str:
    """Returns the last part of the key of an override."""
    return override.lstrip("+~").partition("=")[0].rpartition(".")[2]
