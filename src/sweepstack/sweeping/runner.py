"""Execute one stack: load, train, keep the weights, emit the events of its trials."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sweepstack.config import TrialConfig
from sweepstack.errors import one_line
from sweepstack.sweeping.plan import Stack
from sweepstack.trial import Choice, Ended, Event, Measured, Measurement, Outcome, Started, Trial, TrialState

if TYPE_CHECKING:
    from sweepstack.training.data import Data

log = logging.getLogger(__name__)

Emit = Callable[[Event], None]

_PARSED_IN_FULL: Any = {
    **dict.fromkeys(("schedule", "epochs", "batch_size", "seed", "evaluate_every", "threads", "tracking"), True),
    "launch": True,
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
    key = config.model_dump_json(exclude=_PARSED_IN_FULL)
    if key not in seen:
        from sweepstack.training.check import check

        seen.add(key)  # a mistake too is told once
        check(config)
        _data(config)


def _data(config: TrialConfig) -> Data:
    from sweepstack.training.data import load
    from sweepstack.training.hardware import choose_device

    return load(config.dataset, config.validation_split, choose_device(config.device))


def choose(configs: Sequence[TrialConfig], wait_for_quiet: Callable[[], None]) -> Choice:
    """How these trajectories are trained best on this machine; see `tuning.choose`."""
    from sweepstack.training import fetch, tuning

    return tuning.choose(configs, _data(configs[0]), Path(fetch.cache_folder(), "choices.json"), wait_for_quiet)


def estimate(configs: Sequence[TrialConfig]) -> Choice:
    """The same with the time it takes, for a plan that is only looked at: nothing is written."""
    from sweepstack.training import tuning

    return tuning.choose(configs, _data(configs[0]), None, estimate=True)


def run_stack(stack: Stack, emit: Emit) -> None:
    """Trains the trials of a stack, and keeps the weights of each in its folder.

    Whatever goes wrong inside a training is an outcome, FAILED with the reason and the traceback.

    Args:
        emit: called with each of the trials' events, as it happens.

    Raises:
        UserError: the data cannot be had: no other trial of it could do better.
        KeyboardInterrupt: after the trials that had not ended have been emitted as KILLED.
    """
    import torch

    from sweepstack.training import stacked_models
    from sweepstack.training.stack import Reader, train_stack
    from sweepstack.training.trainer import train

    configs = [trajectory.config for trajectory in stack.trajectories]
    data = _data(configs[0])
    running = {trial.number: trial for trial in stack.trials}

    def end(trial: Trial, outcome: Outcome) -> None:
        with _undisturbed():
            ended = _ended(trial, outcome, data)
            del running[trial.number]
            emit(ended)

    def reader(trial: Trial) -> Reader:
        def report(measurement: Measurement) -> None:
            emit(Measured(trial, measurement, time.time()))

        return Reader(trial.config, report, lambda outcome: end(trial, outcome))

    torch.set_num_threads(stack.choice.threads)
    readers = [[reader(trial) for trial in trajectory.trials] for trajectory in stack.trajectories]
    try:
        for trial in stack.trials:
            emit(Started(trial, time.time(), data.facts, stack.way))
        if len(readers) == len(readers[0]) == 1:
            readers[0][0].end(train(configs[0], data, readers[0][0].report))
        elif len(readers) == 1:
            train_stack(readers, data, stacked_models.SingleModel(configs[0], data.device))
        else:
            train_stack(readers, data, stacked_models.build(configs, data.images.shape[1:], data.device))
    except KeyboardInterrupt as stop:
        outcome = Outcome(TrialState.KILLED, reason=str(stop) or "interrupted")
        for trial in [*running.values()]:
            end(trial, outcome)
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        outcome = Outcome(TrialState.FAILED, reason=reason, traceback=traceback.format_exc())
        for trial in [*running.values()]:
            end(trial, outcome)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A signal that comes meanwhile is taken at the end of the block: an outcome is recorded whole or not at all."""
    if threading.current_thread() is not threading.main_thread():  # where there are none
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: arrived.append((number, frame)))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for sent, frame in arrived[:1]:
        handler = handlers[signal.Signals(sent)]
        if callable(handler):
            handler(sent, frame)


def _ended(trial: Trial, outcome: Outcome, data: Data) -> Ended:
    """The event, after the trial's files have been written."""
    import torch

    files: list[Path] = []
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        if outcome.weights is not None:
            files.append(trial.folder / "weights.pt")
            torch.save(outcome.weights, files[-1])
        if trial.config.pictures and outcome.state is TrialState.FINISHED:
            from sweepstack.training.pictures import save_first

            count = trial.config.pictures
            files.append(trial.folder / "first_images.png")
            save_first(data.images[:count], data.labels[:count], files[-1])
    except Exception as error:  # a full disk costs this trial, no other one
        reason = f"{type(error).__name__}: {one_line(error)}"
        outcome, files = Outcome(TrialState.FAILED, reason=reason, traceback=traceback.format_exc()), []
    return Ended(trial, replace(outcome, weights=None), time.time(), tuple(files))


def log_outcome(trial: Trial, outcome: Outcome) -> None:
    """For the trial's own log."""
    if outcome.traceback:
        log.error("%s failed\n%s", trial.name, outcome.traceback)
    log.info("%s: %s %s", trial.name, outcome.state, outcome.reason or dict(outcome.metrics))
