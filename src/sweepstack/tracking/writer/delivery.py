"""Delivers journals to MLflow, exactly once: in batches, from the end of the last delivery, and repeatable."""

from __future__ import annotations

import functools
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from sweepstack.config.names import as_value
from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.journal.damage_repair import JournalSummary, Restored, restore_events
from sweepstack.journal.files import drop_files
from sweepstack.journal.log import LogReader
from sweepstack.journal.replay import Replay
from sweepstack.journal.sessions import Sessions
from sweepstack.tracking.address import sweepstack_command
from sweepstack.tracking.artifacts import local_folder
from sweepstack.tracking.params import as_text
from sweepstack.tracking.runs_as_rows import (
    LOG_TAG,
    PRUNED_TAG,
    REASON_TAG,
    SWEEP_TAG,
)
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.records import (
    axis_of,
    dataset_of,
    end_tags,
    metrics_at_end,
    milliseconds,
    tags_of,
    tags_of_sweep,
)
from sweepstack.trial import TrialState

if TYPE_CHECKING:
    from mlflow.entities import Metric, RunInfo, RunTag

log = logging.getLogger(__name__)

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that delivers the same session."""
TRIALS_PER_TRANSACTION = 50
"""Trials in one transaction: half a second of work, which a kill in the middle loses."""


@dataclass
class _Pending:
    """The events of one trial that are not in the store yet."""

    begin: int
    """The position of the first one in the journal, in bytes."""
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True)
class _Run:
    run_id: str
    folder: Path | None
    """The folder of its artifacts on this machine; None if MLflow has to upload them."""


class NotYetError(Exception):
    """The trial needs records of another session that are not delivered yet."""


class Delivery:
    """Delivers the journal of a session to the store.

    Repeating is harmless: the id of a trial finds its run, and MLflow stores equal rows once.

    Args:
        store: the store to deliver to.
        sessions: the sessions of that store.
        session: the number of the session to deliver.

    Raises:
        StoreError: from every method, if the ledger cannot be used.
    """

    def __init__(self, store: Store, sessions: Sessions, session: int) -> None:
        self._store, self._sessions, self._session = store, sessions, session
        self._reader = LogReader(sessions.journal(session), sessions.trial)
        self._seen = JournalSummary()
        self._restored: Restored | None = None
        self._pending: dict[str, _Pending] = {}
        self._runs: dict[str, _Run] = {}
        begun = sessions.begin_delivery(session)
        self._experiment, self._repeated, self._offset = begun or ("", False, 0)
        self._unsure = self._repeated
        """True if the store may have runs that the ledger does not know."""
        self.delivered = 0
        """The number of trials that are delivered completely."""

    @property
    def waiting(self) -> int:
        """The number of trials that are not delivered completely."""
        return len(self._pending)

    def has_many(self) -> bool:
        """True if enough trials have ended, and are not delivered, to fill a transaction."""
        self._read()
        ended = (isinstance(pending.events[-1], Ended) for pending in self._pending.values())
        return sum(ended) >= TRIALS_PER_TRANSACTION

    def deliver(self) -> None:
        """Delivers the current content of the journal, trial by trial: the store may refuse one and accept the others.

        Raises:
            Exception: an error of the store. The next call delivers the rest.
        """
        self._read()
        refused: list[Exception] = []
        waiting = list(self._pending)
        if waiting:
            self._reader.sync()
        while waiting and len(refused) < 2:  # two errors mean that the store fails, not the trials
            together, waiting = waiting[:TRIALS_PER_TRANSACTION], waiting[TRIALS_PER_TRANSACTION:]
            done = self._deliver_together(together, refused)
            taken = {one: self._pending.pop(one).events for one in done}
            replay = Replay()
            for event in (event for events in taken.values() for event in events):
                replay.take(event)
            ended = [one for one, events in taken.items() if isinstance(events[-1], Ended)]
            for trial_id in ended:
                self._runs.pop(trial_id, None)
            self.delivered += len(ended)
            kept = self._sessions.taken_over_from(self._session) if ended else set()
            drop_files(self._sessions.files(one) for one in ended if one not in kept)
            joined = [event for events in taken.values() for event in events if isinstance(event, Joined)]
            drop_files({self._sessions.files(file.parent.name) for event in joined for file in event.files})
            begins = [pending.begin for pending in self._pending.values()]
            self._offset = min([*begins, self._reader.offset])
            runs = {trial_id: run_id for trial_id, run_id in done.items() if run_id is not None}
            self._sessions.note_delivered(self._session, self._offset, runs, replay.progress)
        if refused:
            raise refused[0]

    def finish(self) -> None:
        """Delivers the rest of an ended session, and removes the session.

        It restores what a damaged journal has lost from the ledger, and ends interrupted trials as KILLED.
        """
        if self._sessions.is_recorded(self._session):
            self._sessions.retire(self._session)
            return
        self._restore()
        self.deliver()
        if self._pending:
            raise NotYetError("another sweep has to deliver its records first")
        self._close_what_is_open()
        damage = "" if self._restored is None else self._restored.describe_damage(self._reader)
        self._sessions.retire(self._session, remember=self._store.database is None, damage=damage)

    def _restore(self) -> None:
        """Takes from the ledger what is missing in the journal. The second call does nothing."""
        self._read()
        if self._restored is None:
            lines, joined = self._sessions.expected(self._session)
            self._reader.end(lines, self._offset)
            if self._reader.damaged:  # then positions in the file are not reliable; repeating everything is harmless
                self._offset, self._pending = 0, {}
                self._unsure = self._repeated = True
                for begin, event in LogReader(self._sessions.journal(self._session), self._sessions.trial).events():
                    self._take(begin, event)
            self._restored = restore_events(self._sessions, self._session, self._seen, joined, self._points)
            for event in self._restored.events:
                self._take(self._reader.offset, event)
            self._unsure = self._unsure or bool(self._restored.events)

    def _points(self, run_id: str) -> Mapping[str, float]:
        """Returns the last metrics of a run."""
        if self._info(run_id) is None:
            return {}
        metrics: Mapping[str, float] = self._store.client.get_run(run_id).data.metrics
        return metrics

    def _close_what_is_open(self) -> None:
        """Ends the runs that are RUNNING and that no process trains."""
        broken = dict(self._sessions.unreadable(self._session))  # first: it sets these rows aside
        left = {
            entry.trial.id: entry for entry in self._sessions.interrupted_in(self._session) if entry.outcome is None
        }
        runs = [(one.run_id or self._store.run_of(trial_id), one.at) for trial_id, one in left.items()]
        closing = [(run_id, "its process died", at) for run_id, at in runs if run_id is not None]
        orphans = {*broken, *(one for one in self._seen.unended if one not in left)}
        for trial_id in orphans - self._sessions.readable_ids(orphans):
            run_id = self._store.run_of(trial_id) or broken.get(trial_id)
            if run_id is not None:
                closing.append((run_id, "its process died, and the ledger's row of it is damaged", time.time()))
        if closing:
            with self._store.transaction():
                for run_id, why, at in closing:
                    info = self._info(run_id)
                    if info is not None and info.status == "RUNNING":
                        self._close(run_id, TrialState.KILLED, why, at)

    def _read(self) -> None:
        for begin, event in self._reader.events():
            self._seen.take(event)
            if begin >= self._offset:
                self._take(begin, event)

    def _take(self, begin: int, event: Event) -> None:
        events = self._pending.setdefault(event.trial.id, _Pending(begin)).events
        if isinstance(event, Started):  # a restored one comes after later events
            events.insert(0, event)
        else:
            events.append(event)

    def _deliver_together(self, together: Sequence[str], refused: list[Exception]) -> dict[str, str | None]:
        """Delivers some trials in one transaction; returns the id of the run of each trial that was delivered."""
        done: dict[str, str | None] = {}
        before = dict(self._runs)
        known = self._sessions.run_ids(together)
        experiment_id = self._experiment_id
        try:
            with self._store.transaction():
                for trial_id in together:
                    try:
                        done[trial_id] = self._deliver_trial(experiment_id, known, self._pending[trial_id].events)
                    except NotYetError:
                        continue
                    except Exception as error:
                        run = self._runs.get(trial_id)
                        if run is not None and self._info(run.run_id) is None:
                            done[trial_id] = None  # the user has deleted the run during the training
                            continue
                        log.exception("a trial could not be delivered to %s", self._store.uri)
                        self._unsure = True  # a server may have made the run before the error
                        refused.append(error)
                        if len(refused) == 2:
                            break
        except Exception:  # the transaction was undone, with the runs that it made
            self._runs = before
            self._unsure = True
            raise
        return done

    @functools.cached_property
    def _experiment_id(self) -> str:
        return self._store.experiment_id(as_value(self._experiment))

    def _info(self, run_id: str) -> RunInfo | None:
        """Returns MLflow's facts about a run; None if a user has deleted it."""
        from mlflow.exceptions import MlflowException

        try:
            info = self._store.client.get_run(run_id).info
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return info if info.lifecycle_stage == "active" else None

    def _run(self, experiment_id: str, run_id: str | None, first: Event) -> tuple[_Run, bool] | None:
        """Returns the run of a trial, and whether it is new; None if a user has deleted it after it began."""
        trial = first.trial
        if trial.id in self._runs:
            return self._runs[trial.id], False
        resumed = isinstance(first, Started) and first.resumed
        if resumed and self._sessions.has_undelivered_predecessor(trial.id, self._session):
            raise NotYetError("the records of the command that began them are not delivered yet")
        if run_id is None and self._unsure:
            run_id = self._store.run_of(trial.id)
        info = None if run_id is None else self._info(run_id)
        made = info is None
        if info is None and run_id is not None and not isinstance(first, Started):
            return None
        if info is None:
            info = self._store.client.create_run(
                experiment_id, milliseconds(first.at), tags_of(first), as_value(trial.name)
            ).info
        self._runs[trial.id] = _Run(info.run_id, local_folder(info.artifact_uri))
        return self._runs[trial.id], made

    def _deliver_trial(self, experiment_id: str, known: dict[str, str], events: Sequence[Event]) -> str | None:
        """Delivers the events of one trial in as few requests as possible; returns the id of its run."""
        from mlflow.entities import Metric, Param, RunTag

        trial, client = events[0].trial, self._store.client
        if isinstance(events[0], Joined):
            return self._join(known.get(trial.id), events[0])
        found = self._run(experiment_id, known.get(trial.id), events[0])
        if found is None:
            return None
        run, made = found
        params: list[Param] = []
        metrics: list[Metric] = []
        tags: list[RunTag] = []
        for event in events:
            match event:
                case Started(resumed=resumed):
                    if resumed and not made:  # its params are recorded already
                        client.update_run(run.run_id, "RUNNING", as_value(trial.name))
                        now = {**tags_of_sweep(event), LOG_TAG: as_value(str(event.trial.log))}
                        tags += [RunTag(key, value) for key, value in now.items()]
                        if PRUNED_TAG in client.get_run(run.run_id).data.tags:
                            client.delete_tag(run.run_id, PRUNED_TAG)
                        continue
                    params = [Param(key[:250], as_value(as_text(value)[:6000])) for key, value in trial.params.items()]
                    if event.dataset.digest:
                        client.log_inputs(run.run_id, [dataset_of(event)])
                    self._keep_text(run, "config.yaml", trial.config_text)
                    self._keep_text(run, "overrides.yaml", "".join(f"- {line}\n" for line in trial.overrides))
                case Measured():
                    metrics_of_step = event.measurement.metrics.items()
                    metrics += [
                        Metric(key, value, milliseconds(event.at), axis_of(event)) for key, value in metrics_of_step
                    ]
                case Ended():
                    metrics += [Metric(key, value, milliseconds(event.at), 0) for key, value in metrics_at_end(event)]
                    if event.trial.config.keep_best and event.outcome.state is not TrialState.PRUNED:
                        metrics += self._best_as_last(run.run_id, event, metrics)
                    tags += end_tags(event)
        client.log_batch(run.run_id, metrics, params, tags)
        if isinstance(last := events[-1], Ended):
            for file in last.files:
                self._keep_file(run, self._kept(trial.id, file))
            state = last.outcome.state
            status = TrialState.FINISHED if state is TrialState.PRUNED else state
            client.set_terminated(run.run_id, str(status), milliseconds(last.at))
        return run.run_id

    def _best_as_last(self, run_id: str, event: Ended, metrics: Sequence[Metric]) -> list[Metric]:
        """Returns points that make the metrics of the best measurement the last ones of a run, which MLflow shows.

        Args:
            run_id: the run.
            event: the end of its trial.
            metrics: the points that are to be delivered with it.
        """
        from mlflow.entities import Metric

        key = event.trial.config.objective
        history = self._store.client.get_metric_history(run_id, key)
        step = max((point.step for point in (*metrics, *history) if point.key == key), default=0)
        later = milliseconds(event.at) + 1  # of points with one step and one time, MLflow shows the largest
        left_out = dict(metrics_at_end(event))
        best = [(key, value) for key, value in event.outcome.metrics.items() if key not in left_out]
        return [Metric(key, value, later, step) for key, value in best]

    def _join(self, run_id: str | None, event: Joined) -> str | None:
        """Adds a settled trial to a further sweep."""
        from mlflow.entities import RunTag

        found = event.run_id or run_id or self._store.run_of(event.trial.id)
        if found is None and self._sessions.is_pending(event.trial.id):
            raise NotYetError
        info = None if found is None else self._info(found)
        if found is None or info is None:
            log.error("the run of trial %s (%s) does not exist any more", event.trial.id, event.trial.name)
            return None
        tags = [
            RunTag(key, text) for key, text in tags_of_sweep(event).items() if key != SWEEP_TAG
        ]  # who trained it stays
        if tags:
            self._store.client.log_batch(found, tags=tags)
        for file in event.files:
            self._keep_file(_Run(found, local_folder(info.artifact_uri)), self._kept(file.parent.name, file))
        return None

    def _close(self, run_id: str, state: TrialState, reason: str, at: float) -> None:
        self._store.client.set_tag(run_id, REASON_TAG, reason)
        self._store.client.set_terminated(run_id, str(state), milliseconds(at))

    def _keep_text(self, run: _Run, name: str, text: str) -> None:
        text = as_value(text)
        if run.folder is None:
            self._store.client.log_text(run.run_id, text, name)
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text(text, encoding="utf-8")

    def _kept(self, folder: str, file: Path) -> Path:
        """Returns the current path of a file of a trial: the journal's folder may have been moved with its files."""
        kept = self._sessions.files(folder) / file.name
        return kept if kept.exists() else file

    def _keep_file(self, run: _Run, file: Path) -> None:
        if not file.exists() and self._repeated:
            return  # an earlier delivery has copied and removed it
        if run.folder is None:
            self._store.client.log_artifact(run.run_id, str(file))
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, run.folder)


