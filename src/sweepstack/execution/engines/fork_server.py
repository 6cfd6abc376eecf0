"""A server that forks workers: they begin with PyTorch, the user's code and the data loaded, and share that memory.

It is forked from the command itself, after the data were loaded and before anything was computed with several threads:
a process that is forked later would wait for ever for threads that it does not have. A worker does one assignment after
the other, as long as each ends well: a fork, and the first training in a new process, take 0.1 s.

Windows has no forks: `open_engine` starts no server there, and workers are new processes.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweepstack.child_process import end_with_parent
from sweepstack.execution.assignment import Answer, Assignment, Reporter
from sweepstack.execution.engines.channel import ASSIGNMENT, versions
from sweepstack.execution.engines.worker_side import FileSink, do_assignment
from sweepstack.execution.worker import load_training

POLL_SECONDS = 0.1
"""Seconds between two looks for ended workers where the kernel cannot tell."""
FREE, DONE = b"f", b"d"
"""What a worker says to the server: it can take a further assignment; it has reported that the one before is done."""
Work = Callable[[Assignment, Reporter], Answer]


class WorkerServer:
    """A process that starts workers, and gives them assignments; they end with it.

    Args:
        orders: the connection to the process.
        pid: the id of the process, which is a child of this one.
    """

    def __init__(self, orders: socket.socket, pid: int) -> None:
        self._socket, self.pid = orders, pid
        self._received = b""
        self._number = 0
        self.started: set[int] = set()
        """The orders that a worker has."""
        self._ended: dict[int, str] = {}
        self.alive = True
        """False when it has ended: it can start no worker any more."""

    def start(self, folder: Path) -> Order | None:
        """Gives an assignment to a worker; returns None if the server has ended.

        Args:
            folder: the folder of the assignment, see `channel`.
        """
        self._number += 1
        self.send({"folder": str(folder), "order": self._number})
        return Order(self, self._number) if self.alive else None

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends an order, or the number of one whose worker is to be killed."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.alive = False

    def ended(self, order: int) -> str | None:
        """Says how the worker of an order has ended, or that it has done it; None while it works.

        Args:
            order: the number of the order.
        """
        if self.alive:
            self.receive(0.0)
        if order not in self._ended and not self.alive:
            return "the process that had started it was ended"
        return self._ended.get(order)

    def receive(self, seconds: float) -> None:
        """Reads what the server says, and notes which orders a worker has, and which have ended.

        Args:
            seconds: the longest time to wait for the server to say something.
        """
        ready, _, _ = select.select([self._socket], [], [], seconds)
        if not ready:
            return
        received = b""
        with contextlib.suppress(OSError):
            received = self._socket.recv(65536)
        if not received:
            self.alive = False
            return
        *lines, self._received = (self._received + received).split(b"\n")
        for message in map(json.loads, lines):
            if "started" in message:
                self.started.add(message["started"])
            else:
                self._ended[message["ended"]] = message["how"]

    def close(self) -> None:
        """Ends the server and all of its workers."""
        if sys.platform == "win32":
            raise NotImplementedError
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.alive = False
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@dataclass(frozen=True)
class Order:
    """An assignment that was given to a server."""

    server: WorkerServer
    number: int

    def is_waiting(self) -> bool:
        """True while no worker has it, because the server loads what that needs."""
        return self.number not in self.server.started

    def ended(self) -> str | None:
        """Says how its worker has ended, or that it has done it; None while it works."""
        return self.server.ended(self.number)

    def kill(self) -> None:
        """Kills its worker, if that still does it."""
        self.server.send({"kill": self.number})


class ForkServer(WorkerServer):
    """Forks workers; see the file. It and its workers end with this process.

    Args:
        work: does an assignment, in a worker; see `worker.do`.
    """

    def __init__(self, work: Work) -> None:
        if sys.platform == "win32":
            raise NotImplementedError
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


def _load(content: Mapping[str, Any]) -> None:
    """Loads what a worker would load, once for all of them.

    Args:
        content: the content of its assignment's file.
    """
    load_training(is_alone=_is_alone(content))
    versions()


def _is_alone(content: Mapping[str, Any]) -> bool:
    return len(content["trajectories"]) == 1


@dataclass(eq=False)
class _Worker:
    """A worker, as the server knows it."""

    pid: int
    socket: socket.socket
    """The connection to it."""
    kind: str
    """What was loaded before it was forked, see `_kind_of`."""
    file: int
    """A file that is ready when it has ended; -1 where the kernel has none."""
    orders: list[int] = field(default_factory=list)
    """The orders that it has not done: the last one, and perhaps one of which it reports the end."""
    is_free: bool = False
    """True if it can take a further order."""

    def give(self, order: int, folder: Path) -> None:
        """Gives it an assignment."""
        self.orders.append(order)
        self.is_free = False
        with contextlib.suppress(OSError):  # it has ended, which the next look shows
            self.socket.sendall(os.fsencode(folder) + b"\n")

    def hear(self) -> list[int]:
        """Takes what it says; returns the orders that it has done."""
        if sys.platform == "win32":
            raise NotImplementedError
        received = b""
        with contextlib.suppress(OSError):
            received = self.socket.recv(64, socket.MSG_DONTWAIT)
        self.is_free = self.is_free or FREE in received
        done, self.orders = self.orders[: received.count(DONE)], self.orders[received.count(DONE) :]
        return done

    def how_ended(self) -> str | None:
        """Says how it has ended; None while it lives."""
        if sys.platform == "win32":
            raise NotImplementedError
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        return how_it_ended(os.waitstatus_to_exitcode(status)) if ended else None

    def close(self) -> None:
        """Closes what the server has of it."""
        self.socket.close()
        if self.file >= 0:
            os.close(self.file)


def _kind_of(content: Mapping[str, Any]) -> str:
    """Returns what a worker must have loaded for an assignment: the data, and the compiler for single trajectories.

    It is loaded before a worker is forked, so that it is loaded once for all workers; see `load_training`.
    """
    return json.dumps([content["trajectories"][0][0]["config"]["dataset"], _is_alone(content)])


def serve(orders: socket.socket, work: Work, load: Callable[[Mapping[str, Any]], None] = lambda _: None) -> None:
    """The server: gives assignments to workers until its parent is gone.

    Args:
        orders: the connection to its parent.
        work: does an assignment, in a worker; see `worker.do`.
        load: loads in the server, before a worker is forked, what the worker needs; takes the content of the
            assignment's file.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    os.setsid()  # Ctrl-C reaches the command alone, which then asks its workers to stop
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    received = b""
    workers: list[_Worker] = []

    def report(**message: Any) -> None:
        orders.sendall(json.dumps(message).encode() + b"\n")

    def give(order: int, folder: Path) -> None:
        content: Mapping[str, Any] = {}
        kind = ""
        with contextlib.suppress(Exception):  # the worker meets it, too
            content = json.loads((folder / ASSIGNMENT).read_text(encoding="utf-8"))
            kind = _kind_of(content)
        free = [worker for worker in workers if worker.is_free]
        worker = next((worker for worker in free if worker.kind == kind), None)
        if worker is None:
            for other in free[:1]:  # it gives its memory back
                other.is_free = False
                other.socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(Exception):  # the worker meets it, too
                load(content)
            gc.freeze()  # the collector of a worker would write to what it shares with this process, and so copy it
            worker = _fork(work, orders, workers, kind)
            workers.append(worker)
        worker.give(order, folder)
        report(started=order)

    while True:
        files = [file for worker in workers for file in (worker.socket, worker.file) if file != -1]
        is_blind = any(worker.file < 0 for worker in workers)
        ready, _, _ = select.select([orders, *files], [], [], POLL_SECONDS if is_blind else None)
        for worker in [*workers]:
            how = worker.how_ended() if worker.file in ready or worker.file < 0 else None
            for order in worker.hear() if worker.socket in ready or how is not None else ():
                report(ended=order, how="it has done its assignment")
            if how is not None:
                workers.remove(worker)
                worker.close()
                for order in worker.orders:
                    report(ended=order, how=how)
        if orders in ready:
            data = orders.recv(65536)
            if not data:
                return
            *lines, received = (received + data).split(b"\n")
            for message in map(json.loads, lines):
                if "folder" in message:
                    give(message["order"], Path(message["folder"]))
                    continue
                for worker in workers:
                    if worker.orders[-1:] == [message["kill"]]:
                        os.kill(worker.pid, signal.SIGKILL)


