"""What stands behind Hydra's launcher: compose every job, check every job, then train, and give Hydra its returns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from sweepstack.errors import ConfigError, DataError, UserError
from sweepstack.sweeping.jobs import make_trial, split_job, varied_keys
from sweepstack.sweeping.recording import recording, usable_store
from sweepstack.sweeping.runner import prepare, run_trial
from sweepstack.trial import Trial


def launch(
    context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Trains the jobs of a multirun, one after the other. A job's return value is its objective, NaN if it failed.

    Raises:
        ConfigError: a job has a mistake in it; then none has trained. One line for each mistake of each job.
        StoreError: the store cannot be used.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    composed = [_compose(context, config, overrides, first + place) for place, overrides in enumerate(job_overrides)]
    trials = _parsed(composed, job_overrides)
    store = usable_store(trials)
    _prepare(composed, trials)
    returns = []
    with recording(trials, store, config.hydra.job.name) as emit:
        for trial, cfg in zip(trials, composed, strict=True):

            def train(_: Any, trial: Trial = trial) -> float:
                return run_trial(trial, emit).objective(trial.config)

            returns.append(
                run_job(
                    hydra_context=context,
                    task_function=train,
                    config=cfg,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            )
    return returns


def _compose(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    cfg = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = str(number)
        cfg.hydra.job.num = number
    return cfg


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
    places = {trial.config.tracking for trial in trials}
    if len(places) > 1:
        first, other, *_ = (dict(place) for place in places)
        mistakes.append(f"tracking must be the same for all jobs of a sweep, got {first} and {other}; do not sweep it")
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
