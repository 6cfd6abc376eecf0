"""The run of a sweep to use."""

from __future__ import annotations

import math

from sweepstack.errors import UserError
from sweepstack.tracking.rows import OBJECTIVES
from sweepstack.tracking.runs import Record, record
from sweepstack.tracking.store import Store
from sweepstack.trial import TrialState


def best(store: Store, sweep: str) -> Record:
    """The finished run of a sweep with the best objective: the accuracy on held-out data, or on test data where nothing
    was held out; of equals the first.

    Raises:
        StoreError: there is no such sweep.
        UserError: none of its runs has finished with an objective.
    """
    rows = [row for row in store.rows(sweep) if row.state == TrialState.FINISHED]
    for objective in OBJECTIVES:
        having = [row for row in rows if not math.isnan(row.metrics.get(objective, math.nan))]
        if having:
            return record(store, max(having, key=lambda row: row.metrics[objective]).run_id)
    raise UserError(
        f"no run of sweep {sweep!r} has finished, so there is no model to take; choose another with --sweep"
    )