def how_it_ended(code: int) -> str:
    """Says how a process has ended.

    Args:
        code: its exit code; the negative number of a signal if one has killed it.
    """
    return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def _fork(work: Work, orders: socket.socket, others: list[_Worker], kind: str) -> _Worker:
    """Forks a worker, which does assignments until one of them does not end well, or none comes any more."""
    if sys.platform == "win32":
        raise NotImplementedError
    server = os.getpid()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        theirs.close()
        return _Worker(pid, ours, kind, os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1)
    code = 1
    try:
        end_with_parent(server)
        for inherited in (orders, ours, *(other.socket for other in others)):
            inherited.close()
        began_in = os.getcwd()
        for folder in _folders(theirs):
            with contextlib.closing(FileSink(folder)) as sink:
                content = json.loads((folder / ASSIGNMENT).read_text(encoding="utf-8"))
                is_well = do_assignment(folder, sink, work, content, lambda: theirs.sendall(FREE))
            _flush()
            if not is_well:
                break
            os.chdir(began_in)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            theirs.sendall(DONE)
        code = 0
    finally:
        _flush()
        os._exit(code)
    raise AssertionError


def _folders(orders: socket.socket) -> Iterator[Path]:
    """Yields the folders of a worker's assignments as they come."""
    received = b""
    while data := orders.recv(65536):
        *lines, received = (received + data).split(b"\n")
        yield from (Path(os.fsdecode(line)) for line in lines)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
