"""Params as MLflow keeps them, which is text, and back: every type that YAML knows comes back as what it was.

A value is written as YAML would write it on one line: `true`, `null`, `0.1`, `[128, 64]`. A text stays as it is, unless
it would be read as something else: then it stands in quotes, `"true"`. What earlier versions wrote (`True`, `None`,
`['a']`) is read, too.
"""

from __future__ import annotations

import ast
import copy
import functools
import json
import re
from typing import Any

YAML_WORDS = {"null": None, "true": True, "false": False, "None": None, "True": True, "False": False}
WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
"""A number with a leading zero, such as 007, is a name."""
NUMBER = re.compile(r"-?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|inf)|nan")
LEADING_ZERO = re.compile(r"-?0[0-9]+")
LONGEST_WHOLE = 4000
"""Digits of a whole number that Python reads; it refuses much longer ones, which stay text."""


def as_text(value: Any) -> str:
    """A value as MLflow is to keep it; `from_text` gives it back.

    Args:
        value: None, a bool, an int, a float, a text, or lists and dicts (with texts as keys) of them. Anything else
            becomes the text that Python has for it.
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
    """The value that `as_text` wrote."""
    return copy.deepcopy(_read_value(text))  # a list that is remembered must not be changed by its readers


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
    """Whether JSON has the same value: keys of other types than text would become texts."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _of_python(text: str) -> Any:
    """A list or dict as earlier versions wrote it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python writes
        return hex(value)
