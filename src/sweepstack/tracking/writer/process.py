"""The process beside a training: it delivers journals to MLflow and answers questions about the store."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from filelock import Timeout

from sweepstack.child_process import is_orphan
from sweepstack.error_log import ErrorsLog
from sweepstack.errors import StoreError, one_line
from sweepstack.journal.sessions import Sessions
from sweepstack.tracking.address import sweepstack_command
from sweepstack.tracking.known_fingerprints import StoreLookup, lookup_on_server
from sweepstack.tracking.leftovers import finish_leftovers
from sweepstack.tracking.store import Store
from sweepstack.tracking.ui.views import link
from sweepstack.tracking.writer.client import Answer, Close, Closed, Find, Found, Loaded, Look, Message, Open, Refused
from sweepstack.tracking.writer.delivery import (
    Delivery,
    NotYetError,
    deliver_what_is_left,
    not_delivered,
)

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two deliveries; a delivery writes the events of this time in one batch."""
REST = 10
"""Duty cycle: after a delivery of t seconds, sleep REST * t, so that delivery uses at most 1/11 of a core. It does not
sleep so long once enough trials have ended to fill a transaction, because the table has to wait for the deliveries."""
LONGEST_PAUSE = 15.0
"""The most seconds between two attempts if a store does not accept records."""
ATTEMPTS = 3
"""Attempts of the last delivery, after the training."""
OTHERS = 30.0
"""Seconds that the last delivery waits for the deliveries of other processes."""
ALIVE = 1.0
"""Seconds between two checks that the parent lives: a fork of a dead parent can hold the pipe open."""
NOTHING_YET: Any = object()
"""Stands for the order if none has come yet."""


