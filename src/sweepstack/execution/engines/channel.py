"""What a worker and its controller exchange: files in a folder of the assignment, which both see.

    assignment.json   the controller writes it once: what to train
    control.json      the controller replaces it: whether to stop, and which trials
    events.jsonl      the worker appends to it: events, lines for the user, signs of life, and how it ended
    files/ID/         the worker writes the files of a trial there; the controller moves them to the trial's folder

The controller makes all of these files, so that nobody has to list the folder: on shared disks, listings come late. A
worker never opens the ledger or MLflow. The two may know the folder under different paths.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

from sweepstack import errors
from sweepstack.error_log import log_traceback
from sweepstack.errors import UserError, one_line
from sweepstack.events import Ended, Event
from sweepstack.execution.assignment import Assignment, Parts, Reporter
from sweepstack.execution.engines.assignment_file import assignment_as_json, assignment_from_json
from sweepstack.execution.executor import Lost, Trained
from sweepstack.files.inside import inside
from sweepstack.files.owner_only import FILE, make_file, make_folder
from sweepstack.files.replacing import replacing
from sweepstack.journal.codec import decode_line, encode_line, event_as_json, event_from_json
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.trial import Outcome, Trial, TrialState, Verdict

ASSIGNMENT, CONTROL, EVENTS, FILES = "assignment.json", "control.json", "events.jsonl", "files"
BEATS_PER_LEASE = 6
"""Signs of life that a worker gives in the time after which it counts as lost without one."""
ENDS = {"done", "stopped", "failed", "error"}
"""Keys of the last line of a worker."""
LONGEST_END = 1 << 20
"""The most bytes of that line that are read."""
CONTROL_SECONDS = 0.1
"""Seconds between two looks at the control file by a worker on the machine of its controller."""


class WorkerError(Exception):
    """A worker has failed by a mistake of sweepstack; its cause holds the worker's traceback."""


class RemoteTraceback(Exception):  # noqa: N818 -- text for the log
    """The traceback of an exception in a worker."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def work_folder(journal: Path, stack: str) -> Path:
    """Returns the folder of an assignment.

    Args:
        journal: the folder of the journal.
        stack: the id of the stack.
    """
    return journal / "work" / stack


def checkpoints_of(folder: Path) -> Path:
    """Returns the folder for the checkpoints of the stack whose assignment is in a folder."""
    return folder.parent.parent / "checkpoints" / folder.name


def versions() -> dict[str, str]:
    """The versions that must be the same for a worker and its controller."""
    major, minor, _ = platform.python_version_tuple()
    packages = {name: importlib.metadata.version(name) for name in ("sweepstack", "torch")}
    return {**packages, "python": f"{major}.{minor}"}


def unlike_versions(of_command: Mapping[str, str]) -> str:
    """Returns which versions of this process differ from those of a command, in words; empty if none does.

    Args:
        of_command: see `versions`.
    """
    own = versions()
    unlike = [name for name, theirs in of_command.items() if own[name] != theirs]
    wanted = ", ".join(f"{name} {of_command[name]}" for name in unlike)
    return wanted and f"{wanted}, got {', '.join(f'{name} {own[name]}' for name in unlike)} on {socket.gethostname()}"


def write_assignment(assignment: Assignment, folder: Path, lease: float, look: float = CONTROL_SECONDS) -> None:
    """Makes the folder of an assignment with all of its files.

    Args:
        assignment: the assignment.
        folder: its folder, see `work_folder`.
        lease: seconds without a sign of life after which the worker counts as lost.
        look: seconds between two looks of the worker at the control file.
    """
    make_assignment({"lease": lease, "look": look, "versions": versions(), **assignment_as_json(assignment)}, folder)


def make_assignment(content: Mapping[str, Any], folder: Path) -> None:
    """Makes the folder of an assignment with all of its files.

    Args:
        content: the content of the assignment's file.
        folder: its folder, see `work_folder`.
    """
    make_folder(folder.parent)
    make_folder(folder)
    write_control(folder, {"stop": ""})
    (folder / EVENTS).unlink(missing_ok=True)  # an earlier worker may still have it open
    make_file(folder / EVENTS)
    _replace(folder / ASSIGNMENT, content)


def write_control(folder: Path, content: Mapping[str, Any]) -> None:
    """Replaces the control file of an assignment.

    Args:
        folder: the folder of the assignment.
        content: what its worker is to do, see `ask_to_stop`.
    """
    _replace(folder / CONTROL, content)


def ask_to_stop(folder: Path, reason: str, over: bool = False, trials: Collection[str] = ()) -> None:
    """Asks the worker of an assignment to stop.

    Args:
        folder: the folder of the assignment.
        reason: why, in words; empty: only some trials stop.
        over: True if nobody reads what it reports any more.
        trials: the ids of the trials that stop at their next measurements.
    """
    with contextlib.suppress(OSError):  # it is gone
        write_control(folder, {"stop": reason, "over": over, "trials": sorted(trials)})


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        make_file(temporary)
        temporary.write_text(json.dumps(content))


def worker_of(folder: Path) -> Mapping[str, Any] | None:
    """Returns the machine (`host`), the process (`pid`) and the begin (`at`) of the worker of an assignment.

    None if it has not begun, or has said that it ends.
    """
    first, last = _ends_of(folder / EVENTS)
    is_over = ENDS & last.keys()
    hello: Mapping[str, Any] | None = first.get("hello")
    return None if is_over else hello


def _ends_of(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns the first and the last line of what a worker has reported; empty ones if they cannot be read."""
    try:
        with file.open("rb") as stream:
            first = stream.readline()
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LONGEST_END))
            last = stream.read().rstrip(b"\n").rpartition(b"\n")[2]
    except OSError:
        return {}, {}
    found = [next((one for one in decode_line(line) if one is not None), {}) for line in (first, last)]
    return found[0], found[1]


