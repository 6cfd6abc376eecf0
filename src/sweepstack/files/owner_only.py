"""Files and folders that nobody but their owner can read: the journal, the ledger, checkpoints, the log of errors."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

FILE, FOLDER = 0o600, 0o700


def make_folder(folder: Path) -> None:
    """A folder for the owner alone, made with those above it where it is not there. One that is there keeps its mode,
    which may be somebody's wish.

    Raises:
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=FOLDER, exist_ok=True)


def make_file(file: Path) -> None:
    """A file for the owner alone, empty where it is not there. One that others can read is closed to them, as far as it
    is ours."""
    with contextlib.suppress(OSError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE))
    close_to_others([file])


def close_to_others(paths: Iterable[Path]) -> None:
    """Takes from files and folders, of an earlier version for one, what others may do with them. Links, and what
    belongs to another user, stay as they are."""
    for path in paths:
        with contextlib.suppress(OSError):
            mode = path.lstat().st_mode
            if stat.S_IMODE(mode) & 0o077 and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                path.chmod(stat.S_IMODE(mode) & 0o700)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: what is made is the owner's alone."""
    return os.open(path, flags, FILE)
