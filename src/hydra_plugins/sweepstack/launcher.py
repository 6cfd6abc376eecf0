"""The door through which Hydra hands over the jobs of a multirun. Hydra imports this at every start: keep it light."""

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SweepstackLauncher(Launcher):
    """Checks every job before the first one trains, then trains them in this process."""

    def __init__(self) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context = hydra_context
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from sweepstack.sweeping.launcher import launch

        assert self._context is not None
        assert self._config is not None
        return launch(self._context, self._config, job_overrides, initial_job_idx)


ConfigStore.instance().store(
    group="hydra/launcher",
    name="sweepstack",
    node={"_target_": "hydra_plugins.sweepstack.launcher.SweepstackLauncher"},
    provider="sweepstack",
)
