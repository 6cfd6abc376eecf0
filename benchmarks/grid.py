"""The grid of the README, learning rate x batch size x epochs, 27 trials: ours / our plain trainer / peers.

Whole processes, each on an empty store, in turn, round by round; ratios are medians over the rounds. "plain trainer"
is the same command with hydra/launcher=basic: Hydra's own launcher, and each of the 27 trials trained by the plain
trainer, one after the other in one process; "joblib launcher" is the same in a process for each core. What each other
peer does and records is said at the top of its file in benchmarks/peers.

Needs the extra `bench`, and a quiet machine: PyTorch's default threads, with which tutorial and lightning_hydra run,
wait for one another many times as long when something else takes a core. The two take 40 minutes a round for the whole
grid; --epochs 5 leaves a seventh of it.

    python benchmarks/grid.py [--runs 3] [--epochs 5,10,20] [--peers [NAME ...]]
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LAUNCHER = "joblib launcher"
PEERS = (LAUNCHER, "tutorial", "lightning_hydra", "ray_tune", "optuna_joblib", "sklearn_sgd")
SWEEP = (str(ROOT / "train.py"), "-m", "sweeps=lr_batch_epochs")
SWEEPSTACK = Path(sys.executable).with_name("sweepstack")
OURS, PLAIN, GOAL = "ours", "plain trainer", 0.15


class Result(NamedTuple):
    seconds: float
    accuracies: list[tuple[float, float]]
    """(validation, test) of every trial at its end."""


class RunError(Exception):
    """A program that ended badly, and the end of what it said."""


def run(command: Sequence[str], *, recorded: bool) -> Result:
    """One program, in a folder of its own. Accuracies come from MLflow's store if `recorded` there, else from the JSON
    line it ends with."""
    with tempfile.TemporaryDirectory(prefix="grid-") as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
        began = time.perf_counter()
        done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RunError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}")
        if not recorded:
            trials = json.loads(done.stdout.splitlines()[-1])["trials"]
            return Result(seconds, [(trial["val_accuracy"], trial["test_accuracy"]) for trial in trials])
        table = [str(SWEEPSTACK), "table", "--sweep", "all", "--format", "csv", "--store", store]
        exported = subprocess.run(table, cwd=folder, check=True, capture_output=True, text=True).stdout
        rows = csv.DictReader(io.StringIO(exported))
        finished = [row for row in rows if row["state"] == "FINISHED"]
        return Result(seconds, [(float(row["val/accuracy"]), float(row["test/accuracy"])) for row in finished])


def main() -> None:
    parser = argparse.ArgumentParser(description="The grid of 27 trials: ours, the plain trainer, peers.")
    parser.add_argument("--runs", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--epochs", default="5,10,20", help="the grid's epochs (default 5,10,20)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, metavar="NAME", help=f"all, or some of {', '.join(PEERS)}")
    arguments = parser.parse_args()
    peers = () if arguments.peers is None else arguments.peers or PEERS
    ours = (*SWEEP, f"epochs={arguments.epochs}")
    commands = {OURS: ours, PLAIN: (*ours, "hydra/launcher=basic")}
    commands |= {peer: (str(ROOT / "benchmarks/peers" / f"{peer}.py"), "--epochs", arguments.epochs) for peer in peers}
    if LAUNCHER in commands:
        commands[LAUNCHER] = (*ours, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={os.cpu_count()}", "threads=1")

    results: dict[str, list[Result]] = {name: [] for name in commands}
    for number in range(1, arguments.runs + 1):
        for name, command in list(commands.items()):
            try:
                result = run(command, recorded=name in (OURS, PLAIN, LAUNCHER))
            except RunError as failure:
                print(f"{name} is left out. {failure}", file=sys.stderr)
                del commands[name], results[name]
                continue
            results[name].append(result)
            print(f"round {number}: {name} {result.seconds:.1f} s", file=sys.stderr)
    if OURS not in results:
        sys.exit(1)

    print("| | wall seconds | / ours | best validation accuracy | its test accuracy | trials |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, found in results.items():
        val, test = max(found[-1].accuracies, key=lambda pair: pair[0])
        seconds, trials = statistics.median(result.seconds for result in found), len(found[-1].accuracies)
        print(f"| {name} | {seconds:.1f} | {ratio(found, results[OURS]):.2f} | {val:.4f} | {test:.4f} | {trials} |")
    if PLAIN in results:
        print(f"\nours / plain trainer: {ratio(results[OURS], results[PLAIN]):.3f} (goal: at most {GOAL})")


def ratio(one: list[Result], other: list[Result]) -> float:
    """Median over the rounds."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
