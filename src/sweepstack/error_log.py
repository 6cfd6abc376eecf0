"""Writes tracebacks to mlruns/errors.log: those that are neither a user's mistake nor the outcome of a trial."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import sys
import tempfile
from io import TextIOWrapper
from pathlib import Path

from sweepstack.files.owner_only import make_file
from sweepstack.files.replacing import irregular
from sweepstack.masking import Formatter
from sweepstack.paths import project_root


class ErrorsLog(logging.FileHandler):
    """Logs errors to the project's errors.log, or in the temporary folder if that cannot be written.

    The file is made with the first error.
    """

    def __init__(self) -> None:
        super().__init__(project_root() / "mlruns" / "errors.log", delay=True)
        self.setLevel(logging.ERROR)
        self.setFormatter(Formatter("[%(asctime)s] %(message)s"))
        self.failed = False
        """True if the error could not be written to either file."""

    def _open(self) -> TextIOWrapper:
        try:
            Path(self.baseFilename).parent.mkdir(exist_ok=True)
            return self._open_regular()
        except OSError:
            self.baseFilename = _fallback_path()
            if Path(self.baseFilename).is_symlink():  # another user may have made the link
                raise
            return self._open_regular()

    def _open_regular(self) -> TextIOWrapper:
        file = Path(self.baseFilename)
        if found := irregular(file):  # to open a named pipe would wait for a reader
            raise OSError(errno.EINVAL, f"it is {found}", str(file))
        make_file(file)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Writes the record to the temporary folder; the disk is usually full. logging would print a traceback."""
        if self.baseFilename == _fallback_path():
            self.failed = True
            return
        with contextlib.suppress(OSError, ValueError):
            self.close()
        self.baseFilename, self.stream = _fallback_path(), None
        self._closed = False
        self.emit(record)


def _fallback_path() -> str:
    owner = os.getuid() if hasattr(os, "getuid") else "log"
    return str(Path(tempfile.gettempdir(), f"sweepstack-errors-{owner}.log"))


def log_traceback(error: BaseException) -> Path | None:
    """Logs a traceback with the command that was typed; returns the file, or None if no file can be written."""
    handler = ErrorsLog()
    record = logging.LogRecord("sweepstack", logging.ERROR, "", 0, shlex.join(sys.argv), None, None)
    record.exc_info = (type(error), error, error.__traceback__)
    try:
        handler.handle(record)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        handler.close()
    return None if handler.failed else Path(handler.baseFilename)
