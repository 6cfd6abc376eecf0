"""Lets Hydra find the named sweeps: the folder sweeps/ beside conf/ becomes the group `sweeps`."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sweepstack.hydra_adapter import private

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
        return _loaded(self, file)


def _loaded(source: ConfigSource, file: Path) -> ConfigResult:
    """Reads the config in a file; an error says the line of the mistake."""
    from sweepstack.config.yaml_file import read_yaml
    from sweepstack.errors import ConfigError, one_line

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

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        if not file.is_file():
            raise ConfigLoadError(f"Config not found: {file}")
        return _loaded(self, file)


class SweepsSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        private.use_source("file", FileConfigSource)
        for element in search_path.get_path():
            if element.provider == "main" and element.path is not None:
                folder = Path(element.path.removeprefix("file://")).parent / GROUP
                search_path.append(GROUP, f"{GROUP}://{folder}")
                return
