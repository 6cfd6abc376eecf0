"""The sweeper of grids for Hydra. Hydra imports this at every start, so it must import little."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins import sweeper  # a class imported by name would be listed as found here
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hydra_plugins.sweepstack._registering import register
from sweepstack.errors import ConfigError

if TYPE_CHECKING:
    from sweepstack.hydra_adapter.composer import Composer
    from sweepstack.hydra_adapter.jobs import HydraJobs


@dataclass
class _Settings:
    """The settings below hydra.sweeper: those of Hydra's basic sweeper, and a list of jobs."""

    _target_: str = "hydra_plugins.sweepstack.sweeper.SweepstackSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = field(default_factory=dict)
    jobs: str | None = None


class SweepstackSweeper(sweeper.Sweeper):
    """Sweeps grids as Hydra's basic sweeper does, but joins the grids of several files, and expands ranges in decimals.

    It leaves the check of the jobs to `SweepstackLauncher` if that is the launcher.

    Args:
        max_batch_size: the most jobs of one launch; None for no limit.
        params: the grid of the config. It is not used, because `jobs_of` reads it from the config.
        jobs: the path of a YAML file that lists the overrides of each job, instead of the grid of the config. What is
            typed multiplies them. It is not used here either.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, jobs: str | None = None
    ) -> None:
        self.max_batch_size = max_batch_size
        self._jobs: HydraJobs | None = None
        """The jobs of the sweep if another launcher trains them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from hydra_plugins.sweepstack.launcher import SweepstackLauncher
        from sweepstack.hydra_adapter.composer import Composer
        from sweepstack.hydra_adapter.grids import jobs_of
        from sweepstack.hydra_adapter.ignored_settings import trains_elsewhere
        from sweepstack.hydra_adapter.job_context import inside
        from sweepstack.hydra_adapter.search.read_space import searches
        from sweepstack.hydra_adapter.show_configs import asked
        from sweepstack.hydra_adapter.trials import asked_of

        assert self.config is not None
        assert self.hydra_context is not None
        composer = Composer(self.hydra_context.config_loader, self.config)
        if isinstance(self.launcher, SweepstackLauncher):
            self.launcher.composer = composer
        elif asked() is not None:
            raise ConfigError("--multirun --cfg shows jobs of hydra/launcher=sweepstack", remedy="choose that launcher")
        if searches(self.config, arguments):
            return self._search(composer, arguments)
        jobs = jobs_of(composer, self.config, arguments)
        composer.asked = asked_of(jobs)
        if trains_elsewhere(self.config):
            from sweepstack.hydra_adapter.launcher import check_jobs

            self._jobs = check_jobs(self.hydra_context, self.config, composer, jobs)
        elif not isinstance(self.launcher, SweepstackLauncher):  # that launcher checks the folders itself
            for number, overrides in enumerate(jobs):
                with inside(composer.compose(overrides, number)) as folder:
                    composer.folders.take(folder, number)
        if asked() is None and not self._shows_a_plan(arguments):
            return self._launch(jobs, self.max_batch_size)
        with self._without_files():
            self._launch(jobs, None)
        raise SystemExit(0)  # without it, Hydra would call callbacks for the end of a sweep

    def _search(self, composer: "Composer", arguments: list[str]) -> Sequence[JobReturn]:
        """Trains points of a space instead of a list of jobs."""
        from sweepstack.hydra_adapter.search.launcher import launch_search

        assert self.config is not None
        assert self.hydra_context is not None
        with self._without_files() if self._shows_a_plan(arguments) else contextlib.nullcontext():
            self._save_config()
            return launch_search(self.hydra_context, self.config, composer, arguments)

    @contextlib.contextmanager
    def _without_files(self) -> Iterator[None]:
        """Puts the files of the sweep into a temporary folder for the block: a dry run keeps none."""
        assert self.config is not None
        with tempfile.TemporaryDirectory() as folder:
            sweep = self.config.hydra.sweep
            with read_write(sweep), open_dict(sweep):  # Hydra 1.4 makes each section read-only
                sweep.dir = folder
            yield

    def _save_config(self) -> None:
        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")

    def _launch(self, jobs: list[list[str]], batch_size: int | None) -> list[Sequence[JobReturn]]:
        """Launches the jobs in batches, as Hydra's basic sweeper does."""
        assert self.launcher is not None
        self._save_config()
        returns: list[Sequence[JobReturn]] = []
        first = 0
        size = len(jobs) if batch_size in (None, -1) else batch_size
        assert size > 0
        for batch in (jobs[start : start + size] for start in range(0, len(jobs), size)):
            self.validate_batch_is_legal(batch)
            returns.append(self._launch_batch(batch, first))
            for done in returns[-1]:
                _ = done.return_value  # raises the error of the job
            first += len(batch)
        return returns

    def _launch_batch(self, batch: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        assert self.launcher is not None
        if self._jobs is None:
            return self.launcher.launch(batch, initial_job_idx=first)
        from sweepstack.hydra_adapter.launcher import launch_elsewhere

        return launch_elsewhere(self.launcher, self._jobs, batch, first)

    def _shows_a_plan(self, arguments: list[str]) -> bool:
        wanted = OmegaConf.select(cast("DictConfig", self.config), "launch.dry_run")
        for override in OverridesParser.create().parse_overrides(arguments):
            value = override.value() if not override.is_delete() else None
            if override.key_or_group == "launch" and isinstance(value, dict):
                wanted = value.get("dry_run", wanted)
            elif override.key_or_group == "launch.dry_run":
                wanted = value
        return wanted is True

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        from hydra_plugins.sweepstack.launcher import SweepstackLauncher

        if not isinstance(self.launcher, SweepstackLauncher):  # that launcher checks every job itself
            super().validate_batch_is_legal(batch)


register("hydra/sweeper", _Settings)
