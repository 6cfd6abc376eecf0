"""64 TPE trials with halving on MNIST: ours / Optuna with its own halving pruner / Ray Tune with ASHA.

Learning rate x momentum, 27 epochs; whole processes, each on an empty store, in turn, seed by seed, on two processors.
The peers train with a plain PyTorch loop, two trials side by side (benchmarks/peers/optuna_search.py, ray_search.py).
Regret is how far the best validation accuracy of a trial that was trained to its end is behind the best of the full
grid of 64 settings (benchmarks/halving.py), in points. Time to target: from the start of the process until a trial
reaches the full grid's best less 0.1 points at the end of an epoch; a search that never does has no such time, and the
ratio of its seed is left out and said. Intervals are two-sided 95 % ones of the median, by order statistics. The first
run of ours is not counted: it measures which way of training is the fastest, and remembers it.

    python benchmarks/search.py [--seeds 20] [--model logistic] [--peers optuna_search ray_search] [--words WORD ...]

Needs the extra `bench`, and a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from halving import GRID, OBJECTIVE
from scipy import stats

from sweepstack.tracking.private.client import metric_histories
from sweepstack.tracking.store import Store

ROOT = Path(__file__).parents[1]
PEERS = ("optuna_search", "ray_search")
OURS = "ours"
SPACE = ("optimizer.lr=tag(log,interval(0.000316,1))", "optimizer.momentum=interval(0,0.95)")
EPOCHS, TRIALS = 27, 64
NEAR = 0.001
"""How far behind the full grid's best a trial may be that counts as having reached it."""
GOALS = {"optuna_search": 0.25, "ray_search": 0.12}
History = list[tuple[float, float]]
"""The time and the accuracy of each epoch of a trial."""


class Result(NamedTuple):
    began: float
    seconds: float
    trials: list[History]

    @property
    def best(self) -> float:
        """Of the trials that were trained to their end; NaN if there is none."""
        return max((one[-1][1] for one in self.trials if len(one) == EPOCHS), default=math.nan)

    @property
    def epochs(self) -> int:
        return sum(map(len, self.trials))

    def seconds_to(self, target: float) -> float:
        """Returns the seconds until an accuracy was reached; infinity if it was not."""
        return min((at - self.began for one in self.trials for at, value in one if value >= target), default=math.inf)


def run(command: Sequence[str], *, recorded: bool) -> Result:
    """Runs a program in a folder of its own. Histories come from MLflow's store if `recorded`, else from the JSON line
    it ends with."""
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        began, started = time.time(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode not in ((0, 1) if recorded else (0,)):  # 1: some trials diverge
            raise SystemExit(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}")
        if not recorded:
            return Result(began, seconds, json.loads(done.stdout.splitlines()[-1])["trials"])
        store = Store(uri)
        trials: dict[str, History] = {row.run_id: [] for row in store.rows("latest")}
        for run_id, value in metric_histories(store.client, [*trials], OBJECTIVE):
            trials[run_id].append((value.timestamp / 1000, value.value))
        return Result(began, seconds, [sorted(one) for one in trials.values() if one])


def interval(values: Sequence[float]) -> str:
    """Returns the median and its two-sided interval, in words."""
    ordered, count = sorted(values), len(values)
    if not ordered:
        return "no seed"
    rank = int(stats.binom.ppf(0.025, count, 0.5))
    low, high = ordered[max(rank - 1, 0)], ordered[min(count - rank, count - 1)]
    return f"{statistics.median(ordered):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="64 TPE trials with halving: ours, Optuna, Ray Tune.")
    parser.add_argument("--seeds", type=int, default=20, help="how often (default 20)")
    parser.add_argument("--model", default="logistic", choices=["logistic", "mlp"], help="default logistic")
    parser.add_argument("--peers", nargs="*", default=[*PEERS], choices=PEERS, help="default: all")
    parser.add_argument("--words", nargs="*", default=[], help="further words of our command, such as search.width=16")
    given = parser.parse_args()
    base = (str(ROOT / "train.py"), "-m", "dataset=mnist", f"model={given.model}", f"epochs={EPOCHS}")
    ours = (*base, *SPACE, "search=tpe", f"search.trials={TRIALS}", "pruner=halving", *given.words)
    run((*base, *GRID, "epochs=1"), recorded=True)
    grid = run((*base, *GRID), recorded=True)
    target = grid.best - NEAR
    print(f"full grid: best {grid.best:.4f}, {grid.seconds:.1f} s", flush=True)
    print("| seed | way | wall seconds | trials | trial-epochs | regret, points | seconds to target |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    found: dict[str, list[Result]] = {name: [] for name in (OURS, *given.peers)}
    for seed in range(given.seeds):
        for name, results in found.items():
            if name == OURS:
                one = run((*ours, f"search.seed={seed}"), recorded=True)
            else:
                peer = str(ROOT / "benchmarks/peers" / f"{name}.py")
                words = ("--model", given.model, "--trials", str(TRIALS), "--epochs", str(EPOCHS), "--seed", str(seed))
                one = run((peer, *words), recorded=False)
            results.append(one)
            regret, seconds = 100 * (grid.best - one.best), one.seconds_to(target)
            cells = f"{one.seconds:.1f} | {len(one.trials)} | {one.epochs} | {regret:.2f} | {seconds:.1f}"
            print(f"| {seed} | {name} | {cells} |", flush=True)
    for name, results in found.items():
        regrets = [100 * (grid.best - one.best) for one in results]
        print(f"\n{name}: regret mean {statistics.mean(regrets):.3f} points, largest {max(regrets):.2f}")
        if name == OURS:
            continue
        both = [*zip(found[OURS], results, strict=True)]
        wall = [mine.seconds / theirs.seconds for mine, theirs in both]
        pairs = [(mine.seconds_to(target), theirs.seconds_to(target)) for mine, theirs in both]
        reached = [mine / theirs for mine, theirs in pairs if math.isfinite(mine + theirs)]
        never = ", ".join(
            f"{sum(map(math.isinf, times))} of {who} never reach it"
            for who, times in zip((OURS, name), zip(*pairs, strict=True), strict=True)
        )
        print(f"wall clock, ours / {name}: {interval(wall)} (goal {GOALS[name]:g})")
        print(f"time to target, ours / {name}: {interval(reached)} in {len(reached)} seeds; {never}")


if __name__ == "__main__":
    main()
