"""Chaos: sweeps are killed at random moments and started again until they are done; nothing may be lost or doubled.

A program that pytest does not collect. It is a black box: it types what users type, kills with SIGKILL, and looks at
the table, into the store with SQL, and at nothing else of sweepstack.

    python tests/chaos.py [--kills 100] [--scenario NAME ...] [--seed S] [--keep]
    python tests/chaos.py --self-test

Each scenario is a sweep. Undisturbed, in a folder and a store of its own, it gives the reference. Then *chains* of it
run, each in a new folder and store: started, killed, started again, a few times, until it ends on its own. A fifth of
the kills come within the first second, two at any time up to what the reference took, two in the phase that has been
hit least so far. One in five hits only the parent, one in five only the process that writes records (the sweep has to
go on by itself then), the rest all processes at once, however they are descended. Where there are workers, of this
machine, of Dask or of Slurm, two in five hit one or all of them instead, and the sweep has to go on by itself, too.

Then the figures of every trial, at every step, are those of the reference bit for bit, and so are its weights and the
table; each trial has one run, none is RUNNING, no figure is there twice, no trial has been trained twice, and the same
command once more trains nothing. Exit code 1 if anything of that is not so; the folder is kept then. What cannot be
played here, such as PostgreSQL where it is not installed, is told, and exit code 2 if it was asked for by name.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import importlib.util
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
PROGRAMS = {
    "train.py": [sys.executable, str(ROOT / "train.py")],
    "sweepstack": [str(Path(sys.executable).with_name("sweepstack"))],
}
MARK = "SWEEPSTACK_CHAOS"
"""Environment variable by which descendants are known, wherever they have gone."""
HOST = "127.0.0.1"
STARTING, DATABASE, FETCHING, TRAINING = "starting", "making the database", "fetching", "training"
CHECKPOINTING, DELIVERING, ENDING = "checkpointing", "delivering", "after the last trial"
PHASES = (STARTING, DATABASE, FETCHING, TRAINING, CHECKPOINTING, DELIVERING, ENDING)
ALL, PARENT, WRITER, WORKER, WORKERS = "all", "the parent", "the writer", "a worker", "all workers"
WRITES = "tracking.writer"
"""In the command line of the process that writes records."""
WRITERS = 2
"""Kills of the writer alone in one start: one that dies again and again is given up, with a line that says so."""
TRIAL_ENDED = re.compile(r"^\[(\d+)/(\d+)\] (\S.*?)  ", re.MULTILINE)
NOTHING_TO_TRAIN = "not trained again"
PLANNED = re.compile(rf" -> \d+ traject|resumed|{NOTHING_TO_TRAIN}")
TIMES = "train_seconds"

Query = Callable[[str], list[tuple[Any, ...]]]


class ViolationError(Exception):
    """What chaos has brought to light."""


class NotRunError(Exception):
    """A scenario for which something is missing here."""


# --- Processes


@dataclass(frozen=True)
class Process:
    """A process as /proc tells of it."""

    pid: int
    parent: int
    session: int
    stopped: bool


def processes() -> Iterator[Process]:
    """All that are alive."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if state not in "ZX":
                    yield Process(int(entry.name), int(parent), int(session), state == "T")


def family(mark: str, *roots: int) -> dict[int, Process]:
    """Who carries a mark, be its parents dead and its session another, and all descendants: PostgreSQL writes over its
    environment.

    Args:
        mark: or the beginning of several.
        roots: ids of processes that belong to it in any case.
    """
    alive = {process.pid: process for process in processes()}
    found = {pid for pid in alive if pid in roots or _carries(pid, mark)}
    while more := {pid for pid, process in alive.items() if process.parent in found} - found:
        found |= more
    return {pid: alive[pid] for pid in found}


