"""Launches a search: one launch, in which a strategy is asked for further points as workers become free."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from sweepstack.blame import contained
from sweepstack.config.fingerprint import Fingerprint
from sweepstack.errors import ConfigError, DataError, UserError, one_line, printable
from sweepstack.execution.open_store import ledger_of, usable_store
from sweepstack.execution.prepare import prepare
from sweepstack.execution.scheduler import execute
from sweepstack.execution.worker import load_data_of
from sweepstack.files.owner_only import FILE, make_folder
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.ignored_settings import check_searches
from sweepstack.hydra_adapter.jobs import HydraJobs, of_job
from sweepstack.hydra_adapter.launcher import begin, parse_jobs, show_plan
from sweepstack.hydra_adapter.output_folders import Folders
from sweepstack.hydra_adapter.search.read_space import SearchedJobs, read_search
from sweepstack.hydra_adapter.search.supply import (
    Budget,
    Search,
    check_search,
    describe_history,
    describe_space,
    digest_of,
    hint,
)
from sweepstack.hydra_adapter.show_configs import asked
from sweepstack.hydra_adapter.trials import asked_of, fixed_keys
from sweepstack.journal.unneeded import STUDIES_FOLDER
from sweepstack.search.strategy import Point
from sweepstack.tracking.experiments import experiment_name
from sweepstack.tracking.store import Store
from sweepstack.trial import Trial


def launch_search(
    context: HydraContext, config: DictConfig, composer: Composer, arguments: Sequence[str]
) -> list[JobReturn]:
    """Searches: trains points of a space one after the other, up to a budget. See `launch` for the returns and errors.

    Args:
        context: Hydra's context.
        config: the config of the multirun.
        composer: composes the jobs.
        arguments: the typed overrides.
    """
    begin(config)
    if asked() is not None:
        remedy = "choose search=grid; what a search trains is not known before it has begun"
        raise ConfigError("--multirun --cfg shows the jobs of a grid", f"search={config.search.name}", remedy)
    searched = read_search(composer, config, arguments)
    probes = HydraJobs(context, composer, searched.probes(), 0)
    found, _ = parse_jobs(probes, config.hydra, Folders())
    trial, run, task = found[0].config, found[0].run, config.hydra.job.name
    check_searches(config.hydra, run)
    searched = searched.with_seeds(trial.seed, run.search.seeds)
    check_search([one.config for one in found], run, len(searched.replicates))
    try:
        from sweepstack.search.optuna_strategy import OptunaStrategy
    except ImportError as error:
        rule = f"search={run.search.name} needs Optuna 4.4 or newer ({one_line(error)})"
        raise ConfigError(rule, remedy='pip install "sweepstack[search]"') from error
    store = Store(run.tracking.uri) if run.launch.dry_run else usable_store(run.tracking, task)
    probes.trials = {one.number: one for one in found}  # checks are done inside of their jobs
    checked = prepare(found, task, probes)
    _check_targets(checked.trials, probes)
    experiment = experiment_name(run.tracking.experiment, task, store.database)
    unresolved = OmegaConf.to_container(probes.compose(0), resolve=False)
    name = f"{run.search.name}-{digest_of(checked.trials, searched, experiment, unresolved)}"
    file = ledger_of(store, run.tracking.journal).folder / STUDIES_FOLDER / f"{name}.jsonl"
    shortest = min(one.config.epochs for one in found)
    budget = Budget(run.search, len(searched.replicates), shortest, checked.longest)
    jobs = HydraJobs(context, composer, [], 0)
    points = _PointJobs(jobs, composer, config, searched, task)
    with contextlib.nullcontext() if run.launch.dry_run else _lock(file):
        modes = [trial.mode, *(["min"] if run.search.name == "nsga2" else [])]
        strategy = OptunaStrategy(
            file,
            f"{experiment} {name}",
            run.search.name,
            run.search.seed,
            searched.space,
            modes,
            budget.width,
            writes=not run.launch.dry_run,
        )
        search = Search(strategy, searched.space, budget, points.make, trial.objective, trial.mode)
        about = [*describe_space(searched, budget), *describe_history(strategy.taken_over), *hint(run, searched.space)]
        for line in about:
            print(printable(line))
        trials = search.first_trials()
        if not trials:
            raise ConfigError.of_all(points.mistakes)
        reason = points.isolation_reason or (
            "its code asks Hydra which job it is in" if probes.asked or jobs.asked else ""
        )
        prepared = replace(checked, trials=tuple(trials), isolation_reason=reason)
        if run.launch.dry_run:
            show_plan(prepared, store, jobs, about)
        jobs.finish_rest(execute(prepared, store, jobs, [jobs], search))
    return [jobs.returns[number] for number in sorted(jobs.returns)]


def _check_targets(trials: Sequence[Trial], jobs: HydraJobs) -> None:
    """Checks that trials of unlike data are still compared on the same items: that these have the same targets.

    Args:
        trials: trials from all of the space, with their fingerprints; the first of each data are of one seed and fold.
        jobs: their jobs.

    Raises:
        ConfigError: the targets of the held-out items differ.
    """
    by_data: dict[str, Trial] = {}
    for trial in trials:
        by_data.setdefault(Fingerprint.parse(trial.fingerprint).data, trial)
    if len(by_data) == 1:
        return
    from sweepstack.training.hardware import one_thread

    known = None
    with one_thread():  # this process may be forked
        for trial in by_data.values():
            with jobs.in_job(trial), contained():
                targets = load_data_of(trial).held_out_targets
            if known is not None and not (known.shape == targets.shape and bool((known == targets).all())):
                one, other = trials[0].overrides, trial.overrides
                unlike = [" ".join(line for line in lines if line not in {*one} & {*other}) for lines in (one, other)]
                rule = "a search compares its trials on the same held-out items, and some have other data"
                raise ConfigError(rule, " and ".join(unlike), "type one search for each dataset")
            known = targets


class _PointJobs:
    """The jobs of points.

    Args:
        jobs: gets the jobs.
        composer: composes them.
        config: the config of the multirun.
        searched: what is searched.
        task: the name of the Hydra task.
    """

    def __init__(
        self, jobs: HydraJobs, composer: Composer, config: DictConfig, searched: SearchedJobs, task: str
    ) -> None:
        self._jobs, self._composer, self._config, self._searched = jobs, composer, config, searched
        self._task, self._fixed = task, fixed_keys(config.hydra)
        self.isolation_reason = ""
        """Why each trial must be trained alone; empty if it need not."""
        self.mistakes: list[UserError] = []
        """Of points that cannot be trained, such as for two of their values do not go together."""

    def make(self, points: Sequence[Point]) -> dict[int, list[Trial]]:
        """Makes the trials of points; none of a point that cannot be trained."""
        from sweepstack.training.hardware import one_thread

        with one_thread():  # this process may be forked
            return {point.number: self._trials_of(point) for point in points}

    def _trials_of(self, point: Point) -> list[Trial]:
        overrides = self._searched.jobs(self._searched.space.text(point.values))
        numbers = [self._jobs.add(lines) for lines in overrides]
        try:
            asked_for = zip(numbers, asked_of(overrides), strict=True)
            trials = [replace(self._parse(number), asked=seeds) for number, seeds in asked_for]
            self._jobs.trials |= {trial.number: trial for trial in trials}  # checks are done inside of their jobs
            prepared = prepare(trials, self._task, self._jobs)
        except (ConfigError, DataError) as error:
            self._refuse(numbers, error)
            return []
        self._jobs.trials |= {trial.number: trial for trial in prepared.trials}
        return [*prepared.trials]

    def _parse(self, number: int) -> Trial:
        try:
            trial, reason = self._jobs.parse(number, self._fixed, self._config.hydra)
        except ConfigError as error:
            raise of_job(number, self._jobs.overrides(number), error) from error
        self._composer.folders.take(trial.folder, number)
        self.isolation_reason = self.isolation_reason or reason
        return trial

    def _refuse(self, numbers: Sequence[int], error: UserError) -> None:
        print(f"{error}: counts as failed")
        self.mistakes.append(error)
        for number in numbers:
            self._jobs.trials.pop(number, None)
            self._jobs.end_without_config(number, math.nan)


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Holds the lock of a study for the block; waits for another command that does the same search."""
    make_folder(file.parent)
    lock = FileLock(file.with_suffix(".lock"), mode=FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("Another command does the same search: this one waits, and goes on from there.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
