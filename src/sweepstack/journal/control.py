"""What other terminals know of a session, and what they ask of it: a file of lines beside its journal.

    {"about": {...}}                     the session writes the first line: who it is
    {"stop": ["ID", ...], "by": "..."}   another terminal appends: to stop these trials, or with null the command
    {"taken": 1}                         the session appends: so many requests it has taken
    {"planned": 8, "expected": 64, ...}  the session appends: how many trials it trains, so far and in all
    {"paused": "ID"}                     the session appends: this trial waits for what others reach
    {"going": "ID", "at": 1.7e9}         the session appends: it goes on, in another stack

The session makes the file and reads it again and again: on shared disks, a new file is seen late.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweepstack.files.owner_only import open_to_append
from sweepstack.journal.codec import known_fields

LIFE_SECONDS = 60.0
"""Seconds after a sign of life in which a session counts as living if its machine is another one. Its lock may not be
seen from here."""


@dataclass(frozen=True)
class About:
    """Who a session is."""

    host: str
    pid: int
    at: float
    """When it has begun, in seconds since the epoch."""
    command: str = ""
    """What was typed, without secrets."""
    sweep: str | None = None
    """The sweep that it trains; None for a single run."""


@dataclass(frozen=True)
class Request:
    """What another terminal asks of a session."""

    trials: tuple[str, ...] | None
    """The ids of the trials to stop; None for the whole command."""
    by: str
    """Who asks, in words."""


@dataclass(frozen=True)
class Extent:
    """How much a session trains."""

    planned: int
    """The number of trials that were planned so far."""
    expected: int
    """The number of trials in all, if further ones will be planned; 0 if that is not known, or if none will be."""
    workers: int
    """The number of stacks that train at once."""

    @property
    def unplanned(self) -> int:
        """The number of trials that will be planned later."""
        return max(0, self.expected - self.planned)


@dataclass
class Control:
    """The content of the file."""

    about: About | None = None
    requests: list[Request] = field(default_factory=list)
    taken: int = 0
    extent: Extent | None = None
    """None if the session has planned nothing yet, or if an earlier version has begun it."""
    paused: dict[str, float | None] = field(default_factory=dict)
    """The ids of the trials that were paused, with the time when each went on, in seconds since the epoch; None if it
    waits."""


class ControlFile:
    """The file of a session."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, about: About) -> None:
        """Makes the file, for the session that begins."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._append({"about": vars(about)}, os.O_CREAT)

    def ask(self, request: Request) -> None:
        """Appends a request.

        Raises:
            OSError: it cannot be written; for example the session has made no file.
        """
        self._append({"stop": request.trials, "by": request.by})

    def take(self, requests: int) -> None:
        """Notes that so many requests were taken."""
        self._append({"taken": requests})

    def note_extent(self, extent: Extent) -> None:
        """Notes how much the session trains."""
        self._append(vars(extent))

    def note_paused(self, trial: str, going: float | None = None) -> None:
        """Notes that a trial waits for what others reach, or since when it goes on, in seconds since the epoch."""
        self._append({"paused": trial} if going is None else {"going": trial, "at": going})

    def size(self) -> int:
        """Returns the number of bytes in the file."""
        with self.path.open("rb") as stream:  # unlike `stat`, this asks the server of a shared disk
            return os.fstat(stream.fileno()).st_size

    def give_sign_of_life(self) -> None:
        """Sets the time of the file to now."""
        os.utime(self.path)

    def is_fresh(self) -> bool:
        """True if the last sign of life is not older than `LIFE_SECONDS`."""
        try:
            return time.time() - self.path.stat().st_mtime < LIFE_SECONDS
        except OSError:
            return False

    def read(self) -> Control:
        """Returns the content. Lines that cannot be read are left out."""
        try:
            return _read(self.path.read_bytes())
        except OSError:
            return Control()

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[Callable[[], Control]]:
        """Yields a function that returns the content, even when a session that ends has removed the file.

        Raises:
            OSError: the file cannot be opened.
        """
        with self.path.open("rb", buffering=0) as stream:

            def read() -> Control:
                stream.seek(0)
                return _read(stream.read())

            yield read

    def _append(self, content: Mapping[str, Any], flags: int = 0) -> None:
        file = open_to_append(self.path, flags)
        try:
            os.write(file, json.dumps(content).encode() + b"\n")
        finally:
            os.close(file)


def _read(content: bytes) -> Control:
    found = Control()
    for line in content.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            _take(json.loads(line), found)
    return found


def _take(content: Mapping[str, Any], found: Control) -> None:
    match content:
        case {"about": about}:
            found.about = About(**known_fields(About, about))
        case {"stop": trials, "by": str(by)}:
            ids: Sequence[str] | None = trials
            found.requests.append(Request(None if ids is None else tuple(map(str, ids)), by))
        case {"taken": int(number)}:
            found.taken = number
        case {"planned": int(planned), "expected": int(expected), "workers": int(workers)}:
            found.extent = Extent(planned, expected, workers)
        case {"paused": str(trial)}:
            found.paused[trial] = None
        case {"going": str(trial), "at": float(at)}:
            found.paused[trial] = at
