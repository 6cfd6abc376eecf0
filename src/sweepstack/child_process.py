"""What processes ask of the system: to live apart from their parent or to end with it, and to take back memory."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process gets when its parent ends."""
NEW_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
"""`creationflags` of a process that Ctrl-C must not reach, on Windows; elsewhere `start_new_session` does it."""


def end_with_parent(parent: int) -> None:
    """Makes the kernel end this process when its parent ends. Only Linux can do so; elsewhere it does nothing.

    Args:
        parent: the id of the parent process. The thread that has forked counts: it must not end before the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died meanwhile
            os._exit(1)


def is_running(process: int) -> bool:
    """True if a process with that id runs on this machine, of whichever user."""
    import psutil  # os.kill(process, 0) would send Ctrl-C on Windows

    return bool(psutil.pid_exists(process))


def is_orphan(parent: int) -> bool:
    """True if the process that started this one has ended.

    Args:
        parent: its id.
    """
    if sys.platform == "win32":  # its number stays, and python.exe of an environment starts a process in between
        return not is_running(parent)
    return os.getppid() != parent


def return_memory() -> None:
    """Gives free memory back to the system. The allocator of Linux keeps what lies between blocks that are in use."""
    libc = None if sys.platform == "win32" else ctypes.CDLL(None)
    if (trim := getattr(libc, "malloc_trim", None)) is not None:  # glibc has it
        trim(0)
