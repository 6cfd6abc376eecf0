"""Imports, checks and calls what a config names by `_target_`."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from sweepstack.blame import Whose, contained, describe_error, judge
from sweepstack.config import targets
from sweepstack.config.sections import TargetConfig
from sweepstack.errors import ConfigError, did_you_mean, one_line
from sweepstack.training.random_state import seeded

CALLED_WITH = {
    "engine": "(journal, lease)",
    "optimizer": "(parameters)",
    "schedule": "(step, steps_per_epoch, epochs)",
    "step": "(model, batch, loss)",
    "task.loss": "(outputs, targets)",
    "task.metrics": "(outputs, targets)",
    "trainer": "(config, context)",
}
"""What sweepstack calls the target of a section with, before the arguments of the config."""


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
    words, keywords = targets.split(key, keywords)
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
        raise ConfigError(rule, remedy=_call_remedy(key, target, bool(words.args), str(error))) from error


def _call_remedy(key: str, target: str, has_args: bool, error: str) -> str:
    """Says what to do about a signature that does not accept a call."""
    section = key.partition("[")[0]
    if "missing" in error:
        give = f"give it with +{key}.NAME=VALUE"
        if section == "task.loss" and not inspect.isclass(import_target(key, target)):
            return f"add _partial_: true if it takes {CALLED_WITH[section]}, else {give}"
        return give
    if has_args or section not in CALLED_WITH:
        return f"give fewer values with {key}._args_"
    return f"let it take {CALLED_WITH[section]}"


def instantiate(value: Any, key: str = "target") -> Any:
    """See `targets.instantiate`.

    Raises:
        ConfigError: a target cannot be imported, or one of Hydra's words has a value that it does not know.
    """
    return targets.instantiate(value, key, import_target)


def bound(config: TargetConfig, key: str) -> targets.Bound:
    """See `targets.bound`.

    Raises:
        ConfigError: the target or one of its arguments cannot be built.
    """
    return targets.bound(config, key, import_target)
