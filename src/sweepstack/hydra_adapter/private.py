"""All code that uses private parts of Hydra and OmegaConf.

Each function says what it does, and which public way exists; `tricks.tricks` says whether to use that. All were tested
with Hydra 1.3.8 and OmegaConf 2.3.1, and tests/hydra_adapter/test_private.py fails if one no longer fits.
"""

from __future__ import annotations

import functools
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import yaml
from hydra._internal import config_loader_impl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.grammar import grammar_functions
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.types import Override
from hydra.core.utils import _flush_loggers
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from sweepstack.errors import ConfigError
from sweepstack.private_api_switch import tricks

NO_MAIN_CONFIG = "_dummy_empty_config_"
"""Hydra's name for the main config of a program that has none."""
FileSource = FileConfigSource
"""Hydra's source of config files, as a base class. The public way is to write it again."""


def change_each_config(change: Callable[[DictConfig], None]) -> None:
    """Makes Hydra call `change` with every config that it composes in this process; only the first call has an effect.

    There is no public way: Hydra passes a config to others before it calls callbacks.
    """
    loader = config_loader_impl.ConfigLoaderImpl
    load: Callable[..., DictConfig] = loader.load_configuration
    if getattr(load, "changes", False):
        return

    @functools.wraps(load)
    def changing(*args: Any, **extra: Any) -> DictConfig:
        config = load(*args, **extra)
        change(config)
        return config

    changing.changes = True  # type: ignore[attr-defined]
    loader.load_configuration = changing  # type: ignore[method-assign]


def change_files_of_each_config(change: Callable[[Any, str | None, Sequence[Override]], None]) -> None:
    """Makes Hydra call `change` before it composes a config in this process, with its repository of config files, the
    name of the main config and the parsed overrides; only the first call has an effect.

    There is no public way: Hydra reads the defaults list of the main config by itself.
    """
    loader = config_loader_impl.ConfigLoaderImpl
    read: Callable[..., tuple[list[Override], Any]] = loader._parse_overrides_and_create_caching_repo
    if getattr(read, "changes", False):
        return

    @functools.wraps(read)
    def changing(self: Any, config_name: str | None, *rest: Any, **named: Any) -> tuple[list[Override], Any]:
        overrides, files = read(self, config_name, *rest, **named)
        change(files, config_name, overrides)
        return overrides, files

    changing.changes = True  # type: ignore[attr-defined]
    loader._parse_overrides_and_create_caching_repo = changing  # type: ignore[method-assign]


def load_config(source: ConfigSource, name: str) -> ConfigResult:
    """Reads a config with its defaults list. There is no public way."""
    repository = ConfigRepository(ConfigSearchPathImpl())
    repository.sources = [source]
    found = repository.load_config(name)
    assert found is not None
    return found


def put_config(files: Any, name: str, config: ConfigResult) -> None:
    """Adds a config to Hydra's repository of config files under a name. There is no public way."""
    files.cache[f"config_path={name}"] = config


def starting_config_name() -> str | None:
    """Returns the name of the main config of the program that Hydra is starting; None if that is not known.

    There is no public way: a plug-in of the search path is told the folders only.
    """
    frame = sys._getframe(1)
    while frame.f_code.co_name != "_run_hydra":
        if frame.f_back is None:
            return None
        frame = frame.f_back
    name = frame.f_locals.get("config_name")
    return name if isinstance(name, str) else None


