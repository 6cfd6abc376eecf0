"""Converts runs of MLflow to rows of a table, and defines the tags of a run."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sweepstack.config.names import as_key
from sweepstack.tracking.objectives import Declared, declared_in
from sweepstack.trial import DEFAULT_PROGRAM, TrialState

if TYPE_CHECKING:
    from sweepstack.tracking.private.run_tables import StoredRun

VERSION_TAG = "sweepstack.version"
"""The version of sweepstack that recorded the run."""
SWEEP_TAG = "sweep"
"""The sweep that trained the run."""
ASKED_TAG = "sweepstack.seeds"
"""The seeds of the trial's setting that its command asked for; see `Trial.asked`."""
PROGRAM_TAG = "sweepstack.program"
"""How the program that trained the run is begun, as a list in JSON, if it is not the project's train.py; see
`Trial.program`."""
REASON_TAG = "reason"
"""Why the trial failed or was killed."""
TRAINED_TAG = "trained"
"""Alone or in a stack, and why."""
FINGERPRINT_TAG = "fingerprint"
"""The fingerprint of the trial."""
LOG_TAG = "log"
"""Path of the trial's log file."""
RECOMPOSED_TAG = "recomposed"
"""Why the metrics may differ in the last digits; see `Ended`."""
ID_TAG = "sweepstack.trial"
"""The id of the trial, which finds its run if the id of the run is not known."""
SETTLED_TAG = "sweepstack.settled"
"""The fingerprint of the trial, after its outcome is settled."""
PRUNED_TAG = "sweepstack.pruned"
"""Why a pruner has ended the trial. To MLflow such a run is FINISHED, to us it is PRUNED."""
RUNGS_TAG = "sweepstack.rungs"
"""The objective at the rungs that the trial has reached, by epochs, such as "1:0.5 3:0.7"; see `Outcome.rungs`."""
SEARCH_TAGS = "sweepstack.search/"
"""How the tags of `search_tag` begin."""
TRAJECTORY_TAG = "sweepstack.trajectory"
"""Names the trajectory that the trial was read from: runs with the same value share one training."""
LONGEST_TAG = 5000
"""The most characters of a tag's value that every store takes."""
OWN_RUNS = f"tags.`{VERSION_TAG}` LIKE '%'"
"""The filter for the runs of sweepstack, in MLflow's language."""
CLOCKS = 60_000
"""The largest difference in milliseconds between the clocks of machines that share a store."""
LARGEST_FLOAT = 1.7976931348623157e308
"""The largest float that MLflow's databases can store."""


