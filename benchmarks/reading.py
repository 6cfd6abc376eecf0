"""Commands that read an sqlite store, whole processes, in pairs with `python -c "import pandas"` or with the table.

The store has a real sweep of 27 settings with 3 seeds on the digits. Each round types all commands in turn. `report`
finds the record as the last one left it; for `report, the first` all that reports keep and have recorded is deleted
before.

    python benchmarks/reading.py
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
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
FIRST = "report, the first"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}

        def seconds(*words: str) -> tuple[float, float]:
            """Returns the seconds of a command by the clock, and of the processor."""
            began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{' '.join(words)}\n{done.stderr}")
            wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

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
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*commands, FIRST)}
        for _ in range(options.runs):
            for name, words in commands.items():
                times[name].append(seconds(*words))
            for kept in Path(folder).glob("journal/*/reports"):
                shutil.rmtree(kept)
            for page in Path(folder).glob("artifacts/*/*/artifacts/report.html"):
                page.unlink()
            times[FIRST].append(seconds(COMMAND, "report"))
    print("| command | seconds | of | ratio, median of pairs | of processor time | goal |")
    print("|---|---:|---|---:|---:|---:|")
    for name, found in times.items():
        beside, goal = GOALS.get(name.removesuffix(" --no-record").removesuffix(", the first"), ("import pandas", None))
        wall, processor = (
            statistics.median(one[kind] / other[kind] for one, other in zip(found, times[beside], strict=True))
            for kind in range(2)
        )
        taken = statistics.median(one for one, _ in found)
        print(f"| {name} | {taken:.2f} | {beside} | {wall:.2f} | {processor:.2f} | {goal or ''} |")


if __name__ == "__main__":
    main()
