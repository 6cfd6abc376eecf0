"""Refuses settings below `hydra` that would have no effect, so that they are not ignored silently.

Hydra reads the launcher, the sweeper with its grid, and a few other keys from the config of the sweep only. So these
have no effect in a file that only some jobs choose (`experiment=A,B`), and a grid has none without -m.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sweepstack.config.parsing import parse_search
from sweepstack.config.run_sections import SearchConfig
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


def check_grid(cfg: DictConfig, hydra: DictConfig) -> None:
    """Checks that the grid in a job's config was swept: the job's overrides have a value for each key of the grid, but
    for those that a search gives only some of its points.

    Args:
        cfg: the config of the job.
        hydra: its node hydra.

    Raises:
        ConfigError: a grid in a file has no effect.
    """
    values = {_key(line): line.partition("=")[2] for line in task_overrides(hydra)}
    lost = {key: value for key, value in grid_of(hydra).items() if _bare_key(key) not in values}
    if lost:
        absent = _absent(values, dict(parse_search(cfg).when))
        lost = {key: value for key, value in lost.items() if _bare_key(key) not in absent}
    if lost and hydra.mode != RunMode.MULTIRUN:
        known = _of_the_main_file(hydra)
        lost = {key: value for key, value in lost.items() if known.get(key) != value}
        remedy = "add -m to sweep, or leave out what brings the grid"
    else:
        remedy = (
            "sweep with hydra/sweeper=sweepstack, which joins the grids of files, or choose one file without a comma"
        )
    for key, value in lost.items():
        raise ConfigError(f"hydra.sweeper.params.{key} is a grid that nothing sweeps", value, remedy)


def _absent(values: Mapping[str, str], when: Mapping[str, str]) -> set[str]:
    """Returns the keys that a point does not have, because it does not fulfil their conditions.

    Args:
        values: the values of its keys.
        when: the condition of each key, as KEY=VALUE.
    """
    absent: set[str] = set()
    while (
        more := {
            _bare_key(key)
            for key, (other, _, text) in ((key, condition.partition("=")) for key, condition in when.items())
            if values.get(_bare_key(other), text) != text or _bare_key(other) in absent
        }
        - absent
    ):
        absent |= more
    return absent


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


def check_searches(hydra: DictConfig, run: RunConfig) -> None:
    """Checks that the section `search` is obeyed: by a search of the whole command, `search.zip` by a grid, too.

    Args:
        hydra: the node hydra of the sweep, or of a trial on its own.
        run: the run config of one of its jobs.

    Raises:
        ConfigError: a key would have no effect.
    """
    search = run.search
    typed = sorted(key for line in task_overrides(hydra) if (key := _key(line)).partition(".")[0] == "search")
    set_keys = [key for key, value in search if key != "name" and value != SearchConfig.model_fields[key].default]
    if {"search", "search.name"} & {*typed}:  # what a file has set for another choice goes with it
        set_keys = [key for key in set_keys if f"search.{key}" in typed or search.name != "grid"]
    in_sweep = hydra.mode == RunMode.MULTIRUN
    if in_sweep and OmegaConf.select(hydra, "sweeper.jobs", throw_on_missing=False) is not None:
        if typed and (search.name != "grid" or set_keys):
            rule = "hydra.sweeper.jobs lists what is trained, so nothing is searched"
            raise ConfigError(rule, ", ".join(typed), "leave one of the two out")
        return  # a file may bring the search that the listed jobs come from
    if search.name != "grid":
        _check_sweeper(hydra, f"search={search.name}", ("sweeper", "launcher"), "choose search=grid")
        if (size := OmegaConf.select(hydra, "sweeper.max_batch_size", throw_on_missing=False)) is not None:
            remedy = "leave it out; search.width says how many points train at a time"
            raise ConfigError("hydra.sweeper.max_batch_size has no effect on a search", size, remedy)
    elif "zip" in set_keys and (in_sweep or "search.zip" in typed):
        _check_sweeper(hydra, "search.zip", ("sweeper",), "leave it out")
    for key in set_keys if search.name == "grid" else ():
        if key != "zip":
            remedy = "choose a search, such as search=tpe, or leave it out"
            raise ConfigError(f"search.{key} has no effect on a grid", getattr(search, key), remedy)


def _check_sweeper(hydra: DictConfig, what: str, groups: Sequence[str], alternative: str) -> None:
    """Checks that a command is a sweep, with our sweeper or launcher.

    Args:
        hydra: its node hydra.
        what: what needs that, as typed.
        groups: which of the two.
        alternative: what a user can do instead.
    """
    if hydra.mode != RunMode.MULTIRUN:
        raise ConfigError(f"{what} needs a sweep", remedy=f"add -m, or {alternative}")
    for group in groups:
        chosen = hydra.runtime.choices.get(f"hydra/{group}")
        if chosen != "sweepstack":
            raise ConfigError(
                f"{what} needs hydra/{group}=sweepstack", chosen, f"leave out hydra/{group}, or {alternative}"
            )


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


def _key(line: str) -> str:
    """Returns the key of an override without what says that it adds or deletes."""
    return _bare_key(line.partition("=")[0])


def _bare_key(key: str) -> str:
    return key.lstrip("+~")
