"""Names that users give to sweeps and experiments: those that a folder, a tag and a filter of MLflow can carry."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

MAX_NAME_BYTES = 200
"""Bytes. A file system takes 255 for a name, a key in MLflow is of 250, and either carries more than the name."""
QUOTES = frozenset("\"'`\\")
RESERVED_NAMES = ("latest", "all")
"""Words of `sweepstack table --sweep`."""


def check_sweep(name: str) -> str:
    """Gives the name of a sweep back.

    Raises:
        ValueError: it cannot be the name of a folder, a tag and a filter; the text is the rule.
    """
    if name in RESERVED_NAMES:
        raise ValueError(f"should be a name other than {' and '.join(RESERVED_NAMES)}")
    if set(name) & (QUOTES | set("/%")):
        raise ValueError("should be a name without quotes, slashes and %")
    _check_plain(name)
    return name


def check_experiment(name: str) -> str:
    """Gives the name of an experiment back; it may hold slashes, as some servers want it.

    Raises:
        ValueError: as `check_sweep`.
    """
    if set(name) & QUOTES:
        raise ValueError("should be a name without quotes and backslashes")
    if "/" in name and {".", ".."} & set(name.split("/")):
        raise ValueError("should be a name without . and .. between its slashes")
    _check_plain(name)
    return name


def _check_plain(name: str) -> None:
    if not name.isprintable():  # controls, ends of lines, halves of surrogate pairs, other blanks than the usual one
        raise ValueError("should be a name of printable characters")
    if name != name.strip() or not name:
        raise ValueError("should be a name without blanks at its ends")
    if name in (".", ".."):
        raise ValueError("should be a name, not a folder's . or ..")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"should be a name of at most {MAX_NAME_BYTES} bytes")


def as_folder(name: str) -> str:
    """A folder's name for any text, another one for every other text."""
    quoted = quote(name, safe="", errors="surrogatepass")
    return (
        quoted
        if quoted not in ("", ".", "..") and len(quoted) <= MAX_NAME_BYTES
        else _marked(quoted[:MAX_NAME_BYTES], name)
    )


def as_key(name: str) -> str:
    """A part of a key that MLflow takes, for any text, another one for every other text."""
    plain = re.sub(r"[^\w.\- ]", "_", name)[:MAX_NAME_BYTES]
    plain = "_" if plain in ("", ".", "..") else plain
    return plain if plain == name else _marked(plain, name)


def as_value(text: str) -> str:
    """A text that a database takes: the halves of surrogate pairs in it become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _marked(text: str, name: str) -> str:
    return f"{text}-{hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=3).hexdigest()}"
