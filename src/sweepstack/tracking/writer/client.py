"""Starts and controls the process that delivers the journal of a training to MLflow.

It is a separate process because MLflow's import and its work for each trial would slow the training down. Parent and
child exchange pickles over the child's standard input and output; events go through the journal only. So a new child
can continue the work of one that died, and a child whose parent died delivers the rest and ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sweepstack.child_process import NEW_GROUP
from sweepstack.errors import StoreError
from sweepstack.masking import reveal
from sweepstack.tracking.address import sweepstack_command
from sweepstack.tracking.known_fingerprints import StoreLookup
from sweepstack.tracking.runs_as_rows import Row

log = logging.getLogger(__name__)

RESTARTS = 3
"""How often a new child replaces one that has died."""


class Open(NamedTuple):
    """To the child: a session begins; deliver its journal while it grows."""

    folder: Path
    session: int


class Close(NamedTuple):
    """To the child: the session has ended. The child answers with `Closed`."""


class Find(NamedTuple):
    """To the child: read the runs of a sweep. The child answers with `Found` or `Refused`."""

    sweep: str


class Look(NamedTuple):
    """To the child: look up fingerprints in the store. The child answers with `StoreLookup` or `Refused`."""

    fingerprints: tuple[str, ...]


class Loaded(NamedTuple):
    """From the child: MLflow is imported."""


class Message(NamedTuple):
    """From the child: a line for the user."""

    line: str


class Closed(NamedTuple):
    """From the child: the answer to `Close`."""

    complaint: str | None
    """What is not delivered, in words; None if everything is."""


class Found(NamedTuple):
    """From the child: the runs of a sweep, and the address of its page in MLflow's UI."""

    rows: list[Row]
    link: str


class Refused(NamedTuple):
    """From the child: a question has no answer, and why."""

    complaint: str


Answer = Found | StoreLookup | Refused


