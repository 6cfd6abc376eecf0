"""Execute one stack: load, train, keep the weights, emit the events of its trials."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweepstack.config import TrialConfig
from sweepstack.errors import one_line
from sweepstack.sweeping.plan import ALONE, Stack
from sweepstack.trial import Choice, Ended, Event, Measured, Measurement, Outcome, Started, Trial, TrialState

if TYPE_CHECKING:
    from sweepstack.training.data import Data
    from sweepstack.training.stack import Reader

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

    Whatever goes wrong inside a training is an outcome, FAILED with the reason and the traceback. What goes wrong
    before a stack has reported anything may come of stacking: then its trajectories are trained one after the other.

    Args:
        emit: called with each of the trials' events, as it happens.

    Raises:
        UserError: the data cannot be had: no other trial of it could do better.
        KeyboardInterrupt: after the trials that had not ended have been emitted as KILLED.
    """
    from sweepstack.training.stack import Reader

    data = _data(stack.trajectories[0].config)
    running = {trial.number: trial for trial in stack.trials}
    way = stack.way
    reported = False

    def end(trial: Trial, outcome: Outcome) -> None:
        with _undisturbed():
            ended = replace(_ended(trial, outcome, data), trained=way)
            del running[trial.number]
            emit(ended)

    def reader(trial: Trial) -> Reader:
        def report(measurement: Measurement) -> None:
            nonlocal reported
            reported = True
            emit(Measured(trial, measurement, time.time()))

        return Reader(trial.config, report, lambda outcome: end(trial, outcome))

    def fail(trials: Iterable[Trial], error: Exception) -> None:
        reason = f"{type(error).__name__}: {one_line(error)}"
        text = "".join(traceback.format_exception(error))
        for trial in trials:
            if trial.number in running:
                end(trial, Outcome(TrialState.FAILED, reason=reason, traceback=text))

    readers = [[reader(trial) for trial in trajectory.trials] for trajectory in stack.trajectories]
    try:
        for trial in stack.trials:
            emit(Started(trial, time.time(), data.facts))
        try:
            _train(readers, data, stack.choice.threads)
        except Exception as error:
            if reported or len(readers) == 1 or len(running) < len(stack.trials):
                fail(stack.trials, error)
                return
            way = f"{ALONE}, for the stack failed: {one_line(error)}"
            for trajectory, left in zip(stack.trajectories, readers, strict=True):
                try:
                    _train([left], data, None)
                except Exception as error_alone:
                    fail(trajectory.trials, error_alone)
    except KeyboardInterrupt as stop:
        for trial in [*running.values()]:
            end(trial, Outcome(TrialState.KILLED, reason=str(stop) or "interrupted"))
        raise


def _train(readers: Sequence[Sequence[Reader]], data: Data, threads: int | None) -> None:
    """Trains trajectories together, or a single one by the plain trainer.

    Args:
        threads: of PyTorch; None for what the plain trainer takes.
    """
    import torch

    from sweepstack.training import stacking
    from sweepstack.training.hardware import choose_threads
    from sweepstack.training.stack import train_stack
    from sweepstack.training.stacked_models import SingleModel
    from sweepstack.training.trainer import train

    configs = [max((reader.config for reader in read), key=lambda config: config.epochs) for read in readers]
    torch.set_num_threads(threads or choose_threads(configs[0]))
    if len(readers) > 1:
        train_stack(readers, data, stacking.build(configs, data.images.shape[1:], data.device))
    elif len(readers[0]) > 1:
        train_stack(readers, data, SingleModel(configs[0], data.device))
    else:
        (reader,) = readers[0]
        reader.end(train(reader.config, data, reader.report))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A signal that comes meanwhile is taken at the end of the block: an outcome is recorded whole or not at all."""
    if threading.current_thread() is not threading.main_thread():  # where there are none
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in handlers:
            signal.signal(number, lambda sent, _: arrived.append(sent))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for sent in arrived[:1]:
            signal.raise_signal(sent)


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
