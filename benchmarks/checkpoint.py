"""What checkpoints cost: sweeps of 64 trials on MNIST with checkpoints / the same without, whole processes.

Without: checkpoint.every=1e9, which is never due. With: the default, at most every so many seconds and at most a
fortieth of the time; and checkpoint.every=0, after every epoch whatever it costs. Commands run in turn, round by round,
each round in another order; ratios are medians over the rounds. All go on with one store, as a user's do, with
rerun=true so that they train; the first run of each sweep is not counted: it measures which way of training is the
fastest, and makes the store.

    python benchmarks/checkpoint.py [--runs 5] [--only logistic|mlp|shares]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from stack import RATES, TRAIN, configs, process, spread

from sweepstack.training.checkpoint import CheckpointManager
from sweepstack.training.data.load import load_data
from sweepstack.training.stacked import build
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader

GOAL = 1.03
WITHOUT, DEFAULT, ALWAYS = "checkpoint.every=1e9", "default", "checkpoint.every=0"
RATES_64 = f"optimizer.lr={','.join(RATES)}"
SWEEPS = {
    "logistic": ("64 learning rates, logistic regression, SGD, 5 epochs", ("epochs=5", RATES_64)),
    "mlp": (
        "64 learning rates, MLP with 64 units, Adam, 3 epochs",
        ("model=mlp", "optimizer=adam", "epochs=3", RATES_64),
    ),
}


def seconds(sweep: tuple[str, ...], setting: str, store: Path) -> float:
    words = () if setting == DEFAULT else (setting,)
    return process(TRAIN, "-m", "rerun=true", *sweep, *words, store=store)[0]


def measure(title: str, sweep: tuple[str, ...], rounds: int, store: Path) -> None:
    settings = [WITHOUT, DEFAULT, ALWAYS]
    seconds(sweep, WITHOUT, store)
    taken: dict[str, list[float]] = {setting: [] for setting in settings}
    for number in range(1, rounds + 1):
        for setting in settings:
            taken[setting].append(seconds(sweep, setting, store))
        last = ", ".join(f"{setting} {taken[setting][-1]:.2f} s" for setting in settings)
        print(f"{title}, round {number}: {last}", file=sys.stderr)
        settings = settings[1:] + settings[:1]
    for setting in (DEFAULT, ALWAYS):
        ratios = [one / other for one, other in zip(taken[setting], taken[WITHOUT], strict=True)]
        median = f"{statistics.median(ratios):.3f} ({spread(ratios)})"
        print(f"| {title} | {setting} | {statistics.median(taken[setting]):.2f} | {median} |", flush=True)


class Timed(CheckpointManager):
    """Counts what saving takes, the copies to the host included."""

    saves = 0
    seconds = 0.0

    def save(self, state: dict[str, Any], pruned_at: int | None = None) -> None:
        began = time.perf_counter()
        super().save(state, pruned_at)
        self.seconds += time.perf_counter() - began
        self.saves += 1


def share(model: str, optimizer: str, epochs: int, every: float) -> str:
    """One training of 64 members in this process, and the part of it that goes into checkpoints."""
    base = configs(64, model)
    keywords = {"target": f"torch.optim.{optimizer}"}
    trials = [
        one.model_copy(update={"epochs": epochs, "optimizer": one.optimizer.model_copy(update=keywords)})
        for one in base
    ]
    data = load_data(trials[0].dataset, 0.1, torch.device("cpu"))
    readers = [
        [TrialReader(one, lambda measurement: None, lambda outcome: None, str(n))] for n, one in enumerate(trials)
    ]
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as folder:
        keeper = Timed(Path(folder, "kept"), every)
        stack = build.build_stacked_model(trials, data.some()[0].shape[1:], data.device)
        began = time.perf_counter()
        train_stack(readers, data, stack, keeper)
        taken = time.perf_counter() - began
    part = keeper.seconds / taken
    return f"| {model}, {optimizer}, {epochs} epochs | {every:g} | {taken:.1f} | {keeper.saves} | {100 * part:.2f} % |"


def shares() -> None:
    """The same seen from inside: no noise of whole processes, which is larger than what is measured."""
    print("\nInside one process: seconds in saves / seconds of training, goal: at most 3 % by default\n")
    print("| 64 members | checkpoint.every | seconds | saves | share |\n|---|---:|---:|---:|---:|")
    for model, optimizer, epochs, every in (
        ("logistic", "SGD", 20, 10.0),
        ("logistic", "SGD", 20, 0.0),
        ("mlp", "Adam", 5, 10.0),
        ("mlp", "Adam", 5, 0.0),
    ):
        print(share(model, optimizer, epochs, every), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What checkpoints cost.")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--only", choices=[*SWEEPS, "shares"])
    arguments = parser.parse_args()
    if arguments.only in (None, "shares"):
        shares()
    if arguments.only == "shares":
        return
    print(f"Whole processes, with checkpoints / without, goal: at most {GOAL} by default\n")
    print("| sweep | checkpoints | seconds | / without |\n|---|---|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="bench-store-") as store:
        for name, (title, sweep) in SWEEPS.items():
            if arguments.only in (None, name):
                measure(title, sweep, arguments.runs, Path(store))


if __name__ == "__main__":
    main()
