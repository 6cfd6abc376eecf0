"""Deletes the runs of a sweep, so that MLflow can still restore them; runs that others have stay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sweepstack.errors import StoreError, one_line
from sweepstack.tracking.address import has_content
from sweepstack.tracking.runs_as_rows import (
    FINGERPRINT_TAG,
    ID_TAG,
    OWN_RUNS,
    SEARCH_TAGS,
    SWEEP_TAG,
    jobs_tag,
    member_tag,
    search_tag,
    space_tag,
    state_of,
    sweeps_of,
)
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import SUMMARY_TAG

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from sweepstack.tracking.private.run_tables import StoredRun

MOST_MODELS = 5
"""The most versions of models that an error names."""


@dataclass(frozen=True)
class RunOfSweep:
    """A run of a sweep."""

    id: str
    trial: str
    """The id of its trial; empty in runs of earlier versions."""
    fingerprint: str
    """Empty if there is none."""
    state: str
    others: Mapping[str, int]
    """The other sweeps that have it, each with the time at which it joined them."""
    tags: Mapping[str, str]

    @property
    def is_shared(self) -> bool:
        """True if other sweeps have it, or a single run has trained it."""
        return bool(self.others) or SWEEP_TAG not in self.tags


@dataclass(frozen=True)
class RunsOfSweep:
    """The runs of a sweep."""

    sweep: str
    own: tuple[RunOfSweep, ...] = ()
    """Those that nobody else has."""
    shared: tuple[RunOfSweep, ...] = ()
    """Those that others have, too; see `RunOfSweep.is_shared`."""
    summaries: tuple[str, ...] = ()
    """The ids of its summary runs, which hold its report."""
    samplers: frozenset[str] = frozenset()
    """The samplers that chose the settings of its own runs; empty unless it was a search."""
    other_samplers: frozenset[str] = frozenset()
    """The samplers that chose those of all other runs of the store."""
    sweeps: frozenset[str] = field(default=frozenset(), compare=False)
    """The names of all sweeps of the store."""

    @property
    def exists(self) -> bool:
        return bool(self.own or self.shared or self.summaries)


def runs_of_sweep(store: Store, sweep: str) -> RunsOfSweep:
    """Returns the runs of a sweep; none if the store has no such sweep.

    Raises:
        StoreError: the store cannot be read.
    """
    if store.database is not None and not has_content(store.database):
        return RunsOfSweep(sweep)
    with _errors_of_store(store):
        runs = store.runs(OWN_RUNS)
        summaries = store.runs(f"tags.`{SUMMARY_TAG}` LIKE '%'")
    found = [_run_of_sweep(run, sweep) for run in runs if sweep in sweeps_of(run)]
    own = tuple(run for run in found if not run.is_shared)
    ids = {run.id for run in own}
    return RunsOfSweep(
        sweep,
        own,
        tuple(run for run in found if run.is_shared),
        tuple(run.info.run_id for run in summaries if run.data.tags[SUMMARY_TAG] == sweep),
        frozenset(name for run in own for name in _samplers(run.tags)),
        frozenset(name for run in runs if run.info.run_id not in ids for name in _samplers(run.data.tags)),
        frozenset(name for run in runs for name in sweeps_of(run)),
    )


def _run_of_sweep(run: StoredRun, sweep: str) -> RunOfSweep:
    tags = run.data.tags
    others = {name: at for name, at in sweeps_of(run).items() if name != sweep}
    return RunOfSweep(run.info.run_id, tags.get(ID_TAG, ""), tags.get(FINGERPRINT_TAG, ""), state_of(run), others, tags)


def _samplers(tags: Mapping[str, str]) -> set[str]:
    return {value for key, value in tags.items() if key.startswith(SEARCH_TAGS)}


def check_deletable(store: Store, runs: RunsOfSweep) -> None:
    """Checks that nobody needs the runs that are to be deleted.

    Raises:
        StoreError: a run is RUNNING, or a registered model is one of its.
    """
    running = [run for run in runs.own if run.state == "RUNNING"]
    if running:
        rule = (
            f"sweep {runs.sweep!r} must not be deleted while it trains, and {len(running)} of its runs "
            f"{'is' if len(running) == 1 else 'are'} RUNNING without a command of this journal"
        )
        remedy = "end the command where it was typed; if it was killed, type there: sweepstack sync"
        raise StoreError(rule, remedy=remedy)
    ids = {run.id for run in runs.own}
    models = [f"{one.name} (version {one.version})" for one in _versions(store) if one.run_id in ids]
    if models:
        more = f" and {len(models) - MOST_MODELS} more" if len(models) > MOST_MODELS else ""
        named = ", ".join(models[:MOST_MODELS]) + more
        rule = f"sweep {runs.sweep!r} must not be deleted while models of it are registered, as {named}"
        remedy = "delete them first, in the UI (sweepstack ui) or by MlflowClient.delete_model_version"
        raise StoreError(rule, remedy=remedy)


def _versions(store: Store) -> Sequence[ModelVersion]:
    """Returns the versions of all registered models, also of those that others have registered."""
    found: list[ModelVersion] = []
    token: str | None = ""
    with _errors_of_store(store):
        while token is not None:
            page = store.client.search_model_versions(page_token=token or None)
            found += page
            token = page.token or None
    return found


def delete_runs(store: Store, sweep: str, ids: Sequence[str]) -> list[str]:
    """Deletes runs that no other sweep has joined meanwhile. MLflow marks them as deleted, and `mlflow gc` ends them.

    Args:
        store: the store that has the runs.
        sweep: the name of their sweep.
        ids: the ids of the runs.

    Returns:
        The ids of those that were deleted.

    Raises:
        StoreError: the store refuses that.
    """
    deleted = []
    with _errors_of_store(store), store.transaction():
        for run_id in ids:
            run = store.client.get_run(run_id)
            if run.info.lifecycle_stage == "active" and not sweeps_of(run).keys() - {sweep}:
                store.client.delete_run(run_id)
                deleted.append(run_id)
    return deleted


def leave_sweep(store: Store, sweep: str, runs: Sequence[RunOfSweep]) -> None:
    """Takes runs that others have out of a sweep. If it has trained them, the oldest of the others stands for it.

    Args:
        store: the store that has the runs.
        sweep: the name of the sweep.
        runs: the runs.

    Raises:
        StoreError: the store refuses that.
    """
    with _errors_of_store(store), store.transaction():
        for run in runs:
            if run.tags.get(SWEEP_TAG) == sweep:
                store.client.set_tag(run.id, SWEEP_TAG, oldest(run.others))
            if run.tags.get(member_tag(sweep), "").partition(" ")[2] == sweep:
                store.client.delete_tag(run.id, member_tag(sweep))
            for tag in {search_tag(sweep), space_tag(sweep), jobs_tag(sweep)} & run.tags.keys():
                store.client.delete_tag(run.id, tag)


def oldest(sweeps: Mapping[str, int]) -> str | None:
    """Returns the sweep that a run has joined first; None if there is none."""
    return min(sweeps, key=lambda name: (sweeps[name], name), default=None)


@contextlib.contextmanager
def _errors_of_store(store: Store) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # MLflow does not convert the errors of drivers, sockets and disks
        rule = f"{store.uri} must be usable to delete a sweep ({one_line(error)})"
        raise StoreError(rule, remedy="try again when it answers: what is left is deleted then") from error
