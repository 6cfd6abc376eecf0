"""Mistakes that a user can mend. Each is one line: the rule, the offending value, the remedy."""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that a user can mend; `str(error)` is the whole story. The commands print it and exit with 2."""


class ConfigError(UserError):
    """A config, an override or a target in it breaks a rule."""


class DataError(UserError):
    """A dataset cannot be obtained, or is not what it should be."""


class StoreError(UserError):
    """The tracking store cannot be reached, or does not hold what was asked for."""


def one_line(error: BaseException | str) -> str:
    """An exception, or a text, as one line that is not too long for a terminal."""
    text = re.sub(r"\s+", " ", str(error)).strip().rstrip(".;") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt word: the nearest known one, else all of them."""
    known = sorted({str(name) for name in known})
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there is none"