def _carries(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def command_lines(pids: Iterable[int]) -> dict[int, str]:
    """Their words, parted by blanks."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(find: Callable[[], dict[int, Process]]) -> dict[int, Process]:
    """Stops all, so that nobody forks away meanwhile; gives them once two looks have found nobody else."""
    before: set[int] | None = None
    deadline = time.monotonic() + 5
    while True:
        found = find()
        moving = [pid for pid, process in found.items() if not process.stopped]
        if (not moving and set(found) == before) or time.monotonic() > deadline:
            return found
        before = set(found)
        send(signal.SIGSTOP, moving)
        time.sleep(0.001)


def open_files(pids: Iterable[int]) -> set[str]:
    """Paths that they have open."""
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found.add(os.readlink(handle))
    return found


# --- A user's folder and what is typed there


@dataclass(frozen=True)
class Command:
    """A command that was typed."""

    process: subprocess.Popen[bytes]
    mark: str
    output: Path
    began: float

    @property
    def text(self) -> str:
        """All that it has said, errors too."""
        return self.output.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def __str__(self) -> str:
        """Its exit code, and the end of what it has said."""
        lines = "\n".join(f"    {line}" for line in self.text.splitlines()[-12:])
        return f"exit code {self.process.poll()}, {self.output.name}:\n{lines}"

    def wait(self, limit: float) -> None:
        """Waits for its end.

        Raises:
            ViolationError: there is none within so many seconds.
        """
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise ViolationError(f"a command has not ended within {limit:.0f} s: {self}") from None

    def family(self) -> dict[int, Process]:
        """Its processes; what a dead parent has left behind is among them."""
        return family(self.mark, *([self.process.pid] if self.running else []))

    def phase(self, pids: Iterable[int]) -> str:
        """What it is doing, as far as what it has said and the files that these processes have open tell."""
        files, text = open_files(pids), self.text
        if any(".mlflow.db.new" in file for file in files):
            return DATABASE
        if any("/checkpoints/" in file for file in files):
            return CHECKPOINTING
        if any(file.endswith("/mlflow.db-journal") for file in files):
            return DELIVERING
        if text.count("Fetching") > text.count("Fetched"):
            return FETCHING
        ended = TRIAL_ENDED.findall(text)
        if ended and 1 < int(ended[-1][0]) == int(ended[-1][1]):
            return ENDING
        return TRAINING if PLANNED.search(text) or ended else STARTING


@dataclass(frozen=True)
class Place:
    """A user's working folder with a tracking store of its own."""

    folder: Path
    cache: Path
    """SWEEPSTACK_DATA: the datasets, and what is remembered of the way to train."""
    uri: str
    query: Query
    """Asks the store's database."""
    words: tuple[str, ...] = ()
    """What is to be typed because of the store."""
    commands: list[Command] = field(default_factory=list)

    @property
    def mark(self) -> str:
        """What the marks of all its commands begin with."""
        return f"{self.folder}#"

    def start(self, *words: str) -> Command:
        """Types a command."""
        mark, output = f"{self.mark}{len(self.commands)}.", self.folder / f"output-{len(self.commands):03}.txt"
        settings = {
            "MLFLOW_TRACKING_URI": self.uri,
            "SWEEPSTACK_DATA": str(self.cache),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
            MARK: mark,
        }
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*PROGRAMS[words[0]], *words[1:]],
                cwd=self.folder,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.commands.append(Command(process, mark, output, time.monotonic()))
        return self.commands[-1]

    def type(self, *words: str, codes: Sequence[int] = (0,), limit: float = 600) -> Command:
        """Types a command and waits for its end.

        Raises:
            ViolationError: it ends with another exit code than these, or not at all.
        """
        command = self.start(*words)
        command.wait(limit)
        if command.process.returncode not in codes:
            raise ViolationError(f"a command must end with exit code {codes}: {command}")
        return command

    def settle(self, limit: float = 120) -> None:
        """Waits until whatever a dead parent has left behind has ended.

        Raises:
            ViolationError: it does not.
        """
        deadline = time.monotonic() + limit
        while left := family(self.mark):
            if time.monotonic() > deadline:
                raise ViolationError(f"processes {sorted(left)} go on {limit:.0f} s after their command has ended")
            time.sleep(0.1)

    def clear(self) -> None:
        """Ends whatever is left."""
        send(signal.SIGKILL, freeze(lambda: family(self.mark)))


def ask_sqlite(file: Path) -> Query:
    def query(text: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(file, timeout=60)) as database:
            return database.execute(text).fetchall()

    return query


def ask_postgres(uri: str) -> Query:
    uri = uri.replace("+psycopg2", "")

    def query(text: str) -> list[tuple[Any, ...]]:
        import psycopg2

        with contextlib.closing(psycopg2.connect(uri)) as database, database.cursor() as cursor:
            cursor.execute(text)
            return list(cursor.fetchall())

    return query


def new_place(folder: Path, cache: Path) -> Place:
    """With an sqlite store that is not there yet."""
    folder.mkdir(parents=True)
    file = folder / "mlflow.db"
    return Place(folder, cache, f"sqlite:///{file}", ask_sqlite(file))


# --- What is in a store, and whether it is what it should be

Params = tuple[tuple[str, str], ...]
Figure = tuple[str, int, str]
"""Key, step, value as it is written without a loss."""


@dataclass
class Run:
    """A run of the store, but for what may differ: ids, times, the sweep, the text about it."""

    id: str
    state: str
    params: Params = ()
    fingerprint: str = ""
    history: Counter[Figure] = field(default_factory=Counter)
    latest: set[Figure] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    """Names of what is kept with it; checksums of weights."""

    @property
    def name(self) -> str:
        shown = ("lr", "batch_size", "epochs", "seed", "model", "optimizer")
        return " ".join(f"{key}={value}" for key, value in self.params if key in shown)


def records(place: Place) -> list[Run]:
    """The runs of a store that are not deleted."""
    rows = place.query("SELECT run_uuid, status, artifact_uri FROM runs WHERE lifecycle_stage = 'active'")
    runs = {run_id: Run(run_id, state) for run_id, state, _ in rows}
    params: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for run_id, key, value in place.query("SELECT run_uuid, key, value FROM params"):
        params[run_id].append((key, value))
    for run_id, run in runs.items():
        run.params = tuple(sorted(params[run_id]))
    for run_id, value in place.query("SELECT run_uuid, value FROM tags WHERE key = 'fingerprint'"):
        if run_id in runs:
            runs[run_id].fingerprint = value
    for run_id, figure in _figures(place, "metrics"):
        if run_id in runs:
            runs[run_id].history[figure] += 1
    for run_id, figure in _figures(place, "latest_metrics"):
        if run_id in runs:
            runs[run_id].latest.add(figure)
    for run_id, _, uri in rows:
        runs[run_id].files = _files(place, uri)
    return list(runs.values())


