"""A search with a pruner is killed at random moments and typed again / the same search undisturbed: nothing is lost.

The search is TPE with halving on scikit-learn's digits, with `engine=inline` and a budget in trials, for which the end
of a killed search is promised to be that of an undisturbed one. For each moment, in a folder and store of its own: the
command is killed with SIGKILL, with all of its processes, at a moment drawn from 0 to the time that an undisturbed one
takes, and typed again; a moment after its end is drawn anew. Then the points of the study (params, state and value),
the runs in the store (params, state) and each of their figures at each step are compared bit for bit with those of the
undisturbed search.

    python benchmarks/search_chaos.py [--moments 30] [--seed 0]

Exit code 1 if anything differs. Times on the clock are left out of the comparison (train_seconds).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

ROOT = Path(__file__).parents[1]
SEARCH = (
    *("search=tpe", "search.trials=24", "search.width=6", "pruner=halving", "epochs=9", "engine=inline"),
    *("dataset=digits", "device=cpu", "threads=1", "launch.stack=force", "checkpoint.every=0"),
    *("optimizer.lr=tag(log,interval(1e-3,1))", "batch_size=50,100"),
)
"""What is typed. `launch.stack=force`: which way trains the fastest is not measured, which would differ by rounding."""
LIMIT = 300
"""The most seconds that a command may take."""
STATE = "coalesce((SELECT 'PRUNED' FROM tags t WHERE t.run_uuid = r.run_uuid AND key = 'sweepstack.pruned'), status)"
FIGURES = "SELECT run_uuid, key, step, value FROM metrics WHERE key NOT LIKE 'train_seconds%'"


@dataclass(frozen=True)
class Result:
    """What a search has come to."""

    points: tuple[Hashable, ...]
    """Of each point of the study, in order: params, state, value."""
    runs: Counter[Hashable]
    """How often the store has a run with these params and this state."""
    figures: Counter[Hashable]
    """How often it has a figure, with the params of its run."""

    @property
    def states(self) -> str:
        """How many points are in each state."""
        counts = Counter(str(point[1]) for point in self.points if isinstance(point, tuple))
        return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))


def typed(folder: Path) -> subprocess.Popen[bytes]:
    """Types the search in a folder that has a store of its own."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), "-m", *SEARCH],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kills a command and all processes of its session; returns False if it had ended before."""
    running = process.poll() is None
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            if session == process.pid:
                os.kill(int(entry.name), signal.SIGKILL)
    process.wait()
    return running


def result(folder: Path) -> Result:
    """Reads the study and the store, once all records are there."""
    deadline = time.monotonic() + LIMIT
    while [*folder.glob("journal/*/[0-9]*.jsonl")] and time.monotonic() < deadline:
        time.sleep(0.1)
    (file,) = folder.glob("journal/*/searches/*.jsonl")
    storage = JournalStorage(JournalFileBackend(str(file)))
    (study,) = storage.get_all_studies()
    points = optuna.load_study(study_name=study.study_name, storage=storage).trials
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as database:
        params: dict[str, tuple[tuple[str, str], ...]] = {}
        for run, key, value in database.execute("SELECT run_uuid, key, value FROM params ORDER BY key").fetchall():
            params[run] = (*params.get(run, ()), (key, value))
        states = dict(database.execute(f"SELECT run_uuid, {STATE} FROM runs r").fetchall())
        figures = database.execute(FIGURES).fetchall()
    return Result(
        tuple((tuple(sorted(one.params.items())), one.state.name, one.value) for one in points),
        Counter((params[run], states[run]) for run in params),
        Counter((params[run], key, step, value) for run, key, step, value in figures if run in params),
    )


def finish(folder: Path) -> Result:
    """Types the search and waits for its end.

    Raises:
        SystemExit: it fails.
    """
    process = typed(folder)
    try:
        code = process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        kill(process)
        raise SystemExit(f"the search has not ended within {LIMIT} s, see {folder}/output.txt") from None
    if code != 0:
        raise SystemExit(f"exit code {code}: {(folder / 'output.txt').read_text()[-1000:]}")
    return result(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="A search that is killed / the same search undisturbed.")
    parser.add_argument("--moments", type=int, default=30, help="how often it is killed, each time anew (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    arguments = parser.parse_args()
    chance, wrong = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="search-chaos-") as parent:
        first = Path(parent, "undisturbed")
        first.mkdir()
        began = time.monotonic()
        expected = finish(first)
        seconds = time.monotonic() - began
        print(f"undisturbed: {len(expected.points)} points ({expected.states}), {seconds:.1f} s")
        print(
            f"{'moment':>6} {'killed at':>9}  {'points':>6}  {'lost':>4}  {'doubled':>7}  {'bit for bit':<11}  states"
        )
        for moment in range(1, arguments.moments + 1):
            is_hit = False
            while not is_hit:
                folder = Path(tempfile.mkdtemp(dir=parent))
                after, began = chance.uniform(0, seconds), time.monotonic()
                process = typed(folder)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(after)
                is_hit = kill(process)
                seconds = seconds if is_hit else time.monotonic() - began  # the machine has become faster
            found = finish(folder)
            lost = sum((expected.runs - found.runs).values())
            doubled = sum((found.runs - expected.runs).values())
            same = found == expected
            wrong += not same
            print(
                f"{moment:>6} {after:>7.2f} s  {len(found.points):>6}  {lost:>4}  {doubled:>7}  "
                f"{'yes' if same else 'NO':<11}  {found.states}",
                flush=True,
            )
    print(f"{arguments.moments} moments: {wrong} differ")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
