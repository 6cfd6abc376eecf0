"""The launcher that Hydra gives the jobs of a multirun. Hydra imports this at every start, so it must import little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.sweepstack._registering import register

if TYPE_CHECKING:
    from sweepstack.hydra_adapter.composer import Composer


class SweepstackLauncher(Launcher):
    """Checks every job before the first one trains, plans the jobs, and trains them in stacks in this process."""

    def __init__(self) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None
        self.composer: Composer | None = None
        """The composer of the sweeper, if it has one."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context = hydra_context
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from sweepstack.hydra_adapter.composer import Composer
        from sweepstack.hydra_adapter.launcher import launch

        assert self._context is not None
        assert self._config is not None
        self.composer = self.composer or Composer(self._context.config_loader, self._config)
        return launch(self._context, self._config, self.composer, job_overrides, initial_job_idx)


register("hydra/launcher", {"_target_": "hydra_plugins.sweepstack.launcher.SweepstackLauncher"})
