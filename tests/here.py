"""Commands typed in this process: what `python train.py` and `sweepstack` do, without the seconds that a process takes
to begin."""

import contextlib
import io
import logging
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from sweepstack import paths
from sweepstack.cli import main
from sweepstack.execution import undelivered

ROOT = Path(__file__).parents[1]


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def train(*words: str, program: Path = ROOT / "train.py") -> Done:
    """python train.py WORDS, in the current folder.

    Args:
        program: the train.py, whose folder is on the path of modules.
    """
    with _as_before():
        sys.path.insert(0, str(program.parent))
        return _typed(lambda: runpy.run_path(str(program), run_name="__main__"), str(program), *words)


def sweepstack(*words: str) -> Done:
    """sweepstack WORDS, in the current folder."""
    with _as_before():
        return _typed(main.main, "sweepstack", *words)


def _typed(program: Any, *argv: str) -> Done:
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    sys.argv = [*argv]
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            program()
        except SystemExit as end:
            code = end.code or 0
    out.flush()
    err.flush()
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Done(code, *texts)


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """What a program sets for its process is as before at the end of the block."""
    argv, path, environment = sys.argv, sys.path[:], dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.getLogger()
    loggers, level = root.handlers[:], root.level
    singleton = HydraConfig.instance().cfg
    try:
        with warnings.catch_warnings():
            yield
    finally:
        paths.begin_in(None)
        undelivered._closed.clear()
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = singleton
        for handler in {*root.handlers} - {*loggers}:
            handler.close()
        root.handlers[:] = loggers
        root.setLevel(level)
        for number, taken in handlers.items():
            signal.signal(number, taken)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv, sys.path[:] = argv, path
