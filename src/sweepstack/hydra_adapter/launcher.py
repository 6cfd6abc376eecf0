"""What stands behind Hydra's launcher: compose every job, check every job, plan, train, and give Hydra its returns."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweepstack.config.schema import Section
from sweepstack.errors import ConfigError, UserError, printable
from sweepstack.execution.describe import describe_duplicates, describe_work
from sweepstack.execution.open_store import usable_store
from sweepstack.execution.prepare import prepare
from sweepstack.execution.scheduler import execute, foresee
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.jobs import HydraJobs, of_job
from sweepstack.hydra_adapter.output_folders import Folders
from sweepstack.hydra_adapter.show_configs import asked, print_configs
from sweepstack.hydra_adapter.trials import OF_SWEEP, fixed_keys
from sweepstack.paths import begin_in
from sweepstack.planning.plan import describe
from sweepstack.tracking.store import Store
from sweepstack.trial import Trial


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
        ConfigError, DataError: a job has a mistake in it, or its data cannot be had; then none has trained. Of several
            mistakes there is one error with a line for each.
        StoreError: the store cannot be used.
        SystemExit: with `launch.dry_run`, after the plan has been printed; nothing has been trained or written.
    """
    setup_globals()
    begin_in(Path(config.hydra.runtime.cwd))
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    with contextlib.suppress(OmegaConfBaseException):  # what is wrong is told with the first job
        OmegaConf.to_container(config.tracking, resolve=True)  # once: all jobs get the name that the sweep has
    jobs = HydraJobs(context, composer, job_overrides, first)
    if (shown := asked()) is not None:
        if config.hydra.runtime.choices.get("hydra/sweeper") != "sweepstack":
            raise ConfigError(
                "--multirun --cfg shows the jobs of a grid",
                config.hydra.runtime.choices.get("hydra/sweeper"),
                "choose hydra/sweeper=sweepstack; what a search trains is not known before it has begun",
            )
        print_configs(((jobs.overrides(number), jobs.compose(number)) for number in jobs.numbers), shown)
        return []
    trials, isolation_reason = _parse_jobs(jobs, config.hydra, composer.folders)
    run, task = trials[0].run, config.hydra.job.name
    store = Store(run.tracking.uri) if run.launch.dry_run else usable_store(run.tracking, task)
    jobs.trials = {trial.number: trial for trial in trials}
    prepared = prepare(trials, task, jobs)
    jobs.trials = {trial.number: trial for trial in prepared.trials}
    isolation_reason = isolation_reason or ("its code asks Hydra which job it is in" if jobs.asked else "")
    prepared = replace(prepared, isolation_reason=isolation_reason)
    if run.launch.dry_run:
        store.check()
        work, planned = foresee(prepared, store, jobs)
        lines = [
            *describe_duplicates(prepared.trials),
            *describe_work(work, every=True),
            *(describe(planned) if planned.stacks else []),
        ]
        print("\n".join(map(printable, lines)))
        raise SystemExit(0)
    jobs.finish_rest(execute(prepared, store, jobs, [jobs]))
    return [jobs.returns[number] for number in jobs.trials]


def _parse_jobs(jobs: HydraJobs, of_sweep: DictConfig, folders: Folders) -> tuple[list[Trial], str]:
    """The trials of the jobs, and why each must be trained on its own, if it must.

    Args:
        of_sweep: the node hydra of the whole sweep's config.
        folders: of the jobs of earlier launches, too.
    """
    fixed = fixed_keys(of_sweep)
    trials: list[Trial] = []
    mistakes: list[UserError] = []
    isolation_reason = ""
    for number in jobs.numbers:
        try:
            trial, reason = jobs.parse(number, fixed, of_sweep)
            trials.append(trial)
            isolation_reason = isolation_reason or reason
        except ConfigError as error:
            mistakes.append(of_job(number, jobs.overrides(number), error))
    for section in OF_SWEEP:
        values = {getattr(trial.run, section) for trial in trials}
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
    for trial in trials:
        folders.take(trial.folder, trial.number)
    return trials, isolation_reason
