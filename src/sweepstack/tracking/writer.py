"""The events of trials, written to MLflow in batches by one thread, so that training never waits for a database."""

from __future__ import annotations

import contextlib
import functools
import getpass
import importlib.metadata
import json
import logging
import platform
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from sweepstack.errors import StoreError, one_line
from sweepstack.tracking.store import REASON_TAG, SWEEP_TAG, VERSION_TAG, Store, project_root
from sweepstack.trial import Ended, Event, Measured, Outcome, Started, Trial, TrialState

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between deliveries; the first is late enough for MLflow's import not to delay the first steps
BATCH = 900  # metrics in one request; MLflow takes 1,000 rows of all kinds
ATTEMPTS = 3  # of the last delivery, when training is over


class Writer:
    """Takes events and delivers them to a store once a second, and what is left at the end.

    A delivery that fails is repeated with the next one; repeating is harmless, for a run is created once and MLflow
    collapses equal rows.

    Args:
        store: where to.
        experiment: name of the MLflow experiment.
        say: called with a line for the user when deliveries begin to fail.

    Raises:
        StoreError: at the end of the `with`, when something could not be delivered.
    """

    def __init__(self, store: Store, experiment: str, say: Callable[[str], None]) -> None:
        self._store = store
        self._experiment = experiment
        self._say = say
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._pending: list[Event] = []
        self._runs: dict[int, str] = {}
        self._open: dict[int, Trial] = {}
        self._measured: dict[int, set[str]] = {}
        self._closing = threading.Event()
        self._done = threading.Event()
        self._error: Exception | None = None
        self._stopped_by: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="sweepstack-writer")

    def put(self, event: Event) -> None:
        """Takes an event; returns at once."""
        self._inbox.put(event)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        interrupt: KeyboardInterrupt | None = None
        try:
            self._stopped_by = error
            self._closing.set()
            self._done.wait()  # not join(): Python 3.11 takes a thread whose join was interrupted for a finished one
        except KeyboardInterrupt as stop:  # what is finished is recorded all the same; a second one ends the process
            interrupt = stop
            self._closing.set()
            self._done.wait()
        if self._pending:
            names = {event.trial.name for event in self._pending}
            why = one_line(self._error) if self._error is not None else "unknown"
            message = (
                f"{len(names)} of the trials could not be recorded in {self._store.uri} ({why}); "
                "their weights and logs are in the output folder; mend the store and run again"
            )
            if kind is None and interrupt is None:
                raise StoreError(message) from self._error
            self._say(message)
        if interrupt is not None:
            raise interrupt

    def _work(self) -> None:
        try:
            attempts = 0
            while attempts < ATTEMPTS:
                # The main thread may be interrupted anywhere; Python waits for this one before it exits.
                closing = self._closing.wait(INTERVAL) or not threading.main_thread().is_alive()
                self._collect(closing)
                self._try_to_deliver()
                if closing:
                    attempts = attempts + 1 if self._pending else ATTEMPTS
        finally:
            self._done.set()

    def _collect(self, closing: bool) -> None:
        """Takes what has come in; at the end, nothing may stay RUNNING, wherever it was stopped."""
        while not self._inbox.empty():
            event = self._inbox.get()
            self._pending.append(event)
            if isinstance(event, Ended):
                self._open.pop(event.trial.number, None)
            else:
                self._open[event.trial.number] = event.trial
        while closing and self._open:
            _, trial = self._open.popitem()
            reason = one_line(self._stopped_by or "interrupted")
            self._pending.append(Ended(trial, Outcome(TrialState.KILLED, reason=reason), time.time()))

    def _try_to_deliver(self) -> None:
        try:
            self._deliver()
        except Exception as error:  # whatever a store may answer, training goes on
            log.exception("delivery to %s failed", self._store.uri)
            if self._error is None:
                self._say(f"The tracking store does not take records ({one_line(error)}); training goes on.")
            self._error = error

    def _deliver(self) -> None:
        """Trial by trial, so that one which the store refuses holds up no other; what is delivered is dropped."""
        if not self._pending:
            return
        client = self._store.client
        experiment_id = self._experiment_id
        trials: dict[int, list[Event]] = {}
        for event in self._pending:
            trials.setdefault(event.trial.number, []).append(event)
        refused: list[Exception] = []
        with self._store.writing():
            for number, events in trials.items():
                try:
                    self._deliver_trial(client, experiment_id, events)
                except Exception as error:
                    refused.append(error)
                    if len(refused) == 2:  # then it is not the trial; whoever waits for a dead server waits once
                        break
                    continue
                self._pending = [event for event in self._pending if event.trial.number != number]
        if refused:
            raise refused[0]

    @functools.cached_property
    def _experiment_id(self) -> str:
        return self._store.experiment_id(self._experiment)

    def _deliver_trial(self, client: MlflowClient, experiment_id: str, events: Sequence[Event]) -> None:
        from mlflow.entities import Metric, Param

        trial = events[0].trial
        measured = self._measured.setdefault(trial.number, set())
        metrics: list[Metric] = []
        for event in events:
            if isinstance(event, Started) and trial.number not in self._runs:
                run = client.create_run(experiment_id, _ms(event.at), _tags(trial), trial.name)
                self._runs[trial.number] = run.info.run_id
            if isinstance(event, Measured):
                measured |= set(event.measurement.metrics)
                figures = event.measurement.metrics.items()
                metrics += [Metric(key, value, _ms(event.at), _axis(event)) for key, value in figures]
            if isinstance(event, Ended):  # what no measurement has given: the figures of the test, and times
                figures = event.outcome.metrics.items()
                metrics += [Metric(key, value, _ms(event.at), 0) for key, value in figures if key not in measured]
        run_id = self._runs[trial.number]
        for event in events:
            if isinstance(event, Started):
                params = [Param(key[:250], str(value)[:6000]) for key, value in trial.params.items()]
                for first in range(0, len(params), 100):
                    client.log_batch(run_id, params=params[first : first + 100])
                client.log_inputs(run_id, [_dataset(event)])
                client.log_text(run_id, trial.config_text, "config.yaml")
                client.log_text(run_id, "".join(f"- {line}\n" for line in trial.overrides), "overrides.yaml")
        for first in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[first : first + BATCH])
        for event in events:
            if isinstance(event, Ended):
                for file in event.files:
                    client.log_artifact(run_id, str(file))
                if event.outcome.reason:
                    client.set_tag(run_id, REASON_TAG, event.outcome.reason)
                client.set_terminated(run_id, str(event.outcome.state), _ms(event.at))


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _axis(event: Measured) -> int:
    """What MLflow draws metrics against: epochs, or iterations where those are what is measured by."""
    by_epoch = event.trial.config.evaluate_every == "epoch"
    return event.measurement.epoch if by_epoch else event.measurement.step


