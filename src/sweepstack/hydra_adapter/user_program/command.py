"""How a program was begun, so that `sweepstack repro` and `refine` can begin it again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sweepstack.hydra_adapter.private import arguments_parser
from sweepstack.paths import project_root
from sweepstack.trial import DEFAULT_PROGRAM

VARIABLE = "SWEEPSTACK_PROGRAM"
"""The environment variable that holds it, also for processes in which other launchers train."""


def remember_program(module: str | None) -> None:
    """Stores how this program was begun: its file, or `-m` and its module, and the flags that name its configs.

    Files are relative to the project's folder if they are in it.

    Args:
        module: its name if it is a module that `python -m` has begun.
    """
    words = [_in_project(sys.argv[0])] if module is None else ["-m", module.removesuffix(".__main__")]
    known, _ = arguments_parser().parse_known_args(sys.argv[1:])
    for flag, value in (("--config-path", known.config_path), ("--config-name", known.config_name)):
        words += [] if value is None else [flag, value]
    if known.config_dir is not None:
        words += ["--config-dir", _in_project(known.config_dir)]
    os.environ[VARIABLE] = json.dumps(words)


def program_words() -> tuple[str, ...]:
    """Returns the words of `remember_program`, or those of the project's train.py."""
    words = os.environ.get(VARIABLE)
    return DEFAULT_PROGRAM if words is None else tuple(json.loads(words))


def _in_project(file: str) -> str:
    """Returns the path of a file or folder from the project's folder, or the absolute one if it is not in it."""
    path, root = Path(os.path.abspath(file)), project_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
