"""Temporary folders that do not outlive their use: what a killed process has left is removed by the next one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

SCRATCH_PREFIX = "sweepstack-scratch-"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new, empty folder for as long as the block lasts. Its process holds a lock on it."""
    remove_leftovers()
    with contextlib.ExitStack() as stack:
        yield _made(stack)


def _made(stack: contextlib.ExitStack) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # another process took it for a leftover
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_locked(folder))
            folder.stat()
            return folder


def remove_leftovers() -> None:
    """Removes the folders of this user's processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody holds it, or it is gone
            if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """
    Raises:
        OSError: another process holds it.
    """
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
