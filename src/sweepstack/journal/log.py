"""The journal: an append-only file with one line for each event of a session, written before MLflow sees the event."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweepstack.errors import StoreError
from sweepstack.events import Ended, Event, Started
from sweepstack.files.owner_only import open_to_append
from sweepstack.files.replacing import make_durable
from sweepstack.journal.codec import (
    NewerRecordError,
    UnreadableError,
    decode_line,
    encode_line,
    event_as_json,
    event_from_json,
)
from sweepstack.trial import Trial

log = logging.getLogger(__name__)


class Journal:
    """Appends events to a journal file. Only one process may write to a file.

    Raises:
        StoreError: every method raises it if the disk is full or the folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = 0.0
        self._started: dict[str, Started] = {}
        self.lines = 0
        """The number of lines in the file."""
        try:
            self._file = open_to_append(path)
            make_durable(path.parent)
            if os.fstat(self._file).st_size:
                self.lines = path.read_bytes().count(b"\n")
        except OSError as error:
            raise self._write_error(error) from error

    def put(self, event: Event) -> Event:
        """Appends an event; returns it as it was written.

        Its time is never earlier than that of the last event, even if the machine's clock is set back.
        """
        self._last = max(self._last, event.at)
        event = replace(event, at=self._last)
        text = encode_line(event_as_json(event, self._started.get(event.trial.id)), self.lines)
        try:
            size = os.fstat(self._file).st_size
            if (written := os.write(self._file, text)) < len(text):  # the disk has become full
                os.ftruncate(self._file, size)
                raise OSError(28, f"only {written} of {len(text)} bytes fit")
        except OSError as error:
            raise self._write_error(error) from error
        self.lines += 1
        if isinstance(event, Started):
            self._started[event.trial.id] = event
        elif isinstance(event, Ended):
            self._started.pop(event.trial.id, None)
        return event

    def not_before(self, at: float) -> None:
        """Makes sure that no later event gets an earlier time than `at`."""
        self._last = max(self._last, at)

    def sync(self) -> None:
        """Returns when all events that were put are on the disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Writes everything to the disk and closes the file."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _write_error(self, error: OSError) -> StoreError:
        return StoreError(
            f"the journal must be writable, {self._path} is not ({error.strerror or error})",
            remedy="make room, or choose another folder with tracking.journal=DIR; the same command then resumes",
        )


def is_journal(path: Path) -> bool:
    """True if a file has the name of a journal, and at least one undamaged line.

    Other people's files can be in the folder that `tracking.journal` names; they are not journals.
    """
    if not re.fullmatch(r"[0-9]{6,18}\.jsonl", path.name) or not path.is_file():
        return False
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return any(content is not None for text in stream for content in _readable(text))
    return False


def _readable(text: bytes) -> Iterator[dict[str, Any] | None]:
    try:
        yield from decode_line(text)
    except NewerRecordError:
        yield {}


class LogReader:
    """Reads a journal file while another process writes it. Each call of `events` reads what is new.

    Args:
        path: the journal file; it need not exist yet.
        trial_of: returns the trial of an id, for trials whose line of `Started` is damaged.
    """

    def __init__(self, path: Path, trial_of: Callable[[str], Trial | None] = lambda _: None) -> None:
        self._path = path
        self._trial_of = trial_of
        self.offset = 0
        """The number of bytes that were read."""
        self.damaged = False
        """True if the file is not as it was written."""
        self._trials: dict[str, Trial] = {}
        self._next = 0
        self._missing: set[int] = set()
        self._unreadable = 0
        self._unnumbered = 0

    @property
    def lost(self) -> int:
        """The number of events that were written and cannot be read."""
        return len(self._missing) + self._unreadable + (0 if self._next else self._unnumbered)

    def events(self) -> Iterator[tuple[int, Event]]:
        """Yields the new events, each with the byte at which its line begins.

        Raises:
            StoreError: a newer version has written the next line.
        """
        try:
            stream = self._path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            stream.seek(self.offset)
            for text in stream:
                if not text.endswith(b"\n"):
                    return
                found = list(self._events_of(text))
                begin, self.offset = self.offset, self.offset + len(text)
                for event in found:
                    yield begin, event

    def end(self, lines: int | None, at_least: int = 0) -> None:
        """Counts what is still missing as lost, because nothing more will be written.

        Args:
            lines: the number of lines that were written; None if the writer died. Then the last line may be incomplete.
            at_least: the number of bytes that the file is known to have had.
        """
        size = self._path.stat().st_size if self._path.exists() else 0
        self.damaged = self.damaged or size < at_least
        if lines is not None:
            self._missing.update(range(self._next, lines))
            self._next = max(self._next, lines)
            self.damaged = self.damaged or bool(self._missing) or size > self.offset

    def sync(self) -> None:
        """Returns when everything that was read is on the disk."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb+") as stream:
            os.fsync(stream.fileno())

    def _events_of(self, text: bytes) -> Iterator[Event]:
        try:
            found = list(decode_line(text))
        except NewerRecordError:
            raise StoreError(
                f"the journal must be of this version of sweepstack or an older one, {self._path} is of a newer one",
                remedy="update sweepstack, or choose another folder with tracking.journal=DIR",
            ) from None
        for content in found:
            if content is None:
                log.error("%s is damaged at byte %d", self._path, self.offset)
                self.damaged = True
                self._unnumbered += 1  # only counts in a file of version 1
                continue
            number = content.get("n")
            if isinstance(number, int) and not self._is_new(number):
                continue
            try:
                event = event_from_json(content, self._trial)
            except UnreadableError as error:
                log.error("%s, byte %d: %s", self._path, self.offset, error)
                self.damaged = True
                self._unreadable += 1
                continue
            if isinstance(event, Started):
                self._trials[event.trial.id] = event.trial
            elif isinstance(event, Ended):
                self._trials.pop(event.trial.id, None)
            yield event

    def _is_new(self, number: int) -> bool:
        """False if the line with that number was read before. Notes which lines before it are missing."""
        if number >= self._next:
            self._missing.update(range(self._next, number))
            self.damaged = self.damaged or number > self._next
            self._next = number + 1
            return True
        self.damaged = True
        if number in self._missing:
            self._missing.remove(number)
            return True
        return False

    def _trial(self, trial_id: str) -> Trial | None:
        if trial_id not in self._trials:
            known = self._trial_of(trial_id)
            if known is None:
                return None
            self._trials[trial_id] = known
        return self._trials[trial_id]
