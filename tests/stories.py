"""What the stories of the store share: trials, commands that record them, and processes that can be killed."""

import contextlib
import dataclasses
import itertools
import os
import resource
import signal
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweepstack.events import Ended, Event, Joined, Measured, Started
from sweepstack.journal.database import reading
from sweepstack.journal.files import keep_file
from sweepstack.journal.ledger import Ledger
from sweepstack.journal.ledger_rows import composition_of, entries
from sweepstack.journal.log import Journal
from sweepstack.journal.replay import Replay
from sweepstack.planning.classify import Resume, Reuse, Train, WaitFor, classify
from sweepstack.planning.known_trials import Composition, Entry
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import WriterProcess
from sweepstack.tracking.writer.delivery import deliver_what_is_left
from sweepstack.trial import DatasetFacts, Measurement, Outcome, Trial, TrialState

FACTS = DatasetFacts("0123", 3, 2, 1)
DONE = Outcome(TrialState.FINISHED, {"val/accuracy": 0.5, "test/accuracy": 0.4, "train_seconds": 1.0})
ERROR = Outcome(TrialState.FAILED, reason="OSError: the cat is on the keyboard")
DIVERGED = Outcome(TrialState.FAILED, {"train_seconds": 1.0}, "the loss is not finite", diverged=True)
CHOICE = {"width": 64, "threads": 1, "epoch_seconds": 0.5, "reason": "measured"}
NOBODY = 65534

MakeTrial = Callable[..., Trial]


def fingerprint(config: int, data: int = 0, code: int = 0) -> str:
    return f"{config:020x}-{data:016x}-{code:08x}"


@dataclasses.dataclass
class Claim:
    """What a command got from the ledger."""

    entries: list[Entry]
    """Of what is fresh: to be planned."""
    resumed: list[tuple[Composition, dict[str, Entry]]]
    settled: list[tuple[Trial, Outcome]]
    held: list[Trial]

    @property
    def fresh(self) -> list[Trial]:
        return [entry.trial for entry in self.entries]


def composition(ledger: Ledger, stack: str) -> Composition | None:
    with reading(ledger.file) as database:
        return composition_of(database, stack)


def members(ledger: Ledger, stack: str) -> list[Trial]:
    with reading(ledger.file) as database:
        return [entry.trial for entry in entries(database, "stack = ?", (stack,))]


class Command:
    """A command that trains, as far as the ledger, the journal and the store can tell: a session of its own."""

    def __init__(self, ledger: Ledger, experiment: str = "train") -> None:
        self.ledger = ledger
        self.number, self.lock = ledger.open(experiment)
        self.journal, self.fold = Journal(ledger.journal(self.number)), Replay()

    def claim(self, *trials: Trial, again: bool = False) -> Claim:
        known = self.ledger.claim(self.number, trials, again)
        decisions = classify(trials, known, {}, self.number, again)
        stacks = {one.stack.id: (one.stack, dict(one.members)) for one in decisions if isinstance(one, Resume)}
        return Claim(
            [one.entry for one in decisions if isinstance(one, Train)],
            [*stacks.values()],
            [(one.trial, one.outcome) for one in decisions if isinstance(one, Reuse)],
            [one.trial for one in decisions if isinstance(one, WaitFor)],
        )

    def plan(self, stack: str, *trials: Trial, keep: bool = False) -> Composition:
        """One stack of trials, the last two of which share a trajectory."""
        ids = [one.id for one in trials]
        trajectories = (*((one,) for one in ids[:-2]), tuple(ids[-2:]))
        composition = Composition(stack, trajectories, CHOICE, "cpu", keep)
        self.ledger.plan(self.number, [composition])
        return composition

    def put(self, event: Event) -> None:
        self.fold.take(self.journal.put(event))

    def start(self, trial: Trial, again: bool = False) -> None:
        self.put(Started(trial, time.time(), FACTS, again))

    def measure(self, trial: Trial, *epochs: int, value: float = 0.5) -> None:
        for epoch in epochs:
            self.put(measured(trial, epoch, value))

    def finish(self, trial: Trial, outcome: Outcome = DONE, files: tuple[Path, ...] = ()) -> None:
        kept = tuple(keep_file(self.ledger.files(trial.id), file) for file in files)
        self.put(Ended(trial, outcome, time.time(), kept, "alone"))

    def join(self, trial: Trial, run_id: str | None = None) -> None:
        self.put(Joined(trial, time.time(), run_id))

    def train(self, *trials: Trial, outcome: Outcome = DONE, files: tuple[Path, ...] = ()) -> None:
        """From the claim to the end, in a stack each."""
        self.claim(*trials)
        for one in trials:
            self.plan(f"stack of {one.id}", one)
            self.start(one)
            self.measure(one, 1, 2)
            self.finish(one, outcome, files)

    def end(self) -> None:
        self.journal.close()
        self.ledger.end(self.number, self.fold, self.journal.lines)
        self.lock.release()

    def die(self) -> None:
        """All that the others see of a SIGKILL."""
        self.journal.close()
        self.lock.release()


