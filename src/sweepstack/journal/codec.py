"""Converts trials, outcomes and events to JSON and back, and encodes the lines of a journal.

A stored record outlives the version that wrote it. Each line holds the version of its format, and a reader ignores keys
that it does not know. If this version refuses a stored config, it still reads the values that it knows: enough to
record the trial, not enough to train it (see `stored_trial`).
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sweepstack.config.schema import Config, FlatConfig, unused
from sweepstack.errors import one_line
from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.trial import DEFAULT_PROGRAM, DatasetFacts, Measurement, Outcome, Trial, TrialState

FORMAT = 3
"""Version of the format of a line: a version of sweepstack refuses a later one, instead of taking it for damaged. In
version 1, a line had no number; in version 2, no outcome was PRUNED."""
ITEMS = "<items>"
"""The only key of a JSON object that stands for a mapping with keys that are not texts."""
BEGIN = re.compile(rb'[0-9a-f]{8} \{"')
"""Matches the beginning of a line: its checksum and the first characters of its JSON."""


class NewerRecordError(Exception):
    """A newer version has written the record, in a format that this version does not know."""


class UnreadableError(Exception):
    """The record is damaged or incomplete; the message says why."""


def encode_line(content: Mapping[str, Any], number: int) -> bytes:
    """Encodes a line: the CRC-32 of its JSON, and the JSON.

    Args:
        number: the number of the line in its journal, from 0. A reader notices missing lines by it.
    """
    # json writes ASCII: what a user types need not be valid UTF-8.
    text = json.dumps({"v": FORMAT, "n": number, **content}, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def decode_line(text: bytes) -> Iterator[dict[str, Any] | None]:
    """Decodes a line: yields its record. For a damaged line, yields None and then each record that is still readable.

    Raises:
        NewerRecordError: a newer version has written the line.
    """
    whole = _content(text.rstrip(b"\n"))
    if whole is not None:
        yield whole
        return
    begins = [found.start() for found in BEGIN.finditer(text)]  # the end of a line may be what is damaged
    found = (_content(text[begin : begin + _length(text, begin)]) for begin in begins)
    yield None
    yield from (one for one in found if one is not None)


def _length(text: bytes, begin: int) -> int:
    """Returns the length of the record that begins there, even if other bytes follow it."""
    try:
        _, end = json.JSONDecoder().raw_decode(text[begin + 9 :].decode("ascii", "replace"))
    except ValueError:
        return 0
    return 9 + end


def _content(text: bytes) -> dict[str, Any] | None:
    """Decodes one record; returns None if it is damaged."""
    checksum, _, record = text.partition(b" ")
    try:
        if len(checksum) != 8 or int(checksum, 16) != zlib.crc32(record):
            return None
        content = json.loads(record)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    if content.get("v", 1) > FORMAT:
        raise NewerRecordError
    return content


def trial_as_json(trial: Trial) -> dict[str, Any]:
    """Converts a trial to plain values."""
    return {
        "config": {**_config_as_json(trial.config), **_config_as_json(trial.run)},
        "number": trial.number,
        "name": trial.name,
        "params": dict(trial.params),
        "folder": str(trial.folder),
        "config_text": trial.config_text,
        "log": str(trial.log),
        "overrides": list(trial.overrides),
        "sweep": trial.sweep,
        "asked": trial.asked,
        "jobs": trial.jobs,
        "space": trial.space,
        "program": list(trial.program),
        "fingerprint": trial.fingerprint,
        "id": trial.id,
    }


def stored_trial(content: Mapping[str, Any]) -> tuple[Trial, str]:
    """Reads a trial that this version or an older one has stored.

    Returns:
        The trial, and why its config must not be trained; that is empty if this version accepts the config.

    Raises:
        UnreadableError: the record is damaged or incomplete.
    """
    with _whole("a trial"):
        (config, run), why = _config(_items_as_keys(content["config"]))
        changed = {
            "config": config,
            "run": run,
            "folder": Path(content["folder"]),
            "log": Path(content["log"]),
            "overrides": tuple(content["overrides"]),
            "program": tuple(content.get("program", DEFAULT_PROGRAM)),
        }
        return Trial(**{**known_fields(Trial, content), **changed}), why


def trial_from_json(content: Mapping[str, Any]) -> Trial:
    """Reads a stored trial that is only to be recorded, not to be trained.

    Raises:
        UnreadableError: the record is damaged or incomplete.
    """
    return stored_trial(content)[0]


def _config_as_json(part: BaseModel) -> dict[str, Any]:
    plain: dict[str, Any] = _keys_as_items(part.model_dump(exclude=unused(part), by_alias=True, warnings=False))
    return plain


def _config(plain: Any) -> tuple[Config, str]:
    """Reads a config; the second value says why this version refuses it, and is empty if it does not."""
    try:
        return FlatConfig.model_validate(plain).both(), ""
    except ValidationError as error:
        first = error.errors()[0]
        return _unchecked(FlatConfig, plain).both(), f"{'.'.join(map(str, first['loc']))}: {one_line(first['msg'])}"


def _unchecked(kind: type[BaseModel], plain: Mapping[str, Any]) -> Any:
    """Builds a section without checks, from the values that are there. A missing key is None or its default."""
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        missing = None if field.is_required() else field.get_default()
        value = plain.get(field.alias or name, plain.get(name, missing))
        section = field.annotation if isinstance(field.annotation, type) else type(missing)
        if isinstance(value, Mapping) and isinstance(section, type) and issubclass(section, BaseModel):
            value = _unchecked(section, value)
        values[name] = value
    extra = {} if kind.model_config.get("extra") != "allow" else {k: v for k, v in plain.items() if k not in values}
    extra = {key: value for key, value in extra.items() if key not in {f.alias for f in kind.model_fields.values()}}
    return kind.model_construct(**values, **extra)


def known_fields(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values whose keys are fields of a dataclass.

    Args:
        kind: the dataclass.
        content: values by key.
    """
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in content.items() if key in names}


