"""mlruns/errors.log: tracebacks of what is no mistake of the user's and no outcome of a trial."""

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
    """The project's errors.log, made when there is something to say; in the temporary folder if it must be."""

    def __init__(self) -> None:
        super().__init__(project_root() / "mlruns" / "errors.log", delay=True)
        self.setLevel(logging.ERROR)
        self.setFormatter(Formatter("[%(asctime)s] %(message)s"))
        self.failed = False
        """Whether nothing could be written, neither there nor in the temporary folder."""

    def _open(self) -> TextIOWrapper:
        try:
            Path(self.baseFilename).parent.mkdir(exist_ok=True)
            return self._opened()
        except OSError:
            self.baseFilename = _elsewhere()
            if Path(self.baseFilename).is_symlink():  # which another user may have put there
                raise
            return self._opened()

    def _opened(self) -> TextIOWrapper:
        file = Path(self.baseFilename)
        if found := irregular(file):  # a named pipe would be waited for
            raise OSError(errno.EINVAL, f"it is {found}", str(file))
        make_file(file)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """The disk is full, as a rule: once more in the temporary folder. logging would print a traceback."""
        if self.baseFilename == _elsewhere():
            self.failed = True
            return
        with contextlib.suppress(OSError, ValueError):
            self.close()
        self.baseFilename, self.stream = _elsewhere(), None
        self._closed = False
        self.emit(record)


def _elsewhere() -> str:
    owner = os.getuid() if hasattr(os, "getuid") else "log"
    return str(Path(tempfile.gettempdir(), f"sweepstack-errors-{owner}.log"))


def log_traceback(error: BaseException) -> Path | None:
    """Keeps a traceback, under the command that was typed; gives the file, None if none can be written."""
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