def arguments_parser() -> ArgumentParser:
    """Returns the parser of Hydra's command line. The public way is to repeat its flags.

    What it cannot read is a `ConfigError`: argparse itself prints all flags, and ends the program.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(message, remedy="python train.py --help shows every key and flag")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser


def execution_whitelist() -> Sequence[str] | None:
    """Returns the targets that `hydra.main(execution_whitelist=...)` allows; None if it allows all.

    Hydra 1.3 has no such whitelist. There is no public way.
    """
    policy = sys.modules.get("hydra._internal.execution_policy")  # `hydra.main` imports it, where it exists
    found = policy._get_active_execution_whitelist() if policy is not None else None
    return found if isinstance(found, tuple) else None


def sort(*arguments: Any, **named: Any) -> Any:
    """Calls Hydra's function `sort(...)` for overrides.

    There is no public way: `create_functions` has it, but only under the name that this package replaces.
    """
    return grammar_functions.sort(*arguments, **named)


def overrides_dirname(overrides: Sequence[Override], job: DictConfig) -> str | None:
    """Returns `hydra.job.override_dirname` of a job; None since Hydra 1.4, which has no such key.

    The public way is to let Hydra compose the job, which takes 40 ms.

    Args:
        overrides: the overrides of the job.
        job: the node hydra.job of the job.
    """
    dirname = getattr(config_loader_impl, "get_overrides_dirname", None)
    if dirname is None:
        return None
    form = job.config.override_dirname
    return str(dirname(overrides, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys))


def apply_overrides(loader: Any, overrides: Sequence[Override], config: DictConfig) -> None:
    """Sets values in a composed config as Hydra does, in 2 ms.

    The public way is to let Hydra compose the job with `load_sweep_config`, which takes 80 ms.

    Args:
        loader: Hydra's loader.
        overrides: the overrides to apply.
        config: the config to change.
    """
    loader._apply_overrides_to_config(overrides, config)


def config_files(loader: Any, config_name: str, overrides: Sequence[str]) -> Any:
    """Returns Hydra's repository of all config files that a command can read, which knows the groups.

    There is no public way: `ConfigLoader` lists the options of a group, but ignores the search path that overrides add
    (`hydra.searchpath`).

    Args:
        loader: Hydra's loader.
        config_name: the name of the main config file.
        overrides: the overrides of the command below hydra.
    """
    return loader._parse_overrides_and_create_caching_repo(config_name, list(overrides))[1]


def flush_loggers() -> None:
    """Flushes the handlers of `logging`, as Hydra does at the end of a job. The public way is `run_job`."""
    _flush_loggers()


def refuses_words_on_the_sweep(loader: Any) -> bool:
    """Whether `load_sweep_config` refuses a job that changes settings of the sweep, as it does since Hydra 1.4.

    The public way is Hydra's version number, which is not reliable for development versions.
    """
    return hasattr(loader, "_ensure_sweep_config_controller_unchanged")


def use_source(scheme: str, source: type[ConfigSource]) -> None:
    """Makes Hydra read the configs of a scheme with a class.

    There is no public way: if two plug-ins have the same scheme, Hydra uses its own.
    """
    SourcesRegistry.instance().types[scheme] = source


def header(text: str) -> dict[str, str | None]:
    """Reads the comments at the head of a config, such as `# @package`. Hydra intends it for sources of configs."""
    return ConfigSource._get_header_dict(text)


def typed_value(override: Override) -> Any:
    """Returns the value of an override with its quotes. There is no public way: `Override.value` removes them."""
    return override._value


def child(node: Container, key: Any) -> Node | None:
    """Returns the unresolved node at a key. There is no public way: a config returns resolved values."""
    found = node._get_node(key, validate_access=False)
    return found if isinstance(found, Node) else None


def is_interpolation(node: Node) -> bool:
    """Whether a node is an interpolation. The public way, `OmegaConf.is_interpolation`, needs its parent and key."""
    return node._is_interpolation()


def is_empty(node: Node) -> bool:
    """Whether a node is null or `???`. There is no public way for a node whose parent is not known."""
    return node._is_none() or node._is_missing()


def change_text(node: Node, change: Callable[[str], str]) -> None:
    """Changes the unresolved text of a node, even if the node is read-only.

    There is no public way, except to change the flags of all nodes above it.
    """
    value = node._value()
    if isinstance(value, str) and (changed := change(value)) != value:
        node.__dict__["_val"] = changed


def set_parent(node: DictConfig, parent: DictConfig) -> None:
    """Makes interpolations in a node find their keys in another config than the one that contains it.

    There is no public way: the parent of a node is the config that it was put into.
    """
    node._set_parent(parent)


def yaml_text(content: Any) -> str:
    """Returns the YAML of plain values. The public way, `OmegaConf.to_yaml`, has to convert them to a config first."""
    if not tricks():
        return OmegaConf.to_yaml(OmegaConf.create(content))
    text: str = yaml.dump(
        content, Dumper=get_omega_conf_dumper(), default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return text