def _tags(trial: Trial) -> dict[str, str]:
    tags = {**_environment(), "mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL"}
    if trial.sweep is not None:
        tags[SWEEP_TAG] = trial.sweep
    return tags


@functools.cache
def _environment() -> dict[str, str]:
    """Who and what trained: git commit, and the versions of what the figures depend on."""
    tags = {
        VERSION_TAG: importlib.metadata.version("sweepstack"),
        "versions.python": platform.python_version(),
    }
    for package in ("torch", "hydra-core", "mlflow"):
        tags[f"versions.{package}"] = importlib.metadata.version(package)
    with contextlib.suppress(KeyError, OSError):  # a container may run as a user without a name
        tags["mlflow.user"] = getpass.getuser()
    git = ["git", "-C", str(project_root())]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if commit.returncode == 0:
        tags["mlflow.source.git.commit"] = commit.stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, text=True, check=False)
        tags["git.uncommitted_changes"] = str(bool(changed.stdout.strip())).lower()
    return tags


def _dataset(event: Started) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    config, facts = event.trial.config.dataset, event.dataset
    name = str(event.trial.params["dataset"])
    counts = {"train": facts.train, "held_out": facts.held_out, "test": facts.test}
    return DatasetInput(
        Dataset(
            name=name,
            digest=facts.digest,
            source_type="code",
            source=json.dumps({"target": config.target}),
            schema=json.dumps({"shape": config.shape, "classes": config.classes}),
            profile=json.dumps(counts),
        ),
        [InputTag("mlflow.data.context", "training")],
    )
