"""Finds and checks the store and the ledger that a command records to."""

from __future__ import annotations

import sys

from sweepstack.config.run_sections import TrackingConfig
from sweepstack.errors import StoreError
from sweepstack.files.replacing import check_replaceable
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.address import journal_folder
from sweepstack.tracking.experiments import check_not_deleted, experiment_name
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process

LONGEST_WAIT = 5.0
"""The longest time that a command waits until the writer's process has loaded MLflow, in seconds."""


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
