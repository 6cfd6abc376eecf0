"""Converts params to text, because MLflow stores text, and back to values of every type of YAML.

A value has the form that YAML has on one line: `true`, `null`, `0.1`, `[128, 64]`. A text has quotes only if it would
be read as another value: `"true"`. The forms of earlier versions (`True`, `None`, `['a']`) can be read, too.
"""

from __future__ import annotations

import ast
import copy
import functools
import json
import re
from typing import Any

ALIASES = {"bs": "batch_size"}
"""Short names of params, as the names of runs have them."""
YAML_WORDS = {"null": None, "true": True, "false": False, "None": None, "True": True, "False": False}
"""Words that are values, in YAML and in the form of earlier versions."""
WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
"""Matches a whole number. A text with a leading zero, such as 007, is a name, so it does not match."""
NUMBER = re.compile(r"-?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|inf)|nan")
"""Matches a number; `LEADING_ZERO` and `WHOLE` are tested first."""
LEADING_ZERO = re.compile(r"-?0[0-9]+")
"""Matches digits that are a name because of their leading zero."""
LONGEST_WHOLE = 4000
"""The most digits of a whole number. Python refuses to read much longer ones, which stay text."""


def as_text(value: Any) -> str:
    """Converts a value to the text that MLflow stores; `from_text` converts it back.

    Args:
        value: None, a bool, an int, a float, a text, or lists and dicts (with texts as keys) of them. Anything else
            becomes `str(value)`.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value)
        case int():
            return _digits(value)
        case str():
            return value if from_text(value) == value else json.dumps(value, ensure_ascii=False)
        case list() | tuple() | dict() if _is_plain(value):
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def from_text(text: str) -> Any:
    """Converts a text of `as_text` to its value."""
    return copy.deepcopy(_read_value(text))  # so that a caller cannot change the cached list


@functools.lru_cache(maxsize=65_536)
def _read_value(text: str) -> Any:
    if text in YAML_WORDS:
        return YAML_WORDS[text]
    if WHOLE.fullmatch(text) and len(text) <= LONGEST_WHOLE and text != "-0":
        return int(text)
    if NUMBER.fullmatch(text) and not LEADING_ZERO.fullmatch(text) and not WHOLE.fullmatch(text):
        return float(text)
    if text[:1] in ('"', "[", "{"):
        try:
            found = json.loads(text)
        except ValueError:
            found = _of_python(text)
        except RecursionError:
            return text
        if isinstance(found, {'"': str, "[": list, "{": dict}[text[0]]):
            return found
    return text


def _is_plain(value: Any) -> bool:
    """Whether JSON can store the value without a change: it would turn the keys of a dict to texts."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _of_python(text: str) -> Any:
    """Reads a list or dict in the form of earlier versions; returns None if the text is neither."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python writes
        return hex(value)
