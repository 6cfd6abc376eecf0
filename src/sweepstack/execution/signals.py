"""Handles signals while a trial trains: after the first one the current step is finished, a second one ends at once."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

GRACE_SECONDS = 1.5
"""Seconds after a signal in which a step or an evaluation may finish; then it is interrupted."""


class StoppedByHand(KeyboardInterrupt):
    """Another terminal has stopped this command; the message says who. It is handled like Ctrl-C."""


def interrupt(by: str) -> None:
    """Interrupts this command as Ctrl-C would.

    Args:
        by: who wants it, in words.
    """
    global _by
    _by = by
    _send(signal.SIGINT)


def interruption() -> KeyboardInterrupt:
    """Returns what the handler of Ctrl-C raises."""
    global _by
    by, _by = _by, ""
    return StoppedByHand(by) if by else KeyboardInterrupt("Ctrl-C")


_by = ""


def _send(number: signal.Signals) -> None:
    """Sends a signal to the main thread of this process."""
    main = threading.main_thread().ident
    assert main is not None
    if hasattr(signal, "pthread_kill"):  # it also wakes a call that sleeps
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(number)


@dataclass
class StopRequest:
    """Whether a training is asked to stop."""

    signal: signal.Signals | None = None
    """The signal that was received; None if there was none."""


@contextlib.contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Defers a signal to the end of the block, so that the current step can finish, but at most for `GRACE_SECONDS`.

    A second signal ends the process at once.
    """
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # other threads receive no signals
        yield asked
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    late = threading.Event()

    def is_late() -> None:
        late.set()
        assert asked.signal is not None
        _send(asked.signal)

    timer = threading.Timer(GRACE_SECONDS, is_late)
    timer.daemon = True

    def take(number: int, frame: FrameType | None) -> None:
        if asked.signal is None:
            asked.signal = signal.Signals(number)
            timer.start()
            return
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if not late.is_set():
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # shows the cursor again, which the bar hides
            os._exit(128 + number)
        late.clear()
        signal.raise_signal(number)

    try:
        for number in numbers:
            signal.signal(number, take)
        yield asked
    finally:
        timer.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if asked.signal is not None:
        signal.raise_signal(asked.signal)
