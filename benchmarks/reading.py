"""Commands that read an sqlite store, whole processes, in pairs with `python -c "import pandas"` or with the table.

The store has a real sweep of 27 settings with 3 seeds on the digits. Each round types all commands in turn.

    python benchmarks/reading.py
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

ROOT = Path(__file__).parents[1]
COMMAND = str(Path(sys.executable).with_name("sweepstack"))
SWEEP = ("dataset=digits", "epochs=5", "optimizer.lr=0.01,0.02,0.05,0.1,0.2,0.3,0.5,0.7,1.0", "batch_size=32,64,128")
GOALS = {"table": ("import pandas", 2.0), "show": ("import pandas", 2.0), "report": ("table", 3.0)}
"""What each command is compared with, and how many times as long it may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}

        def seconds(*words: str) -> float:
            began = time.perf_counter()
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{' '.join(words)}\n{done.stderr}")
            return time.perf_counter() - began

        seconds(sys.executable, str(ROOT / "train.py"), "-m", *SWEEP, "seed=0,1,2")
        commands = {
            "import pandas": (sys.executable, "-c", "import pandas"),
            "table": (COMMAND, "table"),
            "show": (COMMAND, "show", "lr=0.1 bs=64 seed=0"),
            "table --by-seed": (COMMAND, "table", "--by-seed"),
            "report": (COMMAND, "report"),
            "report --no-record": (COMMAND, "report", "--no-record"),
        }
        for words in commands.values():
            seconds(*words)  # once, so that files are in the page cache
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.runs):
            for name, words in commands.items():
                times[name].append(seconds(*words))
    print("| command | seconds | of | ratio, median of pairs | goal |")
    print("|---|---:|---|---:|---:|")
    for name, found in times.items():
        beside, goal = GOALS.get(name.removesuffix(" --no-record"), ("import pandas", None))
        ratio = statistics.median(one / other for one, other in zip(found, times[beside], strict=True))
        print(f"| {name} | {statistics.median(found):.2f} | {beside} | {ratio:.2f} | {goal or ''} |")


if __name__ == "__main__":
    main()
