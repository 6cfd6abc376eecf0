"""The work of Hydra's launcher: composes and checks every job, plans, trains, and makes the returns for Hydra.

Other launchers train each job in a process of its own, as a command of one trial; for them, only the checks are done.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweepstack.config.parsing import parse_search
from sweepstack.config.schema import RunConfig
from sweepstack.config.sections import Section
from sweepstack.errors import ConfigError, UserError, printable
from sweepstack.execution.describe import describe_duplicates, describe_parts, describe_work
from sweepstack.execution.open_store import usable_store
from sweepstack.execution.prepare import Prepared, prepare
from sweepstack.execution.scheduler import execute, foresee
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.ignored_settings import check_searches, check_trains
from sweepstack.hydra_adapter.jobs import HydraJobs, of_job
from sweepstack.hydra_adapter.output_folders import Folders
from sweepstack.hydra_adapter.show_configs import asked, print_configs
from sweepstack.hydra_adapter.trials import OF_SWEEP, fixed_keys
from sweepstack.paths import begin_in
from sweepstack.planning.compatibility import check_one_objective
from sweepstack.planning.plan import as_object, describe
from sweepstack.strict_json import is_reserved, print_json
from sweepstack.tracking.store import Store
from sweepstack.trial import Outcome, Trial


def launch(
    context: HydraContext,
    config: DictConfig,
    composer: Composer,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Plans and trains the jobs of a multirun. A job's return value is its objective, NaN if it failed.

    Args:
        context: Hydra's context.
        config: the config of the multirun.
        composer: composes the jobs; the same for all launches of an adaptive sweeper, which launches jobs one by one.
        job_overrides: the overrides of each job.
        first: the number of the first job.

    Raises:
        ConfigError, DataError: a job has a mistake, or its data cannot be loaded; then no job has trained. Several
            mistakes are one error with a line for each.
        StoreError: the store cannot be used.
        SystemExit: with `launch.dry_run`, after printing the plan; nothing was trained or written.
    """
    begin(config)
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
    trials, isolation_reason = parse_jobs(jobs, config.hydra, composer.folders)
    run, task = trials[0].run, config.hydra.job.name
    _check_search(config, run)
    if run.pruner.name == "threshold":
        check_one_objective([trial.config for trial in trials], "pruner=threshold")
    store = Store(run.tracking.uri) if run.launch.dry_run else usable_store(run.tracking, task)
    jobs.trials = {trial.number: trial for trial in trials}
    if composer.asked:
        trials = [replace(trial, asked=composer.asked[trial.number]) for trial in trials]
    prepared = prepare(trials, task, jobs)
    jobs.trials = {trial.number: trial for trial in prepared.trials}
    isolation_reason = isolation_reason or ("its code asks Hydra which job it is in" if jobs.asked else "")
    prepared = replace(prepared, isolation_reason=isolation_reason)
    if run.launch.dry_run:
        show_plan(prepared, store, jobs)
    outcomes = execute(prepared, store, jobs, [jobs])
    jobs.finish_rest(outcomes)
    if (key := _failure_rate_of(config.hydra)) is not None:
        for trial in prepared.trials:
            _fail(jobs.returns[trial.number], trial, outcomes[trial.fingerprint], key)
    return [jobs.returns[number] for number in jobs.trials]


def _failure_rate_of(hydra: DictConfig) -> str | None:
    """Returns the key that says how many failed jobs the sweeper takes, as those of Optuna and Nevergrad for Hydra
    have one; None if it has none, and expects a number of each job."""

    def keys(path: str, section: Any) -> Iterator[str]:
        for key, value in section.items() if isinstance(section, dict) else ():
            yield f"{path}.{key}"
            yield from keys(f"{path}.{key}", value)

    sweeper = OmegaConf.to_container(hydra.sweeper)
    return next((key for key in keys("hydra.sweeper", sweeper) if key.endswith(".max_failure_rate")), None)


def _fail(done: JobReturn, trial: Trial, outcome: Outcome, key: str) -> None:
    """Makes the return of a job that of a failed one, if its trial has no objective.

    Args:
        done: the return.
        trial: the trial of the job.
        outcome: how it has ended.
        key: see `_failure_rate_of`.
    """
    if not math.isfinite(outcome.objective(trial.config)):
        done.status = JobStatus.FAILED
        why = f": {outcome.reason}" if outcome.reason else f" without a finite {trial.config.objective}"
        done.return_value = UserError(f"{trial.name} {outcome.state}{why}", remedy=f"{key}=1 goes on after failures")


def _check_search(config: DictConfig, run: RunConfig) -> None:
    """Checks that the jobs say the same of a search as the sweep, which obeys its own config, and that it is obeyed.

    Args:
        config: the config of the multirun.
        run: the run config of one of its jobs.

    Raises:
        ConfigError: it is not.
    """
    check_searches(config.hydra, run)
    listed = OmegaConf.select(config, "hydra.sweeper.jobs", throw_on_missing=False)
    if listed is None and parse_search(config) != run.search:
        rule = "a search is of the whole sweep, and cannot come from a file that is swept"
        raise ConfigError(rule, f"search={run.search.name}", "choose that file without a comma")


