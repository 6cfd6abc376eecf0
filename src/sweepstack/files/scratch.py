"""Temporary folders. If a process is killed, the next one removes its folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

SCRATCH_PREFIX = "sweepstack-temporary-"
"""The names of all such folders begin with it. Earlier versions, whose lock was another one, do not know the name."""
LOCK = "lock"
"""The file in such a folder on which its process holds a lock; the folder that is given away lies beside it."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yields a new, empty folder, and removes it at the end of the block. The process holds a lock on it."""
    remove_leftovers()
    with contextlib.ExitStack() as stack:
        yield _make_folder(stack)


def _make_folder(stack: contextlib.ExitStack) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
        with contextlib.suppress(Timeout, FileNotFoundError, FileExistsError):  # another process took it for a leftover
            lock = FileLock(folder / LOCK)
            lock.acquire(blocking=False)
            stack.callback(_remove, folder, lock)
            folder.chmod(0o700)  # if it was removed, the lock has made it again
            (folder / "files").mkdir()
            return folder / "files"


def remove_leftovers() -> None:
    """Removes the temporary folders of killed processes of this user."""
    user = os.getuid() if hasattr(os, "getuid") else 0  # Windows has a temporary folder for each user, and no numbers
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(Timeout, OSError):  # another process holds it or has removed it
            if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == user:
                lock = FileLock(folder / LOCK)
                lock.acquire(blocking=False)
                _remove(folder, lock)


def _remove(folder: Path, lock: FileLock) -> None:
    """Removes a folder whose lock is held: all of it, or on Windows first all but the lock's file, which is open."""
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    if os.name == "nt":  # elsewhere, another process may have made that file again meanwhile, and holds its lock
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
