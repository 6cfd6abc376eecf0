"""Images that a stream reads: memory of all processes together, and an epoch / the same DataLoader in a bare loop.

It makes a file of images (4 GB by default), reads them item by item from two parts of it, and trains a linear model on
them: by `python train.py`, while the proportional set size (PSS) of the command and its descendants is added up once a
second, and in pairs with a bare PyTorch loop, in one process, with the same dataset, batch size and workers.
Both loops train an epoch and evaluate the held-out part and the test part.

    python benchmarks/stream.py --gigabytes 4 --pairs 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.training.data.load import data_of
from sweepstack.training.trainer import train

SHAPE = (3, 64, 64)
ITEM = 3 * 64 * 64
"""Bytes of an image."""
TESTED = 1000
BATCH, WORKERS = 100, 1
TRAIN = Path(__file__).parents[1] / "train.py"


class Images(Dataset[tuple[Tensor, int]]):
    """Images in a file, read one by one. The first `TESTED` are the test part."""

    def __init__(self, train: bool, file: str) -> None:
        self.file, self.handle = file, -1
        count = os.path.getsize(file) // ITEM
        self.first, self.count = (TESTED, count - TESTED) if train else (0, TESTED)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.handle < 0:
            self.handle = os.open(self.file, os.O_RDONLY)
        pixels = bytearray(os.pread(self.handle, ITEM, (self.first + index) * ITEM))
        return torch.frombuffer(pixels, dtype=torch.uint8).view(SHAPE), index % 10


def make(file: Path, gigabytes: float) -> None:
    generator = np.random.default_rng(0)
    some = generator.integers(0, 256, 64 * ITEM, dtype=np.uint8)
    with file.open("wb") as output:
        for _ in range(int(gigabytes * 1e9) // len(some)):
            output.write(np.roll(some, int(generator.integers(len(some)))).tobytes())


def config_of(file: Path) -> TrialConfig:
    target = {"_target_": "stream.Images", "file": str(file), "shape": list(SHAPE), "classes": 10}
    return TrialConfig.model_validate(
        {
            "dataset": {**target, "source": "streamed", "identity": "made"},
            "model": {"_target_": "sweepstack.training.models.Logistic", "shape": list(SHAPE), "classes": 10},
            "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.001},
            "schedule": {"kind": "constant"},
            "epochs": 1,
            "batch_size": BATCH,
        }
    )


def ours(config: TrialConfig) -> float:
    data = data_of(config, torch.device("cpu"), RunConfig(workers=WORKERS, eval_batch_size=BATCH))
    began = time.perf_counter()
    train(config, data, lambda measurement: None)
    return time.perf_counter() - began


def bare(config: TrialConfig) -> float:
    """The loop that a user would write."""
    dataset, tested = Images(True, config.dataset.keywords["file"]), Images(False, config.dataset.keywords["file"])
    held_out = len(dataset) // 10
    parts = Subset(dataset, range(held_out, len(dataset))), Subset(dataset, range(held_out)), tested
    training, *others = (
        DataLoader(part, BATCH, shuffle=index == 0, num_workers=WORKERS) for index, part in enumerate(parts)
    )
    model = nn.Linear(ITEM, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    began = time.perf_counter()
    for images, labels in training:
        loss = nn.functional.cross_entropy(model(images.float().div(255).flatten(1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        for loader in others:
            sum(int((model(images.float().div(255).flatten(1)).argmax(1) == labels).sum()) for images, labels in loader)
    return time.perf_counter() - began


def descendants(pid: int) -> list[int]:
    found, unvisited = [], [pid]
    while unvisited:
        found.append(unvisited.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            unvisited += [int(child) for child in task.read_text().split()]
    return found


def proportional(pid: int) -> int:
    """Bytes of PSS of a process and its descendants."""
    total = 0
    for one in descendants(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total


def peak_memory(file: Path, folder: Path) -> tuple[int, float]:
    """Peak PSS of a command that trains one epoch, and its seconds."""
    words = [
        *("dataset=digits", "dataset._target_=stream.Images", f"+dataset.file={file}", "dataset.shape=[3,64,64]"),
        *("dataset.source=streamed", "dataset.identity=made", "epochs=1", f"batch_size={BATCH}", f"workers={WORKERS}"),
        *("optimizer.lr=0.001,0.002", "device=cpu"),
    ]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/m.db",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), "-m", *words], cwd=folder, env=environment, stdout=sys.stderr
    )
    highest = 0
    stopped = threading.Event()
    while process.poll() is None and not stopped.wait(1.0):
        highest = max(highest, proportional(process.pid))
    assert process.returncode == 0
    return highest, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "images.bin")
        make(file, asked.gigabytes)
        highest, seconds = peak_memory(file, Path(folder))
        print(f"a sweep of two rates on {asked.gigabytes:g} GB: peak PSS {highest / 1e9:.2f} GB, {seconds:.0f} s")
        config, ratios = config_of(file), []
        for pair in range(asked.pairs):
            sides = [ours, bare] if pair % 2 else [bare, ours]
            found = {side.__name__: side(config) for side in sides}
            ratios.append(found["ours"] / found["bare"])
            print(f"pair {pair + 1}: ours {found['ours']:.1f} s, bare {found['bare']:.1f} s", file=sys.stderr)
        print(f"streamed epoch, ours / a bare loop: median {statistics.median(ratios):.3f} of {len(ratios)}")


if __name__ == "__main__":
    sys.modules["stream"] = sys.modules["__main__"]
    main()
