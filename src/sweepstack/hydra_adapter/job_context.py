"""Inside of a Hydra job: what interpolations (`${hydra:job.num}`) and code (`HydraConfig.get()`) find there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict, read_write

from sweepstack.hydra_adapter.mask_inputs import reveal_environment
from sweepstack.hydra_adapter.private import set_parent


@contextlib.contextmanager
def inside(cfg: DictConfig, noticed: Callable[[], None] | None = None) -> Iterator[Path]:
    """As in the job: `HydraConfig` shows it, and its environment is set. Gives the output folder, which is not made.

    Args:
        cfg: the composed job with its node hydra, where the output folder is entered.
        noticed: called whenever code asks `HydraConfig` for more than the folder that the command began in.
    """
    shown = HydraConfig.instance()
    before = shown.cfg
    hydra = cfg.hydra
    OmegaConf.set_readonly(hydra, True)
    try:
        shown.cfg = cast("Any", alone(hydra))
        set_parent(hydra, cfg)  # its interpolations look for the user's keys there
        folder = Path(str(OmegaConf.select(cfg, "hydra.sweep.dir")), str(OmegaConf.select(cfg, "hydra.sweep.subdir")))
        with read_write(hydra.runtime), open_dict(hydra.runtime):
            hydra.runtime.output_dir = os.path.abspath(folder)
        if noticed is not None:
            shown.cfg = cast("Any", _Watched(shown.cfg, noticed))
        with env_override(hydra.job.env_set):
            reveal_environment(hydra.job.env_set)
            yield folder
    finally:
        shown.cfg = before


def alone(hydra: DictConfig) -> DictConfig:
    """A config with nothing but the node hydra, which is not copied but moved."""
    config = OmegaConf.create({})
    with flag_override(config, "no_deepcopy_set_nodes", True):
        config["hydra"] = hydra
    return config


class _Watched:
    """Stands for the config that `HydraConfig` holds."""

    def __init__(self, cfg: Any, noticed: Callable[[], None]) -> None:
        self._cfg, self._noticed = cfg, noticed

    @property
    def hydra(self) -> Any:
        asks = sys._getframe(2).f_globals.get("__name__")
        if asks != "hydra.utils":  # get_original_cwd and to_absolute_path, which give the same in all jobs
            self._noticed()
        return self._cfg.hydra

    def __contains__(self, key: object) -> bool:
        return key in self._cfg
