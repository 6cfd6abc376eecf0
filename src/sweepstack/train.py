"""The train.py of this package: `python -m sweepstack.train` trains with the configs of the project, or of the package.

`sweepstack.sweep` begins it as a process that obeys the first line of its standard input, and ends with it.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import pickle
import signal
import sys
import threading
from pathlib import Path

import hydra
from omegaconf import DictConfig

from sweepstack import app
from sweepstack.errors import UserError
from sweepstack.exits import leave
from sweepstack.paths import config_folder, project_root
from sweepstack.private_api_switch import tricks
from sweepstack.sweep_end import read_rows


def _configs() -> Path:
    """Returns the folder of the main config: `conf` of the project if there is one, else that of this package."""
    own = project_root() / "conf"
    return own if own.is_dir() else config_folder()


@hydra.main(version_base="1.3", config_path=str(_configs()), config_name="config")
def train(cfg: DictConfig) -> float:
    """Trains what Hydra has composed; see `app.run`."""
    return app.run(cfg)


def main() -> None:
    """Trains the sweep that the other end of the standard input asks for; see `from_python`."""
    order = json.loads(_line())
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    sys.argv = ["sweepstack.sweep", *order["words"]]

    def write_rows(config: DictConfig) -> list[str]:
        rows = read_rows(config)
        Path(order["rows"]).write_bytes(pickle.dumps(rows))
        return [str(row.state) for row in rows]

    app.show_table = write_rows
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        app.main(train, "sweepstack.train")
    except SystemExit as end:
        _keep_mistakes(end, Path(order["mistakes"]))
        if tricks() and isinstance(end.code, int):
            leave(end.code)
        raise


def _keep_mistakes(end: SystemExit, file: Path) -> None:
    """Writes the `UserError` that has ended the program to a file, if that is what has ended it."""
    error: BaseException | None = end
    while isinstance(error, SystemExit):
        error = error.__context__
    if isinstance(error, UserError):
        with contextlib.suppress(Exception):  # a value cannot be pickled; the line has been printed
            file.write_bytes(pickle.dumps(error))


def _line() -> bytes:
    """Reads a line, and no further: a buffer would keep a lock while the thread below waits, also after a fork."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    if sys.platform == "win32":  # there os.kill ends a process at once
        _thread.interrupt_main(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    app.main(train)
