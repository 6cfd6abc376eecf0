"""Where the events of trials go: to the terminal and, through a process that writes, to MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from sweepstack.sweeping.progress import Display
from sweepstack.tracking.process import writer_process
from sweepstack.tracking.store import Store
from sweepstack.trial import Event, Trial

LONGEST_WAIT = 5.0  # seconds


def usable_store(trials: Sequence[Trial]) -> Store:
    """The store that the trials' config names. The process that writes to it begins to load MLflow, which takes about
    as long as loading PyTorch.

    Raises:
        StoreError: it cannot be used; better to know it before anything heavy begins.
    """
    store = Store(trials[0].config.tracking.uri)
    store.check()
    writer_process(store.uri)
    return store


def wait_for_quiet(store: Store) -> None:
    """Waits until the process beside has loaded MLflow: what is timed before that comes out wrong."""
    writer_process(store.uri).wait_loaded(LONGEST_WAIT)


@contextlib.contextmanager
def recording(trials: Sequence[Trial], store: Store, task: str) -> Iterator[Callable[[Event], None]]:
    """Takes the events of trials until all of them are recorded.

    Args:
        task: name of the Hydra task, and of the experiment unless the config names another.

    Raises:
        StoreError: the store did not take all records.
    """
    experiment = trials[0].config.tracking.experiment or task
    with Display(trials) as display, writer_process(store.uri).recording(experiment, display.say) as put:

        def emit(event: Event) -> None:
            put(event)
            with contextlib.suppress(SystemExit):  # rich's answer to a reader that is gone: `| head`; training goes on
                display.show(event)

        yield emit
