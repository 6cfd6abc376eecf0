"""Expands an override of a sweep to overrides of jobs: `seed=range(3)` to three.

Hydra's own expansion is not used: it computes ranges in binary (0.1, 0.2, 0.30000000000000004), sorts ranges wrongly
(`sort(range(3,8,2),reverse=true)` gives 6, 4, 2) and removes quotes (`choice('1','2')` gives numbers).
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
    Transformer,
)

from sweepstack.errors import ConfigError, did_you_mean
from sweepstack.hydra_adapter import private

MOST_JOBS = 100_000
"""The most jobs of one sweep. Before the first one trains, all are in memory, at about 10 kB each."""
FEWER = f"sweep fewer values: a sweep holds {MOST_JOBS:,} jobs at most"
"""The remedy for a sweep that is too large."""
PLAIN_TEXT = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_][\w./-]*", re.IGNORECASE | re.ASCII)
"""Matches a text that Hydra reads as the same text without quotes."""
INTERPOLATION = re.compile(r"\$\{[^{}'\"\\\s]*\}")
"""Matches an interpolation that Hydra reads correctly as it is; Hydra itself would write $\\{hydra\\:job.num\\}."""

INTERPOLATION_BEGINS = re.compile(r"(\\*)\$\{")
"""Matches the beginning of an interpolation, and the backslashes before it, which OmegaConf reads as escapes."""


def parse_overrides(lines: Sequence[str]) -> list[Override]:
    """Parses the overrides of a sweep, and sorts ranges correctly.

    Raises:
        HydraException: a line cannot be read.
    """
    found: list[Override] = OverridesParser(_functions()).parse_overrides(list(lines))
    return found


def has_dict(override: Override) -> bool:
    """Whether a value of the override is a dict, which Hydra merges into the config instead of replacing a value."""
    value = override.value()
    return any(isinstance(part, dict) for part in (value.list if isinstance(value, ChoiceSweep) else [value]))


def expand(override: Override, options: Callable[[str], Sequence[str]]) -> list[str]:
    """Returns the overrides of jobs: one for each value of a sweep, or the single one.

    Args:
        override: the override to expand.
        options: returns the names of the options of a config group; nothing for other keys.

    Raises:
        ConfigError: there is nothing or too much to sweep, or a sweep at a position where none is possible.
    """
    key, value = override.get_key_element(), private.typed_value(override)
    values: list[Any]
    if override.value_type is None:  # ~key
        return [key]
    match value:
        case RangeSweep():
            values = range_values(value, str(override.input_line))
        case ChoiceSweep():
            values = [*value.list]
        case Glob():
            values = _matching(override, value, options)
        case IntervalSweep():
            raise ConfigError(
                "a grid has no intervals",
                override.input_line,
                f"list the values ({key}=1,2,3), or search them: search=tpe search.trials=64",
            )
        case _:
            values = [value]
    if not values:
        raise ConfigError("a sweep must have a value", override.input_line, f"for example {key}=1,2,3")
    if len(values) > MOST_JOBS:
        raise ConfigError("a sweep must not be too large", override.input_line, FEWER)
    if any(_holds_sweep(part) for part in values):
        raise ConfigError(
            "a sweep must be the whole value of its key, not a part of it",
            override.input_line,
            f"write every value out, such as {key}=[1,2],[1,3]",
        )
    if isinstance(value, ChoiceSweep | RangeSweep) and value.shuffle:
        random.shuffle(values)
    return [f"{key}={text}" for text in _texts(values)]


def range_values(sweep: RangeSweep, line: str) -> list[Any]:
    """Returns the values of a range, computed in decimals as they were typed: 0.1, 0.2, 0.3.

    Args:
        sweep: the range.
        line: the typed override, for errors.

    Raises:
        ConfigError: it is empty, endless or too large.
    """
    bounds = (sweep.start, sweep.stop, sweep.step)
    if not all(isinstance(bound, int) or math.isfinite(bound or 0) for bound in bounds):
        raise ConfigError("a range must end", line, "give it finite numbers, such as range(1,10)")
    # The text of a float is the shortest decimal that is read as this float: the typed one, or an equal one.
    start, stop, step = (Fraction(str(int(bound) if isinstance(bound, int) else bound)) for bound in bounds)
    if step == 0:
        raise ConfigError("the step of a range must not be 0", line, "leave it out for 1, or give another")
    count = math.ceil((stop - start) / step)
    if count <= 0:
        raise ConfigError(
            "a range must hold a number",
            line,
            "it runs from the first number up to, but without, the second; give a negative step to count down",
        )
    if count > MOST_JOBS:
        raise ConfigError("a range must not be too large", line, FEWER)
    kind = int if all(isinstance(bound, int) for bound in bounds) else float
    numbers: list[Any] = [kind(start + index * step) for index in range(count)]
    for cast in getattr(sweep, "transformers", ()):  # since Hydra 1.4
        numbers = [cast(number) for number in numbers]
    return numbers


def _matching(override: Override, glob: Glob, options: Callable[[str], Sequence[str]]) -> list[str]:
    known = list(options(override.key_or_group))
    found: list[str] = glob.filter(known)
    if not known:
        raise ConfigError(
            f"glob(...) chooses among the options of a config group; {override.key_or_group} is not a group",
            override.input_line,
            "list the values, such as a,b,c",
        )
    if not found:
        raise ConfigError(
            f"glob(...) must match an option of {override.key_or_group}",
            override.input_line,
            did_you_mean(str(glob.include[0]) if glob.include else "", known),
        )
    return found


def _holds_sweep(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_sweep(part) for part in value.values())
    if isinstance(value, list):
        return any(_holds_sweep(part) for part in value)
    return isinstance(value, Sweep | Glob)


def _texts(values: Sequence[Any]) -> list[str]:
    """Writes values in the syntax that Hydra reads."""
    return [
        value if isinstance(value, str) and INTERPOLATION.fullmatch(value) else str(Transformer.str(_quoted(value)))
        for value in values
    ]


def typed(value: Any) -> str:
    """Writes a value of Python as it is typed, so that Hydra reads it as the same value: no text is an interpolation.

    Args:
        value: None, a bool, number or text, or a list or dict of such values. The keys of a dict are plain names.
    """
    return _texts([_without_interpolations(value)])[0] or "''"


def _without_interpolations(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_interpolations(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_interpolations(part) for part in value]
    return INTERPOLATION_BEGINS.sub(r"\1\1\\${", value) if isinstance(value, str) else value


def _quoted(value: Any) -> Any:
    """Adds quotes to a text that Hydra would read as another value: "1", "true"; inside of others also to none."""
    if isinstance(value, dict):
        return {_quoted(key): _quoted(part) if part != "" else EMPTY for key, part in value.items()}
    if isinstance(value, list):
        return [_quoted(part) if part != "" else EMPTY for part in value]
    if isinstance(value, str) and not PLAIN_TEXT.fullmatch(value) and _read_back(value) != value:
        return _Quoted(value, Quote.single)
    return value


class _Quoted(QuotedString):
    """A quoted text that can be a key of a dict."""

    def __hash__(self) -> int:
        return hash(self.text)


EMPTY = _Quoted("", Quote.single)
"""A text of no characters inside of a list or dict, where nothing is no value."""


@functools.lru_cache(maxsize=4096)
def _read_back(text: str) -> Any:
    try:
        return private.typed_value(OverridesParser.create().parse_override(f"key={Transformer.str(text)}"))
    except Exception:  # it cannot be read without quotes
        return None


def _sort(*arguments: Any, **named: Any) -> Any:
    """Sorts as the documentation of Hydra's `sort` says."""
    sweep = named.get("sweep") or (arguments[0] if len(arguments) == 1 else None)
    if isinstance(sweep, RangeSweep):
        return _sorted_range(sweep, bool(named.get("reverse")))
    found = private.sort(*arguments, **named)
    if isinstance(found, ChoiceSweep):
        found.shuffle = False
    return found


def _sorted_range(sweep: RangeSweep, reverse: bool) -> Sweep:
    """Returns the numbers of a range in ascending or descending order."""
    try:
        return ChoiceSweep(list=[*sorted(range_values(sweep, ""), reverse=reverse)], tags=sweep.tags)
    except ConfigError:
        return sweep  # `expand` raises the error


@functools.cache
def _functions() -> Any:
    functions = create_functions()
    functions.functions["sort"] = _sort
    return functions
