"""Lets programs that use sweepstack find its config groups. Every Hydra program imports this file at its start; for a
program that does not use sweepstack, nothing changes."""

import importlib
import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

GROUP = "sweeps"


class SweepsSource(ConfigSource):
    """Makes one folder of YAML files a group, and ignores everything beside the folder."""

    @staticmethod
    def scheme() -> str:
        return GROUP

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def _file(self, config_path: str) -> Path | None:
        group, _, name = config_path.rpartition("/")
        file = Path(self.path, self._normalize_file_name(name))
        return file if group == GROUP and file.is_file() else None

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [] if results_filter is ObjectType.CONFIG else [GROUP]
        if config_path != GROUP or results_filter is ObjectType.GROUP:
            return []
        return sorted(file.stem for file in Path(self.path).glob("*.yaml"))

    def load_config(self, config_path: str) -> ConfigResult:
        from sweepstack.hydra_adapter.user_program.groups import load

        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"Config not found: {config_path}")
        return load(self, file)


class SweepstackSearchPath(SearchPathPlugin):
    """Adds the groups of this package and named sweeps to the search path of a program that uses `sweepstack.app`, or
    whose main config names the launcher `sweepstack`. Other programs keep theirs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if "sweepstack.app" not in sys.modules:
            from sweepstack.hydra_adapter.user_program.groups import names_launcher

            if not names_launcher(search_path):
                return
            importlib.import_module("sweepstack.app")  # it has what a config on top of ours needs to be composed
        from sweepstack.hydra_adapter.user_program.groups import add_groups

        add_groups(search_path)
