"""JSON for programs: strict, UTF-8 in every locale, one object or list for a command, and nothing else beside it.

Numbers that are not finite are null, because JSON has no word for them; secrets in addresses are masked.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from sweepstack.masking import mask

_reserved: list[Any] = []
"""The standard output while it is reserved; at most one entry."""


def as_json(content: Any, indent: int | None = 2) -> str:
    """Returns content as strict JSON.

    Args:
        content: None, bools, numbers, texts, lists, tuples, sets and mappings; numbers of NumPy; of times the ISO form,
            of anything else the text.
        indent: the spaces of a level; None for one line.
    """
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)


def print_json(content: Any) -> None:
    """Prints content as JSON on standard output."""
    _write(as_json(content), output())


def print_error_json(content: Any) -> None:
    """Prints content as one line of JSON on standard error."""
    _write(as_json(content, indent=None), sys.stderr)


def _write(line: str, stream: Any) -> None:
    """Writes UTF-8, whatever the encoding of a stream: what that lacks would be written as \\xe9, which is no JSON."""
    text = f"{line}\n".encode("utf-8", "backslashreplace")  # \\udcff is what JSON has for a lone surrogate
    stream.flush()
    if (binary := getattr(stream, "buffer", None)) is None:
        stream.write(text.decode())
        return
    binary.write(text)
    binary.flush()


def is_reserved() -> bool:
    """True while standard output is kept for `print_json`."""
    return bool(_reserved)


def output() -> Any:
    """Returns standard output, also while it is reserved."""
    return _reserved[-1] if _reserved else sys.stdout


@contextlib.contextmanager
def reserved_output() -> Iterator[None]:
    """Keeps standard output for `print_json`: what else is printed in the block goes to standard error."""
    _reserved.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _reserved.pop()


def _plain(content: Any) -> Any:
    match content:
        case None | bool():
            return content
        case str():
            return mask(str(content))
        case int():
            return int(content)
        case float():
            return float(content) if math.isfinite(content) else None
        case Mapping():
            return {str(key): _plain(value) for key, value in content.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(one) for one in content]
    for method in ("tolist", "isoformat"):  # of NumPy, of times
        if hasattr(content, method):
            return _plain(getattr(content, method)())
    return mask(str(content))
