"""Stacked sweeps against the tutorial's program and against the machine: whole processes and single steps.

Everything that is compared runs in turn in this one run; ratios are medians. The first run of each of our commands is
not counted: it measures which way of training is the fastest, and remembers it, and it makes the tracking store, which
all later ones go on with, as a user's do; --fresh makes a store for each run.

    python benchmarks/stack.py [--runs 3] [--fresh] [--plot docs/stack_cost.svg]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as train.py sets them
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import argparse
import csv
import io
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sweepstack.config.schema import TrialConfig
from sweepstack.training.data.load import load_data
from sweepstack.training.data.source import Data
from sweepstack.training.hardware import ALL_THREADS
from sweepstack.training.stacked import build
from sweepstack.training.stacked.model import StackedModel
from sweepstack.training.stacked.single_model import SingleModel

ROOT = Path(__file__).parents[1]
TRAIN, SWEEPSTACK = str(ROOT / "train.py"), str(Path(sys.executable).with_name("sweepstack"))
TUTORIAL = str(ROOT / "benchmarks" / "tutorial.py")
RATES = [f"{10 ** (-4 + 4 * place / 63):.4g}" for place in range(64)]
SWEEP_64 = (
    *(TRAIN, "-m", "rerun=true", "experiment=tutorial", "evaluate_every=epoch", "pictures=0"),
    f"optimizer.lr={','.join(RATES)}",
)
SWEEP_3 = (TRAIN, "-m", "rerun=true", "experiment=tutorial", "optimizer.lr=0.001,0.01,0.1")
CPU = torch.device("cpu")
IMAGE = {"shape": [1, 28, 28], "classes": 10}
MNIST = {"dataset": {"_target_": "sweepstack.training.data.mnist", **IMAGE, "mean": 0.1307, "std": 0.3081}}
DIABETES = {
    "dataset": {"_target_": "sweepstack.training.data.diabetes", "shape": [10], "outputs": 1},
    "task": {"_target_": "sweepstack.training.tasks.Regression"},
}
MLP = "sweepstack.training.models.MLP"
MODELS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "logistic": ({**MNIST, "model": {"_target_": "sweepstack.training.models.Logistic", **IMAGE}}, [784, 10]),
    "mlp": ({**MNIST, "model": {"_target_": MLP, **IMAGE, "hidden": [64]}}, [784, 64, 10]),
    "regression": ({**DIABETES, "model": {"_target_": MLP, "shape": [10], "classes": 1, "hidden": [32]}}, [10, 32, 1]),
}
"""The tasks that are timed, and the widths of the layers of their models."""


def process(*command: str, store: Path | None = None) -> tuple[float, float, str]:
    """Wall seconds, peak memory in MB and output of a command in a folder of its own, and in a store of its own if none
    is given; for a sweep the output is its table as csv."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store or folder}/mlflow.db"}
        for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
            environment.pop(name)  # each program with its own defaults
        with open(Path(folder, "out"), "w+") as out:
            began = time.perf_counter()
            child = subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, stdout=out)
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - began
            out.seek(0)
            text = out.read()
        if os.waitstatus_to_exitcode(status) not in (0, 1):  # 1: the largest learning rates may diverge
            sys.exit(f"{command} failed: {text}")
        if TRAIN in command:
            table = [SWEEPSTACK, "table", "--sweep", "latest", "--format", "csv"]
            text = subprocess.run(table, env=environment, cwd=folder, capture_output=True, text=True).stdout
        return seconds, usage.ru_maxrss / 1024, text


