"""Imports, checks and calls what a config names by `_target_`."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from sweepstack.blame import Whose, contained, describe_error, judge
from sweepstack.config.schema import TargetConfig
from sweepstack.errors import ConfigError, did_you_mean, one_line
from sweepstack.masking import reveal
from sweepstack.training.random_state import seeded


def import_target(key: str, target: str) -> Callable[..., Any]:
    """Imports the callable at a dotted path.

    Args:
        key: the key of the config that holds the path, for the error.
        target: the dotted path.

    Raises:
        ConfigError: the import fails, or finds something that is not callable.
    """
    try:
        with seeded(), contained():  # a module that draws random numbers gets the same ones in every process
            found = pkgutil.resolve_name(target)
    except Exception as error:  # importing a user's module can fail in any way
        rule = f"{key}._target_ should name something that can be imported ({describe_error(error)})"
        raise ConfigError(rule, target, _target_remedy(target, error)) from error
    if not callable(found):
        raise ConfigError(
            f"{key}._target_ should name a class or a function, {target!r} is a {type(found).__name__}",
            remedy="name the class inside it",
        )
    return found  # type: ignore[no-any-return]


def _target_remedy(target: str, error: Exception) -> str:
    if judge(error).whose is Whose.CODE:
        return "correct the module"
    try:
        module, _, name = target.rpartition(".")
        with contained():
            return did_you_mean(name, [word for word in vars(pkgutil.resolve_name(module)) if word[0] != "_"])
    except Exception:
        return "correct the path, or run from the folder that holds the module (or put it on PYTHONPATH)"


def check_keywords(key: str, target: str, positional: int, keywords: Mapping[str, Any]) -> None:
    """Checks that the signature of a target accepts a call.

    Args:
        key: the key of the config that holds the target, for the error.
        target: the dotted path.
        positional: the number of positional arguments before those of `_args_`.
        keywords: the keyword arguments, and Hydra's words.

    Raises:
        ConfigError: the target does not know a keyword, or needs one that is not given; or a word has a wrong value.
    """
    words, keywords = _split(key, keywords)
    positional += len(words.args)
    try:
        signature = inspect.signature(import_target(key, target))
    except ValueError:  # some compiled callables have no signature; the call itself shows an error
        return
    kinds = inspect.Parameter
    known = [p for p in signature.parameters.values() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    if not any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values()):
        for name in keywords:
            if name not in {p.name for p in known}:
                names = [p.name for p in known[positional:]]
                raise ConfigError(f"{key}.{name} is not a keyword of {target}", remedy=did_you_mean(name, names))
    try:
        bind = signature.bind_partial if words.partial else signature.bind
        bind(*[None] * positional, **keywords)
    except TypeError as error:
        rule = f"{key}: {target} cannot be called: {one_line(error)}"
        raise ConfigError(rule, remedy=f"give it with +{key}.NAME=VALUE") from error


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


def _split(key: str, value: Mapping[str, Any], convert: str = "all") -> tuple[Words, dict[str, Any]]:
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


def bound(config: TargetConfig, key: str) -> Callable[..., Any]:
    """Returns the target of a section, ready to be called with what sweepstack passes; its own arguments are built.

    `bound(config, key)(*given, **named)` calls the target with the given arguments, then those of `_args_`, and with
    all keywords. `_partial_` means the same here: the target waits for what it is called with.

    Raises:
        ConfigError: the target or one of its arguments cannot be built.
    """
    words, keywords = _split(key, config.keywords)
    target, args, keywords = import_target(key, config.target), *_built(key, words, keywords)

    def call(*given: Any, **named: Any) -> Any:
        with contained():
            return target(*given, *args, **{**named, **keywords})

    return call


def instantiate(value: Any, key: str = "target", convert: str = "all") -> Any:
    """Copies `value`, and replaces every mapping that has a `_target_` by what the target returns, innermost first.

    Beside a `_target_`, Hydra's words are understood, see `Words`. Targets receive addresses with their secrets.

    Args:
        value: a mapping, a list or any other value of a config.
        key: the key of the config that holds it, for errors.
        convert: what `_convert_` says above.

    Raises:
        ConfigError: a target cannot be imported, or a word has a value that it does not know.
    """
    if _is_target(value):
        words, keywords = _split(key, value, convert)
        target, args, keywords = import_target(key, value["_target_"]), *_built(key, words, keywords)
        with contained():
            return functools.partial(target, *args, **keywords) if words.partial else target(*args, **keywords)
    if isinstance(value, Mapping):
        return {name: instantiate(part, f"{key}.{name}", convert) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [instantiate(part, f"{key}[{index}]", convert) for index, part in enumerate(value)]
    return reveal(value) if isinstance(value, str) else value


def _is_target(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("_target_") is not None


def _built(key: str, words: Words, keywords: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Returns the positional arguments and the keyword arguments of a target as it gets them."""

    def build(value: Any, key: str) -> Any:
        made = instantiate(value, key, words.convert) if words.recursive else _revealed(value)
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
