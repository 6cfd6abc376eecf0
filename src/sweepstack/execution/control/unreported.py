"""What has become of a sweep whose jobs another launcher trains, each as a command of its own, after an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sweepstack.execution.control.status import find_status
from sweepstack.execution.session import peek
from sweepstack.journal.ledger import Ledger
from sweepstack.planning.classify import Reuse
from sweepstack.planning.plan import unique
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.delivery import deliver_what_is_left
from sweepstack.trial import Trial

POLL_SECONDS = 0.5
"""Seconds between two looks at which commands train."""


def wait_until_none_trains(ledger: Ledger, sweep: str, patience: float, say: Callable[[str], None]) -> None:
    """Waits until no command trains a trial of a sweep any more.

    Args:
        ledger: the ledger of the store.
        sweep: the name of the sweep.
        patience: seconds without such a command after which none is expected: a process needs some to begin.
        say: takes a line for the user, once.
    """
    seen, announced = time.monotonic(), False
    while True:
        if running := find_status(ledger, sweep).running:
            seen = time.monotonic()
            if not announced:
                announced = True
                say(f"Waiting for other jobs of the sweep, {len(running)} of which train now.")
        elif time.monotonic() - seen >= patience:
            return
        time.sleep(POLL_SECONDS)


def deliver(store: Store, ledger: Ledger) -> None:
    """Delivers what killed commands have left in the journal; what the store refuses, stays there."""
    deliver_what_is_left(store, ledger)


def find_unreported(trials: Sequence[Trial], store: Store, ledger: Ledger) -> list[Trial]:
    """Returns the trials of a sweep that have neither ended in it nor been settled before.

    Args:
        trials: all trials of the sweep, with their fingerprints.
        store: where they are recorded.
        ledger: its ledger.
    """
    wanted = unique(trials)
    known = ledger.peek(wanted).entries
    found = []
    for trial, decision in zip(wanted, peek(wanted, store, rerun=False).decisions, strict=True):
        entry = known.get(trial.fingerprint)
        has_ended = entry is not None and entry.outcome is not None and entry.trial.sweep == trial.sweep
        if not has_ended and not isinstance(decision, Reuse):
            found.append(trial)
    return found
