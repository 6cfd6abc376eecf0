"""Mistakes that a user can correct: each is one line of the rule, the offending value and the remedy."""

from __future__ import annotations

import difflib
import errno
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, Self

from sweepstack.masking import mask

LONGEST_VALUE = 200
"""Characters of an offending value that are shown."""
LONGEST_LINE = 300
"""Characters of somebody else's message that are shown."""

FULL_DISK = ("no space left on device", "database or disk is full", "disk quota exceeded")
"""What libraries say of a full disk where no number of a system error is left."""


class _NoValue:
    """The rule names the offending value itself, or there is none. A class, so that it survives pickling."""


NO_VALUE = _NoValue


class UserError(Exception):
    """A mistake that a user can correct; `str(error)` is the whole story, one line. Commands print it and exit with 2.

    Args:
        rule: what must hold, such as "batch_size must be a number from 1".
        value: what is there instead; leave it out where the rule names it already.
        remedy: what to do about it, such as "for example batch_size=100".
        where: what the mistake is in, such as "job 3 (batch_size=0)"; leave it out where there is one place only.
    """

    def __init__(self, rule: str, value: Any = NO_VALUE, remedy: str = "", *, where: str = "") -> None:
        super().__init__(rule, value, remedy)
        self.rule, self.value, self.remedy, self.where = rule, value, remedy, where
        self.errors: tuple[UserError, ...] = (self,)
        """Several mistakes that were found at once, see `of_all`; else the error itself."""

    @classmethod
    def of_all(cls, errors: Sequence[UserError]) -> Self:
        """One error for several mistakes, a line each. Its own fields are those of the first."""
        first = errors[0]
        every = cls(first.rule, first.value, first.remedy, where=first.where)
        every.errors = tuple(part for error in errors for part in error.errors)
        return every

    def inside(self, where: str) -> Self:
        """The same mistakes, each told to be in `where`; what they came of stays their cause."""
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
    """A dataset cannot be obtained, or is not what it should be."""


class StoreError(UserError):
    """The tracking store cannot be reached, or does not hold what was asked for."""


def _shown(value: Any) -> str:
    text = mask(repr(value))
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def printable(text: str) -> str:
    """Text in which nothing can move a terminal's cursor, colour it or end a line, and no address tells a secret: for
    whatever others have written."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in mask(text))


def as_typed(words: Iterable[str]) -> str:
    """A command as it can be typed into a shell; control characters are written as bash's `$'...'` reads them."""
    return " ".join(shlex.quote(word) if word.isprintable() else f"$'{_escaped(word)}'" for word in words)


def _escaped(word: str) -> str:
    signs = (sign if sign.isprintable() and sign not in "\\'" else f"\\U{ord(sign):08x}" for sign in word)
    return "".join(signs)


def one_line(error: BaseException | str) -> str:
    """An exception, or a text, as one printable line that is not too long for a terminal."""
    full = full_disk(error) if isinstance(error, BaseException) else ""
    text = full or re.sub(r"\s+", " ", mask(_message(error))).strip().rstrip(".;") or type(error).__name__
    return printable(text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 3]}...")


def _message(error: BaseException | str) -> str:
    try:
        return str(error)
    except Exception as trouble:  # somebody's __str__
        return f"it cannot be shown, for its __str__ raises {type(trouble).__name__}"


def full_disk(error: BaseException) -> str:
    """A line for an exception that comes of a full disk, however the library that met it words that; else empty."""
    seen: list[BaseException] = []
    left = [error]
    while left:
        each = left.pop()
        if each in seen:
            continue
        seen.append(each)
        left += [other for other in (each.__cause__, each.__context__, *_wrapped(each)) if other is not None]
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            file = f"for {each.filename}" if each.filename else "for a file"
            return f"the disk is full: there is no room {file}; make room there, or choose another place"
    if any(words in _message(each).lower() for each in seen for words in FULL_DISK):
        return "the disk is full: a file could not be written; make room there, or choose another place"
    return ""


def _wrapped(error: BaseException) -> list[BaseException]:
    """What SQLAlchemy, for one, keeps as an attribute."""
    return [each for each in (getattr(error, "orig", None), *error.args) if isinstance(each, BaseException)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt word: the nearest known one, else all of them."""
    known = sorted({str(name) for name in known})
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there is none"
