"""Mistakes that a user can correct. Each is one line with the rule, the offending value and the remedy."""

from __future__ import annotations

import difflib
import errno
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, Self

from sweepstack.masking import mask

LONGEST_VALUE = 200
"""The most characters of an offending value that are shown."""
LONGEST_LINE = 300
"""The most characters of a library's message that are shown."""

FULL_DISK = ("no space left on device", "database or disk is full", "disk quota exceeded")
"""Messages of libraries that report a full disk without the number of the system error."""


class _NoValue:
    """Says that there is no offending value, or that the rule names it. It is a class so that it survives pickling."""


NO_VALUE = _NoValue
"""The default of a `UserError`'s value."""


class UserError(Exception):
    """A mistake that a user can correct. `str(error)` is the complete line; commands print it and exit with 2.

    Args:
        rule: what must hold, such as "batch_size must be a number from 1".
        value: the offending value; leave it out if the rule names it.
        remedy: what the user can do, such as "for example batch_size=100".
        where: what contains the mistake, such as "job 3 (batch_size=0)"; leave it out if that is clear.
    """

    def __init__(self, rule: str, value: Any = NO_VALUE, remedy: str = "", *, where: str = "") -> None:
        super().__init__(rule, value, remedy)
        self.rule, self.value, self.remedy, self.where = rule, value, remedy, where
        self.errors: tuple[UserError, ...] = (self,)
        """All mistakes that were found at once, see `of_all`; only the error itself if there is one mistake."""

    @classmethod
    def of_all(cls, errors: Sequence[UserError]) -> Self:
        """Returns one error for several mistakes, with a line for each. Its own fields are those of the first."""
        first = errors[0]
        combined = cls(first.rule, first.value, first.remedy, where=first.where)
        combined.errors = tuple(part for error in errors for part in error.errors)
        return combined

    def inside(self, where: str) -> Self:
        """Returns the same mistakes with `where` put before the place of each. Their causes stay."""
        parts = []
        for part in self.errors:
            inner = f"{where}: {part.where}" if part.where else where
            parts.append(type(part)(part.rule, part.value, part.remedy, where=inner))
            parts[-1].__cause__ = part.__cause__
        return type(self).of_all(parts)

    def __str__(self) -> str:
        return "\n".join(error._line() for error in self.errors)

    def _line(self) -> str:
        where = f"{self.where}: " if self.where else ""
        value = "" if self.value is NO_VALUE else f", got {_shown(self.value)}"
        remedy = f"; {self.remedy}" if self.remedy else ""
        return printable(f"{where}{self.rule}{value}{remedy}")


class ConfigError(UserError):
    """A config, an override or a target in it breaks a rule."""


class DataError(UserError):
    """A dataset cannot be obtained, or breaks a rule."""


class StoreError(UserError):
    """The tracking store cannot be reached, or does not hold what was asked for."""


def _shown(value: Any) -> str:
    text = mask(repr(value))
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def printable(text: str) -> str:
    """Makes text of others safe to print: it escapes control characters and masks the secrets of addresses."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in mask(text))


def as_typed(words: Iterable[str]) -> str:
    """Returns a command as it can be typed into a shell; bash's `$'...'` holds control characters."""
    return " ".join(shlex.quote(word) if word.isprintable() else f"$'{_escaped(word)}'" for word in words)


def _escaped(word: str) -> str:
    chars = (char if char.isprintable() and char not in "\\'" else f"\\U{ord(char):08x}" for char in word)
    return "".join(chars)


def one_line(error: BaseException | str) -> str:
    """Returns an exception, or a text, as one printable line that is not too long for a terminal."""
    full = full_disk(error) if isinstance(error, BaseException) else ""
    text = full or re.sub(r"\s+", " ", mask(_message(error))).strip().rstrip(".;") or type(error).__name__
    return printable(text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 3]}...")


def _message(error: BaseException | str) -> str:
    try:
        return str(error)
    except Exception as failure:  # a user's __str__ can raise anything
        return f"it cannot be shown, because its __str__ raises {type(failure).__name__}"


def full_disk(error: BaseException) -> str:
    """Returns a line for the user if an exception was caused by a full disk, in whatever library; else empty."""
    seen: list[BaseException] = []
    unvisited = [error]
    while unvisited:
        each = unvisited.pop()
        if each in seen:
            continue
        seen.append(each)
        unvisited += [other for other in (each.__cause__, each.__context__, *_wrapped(each)) if other is not None]
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            file = f"for {each.filename}" if each.filename else "for a file"
            return f"the disk is full: there is no room {file}; make room there, or choose another place"
    if any(words in _message(each).lower() for each in seen for words in FULL_DISK):
        return "the disk is full: a file could not be written; make room there, or choose another place"
    return ""


def _wrapped(error: BaseException) -> list[BaseException]:
    """Returns exceptions inside an exception: SQLAlchemy keeps one as an attribute, others in `args`."""
    return [each for each in (getattr(error, "orig", None), *error.args) if isinstance(each, BaseException)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns a remedy for a misspelt word: the most similar known word, else all known words."""
    known = sorted({str(name) for name in known})
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there is none"


def count(number: int, noun: str) -> str:
    """Returns a number with its noun, in the plural unless the number is 1."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