def begin(config: DictConfig) -> None:
    """Does what comes first in each launch: the folder, the log and the name of the sweep."""
    setup_globals()
    begin_in(Path(config.hydra.runtime.cwd))
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    with contextlib.suppress(OmegaConfBaseException, ValueError):  # parsing the first job reports it
        OmegaConf.to_container(config.tracking, resolve=True)  # once, so that all jobs get the same sweep name


def show_plan(prepared: Prepared, store: Store, jobs: HydraJobs, about: Sequence[str] = ()) -> NoReturn:
    """Prints what would be trained; as JSON while standard output is reserved for it.

    Args:
        prepared: the trials.
        store: where they would be recorded.
        jobs: chooses the settings of the stacks.
        about: lines about its search that have been printed.

    Raises:
        SystemExit: always.
    """
    store.check()
    work, chosen = foresee(prepared, store, jobs)
    notes = [*describe_duplicates(prepared.trials), *describe_parts(prepared.trials, prepared.longest)]
    end = [chosen.reason] if chosen.reason else []
    if is_reserved():
        settled = [{"name": trial.name, "state": outcome.state} for trial, outcome, _ in work.settled]
        held = [trial.name for trial in work.held]
        notes = [*about, *notes, *describe_work(work), *end]
        print_json({**as_object(chosen.plan), "settled": settled, "trained_by_others": held, "notes": notes})
        raise SystemExit(0)
    lines = [*notes, *describe_work(work, every=True), *(describe(chosen.plan) if chosen.plan.stacks else []), *end]
    print("\n".join(map(printable, lines)))
    raise SystemExit(0)


class LauncherError(Exception):
    """Another launcher has raised its cause. Some of the jobs may never have reported.

    Args:
        jobs: all jobs of the sweep.
    """

    def __init__(self, jobs: HydraJobs) -> None:
        super().__init__("the launcher has failed")
        self.jobs = jobs


def check_jobs(
    context: HydraContext, config: DictConfig, composer: Composer, job_overrides: Sequence[Sequence[str]]
) -> HydraJobs:
    """Checks the jobs of a sweep that another launcher trains, as far as that needs neither data nor PyTorch.

    Args:
        context: Hydra's context.
        config: the config of the multirun.
        composer: composes the jobs.
        job_overrides: the overrides of each job.

    Raises:
        ConfigError: see `launch`.
    """
    jobs = HydraJobs(context, composer, job_overrides, 0)
    trials, _ = parse_jobs(jobs, config.hydra, composer.folders)
    check_trains(trials[0].run)
    _check_search(config, trials[0].run)
    jobs.trials = {trial.number: trial for trial in trials}
    return jobs


def launch_elsewhere(
    launcher: Launcher, jobs: HydraJobs, job_overrides: Sequence[Sequence[str]], first: int
) -> Sequence[JobReturn]:
    """Lets another launcher train some jobs of a sweep.

    Args:
        launcher: the launcher.
        jobs: all jobs of the sweep.
        job_overrides: the overrides of the jobs to launch.
        first: the number of the first one.

    Raises:
        LauncherError: the launcher has failed.
        UserError: jobs have a mistake, or their data cannot be obtained. The others have trained. A mistake of several
            jobs is told of the first.
    """
    try:
        returns = launcher.launch(job_overrides, initial_job_idx=first)
    except Exception as error:
        raise LauncherError(jobs) from error
    mistakes: dict[str, UserError] = {}
    for number, done in enumerate(returns, first):
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # Hydra would add a line of its own
                _ = done.return_value
        except UserError as error:
            mistakes.setdefault(str(error), of_job(number, jobs.overrides(number), error))
    if mistakes:
        raise UserError.of_all([*mistakes.values()])
    return returns


def parse_jobs(jobs: HydraJobs, of_sweep: DictConfig, folders: Folders) -> tuple[list[Trial], str]:
    """Makes the trials of the jobs; also returns why each must be trained alone, or an empty text.

    Args:
        jobs: the jobs of this launch.
        of_sweep: the node hydra of the sweep's config.
        folders: the output folders of all jobs, including those of earlier launches.

    Raises:
        ConfigError: jobs have mistakes.
    """
    fixed = fixed_keys(of_sweep)
    trials: list[Trial] = []
    wrong: dict[int, UserError] = {}
    isolation_reason = ""
    for number in jobs.numbers:
        try:
            trial, reason = jobs.parse(number, fixed, of_sweep)
            trials.append(trial)
            isolation_reason = isolation_reason or reason
        except ConfigError as error:
            wrong[number] = error
    if 1 < len(wrong) == len(jobs.numbers) and len({*map(str, wrong.values())}) == 1:
        raise next(iter(wrong.values()))  # it is no mistake of a job, but of the whole sweep
    mistakes = [of_job(number, jobs.overrides(number), error) for number, error in wrong.items()]
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
