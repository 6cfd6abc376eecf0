"""What a trial costs beside its training: N trials of a single step / a multirun of plain Hydra with MLflow's calls.

Ours trains and evaluates one step of logistic regression on the digits for each trial, in stacks, and takes it through
everything: plan, journal, store, table. The peer, benchmarks/peers/fluent.py, trains nothing and records the same.
Whole processes, each in an empty folder with a store that it makes, in turn, round by round; ratios are medians over
the rounds. The first run of ours at each N is not counted: it measures which way of training is the fastest, and
remembers it. The peer takes minutes for 1,000 trials, and is left out at 10,000.

Peak memory is the largest resident set (VmHWM, Linux) of the process that trains and of the one beside that writes.

    python benchmarks/overhead.py [--runs 3] [--trials 10 100 1000] [--all]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
OURS = (str(ROOT / "train.py"), "-m")
PEER = (str(ROOT / "benchmarks" / "peers" / "fluent.py"),)
SMALLEST = ("dataset=digits", "epochs=1", "batch_size=1437", "validation_split=0")
GOAL, GOAL_AT = 0.2, 1000
LARGE = 10_000
"""Trials from which the peer is left out."""


class Result(NamedTuple):
    seconds: float
    memory: float
    """MB of the process itself."""
    beside: float
    """MB of the largest of its descendants."""
    rows: dict[str, int]
    """In the store's tables."""


def run(program: tuple[str, ...], trials: int) -> Result:
    """One program, in a folder and a store of its own."""
    rates = ",".join(f"{(place + 1) / 1e5:.5f}" for place in range(trials))
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        command = [sys.executable, *program, *SMALLEST, f"optimizer.lr={rates}"]
        with open(Path(folder, "output"), "w+") as output:
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
            peaks: dict[int, float] = {}
            while process.poll() is None:
                peaks |= {pid: peak for pid in (process.pid, *descendants(process.pid)) if (peak := memory(pid))}
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.25)
            seconds = time.perf_counter() - began
            if process.returncode:
                output.seek(0)
                sys.exit(f"{program[0]} ended with {process.returncode}: {output.read()[-1000:]}")
        own = peaks.pop(process.pid, 0.0)
        return Result(seconds, own, max(peaks.values(), default=0.0), count_rows(Path(folder, "mlflow.db"), trials))


def descendants(pid: int) -> Iterator[int]:
    """Of a process, as Linux tells."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def memory(pid: int) -> float:
    """Peak resident set of a process in MB; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def count_rows(store: Path, trials: int) -> dict[str, int]:
    """Rows of the tables; sees to it that all trials are there."""
    with contextlib.closing(sqlite3.connect(store)) as database:
        (finished,) = database.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()
        if finished != trials:
            sys.exit(f"{finished} of {trials} trials are recorded as finished")
        tables = ("params", "tags", "metrics", "inputs")
        return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def compare(trials: int, rounds: int) -> None:
    """Prints a row of the table, and how it came about to standard error."""
    run(OURS, trials)
    ours, peer = [], []
    for number in range(1, rounds + 1):
        ours.append(run(OURS, trials))
        if trials < LARGE:
            peer.append(run(PEER, trials))
            more = {name: count for name, count in peer[-1].rows.items() if count > ours[-1].rows[name]}
            if more:
                sys.exit(f"the peer records more than ours: {more} rows, ours {ours[-1].rows}")
        told = f", peer {peer[-1].seconds:.1f} s" if peer else ""
        print(f"{trials} trials, round {number}: ours {ours[-1].seconds:.1f} s{told}", file=sys.stderr)
    cells = [f"{trials:,}", f"{per_trial(ours, trials):.1f}"]
    if peer:
        ratio = statistics.median(one.seconds / other.seconds for one, other in zip(ours, peer, strict=True))
        cells += [f"{per_trial(peer, trials):.1f}", f"{ratio:.3f}"]
    else:
        cells += ["left out", ""]
    cells += [f"{max(one.memory for one in ours):.0f}", f"{max(one.beside for one in ours):.0f}"]
    cells += [f"{max(one.memory for one in peer):.0f}" if peer else ""]
    print(f"| {' | '.join(cells)} |", flush=True)


def per_trial(results: list[Result], trials: int) -> float:
    """Milliseconds."""
    return 1000 * statistics.median(result.seconds for result in results) / trials


def main() -> None:
    parser = argparse.ArgumentParser(description="What a trial costs beside its training.")
    parser.add_argument("--runs", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1000], help="default 10 100 1000")
    parser.add_argument("--all", action="store_true", help=f"{LARGE:,} trials of ours, too, in a single round")
    arguments = parser.parse_args()
    print(f"ours / peer, goal: at most {GOAL} at {GOAL_AT:,} trials, and memory that does not grow with the trials\n")
    print("| trials | ours, ms a trial | peer, ms a trial | ours / peer | peak MB, training | writing | peer |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for trials in arguments.trials:
        compare(trials, arguments.runs)
    if arguments.all:
        compare(LARGE, 1)


if __name__ == "__main__":
    main()
