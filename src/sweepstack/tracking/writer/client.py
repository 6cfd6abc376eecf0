"""The process beside a training that takes its journal to MLflow, whose import would take a second from a training that
shares the interpreter with it, and whose work for each trial a part of every second.

Parent and child talk in pickles over the child's standard input and output; events go through the journal alone. So a
child that dies is started again and goes on, and one whose parent dies delivers what there is and ends.
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

from sweepstack.errors import StoreError
from sweepstack.masking import reveal
from sweepstack.tracking.address import sweepstack_command
from sweepstack.tracking.known_fingerprints import StoreLookup
from sweepstack.tracking.runs_as_rows import Row

log = logging.getLogger(__name__)

RESTARTS = 3
"""Times that a child which has died is started again."""


class Open(NamedTuple):
    """To the child: a session begins; its journal is to be delivered as it grows."""

    folder: Path
    session: int


class Close(NamedTuple):
    """To the child: the session has ended. It answers with `Closed`."""


class Find(NamedTuple):
    """To the child: the runs of a sweep are wanted. It answers with `Found` or `Refused`."""

    sweep: str


class Look(NamedTuple):
    """To the child: are these fingerprints settled in the store? It answers with `StoreLookup` or `Refused`."""

    fingerprints: tuple[str, ...]


class Loaded(NamedTuple):
    """From the child: MLflow is imported."""


class Message(NamedTuple):
    line: str


class Closed(NamedTuple):
    complaint: str | None
    """What is not delivered, if anything is not."""


class Found(NamedTuple):
    rows: list[Row]
    link: str


class Refused(NamedTuple):
    complaint: str


Answer = Found | StoreLookup | Refused


class WriterProcess:
    """Delivers the journal of one session after the other to a store. See `writer_process` for the one to use.

    If the process dies it is started again; whatever happens to it, training goes on and the journal keeps all.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._folder: Path | None = None
        """The journal's, of the last session."""
        self._talking = threading.RLock()
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._orders: list[Open | Close | Find | Look] = []
        """What has not been answered yet; a child that is started again is told again."""
        self._closed_with: Closed | None = None
        self._is_closed = threading.Event()
        self._say: Callable[[str], None] | None = None
        self._unsaid: list[str] = []
        self._trouble = "unknown"
        self.complained = False
        """Whether the user has been told that records are kept in the journal."""
        self._loaded = threading.Event()
        self._dead = False
        self._leaving = False
        self._process = self._start()
        threading.Thread(target=self._listen, daemon=True, name="sweepstack-writer").start()
        atexit.register(self.close)

    def open(self, folder: Path, session: int, say: Callable[[str], None]) -> None:
        """Begins to deliver a session's journal.

        Args:
            folder: the ledger's.
            say: called with lines for the user, from another thread.
        """
        self._closed_with, self._folder = None, folder
        self._is_closed.clear()
        self._say = say
        while self._unsaid:
            self._show_line(self._unsaid.pop(0))
        self._order(Open(folder, session))

    def finish(self, seconds: float | None = None) -> str | None:
        """Waits until a session, which the ledger knows to be ended, is delivered.

        Args:
            seconds: wait no longer than this; the process goes on by itself.

        Returns:
            What is not delivered, in a line; None when all is, or may still be.
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
        """Asks for the runs of a sweep, and the address in MLflow's UI that compares them. What is returned waits for
        the answer; there is time to import pandas meanwhile.

        Raises:
            StoreError: when the answer is waited for; see `Store.rows`.
        """
        self._order(Find(sweep))
        return self._found

    def look(self, fingerprints: Sequence[str]) -> StoreLookup:
        """What a server knows of fingerprints.

        Raises:
            StoreError: it does not answer.
        """
        self._order(Look(tuple(fingerprints)))
        answer = self._answer()
        if isinstance(answer, StoreLookup):
            return answer
        raise StoreError(answer.complaint if isinstance(answer, Refused) else self._trouble)

    def wait_loaded(self, seconds: float) -> None:
        """Waits until MLflow is imported, but not longer than so many seconds: it keeps a processor busy."""
        self._loaded.wait(seconds)

    def close(self) -> None:
        """Lets the process end, which it does on its own when it has done what it was told."""
        atexit.unregister(self.close)
        with self._talking, contextlib.suppress(OSError):
            self._leaving = True
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # -P: a random.py of the user's is not the library's. Not -m: then the module would be there twice, and what
            # is pickled would be of the other one's classes.
            [sys.executable, "-P", "-c", f"from {__package__}.process import main; main({os.getpid()})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; what has been measured is still to be recorded then
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
        with contextlib.suppress(OSError, ValueError):  # it has died, which `_listen` finds
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
        """The next answer; None from a process that is dead for good, however often it is asked."""
        answer = self._answers.get()  # not a thread's join(): that does not survive an interrupt in Python 3.11
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
        """Until the child ends."""
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
        with contextlib.suppress(Exception):  # a terminal that is gone must not end this thread, which is waited for
            if self._say is not None:
                self._say(line)
            else:
                self._unsaid.append(line)


def writer_process(uri: str) -> WriterProcess:
    """The process that writes to a store: one for as long as the command lives, and its settings for MLflow stay."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("MLFLOW_")))
    return _started(uri, settings, os.getpid())


@functools.cache
def _started(uri: str, settings: tuple[tuple[str, str], ...], owner: int) -> WriterProcess:
    return WriterProcess(uri)