def measured(trial: Trial, epoch: int, value: float = 0.5) -> Measured:
    return Measured(trial, Measurement(epoch, epoch * 10, 20, {"val/accuracy": value}), time.time())


def start_process(story: Callable[[], object]) -> int:
    """A story in a process of its own, with all that is imported here; its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        story()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def wait_for(process: int) -> int:
    """The exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def in_process(story: Callable[[], object]) -> int:
    return wait_for(start_process(story))


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(owner: Any, name: str, call: int = 1, after: bool = False) -> None:
    """This process, which is one of `start_process`, gets killed when something is called for that time."""
    original, calls = getattr(owner, name), itertools.count(1)

    def deadly(*args: Any, **keywords: Any) -> Any:
        is_time = next(calls) == call
        if is_time and not after:
            kill_myself()
        result = original(*args, **keywords)
        if is_time:
            kill_myself()
        return result

    setattr(owner, name, deadly)


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files of this process, which is one of `start_process`, get no longer than that: what a full disk comes to."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing is read-only for root, who becomes nobody meanwhile."""
    users, mode = os.getresuid(), folder.stat().st_mode
    folder.chmod(0o555)
    if 0 in users:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(*users)
        folder.chmod(mode)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file and folder, what is in it and when it was written."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns) for path in paths}


def deliver_all(store: Store, ledger: Ledger) -> int:
    """What `sweepstack sync` does; gives the number of trials."""
    delivered, refused = deliver_what_is_left(store, ledger)
    for error in refused:
        raise error
    return delivered


def rows(store: Store) -> dict[str, Row]:
    return {row.name: row for row in store.rows("all")}


def states(store: Store) -> dict[str, str]:
    return {row.name: row.state for row in store.rows("all")}


def ask(store: Store, question: str) -> list[tuple[Any, ...]]:
    """Asks the database itself, not MLflow."""
    assert store.database is not None
    with contextlib.closing(sqlite3.connect(store.database, timeout=60)) as database:
        return database.execute(question).fetchall()


def points(store: Store, condition: str = "TRUE") -> Counter[tuple[str, str, int, float]]:
    """How often the store holds each point of the runs that fulfil a condition: name, key, step and value."""
    question = f"SELECT runs.name, key, step, value FROM metrics JOIN runs USING (run_uuid) WHERE {condition}"
    return Counter(ask(store, question))


def points_of(*names: str, epochs: tuple[int, ...] = (1, 2)) -> Counter[tuple[str, str, int, float]]:
    """What `points` gives when trials have been trained once, and recorded once."""
    along = [("val/accuracy", epoch, 0.5) for epoch in epochs]
    return Counter(
        (name, *point) for name in names for point in [*along, ("test/accuracy", 0, 0.4), ("train_seconds", 0, 1.0)]
    )


def print_line(line: str) -> None:
    print(line)


@contextlib.contextmanager
def started(store: Store) -> Iterator[WriterProcess]:
    process = WriterProcess(store.uri)
    try:
        yield process
    finally:
        process.close()
        process._process.wait(60)


@contextlib.contextmanager
def recording(
    process: WriterProcess,
    ledger: Ledger,
    say: Callable[[str], None] = print_line,
    told: list[str | None] | None = None,
) -> Iterator[Command]:
    """As a command that trains does it; what it is told at the end is appended to `told`, or must be nothing."""
    command = Command(ledger)
    process.open(ledger.folder, command.number, say)
    yield command
    command.end()
    complaint = process.finish()
    if told is None:
        assert complaint is None
    else:
        told.append(complaint)


def run_names(store: Store) -> list[str]:
    return sorted(name for (name,) in ask(store, "SELECT name FROM runs"))


LOST = pytest.mark.parametrize(
    "first",
    [
        "is retired",
        "has a journal",
    ],
)
"""The first session of a ledger that gets lost."""
