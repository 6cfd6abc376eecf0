"""Which fingerprints a store knows the outcome of, so that nobody trains them again.

An sqlite store is asked directly: that takes milliseconds, MLflow's import seconds. The tables have been the same since
MLflow 1; should they ever change, MLflow itself is asked, as it is about every other kind of store.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.journal.entries import batches
from sweepstack.tracking.artifacts import local_folder
from sweepstack.tracking.private import tricks
from sweepstack.tracking.rows import REASON_TAG, SETTLED_TAG, finite_or_not
from sweepstack.tracking.store import Store
from sweepstack.trial import Finished, Outcome, TrialState


class StoreLookup(NamedTuple):
    """What a store knows of some fingerprints."""

    finished: dict[str, Finished]
    changed: dict[str, str]
    """Of those which it does not know: why not, in words, where it knows the same config with other data or code."""


@dataclass
class _Found:
    fingerprint: Fingerprint
    run_id: str
    status: str
    artifact_uri: str
    started: int
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


def lookup(store: Store, fingerprints: Sequence[str], ask: Callable[[Sequence[str]], StoreLookup]) -> StoreLookup:
    """What a store knows of fingerprints.

    Args:
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
    if not tricks():
        return ask(fingerprints)
    try:
        address = f"{store.database.as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=30)) as database:
            return _sort_out(fingerprints, _settled_runs(database, fingerprints))
    except sqlite3.Error:
        return ask(fingerprints)


def lookup_on_server(store: Store, fingerprints: Sequence[str]) -> StoreLookup:
    """The same through MLflow.

    Raises:
        Exception: whatever MLflow raises.
    """
    found = [
        _Found(
            fingerprint,
            run.info.run_id,
            run.info.status,
            run.info.artifact_uri,
            run.info.start_time,
            run.data.tags.get(REASON_TAG, ""),
            dict(run.data.metrics),
        )
        for run in store.runs(f"tags.`{SETTLED_TAG}` LIKE '%'")
        if run.info.status in (TrialState.FINISHED, TrialState.FAILED)
        and (fingerprint := _parse_fingerprint(run.data.tags[SETTLED_TAG])) is not None
    ]
    return _sort_out(fingerprints, found)


def _settled_runs(database: sqlite3.Connection, fingerprints: Sequence[str]) -> list[_Found]:
    """The settled runs with the configs of those fingerprints."""
    found: dict[str, _Found] = {}
    for part in batches(sorted({Fingerprint.parse(text).config for text in fingerprints})):
        rows = database.execute(
            "SELECT tags.value, runs.run_uuid, runs.status, runs.artifact_uri, runs.start_time FROM tags "
            "JOIN runs USING (run_uuid) WHERE tags.key = ? AND runs.lifecycle_stage = 'active' "
            "AND runs.status IN ('FINISHED', 'FAILED') "
            f"AND substr(tags.value, 1, 20) IN ({','.join('?' * len(part))})",
            (SETTLED_TAG, *part),
        )
        for text, *rest in rows:
            fingerprint = _parse_fingerprint(text)
            if fingerprint is not None:
                one = _Found(fingerprint, *rest)
                found[one.run_id] = one
    for part in batches(list(found)):
        marks = ",".join("?" * len(part))
        metrics = database.execute(
            f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN ({marks})", part
        )
        for run_id, key, value, is_nan in metrics:
            found[run_id].metrics[key] = math.nan if is_nan else value
        reasons = database.execute(
            f"SELECT run_uuid, value FROM tags WHERE key = ? AND run_uuid IN ({marks})", (REASON_TAG, *part)
        )
        for run_id, reason in reasons:
            found[run_id].reason = reason
    return list(found.values())


def _parse_fingerprint(text: str) -> Fingerprint | None:
    """None for what somebody else has written into the tag."""
    with contextlib.suppress(ValueError):
        return Fingerprint.parse(text)
    return None


def _sort_out(fingerprints: Iterable[str], found: Iterable[_Found]) -> StoreLookup:
    same_config: defaultdict[str, list[_Found]] = defaultdict(list)
    for one in found:
        same_config[one.fingerprint.config].append(one)
    finished, changed = {}, {}
    for text in fingerprints:
        wanted = Fingerprint.parse(text)
        alike = sorted(same_config[wanted.config], key=lambda one: one.started)
        exact = [one for one in alike if one.fingerprint == wanted]
        if exact:
            finished[text] = _finished(exact[-1])
        elif alike:
            changed[text] = wanted.change_since(alike[-1].fingerprint)
    return StoreLookup(finished, changed)


def _finished(one: _Found) -> Finished:
    metrics = {key: finite_or_not(value) for key, value in one.metrics.items()}
    diverged = one.status != TrialState.FINISHED
    outcome = Outcome(TrialState(one.status), metrics, one.reason, diverged=diverged)
    return Finished(one.run_id, outcome, local_folder(one.artifact_uri))
