"""What stands behind Hydra's launcher: compose every job, check every job, plan, train, and give Hydra its returns."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from sweepstack.errors import ConfigError, DataError, UserError, one_line
from sweepstack.sweeping.composing import Composer
from sweepstack.sweeping.finishing import finish_job
from sweepstack.sweeping.jobs import make_trial, split_job, varied_keys
from sweepstack.sweeping.plan import Stack, describe, plan, summary
from sweepstack.sweeping.recording import recording, usable_store, wait_for_quiet
from sweepstack.sweeping.runner import Emit, choose, estimate, log_outcome, prepare, run_stack
from sweepstack.trial import Ended, Event, Outcome, Trial


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
    composed = [composer.compose(overrides, number) for number, overrides in enumerate(job_overrides, start=first)]
    trials = _parsed(composed, job_overrides)
    apart = _why_apart(composed)
    if trials[0].config.launch.dry_run:
        _prepare(composed, trials)
        print("\n".join(describe(plan(trials, estimate, apart))))
        raise SystemExit(0)
    store = usable_store(trials)
    _prepare(composed, trials)
    planned = plan(trials, lambda configs: choose(configs, lambda: wait_for_quiet(store)), apart)
    if len(trials) > 1:
        print(summary(planned))
    jobs = {trial.number: job for trial, job in zip(trials, composed, strict=True)}
    returns: dict[int, JobReturn] = {}
    with recording(trials, store, config.hydra.job.name) as emit:
        for stack in planned.stacks:
            if len(stack.trials) == 1:
                (trial,) = stack.trials
                returns[trial.number] = _run_in_job(context, jobs[trial.number], stack, emit)
            else:
                returns |= _run_together(context, jobs, stack, emit)
    return [returns[trial.number] for trial in trials]


def _why_apart(composed: Sequence[DictConfig]) -> str:
    """What a job wants of its process, and can only have on its own."""
    for job in composed:
        for key in ("chdir", "env_set"):
            if job.hydra.job[key]:
                return f"hydra.job.{key} is set"
    return ""


def _run_in_job(context: HydraContext, job: DictConfig, stack: Stack, emit: Emit) -> JobReturn:
    """Trains a single trial inside Hydra's job, with the log, folder and environment that the job has there."""
    (trial,) = stack.trials

    def task(_: Any) -> float:
        outcomes: list[Outcome] = []

        def take(event: Event) -> None:
            emit(event)
            if isinstance(event, Ended):
                outcomes.append(event.outcome)
                log_outcome(trial, event.outcome)

        run_stack(stack, take)
        return outcomes[0].objective(trial.config)

    return run_job(
        hydra_context=context,
        task_function=task,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _run_together(
    context: HydraContext, jobs: Mapping[int, DictConfig], stack: Stack, emit: Emit
) -> dict[int, JobReturn]:
    """Trains the trials of a stack, and gives Hydra the job of each as soon as its outcome is known."""
    returns: dict[int, JobReturn] = {}

    def take(event: Event) -> None:
        emit(event)
        if not isinstance(event, Ended):
            return
        trial, value = event.trial, event.outcome.objective(event.trial.config)
        root, mine = logging.getLogger(), logging.getLogger().handlers[:]
        try:
            lines = functools.partial(log_outcome, trial, event.outcome)
            returns[trial.number] = finish_job(context, jobs[trial.number], value, lines)
        except Exception as error:  # a folder that cannot be written costs no other trial of the stack
            print(f"the files of job {trial.number} ({trial.name}) cannot be kept: {one_line(error)}", file=sys.stderr)
            own, _ = split_job(jobs[trial.number])
            done = JobReturn(overrides=list(trial.overrides), cfg=own, status=JobStatus.COMPLETED, _return_value=value)
            returns[trial.number] = done
            context.callbacks.on_job_end(config=jobs[trial.number], job_return=done)
        finally:
            for handler in {*root.handlers} - {*mine}:  # the next line is not one of this job
                handler.close()
            root.handlers[:] = mine

    run_stack(stack, take)
    return returns


def _parsed(composed: Sequence[DictConfig], job_overrides: Sequence[Sequence[str]]) -> list[Trial]:
    """The trials of the jobs."""
    varied = varied_keys(job_overrides)
    trials: list[Trial] = []
    mistakes: list[str] = []
    for job in composed:
        own, hydra = split_job(job)
        try:
            trials.append(make_trial(own, hydra, _folder(job), varied, in_sweep=True))
        except ConfigError as error:
            mistakes += _of_job(job, error)
    for section in ("tracking", "launch"):
        values = {getattr(trial.config, section) for trial in trials}
        if len(values) > 1:
            first, other, *_ = (dict(value) for value in values)
            mistakes.append(
                f"{section} must be the same for all jobs of a sweep, got {first} and {other}; do not sweep it"
            )
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return trials


def _prepare(composed: Sequence[DictConfig], trials: Sequence[Trial]) -> None:
    """The checks that need PyTorch and the data."""
    seen: set[str] = set()
    mistakes: list[str] = []
    for job, trial in zip(composed, trials, strict=True):
        try:
            prepare(trial.config, seen)
        except (ConfigError, DataError) as error:
            mistakes += _of_job(job, error)
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _folder(job: DictConfig) -> Path:
    """The output folder that Hydra will give the job."""
    return Path(str(job.hydra.sweep.dir), str(job.hydra.sweep.subdir)).absolute()


def _of_job(job: DictConfig, error: UserError) -> list[str]:
    overrides = " ".join(job.hydra.overrides.task)
    return [f"job {job.hydra.job.num} ({overrides}): {line}" for line in str(error).splitlines()]
