"""Keeps files that another process names inside of a folder."""

from __future__ import annotations

from pathlib import Path, PurePath

from sweepstack.errors import UserError


def inside(folder: Path, name: str | PurePath) -> Path:
    """Returns the path of a file that another process names.

    Args:
        folder: the folder that it must lie in.
        name: its path in that folder.

    Raises:
        UserError: it lies elsewhere.
    """
    path = PurePath(name)
    if path.anchor or not path.parts or ".." in path.parts:
        rule = "a worker must name files inside of its own folder"
        raise UserError(rule, str(name), "end that worker, it does not run sweepstack's code; the same command goes on")
    return folder / path
