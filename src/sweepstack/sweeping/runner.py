"""Execute one trial: load, train, emit its events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweepstack.config import TrialConfig
from sweepstack.errors import one_line
from sweepstack.trial import Ended, Event, Measured, Outcome, Started, Trial, TrialState

log = logging.getLogger(__name__)

_PARSED_IN_FULL: Any = {
    **dict.fromkeys(("schedule", "epochs", "batch_size", "seed", "evaluate_every", "threads", "tracking"), True),
    "optimizer": {"lr"},
}


def prepare(config: TrialConfig, seen: set[str]) -> None:
    """Checks what can only be checked with PyTorch and the data at hand, and loads the data.

    Args:
        seen: what has been checked already; trials that differ only in numbers which `parse` has checked need it once.

    Raises:
        ConfigError: see `check`.
        DataError: see `load`.
    """
    from sweepstack.training.check import check
    from sweepstack.training.data import load
    from sweepstack.training.hardware import choose_device

    key = config.model_dump_json(exclude=_PARSED_IN_FULL)
    if key not in seen:
        seen.add(key)  # a mistake too is told once
        check(config)
        load(config.dataset, config.validation_split, choose_device(config.device))


def run_trial(trial: Trial, emit: Callable[[Event], None]) -> Outcome:
    """Trains a trial with the plain trainer and keeps its weights in its folder.

    Whatever goes wrong inside a training is an outcome, FAILED with the reason; the traceback is in the log.

    Args:
        emit: called with each of the trial's events, as it happens.

    Raises:
        UserError: the data cannot be had: no other trial of it could do better.
        KeyboardInterrupt: after the trial has been emitted as KILLED.
    """
    import torch

    from sweepstack.training.data import load
    from sweepstack.training.hardware import choose_device, choose_threads
    from sweepstack.training.trainer import train

    config = trial.config
    torch.set_num_threads(choose_threads(config))
    data = load(config.dataset, config.validation_split, choose_device(config.device))
    files: list[Path] = []
    try:
        emit(Started(trial, time.time(), data.facts))
        outcome = train(config, data, lambda measurement: emit(Measured(trial, measurement, time.time())))
        if outcome.weights is not None:
            files.append(trial.folder / "weights.pt")
            torch.save(outcome.weights, files[-1])
        if config.pictures:
            from sweepstack.training.pictures import save_first

            files.append(trial.folder / "first_images.png")
            save_first(data.images[: config.pictures], data.labels[: config.pictures], files[-1])
    except KeyboardInterrupt as stop:
        emit(Ended(trial, Outcome(TrialState.KILLED, reason=str(stop) or "interrupted"), time.time()))
        raise
    except Exception as error:
        log.exception("%s failed", trial.name)
        outcome = Outcome(TrialState.FAILED, reason=f"{type(error).__name__}: {one_line(error)}")
    outcome = replace(outcome, weights=None)
    log.info("%s: %s %s", trial.name, outcome.state, outcome.reason or dict(outcome.metrics))
    emit(Ended(trial, outcome, time.time(), tuple(files)))
    return outcome
