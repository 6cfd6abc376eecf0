"""Deletes a sweep: what the ledger has of it, then its runs, so that a deletion that is broken off can be repeated."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from sweepstack.child_process import is_running
from sweepstack.config.names import RESERVED_NAMES
from sweepstack.errors import StoreError, UserError, did_you_mean, one_line
from sweepstack.execution.engines.channel import EVENTS, worker_of
from sweepstack.files.owner_only import FILE
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.removal import Doomed, Left, find_left, remove_left, unclaimed
from sweepstack.journal.unneeded import STUDIES_FOLDER
from sweepstack.planning.known_trials import Entry
from sweepstack.tracking.deletion import (
    RunsOfSweep,
    check_deletable,
    delete_runs,
    leave_sweep,
    oldest,
    runs_of_sweep,
)
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.delivery import deliver_what_is_left, not_delivered

RUNS_AT_A_TIME = 100
"""Runs that are deleted while no session can begin: a server takes some seconds for them."""


@dataclass(frozen=True)
class Deletion:
    """What the deletion of a sweep deletes."""

    runs: RunsOfSweep
    left: Left
    studies: tuple[Path, ...] = ()
    """The files of the studies behind its search. A study has no sweep, but these have no results of other ones."""


def find_deletion(store: Store, ledger: Ledger, sweep: str) -> Deletion:
    """Returns what the deletion of a sweep would delete, after all that waits in the journal is delivered.

    Args:
        store: the store.
        ledger: its ledger.
        sweep: the name of the sweep.

    Raises:
        UserError: there is no such sweep.
        StoreError: it must not be deleted now.
    """
    _, refused = deliver_what_is_left(store, ledger)
    for error in refused:
        raise StoreError(not_delivered(0, store.uri, ledger.folder, one_line(error))) from error
    runs = runs_of_sweep(store, sweep)
    left = find_left(ledger, _doomed(runs))
    if not (runs.exists or left.rows):
        remedy = did_you_mean(sweep, runs.sweeps)
        if sweep in RESERVED_NAMES:
            raise UserError("a sweep to delete must be named by its own name", sweep, remedy)
        raise UserError(f"there is no sweep {sweep!r} in {store.uri}", remedy=remedy)
    check_deletable(store, runs)
    _check_workers(ledger, left.rows)
    return Deletion(runs, left, _studies(ledger, runs.samplers - runs.other_samplers - left.samplers))


def delete(store: Store, ledger: Ledger, sweep: str) -> Deletion:
    """Deletes a sweep as it is now; returns what was deleted.

    Args:
        store: the store.
        ledger: its ledger.
        sweep: the name of the sweep.

    Raises:
        UserError: there is no such sweep.
        StoreError: it must not be deleted now; or the store does not answer any more. A repetition deletes the rest.
    """
    found = find_deletion(store, ledger, sweep)
    doomed = _doomed(found.runs)
    left = remove_left(ledger, doomed)
    studies = tuple(file for file in found.studies if _delete_study(file))
    deleted: set[str] = set()
    ids = [*doomed.runs]
    for begin in range(0, len(ids), RUNS_AT_A_TIME):
        with unclaimed(ledger, doomed):
            deleted |= {*delete_runs(store, sweep, ids[begin : begin + RUNS_AT_A_TIME])}
    shared = runs_of_sweep(store, sweep).shared  # another sweep may have joined some meanwhile
    leave_sweep(store, sweep, shared)
    summaries = tuple(delete_runs(store, sweep, found.runs.summaries))
    own = tuple(run for run in found.runs.own if run.id in deleted)
    return Deletion(replace(found.runs, own=own, shared=shared, summaries=summaries), left, studies)


def _studies(ledger: Ledger, samplers: Iterable[str]) -> tuple[Path, ...]:
    """Returns the files of all studies of some samplers."""
    folder = ledger.folder / STUDIES_FOLDER
    names = sorted(name for name in samplers if name.isalnum())  # a user can change tags
    return tuple(file for sampler in names for file in sorted(folder.glob(f"{sampler}-*.jsonl")))


def _delete_study(file: Path) -> bool:
    """Deletes a study, unless a command searches with it."""
    with contextlib.suppress(Timeout, OSError), FileLock(file.with_suffix(".lock"), mode=FILE).acquire(timeout=0):
        file.unlink()
        return True
    return False


def _doomed(runs: RunsOfSweep) -> Doomed:
    return Doomed(
        runs.sweep,
        {run.id: run.fingerprint for run in runs.own},
        frozenset(run.trial for run in runs.own if run.trial),
        {run.trial: oldest(run.others) for run in runs.shared if run.trial},
    )


def _check_workers(ledger: Ledger, rows: Sequence[Entry]) -> None:
    """Checks that no worker trains on without its command.

    Raises:
        StoreError: one does, or may do so.
    """
    for stack, row in {row.stack: row for row in rows if row.stack is not None}.items():
        folder = ledger.work(stack)
        worker = worker_of(folder)
        if worker is not None and _may_live(worker.get("host"), worker.get("pid"), folder, row):
            who = f"process {worker.get('pid')} on {worker.get('host')}"
            rule = f"sweep {row.trial.sweep!r} must not be deleted while a worker trains it, as {who} may"
            raise StoreError(rule, remedy="end it with sweepstack stop, or wait a minute")


def _may_live(host: object, pid: object, folder: Path, row: Entry) -> bool:
    """True if a worker has given a sign of life within its lease, and has not ended on this machine since."""
    if host == socket.gethostname() and isinstance(pid, int) and not is_running(pid):
        return False
    with contextlib.suppress(OSError):
        return time.time() - (folder / EVENTS).stat().st_mtime < row.trial.run.engine.lease
    return False