def _figures(place: Place, table: str) -> Iterator[tuple[str, Figure]]:
    for run_id, key, step, value, is_nan in place.query(f"SELECT run_uuid, key, step, value, is_nan FROM {table}"):
        if not key.startswith(TIMES):
            yield run_id, (key, int(step), "nan" if is_nan else float(value).hex())


def _files(place: Place, uri: str) -> dict[str, str]:
    kept = place.folder / "artifacts" / uri.removeprefix("mlflow-artifacts:/").lstrip("/")
    folder = Path(uri.removeprefix("file://")) if uri.startswith("file://") else kept
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() if file.suffix == ".pt" else ""
        for file in folder.rglob("*")
        if file.is_file()
    }


@dataclass
class Comparison:
    """Of a store with the reference."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.running or self.different)

    def __str__(self) -> str:
        kinds = {"lost": self.lost, "doubled": self.doubled, "RUNNING": self.running, "different": self.different}
        lines = [f"{kind}: {line}" for kind, found in kinds.items() for line in found]
        more = [f"... and {len(lines) - 20} more"] if len(lines) > 20 else []
        return "\n".join(f"    {line}" for line in [*lines[:20], *more])


def compare(reference: Sequence[Run], found: Sequence[Run]) -> Comparison:
    """Whether a store holds what the reference holds, each trial once."""
    result = Comparison()
    by_params: dict[Params, list[Run]] = collections.defaultdict(list)
    for run in found:
        by_params[run.params].append(run)
        if run.state == "RUNNING":
            result.running.append(f"run {run.id} ({run.name})")
    for expected in reference:
        runs = by_params.pop(expected.params, [])
        if not runs:
            result.lost.append(f"no run for {expected.name}")
        elif len(runs) > 1:
            result.doubled.append(f"{len(runs)} runs for {expected.name}: {', '.join(run.id for run in runs)}")
        for run in runs:
            _compare_run(expected, run, result)
    result.different += [f"nobody asked for {run.name} (run {run.id})" for runs in by_params.values() for run in runs]
    return result


def _compare_run(expected: Run, run: Run, result: Comparison) -> None:
    of = f"run {run.id} ({run.name})"
    if run.state not in (expected.state, "RUNNING"):
        result.different.append(f"{of} is {run.state}, not {expected.state}")
    if run.fingerprint != expected.fingerprint:
        result.different.append(f"{of} has the fingerprint {run.fingerprint!r}, not {expected.fingerprint!r}")
    places = Counter(figure[:2] for figure in run.history.elements())
    for key, step in [place for place, count in places.items() if count > 1][:3]:
        values = [f"{value} x {count}" for (*at, value), count in run.history.items() if at == [key, step]]
        result.doubled.append(f"{key} at step {step} of {of}: {', '.join(values)}")
    for title, one, other in (
        ("figures", set(expected.history), set(run.history)),
        ("last figures", expected.latest, run.latest),
        ("files", set(expected.files.items()), set(run.files.items())),
    ):
        if one != other:
            missing, extra = sorted(one - other), sorted(other - one)
            told = f"{len(missing)} missing, such as {missing[:2]}; {len(extra)} new, such as {extra[:2]}"
            result.different.append(f"{title} of {of}: {told}")


Table = Counter[str]


def table(place: Place, runs: Sequence[Run]) -> Table:
    """The table of the last sweep, in no order: params, figures and state of each row."""
    typed = place.type("sweepstack", "table", "--sweep", "latest", "--format", "json", limit=120)
    kept = {"state", *(key for run in runs for key, _ in run.params), *(key for run in runs for key, *_ in run.latest)}
    rows = json.loads(typed.text[typed.text.index("[") :])
    return Counter(json.dumps({key: row[key] for key in sorted(kept & set(row))}) for row in rows)


def compare_tables(reference: Table, found: Table) -> None:
    """
    Raises:
        ViolationError: they differ.
    """
    if reference != found:
        missing, extra = list((reference - found).elements()), list((found - reference).elements())
        lines = [*(f"    missing: {row}" for row in missing[:5]), *(f"    not expected: {row}" for row in extra[:5])]
        raise ViolationError(
            "\n".join([f"the table differs: {len(missing)} rows missing, {len(extra)} not expected", *lines])
        )


def compare_twice_trained(place: Place, since: int = 0) -> None:
    """A trial that a command has told of as ended is in its journal, and must not be trained again.

    Raises:
        ViolationError: two of the commands that were typed tell of the same one.
    """
    told: dict[str, str] = {}
    for command in place.commands[since:]:
        for _, _, name in TRIAL_ENDED.findall(command.text):
            if name in told:
                raise ViolationError(f"{name} was trained twice, see {told[name]} and {command.output.name}")
            told[name] = command.output.name


# --- Scenarios


@dataclass
class Tally:
    """What a scenario has been through."""

    kills: Counter[str] = field(default_factory=Counter)
    """By phase."""
    victims: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    chains: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    running: int = 0
    began: float = field(default_factory=time.monotonic)

    def hit(self, phase: str, victim: str) -> None:
        self.kills[phase] += 1
        self.victims[victim] += 1

    def __str__(self) -> str:
        phases = ", ".join(f"{phase} {self.kills[phase]}" for phase in PHASES if self.kills[phase])
        victims = ", ".join(f"{victim} {count}" for victim, count in self.victims.most_common())
        return (
            f"{self.kills.total()} kills ({phases}; of {victims}) in {self.chains} chains of {self.starts} starts: "
            f"{self.rows} rows, {self.lost} lost, {self.doubled} doubled, {self.running} RUNNING, "
            f"{time.monotonic() - self.began:.0f} s"
        )


def forked_workers(command: int, family: Mapping[int, Process]) -> set[int]:
    """engine=local: they are in the session of the server that has forked them.

    Args:
        command: the process of the command, which leads a session.
        family: all that descend from it.
    """
    return {pid for pid, process in family.items() if process.session not in (command, pid)}


def dask_workers(command: int, family: Mapping[int, Process]) -> set[int]:
    """engine=dask: the processes that train, and the workers of Dask, which their nannies replace."""
    lines = command_lines(family)
    by = {pid: lines.get(process.parent, "") for pid, process in family.items()}
    training = {pid for pid in family if "dask.server_main" in by[pid]}
    return training | {pid for pid in family if "dask.loopback" in by[pid] and ".spawn" in lines.get(pid, "")}


def slurm_workers(command: int, family: Mapping[int, Process]) -> set[int]:
    """engine=slurm: what the jobs of the command run."""
    lines = command_lines(family)
    return {pid for pid, line in lines.items() if "submitit.core._submit" in line and not line.startswith("srun")}


@dataclass(frozen=True)
class Scenario:
    """A sweep, and how it is disturbed."""

    name: str
    words: tuple[str, ...]
    """Overrides of `python train.py -m`."""
    trials: int
    share: int
    """Of a hundred kills."""
    code: int = 0
    """Exit code of an undisturbed run: 1 where trials diverge."""
    empty_cache: bool = False
    """Whether each chain fetches the data again."""
    disturb: Callable[[Hunt, int], None] = lambda hunt, kills: hunt.kill_and_start_again(kills)
    needs: Callable[[], str] = lambda: ""
    """What is missing here, if anything."""
    workers: Callable[[int, Mapping[int, Process]], set[int]] = lambda command, family: set()
    """Finds the workers of a command among its processes."""
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """What has to run meanwhile."""


@dataclass
class Reference:
    """The undisturbed run."""

    seconds: float
    runs: list[Run]
    table: Table


@dataclass
class Hunt:
    """A scenario while it is played."""

    scenario: Scenario
    folder: Path
    rng: random.Random
    tally: Tally = field(default_factory=Tally)
    reference: Reference = field(init=False)

    @property
    def words(self) -> tuple[str, ...]:
        return ("train.py", "-m", "checkpoint.every=0", *self.scenario.words)

    @property
    def limit(self) -> float:
        """Seconds after which a command hangs."""
        return 180 + 20 * self.reference.seconds

    def play(self, kills: int) -> None:
        """
        Raises:
            ViolationError: something is not as undisturbed.
            NotRunError: something is missing here.
        """
        if missing := self.scenario.needs():
            raise NotRunError(missing)
        with self.scenario.around():
            self._play(kills)

    def _play(self, kills: int) -> None:
        self.take_reference()
        while (left := kills - self.tally.kills.total()) > 0:
            self.tally.chains += 1
            self.scenario.disturb(self, left)

    def new_place(self, name: str) -> Place:
        cache = self.folder / (f"cache-{name}" if self.scenario.empty_cache else "cache")
        return new_place(self.folder / name, cache)

    def next_place(self) -> Place:
        return self.new_place(f"chain-{self.tally.chains:02}")

    def take_reference(self) -> None:
        place = self.new_place("reference")
        command = place.start(*self.words)
        command.wait(1200)
        seconds = time.monotonic() - command.began
        if "could not be fetched" in command.text:
            raise NotRunError(f"the data could not be fetched: {command}")
        self.has_ended(command)
        place.settle()
        runs = records(place)
        self.reference = Reference(seconds, runs, table(place, runs))
        if len({run.params for run in runs}) != self.scenario.trials or not compare(runs, runs).good:
            raise ViolationError(f"undisturbed, it left {len(runs)} runs:\n{compare(runs, runs)}")
        if not all(run.fingerprint for run in runs):
            raise ViolationError("undisturbed, it left runs without a tag fingerprint")
        self.check_rerun(place)
        print(f"{self.scenario.name}: {len(runs)} trials, undisturbed {seconds:.1f} s", flush=True)

    # --- one chain

    def kill_and_start_again(self, kills: int) -> None:
        """A chain: some kills, then the end."""
        place = self.next_place()
        left = min(kills, self.rng.randint(3, 8))
        while True:
            before = self.tally.kills.total()
            command = self.start_once(place, left)
            left -= self.tally.kills.total() - before
            if command is not None and self.has_ended(command):
                break
        self.check(place)

    def start_once(self, place: Place, kills: int) -> Command | None:
        """Types the command. Gives it if it came to its end, None if it was killed."""
        command = place.start(*self.words)
        self.tally.starts += 1
        writers = 0
        while kills > 0:
            frozen = self.wait_for_moment(command, len(place.commands))
            if not command.running:
                break
            victim, pids = self.choose_victim(command, frozen, writers < WRITERS)
            self.tally.hit(command.phase(frozen), victim)
            kills -= 1
            send(signal.SIGKILL, pids)
            send(signal.SIGCONT, set(frozen) - set(pids))
            if victim in (ALL, PARENT):
                command.wait(60)
                return None
            writers += victim == WRITER
        command.wait(self.limit)
        return command

    def has_ended(self, command: Command) -> bool:
        """Whether it has nothing more to do.

        Raises:
            ViolationError: it ended as it must not.
        """
        if command.process.returncode != self.scenario.code:
            raise ViolationError(f"the sweep must end with exit code {self.scenario.code}: {command}")
        return "sweepstack sync" not in command.text  # else its writer was killed, and it says what to type

    def wait_for_moment(self, command: Command, number: int) -> dict[int, Process]:
        """Until it is to be killed, or has ended; gives its processes, stopped.

        Args:
            number: of the start, from 1: the later, the less is left to do.
        """
        way = self.rng.choices(("early", "any time", "aimed"), (20, 40, 40))[0]
        if way == "aimed":
            return self.wait_for_phase(command, self.least_hit(number == 1))
        seconds = self.rng.uniform(0, 1 if way == "early" else self.reference.seconds / number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(seconds)
        return freeze(command.family)

    def least_hit(self, first: bool) -> str:
        """The phase that has been hit least so far, of those which can come."""
        phases = [TRAINING, CHECKPOINTING, DELIVERING, ENDING]
        phases += [DATABASE] * first + [FETCHING] * self.scenario.empty_cache
        return min(phases, key=lambda phase: (self.tally.kills[phase], self.rng.random()))

    def wait_for_phase(self, command: Command, phase: str) -> dict[int, Process]:
        """Stops it again and again for a look at what it is doing."""
        deadline = time.monotonic() + self.limit
        while command.running and time.monotonic() < deadline:
            frozen = freeze(command.family)
            if command.phase(frozen) == phase:
                return frozen
            send(signal.SIGCONT, frozen)
            time.sleep(self.rng.uniform(0, 0.03))
        return freeze(command.family)

    def choose_victim(
        self, command: Command, frozen: Mapping[int, Process], may_be_writer: bool
    ) -> tuple[str, set[int]]:
        """Says who is to be killed, and which processes that is."""
        parent, workers = command.process.pid, self.scenario.workers(command.process.pid, frozen)
        writer = {pid for pid, line in command_lines(frozen).items() if WRITES in line}
        chance = self.rng.random()
        if workers and chance > 0.6:
            one = self.rng.choice(sorted(workers))
            return (WORKER, {one}) if chance < 0.8 else (WORKERS, workers)
        if chance < 0.2:
            return PARENT, {parent}
        if chance < 0.4 and writer and may_be_writer:
            return WRITER, writer
        return ALL, set(frozen)

    def check(self, place: Place) -> None:
        """That a chain has come to where the reference is, and that the same command then has nothing to do."""
        place.settle()
        compare_twice_trained(place)
        found = records(place)
        comparison = compare(self.reference.runs, found)
        self.tally.rows += len(found)
        self.tally.lost += len(comparison.lost)
        self.tally.doubled += len(comparison.doubled)
        self.tally.running += len(comparison.running)
        if not comparison.good:
            raise ViolationError(f"the store is not that of an undisturbed sweep:\n{comparison}")
        compare_tables(self.reference.table, table(place, found))
        self.check_rerun(place)
        compare_tables(self.reference.table, table(place, found))

    def check_rerun(self, place: Place) -> None:
        """The same command once more, when all is done."""
        runs, figures = "SELECT run_uuid, status, start_time, end_time FROM runs", "SELECT count(*) FROM metrics"
        before = sorted(place.query(runs)), place.query(figures)
        command = place.type(*self.words, *place.words, codes=(self.scenario.code,))
        place.settle()
        if TRIAL_ENDED.search(command.text) or NOTHING_TO_TRAIN not in command.text:
            raise ViolationError(f"what was finished has been trained again: {command}")
        if before != (sorted(place.query(runs)), place.query(figures)):
            raise ViolationError(f"the store's runs are changed by what had nothing to train: {command}")

    # --- two at once

    def two_at_once(self, kills: int) -> None:
        """The same command twice on one store, and one of the two is killed."""
        place = self.next_place()
        one = place.start(*self.words)
        time.sleep(self.rng.choice((0.0, self.rng.uniform(0, self.reference.seconds / 2))))
        other = place.start(*self.words)
        self.tally.starts += 2
        victim, survivor = self.rng.sample((one, other), 2)
        frozen = self.wait_for_moment(victim, 1)
        ends = [survivor, victim]
        if victim.running:
            self.tally.hit(victim.phase(frozen), "one of two")
            send(signal.SIGKILL, frozen)
            ends.remove(victim)
        for command in ends:
            command.wait(self.limit)
            if not self.has_ended(command):
                raise ViolationError(f"something is left undelivered: {command}")
        self.check(place)

    # --- a server in between

    def disturb_servers(self, services: Sequence[Service], place: Place, kills: int) -> None:
        """An undisturbed sweep, whose servers are killed and started again; then what is left is delivered."""
        try:
            for service in services:
                service.be_ready()
            command = place.start(*self.words, *place.words)
            self.tally.starts += 1
            while command.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    command.process.wait(self.rng.uniform(0.5, 5))
                if command.running and kills > 0 and PLANNED.search(command.text):
                    self.kill_one(services, command)
                    kills -= 1
            for service in services:
                service.be_ready()
            self.has_ended(command)
            place.settle()
            place.type("sweepstack", "sync", "--store", place.uri, "--journal", str(place.folder / "journal"))
            self.check(place)
        finally:
            for service in reversed(services):
                service.kill()

    def kill_one(self, services: Sequence[Service], command: Command) -> None:
        """One of them dies, for a while; those that cannot live without it are started again, too."""
        service = self.rng.choice(services)
        self.tally.hit(command.phase(command.family()), service.name)
        service.kill()
        time.sleep(self.rng.uniform(0, 5))
        for each in services:
            if self.rng.random() < 0.7:
                each.be_ready()
            else:
                each.start()

    def with_mlflow(self, kills: int) -> None:
        """MLflow's server on sqlite."""
        place, port = self.next_place(), free_port()
        services = [mlflow_server(place.folder, port, place.uri)]
        self.disturb_servers(services, behind_server(place, port, place.query), kills)

    def with_postgres(self, kills: int) -> None:
        """MLflow's server on PostgreSQL; either is killed."""
        place, port = self.next_place(), free_port()
        service, backend = postgres(place.folder)
        services = [service, mlflow_server(place.folder, port, backend)]
        self.disturb_servers(services, behind_server(place, port, ask_postgres(backend)), kills)


