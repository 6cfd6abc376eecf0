"""Whatever dies, whenever: the same command again finishes the sweep, as a user sees it."""

import contextlib
import csv
import ctypes
import io
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sweepstack.cli.main import main
from sweepstack.private_api_switch import NO_TRICKS
from sweepstack.tracking.store import Store

from .terminal import Terminal, new_store

# A stack of four, and four that no stack takes; of each two that end early. As a stopwatch would choose, but fixed.
FIXED = ("--config-dir", "my_conf", "dataset=digits", "model=mlp", "model.dropout=0.2", "schedule=cosine", "threads=1")
GRID = (*FIXED, "batch_size=300", "launch.width=4", "optimizer=sgd,rms", "optimizer.lr=0.001,0.01", "epochs=10,70")
SWEEP = ("train.py", "-m", *GRID, "checkpoint.every=0")
SHORT = ("train.py", "-m", "dataset=digits", "threads=1")
ENDED = re.compile(r"^\[\d+/\d+\] (\S.*?)  ", re.MULTILINE)
NET = (
    "import os, pathlib, time, torch\n"
    "def count():\n"
    "    os.environ['CALLS'] = str(int(os.environ.get('CALLS', 0)) + 1)\n"
    "    return int(os.environ['CALLS'])\n"
    "class Net(torch.nn.Linear):\n"
    "    def __init__(self, shape, classes):\n"
    "        super().__init__(64, classes)\n"
    "    def forward(self, images):\n"
    "        if self.training: self.before()\n"
    "        return super().forward(images.flatten(1))\n"
)
"""A user's module; what `before` does comes after it. It counts where no stack looks: a module that counts in an
attribute trains alone."""


def furnish(folder: Path, empty_database: Path) -> Terminal:
    """A terminal with a store, and an optimizer that has no stacked form."""
    new_store(folder, empty_database)
    (folder / "my_conf" / "optimizer").mkdir(parents=True)
    (folder / "my_conf" / "optimizer" / "rms.yaml").write_text("_target_: torch.optim.RMSprop\nlr: 0.01\n")
    return Terminal(folder)


@pytest.fixture
def terminal(tmp_path: Path, empty_database: Path) -> Terminal:
    return furnish(tmp_path, empty_database)


# --- What is looked at


def ask(terminal: Terminal, question: str, name: str = "mlflow.db") -> list[Any]:
    """Asks the database itself, not MLflow."""
    with contextlib.closing(sqlite3.connect(terminal.folder / name, timeout=60)) as database:
        return database.execute(question).fetchall()


def runs(terminal: Terminal, name: str = "mlflow.db") -> list[tuple[str, str]]:
    """Name and state of every run."""
    return sorted(ask(terminal, "SELECT name, status FROM runs", name))


def points(terminal: Terminal, name: str = "mlflow.db") -> Counter[tuple[str, str, int, float]]:
    """How often the store holds each point of each run, times apart."""
    at = "SELECT name, key, step, value FROM metrics JOIN runs USING (run_uuid) WHERE key NOT LIKE 'train_seconds%'"
    return Counter(ask(terminal, at, name))


def twice(terminal: Terminal, name: str = "mlflow.db") -> list[Any]:
    """Places in a run that hold more than one value."""
    return ask(terminal, "SELECT run_uuid, key FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1", name)


def table(terminal: Terminal) -> list[dict[str, str]]:
    """The table of the latest sweep, without what differs from run to run."""
    text = sweepstack(terminal, "table", "--format", "csv", "--sort", "name").stdout
    mine = re.compile("train_seconds|run_id|sweep|started|log|experiment_id")
    return [{k: v for k, v in row.items() if not mine.match(k)} for row in csv.DictReader(io.StringIO(text))]


def weights(terminal: Terminal) -> dict[str, bytes]:
    """Of each run, as they are kept with it."""
    found = ask(terminal, "SELECT name, artifact_uri FROM runs")
    return {name: Path(uri.removeprefix("file://"), "weights.pt").read_bytes() for name, uri in found}


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def sweepstack(terminal: Terminal, *words: str, uri: str = "") -> Result:
    """Types the command; in this process, for most of its time goes to importing MLflow."""
    return CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": uri or terminal.uri})


