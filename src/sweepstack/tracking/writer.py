"""The events of trials, written to MLflow in batches by one thread."""

from __future__ import annotations

import contextlib
import functools
import getpass
import importlib.metadata
import json
import logging
import platform
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sweepstack.errors import StoreError, one_line
from sweepstack.tracking.store import REASON_TAG, SWEEP_TAG, TRAINED_TAG, VERSION_TAG, Store, project_root
from sweepstack.trial import Ended, Event, Measured, Outcome, Started, Trial, TrialState

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between deliveries: what a trial has done by then goes in one batch
REST = 10  # times as long as a delivery took is waited for the next: the processors are for the training
TOGETHER = 50  # trials in one transaction: half a second's work, which is what a kill in its middle costs
ATTEMPTS = 3  # of the last delivery, when training is over


@dataclass
class _Run:
    """MLflow's record of a trial."""

    run_id: str
    folder: Path | None
    """Where its artifacts lie, on this machine; None where MLflow has to carry them."""
    measured: set[str] = field(default_factory=set)


class Writer:
    """Takes events and delivers them to a store once a second, and what is left at the end.

    A delivery that fails is repeated with the next one; repeating is harmless, for a run is created once and MLflow
    collapses equal rows. What is open at the end is recorded as KILLED, with the exception that ended the `with`.

    Args:
        store: where to.
        experiment: name of the MLflow experiment.
        say: called with a line for the user when deliveries begin to fail.
        recorded: called with the number of each trial that has ended and is recorded to its end.

    Raises:
        StoreError: at the end of the `with`, when something could not be delivered.
    """

    def __init__(
        self,
        store: Store,
        experiment: str,
        say: Callable[[str], None],
        recorded: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._store = store
        self._experiment = experiment
        self._say = say
        self._recorded = recorded
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._pending: dict[int, list[Event]] = {}
        self._runs: dict[int, _Run] = {}
        self._open: dict[int, Trial] = {}
        self._closing = threading.Event()
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
        self._stopped_by = error
        self._closing.set()
        self._thread.join()
        if self._pending:
            why = one_line(self._error) if self._error is not None else "unknown"
            message = not_recorded(len(self._pending), self._store.uri, why, "mend the store and run again")
            if kind is None:
                raise StoreError(message) from self._error
            self._say(message)

    def _work(self) -> None:
        attempts, pause = 0, INTERVAL
        while attempts < ATTEMPTS:
            closing = self._closing.wait(pause)
            began = time.monotonic()
            self._collect(closing)
            self._try_to_deliver()
            pause = max(INTERVAL, REST * (time.monotonic() - began))
            if closing:
                attempts = attempts + 1 if self._pending else ATTEMPTS

    def _collect(self, closing: bool) -> None:
        """Takes what has come in; at the end, nothing may stay RUNNING, wherever it was stopped."""
        while not self._inbox.empty():
            event = self._inbox.get()
            self._pending.setdefault(event.trial.number, []).append(event)
            if isinstance(event, Ended):
                self._open.pop(event.trial.number, None)
            else:
                self._open[event.trial.number] = event.trial
        while closing and self._open:
            number, trial = self._open.popitem()
            reason = one_line(self._stopped_by or "interrupted")
            killed = Ended(trial, Outcome(TrialState.KILLED, reason=reason), time.time())
            self._pending.setdefault(number, []).append(killed)

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
        refused: list[Exception] = []
        waiting = list(self._pending)
        while waiting and len(refused) < 2:  # two: then it is not the trial; whoever waits for a dead server waits once
            together, waiting = waiting[:TOGETHER], waiting[TOGETHER:]
            delivered: list[int] = []
            known = set(self._runs)
            try:
                with self._store.transaction():
                    for number in together:
                        try:
                            self._deliver_trial(client, experiment_id, self._pending[number])
                        except Exception as error:
                            refused.append(error)
                            if len(refused) == 2:
                                break
                            continue
                        delivered.append(number)
            except Exception:  # undone as a whole, with the runs that it made
                self._runs = {number: run for number, run in self._runs.items() if number in known}
                raise
            for number in delivered:
                if isinstance(self._pending.pop(number)[-1], Ended):
                    del self._runs[number]
                    self._recorded(number)
        if refused:
            raise refused[0]

    @functools.cached_property
    def _experiment_id(self) -> str:
        return self._store.experiment_id(self._experiment)

    def _deliver_trial(self, client: MlflowClient, experiment_id: str, events: Sequence[Event]) -> None:
        """In as few requests as MLflow can do with: each of them is several transactions of its own."""
        from mlflow.entities import Metric, Param, RunTag

        trial = events[0].trial
        run = self._runs.get(trial.number)
        if run is None:
            made = client.create_run(experiment_id, _ms(events[0].at), _tags(trial), trial.name).info
            run = self._runs[trial.number] = _Run(made.run_id, _local(made.artifact_uri))
        params: list[Param] = []
        metrics: list[Metric] = []
        tags: list[RunTag] = []
        for event in events:
            match event:
                case Started():
                    params = [Param(key[:250], str(value)[:6000]) for key, value in trial.params.items()]
                    client.log_inputs(run.run_id, [_dataset(event)])
                    overrides = "".join(f"- {line}\n" for line in trial.overrides)
                    self._keep_text(run, "config.yaml", trial.config_text)
                    self._keep_text(run, "overrides.yaml", overrides)
                case Measured():
                    run.measured |= set(event.measurement.metrics)
                    figures = event.measurement.metrics.items()
                    metrics += [Metric(key, value, _ms(event.at), _axis(event)) for key, value in figures]
                case Ended():  # what no measurement has given: the figures of the test, and times
                    figures = event.outcome.metrics.items()
                    metrics += [
                        Metric(key, value, _ms(event.at), 0) for key, value in figures if key not in run.measured
                    ]
                    said = {REASON_TAG: event.outcome.reason, TRAINED_TAG: event.trained}
                    tags = [RunTag(key, text) for key, text in said.items() if text]
        client.log_batch(run.run_id, metrics, params, tags)
        if isinstance(last := events[-1], Ended):
            for file in last.files:
                self._keep_file(run, file)
            client.set_terminated(run.run_id, str(last.outcome.state), _ms(last.at))

    def _keep_text(self, run: _Run, name: str, text: str) -> None:
        if run.folder is None:
            self._store.client.log_text(run.run_id, text, name)
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text(text, encoding="utf-8")

    def _keep_file(self, run: _Run, file: Path) -> None:
        """A copy, not a link: a later training in the same folder writes over its files."""
        if run.folder is None:
            self._store.client.log_artifact(run.run_id, str(file))
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, run.folder)


def not_recorded(count: int, uri: str, why: str, remedy: str) -> str:
    """The line about trials that are not in the store, or not to their end."""
    return (
        f"{count} of the trials could not be recorded in {uri} ({why}); "
        f"their weights and logs are in the output folder; {remedy}"
    )


def _local(artifact_uri: str) -> Path | None:
    """The folder of a file:// address; MLflow would look it up, and each of its files, again and again."""
    address = urlsplit(artifact_uri)
    return Path(url2pathname(address.path)) if address.scheme == "file" and not address.netloc else None


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
