"""What runs in a Dask worker: it lets processes train, and hands what they write to the command.

A training process writes to the folder of its assignment on this worker's disk, as with every engine (see `channel`).
The command asks for what is new there; which line it asks for next says what it has. So memory and network hold one
piece at a time, and after an interruption it goes on where it was. A checkpoint is handed over as a file of its own,
after all lines that were written before it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweepstack.execution.engines.channel import (
    ENDS,
    EVENTS,
    FILES,
    checkpoints_of,
    make_assignment,
    work_folder,
    write_control,
)
from sweepstack.execution.engines.fork_server import Order, WorkerServer
from sweepstack.execution.engines.worker_side import unlike_versions
from sweepstack.files.inside import inside
from sweepstack.files.owner_only import make_folder
from sweepstack.journal.codec import decode_line

POLL_SECONDS = 0.01
"""Seconds between two looks whether a training process has done its assignment."""
LONGEST_PAUSE = 0.1
"""The longest time in seconds between two looks at what it has written: longer each time while that is nothing."""
PIECE = 1 << 22
"""The most bytes of a file that are sent at once; of lines, too, unless a single one is longer."""
LATEST, SNAPSHOT = "latest.pt", "snapshot.pt"
"""The newest checkpoint of a stack; a link to it that stays while it is sent."""


class Trainings:
    """What a command trains in this Dask worker, and the server of its training processes.

    Args:
        worker: the Dask worker.
        settings: what the command says of itself, see `Link.settings`.
    """

    def __init__(self, worker: Any, settings: Mapping[str, Any]) -> None:
        self.worker, self.lease, self._settings = worker, float(settings["lease"]), settings
        self.refused = unlike_versions(settings["versions"])
        """Which versions differ from those of the command; empty if none does."""
        self.folder = Path(tempfile.mkdtemp(prefix="sweepstack-", dir=worker.local_directory))
        self.running: dict[str, Training] = {}
        self._servers = threading.Lock()
        self._is_closed = False
        self._server = None if self.refused else self._start_server()
        self.heard = time.monotonic()
        self._watching = asyncio.ensure_future(self._watch())

    def _start_server(self) -> WorkerServer:
        """Starts the server in the thread of the event loop: it would end with any other thread that started it."""
        ours, theirs = socket.socketpair()
        folder = self._settings["folder"]
        paths = [os.environ.get("PYTHONPATH", ""), *self._settings["paths"]]
        process = subprocess.Popen(
            [sys.executable, "-m", "sweepstack.execution.engines.dask.server_main", str(os.getpid())],
            stdin=theirs.fileno(),
            cwd=folder if os.path.isdir(folder) else None,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        theirs.close()
        return WorkerServer(ours, process.pid)

    async def _renew_server(self) -> None:
        if self._server is not None and not self._server.alive and not self._is_closed:
            self._server.close()
            self._server = self._start_server()

    def start(self, folder: Path) -> Order | None:
        """Gives an assignment to a training process; returns None if that is impossible.

        Args:
            folder: the folder of the assignment.
        """
        with self._servers:
            for _ in range(2):
                if self._is_closed or self._server is None:
                    return None
                if (order := self._server.start(folder)) is not None:
                    return order
                asyncio.run_coroutine_threadsafe(self._renew_server(), self.worker.loop.asyncio_loop).result()
        return None

    def ended(self, order: Order) -> str | None:
        """Says how a training process has ended, or that it has done its assignment; None while it trains."""
        with self._servers:
            return "the command has ended" if self._is_closed else order.ended()

    def kill(self, order: Order) -> None:
        """Kills the training process of an order."""
        with self._servers:
            order.kill()

    async def _watch(self) -> None:
        """Ends everything when nothing is heard of the command any more."""
        while time.monotonic() - self.heard < self.lease:
            await asyncio.sleep(min(1.0, self.lease / 4))
        self.close()

    def close(self) -> None:
        """Ends all that the command has started here."""
        self._is_closed = True
        for training in self.running.values():
            training.end.set()
        if self._server is not None:
            self._server.close()
        self._watching.cancel()
        _commands.pop(self._settings["token"], None)
        shutil.rmtree(self.folder, ignore_errors=True)


class Training:
    """A stack that is trained by a process of this Dask worker.

    Args:
        trainings: all of the command.
        key: names it.
        content: the content of the assignment's file.
    """

    def __init__(self, trainings: Trainings, key: str, content: Mapping[str, Any]) -> None:
        self._trainings, self._key = trainings, key
        self.folder = work_folder(trainings.folder / key, content["id"])
        self.checkpoints = checkpoints_of(self.folder)
        self.go, self.end = threading.Event(), threading.Event()
        self.has_process = False
        """False until its process begins: PyTorch and the data may have to be loaded before."""
        self.how: str | None = None
        """How its process has ended, or that it has done its assignment; None while it trains."""
        self.heard = time.monotonic()
        self._control: Mapping[str, Any] = {"stop": ""}
        make_assignment(content, self.folder)

    def run(self) -> None:
        """Trains, and waits until the command has taken everything; or until it has gone."""
        try:
            self._wait(self.go)
            if not self.go.is_set():
                return
            order = self._trainings.start(self.folder)
            self.how = "no process could be started" if order is None else self._ended(order)
            self._wait(self.end)
        finally:
            self._trainings.running.pop(self._key, None)
            shutil.rmtree(self._trainings.folder / self._key, ignore_errors=True)

    def _ended(self, order: Order) -> str:
        while (how := self._trainings.ended(order)) is None:
            self.has_process = not order.is_waiting()
            if self._is_over():
                self._trainings.kill(order)
            time.sleep(POLL_SECONDS)
        return how

    def _wait(self, event: threading.Event) -> None:
        while not self._is_over() and not event.wait(POLL_SECONDS):
            pass

    def _is_over(self) -> bool:
        """True if the command does not want it any more, or has not been heard of for too long."""
        return self.end.is_set() or time.monotonic() - self.heard > self._trainings.lease

    def obey(self, control: Mapping[str, Any]) -> None:
        """Passes what the command wants to the process.

        Args:
            control: the content of the control file.
        """
        if control != self._control:
            self._control = control
            write_control(self.folder, control)

    def news(self, offset: int, ready: bool, has: Sequence[int]) -> dict[str, Any]:
        """Returns what the command does not have yet: whole lines, which checkpoint is new, how the process has ended.

        The last lines of a process come together with how it ended.

        Args:
            offset: the bytes of lines that it has.
            ready: True if it is not receiving a checkpoint, so that the next one may be handed over.
            has: identifies the checkpoint that it has; empty if it has none.
        """
        how, found = self.how if ready else None, self.identity()
        with (self.folder / EVENTS).open("rb") as stream:
            is_new = ready and found and found != [*has] and self._take_snapshot()
            stream.seek(offset)
            lines = stream.read(PIECE)
            while lines and b"\n" not in lines and (more := stream.read(PIECE)):
                lines += more
            is_all = not stream.read(1)
        lines = lines[: lines.rfind(b"\n") + 1]
        if not is_all:
            return {"lines": lines}
        if how is None and lines and _is_end(last := lines[lines[:-1].rfind(b"\n") + 1 :]):
            lines = lines[: -len(last)]
        answer: dict[str, Any] = {"lines": lines} if lines else {}
        if is_new:
            answer["checkpoint"] = found
        if how is not None:
            answer |= {"how": how, "has_checkpoint": self.checkpoints.is_dir()}
        return answer

    def identity(self) -> list[int]:
        """Identifies the newest checkpoint; empty if there is none."""
        try:
            found = (self.checkpoints / LATEST).stat()
        except OSError:
            return []
        return [found.st_ino, found.st_mtime_ns, found.st_size]

    def _take_snapshot(self) -> bool:
        (self.folder / SNAPSHOT).unlink(missing_ok=True)
        try:
            os.link(self.checkpoints / LATEST, self.folder / SNAPSHOT)
        except FileNotFoundError:  # the next one comes
            return False
        return True

    def put(self, name: str, offset: int, piece: bytes) -> None:
        """Writes a piece of the checkpoint of an earlier try.

        Args:
            name: the name of the file.
            offset: where the piece begins.
            piece: the bytes.
        """
        make_folder(self.checkpoints.parent)
        make_folder(self.checkpoints)
        with inside(self.checkpoints, name).open("r+b" if offset else "wb") as stream:
            stream.seek(offset)
            stream.write(piece)

    def fetch(self, name: str, offset: int) -> bytes:
        """Returns a piece of a file of a trial, or of the snapshot of a checkpoint.

        Args:
            name: its path in the folder of such files.
            offset: where the piece begins.
        """
        path = self.folder / SNAPSHOT if name == SNAPSHOT else inside(self.folder / FILES, name)
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(PIECE)


def _is_end(line: bytes) -> bool:
    return any(content is not None and ENDS & content.keys() for content in decode_line(line))


_commands: dict[str, Trainings] = {}
"""The commands that use this Dask worker, by their tokens."""


async def greet(settings: Mapping[str, Any], dask_worker: Any) -> str:
    """Prepares this worker for a command; returns which versions differ, empty if none does.

    Args:
        settings: see `Link.settings`.
        dask_worker: the Dask worker; `distributed` gives it.
    """
    if (command := _commands.get(settings["token"])) is None:
        command = _commands[settings["token"]] = Trainings(dask_worker, settings)
        handlers = {"read": _read, "put": _put, "go": _go, "fetch": _fetch, "end": _end, "close": _close, "ping": _ping}
        dask_worker.handlers.update({f"sweepstack-{name}": handler for name, handler in handlers.items()})
    command.heard = time.monotonic()
    return command.refused


def train(settings: Mapping[str, Any], key: str, content: bytes) -> None:
    """The Dask task: trains a stack. It begins when the command says so, which it says once.

    Args:
        settings: see `Link.settings`.
        key: names the task.
        content: the assignment's file.
    """
    from distributed import get_worker

    worker = get_worker()
    refused = asyncio.run_coroutine_threadsafe(greet(settings, worker), worker.loop.asyncio_loop).result()
    begun = {"key": key, "worker": worker.address, "host": socket.gethostname(), "refused": refused}
    if refused:
        worker.log_event(settings["token"], begun)
        return
    command = _commands[settings["token"]]
    training = command.running[key] = Training(command, key, json.loads(content))
    worker.log_event(settings["token"], begun)
    training.run()


def _find(token: str, key: str) -> Training | None:
    """Returns a training of which the command asks, and notes that it does."""
    command = _commands.get(token)
    training = None if command is None else command.running.get(key)
    if command is not None and training is not None:
        command.heard = training.heard = time.monotonic()
    return training


async def _read(
    token: str, key: str, offset: int, ready: bool, has: list[int], control: Any, wait: float
) -> dict[str, Any]:
    until = time.monotonic() + wait
    if (training := _find(token, key)) is not None:
        training.obey(control)
    pause = POLL_SECONDS
    while (training := _find(token, key)) is not None:
        if (news := training.news(offset, ready, has)) or time.monotonic() > until:
            return {**news, "has_process": training.has_process}
        looked, how = time.monotonic(), training.how
        while training.how == how and time.monotonic() - looked < pause:
            await asyncio.sleep(POLL_SECONDS)
        pause = min(2 * pause, LONGEST_PAUSE)
    return {"unknown": True}


async def _put(token: str, key: str, name: str, offset: int, piece: bytes) -> dict[str, Any]:
    if (training := _find(token, key)) is None:
        return {"unknown": True}
    training.put(name, offset, piece)
    return {}


async def _go(token: str, key: str) -> dict[str, Any]:
    if (training := _find(token, key)) is None:
        return {"unknown": True}
    training.go.set()
    return {"has": training.identity()}


async def _fetch(token: str, key: str, name: str, offset: int) -> dict[str, Any]:
    training = _find(token, key)
    return {"unknown": True} if training is None else {"piece": training.fetch(name, offset)}


async def _end(token: str, key: str) -> dict[str, Any]:
    if (training := _find(token, key)) is not None:
        training.end.set()
    return {}


async def _close(token: str) -> dict[str, Any]:
    if (command := _commands.get(token)) is not None:
        command.close()
    return {}


async def _ping(token: str) -> dict[str, Any]:
    if (command := _commands.get(token)) is None:
        return {"unknown": True}
    command.heard = time.monotonic()
    return {}
