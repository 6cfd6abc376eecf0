"""Where the events of trials go: to the terminal and, through one writer, to MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from sweepstack.sweeping.progress import Display
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer import Writer
from sweepstack.trial import Event, Trial


def usable_store(trials: Sequence[Trial]) -> Store:
    """The store that the trials' config names.

    Raises:
        StoreError: it cannot be used; better to know it before anything heavy begins.
    """
    store = Store(trials[0].config.tracking.uri)
    store.check()
    return store


@contextlib.contextmanager
def recording(trials: Sequence[Trial], store: Store, task: str) -> Iterator[Callable[[Event], None]]:
    """Takes the events of trials until all of them are recorded.

    Args:
        task: name of the Hydra task, and of the experiment unless the config names another.

    Raises:
        StoreError: the store did not take all records.
    """
    tracking = trials[0].config.tracking
    with Display(trials) as display, Writer(store, tracking.experiment or task, display.say) as writer:

        def emit(event: Event) -> None:
            writer.put(event)
            display.show(event)

        yield emit