def deliver_what_is_left(store: Store, sessions: Sessions, but: int | None = None) -> tuple[int, list[Exception]]:
    """Delivers the sessions that have ended or died: the oldest first, and each after those from which it has taken
    trials over. After two errors of the store it stops.

    Args:
        store: the store to deliver to.
        sessions: the sessions of that store.
        but: a session to leave out, together with all newer ones from which it has taken nothing over.

    Returns:
        The number of trials that are delivered completely, and the errors of the others.
    """
    delivered = 0
    refused: dict[int, Exception] = {}
    waiting = sessions.end_dead_sessions()
    if but is not None:
        needed = sessions.predecessors(but) if any(session > but for session in waiting) else set()
        waiting = [session for session in waiting if session < but or session in needed]
    while waiting:
        before = delivered
        for session in waiting:
            refusals = sum(not isinstance(error, NotYetError | Timeout) for error in refused.values())
            if refusals == 2:
                break
            refused.pop(session, None)
            lock = sessions.delivery_lock(session)
            try:
                with lock.acquire(timeout=LOCK_TIMEOUT):  # its own writer may still deliver it
                    if sessions.is_undelivered(session):
                        delivery = Delivery(store, sessions, session)
                        delivery.finish()
                        delivered += delivery.delivered
                Path(lock.lock_file).unlink(missing_ok=True)
            except Exception as error:
                refused[session] = error
        late = [session for session, error in refused.items() if isinstance(error, NotYetError)]
        waiting = late if delivered > before else []
    return delivered, [*refused.values()]


def not_delivered(count: int, uri: str, journal: Path, why: str) -> str:
    """Makes the line about records that only the journal has.

    Args:
        count: the number of trials; 0 if it is not known.
        uri: the address of the store.
        journal: the folder of the journal.
        why: the error of the store.
    """
    some = "some trials" if not count else "1 trial" if count == 1 else f"{count} trials"
    return (
        f"Records of {some} are kept in the journal, because {uri} does not take them ({why}); the next sweep delivers "
        f"them, or type: {sweepstack_command('sync', uri, journal)}"
    )
