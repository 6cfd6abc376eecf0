"""Checks the names of sweeps and experiments, and turns any text into the name of a folder or a key of MLflow."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

GROUPS = ("dataset", "model", "optimizer", "schedule")
"""The config groups: each choice in a group brings a whole section of the config."""
MAX_NAME_BYTES = 200
"""The longest name, in bytes. A file system allows 255 bytes, a key of MLflow 250, and both hold more than the name."""
URI_PATTERN = r"^(sqlite|postgresql|mysql|mssql|https?|databricks)\b"
"""Matches the addresses of tracking stores."""
QUOTES = frozenset("\"'`\\")
"""Characters that a filter of MLflow cannot hold."""
RESERVED_NAMES = ("latest", "all")
"""Words with a meaning of their own in `sweepstack table --sweep`."""


def check_sweep(name: str) -> str:
    """Returns the name of a sweep.

    Raises:
        ValueError: a folder, a tag or a filter cannot have the name; the message is the rule.
    """
    if name in RESERVED_NAMES:
        raise ValueError(f"should be a name other than {' and '.join(RESERVED_NAMES)}")
    if set(name) & (QUOTES | set("/%")):
        raise ValueError("should be a name without quotes, slashes and %")
    _check_plain(name)
    return name


def check_experiment(name: str) -> str:
    """Returns the name of an experiment; it may hold slashes, which some servers need.

    Raises:
        ValueError: see `check_sweep`.
    """
    if set(name) & QUOTES:
        raise ValueError("should be a name without quotes and backslashes")
    if "/" in name and {".", ".."} & set(name.split("/")):
        raise ValueError("should be a name without . and .. between its slashes")
    _check_plain(name)
    return name


def _check_plain(name: str) -> None:
    if not name.isprintable():  # control characters, line ends, halves of surrogate pairs, unusual blanks
        raise ValueError("should be a name of printable characters")
    if name != name.strip() or not name:
        raise ValueError("should be a name without blanks at its ends")
    if name in (".", ".."):
        raise ValueError("should be a name, not a folder's . or ..")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"should be a name of at most {MAX_NAME_BYTES} bytes")


def as_folder(name: str) -> str:
    """Returns a name for a folder, different for each text."""
    quoted = quote(name, safe="", errors="surrogatepass")
    return (
        quoted
        if quoted not in ("", ".", "..") and len(quoted) <= MAX_NAME_BYTES
        else _with_hash(quoted[:MAX_NAME_BYTES], name)
    )


def as_key(name: str) -> str:
    """Returns a part of a key that MLflow accepts, different for each text."""
    plain = re.sub(r"[^\w.\- ]", "_", name)[:MAX_NAME_BYTES]
    plain = "_" if plain in ("", ".", "..") else plain
    return plain if plain == name else _with_hash(plain, name)


def as_value(text: str) -> str:
    """Returns a text that a database accepts: halves of surrogate pairs become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _with_hash(text: str, name: str) -> str:
    return f"{text}-{hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=3).hexdigest()}"
