"""Files and folders that nobody but their owner can read: the journal, the ledger, checkpoints, the log of errors.

On Windows modes say nothing: who can read a folder there can read what is made in it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

FILE = 0o600
"""Mode of a file that only its owner can read and write."""
FOLDER = 0o700
"""Mode of a folder that only its owner can use."""
BINARY: int = getattr(os, "O_BINARY", 0)
"""Flag of a file that is opened by its number, on Windows: else each line would end with a further byte."""


def make_folder(folder: Path) -> None:
    """Makes a folder that only its owner can use, and the folders above it. An existing folder keeps its mode.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=FOLDER, exist_ok=True)


def make_file(file: Path) -> None:
    """Makes an empty file that only its owner can read. An existing file is closed to others if it belongs to us."""
    with contextlib.suppress(OSError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE))
    close_to_others([file])


def close_to_others(paths: Iterable[Path]) -> None:
    """Removes the permissions of other users, for example from files that an earlier version has made.

    Links and files of other users stay as they are.
    """
    for path in paths:
        with contextlib.suppress(OSError):
            mode = path.lstat().st_mode
            if stat.S_IMODE(mode) & 0o077 and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                path.chmod(stat.S_IMODE(mode) & 0o700)


def open_to_append(file: Path, flags: int = os.O_CREAT) -> int:
    """Opens a file to write bytes to its end; returns its number. Only its owner can read it.

    Args:
        file: the file.
        flags: further ones of `os.open`.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(file, os.O_WRONLY | os.O_APPEND | BINARY | flags, FILE)


def opener(path: str, flags: int) -> int:
    """Makes files that only their owner can read, with `open(..., opener=opener)`."""
    return os.open(path, flags, FILE)
