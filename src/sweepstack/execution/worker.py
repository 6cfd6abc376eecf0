"""Execute one stack: load, train, keep the weights, emit the events of its trials, and try again what may pass."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweepstack.config.fingerprint import Fingerprint, fingerprint
from sweepstack.config.schema import Mark, OptimizerConfig, TrialConfig, marked
from sweepstack.error_log import log_traceback
from sweepstack.errors import DataError, UserError, one_line
from sweepstack.events import Ended, Measured, Started
from sweepstack.execution.failures import free_memory, may_pass, smaller
from sweepstack.execution.outputs import draw, ended
from sweepstack.execution.session import Session
from sweepstack.execution.signals import calm
from sweepstack.faults import Whose, contained, judge, reason
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.trial import Measurement, Outcome, StackSettings, Trial, TrialState

if TYPE_CHECKING:
    from sweepstack.training.checkpoint import CheckpointManager
    from sweepstack.training.data.datasets import Data
    from sweepstack.training.stacked.loop import Listener

log = logging.getLogger(__name__)


def prepare(trial: Trial, seen: set[str], inside: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    """Checks what can only be checked with PyTorch and the data at hand, and loads the data.

    Args:
        seen: what has been checked already; trials that differ only in numbers which `parse` has checked need it once.
        inside: gives a context to call a user's code in.

    Raises:
        ConfigError: see `check`.
        DataError: see `load`.
    """
    config = trial.config
    parsed: dict[str, Any] = dict.fromkeys(marked(TrialConfig, Mark.PARSED), True)
    parsed["optimizer"] = marked(OptimizerConfig, Mark.PARSED)
    key = f"{config.model_dump_json(exclude=parsed, by_alias=True)} {trial.run.device}"
    if key not in seen:
        from sweepstack.training.checks import check_trial

        seen.add(key)  # a mistake too is told once
        with inside(), contained():
            check_trial(config, trial.run.device)
            _load_data(trial)
    last = f"{key} {config.batch_size}"
    if last not in seen:
        from sweepstack.training.checks import check_last_batch

        seen.add(last)
        with inside(), contained():
            check_last_batch(config, trial.run.device)


def identify(
    trial: Trial, digests: dict[str, str], inside: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Fingerprint:
    """The fingerprint of a trial, for which the data must be at hand.

    Args:
        digests: checksums of data by their config, of those that have been loaded for it.
        inside: see `prepare`.
    """
    from sweepstack.config.code_digest import digest

    config = trial.config
    key = config.dataset.model_dump_json(by_alias=True)
    if key not in digests:
        with inside():
            digests[key] = _load_data(trial).facts.digest
    return fingerprint(config, digests[key], digest(config))


def _load_data(trial: Trial) -> Data:
    from sweepstack.training.data.datasets import load_data
    from sweepstack.training.hardware import choose_device

    return load_data(trial.config.dataset, trial.config.validation_split, choose_device(trial.run.device))


def device_of(trial: Trial) -> str:
    """The kind of device that a trial trains on here: cpu, cuda or mps."""
    from sweepstack.training.hardware import choose_device

    return choose_device(trial.run.device).type


def choose_settings(trials: Sequence[Trial], wait_for_quiet: Callable[[], None]) -> StackSettings:
    """How the trajectories of these trials are trained best on this machine; see `autotune.choose`."""
    from sweepstack.training.data import download
    from sweepstack.training.stacked import autotune

    configs, file = [trial.config for trial in trials], Path(download.cache_folder(), "choices.json")
    return autotune.choose(configs, trials[0].run, _load_data(trials[0]), file, wait_for_quiet)


def estimate(trials: Sequence[Trial]) -> StackSettings:
    """The same with the time it takes, for a plan that is only looked at: nothing is written."""
    from sweepstack.training.stacked import autotune

    configs = [trial.config for trial in trials]
    return autotune.choose(configs, trials[0].run, _load_data(trials[0]), None, estimate=True)


def run_stack(
    stack: Stack,
    recording: Session,
    enough: Callable[[], bool] = lambda: False,
    run_part: Callable[[Stack, Session, Callable[[], bool]], None] | None = None,
) -> None:
    """Trains the trials of a stack, from its checkpoint if there is one, and keeps the weights of each in its folder.

    Whatever goes wrong inside a training is an outcome, FAILED with the reason and the traceback. What goes wrong in a
    stack of several trajectories may come of the company: it goes on in halves when memory ran out, else one by one.

    Args:
        enough: whether the training is to stop, its trials KILLED.
        run_part: trains what a stack is cut into; by itself this function.

    Raises:
        UserError: the data cannot be had, or the journal not written: no other trial could do better.
        KeyboardInterrupt: after a signal; the trials that had not ended have been emitted as KILLED.
    """
    data = _load_data(stack.trajectories[0].longest)
    _check_fingerprints(stack, data)
    kind = data.device.type
    if stack.device not in ("", kind):
        stack = replace(stack, note=f"it began on {stack.device} and went on on {kind}")
        recording.note(stack)
    with calm() as asked:
        try:
            for trial in stack.trials:
                recording.emit(Started(trial, time.time(), data.facts))
            parts = _train_patiently(stack, data, recording, lambda: asked.signal is not None or enough())
        except KeyboardInterrupt as stop:  # a second signal, or the first one long ago
            for trial in stack.trials:
                recording.emit(_killed(trial, str(stop) or "interrupted"))
            raise
    for number, part in enumerate(parts, 1):
        try:
            (run_part or run_stack)(part, recording, enough)
        except KeyboardInterrupt as stop:  # the others have begun, too: in the stack that was cut
            for trial in (trial for later in parts[number:] for trial in later.trials):
                recording.emit(_killed(trial, str(stop) or "interrupted"))
            raise


def _check_fingerprints(stack: Stack, data: Data) -> None:
    """That the data are those that the trials are known by: they may have been loaded again since."""
    for trial in stack.trials:
        if trial.fingerprint and (known := Fingerprint.parse(trial.fingerprint).data) != data.facts.digest:
            raise DataError(
                f"dataset must give the same data at every load, {trial.config.dataset.target} gave data of checksum "
                f"{known}",
                data.facts.digest,
                "let it give the same; if its files were changed meanwhile, type the same command again",
            )


def _train_patiently(stack: Stack, data: Data, recording: Session, stopping: Callable[[], bool]) -> Sequence[Stack]:
    """Trains a stack, again and again as far as `retries` allow; gives the parts to go on with where it cannot."""
    from sweepstack.training.checkpoint import CheckpointError, CheckpointManager
    from sweepstack.training.stacked.model import Unstackable

    run = stack.trajectories[0].longest.run
    folder, say = recording.checkpoints(stack), recording.display.say
    keeper = CheckpointManager(folder, run.checkpoint.every, stopping, recording.journal.sync, say)
    begun = keeper.restore() is not None
    tries = 0
    while True:
        try:
            with contained():
                _train(stack, data, recording, keeper)
            if stopping() or not begun or not any(recording.owns(trial) for trial in stack.trials):
                break
            begun = False  # the checkpoint is past the end of a trial whose outcome could not be kept: once more
            keeper.remove()
        except CheckpointError as error:
            say(f"A checkpoint does not fit ({one_line(error)}); its trials begin again.")
            keeper.remove()
            keeper.state = None
        except UserError:
            raise
        except Exception as error:
            left = [one for one in stack.trajectories if any(recording.owns(trial) for trial in one.trials)]
            if len(stack.trajectories) > 1:
                if isinstance(error, Unstackable):
                    why = str(error)
                else:
                    log_traceback(error)
                    why = reason(error)
                cut, how = smaller(error)
                note = f"a stack of {len(stack.trajectories)} failed: {why}"
                say(f"{note[0].upper()}{note[1:]}; its trials go on {how}.")
                return recording.split(stack, cut(left), data.device.type, note)
            if tries == run.retries or not may_pass(error):
                _fail_all(left, error, recording)
                break
            tries += 1
            say(f"{left[0].trials[-1].name}: {reason(error)}; try {tries + 1} of {run.retries + 1}.")
        free_memory()
        keeper.restore()
    if not stack.keep and not stopping() and all(recording.is_settled(trial) for trial in stack.trials):
        recording.journal.sync()
        keeper.remove()
    return ()


def _train(stack: Stack, data: Data, recording: Session, keeper: CheckpointManager) -> None:
    """Trains trajectories together, or a single one by the plain trainer."""
    import torch

    from sweepstack.training import random_state
    from sweepstack.training.hardware import choose_threads
    from sweepstack.training.stacked import build
    from sweepstack.training.stacked.loop import train_stack
    from sweepstack.training.stacked.single_model import SingleModel
    from sweepstack.training.trainer import train

    readers = [[_reader(trial, stack, data, recording) for trial in one.trials] for one in stack.trajectories]
    configs, run = [trajectory.config for trajectory in stack.trajectories], stack.trajectories[0].longest.run
    torch.set_num_threads(stack.choice.threads or choose_threads(configs[0], run.threads))
    with random_state.apart():
        if len(readers) > 1:
            train_stack(
                readers,
                data,
                build.build_stacked_model(configs, data.images.shape[1:], data.device, data.some()),
                keeper,
            )
        elif len(readers[0]) > 1:
            train_stack(readers, data, SingleModel(configs[0], data.device), keeper)
        else:
            (reader,) = readers[0]
            reader.end(train(reader.config, data, reader.report, keeper))


def _reader(trial: Trial, stack: Stack, data: Data, recording: Session) -> Listener:
    from sweepstack.training.stacked.loop import Listener

    def report(measurement: Measurement) -> None:
        recording.emit(Measured(trial, measurement, time.time()))

    def end(outcome: Outcome) -> None:
        if recording.owns(trial):  # else it is in the stack for the others' sake
            recording.emit(replace(ended(trial, outcome, data), trained=stack.way, recomposed=stack.note))

    return Listener(trial.config, report, end, key=trial.fingerprint)


def _fail_all(trajectories: Sequence[Trajectory], error: Exception, recording: Session) -> None:
    if judge(error).whose is Whose.OURS:
        log_traceback(error)
    outcome = Outcome(TrialState.FAILED, reason=reason(error), traceback="".join(traceback.format_exception(error)))
    for trajectory in trajectories:
        for trial in trajectory.trials:
            recording.emit(Ended(trial, outcome, time.time()))


def _killed(trial: Trial, reason: str) -> Ended:
    return Ended(trial, Outcome(TrialState.KILLED, reason=reason), time.time())


def draw_pictures(trial: Trial) -> Path:
    """The first training images as the trial asks for them, in its folder."""
    return draw(trial, _load_data(trial))


def log_outcome(trial: Trial, outcome: Outcome) -> None:
    """For the trial's own log."""
    if outcome.traceback:
        log.error("%s failed\n%s", trial.name, outcome.traceback)
    log.info("%s: %s %s", trial.name, outcome.state, outcome.reason or dict(outcome.metrics))
