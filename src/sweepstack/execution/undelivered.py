"""Says which records of this process, or of a store, wait in the journal."""

from __future__ import annotations

import contextlib

from sweepstack.errors import StoreError
from sweepstack.execution.open_store import ledger_of
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.address import sweepstack_command
from sweepstack.tracking.store import Store

RECORDS_WAIT = "Records are kept in the journal; the next sweep delivers them, or type: "
"""What a user reads about records that are not delivered; a command follows."""
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
