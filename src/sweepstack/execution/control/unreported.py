"""What has become of a sweep whose jobs another launcher trains, each as a command of its own, after an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sweepstack.execution.control.status import find_status
from sweepstack.execution.session import peek
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.unfinished import rows_of_sweep
from sweepstack.planning.classify import Reuse
from sweepstack.planning.plan import unique
from sweepstack.tracking.store import Store
from sweepstack.trial import Trial

POLL_SECONDS = 0.5
"""Seconds between two looks at which commands train."""


def wait_for_unreported(
    trials: Sequence[Trial], sweep: str, store: Store, ledger: Ledger, patience: float, say: Callable[[str], None]
) -> list[Trial]:
    """Waits for the jobs of a sweep that still train or begin; returns the trials that have not ended then.

    Args:
        trials: all trials of the sweep, with their fingerprints; empty if they are not known. Then only those can be
            found that have begun.
        sweep: the name of the sweep.
        store: where they are recorded.
        ledger: its ledger.
        patience: the longest time in seconds to wait for a job to claim its trial.
        say: takes a line for the user, once.
    """
    seen, announced = time.monotonic(), False
    while True:
        if running := find_status(ledger, sweep).running:
            seen = time.monotonic()
            if not announced:
                announced = True
                say(f"Waiting for the other jobs of the sweep; {len(running)} of them train.")
        else:
            found = _unreported(trials, store, ledger) if trials else []
            begun = [row.trial for row in rows_of_sweep(ledger, sweep) if row.outcome is None]
            may_begin = not trials or {one.fingerprint for one in found} - {one.fingerprint for one in begun}
            if not may_begin or time.monotonic() - seen >= patience:
                return found if trials else begun
        time.sleep(POLL_SECONDS)


def _unreported(trials: Sequence[Trial], store: Store, ledger: Ledger) -> list[Trial]:
    """Returns the trials of a sweep that have neither ended in it nor been settled before."""
    wanted = unique(trials)
    known = ledger.peek(wanted).entries
    found = []
    for trial, decision in zip(wanted, peek(wanted, store, wanted[0].run.rerun).decisions, strict=True):
        entry = known.get(trial.fingerprint)
        has_ended = entry is not None and entry.outcome is not None and entry.trial.sweep == trial.sweep
        if not has_ended and not isinstance(decision, Reuse):
            found.append(trial)
    return found
