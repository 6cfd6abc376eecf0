"""What touches private modules of Hydra, in one place; two doors in `hydra_plugins` inherit from its classes besides.

Each function says what it does, and which public way there is. All were tried with Hydra 1.3.8.
"""

from __future__ import annotations

import functools
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.grammar import grammar_functions
from hydra.core.override_parser.types import Override
from hydra.core.utils import _flush_loggers
from omegaconf import DictConfig


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
