"""Temporary folders. If a process is killed, the next one removes its folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

SCRATCH_PREFIX = "sweepstack-scratch-"
"""The names of all such folders begin with it."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yields a new, empty folder, and removes it at the end of the block. The process holds a lock on it."""
    remove_leftovers()
    with contextlib.ExitStack() as stack:
        yield _make_folder(stack)


def _make_folder(stack: contextlib.ExitStack) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # another process has taken it for a leftover
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_locked(folder))
            folder.stat()
            return folder


def remove_leftovers() -> None:
    """Removes the temporary folders of killed processes of this user."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process holds it or has removed it
            if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder during the block.

    Raises:
        OSError: another process holds the lock.
    """
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
