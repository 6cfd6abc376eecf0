"""Start-up, whole processes, medians: what a user waits for before anything happens.

- `python train.py --help` and a config error, in seconds of `python -c pass` and of `import torch`;
- the first training step: from the start of the process until the first optimizer update is done, where the dataset is
  cached / `python -c "import torch"`.

    python benchmarks/startup.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = 5
FIRST_STEP = """
import os, runpy, sys
import sweepstack.training.optimizers as optimizers
build = optimizers.build_optimizer
def watched(config, parameters):
    optimizer = build(config, parameters)
    optimizer.register_step_post_hook(lambda *_: os._exit(0))
    return optimizer
optimizers.build_optimizer = watched
sys.argv = ["train.py"]
runpy.run_path(TRAIN, run_name="__main__")
"""


def seconds(*command: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, check=False)
        return time.perf_counter() - began


def main() -> None:
    train = str(ROOT / "train.py")
    commands = {
        "import torch": ("-c", "import torch"),
        "train.py --help": (train, "--help"),
        "config error": (train, "optimizer.lr=-1"),
        "config error in a sweep of 3": (train, "-m", "optimizer.lr=-1,0.01,0.1"),
        "first training step": ("-c", FIRST_STEP.replace("TRAIN", repr(train))),
    }
    for command in commands.values():
        seconds(*command)  # once, so that files are in the page cache
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            times[name].append(seconds(*command))
    for name in commands:
        ratios = [one / torch for one, torch in zip(times[name], times["import torch"], strict=True)]
        print(f"{name:30} {statistics.median(times[name]):6.2f} s  {statistics.median(ratios):5.2f} x import torch")


if __name__ == "__main__":
    main()
