"""Finds the store and the ledger that a command records to, and says what is not delivered yet."""

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
"""The longest time that a command waits until the writer's process has loaded MLflow, in seconds."""
RECORDS_WAIT = "Records are kept in the journal; the next sweep delivers them, or type: "
"""What a user reads about records that are not delivered; a command follows."""


def ledger_of(store: Store, chosen: str | None) -> Ledger:
    """Returns the ledger of a store.

    Args:
        store: the store.
        chosen: the journal's folder, if the config names one.

    Raises:
        StoreError: something that is not a regular file is in its place.
    """
    ledger = Ledger(journal_folder(store.uri, chosen))
    remedy = "move it away, or choose another folder with tracking.journal=DIR"
    check_replaceable(ledger.file, "the journal's ledger", remedy, StoreError)
    return ledger


def usable_store(tracking: TrackingConfig, task: str) -> Store:
    """Returns the store that a config names, after checking it before anything heavy is loaded.

    It starts the writer's process, which begins to load MLflow; that takes about as long as loading PyTorch.

    Args:
        tracking: the section of the config.
        task: the name of the Hydra task.

    Raises:
        StoreError: the store or its experiment cannot be used.
    """
    store = Store(tracking.uri)
    warning = store.check()
    check_not_deleted(experiment_name(tracking.experiment, task, store.database), store.database)
    for line in (warning, store.follow_move()):
        if line:
            print(line, file=sys.stderr)
    writer_process(store.uri)
    return store


def wait_for_quiet(store: Store) -> None:
    """Waits until the writer's process has loaded MLflow, because that would disturb a measurement of time."""
    writer_process(store.uri).wait_loaded(LONGEST_WAIT)


_closed: list[tuple[Ledger, int, str | None, str]] = []
"""The ended sessions of this process: ledger, number, why the records are not delivered, address of the store."""


def note_closed(ledger: Ledger, session: int, complaint: str | None, uri: str) -> None:
    """Notes that a session of this process has ended.

    Args:
        ledger: its ledger.
        session: its number.
        complaint: why its records are not delivered; None if they are.
        uri: the address of its store.
    """
    _closed.append((ledger, session, complaint, uri))


def undelivered(store: Store | None = None, journal: str | None = None) -> str | None:
    """Says if records of this process wait in the journal because the store has not received them.

    It asks the ledger, so the answer is right at the moment of the call, whichever process has delivered.

    Args:
        store: include all sessions of this store that have ended or died, whichever process trained them.
        journal: the folder of that store's journal, if the config names one.

    Returns:
        A line for the user; None if everything is in the store.
    """
    for ledger, number, complaint, uri in reversed(_closed):
        with contextlib.suppress(StoreError):  # a ledger that cannot be read does not prove the delivery
            if not ledger.is_undelivered(number):
                continue
        return complaint or f"{RECORDS_WAIT}{sweepstack_command('sync', uri, ledger.folder)}"
    if store is not None:
        try:
            waiting = ledger_of(store, journal).undelivered_sessions()
            return f"{RECORDS_WAIT}{sweepstack_command('sync', store.uri, journal)}" if waiting else None
        except StoreError as error:
            return str(error)
    return None
