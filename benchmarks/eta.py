"""How right the time is that the terminal shows as left: a sweep in a pseudo-terminal, of which the screen is read.

python benchmarks/eta.py --engine inline
python benchmarks/eta.py --engine local dataset=mnist epochs=1,2,8
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SWEEP = (
    "dataset=mnist",
    "model=mlp",
    "schedule=cosine",
    "epochs=1,2,8",
    "batch_size=32,64,256",
    "optimizer.lr=0.02,0.05,0.1",
)
"""Stacks of unlike length: by epochs and by batch size."""
GOAL = 0.2
"""How far the time that is left may be off, as a part of what it was."""
AT = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8)
"""The shares of the time at which it is printed."""
LAST = 0.9
"""The share of the time until which it counts: of the last seconds a fifth is less than what is shown."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="inline")
    parser.add_argument("sweep", nargs="*", default=SWEEP)
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        shown, begin, end = watch([*options.sweep, *more, f"engine={options.engine}"], folder)
    whole, shown = end - begin, [one for one in shown if begin <= one[0] < end]
    print(f"{whole:.0f} s of training, {len(shown)} times shown")
    off = [((at - begin) / whole, left / (end - at) - 1, (at + left - begin) / whole - 1) for at, left in shown]
    off = [one for one in off if one[0] <= LAST]
    print("| of the time | left, shown / true | whole, shown / true |\n|---:|---:|---:|")
    for share in AT:
        near = [one for one in off if one[0] >= share]
        if near:
            print(f"| {near[0][0]:.0%} | {1 + near[0][1]:.2f} | {1 + near[0][2]:.2f} |")
    for name, column in (("what is left", 1), ("the whole", 2)):
        wrong = [one[0] for one in off if abs(one[column]) > GOAL]
        after = [one for one in off if one[0] >= AT[0]]
        right = sum(abs(one[column]) <= GOAL for one in after) / max(1, len(after))
        print(
            f"within {GOAL:.0%} of {name}: from {max(wrong, default=0):.0%} of the time on; {right:.0%} after a tenth"
        )


def watch(words: list[str], folder: str) -> tuple[list[tuple[float, float]], float, float]:
    """Types a sweep; returns when which time was shown as left, and when the training began and ended."""
    shown: list[tuple[float, float]] = []
    begin = end = 0.0
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        uri = f"sqlite:///{folder}/mlflow.db"
        os.environ |= {"MLFLOW_TRACKING_URI": uri, "COLUMNS": "200", "TERM": "xterm", "LINES": "50"}
        os.execv(sys.executable, [sys.executable, str(ROOT / "train.py"), "-m", *words])
    tail = b""
    while True:
        try:
            some = os.read(terminal, 65536)
        except OSError:  # the sweep is over
            break
        if not some:
            break
        now, lines = time.time(), re.split(rb"[\r\n]", tail + some)
        tail = lines.pop()
        for line in (re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", one) for one in lines):
            if (found := re.search(rb"trial (\d+)/\d+.* (\d+):(\d\d):(\d\d) left", line)) is not None:
                hours, minutes, seconds = (int(found[index]) for index in (2, 3, 4))
                shown.append((now, 3600.0 * hours + 60 * minutes + seconds))
            if (found := re.search(rb"trial (\d+)/\d+", line)) is not None and int(found[1]):
                begin = begin or now
            if re.search(rb"\[\d+/\d+\]", line):
                end = now
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the sweep has failed: {status}")
    return shown, begin, end


if __name__ == "__main__":
    main()