@contextlib.contextmanager
def _whole(what: str) -> Iterator[None]:
    """Turns an error about a missing value or a wrong type inside the block into an `UnreadableError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"{what} cannot be read ({type(error).__name__}: {one_line(error)})") from error


def _keys_as_items(value: Any) -> Any:
    """Writes a mapping as a list of items if a key is not a text: JSON allows only texts, keywords may have others."""
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
    """Converts an outcome to plain values, without weights and traceback."""
    return {
        "state": outcome.state,
        "metrics": dict(outcome.metrics),
        "reason": outcome.reason,
        "diverged": outcome.diverged,
        **({"rungs": list(outcome.rungs.items())} if outcome.rungs else {}),
        **({"population": outcome.population} if outcome.population else {}),
    }


def outcome_from_json(content: Mapping[str, Any]) -> Outcome:
    """Reads an outcome that `outcome_as_json` has written.

    Raises:
        UnreadableError: the record is damaged or incomplete.
    """
    with _whole("an outcome"):
        state = TrialState(content["state"])
        rungs = {float(epochs): float(value) for epochs, value in content.get("rungs", ())}
        metrics, reason, diverged = content["metrics"], content["reason"], content["diverged"]
        population = content.get("population", "")
        return Outcome(state, metrics, reason, diverged=diverged, rungs=rungs, population=population)


def end_as_json(ended: Ended, started: Started | None) -> dict[str, Any]:
    """Converts the end and the start of a trial to plain values: all that its record needs beside its measurements.

    Args:
        started: how the trial began; None if that is not known.
    """
    content = {
        **outcome_as_json(ended.outcome),
        "at": ended.at,
        "files": [str(file) for file in ended.files],
        "trained": ended.trained,
        "recomposed": ended.recomposed,
        "trajectory": ended.trajectory,
    }
    return content if started is None else {**content, "started": start_as_json(started)}


def start_as_json(started: Started) -> dict[str, Any]:
    """Converts the start of a trial to plain values, without the trial itself."""
    return {"at": started.at, "dataset": vars(started.dataset), "again": started.resumed}


def start_from_json(trial: Trial, content: Mapping[str, Any]) -> Started:
    """Reads a start that `start_as_json` has written.

    Raises:
        UnreadableError: the record is damaged or incomplete.
    """
    with _whole("the start of a trial"):
        facts = DatasetFacts(**known_fields(DatasetFacts, content["dataset"]))
        return Started(trial, content["at"], facts, content["again"])


def end_from_json(trial: Trial, content: Mapping[str, Any], at: float = 0.0) -> Ended:
    """Reads an end that `end_as_json` has written, or an outcome that an earlier version has stored.

    Args:
        at: the time of the event, used if the record does not hold it.

    Raises:
        UnreadableError: the record is damaged or incomplete.
    """
    with _whole("the end of a trial"):
        files = tuple(Path(file) for file in content.get("files", ()))
        descriptions = (content.get(name, "") for name in ("trained", "recomposed", "trajectory"))
        return Ended(trial, outcome_from_json(content), content.get("at", at), files, *descriptions)


def event_as_json(event: Event, started: Started | None) -> dict[str, Any]:
    """Converts an event to plain values.

    Args:
        started: how the trial began. The line of `Ended` repeats it, because the line of `Started` may get damaged.
    """
    content: dict[str, Any] = {"event": type(event).__name__, "at": event.at, "id": event.trial.id}
    match event:
        case Started():
            content |= {"trial": trial_as_json(event.trial), **start_as_json(event)}
        case Measured():
            content["measurement"] = {**vars(event.measurement), "metrics": dict(event.measurement.metrics)}
        case Ended():
            content["outcome"] = outcome_as_json(event.outcome)
            ended = end_as_json(event, started)
            content |= {key: ended[key] for key in ended if key not in content["outcome"]}
        case Joined():
            files = [str(file) for file in event.files]
            content |= {"trial": trial_as_json(event.trial), "run_id": event.run_id, "files": files}
    return content


def event_from_json(content: Mapping[str, Any], trial_of: Callable[[str], Trial | None]) -> Event:
    """Reads an event that `event_as_json` has written.

    Args:
        trial_of: returns the trial of an id, for events that hold only the id; None if the trial is not known.

    Raises:
        UnreadableError: the record is damaged or incomplete, or its trial is not known.
    """
    with _whole("an event"):
        at, kind = content["at"], content["event"]
        trial = trial_from_json(content["trial"]) if "trial" in content else trial_of(content["id"])
        if trial is None:
            raise UnreadableError(f"the start of trial {content['id']} is damaged")
        match kind:
            case "Started":
                return start_from_json(trial, content)
            case "Measured":
                return Measured(trial, Measurement(**known_fields(Measurement, content["measurement"])), at)
            case "Ended":
                return end_from_json(trial, {**content, **content["outcome"]})
            case "Joined":
                files = tuple(Path(file) for file in content.get("files", ()))
                return Joined(trial, at, content["run_id"], files)
    raise UnreadableError(f"it is of the unknown kind {kind!r}")
