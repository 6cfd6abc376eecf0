"""Standard input, output and error as a program can rely on: open, and able to take any text."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

from sweepstack.masking import mask

GONE = (errno.EPIPE, errno.ECONNRESET)
"""Nobody reads any more, as after `| head`."""


class Lenient:
    """A text stream that never fails: after the first error it drops what is written. A training must not end because
    its terminal is gone or the disk with its output is full."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.trouble: OSError | ValueError | None = None
        """The first error."""

    def write(self, text: str) -> int:
        with self._noting():
            self._stream.write(mask(text))
        return len(text)

    def flush(self) -> None:
        with self._noting():
            self._stream.flush()

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        if self.trouble is None:
            try:
                yield
            except (OSError, ValueError) as error:  # a ValueError of a file that somebody has closed
                self.trouble = error
                drop(self._stream)
            return
        with contextlib.suppress(OSError, ValueError):
            yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class HoldingErrors:
    """A binary file whose errors are held back until they are asked for: a library that writes in its own way would
    make other ones of them, which name neither the disk nor the file."""

    def __init__(self, file: Any, path: Any) -> None:
        self._file, self._path = file, path
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """The file itself is flushed when it is whole."""

    def raise_error(self) -> None:
        """Flushes the file.

        Raises:
            OSError: the first error, with the file's name.
        """
        try:
            if self._error is not None:
                raise self._error
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def drop(stream: Any) -> None:
    """Lets what is still to be written vanish: else the interpreter would fail with it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), number)
        stream.flush()


def open_closed(output_is_needed: bool) -> None:
    """Puts something in the place of standard streams that are closed (`>&-`): the next file that is opened would take
    the place, and get what others print. Any text can be written to all of them, whatever their encoding.

    Args:
        output_is_needed: to write to a closed output is an error, rather than to go nowhere.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            refuses = name == "stdout" and output_is_needed
            opened = os.open(os.devnull, os.O_RDONLY if refuses else os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
        if number and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def lenient_output() -> Iterator[None]:
    """Nothing that is printed inside the block fails. At its end a line on the standard error tells if output was lost,
    but for a reader that has gone."""
    before = sys.stdout, sys.stderr
    output, errors = Lenient(sys.stdout), Lenient(sys.stderr)
    sys.stdout, sys.stderr = output, errors
    try:
        yield
    finally:
        output.flush()
        trouble = output.trouble
        if trouble is not None and getattr(trouble, "errno", None) not in GONE:
            why = getattr(trouble, "strerror", None) or trouble
            print(f"Not all that was printed could be written ({why}); what is recorded is whole.", file=sys.stderr)
        errors.flush()
        sys.stdout, sys.stderr = before