class _Child:
    """The work of the process: it executes the orders for one store until its input ends."""

    def __init__(self, orders: IO[bytes], answers: IO[bytes], parent: int) -> None:
        self._orders = orders
        self._answers = answers
        self._parent = parent
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._complained = False
        self._was_away = False
        threading.Thread(target=self._read, daemon=True).start()

    def work(self) -> None:
        store = Store(self._next(None))
        try:
            store.load()  # at the same time as the parent imports PyTorch
        except Exception as error:
            self._complain(store, error)
        self._answer(Loaded())
        while (order := self._next(None)) is not None:
            match order:
                case Open(folder, session):
                    self._answer(Closed(self._keep_up(store, Sessions(folder), session)))
                case Find(sweep):
                    self._answer(self._find(store, sweep))
                case Look(fingerprints):
                    self._answer(self._look(store, fingerprints))

    def _keep_up(self, store: Store, sessions: Sessions, session: int) -> str | None:
        """Delivers a session while it grows, and the rest of earlier ones; returns what could not be delivered."""
        delivery: Delivery | None = None
        order: Any = NOTHING_YET
        pause, attempts, deadline = INTERVAL, 0, math.inf
        due, accepts = time.monotonic() + INTERVAL, True
        with sessions.delivery_lock(session).acquire(timeout=LONGEST_PAUSE):
            while True:
                over = order is None or isinstance(order, Close)
                if not over:
                    order = self._next(min(INTERVAL, max(0.0, due - time.monotonic())))
                    over = order is None or isinstance(order, Close)
                elif deadline < math.inf:
                    time.sleep(INTERVAL)
                if isinstance(order, Look):
                    self._answer(self._look(store, order.fingerprints))
                    continue
                if not over and time.monotonic() < due and not (accepts and _has_many(delivery)):
                    continue
                began = time.monotonic()
                deadline = min(deadline, began + OTHERS) if over else deadline
                try:
                    _, refused = deliver_what_is_left(store, sessions, but=session)
                    delivery = delivery or Delivery(store, sessions, session)
                    if over and session in sessions.end_dead_sessions():
                        delivery.finish()
                        self._was_away = False
                        self._clear(store)
                        for error in refused:
                            self._complain(store, error)
                        break
                    delivery.deliver()
                    for error in refused:
                        raise error
                    pause, accepts = INTERVAL, True
                    due = time.monotonic() + max(INTERVAL, REST * (time.monotonic() - began))
                    if over:
                        break  # another process, such as a fork, holds the lock of the dead parent
                except Exception as error:  # training goes on after every error of a store
                    others = isinstance(error, NotYetError | Timeout)
                    if not others:
                        log.exception("delivery to %s failed", store.uri)
                        self._complain(store, error)
                        pause = min(2 * pause, LONGEST_PAUSE)
                    due, accepts = time.monotonic() + pause, False
                    attempts += over and not others
                    enough = attempts == (1 if self._was_away else ATTEMPTS) or time.monotonic() > deadline
                    if over and (enough or isinstance(error, StoreError)):
                        self._was_away = not others
                        waiting = delivery.waiting if delivery else 0
                        return not_delivered(waiting, store.uri, sessions.folder, one_line(error))
        Path(sessions.delivery_lock(session).lock_file).unlink(missing_ok=True)
        return None

    def _clear(self, store: Store) -> None:
        try:
            finish_leftovers(store)
        except Exception:  # the next command tries it again
            log.exception("what killed commands have left in %s could not be finished", store.uri)

    def _complain(self, store: Store, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            why = (
                str(error) if isinstance(error, StoreError) else f"{store.uri} does not take records: {one_line(error)}"
            )
            self._answer(
                Message(f"{why}. Training goes on; the journal keeps all records until they can be delivered.")
            )

    def _find(self, store: Store, sweep: str) -> Found | Refused:
        try:
            rows = store.rows(sweep)
            return Found(rows, link(store, rows))
        except StoreError as error:
            return Refused(str(error))
        except Exception as error:
            log.exception("reading from %s failed", store.uri)
            return Refused(
                f"{store.uri} must be read for the table ({one_line(error)}); "
                f"type: {sweepstack_command('table', store.uri)}"
            )

    def _look(self, store: Store, fingerprints: Sequence[str]) -> StoreLookup | Refused:
        try:
            return lookup_on_server(store, fingerprints)
        except Exception as error:
            return Refused(one_line(error))

    def _read(self) -> None:
        """Reads orders. It runs in a thread, so that the process notices the end of its parent during an import."""
        opened = False
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # the parent has ended
            while True:
                message = pickle.load(self._orders)
                opened = opened or isinstance(message, Open)
                self._inbox.put(message)
        if not opened:
            os._exit(0)
        self._inbox.put(None)

    def _next(self, seconds: float | None) -> Any:
        """Returns the next order; NOTHING_YET if none comes within `seconds`; None if no more can come."""
        deadline = None if seconds is None else time.monotonic() + seconds
        order: Any = NOTHING_YET
        while order is NOTHING_YET and (deadline is None or time.monotonic() < deadline):
            left = ALIVE if deadline is None else min(ALIVE, max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(queue.Empty):
                order = self._inbox.get(timeout=left)
            if order is NOTHING_YET and is_orphan(self._parent):
                order = None
        if order is None:
            self._inbox.put(None)
        return order

    def _answer(self, message: Loaded | Message | Closed | Answer) -> None:
        with contextlib.suppress(OSError):  # the parent may have ended
            self._answers.write(pickle.dumps(message))
            self._answers.flush()


def _has_many(delivery: Delivery | None) -> bool:
    """True if it is time to deliver, see `Delivery.has_many`; also if that cannot be known: delivering says why."""
    try:
        return delivery is not None and delivery.has_many()
    except Exception:
        return True


def main(parent: int) -> None:
    """Runs the process. Only `WriterProcess` starts it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Slurm and others send them to all processes; Windows has two
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        if hasattr(os, "nice"):
            os.nice(10)  # the training is more urgent
    logging.basicConfig(level=logging.ERROR, handlers=[ErrorsLog()])
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # so that a child, such as git, cannot read the orders,
    os.dup2(2, 1)  # and MLflow cannot print into the answers
    try:
        _Child(orders, answers, parent).work()
    except BaseException:
        log.exception("the process that writes records failed")
        os._exit(1)
    os._exit(0)
