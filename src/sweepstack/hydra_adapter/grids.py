"""Makes the jobs of a sweep: joins the typed grid with the grids of files, which are below `hydra.sweeper.params`.

Hydra reads `hydra.sweeper.params` from the config of the whole sweep only, before any swept group is chosen: of
`sweeps=A,B` it would see neither grid. So each choice of groups is composed here. If a choice has its own grid, the
jobs of that choice get the product of this grid and the typed one.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweepstack.config.parsing import parse_search
from sweepstack.errors import ConfigError, did_you_mean, one_line
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.ignored_settings import check_obeyed, grid_of
from sweepstack.hydra_adapter.private import child
from sweepstack.hydra_adapter.sweep_values import FEWER, MOST_JOBS, expand, has_dict, parse_overrides


def jobs_of(composer: Composer, master: DictConfig, arguments: Sequence[str]) -> list[list[str]]:
    """Returns the overrides of each job.

    Args:
        composer: composes the choices of groups.
        master: the config of the sweep.
        arguments: the typed overrides.

    Raises:
        HydraException: an override cannot be read.
        ConfigError: there is nothing to sweep, or too much, or a file has a setting below hydra that has no effect.
    """
    if (file := OmegaConf.select(master, "hydra.sweeper.jobs")) is not None:
        axes = [expand(override, composer.options) for override in parse_overrides(arguments)]
        listed = _listed(Path(str(file)))
        _check_count(len(listed) * math.prod(len(axis) for axis in axes))
        return [[*typed, *own] for typed in itertools.product(*axes) for own in listed]
    grids = _Grids(composer, master)
    jobs = grids.cross(grid_of(master.hydra), parse_overrides(arguments))
    if grids.joined and len(grids.names) > 1 and not any(_names_sweep(line) for job in jobs for line in job):
        return [[*job, f"tracking.sweep={master.tracking.sweep}"] for job in jobs]  # one command is one sweep
    return jobs


def _listed(file: Path) -> list[list[str]]:
    """Reads the overrides of each job from a YAML file with the key `jobs`.

    Raises:
        ConfigError: the file cannot be read, or has no such list.
    """
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        rule = f"hydra.sweeper.jobs cannot be read ({one_line(error)})"
        raise ConfigError(rule, str(file), "name a YAML file with a list of the overrides of each job") from error
    jobs = found.get("jobs") if isinstance(found, dict) else None
    if not isinstance(jobs, list) or not jobs or not all(_are_texts(job) for job in jobs):
        rule = "hydra.sweeper.jobs must be a YAML file with a list of the overrides of each job"
        raise ConfigError(rule, str(file), "for example jobs: [[optimizer.lr=0.1, seed=3], [optimizer.lr=0.2, seed=3]]")
    return jobs


def _are_texts(job: Any) -> bool:
    return isinstance(job, list) and all(isinstance(line, str) for line in job)


class _Grids:
    def __init__(self, composer: Composer, master: DictConfig) -> None:
        self._composer, self._master = composer, master
        self._zipped = parse_search(master).zip
        self.joined = False
        """Whether there is more than one grid."""
        self._brings_search = ""
        """The search that a file brings which only some jobs choose."""
        self.names: set[str] = set()
        """The names of the sweep in the configs of the choices, not resolved."""

    def cross(self, params: Mapping[str, str], typed: Sequence[Override]) -> list[list[str]]:
        """Returns the jobs of the typed overrides, with the grid of each choice of files.

        Args:
            params: the grid of the config before these choices.
            typed: the typed overrides.
        """
        overrides = merged(parse_overrides([f"{key}={value}" for key, value in params.items()]), typed)
        axes = [expand(override, self._composer.options) for override in overrides]
        _check_count(math.prod(len(axis) for axis in zipped(overrides, axes, self._zipped)))
        chosen = [self._composer.is_choice(override) for override in overrides]
        choices = [axis for axis, is_choice in zip(axes, chosen, strict=True) if is_choice]
        if not choices:
            return self._product(overrides, axes)
        grids = {choice: self._grid(choice, params) for choice in itertools.product(*choices)}
        if all(grid == params for grid in grids.values()):
            return self._product(overrides, axes)
        self.joined = True
        made = {override.get_key_element() for override, is_choice in zip(overrides, chosen, strict=True) if is_choice}
        free = [override for override in typed if override.get_key_element() not in made]
        if self._brings_search and not {"search", "search.name"} & {one.key_or_group for one in typed}:
            rule = "a search is of the whole sweep, and cannot come from a file that is swept"
            raise ConfigError(rule, self._brings_search, "choose that file without a comma")
        jobs: list[list[str]] = []
        for choice, grid in grids.items():
            jobs += self.cross(grid, [*parse_overrides(choice), *free])
            _check_count(len(jobs))
        return jobs

    def _product(self, overrides: Sequence[Override], axes: Sequence[Sequence[str]]) -> list[list[str]]:
        joined = zipped(overrides, axes, self._zipped)
        return [[line for lines in job for line in lines] for job in itertools.product(*joined)]

    def _grid(self, choice: Sequence[str], params: Mapping[str, str]) -> Mapping[str, str]:
        """Returns the grid of the config with these choices of files."""
        try:
            cfg = self._composer.base(choice)
        except HydraException:  # composing the jobs reports it, with the number of the job
            return params
        check_obeyed(cfg.hydra, self._master.hydra, " ".join(choice))
        if (sampler := parse_search(cfg).name) not in ("grid", parse_search(self._master).name):
            self._brings_search = f"search={sampler}"
        with contextlib.suppress(OmegaConfBaseException, AttributeError):  # parsing the job reports it
            if (name := child(cfg.tracking, "sweep")) is not None:
                self.names.add(str(name))
        return grid_of(cfg.hydra)


def zipped(
    overrides: Sequence[Override], axes: Sequence[Sequence[str]], keys: Sequence[Sequence[str]]
) -> list[list[tuple[str, ...]]]:
    """Returns axes whose elements are overrides side by side: several for keys that are zipped, else one.

    Args:
        overrides: the swept overrides.
        axes: the values of each, as overrides.
        keys: groups of keys whose values are read side by side; each key once.

    Raises:
        ConfigError: such a key is not swept, or their lists are not of one length.
    """
    index = {override.get_key_element(): number for number, override in enumerate(overrides)}
    first: dict[int, list[int]] = {number: [number] for number in range(len(axes))}
    for group in keys:
        for key in group:
            if key not in index:
                raise ConfigError("search.zip names keys that are swept", key, did_you_mean(key, index))
        numbers = sorted(index[key] for key in group)
        if len({len(axes[number]) for number in numbers}) > 1:
            lengths = ", ".join(f"{key}: {len(axes[index[key]])}" for key in group)
            rule = "lists that search.zip reads side by side must have one length"
            raise ConfigError(rule, lengths, "give each as many values")
        for number in numbers[1:]:
            del first[number]
        first[numbers[0]] = numbers
    return [list(zip(*(axes[number] for number in numbers), strict=True)) for numbers in first.values()]


def merged(params: Sequence[Override], typed: Sequence[Override]) -> list[Override]:
    """Returns the overrides of a sweep in order, without those that a later one of the same key replaces.

    A dict replaces nothing, because Hydra merges it into the config, as in a single run. A second typed addition
    (`+key`) or deletion (`~key`) replaces nothing either: it is an error, as in a single run.

    Args:
        params: the overrides of the grid in the config. Typed ones replace them.
        typed: the typed overrides.
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
            else:  # in Hydra's position: the first axes vary slowest
                kept[index] = (override, is_param)
            break
        else:
            kept.append((override, is_param))
    return [override for override, _ in kept]


def _meet(one: Override, other: Override) -> bool:
    """Whether the order of two overrides matters: their keys are equal, or one is inside of the other."""
    keys = sorted((f"{one.key_or_group}.", f"{other.key_or_group}."))
    return keys[1].startswith(keys[0])


def _check_count(count: int) -> None:
    if count > MOST_JOBS:
        raise ConfigError("a sweep must not be too large", f"{count:,} jobs", FEWER)


def _names_sweep(line: str) -> bool:
    return re.match(r"\+*tracking(\.sweep)?=", line) is not None
