"""A worker's side of the channel: it does the assignment of a folder, and reports to a sink how that goes.

See `channel` for the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

from sweepstack.error_log import log_traceback
from sweepstack.errors import UserError, one_line
from sweepstack.events import Ended, Event
from sweepstack.execution.assignment import Answer, Assignment, Parts, Paused, Reporter
from sweepstack.execution.engines.assignment_file import assignment_from_json
from sweepstack.execution.engines.channel import CONTROL, EVENTS, FILES, checkpoints_of, versions
from sweepstack.files.owner_only import open_to_append
from sweepstack.journal.codec import encode_line, end_as_json, event_as_json
from sweepstack.planning.plan import Trajectory
from sweepstack.trial import TrialState, Verdict

BEATS_PER_LEASE = 6
"""Signs of life that a worker gives in the time after which it counts as lost without one."""


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
        self._file = open_to_append(folder / EVENTS)

    def append(self, line: bytes) -> None:
        """See `Sink`."""
        size = os.fstat(self._file).st_size
        if os.write(self._file, line) < len(line):  # the disk has become full
            os.ftruncate(self._file, size)
            raise OSError(28, "the disk is full", str(self._folder / EVENTS))

    def sync(self) -> None:
        """See `Sink`."""
        os.fsync(self._file)

    def close(self) -> None:
        """Nothing is written any more."""
        os.close(self._file)

    def control(self) -> Mapping[str, Any]:
        """See `Sink`."""
        try:
            found = json.loads((self._folder / CONTROL).read_text(encoding="utf-8"))
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
        self.all_well = True
        """True if no trial has ended otherwise than FINISHED or PRUNED."""

    def emit(self, event: Event) -> Verdict:
        """See `Reporter`."""
        content = event_as_json(event, None)
        content.pop("trial", None)  # the controller knows it
        if isinstance(event, Ended):
            content["files"] = [str(file.relative_to(self._root)) for file in event.files]
            content["traceback"] = event.outcome.traceback
            self.all_well = self.all_well and event.outcome.state in (TrialState.FINISHED, TrialState.PRUNED)
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


def unlike_versions(of_command: Mapping[str, str]) -> str:
    """Returns which versions of this process differ from those of a command, in words; empty if none does.

    Args:
        of_command: see `versions`.
    """
    own = versions()
    unlike = [name for name, theirs in of_command.items() if own[name] != theirs]
    wanted = ", ".join(f"{name} {of_command[name]}" for name in unlike)
    return wanted and f"{wanted}, got {', '.join(f'{name} {own[name]}' for name in unlike)} on {socket.gethostname()}"


def do_assignment(
    folder: Path,
    sink: Sink,
    work: Callable[[Assignment, Reporter], Answer],
    content: Mapping[str, Any],
    on_well: Callable[[], None] = lambda: None,
) -> bool:
    """What a worker does: trains a stack, or measures, and reports to a sink how that went, whatever happens.

    Args:
        folder: the folder of the assignment, under the path that it has for this worker.
        sink: where it reports to.
        work: does the assignment; see `worker.do`.
        content: the content of the assignment's file.
        on_well: called before it is reported that all has ended well.

    Returns:
        True if all has ended well, so that this process can do a further assignment: a process in which a training has
        failed or was stopped may have lost memory, or the use of a device.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    reporter = WorkerReporter(sink, folder / FILES)
    reporter.send({"hello": {"host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}})
    if unlike := unlike_versions(content["versions"]):
        rule = f"a worker must have the versions of the command: {unlike}"
        reporter.send(_as_json(UserError(rule, remedy="install the same there")))
        return False
    is_well = False
    try:
        with reporter.alive(content["lease"], content["look"]):
            assignment = assignment_from_json(content, checkpoints_of(folder))
            answer = work(_with_folder(assignment, folder / FILES), reporter)
    except UserError as error:
        reporter.send(_as_json(error))
    except KeyboardInterrupt as stop:
        reporter.send({"stopped": str(stop) or "interrupted"})
    except Exception as error:
        log_traceback(error)
        reporter.send({"failed": one_line(error), "traceback": "".join(traceback.format_exception(error))})
    else:
        match answer:
            case Parts():
                reporter.send({"done": {"indices": answer.indices, "note": answer.note}})
            case Paused():
                ends = [[one.trial.id, end_as_json(one, None)] for one in answer.ends]
                reporter.send({"done": {"paused": ends, "step": answer.step}})
            case None:
                if is_well := reporter.all_well:
                    on_well()
                reporter.send({"done": None})
            case settings:
                reporter.send({"done": {"settings": [vars(one) for one in settings]}})
    sink.sync()
    return is_well


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
