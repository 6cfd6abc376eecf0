"""A trial, what it reports, and how it ends. Plain values: no PyTorch, no MLflow, no Hydra."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweepstack.config.schema import RunConfig, TrialConfig

WEIGHTS = "weights.pt"
"""File with the `state_dict` of a finished trial."""
PREDICTIONS = "test_predictions.npy"
"""File with what a finished trial predicts for the test items, in their order."""
HELD_OUT_PREDICTIONS = "held_out_predictions.npy"
"""File with what a finished trial predicts for the items that were held out, in the order of the training data."""
MOST_AXES = 2
"""The most axes that predictions for held-out items are kept with: others are not compared with their targets."""
PICTURES = "first_images.png"
"""File with the first training images, if `pictures` asks for them."""
REPLICATES = ("seed", "fold")
"""Params in which the trials of one setting differ: each pair of their values is a replicate."""
PART_STATE = "part-{number}.pt"
"""The file with the state of a stack whose trials go on in another one, in the folder of that one; numbers from 0."""
PRUNED_STATE = "pruned-{step}"
"""The folder, in that of a stack's checkpoints, with the state of the trials that were pruned at a step."""
DEFAULT_PROGRAM = ("train.py",)
"""How a program is begun after the word `python`, if nothing else is known."""
OWN_FILES = "files"
"""The folder, in that of the trial, for the files of a loop of the user's own."""


def parts_of(folder: Path) -> list[Path]:
    """Returns the files `PART_STATE` in the folder of a stack's checkpoints: by name, for listings may come late."""
    named = (folder / PART_STATE.format(number=number) for number in itertools.count())
    return [*itertools.takewhile(Path.exists, named)]


class TrialState(enum.StrEnum):
    """How a trial ended."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    PRUNED = "PRUNED"
    """A pruner has ended it before its last epoch."""


def _default_run() -> RunConfig:
    from sweepstack.config.schema import RunConfig  # takes a fifth of the time of `sweepstack table`

    return RunConfig()


@dataclass(frozen=True)
class Trial:
    """One config, to be trained once with one seed."""

    config: TrialConfig
    """What is trained."""
    number: int
    """Its number in the sweep, from 0."""
    name: str
    """What distinguishes it from the other trials, such as `lr=0.01 bs=100`."""
    params: Mapping[str, str | int | float | bool | None]
    """The params for its record: short, stable names and values."""
    folder: Path
    """The folder for its files: resolved config, weights, log."""
    config_text: str
    """The resolved config as YAML."""
    run: RunConfig = field(default_factory=_default_run)
    """How and where it is trained and recorded."""
    log: Path = Path()
    """Its own log file."""
    overrides: tuple[str, ...] = ()
    """Hydra's overrides that its config was composed with."""
    sweep: str | None = None
    """The sweep that it belongs to; None for a single run."""
    fingerprint: str = ""
    """Digest of all that can change its weights or metrics."""
    id: str = ""
    """Identifies its events and its run; it stays when the trial is interrupted and resumed."""
    asked: str = ""
    """The seeds (and folds) of its setting that its command asks for, such as "3: 0, 1, 2". If the trials of a setting
    differ in it, seeds were added after somebody may have looked at the first ones. Empty if that is not known: where
    another sweeper or launcher decides what is trained."""
    jobs: int = 1
    """The jobs of its launch that have its fingerprint: they are trained once."""
    space: str = ""
    """The ranges of numbers that its search draws from, as JSON; see `searched_ranges`. Empty in a grid."""
    program: tuple[str, ...] = DEFAULT_PROGRAM
    """How the program that trains it is begun, after the word `python`; files are relative to the project's folder."""


@dataclass(frozen=True)
class Measurement:
    """Metrics at one point of a training."""

    epoch: int
    """The epoch that has begun, from 1."""
    step: int
    """The number of optimizer updates so far."""
    steps: int
    """The number of optimizer updates in the whole training."""
    metrics: Mapping[str, float]


class Verdict(enum.Enum):
    """Says whether a training continues; the receiver of a measurement decides it."""

    CONTINUE = enum.auto()
    STOP = enum.auto()
    """The trial ends KILLED."""
    PRUNE = enum.auto()
    """The trial ends PRUNED."""


OnMeasured = Callable[[Measurement], Verdict | None]
"""Receives a measurement. None means the same as CONTINUE."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: a value, not an exception."""

    state: TrialState
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Its final metrics: the last and the best of the validation metrics, the test metrics, `train_seconds`."""
    reason: str = ""
    """Why it did not finish, or why it stopped early; else empty."""
    weights: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """The trained `state_dict`."""
    predictions: Any = field(default=None, repr=False, compare=False)
    """What a finished trial predicts for the test items, in their order, as its task stores it: for classes an array
    [n] of uint8, or of int32 if there are more than 256."""
    held_out_predictions: Any = field(default=None, repr=False, compare=False)
    """The same for the items that were held out, in the order of the training data. They belong to the metrics that
    select: with `keep_best`, to the best measurement."""
    traceback: str = field(default="", repr=False)
    """The traceback of the exception that ended it, for the log."""
    diverged: bool = False
    """True if it FAILED because its loss was not finite."""
    rungs: Mapping[float, float] = field(default_factory=dict)
    """The objective at the rungs of the sweep's pruner that the trial has reached, by the epochs that it had trained
    then; see `search/rungs.py`."""
    population: str = ""
    """Digest of the trials that a PRUNED one was compared with, and of the pruner; see `Standings`. Empty if that is
    not known."""

    @property
    def settled(self) -> bool:
        """True if the fingerprint alone determines the outcome, so that training again would change nothing."""
        return self.state is TrialState.FINISHED or self.diverged

    @property
    def final(self) -> bool:
        """True if the same command does not train the trial again: it is settled, or PRUNED."""
        return self.settled or self.state is TrialState.PRUNED

    def objective(self, config: TrialConfig) -> float:
        """Returns the metric that selects the best trial, of a PRUNED one the last value; NaN if the trial did neither
        finish nor was pruned."""
        is_known = self.state in (TrialState.FINISHED, TrialState.PRUNED)
        return self.metrics.get(config.objective, math.nan) if is_known else math.nan


@dataclass(frozen=True)
class Finished:
    """A settled trial that the store holds."""

    run_id: str
    outcome: Outcome
    artifacts: Path | None
    """The folder of its files; None if it is not on this machine."""


@dataclass(frozen=True)
class StackSettings:
    """How trajectories that could be stacked are trained, and why so."""

    width: int
    """The most trajectories in a stack; 1 if the plain trainer trains each."""
    threads: int
    """The number of threads that PyTorch uses."""
    epoch_seconds: float
    """Estimated time of one epoch of one stack with its evaluation, in seconds."""
    reason: str
    """Why these settings were chosen, in words."""


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of the dataset of a trial."""

    digest: str
    """Checksum of images and labels."""
    train: int
    """The number of images to train on."""
    held_out: int
    """The number of images that are held out for validation."""
    test: int
    """The number of test images."""
