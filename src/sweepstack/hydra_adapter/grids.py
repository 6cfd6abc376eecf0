"""The jobs of a sweep: the grid that was typed, joined with the grids that files hold below `hydra.sweeper.params`.

Hydra reads `hydra.sweeper.params` from the config of the whole sweep alone, in which no group that is swept has been
chosen yet: of `sweeps=A,B` it would see neither grid. So each choice of groups is composed, and where one brings a grid
of its own, that grid is crossed with what was typed, for the jobs of this choice.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.ignored_settings import check_obeyed, grid_of
from sweepstack.hydra_adapter.private import child
from sweepstack.hydra_adapter.sweep_values import FEWER, MOST_JOBS, expand, has_dict, parse_overrides


def jobs_of(composer: Composer, master: DictConfig, arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of each job.

    Args:
        master: the config of the sweep.
        arguments: the overrides that were typed.

    Raises:
        HydraException: an override cannot be read.
        ConfigError: there is nothing to sweep, or too much, or a file says below hydra what nobody would obey.
    """
    grids = _Grids(composer, master)
    jobs = grids.cross(grid_of(master.hydra), parse_overrides(arguments))
    if grids.joined and len(grids.names) > 1 and not any(_names_sweep(line) for job in jobs for line in job):
        return [[*job, f"tracking.sweep={master.tracking.sweep}"] for job in jobs]  # one command is one sweep
    return jobs


class _Grids:
    def __init__(self, composer: Composer, master: DictConfig) -> None:
        self._composer, self._master = composer, master
        self.joined = False
        """Whether there is more than one grid."""
        self.names: set[str] = set()
        """Of the sweep, as the choices of files have it, unresolved."""

    def cross(self, params: Mapping[str, str], typed: Sequence[Override]) -> list[list[str]]:
        """The jobs of what was typed, with the grid of each choice of files.

        Args:
            params: the grid that the config has before these choices are made.
        """
        overrides = merged(parse_overrides([f"{key}={value}" for key, value in params.items()]), typed)
        axes = [expand(override, self._composer.options) for override in overrides]
        _check_count(math.prod(len(axis) for axis in axes))
        chosen = [self._composer.is_choice(override) for override in overrides]
        choices = [axis for axis, is_choice in zip(axes, chosen, strict=True) if is_choice]
        if not choices:
            return [list(job) for job in itertools.product(*axes)]
        grids = {choice: self._grid(choice, params) for choice in itertools.product(*choices)}
        if all(grid == params for grid in grids.values()):
            return [list(job) for job in itertools.product(*axes)]
        self.joined = True
        made = {override.get_key_element() for override, is_choice in zip(overrides, chosen, strict=True) if is_choice}
        free = [override for override in typed if override.get_key_element() not in made]
        jobs: list[list[str]] = []
        for choice, grid in grids.items():
            jobs += self.cross(grid, [*parse_overrides(choice), *free])
            _check_count(len(jobs))
        return jobs

    def _grid(self, choice: Sequence[str], params: Mapping[str, str]) -> Mapping[str, str]:
        """What is to be swept where files are chosen so."""
        try:
            cfg = self._composer.base(choice)
        except HydraException:  # the mistake is told when the jobs are composed, with the number of the job
            return params
        check_obeyed(cfg.hydra, self._master.hydra, " ".join(choice))
        with contextlib.suppress(OmegaConfBaseException, AttributeError):  # what is wrong with it is told by the job
            if (name := child(cfg.tracking, "sweep")) is not None:
                self.names.add(str(name))
        return grid_of(cfg.hydra)


def merged(params: Sequence[Override], typed: Sequence[Override]) -> list[Override]:
    """The overrides of a sweep in their order, without those that a later one of the same key replaces.

    A dict replaces nothing: Hydra merges it into the config, as in a single run. Nor does a second addition (`+key`) or
    deletion (`~key`) that is typed: it is the mistake that it is in a single run.

    Args:
        params: of the grid in the config, which what was typed replaces.
    """
    kept: list[tuple[Override, bool]] = []
    for override, is_param in [*((one, True) for one in params), *((one, False) for one in typed)]:
        key = override.get_key_element()
        twice = override.type in (OverrideType.ADD, OverrideType.DEL)
        for index, (other, was_param) in enumerate(kept):
            if other.get_key_element() != key or has_dict(other) or has_dict(override):
                continue
            if twice and is_param == was_param:
                continue
            if any(_meet(override, later) for later, _ in kept[index + 1 :]):
                del kept[index]
                kept.append((override, is_param))
            else:  # where Hydra has it: the first axes vary slowest
                kept[index] = (override, is_param)
            break
        else:
            kept.append((override, is_param))
    return [override for override, _ in kept]


def _meet(one: Override, other: Override) -> bool:
    """Whether the order of the two matters: one key leads to or into the other."""
    keys = sorted((f"{one.key_or_group}.", f"{other.key_or_group}."))
    return keys[1].startswith(keys[0])


def _check_count(count: int) -> None:
    if count > MOST_JOBS:
        raise ConfigError("a sweep must not be too large", f"{count:,} jobs", FEWER)


def _names_sweep(line: str) -> bool:
    return re.match(r"\+*tracking(\.sweep)?=", line) is not None
