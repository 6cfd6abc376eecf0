"""Signals while a trial trains: the first one lets the step come to its end, a second one does not."""

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

GRACE = 1.5
"""Seconds after a signal in which a step, or an evaluation, may come to its end; then it is broken off."""


@dataclass
class Calm:
    """Whether a training is asked to stop."""

    signal: signal.Signals | None = None
    """The signal that has come."""


@contextlib.contextmanager
def calm() -> Iterator[Calm]:
    """Meanwhile a signal is only noted, for the step to be finished; it is taken at the end of the block, or after a
    time of grace. A second one ends the process at once."""
    asked = Calm()
    if threading.current_thread() is not threading.main_thread():  # where there are none
        yield asked
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    late = threading.Event()

    def is_late() -> None:
        late.set()
        assert asked.signal is not None
        main = threading.main_thread().ident
        assert main is not None
        if hasattr(signal, "pthread_kill"):  # which wakes a call that sleeps, too
            signal.pthread_kill(main, asked.signal)
        else:
            _thread.interrupt_main(asked.signal)

    timer = threading.Timer(GRACE, is_late)
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
                os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # the cursor, which the bar hides
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