def reported_events(folder: Path, trials: Iterable[Trial]) -> Iterator[Event]:
    """Yields what the worker of an assignment has reported of some trials so far."""
    known = {trial.id: trial for trial in trials}
    with contextlib.suppress(OSError), (folder / EVENTS).open("rb") as stream:
        for content in (content for line in stream for content in decode_line(line)):
            if content is not None and content.get("id") in known:
                yield event_from_json(content, known.get)


class Sink(Protocol):
    """Where a worker writes its lines, and reads what its controller wants."""

    def append(self, line: bytes) -> None:
        """Writes a line so that the controller can read it, even if this process dies next."""

    def sync(self) -> None:
        """Returns when all lines are on the disk of the controller."""

    def control(self) -> Mapping[str, Any]:
        """Returns the content of the control file."""


class FileSink:
    """Writes to the folder of an assignment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE)

    def append(self, line: bytes) -> None:
        """See `Sink`."""
        size = os.fstat(self._file).st_size
        if os.write(self._file, line) < len(line):  # the disk has become full
            os.ftruncate(self._file, size)
            raise OSError(28, "the disk is full", str(self._folder / EVENTS))

    def sync(self) -> None:
        """See `Sink`."""
        os.fsync(self._file)

    def control(self) -> Mapping[str, Any]:
        """See `Sink`."""
        try:
            found = json.loads((self._folder / CONTROL).read_text())
        except FileNotFoundError:
            return {"stop": "its folder is gone", "over": True}
        except (OSError, ValueError):  # such as an unreachable machine; the next look may succeed
            return {}
        return found if isinstance(found, dict) else {}


class WorkerReporter:
    """The `Reporter` of a worker: it writes all that it receives to its sink.

    Args:
        sink: where.
        root: the folder of the trials' files; their paths are sent relative to it.
    """

    def __init__(self, sink: Sink, root: Path) -> None:
        self._sink, self._root = sink, root
        self._writing = threading.Lock()
        self._lines = 0
        self._stop = ""
        self._stopped_trials: frozenset[str] = frozenset()
        self._over = threading.Event()

    def emit(self, event: Event) -> Verdict:
        """See `Reporter`."""
        content = event_as_json(event, None)
        content.pop("trial", None)  # the controller knows it
        if isinstance(event, Ended):
            content["files"] = [str(file.relative_to(self._root)) for file in event.files]
            content["traceback"] = event.outcome.traceback
            self._sink.sync()
        self.send(content)
        return Verdict.STOP if event.trial.id in self._stopped_trials else Verdict.CONTINUE

    def say(self, line: str) -> None:
        """See `Reporter`."""
        self.send({"say": line})

    def sync(self) -> None:
        """See `Reporter`; a worker whose stack was given to another one gets an OSError, and so saves nothing."""
        if self._sink.control().get("over"):
            raise OSError("another worker has taken its stack over")
        self._sink.sync()

    def is_stopping(self) -> bool:
        """See `Reporter`."""
        return bool(self._stop)

    def send(self, content: Mapping[str, Any]) -> None:
        """Writes a line."""
        with self._writing:
            self._sink.append(encode_line(content, self._lines))
            self._lines += 1

    @contextlib.contextmanager
    def alive(self, lease: float, look: float) -> Iterator[None]:
        """Gives signs of life in the block, and looks whether the controller wants this worker to stop.

        Args:
            lease: see `write_assignment`.
            look: see `write_assignment`.
        """
        thread = threading.Thread(target=self._watch, args=(lease, look), daemon=True, name="sweepstack-lease")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self, lease: float, look: float) -> None:
        beaten = time.monotonic()
        while not self._over.wait(look):
            control = self._sink.control()
            self._stop = self._stop or str(control.get("stop") or "")
            self._stopped_trials |= frozenset(control.get("trials", ()))
            if time.monotonic() - beaten >= lease / BEATS_PER_LEASE:
                beaten = time.monotonic()
                with contextlib.suppress(OSError):  # the next one may reach it
                    self.send({"beat": time.time()})


def do_assignment(
    folder: Path, sink: Sink, train: Callable[[Assignment, Reporter], Parts | None], content: Mapping[str, Any]
) -> None:
    """What a worker does: trains a stack and reports to a sink how that went, whatever happens.

    Args:
        folder: the folder of the assignment, under the path that it has for this worker.
        sink: where it reports to.
        train: trains a stack; see `worker.run_stack`.
        content: the content of the assignment's file.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    reporter = WorkerReporter(sink, folder / FILES)
    reporter.send({"hello": {"host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}})
    if unlike := unlike_versions(content["versions"]):
        rule = f"a worker must have the versions of the command: {unlike}"
        reporter.send(_as_json(UserError(rule, remedy="install the same there")))
        return
    try:
        with reporter.alive(content["lease"], content["look"]):
            assignment = assignment_from_json(content, checkpoints_of(folder))
            parts = train(_with_folder(assignment, folder / FILES), reporter)
    except UserError as error:
        reporter.send(_as_json(error))
    except KeyboardInterrupt as stop:
        reporter.send({"stopped": str(stop) or "interrupted"})
    except Exception as error:
        log_traceback(error)
        reporter.send({"failed": one_line(error), "traceback": "".join(traceback.format_exception(error))})
    else:
        reporter.send({"done": None if parts is None else {"indices": parts.indices, "note": parts.note}})
    sink.sync()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _as_json(error: UserError) -> dict[str, Any]:
    parts = [[type(part).__name__, part.where, str(part)] for part in error.errors]
    return {"error": parts, "traceback": "".join(traceback.format_exception(error))}


def _with_folder(assignment: Assignment, files: Path) -> Assignment:
    """Returns an assignment whose trials write their files to a folder of the worker."""
    stack = assignment.stack
    trajectories = tuple(
        Trajectory(tuple(replace(trial, folder=files / trial.id) for trial in one.trials)) for one in stack.trajectories
    )
    return replace(assignment, stack=replace(stack, trajectories=trajectories))


@dataclass
class Reports:
    """Reads what a worker reports, and passes it on.

    Args:
        folder: the folder of the assignment.
        stack: the stack that it trains.
        reporter: receives the events and the lines for the user.
    """

    folder: Path
    stack: Stack
    reporter: Reporter
    host: str = ""
    """The machine of the worker; empty until it has begun."""
    is_stopping: bool = False
    """True if its trials may end as KILLED. A worker that was ended by others leaves them to the next one."""
    stopped: frozenset[str] = frozenset()
    """Ids of further trials that may end so."""
    _offset: int = 0
    _trials: dict[str, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._trials = {trial.id: trial for trial in self.stack.trials}

    def pass_on(self, only_settled: bool = False) -> tuple[int, Trained | Lost | None]:
        """Passes on what is new.

        Args:
            only_settled: leave out ends that a later training may change.

        Returns:
            The number of new lines, and how the worker ended if it has.

        Raises:
            UserError: the worker cannot train anything.
            WorkerError: it has failed by a mistake of ours.
        """
        lines, result = 0, None
        for content in self._new():
            lines += 1
            result = self._take(content, only_settled)  # the last one counts: what was stopped may have begun once more
        return lines, None if only_settled else result

    def _new(self) -> Iterator[dict[str, Any]]:
        try:
            with (self.folder / EVENTS).open("rb") as stream:
                stream.seek(self._offset)
                for line in stream:
                    if not line.endswith(b"\n"):  # the rest of it comes later
                        return
                    self._offset += len(line)
                    for content in decode_line(line):
                        if content is not None:
                            yield content
                            continue
                        where = f"{self.folder / EVENTS} is damaged before byte {self._offset}"
                        self.reporter.say(f"{where}: what a worker has reported there is lost.")
        except FileNotFoundError:
            return

    def _take(self, content: Mapping[str, Any], only_settled: bool) -> Trained | Lost | None:
        match content:
            case {"event": _, "id": id} if id in self._trials:
                event = event_from_json(content, self._trials.get)
                if isinstance(event, Ended):
                    killed = event.outcome.state is TrialState.KILLED and id not in self.stopped
                    if (only_settled and not event.outcome.settled) or (killed and not self.is_stopping):
                        return None
                    event = self._with_files(event, str(content["traceback"]))
                self.reporter.emit(event)
            case {"hello": hello}:
                self.host = str(hello["host"])
            case {"say": line}:
                self.reporter.say(str(line))
            case {"stopped": reason}:
                return Lost(f"it was stopped ({reason})")
            case {"error": parts} if not only_settled:
                found = [getattr(errors, kind)(line) for kind, _, line in parts]
                raise found[0] if len(found) == 1 else UserError.of_all(found)
            case {"failed": line, "traceback": trace} if not only_settled:
                raise WorkerError(line) from RemoteTraceback(trace)
            case {"done": None}:
                return Trained()
            case {"done": parts}:
                return Trained(Parts(tuple(map(tuple, parts["indices"])), parts["note"]))
        return None

    def _with_files(self, event: Ended, trace: str) -> Ended:
        """Moves the files of a trial to its folder."""
        files: list[Path] = []
        try:
            for file in event.files:
                source = inside(self.folder / FILES, file)
                target = event.trial.folder / Path(*file.parts[1:])  # the first part is the id of the trial
                if source.exists():  # else they were moved before a controller died
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(target) as temporary:
                        shutil.move(source, temporary)
                files.append(target)
        except OSError as error:  # a full disk fails this trial only
            failed = Outcome(TrialState.FAILED, reason=one_line(error), traceback=traceback.format_exc())
            return replace(event, outcome=failed, files=())
        return replace(event, outcome=replace(event.outcome, traceback=trace), files=tuple(files))


class WorkerHandle:
    """The handle of a worker that reports to the folder of its assignment.

    Args:
        reports: what it reports.
        lease: seconds without a sign of life after which it counts as lost. Only this machine's clock counts.
        gone: returns why the worker cannot report any more, such as "it was killed by signal 9"; None while it can.
        end: ends it.
        is_waiting: returns True while it waits to begin, so that nothing is to be heard of it.
    """

    def __init__(
        self,
        reports: Reports,
        lease: float,
        gone: Callable[[], str | None],
        end: Callable[[], None],
        is_waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        self._reports, self._lease, self._gone, self._end = reports, lease, gone, end
        self._is_waiting = is_waiting
        self._heard = time.monotonic()
        self._result: Trained | Lost | None = None

    @property
    def stack(self) -> Stack:
        """The stack that it trains."""
        return self._reports.stack

    @property
    def host(self) -> str:
        """The machine of the worker; empty until it has begun."""
        return self._reports.host

    def poll(self) -> Trained | Lost | None:
        """See `Handle`."""
        if self._result is not None:
            return self._result
        gone = self._gone()  # before its reports are read: it has written them before it ended
        lines, self._result = self._reports.pass_on()
        now = time.monotonic()
        if lines or self._is_waiting():
            self._heard = now
        if self._result is None and gone is not None:
            self._result = Lost(gone)
        if self._result is None and now - self._heard > self._lease:
            where = f" of {self._reports.host}" if self._reports.host else ""
            self._result = Lost(f"nothing was heard of the worker{where} for {self._lease:g} s")
        return self._result

    def stop(self) -> None:
        """See `Handle`."""
        self._reports.is_stopping = True
        self._ask_to_stop()

    def stop_trials(self, trials: Collection[str]) -> None:
        """See `Handle`."""
        self._reports.stopped |= frozenset(trials)
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        reason = "the command was ended" if self._reports.is_stopping else ""
        ask_to_stop(self._reports.folder, reason, trials=self._reports.stopped)

    def end(self) -> None:
        """See `Handle`."""
        self._end()
