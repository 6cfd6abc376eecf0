"""`pruner=halving` on a grid of 64 settings / the full grid, stacked: trial-epochs, wall clock, accuracy lost.

Learning rate x momentum on MNIST, 27 epochs, for logistic regression and an MLP; for each seed both commands in turn in
this one run, as whole processes on empty stores. The accuracy lost is that of the best trial on the validation data, in
points; ratios are medians over the seeds. The first run of each model is not counted: it measures which way of training
is the fastest, and remembers it.

    python benchmarks/halving.py [--seeds 5] [--quick] [--models logistic mlp] [--words WORD ...]

--quick takes scikit-learn's digits and 9 epochs: a minute, to see that it runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from sweepstack.tracking.histories import histories
from sweepstack.tracking.store import Store

ROOT = Path(__file__).parents[1]
RATES = [f"{10 ** (-3.5 + 3.5 * place / 15):.3g}" for place in range(16)]
MOMENTA = ("0.0", "0.5", "0.9", "0.95")
GRID = (f"optimizer.lr={','.join(RATES)}", f"optimizer.momentum={','.join(MOMENTA)}")
OBJECTIVE = "val/accuracy"
GOALS = {"trial-epochs": 0.20, "wall clock": 0.35, "points lost": 0.1}


class Result(NamedTuple):
    """What a command has cost, and what it found."""

    seconds: float
    epochs: int
    """Of all its trials together."""
    best: float
    """The best validation accuracy of a trial that has finished."""
    states: dict[str, int]


def run(words: list[str]) -> Result:
    """Runs a sweep as a whole process on an empty store."""
    with tempfile.TemporaryDirectory(prefix="halving-") as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        began = time.perf_counter()
        command = [sys.executable, str(ROOT / "train.py"), "-m", *words]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode not in (0, 1):  # 1: settings of the grid diverge
            raise SystemExit(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}")
        store = Store(uri)
        rows = store.rows("latest")
        epochs = len(histories(store, [row.run_id for row in rows], OBJECTIVE))
        best = max(row.metrics[OBJECTIVE] for row in rows if row.state == "FINISHED")
        states = [row.state for row in rows]
        return Result(seconds, epochs, best, {state: states.count(state) for state in sorted({*states})})


def main() -> None:
    parser = argparse.ArgumentParser(description="Successive halving of a grid / the full grid.")
    parser.add_argument("--seeds", type=int, default=5, help="how often (default 5)")
    parser.add_argument("--quick", action="store_true", help="the digits and 9 epochs")
    parser.add_argument("--models", nargs="*", default=["logistic", "mlp"], help="config names (default logistic mlp)")
    parser.add_argument("--words", nargs="*", default=[], help="further words, such as pruner.min_epochs=2")
    arguments = parser.parse_args()
    data = ["dataset=digits", "epochs=9"] if arguments.quick else ["dataset=mnist", "epochs=27"]
    print(f"{'model':<10} {'seed':>4}  {'trial-epochs':>12} {'wall clock':>10} {'points lost':>11}")
    for model in arguments.models:
        words = [f"model={model}", *data, *GRID]
        run([*words, "epochs=1"])
        found: list[dict[str, float]] = []
        for seed in range(arguments.seeds):
            full = run([*words, f"seed={seed}"])
            pruned = run([*words, f"seed={seed}", "pruner=halving", *arguments.words])
            ratios = (pruned.epochs / full.epochs, pruned.seconds / full.seconds, 100 * (full.best - pruned.best))
            found.append(dict(zip(GOALS, ratios, strict=True)))
            shown = f"{ratios[0]:>12.3f} {ratios[1]:>10.2f} {ratios[2]:>11.2f}"
            print(f"{model:<10} {seed:>4}  {shown}   {full.seconds:.1f} s -> {pruned.seconds:.1f} s, {pruned.states}")
        medians = {name: statistics.median(one[name] for one in found) for name in GOALS}
        medians["points lost"] = statistics.mean(one["points lost"] for one in found)
        goals = ", ".join(f"{name} {medians[name]:.3f} (goal {goal:g})" for name, goal in GOALS.items())
        print(f"{model}: {goals}")


if __name__ == "__main__":
    main()
