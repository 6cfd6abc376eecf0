"""Where the records of a command go: the store that it may use, its ledger, and what is not delivered yet."""

from __future__ import annotations

import contextlib
import sys

from sweepstack.config.schema import TrackingConfig
from sweepstack.errors import StoreError
from sweepstack.files.replacing import check_replaceable
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.address import journal_folder, sweepstack_command
from sweepstack.tracking.experiments import check_not_deleted, experiment_name
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process

LONGEST_WAIT = 5.0
"""Seconds."""
RECORDS_WAIT = "Records are kept in the journal; the next sweep delivers them, or type: "


def ledger_of(store: Store, chosen: str | None) -> Ledger:
    """The ledger that belongs to a store.

    Raises:
        StoreError: there is something in its place that is no regular file.
    """
    ledger = Ledger(journal_folder(store.uri, chosen))
    remedy = "move it away, or choose another folder with tracking.journal=DIR"
    check_replaceable(ledger.file, "the journal's ledger", remedy, StoreError)
    return ledger


def usable_store(tracking: TrackingConfig, task: str) -> Store:
    """The store that a config names. The process that writes to it begins to load MLflow, which takes about
    as long as loading PyTorch.

    Args:
        task: name of the Hydra task.

    Raises:
        StoreError: it cannot be used, or its experiment cannot; better to know it before anything heavy begins.
    """
    store = Store(tracking.uri)
    trouble = store.check()
    check_not_deleted(experiment_name(tracking.experiment, task, store.database), store.database)
    for line in (trouble, store.follow_move()):
        if line:
            print(line, file=sys.stderr)
    writer_process(store.uri)
    return store


def wait_for_quiet(store: Store) -> None:
    """Waits until the process beside has loaded MLflow: what is timed before that comes out wrong."""
    writer_process(store.uri).wait_loaded(LONGEST_WAIT)


_closed: list[tuple[Ledger, int, str | None, str]] = []
"""Sessions of this process that are over, and what was said of their records at the end."""


def note_closed(ledger: Ledger, session: int, complaint: str | None, uri: str) -> None:
    """Notes that a session of this process is over.

    Args:
        complaint: why its records are not delivered, if they are not.
        uri: of its store.
    """
    _closed.append((ledger, session, complaint, uri))


def undelivered(store: Store | None = None, journal: str | None = None) -> str | None:
    """What this process has recorded and the store has not received: it waits in the journal. The ledger is asked, so
    the answer is true at the moment of the call, however the delivery ended and whoever delivered.

    Args:
        store: ask for all sessions of this store, too, whatever process trained them, except those that live.
        journal: folder of that store's journal, if the config names one.

    Returns:
        A line for the user; None when everything is in the store.
    """
    for ledger, number, complaint, uri in reversed(_closed):
        with contextlib.suppress(StoreError):  # a ledger that cannot be read is no proof of delivery
            if not ledger.is_undelivered(number):
                continue
        return complaint or f"{RECORDS_WAIT}{sweepstack_command('sync', uri, ledger.folder)}"
    if store is not None:
        try:
            left = ledger_of(store, journal).undelivered_sessions()
            return f"{RECORDS_WAIT}{sweepstack_command('sync', store.uri, journal)}" if left else None
        except StoreError as error:
            return str(error)
    return None
