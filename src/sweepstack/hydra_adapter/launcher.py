"""What stands behind Hydra's launcher: compose every job, check every job, plan, train, and give Hydra its returns."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweepstack.config.schema import Section
from sweepstack.errors import ConfigError, DataError, UserError, printable
from sweepstack.execution.scheduler import describe_duplicates, describe_work, execute, foreseen, identified
from sweepstack.execution.session import usable_store
from sweepstack.execution.worker import prepare
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.jobs import HydraJobs
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
        ConfigError: a job has a mistake in it; then none has trained. One line for each mistake of each job.
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
    trials, apart = _parse_jobs(jobs, config.hydra, composer.folders)
    task = config.hydra.job.name
    store = usable_store(trials, task) if not trials[0].run.launch.dry_run else Store(trials[0].run.tracking.uri)
    _prepare(trials, jobs)
    apart = apart or ("its code asks Hydra which job it is in" if jobs.asked else "")
    trials = identified(trials, jobs.inside)
    jobs.trials = {trial.number: trial for trial in trials}
    if trials[0].run.launch.dry_run:
        store.check()
        work, planned = foreseen(trials, store, apart, jobs.inside_of)
        lines = [
            *describe_duplicates(trials),
            *describe_work(work, every=True),
            *(describe(planned) if planned.stacks else []),
        ]
        print("\n".join(map(printable, lines)))
        raise SystemExit(0)
    outcomes = execute(trials, store, task, apart, jobs.run, jobs.ended, jobs.told, jobs.inside_of)
    jobs.finish_rest(outcomes)
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
    apart = ""
    for number in jobs.numbers:
        try:
            trial, why = jobs.parse(number, fixed, of_sweep)
            trials.append(trial)
            apart = apart or why
        except ConfigError as error:
            mistakes.append(_of_job(number, jobs.overrides(number), error))
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
    return trials, apart


def _prepare(trials: Sequence[Trial], jobs: HydraJobs) -> None:
    """The checks that need PyTorch and the data."""
    seen: set[str] = set()
    mistakes: list[UserError] = []
    for trial in trials:
        try:
            prepare(trial, seen, functools.partial(jobs.inside, trial.number))
        except (ConfigError, DataError) as error:
            mistakes.append(_of_job(trial.number, trial.overrides, error))
    if mistakes:
        raise ConfigError.of_all(mistakes)


def _of_job(number: int, overrides: Sequence[str], error: UserError) -> UserError:
    return error.inside(f"job {number} ({' '.join(overrides)})")
