"""The writer in a process of its own: MLflow's import and its work for each trial would take a second, and then a part
of every second, from a training that shares the interpreter with them.

Parent and child talk in pickles over the child's standard input and output. A trial goes whole in its first event, and
as its number afterwards.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple

from sweepstack.errors import StoreError, one_line
from sweepstack.tracking.store import Row, Store, project_root
from sweepstack.tracking.writer import Writer, not_recorded
from sweepstack.trial import Ended, Event, Trial

log = logging.getLogger(__name__)

GOODBYE = 5.0  # seconds that a command's end waits for a child that does not even read
ALIVE = 1.0  # seconds between two looks at the parent; a fork of it can hold the pipe open when it is dead


class Open(NamedTuple):
    """To the child: a recording begins."""

    experiment: str


class Later(NamedTuple):
    """To the child: an event, but its first, of a trial."""

    kind: type[Event]
    number: int
    rest: tuple[Any, ...]


class Close(NamedTuple):
    """To the child: the recording is over. It answers with `Closed`."""

    reason: str | None
    """What stopped it, if anything did."""


class Find(NamedTuple):
    """To the child: the runs of a sweep are wanted. It answers with `Found` or `Refused`."""

    sweep: str


class Loaded(NamedTuple):
    """From the child: MLflow is imported."""


class Said(NamedTuple):
    line: str


class Recorded(NamedTuple):
    number: int


class Closed(NamedTuple):
    complaint: str | None
    """What could not be recorded, if anything could not."""


class Found(NamedTuple):
    rows: list[Row]
    link: str


class Refused(NamedTuple):
    complaint: str


class WriterProcess:
    """Takes the events of one recording after the other to a store. See `writer_process` for the one to use.

    If the process dies, training goes on; one line says so, and the end of the recording says what is lost.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Found | Refused | None] = queue.SimpleQueue()
        self._closed_with: Closed | None = None
        self._is_closed = threading.Event()
        self._say: Callable[[str], None] | None = None
        self._unrecorded: set[int] = set()
        self._trouble = "unknown"
        self._sent = threading.Event()
        self._loaded, self._dead = threading.Event(), threading.Event()
        self._process = subprocess.Popen(
            # -P: a random.py of the user's is not the library's. Not -m: then the module would be there twice, and what
            # is pickled would be of the other one's classes.
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; what has been measured is still to be recorded then
        )
        for work in (self._send, self._listen):
            threading.Thread(target=work, daemon=True, name=f"sweepstack{work.__name__}").start()
        self._outbox.put(uri)
        atexit.register(self.close)

    @contextlib.contextmanager
    def recording(self, experiment: str, say: Callable[[str], None]) -> Iterator[Callable[[Event], None]]:
        """Gives a function that takes events and returns at once. The end of the block waits until all is recorded;
        what has not ended by then is recorded as KILLED.

        Args:
            experiment: name of the MLflow experiment.
            say: called with lines for the user, from another thread.

        Raises:
            StoreError: at the end, when something could not be recorded.
        """
        self._unrecorded.clear()
        self._closed_with = None
        self._is_closed.clear()
        self._say = say
        self._outbox.put(Open(experiment))
        stopped: BaseException | None = None
        complaint: str | None = None
        try:
            yield self._put
        except BaseException as error:
            stopped = error
        try:
            self._outbox.put(Close(None if stopped is None else one_line(stopped)))
            complaint = self._closed()
        except KeyboardInterrupt as stop:  # what is finished is recorded all the same; a second one ends the process
            stopped = stop
            self._outbox.put(Close(None))  # the child ignores a second one
            complaint = self._closed()
        self._say = None
        if complaint is not None and stopped is None:
            raise StoreError(complaint)
        if complaint is not None:
            say(complaint)
        if stopped is not None:
            raise stopped

    def find(self, sweep: str) -> Callable[[], tuple[list[Row], str]]:
        """Asks for the runs of a sweep, and the address in MLflow's UI that compares them. What is returned waits for
        the answer; there is time to import pandas meanwhile.

        Raises:
            StoreError: when the answer is waited for; see `Store.rows`.
        """
        self._outbox.put(Find(sweep))
        return self._found

    def wait_loaded(self, seconds: float) -> None:
        """Waits until MLflow is imported, but not longer than so many seconds: it keeps a processor busy."""
        self._loaded.wait(seconds)

    def close(self) -> None:
        """Lets the process end, which it does on its own when it has done what it was told."""
        atexit.unregister(self.close)
        self._outbox.put(None)
        self._sent.wait(GOODBYE)

    def _put(self, event: Event) -> None:
        self._unrecorded.add(event.trial.number)
        self._outbox.put(event)

    def _closed(self) -> str | None:
        while not self._dead.is_set() and not self._is_closed.wait(ALIVE):
            pass  # an interrupt may come at any moment; asked once more, it answers the same
        complaint = self._closed_with.complaint if self._closed_with is not None else None
        if complaint is None and self._unrecorded:
            return not_recorded(len(self._unrecorded), self._uri, self._trouble, "run again")
        return complaint

    def _found(self) -> tuple[list[Row], str]:
        match self._answer():
            case Found(rows, link):
                return rows, link
            case Refused(complaint):
                raise StoreError(complaint)
        raise StoreError(f"{self._uri} must be read for the table ({self._trouble}); type: sweepstack table")

    def _answer(self) -> Found | Refused | None:
        """The next answer; None from a dead process, however often it is asked."""
        answer = self._answers.get()  # not a thread's join(): that does not survive an interrupt in Python 3.11
        if answer is None:
            self._answers.put(None)
        return answer

    def _send(self) -> None:
        """In a thread, for a pipe can be full."""
        stdin = self._process.stdin
        assert stdin is not None
        known: set[int] = set()
        while (message := self._outbox.get()) is not None:
            try:
                if isinstance(message, Open):
                    known.clear()
                stdin.write(pickle.dumps(_shortened(message, known)))
                if self._outbox.empty():
                    stdin.flush()
                if isinstance(message, Event):
                    (known.discard if isinstance(message, Ended) else known.add)(message.trial.number)
            except OSError:  # it has died, which `_listen` tells
                pass
            except Exception as error:  # an event that cannot be pickled is a trial which is not recorded
                log.exception("an event could not be sent")
                self._trouble = one_line(error)
        with contextlib.suppress(OSError):
            stdin.close()
        self._sent.set()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                message = pickle.load(self._process.stdout)
            except Exception:
                break
            match message:
                case Loaded():
                    self._loaded.set()
                case Said(line):
                    self._tell(line)
                case Recorded(number):
                    self._unrecorded.discard(number)
                case Closed():
                    self._closed_with = message
                    self._is_closed.set()
                case answer:
                    self._answers.put(answer)
        self._loaded.set()
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}, see mlruns/errors.log"
        self._trouble = f"the process that writes records {how}"
        self._tell(f"{self._trouble[0].upper()}{self._trouble[1:]}; training goes on.")
        self._dead.set()
        self._is_closed.set()
        self._answers.put(None)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(Exception):  # a terminal that is gone must not end this thread, which is waited for
            if self._say is not None:
                self._say(line)


