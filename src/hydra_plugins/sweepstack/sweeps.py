"""The door through which Hydra finds the named sweeps: the folder sweeps/ beside conf/ becomes the group `sweeps`."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

GROUP = "sweeps"


class SweepsSource(ConfigSource):
    """Shows one folder of YAML files as one group, and nothing else of what lies beside it."""

    @staticmethod
    def scheme() -> str:
        return GROUP

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def _file(self, config_path: str) -> Path | None:
        group, _, name = config_path.rpartition("/")
        file = Path(self.path, name).with_suffix(".yaml")
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
        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"Config not found: {config_path}")
        text = file.read_text(encoding="utf-8")
        header = self._get_header_dict(text)
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(text),
            header=header,
        )


class SweepsSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if element.provider == "main" and element.path is not None:
                folder = Path(element.path.removeprefix("file://")).parent / GROUP
                search_path.append(GROUP, f"{GROUP}://{folder}")
                return