def whole_processes(runs: int, store: Path | None) -> None:
    process(*SWEEP_64, store=store)
    process(*SWEEP_3, store=store)
    ratios: dict[str, list[float]] = {
        "64 learning rates / one tutorial run": [],
        "3 learning rates / 3 tutorial runs": [],
    }
    for _ in range(runs):
        tutorials = [process(TUTORIAL, lr) for lr in ("0.001", "0.01", "0.1")]
        sweep_64, sweep_3 = process(*SWEEP_64, store=store), process(*SWEEP_3, store=store)
        alone = statistics.median(seconds for seconds, _, _ in tutorials)
        three = sum(seconds for seconds, _, _ in tutorials)
        for name, ratio in zip(ratios, (sweep_64[0] / alone, sweep_3[0] / three), strict=True):
            ratios[name].append(ratio)
        print(
            f"tutorial {alone:.2f} s, 64 learning rates {sweep_64[0]:.2f} s, 3 learning rates {sweep_3[0]:.2f} s; test "
            f"accuracies at 0.001, 0.01, 0.1: tutorial {', '.join(t[2].split()[-1] for t in tutorials)}, ours "
            f"{', '.join(accuracies(sweep_3[2], ('0.001', '0.01', '0.1')))}; best of 64 {accuracies(sweep_64[2])[0]}",
            file=sys.stderr,
        )
    for name, found in ratios.items():
        print(f"{name}, whole processes: median {statistics.median(found):.3f} of {runs} ({spread(found)})")


def accuracies(table: str, rates: tuple[str, ...] = ()) -> list[str]:
    """Test accuracies in percent, of these learning rates, else of all, the best first."""
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["state"] == "FINISHED"]
    by_rate = {row["lr"]: f"{100 * float(row['test/accuracy']):.2f}" for row in rows}
    return [by_rate[rate] for rate in rates] or sorted(by_rate.values(), reverse=True)


def spread(found: list[float]) -> str:
    return f"{min(found):.3f} to {max(found):.3f}"


def memory() -> None:
    print("\n| stack width | peak memory of the training process, MB | / width 1 |\n|---:|---:|---:|")
    sizes: dict[int, float] = {}
    for width in (1, 64, 256):
        rates = ",".join(f"{0.1 / (place + 1):.5g}" for place in range(width))
        _, sizes[width], _ = process(TRAIN, "-m", "epochs=1", f"launch.width={width}", f"optimizer.lr={rates}")
        print(f"| {width} | {sizes[width]:.0f} | {sizes[width] / sizes[1]:.2f} |")


def configs(width: int, model: str) -> list[TrialConfig]:
    plain = {
        **MODELS[model][0],
        "schedule": {"kind": "constant"},
        "epochs": 1,
        "batch_size": 100,
    }
    optimizer = {"_target_": "torch.optim.SGD"}
    return [
        TrialConfig.model_validate({**plain, "optimizer": {**optimizer, "lr": 0.1 / (place + 1)}})
        for place in range(width)
    ]


def timed(call: Callable[[], object], least: int = 10, seconds: float = 0.3) -> float:
    """Median seconds of a call."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least + 3 or (time.perf_counter() - began < seconds and len(times) < 1000):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return statistics.median(times[3:])


def endless(data: Data, model: StackedModel | SingleModel) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end, made ready beforehand: the products do not select images either."""
    batches = [batch for batch, _ in zip(data.stacked_batches(100, model.seeds, 1), range(50), strict=False)]
    while True:
        model.set_factors(torch.ones(50, model.width, dtype=torch.float64))
        yield from batches


def step_seconds(data: Data, width: int, model: str) -> float:
    """One step of a stack, with the threads that are set."""
    members = build.build_stacked_model(configs(width, model), data.some()[0].shape[1:], CPU)
    batches = endless(data, members)
    return timed(lambda: members.step(*next(batches)))


def single_seconds(data: Data, model: str) -> float:
    """One step of the plain trainer's module and optimizer."""
    member = SingleModel(configs(1, model)[0], CPU)
    batches = endless(data, member)
    return timed(lambda: member.step(*next(batches)))


