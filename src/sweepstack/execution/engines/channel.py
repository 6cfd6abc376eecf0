"""What a worker and its controller exchange: files in a folder that both see; the controller's side.

    assignment.json   the controller writes it once: what to train
    control.json      the controller replaces it: whether to stop, and which trials
    events.jsonl      the worker appends to it: events, lines for the user, signs of life, and how it ended
    files/ID/         the worker writes the files of a trial there; the controller moves them to the trial's folder

The controller makes all of these files, so that nobody has to list the folder: on shared disks, listings come late. A
worker never opens the ledger or MLflow. The two may know the folder under different paths. `worker_side.py` has the
worker's side.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweepstack import errors
from sweepstack.errors import UserError, one_line
from sweepstack.events import Ended, Event
from sweepstack.execution.assignment import Assignment, Parts, Paused, Reporter
from sweepstack.execution.engines.assignment_file import assignment_as_json
from sweepstack.execution.executor import Lost, Trained, UnreachableError
from sweepstack.files.inside import inside
from sweepstack.files.owner_only import make_file, make_folder
from sweepstack.files.replacing import check_replaceable, move_over, replacing
from sweepstack.journal.codec import decode_line, end_from_json, event_from_json
from sweepstack.planning.plan import Stack
from sweepstack.trial import Outcome, StackSettings, Trial, TrialState

ASSIGNMENT, CONTROL, EVENTS, FILES = "assignment.json", "control.json", "events.jsonl", "files"
ENDS = {"done", "stopped", "failed", "error"}
"""Keys of the last line of a worker."""
LONGEST_END = 1 << 20
"""The most bytes of that line that are read."""
MAY_PASS = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.ECONNRESET),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNABORTED, errno.ECONNREFUSED),
}
"""Errors of a disk, or of the network to it, that a file may not have later."""
CONTROL_SECONDS = 0.1
"""Seconds between two looks at the control file by a worker on the machine of its controller."""
UNREACHABLE_SECONDS = 600.0
"""Seconds without an answer from the disk after which files of a worker count as lost."""


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


@functools.cache
def versions() -> dict[str, str]:
    """The versions that must be the same for a worker and its controller."""
    major, minor, _ = platform.python_version_tuple()
    packages = {name: importlib.metadata.version(name) for name in ("sweepstack", "torch")}
    return {**packages, "python": f"{major}.{minor}"}


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
        temporary.write_text(json.dumps(content), encoding="utf-8")


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


@dataclass
class Reports:
    """Reads what a worker reports, and passes it on.

    Args:
        folder: the folder of the assignment.
        stack: the stack that it trains.
        reporter: receives the events and the lines for the user.
        is_patient: tries for `UNREACHABLE_SECONDS` to move the files of a trial; else once.
    """

    folder: Path
    stack: Stack
    reporter: Reporter
    is_patient: bool = True
    host: str = ""
    """The machine of the worker; empty until it has begun."""
    is_stopping: bool = False
    """True if its trials may end as KILLED. A worker that was ended by others leaves them to the next one."""
    stopped: frozenset[str] = frozenset()
    """Ids of further trials that may end so."""
    _offset: int = 0
    _failing_since: float = 0.0
    """When they could not be read for the first time since they could, as `time.monotonic` counts; 0: they can."""
    _stuck_since: float = 0.0
    """When files of a trial could not be moved for the first time since they could."""
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
            UnreachableError: its files cannot be read now; the next call begins where this one has ended. If it is the
                files of one trial that cannot, that trial has failed after `UNREACHABLE_SECONDS`.
        """
        lines, result = 0, None
        for content in self._new():
            lines += 1
            self._failing_since = 0.0
            result = self._take(content, only_settled)  # the last one counts: what was stopped may have begun once more
        self._failing_since = 0.0
        return lines, None if only_settled else result

    def _new(self) -> Iterator[dict[str, Any]]:
        """Yields what is new. A line counts as read when the next one is asked for."""
        try:
            with (self.folder / EVENTS).open("rb") as stream:
                stream.seek(self._offset)
                for line in stream:
                    if not line.endswith(b"\n"):  # the rest of it comes later
                        return
                    end = self._offset + len(line)
                    for content in decode_line(line):
                        if content is not None:
                            yield content
                            continue
                        where = f"{self.folder / EVENTS} is damaged before byte {end}"
                        self.reporter.say(f"{where}: what a worker has reported there is lost.")
                    self._offset = end
        except FileNotFoundError:
            return
        except OSError as error:
            self._failing_since = self._failing_since or time.monotonic()
            raise UnreachableError(error.strerror or one_line(error), self._failing_since) from error

    def _take(self, content: Mapping[str, Any], only_settled: bool) -> Trained | Lost | None:
        match content:
            case {"event": _, "id": id} if id in self._trials:
                event = event_from_json(content, self._trials.get)
                if isinstance(event, Ended):
                    killed = event.outcome.state is TrialState.KILLED and id not in self.stopped
                    if (only_settled and not event.outcome.final) or (killed and not self.is_stopping):
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
            case {"done": {"settings": found}}:
                return Trained(settings=tuple(StackSettings(**one) for one in found))
            case {"done": {"paused": found, "step": step}}:
                return Trained(Paused(tuple(end_from_json(self._trials[id], end) for id, end in found), step))
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
                _move(source, target)
                files.append(target)
        except OSError as error:
            now = time.monotonic()
            if error.errno in MAY_PASS and self.is_patient:
                self._stuck_since = self._stuck_since or now
                if now - self._stuck_since <= UNREACHABLE_SECONDS:
                    raise UnreachableError(error.strerror or one_line(error), now) from error  # only this trial waits
            # a full disk fails this trial only
            failed = Outcome(TrialState.FAILED, reason=one_line(error), traceback=traceback.format_exc())
            return replace(event, outcome=failed, files=())
        self._stuck_since = 0.0
        return replace(event, outcome=replace(event.outcome, traceback=trace), files=tuple(files))


def _move(source: Path, target: Path) -> None:
    """Moves a file to a path, over a file that is there. If that fails, the source stays, and a later call moves it.

    Raises:
        UserError: there is something at `target` that is not a regular file.
        OSError: it cannot be moved, or neither of the two is there.
    """
    try:
        source.stat()
    except FileNotFoundError:
        target.stat()  # it was moved before a controller died
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target = check_replaceable(target, "what is written", "move it away, or choose another place")
    try:
        move_over(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # another file system
            raise
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink(missing_ok=True)


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
        try:
            lines, self._result = self._reports.pass_on()
        except UnreachableError:
            self._heard = time.monotonic()  # the worker may not have reached the disk, either
            raise
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