@dataclass
class Sweep:
    """A sweep that nothing has disturbed, and what was found in its store then."""

    terminal: Terminal
    table: list[dict[str, str]]
    points: Counter[tuple[str, str, int, float]]
    weights: dict[str, bytes]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Sweep:
    terminal = furnish(tmp_path_factory.mktemp("undisturbed"), empty_database)
    done = terminal.type(*SWEEP, "tracking.sweep=first")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("8 trials -> 8 trajectories -> 5 stacks\n")
    return Sweep(terminal, table(terminal), points(terminal), weights(terminal))


def assert_as_undisturbed(terminal: Terminal, sweep: Sweep) -> None:
    """The same trials with the same figures bit for bit, each once."""
    assert [state for _, state in runs(terminal)] == ["FINISHED"] * 8
    assert table(terminal) == sweep.table
    assert points(terminal) == sweep.points
    assert not twice(terminal)
    assert weights(terminal) == sweep.weights


# --- What is done to a command


@contextlib.contextmanager
def watched(process: subprocess.Popen[str], seconds: float = 120) -> Iterator[None]:
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    yield
    watchdog.cancel()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What a command says until it says that."""
    said = ""
    assert process.stdout is not None
    with watched(process):
        for line in process.stdout:
            said += line
            if text in line:
                return said
    assert process.stderr is not None
    pytest.fail(f"{text} was not said:\n{said}{process.stderr.read()}")


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_another_checkpoint(terminal: Terminal) -> None:
    """Until the next training has come so far."""

    def found() -> set[Path]:
        return {*terminal.folder.glob("journal/*/checkpoints/*/latest.pt")}

    before = found()
    wait_for(lambda: found() - before)


def family(pid: int) -> set[int]:
    """A process and its descendants, whatever sessions these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def kill_all(process: subprocess.Popen[str]) -> None:
    """kill -9, and nobody gets away."""
    process.send_signal(signal.SIGSTOP)
    everybody = family(process.pid)
    assert len(everybody) > 1
    for pid in everybody:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def seconds_to_end(process: subprocess.Popen[str]) -> float:
    began = time.monotonic()
    with watched(process):
        process.wait()
    return time.monotonic() - began


