"""Files that the program makes or replaces: a file is written as a whole or not at all, and what is no regular file
(a device, a named pipe, a socket, a folder, a link to one of them or to nothing) is never replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
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


def irregular(path: Path) -> str:
    """What is at a path, in words, if the program must not make or replace a file there; empty where nothing is, or a
    regular file, or a link to one. What this user may not look at is taken for absent: it cannot be written either."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else ""
    except OSError as error:
        return "a link that leads back to itself" if error.errno == errno.ELOOP else ""
    return "" if stat.S_ISREG(mode) else FILE_KINDS.get(stat.S_IFMT(mode), "something else")


def check_replaceable(path: Path, what: str, remedy: str, error: type[UserError] = UserError) -> Path:
    """The file that a path means, with its links resolved, if it may be made or replaced.

    Args:
        what: the file is for the user, such as "the tracking store".
        error: the type that is raised.

    Raises:
        UserError: there is something that is no regular file.
    """
    found = irregular(path)
    if found:
        raise error(f"{what} must be a regular file, {path} is {found}", remedy=remedy)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a new, empty file beside `path` to write to; it takes the place of `path` at the end of the block, with the
    mode of the file that is replaced. If the block fails, `path` stays as it is. Whoever has a hard link to the old
    file keeps it.

    Raises:
        UserError: there is something at `path` that is no regular file.
        OSError: the folder cannot be written to.
    """
    target = check_replaceable(path, "what is written", "move it away, or choose another place")
    temporary = target.with_name(f".{secrets.token_hex(4)}{target.suffix}")  # short: target may have the longest name
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # follows no link
    try:
        yield temporary
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        check_replaceable(target, "what is written", "move it away, or choose another place")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, content: bytes) -> None:
    """Writes what a user has asked for to the place that the user has named. A regular file is replaced as a whole, so
    that a full disk does not cost the old one; a device, a named pipe or a link is written to.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_symlink() or irregular(path):
        path.write_bytes(content)
        return
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except PermissionError:  # a file of this user in a folder of somebody else
        path.write_bytes(content)


def move_new(made: Path, target: Path) -> bool:
    """Moves a file to a place where nothing is yet; False, and nothing is moved, if there is something by now."""
    try:
        os.link(made, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            return False
        os.rename(made, target)
        return True
    made.unlink()
    return True


def make_durable(folder: Path) -> None:
    """The names of the files in a folder are on the disk; without them their content would be lost with the machine."""
    with contextlib.suppress(OSError):  # not every system lets a folder be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
