"""Trials, outcomes and events as JSON, and back; and the lines that a journal is made of.

A stored record outlives the version that wrote it. Each line has the version of its form; in every form, a reader
ignores keys that it does not know. A config that this version refuses is read as far as it goes: that is enough to
record its trial, and not enough to train it (see `stored_trial`).
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

from sweepstack.config.schema import Config, FlatConfig
from sweepstack.errors import one_line
from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.trial import DatasetFacts, Measurement, Outcome, Trial, TrialState

FORMAT = 2
"""Version of a line. In version 1, a line had no number."""
ITEMS = "<items>"
BEGIN = re.compile(rb'[0-9a-f]{8} \{"')
"""How a line begins."""


class NewerRecordError(Exception):
    """A record that a newer version has written, in a form that this one does not know."""


class UnreadableError(Exception):
    """A record that is damaged, or incomplete; says why."""


def line(content: Mapping[str, Any], number: int) -> bytes:
    """A line with the CRC-32 of its JSON.

    Args:
        number: of the line in its journal, from 0; a reader finds by it what is missing.
    """
    text = json.dumps({"v": FORMAT, "n": number, **content}, separators=(",", ":")).encode()  # ASCII: what is typed
    return b"%08x %b\n" % (zlib.crc32(text), text)  # need not be UTF-8


def contents(text: bytes) -> Iterator[dict[str, Any] | None]:
    """What stands in a line: one record; of a damaged line what can be saved of it, and None for the rest.

    Raises:
        NewerRecordError: a newer version has written it.
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
    """How long the record is that begins there, where something else stands behind it."""
    try:
        _, end = json.JSONDecoder().raw_decode(text[begin + 9 :].decode("ascii", "replace"))
    except ValueError:
        return 0
    return 9 + end


def _content(text: bytes) -> dict[str, Any] | None:
    """None for what is damaged."""
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
    """A trial as plain values."""
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
        "fingerprint": trial.fingerprint,
        "id": trial.id,
    }


def stored_trial(content: Mapping[str, Any]) -> tuple[Trial, str]:
    """The trial that `trial_as_json` was given, by this version or an older one; and why its config must not be
    trained, which is empty where it may be.

    Raises:
        UnreadableError: it is not whole.
    """
    with _whole("a trial"):
        (config, run), why = _config(_items_as_keys(content["config"]))
        changed = {
            "config": config,
            "run": run,
            "folder": Path(content["folder"]),
            "log": Path(content["log"]),
            "overrides": tuple(content["overrides"]),
        }
        return Trial(**{**known_fields(Trial, content), **changed}), why


def trial_from_json(content: Mapping[str, Any]) -> Trial:
    """The same, for its record alone.

    Raises:
        UnreadableError: it is not whole.
    """
    return stored_trial(content)[0]


def _config_as_json(part: BaseModel) -> dict[str, Any]:
    plain: dict[str, Any] = _keys_as_items(part.model_dump(by_alias=True, warnings=False))
    return plain


def _config(plain: Any) -> tuple[Config, str]:
    """A config, and what this version has against it."""
    try:
        return FlatConfig.model_validate(plain).split(), ""
    except ValidationError as error:
        first = error.errors()[0]
        return _unchecked(FlatConfig, plain).split(), f"{'.'.join(map(str, first['loc']))}: {one_line(first['msg'])}"


def _unchecked(kind: type[BaseModel], plain: Mapping[str, Any]) -> Any:
    """A section with the values that are there, whatever they are; a key that is missing is None or its default."""
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        missing = None if field.is_required() else field.get_default()
        value = plain.get(field.alias or name, plain.get(name, missing))
        section = field.annotation
        if isinstance(value, Mapping) and isinstance(section, type) and issubclass(section, BaseModel):
            value = _unchecked(section, value)
        values[name] = value
    extra = {} if kind.model_config.get("extra") != "allow" else {k: v for k, v in plain.items() if k not in values}
    extra = {key: value for key, value in extra.items() if key not in {f.alias for f in kind.model_fields.values()}}
    return kind.model_construct(**values, **extra)


def known_fields(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Of some values those which a dataclass takes."""
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in content.items() if key in names}


@contextlib.contextmanager
def _whole(what: str) -> Iterator[None]:
    """Whatever is missing or of the wrong type in the block makes the record unreadable."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"{what} cannot be read ({type(error).__name__}: {one_line(error)})") from error


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
    """The outcome that `outcome_as_json` was given.

    Raises:
        UnreadableError: it is not whole.
    """
    with _whole("an outcome"):
        state = TrialState(content["state"])
        return Outcome(state, content["metrics"], content["reason"], diverged=content["diverged"])


def end_as_json(ended: Ended, started: Started | None) -> dict[str, Any]:
    """How a trial ended and how it began, without the trial: all that its record needs beside its measurements."""
    content = {
        **outcome_as_json(ended.outcome),
        "at": ended.at,
        "files": [str(file) for file in ended.files],
        "trained": ended.trained,
        "recomposed": ended.recomposed,
    }
    return content if started is None else {**content, "started": start_as_json(started)}


def start_as_json(started: Started) -> dict[str, Any]:
    """How a trial began, without the trial."""
    return {"at": started.at, "dataset": vars(started.dataset), "again": started.again}


def start_from_json(trial: Trial, content: Mapping[str, Any]) -> Started:
    """The event that `start_as_json` was given.

    Raises:
        UnreadableError: it is not whole.
    """
    with _whole("the begin of a trial"):
        facts = DatasetFacts(**known_fields(DatasetFacts, content["dataset"]))
        return Started(trial, content["at"], facts, content["again"])


def end_from_json(trial: Trial, content: Mapping[str, Any], at: float = 0.0) -> Ended:
    """The event that `end_as_json` was given; of an outcome that an earlier version has kept, what there is.

    Args:
        at: its time, where that is not told.

    Raises:
        UnreadableError: it is not whole.
    """
    with _whole("the end of a trial"):
        files = tuple(Path(file) for file in content.get("files", ()))
        words = content.get("trained", ""), content.get("recomposed", "")
        return Ended(trial, outcome_from_json(content), content.get("at", at), files, *words)


def event_as_json(event: Event, started: Started | None) -> dict[str, Any]:
    """An event as plain values.

    Args:
        started: how the trial began; the end tells it once more, for the line of the begin may be damaged.
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
    """The event that `event_as_json` was given.

    Args:
        trial_of: gives the trial of an id, for events that do not tell it.

    Raises:
        UnreadableError: it is not whole, or nobody knows its trial.
    """
    with _whole("an event"):
        at, kind = content["at"], content["event"]
        trial = trial_from_json(content["trial"]) if "trial" in content else trial_of(content["id"])
        if trial is None:
            raise UnreadableError(f"the begin of trial {content['id']} is damaged")
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
