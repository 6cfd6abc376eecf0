"""The journal: the events of one command's trials, one line each, in an append-only file before MLflow sees them.

A line is the CRC-32 of its JSON, a space, and the JSON. What has been written survives the death of every process;
`sync` makes it survive that of the machine. A line that was cut off is no line: whoever reads stops before it.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweepstack.config import TrialConfig
from sweepstack.errors import StoreError
from sweepstack.trial import (
    DatasetFacts,
    Ended,
    Event,
    Joined,
    Measured,
    Measurement,
    Outcome,
    Started,
    Trial,
    TrialState,
)

log = logging.getLogger(__name__)

ITEMS = "<items>"


class Journal:
    """The end of a journal file, for the one process that writes it.

    Raises:
        StoreError: from every method, when the disk is full or the folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = 0.0
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._refused(error) from error

    def put(self, event: Event) -> Event:
        """Appends an event; gives it back as it was written. Its time is not before that of the last one, whatever the
        clock of the machine does."""
        self._last = max(self._last, event.at)
        event = replace(event, at=self._last)
        line = _line(_as_json(event))
        try:
            size = os.fstat(self._file).st_size
            if (written := os.write(self._file, line)) < len(line):  # the disk got full meanwhile
                os.ftruncate(self._file, size)
                raise OSError(28, f"only {written} of {len(line)} bytes fit")
        except OSError as error:
            raise self._refused(error) from error
        return event

    def not_before(self, at: float) -> None:
        """No event to come gets an earlier time than this."""
        self._last = max(self._last, at)

    def sync(self) -> None:
        """What has been put is on the disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        os.close(self._file)

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"the journal must be writable, {self._path} is not ({error.strerror or error}); make room, or choose "
            "another folder with tracking.journal=DIR, and run again: it goes on from here"
        )


class Reader:
    """Reads a journal file from its beginning, as far as it has got, again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0
        """Up to where it has been read, in bytes."""
        self._trials: dict[str, Trial] = {}

    def events(self) -> Iterator[tuple[int, Event]]:
        """What is new, each event with the place where it begins."""
        try:
            stream = self._path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            stream.seek(self.offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                begin, self.offset = self.offset, self.offset + len(line)
                content = _content(line)
                if content is None:
                    log.error("%s is damaged at byte %d; one event is lost", self._path, begin)
                    continue
                try:
                    event = self._event(content)
                except KeyError:
                    log.error("%s: the begin of trial %s is damaged; its events are lost", self._path, content["id"])
                    continue
                yield begin, event

    def sync(self) -> None:
        """What has been read is on the disk."""
        with self._path.open("rb+") as stream:
            os.fsync(stream.fileno())

    def _event(self, content: dict[str, Any]) -> Event:
        event = _from_json(content, self._trials)
        if isinstance(event, Started):
            self._trials[event.trial.id] = event.trial
        elif isinstance(event, Ended):
            self._trials.pop(event.trial.id, None)
        return event


@dataclass
class Progress:
    """What the events of a trial amount to."""

    trial: Trial
    at: float
    """Time of the last event."""
    measured: int = 0
    """The last step that was measured."""
    outcome: Outcome | None = None


@dataclass
class Fold:
    """The trials of a journal, as far as its events tell."""

    progress: dict[str, Progress] = field(default_factory=dict)
    """By the trial's id."""

    def take(self, event: Event) -> None:
        match event:
            case Started():
                self.progress[event.trial.id] = Progress(event.trial, event.at)
            case Measured():
                known = self.progress[event.trial.id]
                known.at, known.measured = event.at, event.measurement.step
            case Ended():
                known = self.progress.setdefault(event.trial.id, Progress(event.trial, event.at))
                known.at, known.outcome = event.at, replace(event.outcome, weights=None, traceback="")


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()  # ASCII: what is typed need not be UTF-8
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _content(line: bytes) -> dict[str, Any] | None:
    """None for a damaged line."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        content: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return content


def trial_as_json(trial: Trial) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "config": _keys_as_items(trial.config.model_dump(by_alias=True)),
        "number": trial.number,
        "name": trial.name,
        "params": dict(trial.params),
        "folder": str(trial.folder),
        "config_text": trial.config_text,
        "log": str(trial.log),
        "overrides": list(trial.overrides),
        "sweep": trial.sweep,
        "fingerprint": trial.fingerprint,
        "id": trial.id,
    }


def trial_from_json(content: Mapping[str, Any]) -> Trial:
    """The trial that `trial_as_json` was given."""
    changed = {
        "config": TrialConfig.model_validate(_items_as_keys(content["config"])),
        "folder": Path(content["folder"]),
        "log": Path(content["log"]),
        "overrides": tuple(content["overrides"]),
    }
    return Trial(**{**content, **changed})


def _keys_as_items(value: Any) -> Any:
    """JSON has no keys but texts; a model's keywords may have others."""
    if isinstance(value, Mapping):
        items = {key: _keys_as_items(part) for key, part in value.items()}
        return items if all(isinstance(key, str) for key in items) else {ITEMS: [list(item) for item in items.items()]}
    return [_keys_as_items(part) for part in value] if isinstance(value, list | tuple) else value


def _items_as_keys(value: Any) -> Any:
    if isinstance(value, dict):
        items = value[ITEMS] if value.keys() == {ITEMS} else value.items()
        return {key: _items_as_keys(part) for key, part in items}
    return [_items_as_keys(part) for part in value] if isinstance(value, list) else value


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain values, without weights and traceback."""
    return {
        "state": outcome.state,
        "metrics": dict(outcome.metrics),
        "reason": outcome.reason,
        "diverged": outcome.diverged,
    }


def outcome_from_json(content: Mapping[str, Any]) -> Outcome:
    """The outcome that `outcome_as_json` was given."""
    return Outcome(TrialState(content["state"]), content["metrics"], content["reason"], diverged=content["diverged"])


def _as_json(event: Event) -> dict[str, Any]:
    content: dict[str, Any] = {"event": type(event).__name__, "at": event.at, "id": event.trial.id}
    match event:
        case Started():
            content |= {
                "trial": trial_as_json(event.trial),
                "dataset": vars(event.dataset),
                "again": event.again,
            }
        case Measured():
            content["measurement"] = {**vars(event.measurement), "metrics": dict(event.measurement.metrics)}
        case Ended():
            content |= {
                "outcome": outcome_as_json(event.outcome),
                "files": [str(file) for file in event.files],
                "trained": event.trained,
                "recomposed": event.recomposed,
            }
        case Joined():
            files = [str(file) for file in event.files]
            content |= {"trial": trial_as_json(event.trial), "run_id": event.run_id, "files": files}
    return content


def _from_json(content: Mapping[str, Any], trials: Mapping[str, Trial]) -> Event:
    at, kind = content["at"], content["event"]
    trial = trial_from_json(content["trial"]) if "trial" in content else trials[content["id"]]
    match kind:
        case "Started":
            return Started(trial, at, DatasetFacts(**content["dataset"]), content["again"])
        case "Measured":
            return Measured(trial, Measurement(**content["measurement"]), at)
        case "Ended":
            files = tuple(Path(file) for file in content["files"])
            outcome = outcome_from_json(content["outcome"])
            return Ended(trial, outcome, at, files, content["trained"], content["recomposed"])
        case _:
            files = tuple(Path(file) for file in content.get("files", ()))
            return Joined(trial, at, content["run_id"], files)
