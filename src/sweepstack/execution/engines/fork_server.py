"""A server that forks workers: they begin with PyTorch, the user's code and the data loaded, and share that memory.

It is forked from the command itself, after the data were loaded and before anything was computed with several threads:
a process that is forked later would wait for ever for threads that it does not have.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweepstack.child_process import end_with_parent
from sweepstack.execution.assignment import Answer, Assignment, Reporter
from sweepstack.execution.engines.channel import ASSIGNMENT, versions
from sweepstack.execution.engines.worker_side import FileSink, do_assignment
from sweepstack.execution.worker import load_training

POLL_SECONDS = 0.1
"""Seconds between two looks for ended workers where the kernel cannot tell."""
Work = Callable[[Assignment, Reporter], Answer]


class WorkerServer:
    """A process that starts workers; they end with it.

    Args:
        orders: the connection to the process.
        pid: the id of the process, which is a child of this one.
    """

    def __init__(self, orders: socket.socket, pid: int) -> None:
        self._socket, self.pid = orders, pid
        self._received = b""
        self._ended: dict[int, str] = {}
        self.alive = True
        """False when it has ended: it can start no worker any more."""

    def start(self, folder: Path) -> int | None:
        """Starts a worker; returns the id of its process, or None if the server has ended.

        Args:
            folder: the folder of the assignment, see `channel`.
        """
        try:
            self._socket.sendall(json.dumps({"folder": str(folder)}).encode() + b"\n")
            while True:
                for message in self._messages(None):
                    if "started" in message:
                        return int(message["started"])
                if not self.alive:
                    return None
        except OSError:
            self.alive = False
            return None

    def ended(self, worker: int) -> str | None:
        """Says how a worker has ended; None while it runs.

        Args:
            worker: the id of its process.
        """
        with contextlib.suppress(OSError):
            for _ in self._messages(0.0):
                pass
        if worker not in self._ended and not self.alive:
            return "the process that had started it was ended"
        return self._ended.get(worker)

    def _messages(self, seconds: float | None) -> list[dict[str, Any]]:
        """Reads what the server says, and notes which workers have ended.

        Args:
            seconds: the longest time to wait; None for no limit.
        """
        ready, _, _ = select.select([self._socket], [], [], seconds)
        if not ready:
            return []
        received = self._socket.recv(65536)
        if not received:
            self.alive = False
            return []
        *lines, self._received = (self._received + received).split(b"\n")
        messages = [json.loads(line) for line in lines]
        self._ended |= {int(one["ended"]): str(one["how"]) for one in messages if "ended" in one}
        return messages

    def close(self) -> None:
        """Ends the server and all of its workers."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.alive = False
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class ForkServer(WorkerServer):
    """Forks workers; see the file. It and its workers end with this process.

    Args:
        work: does an assignment, in a worker; see `worker.do`.
    """

    def __init__(self, work: Work) -> None:
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        parent = os.getpid()
        with warnings.catch_warnings():  # other threads of this process wait for pipes, and hold no lock meanwhile
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                end_with_parent(parent)
                ours.close()
                serve(theirs, work, _load)
            finally:
                os._exit(0)
        theirs.close()
        super().__init__(ours, pid)


def _load(folder: Path) -> None:
    """Loads what a worker would load, once for all of them.

    Args:
        folder: the folder of its assignment.
    """
    with contextlib.suppress(Exception):  # the worker meets it, too
        content = json.loads((folder / ASSIGNMENT).read_text())
        load_training(is_alone=len(content["trajectories"]) == 1)
        versions()


def serve(orders: socket.socket, work: Work, before: Callable[[Path], None] = lambda _: None) -> None:
    """The server: starts workers until its parent is gone.

    Args:
        orders: the connection to its parent.
        work: does an assignment, in a worker; see `worker.do`.
        before: called in the server with the folder of an assignment, before its worker is forked.
    """
    os.setsid()  # Ctrl-C reaches the command alone, which then asks its workers to stop
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    received = b""
    workers: dict[int, int] = {}  # the workers, and what tells that one has ended
    while True:
        files = [file for file in workers.values() if file >= 0]
        blind = len(files) < len(workers)
        ready, _, _ = select.select([orders.fileno(), *files], [], [], POLL_SECONDS if blind else None)
        for worker, file in [*workers.items()]:
            if file in ready or file < 0:
                ended, status = os.waitpid(worker, os.WNOHANG)
                if ended:
                    del workers[worker]
                    if file >= 0:
                        os.close(file)
                    how = how_it_ended(os.waitstatus_to_exitcode(status))
                    orders.sendall(json.dumps({"ended": worker, "how": how}).encode() + b"\n")
        if orders.fileno() in ready:
            data = orders.recv(65536)
            if not data:
                return
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                folder = Path(json.loads(line)["folder"])
                before(folder)
                gc.freeze()  # the collector of a worker would write to what it shares with this process, and so copy it
                worker = _fork(folder, work, orders)
                workers[worker] = os.pidfd_open(worker) if hasattr(os, "pidfd_open") else -1
                orders.sendall(json.dumps({"started": worker}).encode() + b"\n")


def how_it_ended(code: int) -> str:
    """Says how a process has ended.

    Args:
        code: its exit code; the negative number of a signal if one has killed it.
    """
    return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def _fork(folder: Path, work: Work, orders: socket.socket) -> int:
    server = os.getpid()
    worker = os.fork()
    if worker:
        return worker
    code = 1
    try:
        end_with_parent(server)
        orders.close()
        do_assignment(folder, FileSink(folder), work, json.loads((folder / ASSIGNMENT).read_text()))
        code = 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    raise AssertionError
