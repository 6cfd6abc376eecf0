"""The folders of a command: the project's, that of datasets, and the one where it was typed."""

from __future__ import annotations

import os
from pathlib import Path


def is_checkout(folder: Path) -> bool:
    """True if this package runs from a checkout in that folder, which is then the project of every terminal."""
    return folder == Path(__file__).absolute().parents[2]


def project_root() -> Path:
    """Returns the folder of the project, whose store is used if no other is named.

    It is the checkout that this package runs from; else the current folder or the nearest one above it with a
    conf/config.yaml; else the current folder.
    """
    here = Path.cwd()
    for folder in (Path(__file__).absolute().parents[2], here, *here.parents):
        if (folder / "conf" / "config.yaml").is_file():
            return folder
    return here


def cache_folder() -> Path:
    """Returns the folder for datasets: SWEEPSTACK_DATA if it is set, else one in the user's cache folder."""
    if chosen := os.environ.get("SWEEPSTACK_DATA"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sweepstack"


def begin_in(folder: Path | None) -> None:
    """Sets the folder in which the command was typed; relative paths start there. None means the current folder.

    Hydra may have changed the current folder since the command was typed.
    """
    global _began
    _began = folder


def began_in() -> Path:
    """Returns the folder in which the command was typed."""
    return _began or Path.cwd()


_began: Path | None = None
