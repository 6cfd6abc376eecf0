"""Makes and replaces files: a file is written as a whole or not at all.

Something that is not a regular file is never replaced: a device, a named pipe, a socket, a folder, a link to one of
them, or a link to nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sweepstack.errors import UserError

FILE_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}
"""What a user reads about something that is not a regular file."""
OPEN_ELSEWHERE_SECONDS = 2.0
"""Seconds until a file that another process reads must be closed again on Windows, see `move_over`."""


def irregular(path: Path) -> str:
    """Says what is at a path, if the program must not make or replace a file there.

    It returns an empty text if there is nothing, a regular file, or a link to one. It also does so if this user may not
    look there, because then the user cannot write there either.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else ""
    except OSError as error:
        return "a link that leads to itself" if error.errno == errno.ELOOP else ""
    return "" if stat.S_ISREG(mode) else FILE_KINDS.get(stat.S_IFMT(mode), "something else")


def check_replaceable(path: Path, what: str, remedy: str, error: type[UserError] = UserError) -> Path:
    """Returns the path of the file to make or replace, with its links resolved.

    Args:
        path: where the file will be.
        what: what the file is for the user, such as "the tracking store".
        remedy: what the user can do if something else is there.
        error: the type of the error that is raised.

    Raises:
        UserError: there is something that is not a regular file.
    """
    found = irregular(path)
    if found:
        raise error(f"{what} must be a regular file, {path} is {found}", remedy=remedy)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a new, empty file beside `path` to write to; it replaces `path` at the end of the block.

    The new file gets the mode of the old one. If the block fails, `path` stays as it is. A hard link to the old file
    keeps the old content.

    Raises:
        UserError: there is something at `path` that is not a regular file.
        OSError: the folder cannot be written to.
    """
    target = check_replaceable(path, "what is written", "move it away, or choose another place")
    temporary = target.with_name(f".{secrets.token_hex(4)}{target.suffix}")  # short: the target's name may be long
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # follows no link
    try:
        yield temporary
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        check_replaceable(target, "what is written", "move it away, or choose another place")
        move_over(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def move_over(source: Path, target: Path) -> None:
    """Moves a file to a path, over a file that is there.

    Windows refuses that while another process has one of them open, be it to read it; then it is tried again and again.

    Raises:
        OSError: it cannot be moved.
    """
    until = time.monotonic() + OPEN_ELSEWHERE_SECONDS
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until:
                raise
            time.sleep(0.01)


def write_output(path: Path, content: bytes) -> None:
    """Writes output to the path that the user has named.

    It replaces a regular file as a whole, so that a full disk does not cost the old content. It writes into a device, a
    named pipe or the target of a link.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_symlink() or irregular(path):
        path.write_bytes(content)
        return
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except PermissionError:  # the file belongs to this user, its folder to another one
        path.write_bytes(content)


def move_new(source: Path, target: Path) -> bool:
    """Moves a file to a path where nothing is; returns False, and moves nothing, if there is something."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            return False
        os.rename(source, target)
        return True
    source.unlink()
    return True


def make_durable(folder: Path) -> None:
    """Returns when the names of a folder's files are on the disk; without them a power cut would lose the files."""
    with contextlib.suppress(OSError):  # not every system lets a folder be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
