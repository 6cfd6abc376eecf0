"""Shows to sweepstack, on Linux, a Python that lacks what Python lacks on Windows, and writes down the names of files.

A test puts it as `sitecustomize.py` on the path of modules: Python then runs it at the start of each process, so that
workers and the process that writes records see the same. Libraries see Linux. It is no Windows: what that does with
files that are open, with paths and with signals is not seen.
"""

import builtins
import errno
import fcntl
import os
import select
import signal
import socket
import sys
from types import SimpleNamespace
from typing import Any

MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
LACKING = {
    os: "chown fchmod fchown fork forkpty geteuid getegid getgid getgroups getloadavg getpgid getpgrp getpriority "
    "getuid killpg lchown mkfifo mknod nice openpty pidfd_open posix_spawn pread pwrite register_at_fork "
    "sched_getaffinity sched_setaffinity sched_yield set_blocking setgid setpgid setpriority setsid setuid statvfs "
    "sync sysconf uname wait wait3 wait4 WNOHANG O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC",
    signal: "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm pause "
    "pthread_kill pthread_sigmask setitimer sigpending sigwait",
    socket: "AF_UNIX MSG_DONTWAIT SO_REUSEPORT recv_fds send_fds",
    select: "epoll poll",
    sys: "",
}
"""What modules lack there, of what they have here."""
OTHER: dict[Any, dict[str, Any]] = {sys: {"platform": "win32"}}
"""What modules have there in place of what they have here."""


class Lacking:
    """A module without some of its parts."""

    def __init__(self, module: Any, names: str) -> None:
        vars(self).update(_module=module, _names={*names.split()}, _other=OTHER.get(module, {}))

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r}")
        return self._other[name] if name in self._other else getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)


def locking(file: int, mode: int, _bytes: int) -> None:
    """Locks a file, as the function of that name in Windows' msvcrt; here with the locks of Linux."""
    try:
        fcntl.flock(file, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error


SEEN = {module.__name__: Lacking(module, names) for module, names in LACKING.items()}
SEEN["msvcrt"] = SimpleNamespace(locking=locking, LK_UNLCK=0, LK_NBLCK=2)  # type: ignore[assignment]
import_here: Any = builtins.__import__


def import_there(name: str, scope: Any = None, *args: Any, **words: Any) -> Any:
    """Imports a module as sweepstack would see it on Windows."""
    if (scope or {}).get("__name__", "").partition(".")[0] in ("sweepstack", "hydra_plugins"):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in SEEN:
            return SEEN[name]
    return import_here(name, scope, *args, **words)


written = os.open(os.environ["FILES_WRITTEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(event: str, args: tuple[Any, ...]) -> None:
    """Writes down what is made or opened to be written to."""
    is_read = event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR))
    if is_read or event not in ("open", "os.mkdir", "sqlite3.connect", "os.rename", "os.link"):
        return
    path = args[event in ("os.rename", "os.link")]
    if isinstance(path, str | os.PathLike):
        os.write(written, os.fsencode(os.path.abspath(path)) + b"\n")


builtins.__import__ = import_there  # type: ignore[assignment]
sys.addaudithook(note)
