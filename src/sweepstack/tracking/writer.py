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
from collections.abc import Callable, Sequence
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING

from sweepstack.errors import StoreError
from sweepstack.tracking.store import REASON_TAG, SWEEP_TAG, VERSION_TAG, Store, one_line, project_root
from sweepstack.trial import Ended, Event, Measured, Started, Trial

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
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sweepstack-writer", daemon=True)

    def put(self, event: Event) -> None:
        """Takes an event; returns at once."""
        self._inbox.put(event)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._closing.set()
        self._thread.join()
        if self._pending and kind is None:
            names = {event.trial.name for event in self._pending}
            why = one_line(self._error) if self._error is not None else "unknown"
            raise StoreError(
                f"{len(names)} of the trials could not be recorded in {self._store.uri} ({why}); "
                "their weights and logs are in the output folder; mend the store and run again"
            ) from self._error

    def _run(self) -> None:
        attempts = 0
        while attempts < ATTEMPTS:
            closing = self._closing.wait(INTERVAL)
            while not self._inbox.empty():
                self._pending.append(self._inbox.get())
            try:
                self._deliver()
            except Exception as error:  # whatever a store may answer, training goes on
                log.exception("delivery to %s failed", self._store.uri)
                if self._error is None:
                    self._say(
                        f"The tracking store does not take records ({one_line(error)}); training goes on, trying again."
                    )
                self._error = error
            if closing:
                attempts = attempts + 1 if self._pending else ATTEMPTS

    def _deliver(self) -> None:
        """Trial by trial; what has been delivered is dropped from the pending events at once."""
        if not self._pending:
            return
        client = self._store.client
        experiment_id = self._experiment_id
        with self._store.writing():
            for _, group in groupby(list(self._pending), key=lambda event: event.trial.number):
                events = list(group)
                self._deliver_trial(client, experiment_id, events)
                del self._pending[: len(events)]

    @functools.cached_property
    def _experiment_id(self) -> str:
        return self._store.experiment_id(self._experiment)

    def _deliver_trial(self, client: MlflowClient, experiment_id: str, events: Sequence[Event]) -> None:
        from mlflow.entities import Metric, Param

        trial = events[0].trial
        metrics = [
            Metric(key, value, _ms(event.at), _axis(event))
            for event in events
            if isinstance(event, Measured)
            for key, value in event.measurement.metrics.items()
        ]
        for event in events:
            if isinstance(event, Started) and trial.number not in self._runs:
                run = client.create_run(experiment_id, _ms(event.at), _tags(trial), trial.name)
                self._runs[trial.number] = run.info.run_id
            if isinstance(event, Ended):
                metrics += _final(event, metrics)
        run_id = self._runs[trial.number]
        for event in events:
            if isinstance(event, Started):
                params = [Param(key, str(value)) for key, value in trial.params.items()]
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


def _final(event: Ended, measured: Sequence[Metric]) -> list[Metric]:
    """The figures that a trial ended with and that no measurement has given: those of the test, and times."""
    from mlflow.entities import Metric

    reported = {metric.key for metric in measured}
    return [Metric(key, value, _ms(event.at), 0) for key, value in event.outcome.metrics.items() if key not in reported]


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
