"""Runs one stack: loads its data, trains it, keeps the weights, reports the events of its trials, and tries again.

It is given plain values and knows no session, no ledger and no store: it could run in another process.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.error_log import log_traceback
from sweepstack.errors import DataError, UserError, one_line
from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.execution.assignment import Assignment, Parts, Reporter
from sweepstack.execution.failures import free_memory, may_pass, smaller
from sweepstack.execution.outputs import ended
from sweepstack.execution.signals import calm
from sweepstack.faults import Whose, contained, judge, reason
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.trial import Measurement, Outcome, StackSettings, Trial, TrialState, Verdict

if TYPE_CHECKING:
    from sweepstack.training.checkpoint import CheckpointManager
    from sweepstack.training.data.datasets import Data
    from sweepstack.training.stacked.loop import Listener


def load_data_of(trial: Trial) -> Data:
    """The data of a trial on its device; those that were loaded last are kept.

    Raises:
        DataError: see `load_data`.
    """
    from sweepstack.training.data.datasets import load_data
    from sweepstack.training.hardware import choose_device

    return load_data(trial.config.dataset, trial.config.validation_split, choose_device(trial.run.device))


def choose_settings(trials: Sequence[Trial], wait_for_quiet: Callable[[], None] | None) -> StackSettings:
    """How the trajectories of these trials are trained best on this machine; see `autotune.choose`.

    Args:
        trials: one of each trajectory.
        wait_for_quiet: called before anything is timed. None: the time is estimated, too, and nothing is written.
    """
    from sweepstack.training.data import download
    from sweepstack.training.stacked import autotune

    configs, run, data = [trial.config for trial in trials], trials[0].run, load_data_of(trials[0])
    if wait_for_quiet is None:
        return autotune.choose(configs, run, data, None, estimate=True)
    return autotune.choose(configs, run, data, Path(download.cache_folder(), "choices.json"), wait_for_quiet)


def run_stack(assignment: Assignment, reporter: Reporter) -> Parts | None:
    """Trains the trials of a stack, from its checkpoint if there is one, and keeps the weights of each in its folder.

    Whatever goes wrong inside a training is an outcome, FAILED with the reason and the traceback. What goes wrong in a
    stack of several trajectories may come of the company.

    Returns:
        None when every trial that is wanted has ended. Else the parts that the stack is to be cut into, each of which
        goes on as a stack of its own: in halves when memory ran out, else one by one.

    Raises:
        UserError: the data cannot be had, or the journal not written: no other trial could do better.
        KeyboardInterrupt: after a signal; the trials that had not ended have been emitted as KILLED.
    """
    stack = assignment.stack
    data = load_data_of(stack.trajectories[0].longest)
    _check_fingerprints(stack, data)
    with calm() as asked:
        run = _StackRun(assignment, data, reporter, lambda: asked.signal is not None or reporter.is_stopping())
        try:
            for trial in stack.trials:
                run.emit(Started(trial, time.time(), data.facts))
            return run.train()
        except KeyboardInterrupt as stop:  # a second signal, or the first one long ago
            for trial in stack.trials:
                run.emit(killed(trial, stop))
            raise


def killed(trial: Trial, stop: KeyboardInterrupt) -> Ended:
    """The end of a trial that a signal has stopped."""
    return Ended(trial, Outcome(TrialState.KILLED, reason=str(stop) or "interrupted"), time.time())


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


class _StackRun:
    """A stack while it is trained: which of its trials have not ended yet, and where their events go.

    Args:
        is_stopping: whether the training is to stop, its trials KILLED.
    """

    def __init__(self, assignment: Assignment, data: Data, reporter: Reporter, is_stopping: Callable[[], bool]) -> None:
        self._assignment, self._stack, self._data, self._reporter = assignment, assignment.stack, data, reporter
        self._is_stopping = is_stopping
        self._open = set(assignment.wanted)
        self._is_settled = True
        """Whether nothing is left to do for those that have ended."""

    def emit(self, event: Event) -> Verdict:
        """Reports an event of a trial that is wanted and has not ended."""
        if event.trial.id not in self._open:
            return Verdict.CONTINUE
        if isinstance(event, Ended):
            self._open.discard(event.trial.id)
            self._is_settled = self._is_settled and event.outcome.settled
        try:
            return self._reporter.emit(event)
        except (UserError, KeyboardInterrupt):  # perhaps before it was taken; after any other error it has been
            self._open.add(event.trial.id)
            raise

    def train(self) -> Parts | None:
        """Trains the stack, again as far as `retries` allow; gives the parts to go on with where it cannot."""
        from sweepstack.training.checkpoint import CheckpointError, CheckpointManager
        from sweepstack.training.stacked.model import Unstackable

        run, say = self._stack.trajectories[0].longest.run, self._reporter.say
        keeper = CheckpointManager(
            self._assignment.checkpoints, run.checkpoint.every, self._is_stopping, self._reporter.sync, say
        )
        begun = keeper.restore() is not None
        tries = 0
        while True:
            try:
                with contained():
                    self._train_once(keeper)
                if self._is_stopping() or not begun or not self._open:
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
                left = [place for place, one in enumerate(self._stack.trajectories) if self._is_open(one)]
                if len(self._stack.trajectories) > 1:
                    if isinstance(error, Unstackable):
                        why = str(error)
                    else:
                        log_traceback(error)
                        why = reason(error)
                    parts, how = smaller(error, left)
                    note = f"a stack of {len(self._stack.trajectories)} failed: {why}"
                    say(f"{note[0].upper()}{note[1:]}; its trials go on {how}.")
                    return Parts(parts, note)
                if tries == run.retries or not may_pass(error):
                    self._fail_all(error)
                    break
                tries += 1
                name = self._stack.trials[-1].name
                say(f"{name}: {reason(error)}; try {tries + 1} of {run.retries + 1}.")
            free_memory()
            keeper.restore()
        if not self._assignment.keep and self._is_settled and not self._open and not self._is_stopping():
            self._reporter.sync()
            keeper.remove()
        return None

    def _is_open(self, trajectory: Trajectory) -> bool:
        return any(trial.id in self._open for trial in trajectory.trials)

    def _train_once(self, keeper: CheckpointManager) -> None:
        """Trains trajectories together, or a single one by the plain trainer."""
        import torch

        from sweepstack.training import random_state
        from sweepstack.training.hardware import choose_threads
        from sweepstack.training.stacked import build
        from sweepstack.training.stacked.loop import train_stack
        from sweepstack.training.stacked.single_model import SingleModel
        from sweepstack.training.trainer import train

        stack, data = self._stack, self._data
        readers = [[self._reader(trial) for trial in one.trials] for one in stack.trajectories]
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

    def _reader(self, trial: Trial) -> Listener:
        from sweepstack.training.stacked.loop import Listener

        def report(measurement: Measurement) -> Verdict:
            return self.emit(Measured(trial, measurement, time.time()))

        def end(outcome: Outcome) -> None:
            if trial.id in self._open:  # else it is in the stack for the others' sake
                event = ended(trial, outcome, self._data)
                self.emit(replace(event, trained=self._stack.way, recomposed=self._stack.note))

        return Listener(trial.config, report, end, key=trial.fingerprint)

    def _fail_all(self, error: Exception) -> None:
        if judge(error).whose is Whose.OURS:
            log_traceback(error)
        outcome = Outcome(TrialState.FAILED, reason=reason(error), traceback="".join(traceback.format_exception(error)))
        for trial in self._stack.trials:
            self.emit(Ended(trial, outcome, time.time()))
