"""The config groups and named sweeps of this package, on the search path of a program that uses it.

They come last: a config of the user's with the same name goes first, wherever Hydra finds it: in a file, or in Hydra's
store of structured configs.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sweepstack.config.yaml_file import read_yaml
from sweepstack.errors import ConfigError, one_line
from sweepstack.hydra_adapter import private
from sweepstack.paths import config_folder, sweeps_folder

PROVIDER = "sweepstack"
"""Whose entries they are, as `--info searchpath` says it."""
NAMES_LAUNCHER = re.compile(r"^\s*-\s*(override\s+)?/?hydra/launcher\s*:\s*[\"']?sweepstack\b", re.MULTILINE)
"""Matches the line of a defaults list that chooses the launcher `sweepstack`."""


def load(source: ConfigSource, file: Path) -> ConfigResult:
    """Reads the config in a file.

    Args:
        source: where it was found.
        file: the file.

    Raises:
        ConfigError: it cannot be read, or used; with the line of the mistake.
    """
    text = read_yaml(file)
    try:
        config, header = OmegaConf.create(text), private.header(text)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"config file {file} cannot be used: {one_line(error)}", remedy="correct it") from error
    return ConfigResult(source.provider, f"{source.scheme()}://{source.path}", config, header)


class FileConfigSource(private.FileSource):
    """Hydra's source of files, but with `yaml_file.read_yaml` as the reader.

    It has the name of Hydra's class, because Hydra treats a class with another name as a second one of the same scheme.
    """

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a config; one of this package is not if the program has stored one of that name."""
        stored = ConfigStore.instance().get_type(self._normalize_file_name(config_path)) is ObjectType.CONFIG
        return bool(super().is_config(config_path)) and not (stored and self.provider == PROVIDER)

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        if not file.is_file():
            raise ConfigLoadError(f"Config not found: {file}")
        return load(self, file)


def add_groups(search_path: ConfigSearchPath) -> None:
    """Adds the groups of this package, and the folders `sweeps` of the program and of this package."""
    private.use_source("file", FileConfigSource)
    folders = []
    if (main := main_folder(search_path)) is not None:
        folders.append(main.parent / "sweeps")
    if main is None or not is_ours(main):
        search_path.append(PROVIDER, f"file://{config_folder()}")
        folders.append(sweeps_folder())
    for folder in filter(Path.is_dir, folders):  # Hydra would warn of one that is not there
        search_path.append("sweeps", f"sweeps://{folder}")


def main_folder(search_path: ConfigSearchPath) -> Path | None:
    """Returns the folder of the program's main config; None if it has none, or is not in a folder."""
    for element in search_path.get_path():
        if element.provider == "main" and element.path is not None:
            return folder_of(element.path)
    return None


def folder_of(path: str) -> Path | None:
    """Returns the folder that an entry of a search path names, `file://DIR` or `pkg://package/folder`."""
    scheme, separator, name = path.rpartition("://")
    if not separator or scheme == "file":
        return Path(os.path.abspath(name))
    if scheme != "pkg":
        return None
    try:
        found = importlib.util.find_spec(name.strip("/").replace("/", "."))
    except (ImportError, ValueError):
        return None
    folders = [*(found.submodule_search_locations or ())] if found is not None else []
    return Path(folders[0]) if folders else None


def is_ours(folder: Path) -> bool:
    """Whether a folder is that of this package's own configs."""
    try:
        return folder.samefile(config_folder())
    except OSError:
        return False


def names_launcher(search_path: ConfigSearchPath) -> bool:
    """Whether the main config of the program that Hydra is starting chooses the launcher `sweepstack`."""
    folder, name = main_folder(search_path), private.starting_config_name()
    if folder is None or name is None:
        return False
    try:
        text = (folder / f"{name.removesuffix('.yaml')}.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):  # Hydra reports it
        return False
    return NAMES_LAUNCHER.search(text) is not None
