"""What stands behind Hydra's launcher: compose every job, check every job, plan, train, and give Hydra its returns."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from sweepstack.config import Section
from sweepstack.errors import ConfigError, DataError, UserError, one_line
from sweepstack.sweeping.composing import Composer
from sweepstack.sweeping.executing import execute, foreseen, identified, told
from sweepstack.sweeping.finishing import finish_job
from sweepstack.sweeping.jobs import make_trial, split_job, varied_keys
from sweepstack.sweeping.obeyed import check_grid, check_obeyed
from sweepstack.sweeping.plan import Stack, describe
from sweepstack.sweeping.recording import Recording, usable_store
from sweepstack.sweeping.runner import log_outcome, prepare, run_stack
from sweepstack.tracking.store import Store
from sweepstack.trial import Outcome, Trial, TrialState

log = logging.getLogger(__name__)


def launch(
    context: HydraContext,
    config: DictConfig,
    composer: Composer,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Plans and trains the jobs of a multirun. A job's return value is its objective, NaN if it failed.

    Args:
        composer: kept from launch to launch: an adaptive sweeper launches jobs one by one.
        first: number of the first job.

    Raises:
        ConfigError: a job has a mistake in it; then none has trained. One line for each mistake of each job.
        StoreError: the store cannot be used.
        SystemExit: with `launch.dry_run`, after the plan has been printed; nothing has been trained or written.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    jobs = _Jobs(context, composer, job_overrides, first)
    trials, apart = _parsed(jobs, job_overrides, config.hydra)
    if trials[0].config.launch.dry_run:
        _prepare(trials)
        store = Store(trials[0].config.tracking.uri)
        store.check()
        work, planned = foreseen(identified(trials), store, apart)
        print("\n".join([*told(work, every=True), *(describe(planned) if planned.stacks else [])]))
        raise SystemExit(0)
    store = usable_store(trials)
    _prepare(trials)
    jobs.trials = {trial.number: trial for trial in identified(trials)}
    known = [*jobs.trials.values()]
    outcomes = execute(known, store, config.hydra.job.name, apart, jobs.run, jobs.ended, jobs.told)
    jobs.finish_rest(outcomes)
    return [jobs.returns[number] for number in jobs.trials]


class _Jobs:
    """Hydra's jobs of a launch, each given its folder, files and return as soon as its outcome is known.

    A composed job takes 0.4 MB. So it is composed once to be checked and again when its files are written, and what
    Hydra gets back holds no config: that lies in the job's folder.
    """

    def __init__(
        self, context: HydraContext, composer: Composer, overrides: Sequence[Sequence[str]], first: int
    ) -> None:
        self._context, self._composer, self._overrides, self._first = context, composer, overrides, first
        self.trials: Mapping[int, Trial] = {}
        """By the number of the job."""
        self.returns: dict[int, JobReturn] = {}
        self._inside: int | None = None

    @property
    def numbers(self) -> range:
        """Of all jobs."""
        return range(self._first, self._first + len(self._overrides))

    def compose(self, number: int) -> DictConfig:
        """The config of a job, a new one at every call."""
        return self._composer.compose(self._overrides[number - self._first], number)

    def run(self, stack: Stack, recording: Recording, enough: Callable[[], bool]) -> None:
        """Trains a stack; one with a single trial inside Hydra's job, with the log, folder and environment of it."""
        trials = [trial for trial in stack.trials if self._is_ours(trial)]
        if len(stack.trials) > 1 or not trials:
            run_stack(stack, recording, enough)
            return
        (trial,) = trials

        def task(_: Any) -> float:
            self._inside = trial.number
            try:
                run_stack(stack, recording, enough)
            finally:
                self._inside = None
            return recording.outcome(trial).objective(trial.config)

        done = run_job(
            hydra_context=self._context,
            task_function=task,
            config=self.compose(trial.number),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        _ = done.return_value  # what is no outcome of a trial is raised here, and ends the sweep
        self._keep(trial.number, done)

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has been trained."""
        if self._inside == trial.number:
            log_outcome(trial, outcome)
        elif self._is_ours(trial) and outcome.state is not TrialState.KILLED:
            self._finish(trial, outcome, lambda: log_outcome(trial, outcome))  # else an earlier sweep has begun it

    def told(self, trial: Trial, outcome: Outcome, why: str) -> None:
        """A trial needs no training."""
        self._finish(trial, outcome, lambda: log.info("%s: %s, %s", trial.name, outcome.state, why))

    def finish_rest(self, outcomes: Mapping[str, Outcome]) -> None:
        """The jobs of trials that were stopped early: when a signal does that, there is no time for their files."""
        for trial in self.trials.values():
            if trial.number not in self.returns:
                outcome = outcomes[trial.fingerprint]
                self._finish(trial, outcome, functools.partial(log_outcome, trial, outcome))

    def _is_ours(self, trial: Trial) -> bool:
        own = self.trials.get(trial.number)
        return own is not None and own.fingerprint == trial.fingerprint and own.folder == trial.folder

    def _finish(self, trial: Trial, outcome: Outcome, lines: Callable[[], None]) -> None:
        job, value = self.compose(trial.number), outcome.objective(trial.config)
        root, mine = logging.getLogger(), logging.getLogger().handlers[:]
        try:
            self._keep(trial.number, finish_job(self._context, job, value, lines))
        except Exception as error:  # a folder that cannot be written costs no other trial of the stack
            print(f"the files of job {trial.number} ({trial.name}) cannot be kept: {one_line(error)}", file=sys.stderr)
            own, _ = split_job(job)
            done = JobReturn(overrides=list(trial.overrides), cfg=own, status=JobStatus.COMPLETED, _return_value=value)
            self._context.callbacks.on_job_end(config=job, job_return=done)
            self._keep(trial.number, done)
        finally:
            for handler in {*root.handlers} - {*mine}:  # the next line is not one of this job
                handler.close()
            root.handlers[:] = mine

    def _keep(self, number: int, done: JobReturn) -> None:
        done.cfg = done.hydra_cfg = None
        self.returns[number] = done


def _why_apart(job: DictConfig) -> str:
    """What a job wants of its process, and can only have on its own."""
    for key in ("chdir", "env_set"):
        if job.hydra.job[key]:
            return f"hydra.job.{key} is set"
    return ""


def _parsed(jobs: _Jobs, job_overrides: Sequence[Sequence[str]], of_sweep: DictConfig) -> tuple[list[Trial], str]:
    """The trials of the jobs, and why each must be trained on its own, if it must.

    Args:
        of_sweep: the node hydra of the whole sweep's config.
    """
    varied = varied_keys(job_overrides)
    trials: list[Trial] = []
    mistakes: list[UserError] = []
    apart = ""
    for number in jobs.numbers:
        job = jobs.compose(number)
        apart = apart or _why_apart(job)
        own, hydra = split_job(job)
        try:
            check_obeyed(hydra, of_sweep)
            check_grid(hydra)
            trials.append(make_trial(own, hydra, _folder(job), varied, in_sweep=True))
        except ConfigError as error:
            mistakes.append(_of_job(number, list(job.hydra.overrides.task), error))
    for section in ("tracking", "launch", "rerun", "retries", "max_failures", "checkpoint"):
        values = {getattr(trial.config, section) for trial in trials}
        if len(values) > 1:
            first, other, *_ = (dict(value) if isinstance(value, Section) else value for value in values)
            mistakes.append(
                ConfigError(
                    f"{section} must be the same for all jobs of a sweep, got {first} and {other}",
                    remedy="do not sweep it",
                )
            )
    if mistakes:
        raise ConfigError.of_all(mistakes)
    return trials, apart


def _prepare(trials: Sequence[Trial]) -> None:
    """The checks that need PyTorch and the data."""
    seen: set[str] = set()
    mistakes: list[UserError] = []
    for trial in trials:
        try:
            prepare(trial.config, seen)
        except (ConfigError, DataError) as error:
            mistakes.append(_of_job(trial.number, trial.overrides, error))
    if mistakes:
        raise ConfigError.of_all(mistakes)


def _folder(job: DictConfig) -> Path:
    """The output folder that Hydra will give the job."""
    return Path(str(job.hydra.sweep.dir), str(job.hydra.sweep.subdir)).absolute()


def _of_job(number: int, overrides: Sequence[str], error: UserError) -> UserError:
    return error.inside(f"job {number} ({' '.join(overrides)})")
