"""Hydra's jobs of a launch: composes, parses and runs them, and makes the folder, files and return of each."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from sweepstack.errors import ConfigError, DataError, UserError, one_line, printable
from sweepstack.events import Ended, Started
from sweepstack.execution.assignment import Assignment, Parts, Paused, Reporter
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.listener import Listener, log_outcome
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.ignored_settings import check_grid, check_obeyed
from sweepstack.hydra_adapter.job_context import inside, split_job
from sweepstack.hydra_adapter.job_files import begin_job, finish_job
from sweepstack.hydra_adapter.mask_inputs import reveal_environment
from sweepstack.hydra_adapter.trials import make_trial, searched_ranges
from sweepstack.trial import Outcome, Trial, TrialState

log = logging.getLogger(__name__)


class HydraJobs(InProcessExecutor, Listener):
    """The jobs of a launch. Each gets its folder, files and return as soon as the outcome of its trial is known.

    As an executor, it trains a stack of one trial inside of the job of that trial, with its log, folder and
    environment. As a listener, it finishes the jobs of trials that end or are skipped.

    A composed job needs 0.4 MB. So a job is composed once for its check and again for its files, and its return has no
    config: the job's folder has it.

    Args:
        context: Hydra's context.
        composer: composes the jobs.
        overrides: the overrides of each job.
        first: the number of the first job.
    """

    def __init__(
        self, context: HydraContext, composer: Composer, overrides: Sequence[Sequence[str]], first: int
    ) -> None:
        self._context, self._composer, self._overrides, self._first = context, composer, [*overrides], first
        self.trials: dict[int, Trial] = {}
        """The trials by the numbers of their jobs."""
        self.returns: dict[int, JobReturn] = {}
        self.asked = False
        """Whether the user's code has asked Hydra which job it is in."""
        self._inside: int | None = None
        self._value = math.nan
        """The objective of the trial that is trained inside of its job."""
        self._begun: set[int] = set()
        self._caches: dict[int, Any] = {}
        self._checked: set[tuple[str, ...]] = set()
        self._space = ""
        """What their search draws from; see `Trial.space`."""

    @property
    def numbers(self) -> range:
        """The numbers of all jobs."""
        return range(self._first, self._first + len(self._overrides))

    def overrides(self, number: int) -> Sequence[str]:
        """Returns the overrides of a job."""
        return self._overrides[number - self._first]

    def add(self, overrides: Sequence[str]) -> int:
        """Adds a job; returns its number."""
        self._overrides.append(overrides)
        return self._first + len(self._overrides) - 1

    def compose(self, number: int) -> DictConfig:
        """Composes a new config of a job. Its cached resolvers return the same values as when the job was parsed."""
        cfg = self._composer.compose(self.overrides(number), number)
        if number in self._caches:
            OmegaConf.set_cache(cfg, self._caches[number])
        return cfg

    def parse(self, number: int, fixed: Collection[str], of_sweep: DictConfig) -> tuple[Trial, str]:
        """Makes the trial of a job; also returns why the trial must be trained alone, or an empty text.

        Args:
            number: the number of the job.
            fixed: see `make_trial`.
            of_sweep: the node hydra of the sweep's config.

        Raises:
            ConfigError: the job has a mistake.
        """
        cfg = self.compose(number)
        if (choices := self._composer.choices(self.overrides(number))) not in self._checked:
            check_obeyed(cfg.hydra, of_sweep)
            self._checked.add(choices)
        check_grid(cfg, cfg.hydra)
        known = copy.deepcopy(OmegaConf.get_cache(cfg))
        with inside(cfg) as folder:
            own, hydra = split_job(cfg)
            trial = make_trial(own, hydra, folder.absolute(), fixed, in_sweep=True)
            if (cache := OmegaConf.get_cache(own)) != known:
                self._caches[number] = cache
            if trial.run.search.name != "grid":
                self._space = self._space or searched_ranges(of_sweep)
                trial = replace(trial, space=self._space)
            return trial, _isolation_reason(cfg)

    @contextlib.contextmanager
    def in_job(self, trial: Trial) -> Iterator[None]:
        """Sets the context of a trial's job for the block, which checks or times something; see `asked`.

        An error inside of the block names the job. A trial of an earlier sweep has no job here, so nothing is set.
        """
        if not self._is_ours(trial):
            yield
            return
        try:
            with inside(self.compose(trial.number), self._ask):
                yield
        except (ConfigError, DataError) as error:
            raise of_job(trial.number, trial.overrides, error) from error

    def _ask(self) -> None:
        self.asked = True

    def train(self, assignment: Assignment, reporter: Reporter) -> Parts | Paused | None:
        """See `InProcessExecutor.train`; a stack of one trial is trained inside of its job."""
        stack = assignment.stack
        trials = [trial for trial in stack.trials if self._is_ours(trial)]
        if len(stack.trials) > 1 or not trials:
            return super().train(assignment, reporter)
        (trial,) = trials
        job = self.compose(trial.number)
        if trial.number in self._begun:  # it began in a stack that was split
            with inside(job):
                return super().train(assignment, reporter)
        train = super().train

        def task(_: Any) -> float:
            self._inside, self._value = trial.number, math.nan
            reveal_environment(job.hydra.job.env_set)
            try:
                train(assignment, reporter)
            finally:
                self._inside = None
            return self._value

        done = run_job(
            hydra_context=self._context,
            task_function=task,
            config=job,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        _ = done.return_value  # raises an error that is not the outcome of a trial; it ends the sweep
        self._keep(trial.number, done)
        return None

    def train_in_worker(self, assignment: Assignment, reporter: Reporter) -> Parts | Paused | None:
        """See `InProcessExecutor.train_in_worker`; code of a stack of one trial finds the context of its job."""
        (trial, *others) = assignment.stack.trials
        job = None if others else self._job_in_worker(trial)
        if job is None:
            return super().train_in_worker(assignment, reporter)
        with inside(job) as folder, _own_log_handlers():  # this process may do further stacks
            folder.mkdir(parents=True, exist_ok=True)
            configure_log(job.hydra.job_logging, job.hydra.verbose)
            if job.hydra.job.chdir:
                os.chdir(folder)
            return super().train_in_worker(assignment, reporter)

    def _job_in_worker(self, trial: Trial) -> DictConfig | None:
        """Returns the job of a trial, also if it was added after this process was forked; None for an earlier sweep."""
        own = self.trials.get(trial.number)
        if own is not None:
            return self.compose(trial.number) if own.fingerprint == trial.fingerprint else None
        is_later = trial.number not in self.numbers and any(one.sweep == trial.sweep for one in self.trials.values())
        return self._composer.compose(trial.overrides, trial.number) if is_later else None

    def on_started(self, event: Started) -> None:
        """Begins the job of a trial that is trained together with others, or by a worker."""
        if self._inside != event.trial.number and self._is_ours(event.trial):
            self._begin(event.trial)

    def _begin(self, trial: Trial) -> None:
        """Calls Hydra's callbacks for the start of a job, before the training, if one of them wants that."""
        callbacks = self._context.callbacks.callbacks
        if trial.number in self._begun or not any(_listens_to_starts(callback) for callback in callbacks):
            return
        self._begun.add(trial.number)
        with _own_log_handlers(), _reported_if_it_fails(trial):
            begin_job(self._context, self.compose(trial.number))

    def on_ended(self, event: Ended) -> None:
        """Finishes the job of a trial that was trained."""
        trial, outcome = event.trial, event.outcome
        if self._inside == trial.number:
            self._value = outcome.objective(trial.config)
            log_outcome(trial, outcome)
        elif self._is_ours(trial) and outcome.state is not TrialState.KILLED:
            self._finish(trial, outcome, lambda: log_outcome(trial, outcome))  # not a job of an earlier sweep

    def on_skipped(self, trial: Trial, outcome: Outcome, reason: str) -> None:
        """Finishes the job of a trial that is not trained.

        Args:
            trial: the trial.
            outcome: its outcome.
            reason: why it is not trained, for the log of the job.
        """
        self._finish(trial, outcome, lambda: log.info("%s: %s, %s", trial.name, outcome.state, reason))

    def finish_rest(self, outcomes: Mapping[str, Outcome]) -> None:
        """Finishes the jobs of trials that were stopped early. `on_ended` leaves them: a signal allows it no time."""
        for trial in self.trials.values():
            if trial.number not in self.returns:
                outcome = outcomes[trial.fingerprint]
                self._finish(trial, outcome, functools.partial(log_outcome, trial, outcome))

    def end_without_config(self, number: int, value: float) -> None:
        """Ends a job that has no config, because its overrides do not go together.

        Args:
            number: the number of the job.
            value: its return value.
        """
        done = JobReturn(overrides=list(self.overrides(number)), status=JobStatus.COMPLETED, _return_value=value)
        self._context.callbacks.on_job_end(config=OmegaConf.create(), job_return=done)
        self._keep(number, done)

    def _is_ours(self, trial: Trial) -> bool:
        """Whether a trial belongs to this launch, and not to an earlier sweep that is resumed."""
        own = self.trials.get(trial.number)
        return own is not None and own.fingerprint == trial.fingerprint and own.folder == trial.folder

    def _finish(self, trial: Trial, outcome: Outcome, lines: Callable[[], None]) -> None:
        job, value = self.compose(trial.number), outcome.objective(trial.config)
        begun = trial.number in self._begun
        with _own_log_handlers():
            with _reported_if_it_fails(trial):
                self._keep(trial.number, finish_job(self._context, job, value, lines, begun))
                return
            own, _ = split_job(job)
            done = JobReturn(overrides=list(trial.overrides), cfg=own, status=JobStatus.COMPLETED, _return_value=value)
            self._context.callbacks.on_job_end(config=job, job_return=done)
            self._keep(trial.number, done)

    def _keep(self, number: int, done: JobReturn) -> None:
        done.cfg = done.hydra_cfg = None
        self.returns[number] = done


def of_job(number: int, overrides: Sequence[str], error: UserError) -> UserError:
    """Adds the number and the overrides of a job to an error.

    Args:
        number: the number of the job.
        overrides: the overrides of the job.
        error: the error to add them to.
    """
    return error.inside(f"job {number} ({' '.join(overrides)})")


def _listens_to_starts(callback: Any) -> bool:
    return getattr(type(callback), "on_job_start", None) is not Callback.on_job_start


@contextlib.contextmanager
def _own_log_handlers() -> Iterator[None]:
    """Removes the log handlers that a job adds at the end of the block, so that later lines are not in its log."""
    root, mine = logging.getLogger(), logging.getLogger().handlers[:]
    try:
        yield
    finally:
        for handler in {*root.handlers} - {*mine}:
            handler.close()
        root.handlers[:] = mine


@contextlib.contextmanager
def _reported_if_it_fails(trial: Trial) -> Iterator[None]:
    """Reports an error with the files of a job, so that it does not stop the other trials of the stack."""
    try:
        yield
    except Exception as error:
        line = f"the files of job {trial.number} ({trial.name}) cannot be written: {one_line(error)}"
        print(printable(line), file=sys.stderr)


def _isolation_reason(job: DictConfig) -> str:
    """Returns why a job must be trained alone: it changes its process. An empty text if it does not."""
    for key in ("chdir", "env_set"):
        if job.hydra.job[key]:
            return f"hydra.job.{key} is set"
    return ""
