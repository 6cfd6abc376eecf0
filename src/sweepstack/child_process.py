"""What a forked process does first: it ends with its parent, whatever ends that."""

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
