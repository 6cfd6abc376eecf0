"""What stands behind Hydra's launcher: compose every job, check every job, plan, train, and give Hydra its returns."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from sweepstack.errors import ConfigError, DataError, UserError
from sweepstack.sweeping.composing import Composer
from sweepstack.sweeping.finishing import finish_job
from sweepstack.sweeping.jobs import make_trial, split_job, varied_keys
from sweepstack.sweeping.plan import describe, plan, summary
from sweepstack.sweeping.recording import recording, usable_store, wait_for_quiet
from sweepstack.sweeping.runner import choose, estimate, log_outcome, prepare, run_stack
from sweepstack.trial import Ended, Event, Trial


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
    if trials[0].config.launch.dry_run:
        _prepare(composed, trials)
        print("\n".join(describe(plan(trials, estimate))))
        raise SystemExit(0)
    store = usable_store(trials)
    _prepare(composed, trials)
    planned = plan(trials, lambda configs: choose(configs, lambda: wait_for_quiet(store)))
    if len(trials) > 1:
        print(summary(planned))
    jobs = {trial.number: job for trial, job in zip(trials, composed, strict=True)}
    returns: dict[int, JobReturn] = {}
    with recording(trials, store, config.hydra.job.name) as emit:

        def take(event: Event) -> None:
            emit(event)
            if isinstance(event, Ended):
                trial, outcome = event.trial, event.outcome
                value = outcome.objective(trial.config)
                lines = functools.partial(log_outcome, trial, outcome)
                returns[trial.number] = finish_job(context, jobs[trial.number], value, lines)

        for stack in planned.stacks:
            run_stack(stack, take)
    return [returns[trial.number] for trial in trials]


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
