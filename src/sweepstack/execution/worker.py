"""Runs one stack: loads its data, trains it, writes the weights, reports the events of its trials, and retries.

It takes plain values and knows no session, no ledger and no store, so it runs in any process; see `engines`.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweepstack.blame import Whose, contained, judge, reason
from sweepstack.config.fingerprint import Fingerprint
from sweepstack.error_log import log_traceback
from sweepstack.errors import DataError, UserError, count, one_line
from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.execution.assignment import Answer, Assignment, Parts, Paused, Reporter
from sweepstack.execution.failures import cut_stack, free_memory, may_pass
from sweepstack.execution.signals import deferred_signals
from sweepstack.execution.trial_files import ended, keep_targets
from sweepstack.paths import cache_folder
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.search.pruning import Pruner
from sweepstack.trial import OWN_FILES, Measurement, Outcome, StackSettings, Trial, TrialState, Verdict

PAUSED_SHARE = 0.25
"""A stack pauses if a pruner has left at most this part of its trajectories: a step of a narrow stack costs nearly as
much as one of a wide stack."""
RUNGS_BEFORE_PAUSE = 2
"""The rungs that a trial has reached when it pauses: so a search learns from more than the first one."""

if TYPE_CHECKING:
    from sweepstack.training.checkpoint import CheckpointManager
    from sweepstack.training.data.source import Data
    from sweepstack.training.stacked.members import TrialReader


def load_data_of(trial: Trial) -> Data:
    """Returns the data of a trial on its device. The data that were loaded last stay in memory.

    Raises:
        DataError: see `data_of`.
    """
    from sweepstack.training.data.load import data_of
    from sweepstack.training.hardware import choose_device

    return data_of(trial.config, choose_device(trial.run.device), trial.run)


def load_training(is_alone: bool) -> None:
    """Imports what trains, so that processes which are forked from this one have it.

    Args:
        is_alone: load PyTorch's compiler, too, which optimizers use. A stack of several trajectories has none.
    """
    from sweepstack.training import own_loop, random_state, trainer  # noqa: F401
    from sweepstack.training.data import load  # noqa: F401
    from sweepstack.training.optimizers import load_compiler
    from sweepstack.training.stacked import build, loop, single_model  # noqa: F401

    if is_alone:
        load_compiler()
    random_state.seed_all(0)  # the first call may read the sources of those that call it, for PyTorch's error messages


def close_readers(trials: Sequence[Trial]) -> bool:
    """Ends the processes of this one that read the data of trials; returns whether data are read so."""
    found = False
    for data in (load_data_of(trial) for trial in trials):
        if data.is_read_beside:
            found = True
            data.close()
    return found


def choose_settings(
    trials: Sequence[Trial],
    wait_for_quiet: Callable[[], None] | None,
    estimate: bool = False,
    beside: tuple[int, int] | None = None,
    count: int | None = None,
) -> StackSettings:
    """Chooses how the trajectories of some trials are trained best on this machine; see `autotune.choose`.

    Args:
        trials: one trial of each trajectory.
        wait_for_quiet: called before anything is timed. None for a dry run, which also estimates the time and writes
            nothing.
        estimate: estimate the time of an epoch even if there is only one way to train.
        beside: the threads of each worker and the number of workers that can train these trajectories side by side;
            None: one stack after the other.
        count: the number of trajectories if there are more than `trials`; None: as many.
    """
    from sweepstack.training.stacked import autotune

    configs, run, data = [trial.config for trial in trials], trials[0].run, load_data_of(trials[0])
    workers = None if beside is None else autotune.Beside(*beside)
    if wait_for_quiet is None:
        return autotune.choose(configs, run, data, None, estimate=True, beside=workers)
    return autotune.choose(configs, run, data, choices_file(), wait_for_quiet, estimate, workers, count)


def choices_file() -> Path:
    """Returns the file of what was chosen on this machine, and for others."""
    return cache_folder() / "choices.json"


def do(assignment: Assignment, reporter: Reporter) -> Answer:
    """Does an assignment: trains its stack, see `run_stack`, or measures its groups.

    Args:
        assignment: the assignment.
        reporter: receives the events of its trials.

    Raises:
        UserError, KeyboardInterrupt: see `run_stack`.
    """
    if (groups := assignment.groups) is None:
        return run_stack(assignment, reporter)
    trials, beside = iter(assignment.stack.trials), (groups.threads, groups.parts)
    return tuple(
        choose_settings([*itertools.islice(trials, size)], lambda: None, False, beside, count)
        for size, count in zip(groups.sizes, groups.counts, strict=True)
    )


def run_stack(assignment: Assignment, reporter: Reporter) -> Parts | Paused | None:
    """Trains the trials of a stack, from its checkpoint if there is one, and writes the weights of each to its folder.

    An error inside a training is an outcome: FAILED, with the reason and the traceback. But if a stack of several
    trajectories fails, being stacked may be the cause; then its parts are tried.

    Args:
        assignment: the stack.
        reporter: receives the events of its trials.

    Returns:
        None if every wanted trial has ended; what a pruner has left of the stack if it goes on later. Else the parts
        into which the stack is to be cut, each to be trained as a stack of its own: halves if memory ran out, else
        single trajectories.

    Raises:
        UserError: the data cannot be obtained, or the journal cannot be written; every other trial would fail, too.
        KeyboardInterrupt: a signal has come; the trials that had not ended were reported as KILLED.
    """
    stack = assignment.stack
    data = load_data_of(stack.trajectories[0].longest)
    _check_fingerprints(stack, data)
    with deferred_signals() as asked:
        run = _StackRun(assignment, data, reporter, lambda: asked.signal is not None or reporter.is_stopping())
        try:
            for trial in stack.trials:
                run.emit(Started(trial, time.time(), data.facts))
            parts = run.train()
            if parts is None:
                keep_targets(stack.trajectories[0].longest, data, assignment.checkpoints.parents[1])
            return parts
        except KeyboardInterrupt as stop:  # a second signal, or the time of grace after the first one is over
            for trial in stack.trials:
                run.emit(killed_event(trial, stop))
            raise
        finally:
            data.close()  # processes that read data would hold files of this one open that others wait to be closed


def killed_event(trial: Trial, stop: KeyboardInterrupt) -> Ended:
    """Returns the end of a trial that a signal has stopped."""
    return Ended(trial, Outcome(TrialState.KILLED, reason=str(stop) or "interrupted"), time.time())


def _check_fingerprints(stack: Stack, data: Data) -> None:
    """Checks that the data are those of the fingerprints; they may have been loaded again since those were computed."""
    for trial in stack.trials:
        if trial.fingerprint and (known := Fingerprint.parse(trial.fingerprint).data) != data.facts.digest:
            raise DataError(
                f"dataset must give the same data at every load, {trial.config.dataset.target} gave data of checksum "
                f"{known}",
                data.facts.digest,
                "let it give the same; if its files were changed meanwhile, type the same command again",
            )


class _StackRun:
    """A stack while it trains: knows which of its trials have not ended, and reports their events.

    Args:
        is_stopping: returns True if the training is to stop; its trials then end KILLED.
    """

    def __init__(self, assignment: Assignment, data: Data, reporter: Reporter, is_stopping: Callable[[], bool]) -> None:
        self._assignment, self._stack, self._data, self._reporter = assignment, assignment.stack, data, reporter
        self._is_stopping = is_stopping
        self._open = set(assignment.wanted)
        self._is_final = True
        """True if the same command trains no trial again that has ended."""
        self._pruner = None if assignment.rungs is None else Pruner(assignment.rungs)
        self._reasons: dict[str, str] = {}
        """Why trials were pruned, by fingerprint."""
        self._has_decided = True
        """True if the pruner has just decided, or had when the checkpoint was saved."""
        self._pausing: frozenset[str] = frozenset()
        """The fingerprints of those that go on later."""
        self._paused: list[Ended] = []
        """How those that are left end if they do not go on."""
        self._was_paused = False
        """True until it is asked whether a stack goes on that was paused when its command ended."""
        self._step = 0
        """The optimizer steps that are done, as far as they were reported."""
        self._trajectories = {
            trial.id: trajectory.longest.id for trajectory in self._stack.trajectories for trial in trajectory.trials
        }
        """The names of their trajectories, by the ids of the trials: they stay when the stack gets another id."""

    def emit(self, event: Event) -> Verdict:
        """Reports an event, if its trial is wanted and has not ended."""
        if event.trial.id not in self._open:
            return Verdict.CONTINUE
        if isinstance(event, Ended):
            self._open.discard(event.trial.id)
            self._is_final = self._is_final and event.outcome.final
        try:
            return self._reporter.emit(event)
        except (UserError, KeyboardInterrupt):  # perhaps before it was taken; after any other error it has been
            self._open.add(event.trial.id)
            raise

    def train(self) -> Parts | Paused | None:
        """Trains the stack, and retries as often as `retries` allows; returns the parts to train if that fails, or what
        is left to train later."""
        from sweepstack.training.checkpoint import CheckpointError, CheckpointManager
        from sweepstack.training.data.streamed import ItemError
        from sweepstack.training.stacked.model import Unstackable
        from sweepstack.training.stacked.unite import unite

        run, say = self._stack.trajectories[0].longest.run, self._reporter.say
        checkpoints = CheckpointManager(
            self._assignment.checkpoints,
            run.checkpoint.every,
            self._is_stopping,
            self._reporter.sync,
            say,
            self._passed,
            self._keeps_pruned,
            lambda states: unite(states, {trial.fingerprint for trial in self._stack.trials}),
        )
        begun = checkpoints.restore() is not None
        tries = 0
        while True:
            try:
                with contained():
                    self._train_once(checkpoints)
                if self._paused:
                    return Paused(tuple(self._paused), self._step)
                if self._is_stopping() or not begun or not self._open:
                    break
                # The checkpoint is past the end of a trial whose outcome was not written: train once more without it.
                begun = False
                checkpoints.remove()
            except CheckpointError as error:
                say(f"A checkpoint does not fit ({one_line(error)}); its trials begin again.")
                checkpoints.remove()
                checkpoints.state = None
            except UserError:
                raise
            except ItemError as error:  # every part of the stack would meet the same item
                self._fail_all(error)
                break
            except Exception as error:
                unended = [index for index, one in enumerate(self._stack.trajectories) if self._is_open(one)]
                if len(self._stack.trajectories) > 1:
                    if isinstance(error, Unstackable):
                        why = str(error)
                    else:
                        log_traceback(error)
                        why = reason(error)
                    parts, how = cut_stack(error, unended)
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
            checkpoints.restore()
        is_of_pruned = self._reasons and len(self._stack.trials) == 1 and self._keeps_pruned
        if not (self._assignment.keep or is_of_pruned or self._open or self._is_stopping()) and self._is_final:
            self._reporter.sync()
            checkpoints.remove()
        return None

    @property
    def _keeps_pruned(self) -> bool:
        return self._pruner is not None and self._pruner.config.keep

    def _passed(self) -> dict[str, Any]:
        """What checkpoints hold for the pruner."""
        return {} if self._pruner is None else {"rungs": self._pruner.passed}

    def _is_open(self, trajectory: Trajectory) -> bool:
        return any(trial.id in self._open for trial in trajectory.trials)

    def _train_once(self, checkpoints: CheckpointManager) -> None:
        """Trains several trajectories together, or a single one with the plain trainer or a loop of the user's own."""
        import torch

        from sweepstack.training import own_loop, random_state
        from sweepstack.training.hardware import choose_threads
        from sweepstack.training.stacked import build
        from sweepstack.training.stacked.loop import train_stack
        from sweepstack.training.stacked.single_model import SingleModel
        from sweepstack.training.trainer import train

        stack, data = self._stack, self._data
        of_stack = (checkpoints.state or {}).get("model") if "members" in (checkpoints.state or {}) else None
        is_plain = len(stack.trials) == 1 and of_stack is None
        listeners = [[self._reader(trial, is_plain) for trial in one.trials] for one in stack.trajectories]
        configs, run = [trajectory.config for trajectory in stack.trajectories], stack.trajectories[0].longest.run
        if self._pruner is not None:
            state = checkpoints.state or {}
            self._step, self._was_paused = state.get("step", 0), state.get("paused", False)
            self._pruner.begin(self._step / state.get("steps", 1), state.get("rungs"))
        torch.set_num_threads(stack.choice.threads or choose_threads(configs[0], run.threads))
        with random_state.preserved():
            if len(listeners) > 1 or "parameters" in (of_stack or {}):
                train_stack(
                    listeners,
                    data,
                    build.build_stacked_model(configs, configs[0].dataset.shape or (), data.device, data.some()),
                    checkpoints,
                    self._prune,
                    self._pause,
                )
            elif not is_plain:
                train_stack(listeners, data, SingleModel(configs[0], data.device), checkpoints, self._prune)
            elif (named := configs[0].trainer) is not None:
                (listener,) = listeners[0]
                folder = stack.trials[0].folder / OWN_FILES
                listener.end(own_loop.train(configs[0], named, data, folder, listener.report, checkpoints))
            else:
                (listener,) = listeners[0]
                listener.end(train(listener.config, data, listener.report, checkpoints))

    def _reader(self, trial: Trial, decides: bool) -> TrialReader:
        """Returns what reports of a trial.

        Args:
            trial: the trial.
            decides: the pruner decides with each measurement; else once all trials of the stack have reported.
        """
        from sweepstack.training.stacked.members import TrialReader

        def report(measurement: Measurement) -> Verdict:
            self._step = max(self._step, measurement.step)
            verdict = self.emit(Measured(trial, measurement, time.time()))
            value = measurement.metrics.get(trial.config.objective)
            if self._pruner is not None and value is not None:
                epochs = trial.config.epochs * measurement.step / measurement.steps
                self._pruner.take(trial.fingerprint, epochs, value)
            if verdict is Verdict.CONTINUE and decides and self._prune():
                return Verdict.PRUNE
            return verdict

        def end(outcome: Outcome) -> None:
            if self._pruner is not None:
                if outcome.state is not TrialState.PRUNED:
                    self._pruner.end(trial.fingerprint, outcome.state is TrialState.FAILED)
                    self._reasons.pop(trial.fingerprint, None)
                reason = outcome.reason or self._reasons.get(trial.fingerprint, "")
                outcome = replace(outcome, reason=reason, rungs=self._pruner.rungs(trial.fingerprint))
                if outcome.state is TrialState.PRUNED:
                    outcome = replace(outcome, population=self._pruner.population)
            if trial.id in self._open:  # other trials are in the stack only because it is resumed as a whole
                event = ended(trial, outcome, self._data)
                how, note = self._stack.how_trained, self._stack.note
                event = replace(event, trained=how, recomposed=note, trajectory=self._trajectories[trial.id])
                if trial.fingerprint in self._pausing and outcome.state is TrialState.PRUNED:
                    self._paused.append(event)
                else:
                    self.emit(event)

        return TrialReader(trial.config, report, end, key=trial.fingerprint)

    def _prune(self) -> Mapping[str, str]:
        """Lets the pruner decide about the trials that have just reported; returns why some end, by fingerprint."""
        if self._pruner is None:
            return {}
        decision = self._pruner.decide()
        self._has_decided = decision.judged > 0
        self._reasons |= decision.leaving
        if decision.leaving and decision.judged > 1:
            left = decision.judged - len(decision.leaving)
            name = f"{self._pruner.config.name} at epoch {decision.epochs:g}"
            self._reporter.say(f"{name}: {left} of {count(decision.judged, 'trial')} go on")
        return decision.leaving

    def _pause(self, left: Collection[str]) -> bool:
        """Returns whether what the pruner has left of the stack goes on later, together with what it leaves of others.

        A stack that was paused when its command ended pauses once more, even alone: its trials are still to be compared
        with all that have come as far.

        Args:
            left: the fingerprints of those that are left.
        """
        self._pausing = frozenset()
        pauses, self._was_paused = self._assignment.pauses or self._was_paused, False
        if self._pruner is None or not (pauses and self._has_decided and self._pruner.config.ranks):
            return False
        width = len(self._stack.trajectories)
        narrow = sum(any(one.fingerprint in left for one in each.trials) for each in self._stack.trajectories)
        trials = [trial for trial in self._stack.trials if trial.fingerprint in left]
        is_known = all(
            trial.id in self._open and len(self._pruner.rungs(trial.fingerprint)) >= RUNGS_BEFORE_PAUSE
            for trial in trials
        )
        if 0 < narrow <= PAUSED_SHARE * width and is_known and not self._is_stopping():
            self._pausing = frozenset(left)
        return bool(self._pausing)

    def _fail_all(self, error: Exception) -> None:
        if judge(error).whose is Whose.OURS:
            log_traceback(error)
        outcome = Outcome(TrialState.FAILED, reason=reason(error), traceback="".join(traceback.format_exception(error)))
        for trial in self._stack.trials:
            self.emit(Ended(trial, outcome, time.time()))
