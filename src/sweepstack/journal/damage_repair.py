"""Restores from the ledger what a damaged journal has lost: the ends of trials, and their last metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.journal.codec import UnreadableError, end_from_json, start_from_json
from sweepstack.journal.log import LogReader
from sweepstack.journal.sessions import Sessions
from sweepstack.planning.known_trials import Entry
from sweepstack.trial import DatasetFacts, Measurement, Trial, TrialState

UNKNOWN = DatasetFacts("", 0, 0, 0)
"""Stands for the facts of a dataset if no line holds them any more."""


@dataclass
class JournalSummary:
    """What a journal holds of each trial, delivered or not."""

    first: dict[str, Event] = field(default_factory=dict)
    """The first event of each trial that is not `Joined`, by the trial's id."""
    started: set[str] = field(default_factory=set)
    """Ids of the trials that have an event `Started`."""
    ended: set[str] = field(default_factory=set)
    """Ids of the trials that have an event `Ended`."""
    measured: dict[str, int] = field(default_factory=dict)
    """The last step with metrics, by the trial's id."""
    joined: set[tuple[str, str | None]] = field(default_factory=set)
    """Ids of trials and the sweeps that they have joined."""
    facts: dict[str, DatasetFacts] = field(default_factory=dict)
    """Facts of datasets, by `_data_key`."""

    @property
    def unended(self) -> list[str]:
        """Ids of the trials that have not ended."""
        return [one for one in self.first if one not in self.ended]

    def take(self, event: Event) -> None:
        """Notes an event."""
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
    """The events that are delivered in place of lost ones."""

    events: list[Event] = field(default_factory=list)
    trials: int = 0
    """The number of trials whose end comes from the ledger."""
    without_data: int = 0
    """The number of trials that are recorded without the checksum of their data."""

    def describe_damage(self, reader: LogReader) -> str:
        """Returns a line for the user about a damaged journal; empty if it is not damaged."""
        if not reader.damaged:
            return ""
        lost = f"{reader.lost} of its events cannot be read" if reader.lost else "nothing of it is lost"
        line = f"A journal is damaged: {lost}."
        if self.trials:
            subject = "1 trial is" if self.trials == 1 else f"{self.trials} trials are"
            line += f" {subject} recorded from the ledger instead."
        if self.without_data:
            line += f" The checksum of the data is missing for {self.without_data}."
        if reader.lost:
            line += " Curves may lack points; the same command trains what has not ended again."
        return line


def restore_events(
    sessions: Sessions,
    session: int,
    summary: JournalSummary,
    joined: Iterable[tuple[str, str, str, float, str | None]],
    last_metrics: Callable[[str], Mapping[str, float]],
) -> Restored:
    """Restores the events that a session's journal has lost and the ledger knows.

    Args:
        summary: what the journal holds.
        joined: the `Joined` events that the journal should hold; see `Sessions.expected`.
        last_metrics: returns the last metrics in a run, so that none is recorded twice.
    """
    result = Restored()
    entries = {entry.trial.id: entry for entry in sessions.ended_in(session, summary.ended)}
    for entry in entries.values():
        result.events += _lost_end(entry, summary, last_metrics)
        result.trials += 1
    for trial_id, first in summary.first.items():
        if trial_id not in summary.started and trial_id not in entries:
            result.events.append(_start(first.trial, first.at, summary))
    result.without_data = sum(isinstance(e, Started) and e.dataset == UNKNOWN for e in result.events)
    example = next((event.trial for event in (*summary.first.values(), *result.events)), None)
    for trial_id, name, sweep, at, run_id in joined:
        if (trial_id, sweep) not in summary.joined:
            trial = sessions.trial(trial_id) or example
            if trial is not None:  # `Joined` records nothing else of the trial
                result.events.append(Joined(replace(trial, id=trial_id, name=name, sweep=sweep), at, run_id))
    return result


def _lost_end(
    entry: Entry, summary: JournalSummary, last_metrics: Callable[[str], Mapping[str, float]]
) -> Iterator[Event]:
    trial, content = entry.trial, entry.ended
    assert content is not None
    ended = end_from_json(trial, content, entry.at)
    if trial.id not in summary.started:
        try:
            yield start_from_json(trial, content["started"])
        except (UnreadableError, KeyError):
            yield _start(trial, entry.at, summary)
    if summary.measured.get(trial.id, 0) < entry.measured:
        yield from _last_measured(entry, ended, {} if entry.run_id is None else last_metrics(entry.run_id))
    yield ended


def _last_measured(entry: Entry, ended: Ended, recorded: Mapping[str, float]) -> Iterator[Measured]:
    """Yields the metrics that a trial ended with if no line holds them any more.

    Args:
        recorded: the last metrics in the run.
    """
    config = entry.trial.config
    selecting = config.objective.split("/")[0]
    metrics = {
        key: value
        for key, value in ended.outcome.metrics.items()
        if key.startswith(("train/", f"{selecting}/")) and recorded.get(key) != value
    }
    if metrics and ended.outcome.state in (TrialState.FINISHED, TrialState.PRUNED):
        yield Measured(entry.trial, Measurement(config.epochs, entry.measured, entry.measured, metrics), ended.at)


def _start(trial: Trial, at: float, summary: JournalSummary) -> Started:
    return Started(trial, at, summary.facts.get(_data_key(trial), UNKNOWN))


def _data_key(trial: Trial) -> str:
    return f"{trial.config.held_out} {trial.config.dataset!r}"
