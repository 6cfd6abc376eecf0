"""The folders that a command works in: of the project, and where it was typed."""

from __future__ import annotations

from pathlib import Path


def is_checkout(folder: Path) -> bool:
    """Whether this package runs from a checkout in that folder, so that every terminal takes it for the project."""
    return folder == Path(__file__).absolute().parents[2]


def project_root() -> Path:
    """The project whose store is used when no other is named: the checkout that this package runs from, else the
    nearest folder upwards from the current one that has a conf/config.yaml, else the current one."""
    here = Path.cwd()
    for folder in (Path(__file__).absolute().parents[2], here, *here.parents):
        if (folder / "conf" / "config.yaml").is_file():
            return folder
    return here


def begin_in(folder: Path | None) -> None:
    """Tells in which folder the command was typed, from where relative paths lead: Hydra may have changed the current
    one since then. None: it is the current one."""
    global _began
    _began = folder


def began_in() -> Path:
    """The folder in which the command was typed."""
    return _began or Path.cwd()


_began: Path | None = None
