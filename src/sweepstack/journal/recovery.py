"""What a damaged journal has lost, as far as the ledger knows it: ends of trials, and what they ended with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.journal.codec import UnreadableError, end_from_json, start_from_json
from sweepstack.journal.log import LogReader
from sweepstack.journal.sessions import Sessions
from sweepstack.planning.known_trials import Entry
from sweepstack.trial import DatasetFacts, Measurement, Trial

UNKNOWN = DatasetFacts("", 0, 0, 0)
"""The facts of a dataset that no line tells any more."""


@dataclass
class Seen:
    """What a journal tells of each trial, delivered or not."""

    first: dict[str, Event] = field(default_factory=dict)
    """The first event of each trial but `Joined`."""
    started: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    measured: dict[str, int] = field(default_factory=dict)
    """The last step of each."""
    joined: set[tuple[str, str | None]] = field(default_factory=set)
    facts: dict[str, DatasetFacts] = field(default_factory=dict)
    """By the config of the dataset and what is held out."""

    @property
    def open(self) -> list[str]:
        """Trials that have not ended."""
        return [one for one in self.first if one not in self.ended]

    def take(self, event: Event) -> None:
        trial = event.trial
        if isinstance(event, Joined):
            self.joined.add((trial.id, trial.sweep))
            return
        self.first.setdefault(trial.id, event)
        match event:
            case Started():
                self.started.add(trial.id)
                self.facts[_data_key(trial)] = event.dataset
            case Measured():
                self.measured[trial.id] = event.measurement.step
            case Ended():
                self.ended.add(trial.id)


@dataclass
class Restored:
    """What is delivered in place of what is lost."""

    events: list[Event] = field(default_factory=list)
    trials: int = 0
    """So many end as the ledger tells."""
    without_data: int = 0
    """So many are recorded without the checksum of their data."""

    def told(self, reader: LogReader) -> str:
        """The line about a damaged journal; empty where it is as it was written."""
        if not reader.damaged:
            return ""
        lost = f"{reader.lost} of its events cannot be read" if reader.lost else "nothing of it is lost"
        line = f"A journal is damaged: {lost}."
        if self.trials:
            some = "1 trial is" if self.trials == 1 else f"{self.trials} trials are"
            line += f" {some} recorded from the ledger instead."
        if self.without_data:
            line += f" The checksum of the data is missing for {self.without_data}."
        if reader.lost:
            line += " Curves may lack points; what has not ended is trained again by the same command."
        return line


def restored(
    sessions: Sessions,
    session: int,
    seen: Seen,
    joined: Iterable[tuple[str, str, str, float, str | None]],
    points: Callable[[str], Mapping[str, float]],
) -> Restored:
    """What a session's journal does not tell, and the ledger does.

    Args:
        seen: what the journal tells.
        joined: what it should tell of trials that were trained before, see `Sessions.expected`.
        points: gives the last figures of a run: what it has is not recorded twice.
    """
    result = Restored()
    entries = {entry.trial.id: entry for entry in sessions.ended_in(session, seen.ended)}
    for entry in entries.values():
        result.events += _lost_end(entry, seen, points)
        result.trials += 1
    for trial_id, first in seen.first.items():
        if trial_id not in seen.started and trial_id not in entries:
            result.events.append(_start(first.trial, first.at, seen))
    result.without_data = sum(isinstance(e, Started) and e.dataset == UNKNOWN for e in result.events)
    some = next((event.trial for event in (*seen.first.values(), *result.events)), None)
    for trial_id, name, sweep, at, run_id in joined:
        if (trial_id, sweep) not in seen.joined:
            trial = sessions.trial(trial_id) or some
            if trial is not None:  # of which no more than this is recorded
                result.events.append(Joined(replace(trial, id=trial_id, name=name, sweep=sweep), at, run_id))
    return result


def _lost_end(entry: Entry, seen: Seen, points: Callable[[str], Mapping[str, float]]) -> Iterator[Event]:
    trial, content = entry.trial, entry.ended
    assert content is not None
    ended = end_from_json(trial, content, entry.at)
    if trial.id not in seen.started:
        try:
            yield start_from_json(trial, content["started"])
        except (UnreadableError, KeyError):
            yield _start(trial, entry.at, seen)
    if seen.measured.get(trial.id, 0) < entry.measured:
        yield from _last_measured(entry, ended, {} if entry.run_id is None else points(entry.run_id))
    yield ended


def _last_measured(entry: Entry, ended: Ended, there: Mapping[str, float]) -> Iterator[Measured]:
    """The figures that a trial ended with, where no line has them any more."""
    config = entry.trial.config
    selecting = config.objective.split("/")[0]
    metrics = {
        key: value
        for key, value in ended.outcome.metrics.items()
        if key.startswith(("train/", f"{selecting}/")) and there.get(key) != value
    }
    if metrics and ended.outcome.state == "FINISHED":
        yield Measured(entry.trial, Measurement(config.epochs, entry.measured, entry.measured, metrics), ended.at)


def _start(trial: Trial, at: float, seen: Seen) -> Started:
    return Started(trial, at, seen.facts.get(_data_key(trial), UNKNOWN))


def _data_key(trial: Trial) -> str:
    return f"{trial.config.validation_split} {trial.config.dataset!r}"
