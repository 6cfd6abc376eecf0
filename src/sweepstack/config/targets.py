"""Calls what a config names by `_target_`, with the words that Hydra has beside it. No PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from sweepstack.blame import contained
from sweepstack.config.sections import TargetConfig
from sweepstack.errors import ConfigError
from sweepstack.masking import reveal

Find = Callable[[str, str], Callable[..., Any]]
"""Imports a target. It takes the key of the config, for errors, and the dotted path."""


class Words(NamedTuple):
    """Hydra's words beside a `_target_`, with the meaning that `hydra.utils.instantiate` gives them.

    One default differs: without `_convert_`, containers are plain dicts and lists, as with `_convert_: all`.
    """

    args: Sequence[Any]
    """Positional arguments."""
    partial: bool
    """Do not call the target, but give a `functools.partial` of it."""
    recursive: bool
    """Build the targets in the arguments, too; else they are passed as the config has them."""
    convert: str
    """With "none", dicts and lists are passed as OmegaConf's containers."""


CONVERT = ("none", "partial", "object", "all")
"""The values of `_convert_`."""


def split(key: str, value: Mapping[str, Any], convert: str = "all") -> tuple[Words, dict[str, Any]]:
    """Splits Hydra's words from keyword arguments.

    Args:
        key: the key of the config that holds them, for the error.
        value: the words and keywords.
        convert: what `_convert_` says above.

    Raises:
        ConfigError: a word has a value that it does not know.
    """
    keywords = {name: part for name, part in value.items() if name != "_target_"}
    args, convert = keywords.pop("_args_", []), keywords.pop("_convert_", convert)
    partial, recursive = keywords.pop("_partial_", False), keywords.pop("_recursive_", True)
    if not isinstance(args, list | tuple):
        raise ConfigError(f"{key}._args_ must be a list of positional arguments", args, f"for example {key}._args_=[1]")
    for word, flag in (("_partial_", partial), ("_recursive_", recursive)):
        if not isinstance(flag, bool):
            raise ConfigError(f"{key}.{word} must be true or false", flag, f"for example {key}.{word}=true")
    convert = str(getattr(convert, "value", convert)).lower()
    if convert not in CONVERT:
        raise ConfigError(f"{key}._convert_ must be one of {', '.join(CONVERT)}", convert, "leave it out for all")
    return Words(args, partial, recursive, convert), keywords


@dataclass(frozen=True)
class Bound:
    """A target with its own arguments; see `bound`."""

    target: Callable[..., Any]
    args: Sequence[Any]
    keywords: Mapping[str, Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        with contained():
            return self.target(*given, *self.args, **{**named, **self.keywords})


def bound(config: TargetConfig, key: str, find: Find) -> Bound:
    """Returns the target of a section, ready to be called with what sweepstack passes; its own arguments are built.

    `bound(config, key, find)(*given, **named)` calls the target with the given arguments, then those of `_args_`, and
    with all keywords. `_partial_` means the same here: the target waits for what it is called with.

    Args:
        config: the section.
        key: the key of the config that holds it, for errors.
        find: imports a target.

    Raises:
        ConfigError: the target or one of its arguments cannot be built.
    """
    words, keywords = split(key, config.keywords)
    return Bound(find(key, config.target), *_built(key, words, keywords, find))


def instantiate(value: Any, key: str, find: Find, convert: str = "all") -> Any:
    """Copies `value`, and replaces every mapping that has a `_target_` by what the target returns, innermost first.

    Beside a `_target_`, Hydra's words are understood, see `Words`. Targets receive addresses with their secrets.

    Args:
        value: a mapping, a list or any other value of a config.
        key: the key of the config that holds it, for errors.
        find: imports a target.
        convert: what `_convert_` says above.

    Raises:
        ConfigError: a target cannot be imported, or a word has a value that it does not know.
    """
    if _is_target(value):
        words, keywords = split(key, value, convert)
        target, args, keywords = find(key, value["_target_"]), *_built(key, words, keywords, find)
        with contained():
            return functools.partial(target, *args, **keywords) if words.partial else target(*args, **keywords)
    if isinstance(value, Mapping):
        parts = {name: part for name, part in value.items() if name != "_target_"}
        return {name: instantiate(part, f"{key}.{name}", find, convert) for name, part in parts.items()}
    if isinstance(value, list | tuple):
        return [instantiate(part, f"{key}[{index}]", find, convert) for index, part in enumerate(value)]
    return reveal(value) if isinstance(value, str) else value


def _is_target(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("_target_") is not None


def _built(key: str, words: Words, keywords: Mapping[str, Any], find: Find) -> tuple[list[Any], dict[str, Any]]:
    """Returns the positional arguments and the keyword arguments of a target as it gets them."""

    def build(value: Any, key: str) -> Any:
        made = instantiate(value, key, find, words.convert) if words.recursive else _revealed(value)
        called = words.recursive and _is_target(value)
        if words.convert == "none" and isinstance(made, dict | list) and not called:
            return OmegaConf.create(made, flags={"allow_objects": True})
        return made

    args = [build(part, f"{key}._args_[{index}]") for index, part in enumerate(words.args)]
    return args, {name: build(part, f"{key}.{name}") for name, part in keywords.items()}


def _revealed(value: Any) -> Any:
    """Copies a value of a config, with the secrets of its addresses."""
    if isinstance(value, Mapping):
        return {name: _revealed(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_revealed(part) for part in value]
    return reveal(value) if isinstance(value, str) else value
