"""Puts `conf/config.yaml` of this package below the main config of a program that uses it.

So each key that the program's configs leave out has its default: in what is trained, shown and recorded, and for
overrides such as `epochs=3`. A group that they choose themselves, and a section that they write themselves with a
`_target_`, has nothing of ours.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from sweepstack.hydra_adapter import private
from sweepstack.hydra_adapter.user_program.groups import PROVIDER, FileConfigSource, folder_of, is_ours
from sweepstack.paths import config_folder

BASE = "_sweepstack_"
"""The name of the config that comes before all others."""
GLOBAL = ("", "_global_")
"""Packages whose keys are those of the whole config."""


def put_base_below() -> None:
    """Makes Hydra compose every main config of this process on top of ours; only the first call has an effect."""
    private.change_files_of_each_config(_put_base_below)


def _put_base_below(files: Any, name: str | None, overrides: Sequence[Override]) -> None:
    """Changes the main config of a composition.

    Args:
        files: Hydra's repository of its config files.
        name: the name of the main config; None if there is none.
        overrides: what is typed.
    """
    sources = files.get_sources()
    folders = [folder for source in sources if (folder := folder_of(f"{source.scheme()}://{source.path}"))]
    if not any(map(is_ours, folders)):
        return
    sources.sort(key=lambda source: (source.provider == "schema", source.provider == PROVIDER))
    main = files.load_config(name or private.NO_MAIN_CONFIG)
    if main is None or _is_base(main, name):  # Hydra reports that there is none
        return
    chosen = {override.key_or_group: value for override in overrides if isinstance(value := override.value(), str)}
    sections = {*_sections(files, main, "", chosen)}
    base = copy.deepcopy(_load_base())
    groups = [one for one in base.defaults_list or [] if not _brings(one) & sections]
    recipes = [one for one in groups if isinstance(one, GroupDefault) and one.value is None]  # they come last
    base.defaults_list = [one for one in groups if one not in recipes]
    private.put_config(files, BASE, base)
    own: list[InputDefault] = list(main.defaults_list or [])
    overrides_of_groups = [one for one in own if one.is_override()]
    own = [one for one in own if not one.is_override()]
    if not any(one.is_self() for one in own):
        own.append(ConfigDefault(path="_self_"))  # where Hydra puts it
    first = ConfigDefault(path=f"/{BASE}", package="_global_")
    main.defaults_list = [first, *own, *recipes, *overrides_of_groups]


def _is_base(main: ConfigResult, name: str | None) -> bool:
    folder = folder_of(main.path)
    return name is not None and Path(name).stem == "config" and folder is not None and is_ours(folder)


@functools.cache
def _load_base() -> ConfigResult:
    return private.load_config(FileConfigSource(BASE, f"file://{config_folder()}"), "config")


def _brings(default: InputDefault) -> set[str]:
    return {default.group} if isinstance(default, GroupDefault) and not default.override and default.group else set()


def _sections(files: Any, config: ConfigResult, folder: str, chosen: Mapping[str, str]) -> Iterator[str]:
    """Yields the sections that a config brings as a whole: those of groups that it chooses, and its own with a target.

    Args:
        files: Hydra's repository of config files.
        config: the config, whose keys are those of the whole config.
        folder: the group that it is in.
        chosen: options of groups that are typed.
    """
    if isinstance(config.config, DictConfig) and not private.is_empty(config.config):
        yield from (str(key) for key in config.config if _is_whole(private.child(config.config, key)))
    for default in config.defaults_list or []:
        if default.is_self() or default.is_override():
            continue
        package = default.package
        if isinstance(default, GroupDefault):
            group = _absolute(folder, str(default.group))
            value = chosen.get(group, default.value)
            names = [f"{group}/{one}" for one in ([value] if isinstance(value, str) else value or [])]
            if package is None or package in GLOBAL:
                yield group.replace("/", ".")
        else:
            names = [_absolute(folder, str(default.path))] if isinstance(default, ConfigDefault) else []
        if package is not None and package not in GLOBAL:
            yield package
            continue
        for name in names:
            found = None if "${" in name or "???" in name else files.load_config(name)
            if found is not None and (package or found.header["package"] or name.rpartition("/")[0]) in GLOBAL:
                yield from _sections(files, found, name.rpartition("/")[0], chosen)


def _absolute(folder: str, name: str) -> str:
    return name.lstrip("/") if name.startswith("/") or not folder else f"{folder}/{name}"


def _is_whole(node: Any) -> bool:
    """Whether a section needs nothing of ours."""
    if node is None or private.is_interpolation(node):
        return True
    return isinstance(node, DictConfig) and not private.is_empty(node) and "_target_" in node
