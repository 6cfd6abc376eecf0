"""What relies on private parts of Hydra and OmegaConf.

Each function says what it does, and which public way there is; `tricks.tricks` tells whether to take that. All were
tried with Hydra 1.3.8 and OmegaConf 2.3.1, and tests/hydra_adapter/test_private.py tells when one no longer fits.
"""

from __future__ import annotations

import functools
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from hydra._internal import config_loader_impl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.grammar import grammar_functions
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.types import Override
from hydra.core.utils import _flush_loggers
from hydra.plugins.config_source import ConfigSource
from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from sweepstack.private_api_switch import tricks

FileSource = FileConfigSource
"""Hydra's source of config files, to inherit from. The public way is to write it again."""


def change_each_config(change: Callable[[DictConfig], None]) -> None:
    """From now on every config that Hydra composes in this process goes through `change` before anybody else sees it;
    a second call changes nothing.

    There is no public way: callbacks hear of a config after Hydra has handed it to others.
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


def arguments_parser() -> ArgumentParser:
    """The parser of Hydra's command line. There is no public way but to repeat its flags."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def sort(*arguments: Any, **named: Any) -> Any:
    """Hydra's own `sort(...)` of an override. There is no public way: a parser made with `create_functions`
    has it, too, but only under the name that is replaced."""
    return grammar_functions.sort(*arguments, **named)


def overrides_dirname(overrides: Sequence[Override], job: DictConfig) -> str | None:
    """`hydra.job.override_dirname` of a job; None since Hydra 1.4, which has no such key.

    The public way is to let Hydra compose the job, which takes 40 ms.

    Args:
        job: its node hydra.job.
    """
    dirname = getattr(config_loader_impl, "get_overrides_dirname", None)
    if dirname is None:
        return None
    form = job.config.override_dirname
    return str(dirname(overrides, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys))


def apply_overrides(loader: Any, overrides: Sequence[Override], config: DictConfig) -> None:
    """Sets values in a composed config as Hydra does, in 2 ms.

    The public way is to let Hydra compose the job with `load_sweep_config`, which takes 80 ms.
    """
    loader._apply_overrides_to_config(overrides, config)


def config_files(loader: Any, config_name: str, overrides: Sequence[str]) -> Any:
    """What Hydra asks whether a key is a group: the repository of all config files that a command can read.

    There is no public way: `ConfigLoader` lists the options of a group, but does not see the search path that
    overrides add (`hydra.searchpath`).
    """
    return loader._parse_overrides_and_create_caching_repo(config_name, list(overrides))[1]


def flush_loggers() -> None:
    """Writes what handlers of `logging` hold back, as Hydra does at the end of a job. The public way is `run_job`."""
    _flush_loggers()


def refuses_words_on_the_sweep(loader: Any) -> bool:
    """Whether `load_sweep_config` refuses a job that changes what Hydra knows of the sweep, as since Hydra 1.4. The
    public way is the number of Hydra's version, which says nothing about its development versions."""
    return hasattr(loader, "_ensure_sweep_config_controller_unchanged")


def use_source(scheme: str, source: type[ConfigSource]) -> None:
    """From now on Hydra reads the configs of a scheme with this class. There is no public way: of two plug-ins for a
    scheme Hydra takes its own."""
    SourcesRegistry.instance().types[scheme] = source


def header(text: str) -> dict[str, str | None]:
    """The comments `# @package` and the like at the head of a config. Hydra means it for those who write a source of
    configs."""
    return ConfigSource._get_header_dict(text)


def typed_value(override: Override) -> Any:
    """The value of an override with its quotes. There is no public way: `Override.value` takes them off."""
    return override._value


def child(node: Container, key: Any) -> Node | None:
    """What stands at a key, as it stands there. There is no public way: what a config gives for a key is resolved."""
    found = node._get_node(key, validate_access=False)
    return found if isinstance(found, Node) else None


def is_interpolation(node: Node) -> bool:
    """Whether a node stands for another. The public way, `OmegaConf.is_interpolation`, needs its parent and its key."""
    return node._is_interpolation()


def is_empty(node: Node) -> bool:
    """Whether a node is null or `???`. There is no public way for a node whose parent is not known."""
    return node._is_none() or node._is_missing()


def change_text(node: Node, change: Callable[[str], str]) -> None:
    """Changes the text of a node as it is written, whatever flags protect it from being set. There is no public way
    without the flags of all nodes above."""
    value = node._value()
    if isinstance(value, str) and (changed := change(value)) != value:
        node.__dict__["_val"] = changed


def set_parent(node: DictConfig, parent: DictConfig) -> None:
    """Lets interpolations inside of a node look for their keys in another config than the one that holds it. There is
    no public way: a node that is put into a config has that for its parent."""
    node._set_parent(parent)


def yaml_text(content: Any) -> str:
    """Plain values as `OmegaConf.to_yaml`, the public way, writes them; that makes a config of them first."""
    if not tricks():
        return OmegaConf.to_yaml(OmegaConf.create(content))
    text: str = yaml.dump(
        content, Dumper=get_omega_conf_dumper(), default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return text