@contextlib.contextmanager
def locked(terminal: Terminal) -> Iterator[None]:
    """Nobody else can read or write the store meanwhile."""
    with contextlib.closing(sqlite3.connect(terminal.folder / "mlflow.db", timeout=60, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


# --- Rerun is resume


def test_the_same_command_again_trains_nothing_and_has_the_same_table(undisturbed: Sweep) -> None:
    terminal = undisturbed.terminal
    before = ask(terminal, "SELECT * FROM runs ORDER BY run_uuid")
    done = terminal.type(*SWEEP, "tracking.sweep=again")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("8 trials trained before: not trained again (rerun=true does)\n")
    assert not ENDED.findall(done.stdout)
    assert table(terminal) == undisturbed.table
    assert points(terminal) == undisturbed.points
    assert ask(terminal, "SELECT * FROM runs ORDER BY run_uuid") == before
    for job in range(8):
        first, again = (terminal.folder / "multirun" / sweep / str(job) for sweep in ("first", "again"))
        assert (again / "weights.pt").read_bytes() == (first / "weights.pt").read_bytes()
        assert (again / ".hydra" / "config.yaml").is_file()


def test_killed_anywhere_it_is_gone_on_with_and_ends_bit_for_bit_the_same(
    terminal: Terminal, undisturbed: Sweep
) -> None:
    """In the middle of a stack, and again in the middle of a trial on its own."""
    process = terminal.start(*SWEEP, fresh=True)
    said = read_until(process, "[1/8]")
    kill_all(process)

    before = content(terminal.folder)
    wider = [*GRID[:-1], "epochs=10,70,3"]
    shown = terminal.type("train.py", "-m", *wider, "checkpoint.every=0", "launch.dry_run=true")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert re.match(r"[12] trials? trained before: not trained again", lines[0])
    assert "5 stacks interrupted before: resumed" in lines
    assert sum(", to be resumed: " in line for line in lines) == 5
    new = lines[next(n for n, line in enumerate(lines) if line.startswith("stack 6: ")) :]
    assert {line.split()[-1] for line in new if line.startswith("    ")} == {"epochs=3"}
    assert content(terminal.folder) == before  # nothing is trained or written

    process = terminal.start(*SWEEP, fresh=True)
    said += read_until(process, "optimizer=rms lr=0.001 epochs=10")
    wait_for_another_checkpoint(terminal)
    kill_all(process)
    assert sweepstack(terminal, "sync").exit_code == 0
    assert {state for _, state in runs(terminal)} == {"FINISHED", "KILLED"}  # nothing is left RUNNING

    done = terminal.type(*SWEEP)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^[1-4] stacks? interrupted before: resumed$", done.stdout, re.MULTILINE)
    trained = ENDED.findall(said + done.stdout)
    assert len(trained) == len(set(trained))
    assert_as_undisturbed(terminal, undisturbed)


def test_stopped_it_is_gone_on_with_even_when_a_checkpoint_is_damaged(terminal: Terminal, undisturbed: Sweep) -> None:
    """Ctrl-C in the middle of a stack, SIGTERM in the middle of a trial on its own."""
    process = terminal.start(*SWEEP)
    read_until(process, "[1/8]")
    process.send_signal(signal.SIGINT)
    with watched(process):
        process.wait()
    assert process.returncode == 130
    assert process.stderr is not None
    (last_words,) = process.stderr.read().splitlines()
    assert last_words.startswith("Stopped")
    terminal.wait_for_records()
    states = Counter(state for _, state in runs(terminal))
    assert states.keys() == {"FINISHED", "KILLED"}

    (newest,) = terminal.folder.glob("journal/*/checkpoints/*/latest.pt")
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    process = terminal.start(*SWEEP)
    said = read_until(process, "optimizer=rms lr=0.001 epochs=10")
    assert "5 stacks interrupted before: resumed\n" in said
    assert "is damaged (latest.pt does not match its checksum); training resumes from the previous one" in said
    wait_for_another_checkpoint(terminal)
    process.send_signal(signal.SIGTERM)
    with watched(process):
        process.wait()
    assert process.returncode == 143
    assert process.stdout is not None
    assert re.search(r"KILLED: stopped after step \d+ of \d+$", process.stdout.read(), re.MULTILINE)

    done = terminal.type(*SWEEP)
    assert (done.returncode, done.stderr) == (0, "")
    assert_as_undisturbed(terminal, undisturbed)


def test_a_wider_grid_trains_only_the_new_points_and_waits_for_a_locked_database(undisturbed: Sweep) -> None:
    terminal = undisturbed.terminal
    count = len(runs(terminal))
    with locked(terminal):
        process = terminal.start("train.py", "-m", *GRID[:-1], "epochs=3,10", "checkpoint.every=0")
        time.sleep(3)
    said = read_until(process, "[1/4]")
    with locked(terminal):
        time.sleep(2)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert said.startswith("4 trials trained before: not trained again (rerun=true does)\n4 trials -> ")
    assert {name.split()[-1] for name in ENDED.findall(said + out)} == {"epochs=3"}
    assert [row["epochs"] for row in table(terminal)] == ["10", "3"] * 4
    assert len(runs(terminal)) == count + 4


@pytest.mark.parametrize("signals", [1, 2])
def test_a_step_that_takes_long_is_broken_off_in_time_and_at_once_by_a_second_signal(
    terminal: Terminal, signals: int
) -> None:
    (terminal.folder / "slow.py").write_text(
        NET + "    def before(self):\n        pathlib.Path('begun').touch()\n        time.sleep(20)\n"
    )
    limit = 5 if signals == 1 else 1
    for _ in range(3):  # a promise of the program, which a machine that is busy otherwise may not let it keep each time
        (terminal.folder / "begun").unlink(missing_ok=True)
        process = terminal.start("train.py", "dataset=digits", "model._target_=slow.Net")
        wait_for((terminal.folder / "begun").exists)
        for _ in range(signals):
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        taken = seconds_to_end(process)
        assert process.returncode == 130
        if taken < limit:
            break
    assert taken < limit
    terminal.wait_for_records()
    assert [state for _, state in runs(terminal)] == ["KILLED"]


def test_two_commands_at_once_share_the_work(terminal: Terminal) -> None:
    grid = (*SHORT, "batch_size=300", "launch.width=2", "epochs=100")
    one = terminal.start(*grid, "optimizer.lr=0.1,0.2", "seed=0,1", "tracking.sweep=one")
    other = terminal.start(*grid, "optimizer.lr=0.1,0.2,0.3", "seed=0,1", "tracking.sweep=other")
    outputs = []
    for process in (one, other):
        out, err = process.communicate(timeout=240)
        assert (process.returncode, err) == (0, "")
        outputs.append(out)
    trained = ENDED.findall("".join(outputs))
    assert len(trained) == len(set(trained)) == len(runs(terminal)) == 6
    assert {state for _, state in runs(terminal)} == {"FINISHED"}
    assert not twice(terminal)
    for sweep, count in (("one", 4), ("other", 6)):
        assert len(terminal.store.rows(sweep)) == count
        assert len([*terminal.folder.glob(f"multirun/{sweep}/*/weights.pt")]) == count


# --- Trials that fail


def test_errors_that_may_pass_are_tried_again_and_a_sweep_stops_after_enough_failures(terminal: Terminal) -> None:
    (terminal.folder / "flaky.py").write_text(
        NET + "    def before(self):\n"
        "        tried = pathlib.Path(type(self).__name__)\n"
        "        if not tried.exists():\n"
        "            tried.touch()\n"
        "            raise type(self).error('the cat is on the keyboard')\n"
        "class Passes(Net):\n"
        "    error = OSError\n"
        "class Fails(Net):\n"
        "    error = ValueError\n"
        "class Last(Net):\n"
        "    error = OSError\n"
    )
    grid = (*SHORT, "epochs=2", "model._target_=flaky.Passes,flaky.Fails,flaky.Last", "retries=1", "engine=inline")
    done = terminal.type(*grid, "max_failures=1", "tracking.sweep=first")
    assert done.returncode == 1
    assert re.search(r"Passes: OSError: the cat is on the keyboard \(in your flaky.py, .*\); try 2 of 2\.", done.stdout)
    assert "flaky.Fails: ValueError" not in done.stdout  # a value does not pass
    assert not (terminal.folder / "Last").exists()
    assert "Traceback" not in done.stdout + done.stderr
    assert dict(runs(terminal)) == {"_target_=flaky.Passes": "FINISHED", "_target_=flaky.Fails": "FAILED"}
    lines = done.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.split() == ["failed", "reason", "log"])
    assert lines[at + 2].startswith("_target_=flaky.Fails  ValueError: the cat is on the keyboard (in your flaky.py, ")
    log = Path(lines[at + 2].split()[-1])
    assert "ValueError: the cat is on the keyboard" in log.read_text()
    assert "Traceback" in log.read_text()
    assert "1 trial not trained, because max_failures=1 is reached" in done.stdout + done.stderr

    done = terminal.type(*grid, "tracking.sweep=second")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 trial trained before: not trained again (rerun=true does)\n")
    assert runs(terminal) == [(f"_target_=flaky.{name}", "FINISHED") for name in ("Fails", "Last", "Passes")]
    assert not twice(terminal)


def test_stopped_in_a_half_the_other_half_is_said_to_be_stopped_and_both_go_on(terminal: Terminal) -> None:
    (terminal.folder / "half.py").write_text(
        NET + "    def before(self):\n"
        "        calls = count()\n"
        "        if calls == 150: raise torch.OutOfMemoryError('the memory is full')\n"
        "        if calls == 200: os.kill(os.getpid(), 2)\n"
    )
    sweep = (*SHORT, "model._target_=half.Net", "optimizer.lr=0.1,0.2", "seed=0,1", "launch.width=4", "epochs=20")
    stopped = terminal.type(*sweep)
    assert stopped.returncode == 130
    assert "its trials go on in halves" in stopped.stdout
    terminal.wait_for_records()
    rows = terminal.store.rows()
    assert [row.state for row in rows] == ["KILLED"] * 4
    assert not {"its process died"} & {row.reason for row in rows}
    (terminal.folder / "half.py").write_text(
        (terminal.folder / "half.py").read_text().replace("== 150", "< 0").replace("== 200", "< 0")
    )
    done = terminal.type(*sweep)
    assert (done.returncode, done.stderr) == (0, "")
    assert [state for _, state in runs(terminal)].count("FINISHED") == 4


# --- Places that fail


def obey_modes() -> None:
    """Nothing is read-only for root, unless it gives up that right."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))


def damage_ledger(terminal: Terminal) -> None:
    ledger = terminal.folder / "journal" / "mlflow.db" / "ledger.db"
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"this was a ledger" * 1000)


def forbid_journal(terminal: Terminal) -> None:
    (terminal.folder / "journal").mkdir(mode=0o555)


def make_newer(terminal: Terminal) -> None:
    with contextlib.closing(sqlite3.connect(terminal.folder / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.commit()


@pytest.mark.parametrize(
    ("spoil", "rule", "remedy"),
    [
        (forbid_journal, "the journal's folder must be writable, {folder}/journal/mlflow.db ", "tracking.journal="),
        (damage_ledger, "the journal's ledger must be an sqlite file, {folder}/journal/mlflow.db/ledger.db ", "delete"),
        (make_newer, "the tracking store must be of MLflow ", "update mlflow"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_clear_line_and_nothing_is_touched(
    terminal: Terminal, spoil: Callable[[Terminal], None], rule: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spoil is make_newer:
        monkeypatch.delenv(NO_TRICKS, raising=False)  # the public way is to hear it from MLflow, when all is trained
    spoil(terminal)
    before = content(terminal.folder)
    done = terminal.type(*SHORT, "epochs=1", before=obey_modes if spoil is forbid_journal else None)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {rule.format(folder=terminal.folder)}")
    assert remedy in line
    after = content(terminal.folder)
    assert {path: after[path] for path in before} == before
    assert {path.relative_to(terminal.folder).parts[0] for path in after.keys() - before.keys()} == {"multirun"}


def test_when_the_disk_is_full_it_is_said_and_the_same_command_goes_on_from_there(terminal: Terminal) -> None:
    grid = (*SHORT, "batch_size=300", "optimizer.lr=0.1,0.2", "launch.width=2", "epochs=10,300", "checkpoint.every=0")
    done = terminal.type(*grid, before=small_files)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    (shown,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert shown.startswith("error: the journal must be writable, ")
    assert "make room" in shown

    again = terminal.type(*grid)
    assert (again.returncode, again.stderr) == (0, "")
    assert "1 stack interrupted before: resumed\n" in again.stdout
    assert [state for _, state in runs(terminal)] == ["FINISHED"] * 4
    trained = ENDED.findall(done.stdout + again.stdout)
    assert len(trained) == len(set(trained)) == 4
    assert not twice(terminal)
    steps = ask(terminal, "SELECT count(*) FROM metrics WHERE key = 'val/loss'")
    assert steps == [(2 * 10 + 2 * 300,)]


# --- A server


def serve(terminal: Terminal, port: int) -> subprocess.Popen[bytes]:
    """MLflow's own server, once it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{terminal.folder}/server.db"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        command,
        cwd=terminal.folder,
        env={**terminal.environment, **quiet},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_without_its_server_a_sweep_goes_on_and_everything_is_delivered_later_exactly_once(terminal: Terminal) -> None:
    shutil.copy(terminal.folder / "mlflow.db", terminal.folder / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    there = (f"tracking.uri={uri}", f"tracking.journal={terminal.folder}/journal")
    done = terminal.type(*SHORT, "epochs=2", "optimizer.lr=0.1,0.2", "tracking.sweep=down", *there)
    assert done.returncode == 3
    assert len(ENDED.findall(done.stdout)) == 2
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"The tracking server {uri} does not answer ")
    assert len(lines) <= 3  # what is kept, and that the table must wait
    (sync,) = re.findall("^Deliver: +.*?sweepstack (.*)$", done.stdout, re.MULTILINE)
    assert sweepstack(terminal, *shlex.split(sync)).exit_code == 2  # as it is printed

    server = serve(terminal, port)
    try:
        delivered = sweepstack(terminal, *shlex.split(sync))
        assert (delivered.exit_code, delivered.stdout) == (0, f"2 trials delivered to {uri}\n")
        assert sweepstack(terminal, *shlex.split(sync)).stdout == "Everything is delivered.\n"
        assert runs(terminal, "server.db") == [("lr=0.1", "FINISHED"), ("lr=0.2", "FINISHED")]
        assert not twice(terminal, "server.db")
        assert len(points(terminal, "server.db")) > 10

        # And with a server that answers, without a word; it is asked what was trained before.
        done = terminal.type(*SHORT, "epochs=2", "optimizer.lr=0.2,0.3,0.4", "tracking.sweep=up", *there)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[:2] == [
            "1 trial trained before: not trained again (rerun=true does)",
            "2 trials -> 2 trajectories -> 1 stack",
        ]
        assert sorted(ENDED.findall(done.stdout)) == ["lr=0.3", "lr=0.4"]
        assert {row.name: row.state for row in Store(uri).rows("up")} == {
            "lr=0.2": "FINISHED",
            "lr=0.3": "FINISHED",
            "lr=0.4": "FINISHED",
        }
    finally:
        server.terminate()
        server.wait(30)
