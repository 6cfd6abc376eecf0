"""What forked processes ask of the system: to end with their parent, and to take back memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process gets when its parent ends."""


def end_with_parent(parent: int) -> None:
    """Makes the kernel end this process when its parent ends. Only Linux can do so; elsewhere it does nothing.

    Args:
        parent: the id of the parent process. The thread that has forked counts: it must not end before the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died meanwhile
            os._exit(1)


def return_memory() -> None:
    """Gives free memory back to the system. The allocator of Linux keeps what lies between blocks that are in use."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc has it
        trim(0)
