"""The door through which Hydra finds the sweeper of grids. Hydra imports this at every start: keep it light."""

import tempfile
from collections.abc import Sequence
from typing import Any, cast

from hydra._internal.core_plugins import basic_sweeper  # a class imported by name would be listed as found here
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


class SweepstackSweeper(basic_sweeper.BasicSweeper):
    """Hydra's basic sweeper, which leaves the check of the jobs to a launcher that makes it anyway."""

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        if not self._shows_a_plan(arguments):
            return super().sweep(arguments)
        with tempfile.TemporaryDirectory() as folder:  # of a plan nothing is kept
            place = self.config.hydra.sweep
            with read_write(place), open_dict(place):  # Hydra 1.4 locks each part
                place.dir = folder
            return super().sweep(arguments)

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

        if not isinstance(self.launcher, SweepstackLauncher):  # that one composes every job before the first one trains
            super().validate_batch_is_legal(batch)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="sweepstack",
    node=basic_sweeper.BasicSweeperConf(_target_="hydra_plugins.sweepstack.sweeper.SweepstackSweeper"),
    provider="sweepstack",
)