def behind_server(place: Place, port: int, query: Query) -> Place:
    """The same folder, with a server as its store."""
    uri = f"http://{HOST}:{port}"
    return replace(place, uri=uri, query=query, words=(f"tracking.journal={place.folder / 'journal'}",))


# --- Servers


@dataclass
class Service:
    """A server that can be killed and started again."""

    name: str
    words: Sequence[str]
    folder: Path
    is_ready: Callable[[], bool]
    process: subprocess.Popen[bytes] | None = None

    @property
    def mark(self) -> str:
        return f"{self.folder}@{self.name}."

    def start(self) -> None:
        """Unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", MARK: self.mark}
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.words,
                cwd=self.folder,
                env={**os.environ, **quiet},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def be_ready(self, limit: float = 120) -> None:
        """Starts it if it does not run, and again if it gives up, until it answers."""
        deadline = time.monotonic() + limit
        self.start()
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise NotRunError(f"{self.name} does not answer within {limit:.0f} s, see its log in {self.folder}")
            time.sleep(0.2)
            self.start()

    def kill(self) -> None:
        if self.process is None:
            return
        root = [self.process.pid] if self.process.poll() is None else []
        send(signal.SIGKILL, freeze(lambda: family(self.mark, *root)))
        self.process.wait()
        self.process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def mlflow_server(folder: Path, port: int, backend: str) -> Service:
    words = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend, "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts"), "--host", HOST, "--port", str(port)),
        *("--allowed-hosts", f"localhost:*,{HOST}:*"),
    ]

    def answers() -> bool:
        with (
            contextlib.suppress(OSError, HTTPException),
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2),
        ):
            return True
        return False

    return Service("mlflow", words, folder, answers)


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return Path(found).parent if found else debian[-1].parent if debian else None


def tests_in_path() -> None:
    """Makes this program find the other files of the tests."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))


