"""What MLflow's records of a trial hold: tags, metrics and the dataset, made from the journal's events."""

from __future__ import annotations

import contextlib
import functools
import getpass
import importlib.metadata
import json
import platform
import subprocess
from typing import TYPE_CHECKING

from sweepstack.config.names import as_value
from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.paths import project_root
from sweepstack.tracking.objectives import tags_of_task
from sweepstack.tracking.runs_as_rows import (
    ASKED_TAG,
    FINGERPRINT_TAG,
    ID_TAG,
    LOG_TAG,
    LONGEST_TAG,
    PROGRAM_TAG,
    PRUNED_TAG,
    REASON_TAG,
    RECOMPOSED_TAG,
    RUNGS_TAG,
    SETTLED_TAG,
    SWEEP_TAG,
    TRAINED_TAG,
    TRAJECTORY_TAG,
    VERSION_TAG,
    jobs_tag,
    member_tag,
    rungs_as_text,
    search_tag,
    space_tag,
)
from sweepstack.trial import DEFAULT_PROGRAM, TrialState

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, RunTag


def milliseconds(seconds: float) -> int:
    """Converts seconds to whole milliseconds, MLflow's unit of time."""
    return int(seconds * 1000)


def axis_of(event: Measured) -> int:
    """Returns the step of a metric in MLflow: the epoch, or the iteration if the trial is measured by iterations."""
    by_epoch = event.trial.config.evaluate_every == "epoch"
    return event.measurement.epoch if by_epoch else event.measurement.step


def metrics_at_end(event: Ended) -> list[tuple[str, float]]:
    """Returns the metrics that no measurement contains: those of the test, and times."""
    selecting = event.trial.config.objective.split("/")[0]
    along_the_way = ("train/", f"{selecting}/")
    return [(key, value) for key, value in event.outcome.metrics.items() if not key.startswith(along_the_way)]


def end_tags(event: Ended) -> list[RunTag]:
    """Returns the tags of a trial's end. An empty reason is one of them: it replaces that of an earlier end."""
    from mlflow.entities import RunTag

    outcome, trial = event.outcome, event.trial
    tags = {
        REASON_TAG: outcome.reason,
        TRAINED_TAG: event.trained,
        RECOMPOSED_TAG: event.recomposed,
        SETTLED_TAG: trial.fingerprint if outcome.settled else "",
        PRUNED_TAG: outcome.reason if outcome.state is TrialState.PRUNED else "",
        RUNGS_TAG: rungs_as_text(outcome.rungs),
        TRAJECTORY_TAG: event.trajectory,
    }
    return [RunTag(key, as_value(text)) for key, text in tags.items() if text or key == REASON_TAG]


def tags_of_sweep(event: Event) -> dict[str, str]:
    """Returns the tags by which a trial belongs to a sweep; none without a sweep."""
    sweep = event.trial.sweep
    if sweep is None:
        return {}
    name = as_value(sweep)  # earlier versions accepted any text as a name
    search = event.trial.run.search.name
    chosen: dict[str, str] = {search_tag(sweep): search} if search != "grid" else {}
    if 0 < len(event.trial.space) <= LONGEST_TAG:
        chosen[space_tag(sweep)] = event.trial.space
    jobs = f"{event.trial.number} {event.trial.jobs}"
    return {SWEEP_TAG: name, member_tag(sweep): f"{milliseconds(event.at)} {name}", jobs_tag(sweep): jobs, **chosen}


def tags_of(first: Event) -> dict[str, str]:
    """Returns the tags of a new run, from the first event of its trial."""
    trial = first.trial
    return {
        **environment(),
        "mlflow.source.name": as_value(" ".join(trial.program)),
        "mlflow.source.type": "LOCAL",
        ID_TAG: trial.id,
        FINGERPRINT_TAG: trial.fingerprint,
        LOG_TAG: as_value(str(trial.log)),
        **{key: as_value(text) for key, text in tags_of_task(trial.config).items()},
        **({ASKED_TAG: trial.asked} if trial.asked else {}),
        **({PROGRAM_TAG: json.dumps(trial.program)} if trial.program != DEFAULT_PROGRAM else {}),
        **tags_of_sweep(first),
    }


@functools.cache
def environment() -> dict[str, str]:
    """Returns the tags for the user, the git commit, and the versions that the metrics depend on."""
    tags = {
        VERSION_TAG: importlib.metadata.version("sweepstack"),
        "versions.python": platform.python_version(),
    }
    for package in ("torch", "hydra-core", "mlflow"):
        tags[f"versions.{package}"] = importlib.metadata.version(package)
    with contextlib.suppress(KeyError, OSError):  # a container may run as a user without a name
        tags["mlflow.user"] = getpass.getuser()
    git = ["git", "-C", str(project_root())]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=False)
    if commit.returncode == 0:
        tags["mlflow.source.git.commit"] = commit.stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, encoding="utf-8", check=False)
        tags["git.uncommitted_changes"] = str(bool(changed.stdout.strip())).lower()
    return tags


def dataset_of(event: Started) -> DatasetInput:
    """Returns what a trial is trained on, as MLflow's input of a run."""
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
            schema=json.dumps(config.model_dump(include={"shape", "classes", "outputs"}, exclude_none=True)),
            profile=json.dumps(counts),
        ),
        [InputTag("mlflow.data.context", "training")],
    )
