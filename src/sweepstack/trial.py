"""A trial, and how it can end. Plain values: no PyTorch, no MLflow, no Hydra."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweepstack.config.schema import RunConfig, TrialConfig

WEIGHTS, PREDICTIONS, PICTURES = "weights.pt", "test_predictions.npy", "first_images.png"
"""Files that a finished trial leaves: its `state_dict`, the classes that it predicts for the test images, and the first
training images where `pictures` asks for them."""


class TrialState(enum.StrEnum):
    """How a trial ended."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class Trial:
    """One config, to be trained once with one seed."""

    config: TrialConfig
    """What is trained."""
    number: int
    """Its place in the sweep, from 0."""
    name: str
    """What tells it from the others, such as `lr=0.01 bs=100`."""
    params: Mapping[str, str | int | float | bool | None]
    """Short, stable names and values of what it is made of, for the record."""
    folder: Path
    """Where its files go: resolved config, weights, log."""
    config_text: str
    """The resolved config as YAML."""
    run: RunConfig = field(default_factory=RunConfig)
    """How and where it is trained and recorded."""
    log: Path = Path()
    """Its own log file."""
    overrides: tuple[str, ...] = ()
    sweep: str | None = None
    """The sweep that it belongs to; None when it was trained on its own."""
    fingerprint: str = ""
    """Of all that can change its weights or metrics."""
    id: str = ""
    """What its events and its run are known by; it stays when the trial is interrupted and resumed."""


@dataclass(frozen=True)
class Measurement:
    """Metrics at one point of a training."""

    epoch: int
    """Epochs begun, from 1."""
    step: int
    """Optimizer updates done."""
    steps: int
    """Optimizer updates that the whole training takes."""
    metrics: Mapping[str, float]


class Verdict(enum.Enum):
    """What whoever hears of a measurement decides of the training."""

    CONTINUE = enum.auto()
    STOP = enum.auto()


OnMeasured = Callable[[Measurement], Verdict | None]
"""Hears of a measurement; None stands for CONTINUE."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: a value, not an exception."""

    state: TrialState
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The figures it ended with: last and best of the validation metrics, test metrics, `train_seconds`."""
    reason: str = ""
    """Why it did not finish; empty when it did."""
    weights: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """The trained `state_dict`."""
    predictions: Any = field(default=None, repr=False, compare=False)
    """Of a finished one: the class that it predicts for each test image, in their order; an array [n] of uint8, or
    int32 where there are more than 256 classes."""
    traceback: str = field(default="", repr=False)
    """Of an exception that ended it, for the log."""
    diverged: bool = False
    """Whether it FAILED for its loss was not finite."""

    @property
    def settled(self) -> bool:
        """Whether the fingerprint alone determines it: to train it again would change nothing."""
        return self.state is TrialState.FINISHED or self.diverged

    def objective(self, config: TrialConfig) -> float:
        """The number that selects; NaN when the trial did not finish."""
        return self.metrics[config.objective] if self.state is TrialState.FINISHED else math.nan


@dataclass(frozen=True)
class Finished:
    """A settled trial in the store."""

    run_id: str
    outcome: Outcome
    artifacts: Path | None
    """Where its files lie, if on this machine."""


@dataclass(frozen=True)
class StackSettings:
    """How trajectories that could be stacked are trained, and what that was chosen by."""

    width: int
    """Trajectories in a stack, at most; 1: each is trained by the plain trainer."""
    threads: int
    """Of PyTorch."""
    epoch_seconds: float
    """Estimated time of one epoch of one stack, its evaluation included."""
    reason: str


@dataclass(frozen=True)
class DatasetFacts:
    """What a trial is trained, selected and tested on."""

    digest: str
    """Checksum of images and labels."""
    train: int
    """Number of images to train on, and so on."""
    held_out: int
    test: int
