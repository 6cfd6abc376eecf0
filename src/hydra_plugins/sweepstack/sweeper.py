"""The door through which Hydra finds the sweeper of grids. Hydra imports this at every start: keep it light."""

import tempfile
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins import basic_sweeper  # a class imported by name would be listed as found here
from hydra.core.config_store import ConfigStore
from omegaconf import open_dict


class SweepstackSweeper(basic_sweeper.BasicSweeper):
    """Hydra's basic sweeper, which leaves the check of the jobs to a launcher that makes it anyway."""

    def sweep(self, arguments: list[str]) -> Any:
        if not {argument.lower() for argument in arguments} & {"launch.dry_run=true", "++launch.dry_run=true"}:
            return super().sweep(arguments)
        assert self.config is not None
        with tempfile.TemporaryDirectory() as folder, open_dict(self.config):  # nothing of a plan is kept
            self.config.hydra.sweep.dir = folder
            return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        from hydra_plugins.sweepstack.launcher import SweepstackLauncher

        if not isinstance(self.launcher, SweepstackLauncher):  # that one composes every job before the first one trains
            super().validate_batch_is_legal(batch)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="sweepstack",
    node=basic_sweeper.BasicSweeperConf(_target_="hydra_plugins.sweepstack.sweeper.SweepstackSweeper"),
    provider="sweepstack",
)
