"""Follows what other terminals ask of a session, while it trains, and notes for them how much it trains."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sweepstack.errors import as_typed, printable
from sweepstack.events import Ended, Started
from sweepstack.execution.listener import Listener
from sweepstack.journal.control import About, ControlFile, Extent
from sweepstack.planning.plan import Stack
from sweepstack.trial import Trial

LOOK_SECONDS = 1.0
"""Seconds between two looks at the file of requests."""
LOOKS_PER_SIGN = 10
"""Looks from one sign of life to the next."""


def who() -> str:
    """Returns who types a command here, in words."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container need not know its user
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return printable(f"sweepstack stop of {user} on {socket.gethostname()}")


class Requests(Listener):
    """What other terminals have asked of a session so far. As a listener, it notes for them how much is trained.

    Args:
        file: where they ask.
        interrupt: stops the whole command; it takes in words who has asked.
    """

    def __init__(self, file: ControlFile, interrupt: Callable[[str], None]) -> None:
        self._file, self._interrupt = file, interrupt
        self._over = threading.Event()
        self._seen = 0
        self._extent = Extent(0, 0, 1)
        self._paused: set[str] = set()
        self.stopped: dict[str, str] = {}
        """The trials that are to end, by id, each with who has asked."""

    @contextlib.contextmanager
    def followed(self, sweep: str | None) -> Iterator[None]:
        """Makes the file, and looks at it in a thread as long as the block lasts.

        Args:
            sweep: see `About`.
        """
        about = About(socket.gethostname(), os.getpid(), time.time(), printable(as_typed(sys.argv)), sweep)
        try:
            self._file.begin(about)
            self._seen = self._file.size()
        except OSError:  # such as a full disk: then nobody can ask for anything
            yield
            return
        thread = threading.Thread(target=self._follow, daemon=True, name="sweepstack-requests")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(LOOK_SECONDS)

    def on_stacks(self, stacks: Sequence[Stack], workers: int) -> None:
        self._extent = replace(self._extent, workers=workers)

    def on_planned(self, trials: Sequence[Trial]) -> None:
        self._note(replace(self._extent, planned=self._extent.planned + len(trials)))

    def on_expected(self, number: int) -> None:
        self._note(replace(self._extent, expected=number))

    def on_paused(self, event: Ended) -> None:
        self._paused.add(event.trial.id)
        with contextlib.suppress(OSError):
            self._file.note_paused(event.trial.id)

    def on_started(self, event: Started) -> None:
        if event.trial.id in self._paused:
            self._paused.remove(event.trial.id)
            with contextlib.suppress(OSError):
                self._file.note_paused(event.trial.id, event.at)

    def _note(self, extent: Extent) -> None:
        self._extent = extent
        with contextlib.suppress(OSError):  # then other terminals do not know how many trials will follow
            self._file.note_extent(extent)

    def _follow(self) -> None:
        looks = 0
        while not self._over.wait(LOOK_SECONDS):
            looks += 1
            with contextlib.suppress(OSError):  # a shared disk that is away; the next look may reach it
                if looks % LOOKS_PER_SIGN == 0:
                    self._file.give_sign_of_life()
                if self._file.size() != self._seen:
                    self._take()

    def _take(self) -> None:
        content = self._file.read()
        asked = content.requests[content.taken :]
        for request in asked:
            self.stopped |= dict.fromkeys(request.trials or (), request.by)
        if asked:
            self._file.take(len(content.requests))
        self._seen = self._file.size()
        for request in asked:
            if request.trials is None and not self._over.is_set():
                self._interrupt(request.by)
                return
