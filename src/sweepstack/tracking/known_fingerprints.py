"""Finds the fingerprints whose outcome a store knows, so that they are not trained again.

It queries an sqlite database directly, in milliseconds. If that fails, or the store is of another kind, it asks MLflow.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sweepstack.config.identity import Fingerprint
from sweepstack.tracking.artifacts import local_folder
from sweepstack.tracking.private.tables import SettledRun, settled_runs
from sweepstack.tracking.runs_as_rows import REASON_TAG, RUNGS_TAG, SETTLED_TAG, finite_or_not, rungs_from_text
from sweepstack.tracking.store import Store
from sweepstack.trial import Finished, Outcome, TrialState


class StoreLookup(NamedTuple):
    """What a store knows about some fingerprints."""

    finished: dict[str, Finished]
    changed: dict[str, str]
    """What has changed, in words, for fingerprints whose config the store knows with other data or code only."""


def lookup(store: Store, fingerprints: Sequence[str], ask: Callable[[Sequence[str]], StoreLookup]) -> StoreLookup:
    """Returns what a store knows about fingerprints.

    Args:
        store: the store.
        fingerprints: the fingerprints to look up.
        ask: asks MLflow, see `lookup_on_server`.

    Raises:
        StoreError: whatever `ask` raises.
    """
    if not fingerprints:
        return StoreLookup({}, {})
    if store.database is None:
        return ask(fingerprints)
    if not store.database.exists():
        return StoreLookup({}, {})
    found = settled_runs(store.database, [Fingerprint.parse(text).config for text in fingerprints])
    return ask(fingerprints) if found is None else _sort_out(fingerprints, found)


def lookup_on_server(store: Store, fingerprints: Sequence[str]) -> StoreLookup:
    """Returns what a store knows about fingerprints, through MLflow.

    Raises:
        Exception: whatever MLflow raises.
    """
    found = [
        SettledRun(
            run.data.tags[SETTLED_TAG],
            run.info.run_id,
            run.info.status,
            run.info.artifact_uri,
            run.info.start_time,
            run.data.tags.get(REASON_TAG, ""),
            run.data.tags.get(RUNGS_TAG, ""),
            dict(run.data.metrics),
        )
        for run in store.runs(f"tags.`{SETTLED_TAG}` LIKE '%'")
        if run.info.status in (TrialState.FINISHED, TrialState.FAILED)
    ]
    return _sort_out(fingerprints, found)


def _sort_out(fingerprints: Iterable[str], found: Iterable[SettledRun]) -> StoreLookup:
    same_config: defaultdict[str, list[tuple[Fingerprint, SettledRun]]] = defaultdict(list)
    for run in sorted(found, key=lambda run: run.started):
        with contextlib.suppress(ValueError):  # a user has changed the tag
            fingerprint = Fingerprint.parse(run.fingerprint)
            same_config[fingerprint.config].append((fingerprint, run))
    finished, changed = {}, {}
    for text in fingerprints:
        wanted = Fingerprint.parse(text)
        alike = same_config[wanted.config]
        exact = [run for fingerprint, run in alike if fingerprint == wanted]
        if exact:
            finished[text] = _finished(exact[-1])
        elif alike:
            changed[text] = wanted.change_since(alike[-1][0])
    return StoreLookup(finished, changed)


def _finished(run: SettledRun) -> Finished:
    metrics = {key: finite_or_not(value) for key, value in run.metrics.items()}
    diverged = run.status != TrialState.FINISHED
    rungs = rungs_from_text(run.rungs)
    outcome = Outcome(TrialState(run.status), metrics, run.reason, diverged=diverged, rungs=rungs)
    return Finished(run.run_id, outcome, local_folder(run.artifact_uri))
