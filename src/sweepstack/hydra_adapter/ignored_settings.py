"""Refuses settings below `hydra` that would have no effect, so that they are not ignored silently.

Hydra reads the launcher, the sweeper with its grid, and a few other keys from the config of the sweep only. So these
have no effect in a file that only some jobs choose (`experiment=A,B`), and a grid has none without -m.
"""

from __future__ import annotations

import contextlib
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sweepstack.config.schema import RunConfig
from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter.private import child, is_empty

OF_THE_SWEEP = ("mode", "launcher", "sweeper", "callbacks", "hydra_logging")
"""The sections below hydra that Hydra reads from the config of the sweep and never from that of a job."""


def trains_elsewhere(config: DictConfig) -> bool:
    """True if the launcher of a sweep trains its jobs in processes of their own.

    Args:
        config: the config of the sweep.
    """
    return launcher_of(config) not in ("sweepstack", "basic")


def launcher_of(config: DictConfig) -> str:
    """Returns the name of the launcher of a sweep."""
    return str(config.hydra.runtime.choices.get("hydra/launcher"))


def grid_of(hydra: DictConfig) -> dict[str, str]:
    """Returns `hydra.sweeper.params`: the values to sweep by the keys of overrides; empty if the sweeper has none."""
    params = OmegaConf.select(hydra, "sweeper.params", throw_on_missing=False)
    if not isinstance(params, DictConfig):
        return {}
    plain = cast("dict[str, Any]", OmegaConf.to_container(params, resolve=True))
    return {str(key): str(value) for key, value in plain.items()}


def task_overrides(hydra: DictConfig) -> list[str]:
    """Returns the typed overrides of a job or a sweep. (Iterating over the node would resolve interpolations.)"""
    return [str(line) for line in cast("list[Any]", OmegaConf.to_container(hydra.overrides.task, resolve=False))]


def check_obeyed(job: DictConfig, sweep: DictConfig, where: str = "") -> None:
    """Checks that a job has the same settings of the sweep as the config of the sweep, except the grid.

    Args:
        job: the node hydra of the job.
        sweep: the node hydra of the sweep.
        where: the name of the job in the error.

    Raises:
        ConfigError: a setting differs, and would have no effect.
    """
    for section in OF_THE_SWEEP:
        own, common = _plain_section(job, section), _plain_section(sweep, section)
        if own == common:
            continue
        key, value = f"hydra.{section}", own
        if isinstance(own, dict) and isinstance(common, dict):
            differs = [name for name in {**own, **common} if own.get(name) != common.get(name)]
            key, value = f"{key}.{differs[0]}", own.get(differs[0])
        raise ConfigError(
            f"{key} must be the same for all jobs of a sweep",
            value,
            f"choose what sets it for the whole sweep, without a comma, or give {key} on the command line",
            where=where,
        )


def check_grid(hydra: DictConfig, where: str = "") -> None:
    """Checks that the grid in a job's config was swept: the job's overrides have a value for each key of the grid.

    Args:
        hydra: the node hydra of the job.
        where: the name of the job in the error.

    Raises:
        ConfigError: a grid in a file has no effect.
    """
    had = {_bare_key(line.partition("=")[0]) for line in task_overrides(hydra)}
    lost = {key: value for key, value in grid_of(hydra).items() if _bare_key(key) not in had}
    if lost and hydra.mode != RunMode.MULTIRUN:
        known = _of_the_main_file(hydra)
        lost = {key: value for key, value in lost.items() if known.get(key) != value}
        remedy = "add -m to sweep, or leave out what brings the grid"
    else:
        remedy = (
            "sweep with hydra/sweeper=sweepstack, which joins the grids of files, or choose one file without a comma"
        )
    for key, value in lost.items():
        raise ConfigError(f"hydra.sweeper.params.{key} is a grid that nothing sweeps", value, remedy, where=where)


def check_trains(run: RunConfig) -> None:
    """Checks that nothing is asked for a trial on its own that only a plan of all trials can do.

    Raises:
        ConfigError: a plan is, or that trials are compared.
    """
    if run.pruner.compares:
        raise ConfigError(
            f"pruner={run.pruner.name} compares the trials of a sweep, which needs -m and hydra/launcher=sweepstack",
            remedy="add these two, or leave out the pruner",
        )
    if run.launch.dry_run:
        raise ConfigError(
            "launch.dry_run shows the plan of a sweep, which needs -m and hydra/launcher=sweepstack",
            remedy="add these two, or leave out launch.dry_run",
        )


def check_searches(config: DictConfig, run: RunConfig) -> None:
    """Checks that no search is asked for where another sweeper or launcher decides what is trained.

    Args:
        config: the config of the sweep.
        run: the run config of one of its jobs.

    Raises:
        ConfigError: it is.
    """
    if run.search.name == "grid" or OmegaConf.select(config, "hydra.sweeper.jobs", throw_on_missing=False) is not None:
        return
    for group, chosen in (
        ("sweeper", config.hydra.runtime.choices.get("hydra/sweeper")),
        ("launcher", launcher_of(config)),
    ):
        if chosen != "sweepstack":
            remedy = f"leave out hydra/{group}, or search=..."
            raise ConfigError(f"search={run.search.name} needs hydra/{group}=sweepstack", chosen, remedy)


def _of_the_main_file(hydra: DictConfig) -> dict[str, str]:
    """Returns the grid of the config without any override. It is no mistake without -m: the user did not choose it."""
    with contextlib.suppress(Exception):
        loader = GlobalHydra.instance().config_loader()
        return grid_of(loader.load_configuration(hydra.job.config_name, [], run_mode=RunMode.RUN).hydra)
    return {}


def _plain_section(hydra: DictConfig, section: str) -> Any:
    value = OmegaConf.select(hydra, section) if section == "mode" else child(hydra, section)
    if not isinstance(value, DictConfig) or is_empty(value):
        return value
    plain = cast("dict[str, Any]", OmegaConf.to_container(value, resolve=False))
    return {key: part for key, part in plain.items() if (section, key) != ("sweeper", "params")}


def _bare_key(key: str) -> str:
    return key.lstrip("+~")