class WriterProcess:
    """Delivers the journals of sessions to a store, one after the other. Get it from `writer_process`.

    If the process dies, a new one continues. In any case training goes on, and the journal keeps all records.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._folder: Path | None = None
        """The folder of the journal of the last session."""
        self._talking = threading.RLock()
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._orders: list[Open | Close | Find | Look] = []
        """The orders without an answer; a new child gets them again."""
        self._closed_with: Closed | None = None
        self._is_closed = threading.Event()
        self._say: Callable[[str], None] | None = None
        self._unsaid: list[str] = []
        self._trouble = "unknown"
        self.complained = False
        """Whether the user knows that the journal still keeps records."""
        self._loaded = threading.Event()
        self._dead = False
        self._leaving = False
        self._process = self._start()
        threading.Thread(target=self._listen, daemon=True, name="sweepstack-writer").start()
        atexit.register(self.close)

    def open(self, folder: Path, session: int, say: Callable[[str], None]) -> None:
        """Begins to deliver a session's journal.

        Args:
            folder: the folder of the journal.
            session: the number of the session.
            say: receives lines for the user, in another thread.
        """
        self._closed_with, self._folder = None, folder
        self._is_closed.clear()
        self._say = say
        while self._unsaid:
            self._show_line(self._unsaid.pop(0))
        self._order(Open(folder, session))

    def finish(self, seconds: float | None = None) -> str | None:
        """Waits until a session is delivered, which has ended according to the ledger.

        Args:
            seconds: the longest time to wait; after it, the process continues by itself. None for no limit.

        Returns:
            A line about what is not delivered; None if everything is, or still may be.
        """
        self._order(Close())
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._is_closed.wait(0.1):  # an interrupt may come at any moment
            if deadline is not None and time.monotonic() > deadline:
                return None
        self._say = None
        if self._closed_with is not None:
            return self._closed_with.complaint
        return (
            f"Records are kept in the journal ({self._trouble}); the next sweep delivers them, or type: "
            f"{sweepstack_command('sync', self._uri, self._folder)}"
        )

    def find(self, sweep: str) -> Callable[[], tuple[list[Row], str]]:
        """Asks for the runs of a sweep, and for the address of its page in MLflow's UI.

        Returns:
            A function that waits for the answer, so that the caller can import pandas before. It raises StoreError, see
            `Store.rows`.
        """
        self._order(Find(sweep))
        return self._found

    def look(self, fingerprints: Sequence[str]) -> StoreLookup:
        """Returns what a server knows about fingerprints.

        Raises:
            StoreError: the server does not answer.
        """
        self._order(Look(tuple(fingerprints)))
        answer = self._answer()
        if isinstance(answer, StoreLookup):
            return answer
        raise StoreError(answer.complaint if isinstance(answer, Refused) else self._trouble)

    def wait_loaded(self, seconds: float) -> None:
        """Waits until the process has imported MLflow, which keeps a processor busy, or until `seconds` have passed."""
        self._loaded.wait(seconds)

    def close(self) -> None:
        """Tells the process to end after it has done its orders."""
        atexit.unregister(self.close)
        with self._talking, contextlib.suppress(OSError):
            self._leaving = True
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # -P, so that a user's random.py does not replace the library's. Not -m, which would import the module
            # twice, and pickles would contain the classes of the other copy.
            [sys.executable, "-P", "-c", f"from {__package__}.process import main; main({os.getpid()})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            creationflags=NEW_GROUP,  # so that Ctrl-C does not end it before all is recorded
        )
        self._send(process, reveal(self._uri))
        return process

    def _order(self, order: Open | Close | Find | Look) -> None:
        with self._talking:
            self._orders.append(order)
            if self._dead:
                self._give_up()
            else:
                self._send(self._process, order)

    def _send(self, process: subprocess.Popen[bytes], message: Any) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has died; `_listen` replaces it
            process.stdin.write(pickle.dumps(message))
            process.stdin.flush()

    def _found(self) -> tuple[list[Row], str]:
        match self._answer():
            case Found(rows, link):
                return rows, link
            case Refused(complaint):
                raise StoreError(complaint)
        raise StoreError(
            f"{self._uri} must be read for the table ({self._trouble})",
            remedy=f"type: {sweepstack_command('table', self._uri)}",
        )

    def _answer(self) -> Answer | None:
        """Waits for the next answer; returns None, at every call, if the process has died for the last time."""
        answer = self._answers.get()  # a thread's join() does not survive an interrupt in Python 3.11
        if answer is None:
            self._answers.put(None)
        return answer

    def _listen(self) -> None:
        for left in reversed(range(1 + RESTARTS)):
            self._hear()
            code = self._process.wait()
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self._trouble = f"the process that writes records {how}"
            with self._talking:
                for pipe in (self._process.stdin, self._process.stdout):
                    with contextlib.suppress(OSError):
                        assert pipe is not None
                        pipe.close()
                if self._leaving or not left:
                    break
                self._process = self._start()
                for order in self._orders:
                    self._send(self._process, order)
        with self._talking:
            self._dead = True
            if not self._leaving:
                self._show_line(f"{self._trouble[0].upper()}{self._trouble[1:]} again and again; training goes on.")
            self._give_up()
        self._loaded.set()

    def _give_up(self) -> None:
        self._is_closed.set()
        self._answers.put(None)

    def _hear(self) -> None:
        """Handles the child's messages until the child ends."""
        assert self._process.stdout is not None
        while True:
            try:
                message = pickle.load(self._process.stdout)
            except Exception:
                return
            match message:
                case Loaded():
                    self._loaded.set()
                case Message(line):
                    self._show_line(line)
                case Closed():
                    self._answered(Open, Close)
                    self._closed_with = message
                    self._is_closed.set()
                case answer:
                    self._answered(Find, Look)
                    self._answers.put(answer)

    def _answered(self, *kinds: type) -> None:
        with self._talking:
            self._orders = [order for order in self._orders if not isinstance(order, kinds)]

    def _show_line(self, line: str) -> None:
        with contextlib.suppress(Exception):  # a closed terminal must not end this thread
            if self._say is not None:
                self._say(line)
            else:
                self._unsaid.append(line)


def writer_process(uri: str) -> WriterProcess:
    """Returns the process that writes to a store; starts it at the first call, or if MLflow's settings have changed."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("MLFLOW_")))
    return _started(uri, settings, os.getpid())


@functools.cache
def _started(uri: str, settings: tuple[tuple[str, str], ...], owner: int) -> WriterProcess:
    return WriterProcess(uri)