def products_seconds(width: int, model: str) -> float:
    """The matrix products of a step: forward, gradient of the weights and, behind the first layer, of the input."""
    _, sizes = MODELS[model]
    images = torch.randn(100, sizes[0])
    first = torch.randn(width * sizes[1], sizes[0]), torch.randn(width * sizes[1], 100)
    outs = torch.empty(width * sizes[1], 100), torch.empty(width * sizes[1], sizes[0])
    rest = [
        (torch.randn(width, out, into), torch.randn(width, into, 100), torch.randn(width, out, 100))
        for into, out in itertools.pairwise(sizes[1:])
    ]

    def products() -> None:
        torch.mm(first[0], images.t(), out=outs[0])
        torch.mm(first[1], images, out=outs[1])
        for weight, entering, leaving in rest:
            torch.bmm(weight, entering)
            torch.bmm(weight.transpose(1, 2), leaving)
            torch.bmm(leaving, entering.transpose(1, 2))

    return timed(products)


def steps(runs: int, plot: Path | None) -> None:
    parts = {model: configs(1, model)[0] for model in MODELS}
    loaded = {model: load_data(config.dataset, 0.1, CPU, config.task) for model, config in parts.items()}
    print(f"\nA step at batch 100: logistic regression, an MLP 784-64-10, a regression 10-32-1; {ALL_THREADS} threads")
    for model, data in loaded.items():
        torch.set_num_threads(ALL_THREADS)
        ratios = [step_seconds(data, 64, model) / products_seconds(64, model) for _ in range(2 * runs + 1)]
        median = f"{statistics.median(ratios):.2f} of {len(ratios)} ({spread(ratios)})"
        print(f"{model}: stacked step at K = 64 / its products alone: median {median}")
    if plot is None:
        return
    widths = [2**power for power in range(11)]
    costs: dict[str, list[float]] = {}
    for model, data in loaded.items():
        torch.set_num_threads(1)  # what the plain trainer takes for models of this size
        costs[f"{model}, one by one"] = [single_seconds(data, model)] * len(widths)
        for width in widths:
            stacked, products = [], []
            for threads in (1, ALL_THREADS):
                torch.set_num_threads(threads)
                stacked.append(step_seconds(data, width, model) / width)
                products.append(products_seconds(width, model) / width)
            costs.setdefault(f"{model}, stacked", []).append(min(stacked))
            costs.setdefault(f"{model}, matrix products alone", []).append(min(products))
    print("\n| microseconds a step and trial | " + " | ".join(map(str, widths)) + " |")
    print("|---|" + "---:|" * len(widths))
    for name, found in costs.items():
        print(f"| {name} | " + " | ".join(f"{1e6 * cost:.0f}" for cost in found) + " |")
    draw(widths, costs, plot)


def draw(widths: list[int], costs: dict[str, list[float]], plot: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sweepstack"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.8))
    styles = {"one by one": ":", "stacked": "-", "matrix products alone": "--"}
    for name, found in costs.items():
        model, way = name.split(", ")
        colour = {"logistic": "#0072b2", "mlp": "#d55e00"}[model]
        marker = "o" if way == "stacked" else None
        axes.plot(widths, [1e6 * cost for cost in found], styles[way], color=colour, marker=marker, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.set_xlabel("trials in the stack")
    axes.set_ylabel("microseconds a step and trial")
    axes.set_title(
        "What a trial costs in a stack: MNIST, batch 100, SGD, 2 cores" if ALL_THREADS == 2 else "Cost of a trial"
    )
    axes.grid(alpha=0.3)
    axes.set_yticks([20, 50, 100, 200], ["20", "50", "100", "200"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.tight_layout()
    figure.savefig(plot, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Stacked sweeps against the tutorial and the machine.")
    parser.add_argument("--runs", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--plot", type=Path, help="draw the cost of a trial against the width of its stack")
    parser.add_argument("--only", choices=("processes", "memory", "steps"))
    parser.add_argument("--fresh", action="store_true", help="a new tracking store for each run")
    arguments = parser.parse_args()
    folder = tempfile.TemporaryDirectory(prefix="bench-store-")
    store = None if arguments.fresh else Path(folder.name)
    parts: dict[str, Callable[[], None]] = {
        "processes": lambda: whole_processes(arguments.runs, store),
        "memory": memory,
        "steps": lambda: steps(arguments.runs, arguments.plot),
    }
    for name, part in parts.items():
        if arguments.only in (None, name):
            part()
    folder.cleanup()


if __name__ == "__main__":
    main()
