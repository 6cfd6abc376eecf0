"""mlruns/errors.log: tracebacks of what is no mistake of the user's and no outcome of a trial."""

from __future__ import annotations

import logging
import shlex
import sys
import tempfile
from io import TextIOWrapper
from pathlib import Path

from sweepstack.tracking.address import project_root


class ErrorsLog(logging.FileHandler):
    """The project's errors.log, made when there is something to say; in the temporary folder if it must be."""

    def __init__(self) -> None:
        super().__init__(project_root() / "mlruns" / "errors.log", delay=True)
        self.setLevel(logging.ERROR)
        self.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))

    def _open(self) -> TextIOWrapper:
        try:
            Path(self.baseFilename).parent.mkdir(exist_ok=True)
            return super()._open()
        except OSError:
            self.baseFilename = str(Path(tempfile.gettempdir(), "sweepstack-errors.log"))
            return super()._open()


def log_traceback(error: Exception) -> Path:
    """Keeps a traceback, under the command that was typed; gives the file."""
    handler = ErrorsLog()
    record = logging.LogRecord("sweepstack", logging.ERROR, "", 0, shlex.join(sys.argv), None, None)
    record.exc_info = (type(error), error, error.__traceback__)
    handler.handle(record)
    handler.close()
    return Path(handler.baseFilename)
