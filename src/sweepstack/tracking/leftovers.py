"""Finishes or removes what killed commands have left in the store and beside it, except trials."""

from __future__ import annotations

from sweepstack.files.scratch import remove_leftovers
from sweepstack.tracking.address import has_content
from sweepstack.tracking.models import finish_models
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import finish_summaries


def finish_leftovers(store: Store) -> None:
    """Ends summary runs that are RUNNING, removes models that were not registered, and temporary folders.

    Raises:
        Exception: whatever MLflow raises.
    """
    remove_leftovers()
    if store.database is None or has_content(store.database):
        finish_summaries(store)
        finish_models(store)