def writer_process(uri: str) -> WriterProcess:
    """The process that writes to a store: one for as long as the command lives, and its settings for MLflow stay."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("MLFLOW_")))
    return _started(uri, settings, os.getpid())


@functools.cache
def _started(uri: str, settings: tuple[tuple[str, str], ...], owner: int) -> WriterProcess:
    return WriterProcess(uri)


def _shortened(message: Any, known: set[int]) -> Any:
    """The message as it is sent. `known` holds the numbers of the trials that the child has by now."""
    if not isinstance(message, Event) or message.trial.number not in known:
        return message
    _, *rest = (getattr(message, field.name) for field in dataclasses.fields(message))
    return Later(type(message), message.trial.number, tuple(rest))


class _StoppedError(Exception):
    """A recording that did not come to its end."""


class _Child:
    """What the process does: it keeps the records of one store until its input ends."""

    def __init__(self, orders: IO[bytes], answers: IO[bytes]) -> None:
        self._orders = orders
        self._answers = answers
        self._answering = threading.Lock()
        self._parent = os.getppid()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def work(self) -> None:
        store = Store(self._next())
        try:
            store.load()  # now, while the parent imports PyTorch
        except Exception:
            log.debug("to be met again, and told, when there is something to write", exc_info=True)
        self._answer(Loaded())
        while (order := self._next()) is not None:
            match order:
                case Open(experiment):
                    self._answer(Closed(self._record(store, experiment)))
                case Find(sweep):
                    self._answer(self._find(store, sweep))

    def _record(self, store: Store, experiment: str) -> str | None:
        def say(line: str) -> None:
            self._answer(Said(line))

        def recorded(number: int) -> None:
            self._answer(Recorded(number))

        try:
            with Writer(store, experiment, say, recorded) as writer:
                while not isinstance(order := self._next(), Close):
                    if order is None:
                        raise _StoppedError("the training process has died")
                    writer.put(order)
                if order.reason is not None:
                    raise _StoppedError(order.reason)
        except _StoppedError:
            return None  # the writer has said what there is to say
        except StoreError as error:
            return str(error)
        return None

    def _find(self, store: Store, sweep: str) -> Found | Refused:
        try:
            rows = store.rows(sweep)
            return Found(rows, store.link(rows[0]))
        except StoreError as error:
            return Refused(str(error))
        except Exception as error:
            log.exception("reading from %s failed", store.uri)
            return Refused(f"{store.uri} must be read for the table ({one_line(error)}); type: sweepstack table")

    def _read(self) -> None:
        """In a thread, so that the parent never waits for a delivery."""
        trials: dict[int, Trial] = {}
        begun = False
        try:
            while True:
                message = pickle.load(self._orders)
                if isinstance(message, Open):
                    begun = True
                    trials.clear()
                elif isinstance(message, Later):
                    message = message.kind(trials[message.number], *message.rest)
                if isinstance(message, Event):
                    trials[message.trial.number] = message.trial
                    if isinstance(message, Ended):
                        del trials[message.trial.number]
                self._inbox.put(message)
        except (EOFError, OSError, pickle.UnpicklingError):  # the parent is gone, perhaps in the middle of a message
            pass
        except Exception:
            log.exception("a message could not be read")
        if not begun:
            os._exit(0)  # even in the middle of an import
        self._inbox.put(None)

    def _next(self) -> Any:
        """The next order, None when there will be no more."""
        while True:
            with contextlib.suppress(queue.Empty):
                order = self._inbox.get(timeout=ALIVE)
                break
            if os.getppid() != self._parent:
                order = None
                break
        if order is None:
            self._inbox.put(None)
        return order

    def _answer(self, message: Loaded | Said | Recorded | Closed | Found | Refused) -> None:
        with self._answering, contextlib.suppress(OSError):  # there may be nobody left to hear it
            self._answers.write(pickle.dumps(message))
            self._answers.flush()


class _ErrorsLog(logging.FileHandler):
    """mlruns/errors.log of the project, made when there is something to say; in the temporary folder if it must be."""

    def __init__(self) -> None:
        super().__init__(project_root() / "mlruns" / "errors.log", delay=True)
        self.setLevel(logging.ERROR)
        self.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))

    def _open(self) -> TextIOWrapper:
        try:
            Path(self.baseFilename).parent.mkdir(exist_ok=True)
            return super()._open()
        except OSError:
            self.baseFilename = str(Path(tempfile.gettempdir(), "sweepstack-errors.log"))
            return super()._open()


def main() -> None:
    """The process, started by `WriterProcess` and by nobody else."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # Slurm, for one, sends them to all processes
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(10)  # the processors are for the training; a record may come a little later
    logging.basicConfig(level=logging.ERROR, handlers=[_ErrorsLog()])
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # git, which we ask for the commit, has no business with the orders,
    os.dup2(2, 1)  # nor what MLflow may print with the answers
    try:
        _Child(orders, answers).work()
    except BaseException:
        log.exception("the process that writes records failed")
        os._exit(1)
    os._exit(0)
