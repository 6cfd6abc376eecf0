"""Makes interpolations (`${hydra:job.num}`) and code (`HydraConfig.get()`) see a Hydra job in a block."""

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
from sweepstack.hydra_adapter.private import child, set_parent


@contextlib.contextmanager
def inside(cfg: DictConfig, noticed: Callable[[], None] | None = None) -> Iterator[Path]:
    """Sets `HydraConfig` and the environment of a job for the block; yields its output folder without making it.

    Args:
        cfg: the composed job with its node hydra, which gets the output folder.
        noticed: called when code asks `HydraConfig` for anything except the folder that the command began in.
    """
    shown = HydraConfig.instance()
    before = shown.cfg
    hydra = cfg.hydra
    OmegaConf.set_readonly(hydra, True)
    try:
        shown.cfg = cast("Any", alone(hydra))
        set_parent(hydra, cfg)  # so that its interpolations find the user's keys
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
    """Makes a config that contains only the node hydra, which is moved and not copied."""
    config = OmegaConf.create({})
    with flag_override(config, "no_deepcopy_set_nodes", True):
        config["hydra"] = hydra
    return config


def split_job(cfg: DictConfig) -> tuple[DictConfig, DictConfig]:
    """Splits a composed job into the trial's own config and Hydra's part, which are moved and not copied."""
    own = OmegaConf.create({})
    with flag_override(own, "no_deepcopy_set_nodes", True):
        for key in cfg:
            if key != "hydra":
                own[key] = child(cfg, key)
    OmegaConf.copy_cache(from_config=cfg, to_config=own)  # so that cached resolvers return the values of the sweep
    return own, cfg.hydra


class _Watched:
    """Replaces the config in `HydraConfig`, and reports each access."""

    def __init__(self, cfg: Any, noticed: Callable[[], None]) -> None:
        self._cfg, self._noticed = cfg, noticed

    @property
    def hydra(self) -> Any:
        asks = sys._getframe(2).f_globals.get("__name__")
        if asks != "hydra.utils":  # its get_original_cwd and to_absolute_path return the same in all jobs
            self._noticed()
        return self._cfg.hydra

    def __contains__(self, key: object) -> bool:
        return key in self._cfg
