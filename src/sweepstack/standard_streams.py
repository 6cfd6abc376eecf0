"""Makes standard input, output and error reliable: open, and able to take any text."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

from sweepstack.masking import mask

READER_GONE_ERRNOS = (errno.EPIPE, errno.ECONNRESET)
"""System errors that mean that nobody reads the output any more, as after `| head`."""


class Lenient:
    """A text stream that never fails. After the first error it discards what is written.

    A training must not end because its terminal is gone or the disk with its output is full.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | ValueError | None = None
        """The first error."""

    def write(self, text: str) -> int:
        with self._catch_error():
            self._stream.write(mask(text))
        return len(text)

    def flush(self) -> None:
        with self._catch_error():
            self._stream.flush()

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    @contextlib.contextmanager
    def _catch_error(self) -> Iterator[None]:
        if self.error is None:
            try:
                yield
            except (OSError, ValueError) as error:  # a ValueError if the file was closed
                self.error = error
                discard(self._stream)
            return
        with contextlib.suppress(OSError, ValueError):
            yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class HoldingErrors:
    """A binary file that keeps its errors until `raise_error` is called.

    A library that writes to the file would turn its error into another one, which names neither the disk nor the file.
    """

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
        """Does nothing: `raise_error` flushes the file when it is complete."""

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


def discard(stream: Any) -> None:
    """Discards what a stream has buffered; else the interpreter would fail to write it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), number)
        stream.flush()


def open_closed(output_is_needed: bool) -> None:
    """Opens standard streams that are closed (`>&-`), and lets any text be written to all of them in any encoding.

    Otherwise the next file that is opened would get the number of a closed stream, and receive what others print.

    Args:
        output_is_needed: make it an error to write to an output that was closed, instead of discarding the text.
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
    """Lets nothing fail that is printed inside the block.

    At its end, a line on the standard error says if output was lost, unless only the reader has gone.
    """
    before = sys.stdout, sys.stderr
    output, errors = Lenient(sys.stdout), Lenient(sys.stderr)
    sys.stdout, sys.stderr = output, errors
    try:
        yield
    finally:
        output.flush()
        error = output.error
        if error is not None and getattr(error, "errno", None) not in READER_GONE_ERRNOS:
            why = getattr(error, "strerror", None) or error
            print(f"Some of the output could not be written ({why}); all records are complete.", file=sys.stderr)
        errors.flush()
        sys.stdout, sys.stderr = before