def missing_for_slurm() -> str:
    tests_in_path()
    from tests.engines.slurm_node import why_not

    return why_not() or missing_package("submitit")


def missing_package(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"{name} is not installed; try: pip install {name}"


@contextlib.contextmanager
def slurm() -> Iterator[None]:
    """A Slurm of one node, which commands find."""
    tests_in_path()
    from tests.engines.slurm_node import slurm_node

    before = dict(os.environ)
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        slurm_node(Path(folder), Path(folder, "hidden")) as node,
    ):
        os.environ |= node.environment
        try:
            yield
        finally:
            os.environ.clear()
            os.environ |= before


def missing_for_postgres() -> str:
    if postgres_programs() is None:
        return "PostgreSQL is not installed; try: apt-get install postgresql"
    if importlib.util.find_spec("psycopg2") is None:
        return "MLflow's server needs psycopg2 for PostgreSQL; try: pip install psycopg2-binary"
    if os.getuid() == 0 and not shutil.which("setpriv"):
        return "PostgreSQL does not run as root, and there is no setpriv to run it as somebody else"
    return ""


def postgres(folder: Path) -> tuple[Service, str]:
    """A cluster of its own on loopback, and the address of its database."""
    programs = postgres_programs()
    assert programs is not None
    data, port = folder / "postgres", free_port()
    data.mkdir()
    somebody: list[str] = []
    if os.getuid() == 0:  # initdb refuses root
        shutil.chown(data, "nobody")
        for parent in (folder, folder.parent):  # which mkdtemp makes for us alone
            parent.chmod(0o755)
        somebody = ["setpriv", "--reuid=nobody", "--clear-groups"]
    init = [*somebody, str(programs / "initdb"), "-D", str(data), "-U", "mlflow", "-A", "trust", "-E", "UTF8"]
    done = subprocess.run(init, cwd=data, capture_output=True, text=True)
    if done.returncode:
        raise NotRunError(f"initdb failed: {done.stderr.strip()}")
    settings = {"listen_addresses": HOST, "port": port, "unix_socket_directories": ""}
    words = [*somebody, str(programs / "postgres"), "-D", str(data)]
    words += [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    uri = f"postgresql+psycopg2://mlflow@{HOST}:{port}/postgres"
    query = ask_postgres(uri)

    def answers() -> bool:
        import psycopg2

        with contextlib.suppress(psycopg2.Error):
            return bool(query("SELECT 1"))
        return False

    return Service("postgres", words, folder, answers), uri


# --- What is played

DIGITS, FIXED = "dataset=digits", ("launch.width=8", "threads=1")  # as a stopwatch would choose; it may differ
STACKS = (DIGITS, *FIXED, "optimizer.lr=0.001,0.003,0.01,0.03,0.1,0.3,1,1e38", "batch_size=10,20")
SINGLES = (DIGITS, "launch.stack=false", "schedule=cosine", "optimizer.lr=0.01,0.03,0.1,0.3,1", "seed=0,1")
MIXED = (DIGITS, *FIXED, "model=logistic,mlp", "optimizer=sgd,adam", "optimizer.lr=0.003,0.01,0.03,0.1", "seed=0,1")
LONGER = ("epochs=40,120", "engine.workers=2")
BASIC = (DIGITS, "hydra/launcher=basic", "optimizer.lr=0.01,0.1,1")
MNIST = ("dataset=mnist", *FIXED, "optimizer.lr=0.001,0.01,0.1")
SCENARIOS = [
    Scenario("stacks", (*STACKS, "epochs=40,120"), trials=32, share=24, code=1),
    Scenario("singles", (*SINGLES, "batch_size=25,50,100", "epochs=20"), trials=30, share=18),
    Scenario("mixed", (*MIXED, "batch_size=25", "epochs=40"), trials=32, share=16),
    Scenario("local", (*STACKS, *LONGER, "engine=local"), trials=32, share=15, code=1, workers=forked_workers),
    Scenario(
        "dask",
        (*STACKS, *LONGER, "engine=dask"),
        trials=32,
        share=8,
        code=1,
        workers=dask_workers,
        needs=lambda: missing_package("distributed"),
    ),
    Scenario(
        "slurm",
        (*STACKS, *LONGER, "engine=slurm"),
        trials=32,
        share=8,
        code=1,
        workers=slurm_workers,
        needs=missing_for_slurm,
        around=slurm,
    ),
    Scenario("basic", (*BASIC, "batch_size=10", "epochs=60"), trials=3, share=6),
    Scenario("mnist-fetch", (*MNIST, "epochs=2"), trials=3, share=5, empty_cache=True),
    Scenario("two", (*STACKS, "epochs=40,120"), trials=32, share=8, code=1, disturb=Hunt.two_at_once),
    Scenario("server", (*STACKS, "epochs=100,300"), trials=32, share=4, code=1, disturb=Hunt.with_mlflow),
    Scenario(
        "postgres",
        (*STACKS, "epochs=100,300"),
        trials=32,
        share=3,
        code=1,
        disturb=Hunt.with_postgres,
        needs=missing_for_postgres,
    ),
]


def play(scenario: Scenario, kills: int, seed: int, keep: bool) -> int:
    """Gives the exit code that it stands for: 0, 1 for a violation, 2 if it could not be played."""
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{scenario.name}-"))
    hunt = Hunt(scenario, folder, random.Random(f"{seed} {scenario.name}"))
    code = 0
    try:
        hunt.play(kills)
    except ViolationError as violation:
        print(f"{scenario.name}: VIOLATION in chain {hunt.tally.chains}: {violation}")
        code, keep = 1, True
    except NotRunError as missing:
        print(f"{scenario.name}: NOT RUN: {missing}")
        code, keep = 2, keep or hunt.tally.chains > 0
    finally:
        send(signal.SIGKILL, freeze(lambda: family(str(folder))))
    print(f"{scenario.name}: {hunt.tally}", flush=True)
    if keep:
        print(f"    kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


# --- Whether this program would notice


def self_test() -> None:
    """Breaks a good store in each way, and starts processes that try to get away."""
    _test_killing()
    with tempfile.TemporaryDirectory(prefix="chaos-self-") as folder:
        place = new_place(Path(folder, "good"), Path(folder, "cache"))
        place.type("train.py", "-m", DIGITS, "optimizer.lr=0.01,0.1,1", "epochs=2")
        place.settle()
        _test_comparing(place)
    print("self-test: broken stores are noticed, and nobody gets away")


BREAKS: dict[str, tuple[str, Callable[[sqlite3.Connection, str], None]]] = {
    "a lost row": ("lost", lambda db, run: _change(db, "runs", run, lifecycle_stage="deleted")),
    "a doubled row": ("doubled", lambda db, run: _copy(db, run)),
    "a row RUNNING": ("running", lambda db, run: _change(db, "runs", run, status="RUNNING")),
    "another state": ("different", lambda db, run: _change(db, "runs", run, status="KILLED")),
    "other params": ("lost different", lambda db, run: _change(db, "params", run, "key = 'lr'", value="7")),
    "another last digit": ("different", lambda db, run: _nudge(db, "metrics", run)),
    "another last figure": ("different", lambda db, run: _nudge(db, "latest_metrics", run)),
    "a lost figure": ("different", lambda db, run: _drop_figure(db, run)),
    "a figure twice": ("doubled", lambda db, run: _double_figure(db, run)),
    "lost files": ("different", lambda db, run: _change(db, "runs", run, artifact_uri="file:///nowhere")),
    "another fingerprint": ("different", lambda db, run: _fingerprint(db, run)),
}


def _test_comparing(place: Place) -> None:
    reference = records(place)
    assert len(reference) == 3, reference
    assert compare(reference, records(place)).good
    for name, (kinds, break_it) in BREAKS.items():
        copy = place.folder / "broken.db"
        shutil.copy(place.folder / "mlflow.db", copy)
        with contextlib.closing(sqlite3.connect(copy)) as database:
            break_it(database, reference[1].id)
            database.commit()
        result = compare(reference, records(Place(place.folder, place.cache, "", ask_sqlite(copy))))
        noticed = {kind for kind, found in vars(result).items() if found}
        assert noticed == set(kinds.split()), f"{name}: noticed {noticed or 'nothing'}\n{result}"
    whole = table(place, reference)
    assert whole.total() == 3, whole
    compare_tables(whole, Counter(whole))
    for wrong in (whole - Counter([next(iter(whole))]), whole + Counter([next(iter(whole))])):
        with contextlib.suppress(ViolationError):
            compare_tables(whole, wrong)
            raise AssertionError("a table with a row too few or too many was not noticed")
    place.commands.append(place.commands[0])
    with contextlib.suppress(ViolationError):
        compare_twice_trained(place)
        raise AssertionError("a trial that was trained twice was not noticed")


def _change(database: sqlite3.Connection, table: str, run: str, where: str = "1", **values: str) -> None:
    for key, value in values.items():
        database.execute(f"UPDATE {table} SET {key} = ? WHERE run_uuid = ? AND {where}", (value, run))


def _copy(database: sqlite3.Connection, run: str) -> None:
    for name in ("runs", "params", "tags", "metrics", "latest_metrics"):
        cursor = database.execute(f"SELECT * FROM {name} WHERE run_uuid = ?", (run,))
        place = [column[0] for column in cursor.description].index("run_uuid")
        for row in cursor.fetchall():
            copied = (*row[:place], "f" * 32, *row[place + 1 :])
            database.execute(f"INSERT INTO {name} VALUES ({','.join('?' * len(row))})", copied)


def _nudge(database: sqlite3.Connection, table: str, run: str) -> None:
    at = "run_uuid = ? AND key = 'val/loss'"
    (value,) = database.execute(f"SELECT value FROM {table} WHERE {at} ORDER BY step DESC", (run,)).fetchone()
    changed = (math.nextafter(value, math.inf), run, value)
    database.execute(f"UPDATE {table} SET value = ? WHERE {at} AND value = ?", changed)


def _drop_figure(database: sqlite3.Connection, run: str) -> None:
    database.execute("DELETE FROM metrics WHERE run_uuid = ? AND key = 'val/loss' AND step = 1", (run,))


def _double_figure(database: sqlite3.Connection, run: str) -> None:
    database.execute(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
        "SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics "
        "WHERE run_uuid = ? AND key = 'val/loss' AND step = 1",
        (run,),
    )


def _fingerprint(database: sqlite3.Connection, run: str) -> None:
    database.execute("DELETE FROM tags WHERE run_uuid = ? AND key = 'fingerprint'", (run,))
    database.execute("INSERT INTO tags (key, value, run_uuid) VALUES ('fingerprint', 'another', ?)", (run,))


FUGITIVES = """
import os, subprocess, sys, time
if sys.argv[1] != "0":
    child = subprocess.Popen([sys.executable, __file__, str(int(sys.argv[1]) - 1)], start_new_session=True)
    if sys.argv[1] == "2":
        os._exit(0)  # the next one is an orphan
while True:
    time.sleep(0.01)
    if sys.argv[1] == "0" and os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
"""


def _test_killing() -> None:
    with tempfile.TemporaryDirectory(prefix="chaos-self-") as folder:
        place = new_place(Path(folder, "work"), Path(folder))
        program = place.folder / "fugitives.py"
        program.write_text(FUGITIVES)
        PROGRAMS["fugitives"] = [sys.executable, str(program)]
        for victim in (ALL, PARENT):
            command = place.start("fugitives", "3")
            deadline = time.monotonic() + 20
            while len(command.family()) < 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            frozen = freeze(command.family)
            assert len(frozen) >= 4, frozen
            assert any(process.parent not in frozen and pid != command.process.pid for pid, process in frozen.items())
            send(signal.SIGKILL, frozen if victim == ALL else [command.process.pid])
            command.process.wait(10)
            if victim == PARENT:
                send(signal.SIGCONT, frozen)
                assert command.family(), "what a dead parent has left behind was lost sight of"
            place.clear()
            place.settle(10)


# --- The command line


def main() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description="Kills sweeps at random moments and starts them again.")
    parser.add_argument("--kills", type=int, default=100, help="over all scenarios that are played (default 100)")
    parser.add_argument("--scenario", nargs="+", choices=names, help="default: all that can be played here")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; machines differ nevertheless")
    parser.add_argument("--keep", action="store_true", help="keep the folders in any case")
    parser.add_argument("--self-test", action="store_true", help="only see whether a broken store would be noticed")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"--seed {seed}", flush=True)
    chosen = [scenario for scenario in SCENARIOS if scenario.name in (arguments.scenario or names)]
    shares = sum(scenario.share for scenario in chosen)
    codes = [
        play(scenario, max(1, round(arguments.kills * scenario.share / shares)), seed, arguments.keep)
        for scenario in chosen
    ]
    sys.exit(1 if 1 in codes else 2 if 2 in codes and arguments.scenario else 0)


if __name__ == "__main__":
    main()