def as_program(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Reads how the program that trained a run is begun; see `Trial.program`."""
    with contextlib.suppress(ValueError, TypeError):  # somebody has changed it
        words = tuple(map(str, json.loads(tags[PROGRAM_TAG]))) if PROGRAM_TAG in tags else ()
        return words or DEFAULT_PROGRAM
    return DEFAULT_PROGRAM


@dataclass(frozen=True)
class Row:
    """One run of the store."""

    run_id: str
    name: str
    experiment_id: str
    sweep: str | None
    state: str
    """FINISHED, PRUNED, FAILED, KILLED or RUNNING."""
    reason: str
    log: str
    """Path of the trial's own log file, on the machine that trained it."""
    started: int
    """Milliseconds since the epoch."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    declared: Declared = field(default_factory=Declared)
    """What its task says of its metrics."""
    asked: str = ""
    """The seeds of its setting that its command asked for; see `Trial.asked`. Empty in runs of earlier versions."""
    search: str = ""
    """The sampler that chose its setting for the sweep, such as tpe; empty if none did, as in a grid."""
    space: str = ""
    """The ranges that the sampler draws from; see `Trial.space`. Empty if that is not recorded."""
    number: int | None = None
    """The number of its job in the sweep: in which order the trials were asked for. None if that is not recorded."""
    jobs: int = 1
    """The jobs of one launch of the sweep that are this trial."""
    reused: bool = False
    """True if another sweep has trained it."""
    trained: str = ""
    """Alone or in a stack, and why; see `Stack.how_trained`. Empty if that is not recorded."""
    trajectory: str = ""
    """Names its trajectory; see `TRAJECTORY_TAG`. Empty in runs of earlier versions."""
    rungs: Mapping[float, float] = field(default_factory=dict)
    """The objective at the rungs that it has reached, by epochs."""


def member_tag(sweep: str) -> str:
    """Returns the tag that all runs of a sweep have, even those that an earlier sweep has trained.

    Its value is the time at which the run joined the sweep, in milliseconds since the epoch, and the sweep's name. (The
    tag itself cannot contain every name.)
    """
    return f"{SWEEP_TAG}/{as_key(sweep)}"


def search_tag(sweep: str) -> str:
    """Returns the tag of the runs of a sweep whose settings a sampler has chosen: its value names the sampler."""
    return f"{SEARCH_TAGS}{as_key(sweep)}"


def space_tag(sweep: str) -> str:
    """Returns the tag of the runs of a search with the ranges that it draws from; see `Trial.space`."""
    return f"sweepstack.space/{as_key(sweep)}"


def jobs_tag(sweep: str) -> str:
    """Returns the tag of the runs of a sweep with the number of the job, and how many jobs of its launch are alike."""
    return f"sweepstack.jobs/{as_key(sweep)}"


def sweeps_of(run: StoredRun) -> dict[str, int]:
    """Returns the sweeps of a run, and when it joined each of them, in milliseconds since the epoch."""
    tags = run.data.tags
    found = {}
    for key, value in tags.items():
        if key.startswith(f"{SWEEP_TAG}/"):
            at, _, name = value.partition(" ")
            if at.isdecimal():  # a user may have made such a tag
                found[name] = int(at)
    if SWEEP_TAG in tags:  # the only tag in runs of earlier versions
        found.setdefault(tags[SWEEP_TAG], run.info.start_time)
    return found


def newest(begun: Mapping[str, int], now: float) -> str:
    """Returns the sweep that began last. One that began in the future, because of a wrong clock, is the last choice.

    Args:
        begun: the beginning of each sweep in milliseconds since the epoch, by its name.
        now: the current time in milliseconds since the epoch.
    """
    return max(begun, key=lambda name: (begun[name] <= now + CLOCKS, begun[name]))


def row_of(run: StoredRun, sweep: str | None = None) -> Row:
    """Converts a run to a row of a sweep; by default of the sweep that trained it."""
    tags = run.data.tags
    sweep = sweep or tags.get(SWEEP_TAG)
    number, _, jobs = (tags.get(jobs_tag(sweep), "") if sweep else "").partition(" ")
    return Row(
        run_id=run.info.run_id,
        name=run.info.run_name,
        experiment_id=run.info.experiment_id,
        sweep=sweep,
        state=state_of(run),
        reason=tags.get(REASON_TAG, ""),
        log=tags.get(LOG_TAG, ""),
        started=run.info.start_time,
        params=run.data.params,
        metrics={key: finite_or_not(value) for key, value in run.data.metrics.items()},
        declared=declared_in(tags),
        asked=tags.get(ASKED_TAG, ""),
        search=tags.get(search_tag(sweep), "") if sweep else "",
        space=tags.get(space_tag(sweep), "") if sweep else "",
        number=int(number) if number.isdecimal() else None,
        jobs=int(jobs) if jobs.isdecimal() else 1,
        reused=tags.get(SWEEP_TAG) != sweep,
        trained=tags.get(TRAINED_TAG, ""),
        trajectory=tags.get(TRAJECTORY_TAG, ""),
        rungs=rungs_from_text(tags.get(RUNGS_TAG, "")),
    )


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Sorts rows: the sweeps by their first runs, in each sweep the trials as they were asked for.

    Trials of a stack begin in the same millisecond, so that their times alone would leave the order to the ids of runs,
    which are random.
    """
    began: dict[str, int] = {}
    for row in rows:
        if row.sweep is not None:
            began[row.sweep] = min(row.started, began.get(row.sweep, row.started))

    def key(row: Row) -> tuple[int, str, bool, int, int, str]:
        sweep = row.sweep or ""
        number = -1 if row.number is None else row.number
        return began.get(sweep, row.started), sweep, row.number is None, number, row.started, row.run_id

    return sorted(rows, key=key)


def state_of(run: StoredRun) -> str:
    """Returns the state of the trial of a run: its status, or PRUNED."""
    is_pruned = run.info.status == TrialState.FINISHED and run.data.tags.get(PRUNED_TAG)
    return str(TrialState.PRUNED) if is_pruned else str(run.info.status)


def rungs_as_text(rungs: Mapping[float, float]) -> str:
    """Returns the value of `RUNGS_TAG`; of very many rungs the first."""
    text = ""
    for epochs, value in rungs.items():
        further = f"{text} {epochs:.12g}:{value!r}".lstrip()
        if len(further) > LONGEST_TAG:
            break
        text = further
    return text


def rungs_from_text(text: str) -> dict[float, float]:
    """Reads the value of `RUNGS_TAG`; one that a user has changed says nothing."""
    pairs = [part.partition(":") for part in text.split()]
    with contextlib.suppress(ValueError):
        return {float(epochs): float(value) for epochs, _, value in pairs}
    return {}


def finite_or_not(value: float) -> float:
    """Returns infinity for the largest float, because MLflow's databases store infinity as that."""
    return math.copysign(math.inf, value) if abs(value) >= LARGEST_FLOAT else value
