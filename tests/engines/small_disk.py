"""A small disk for the folder of the journal: a sweep fills it, gets more room, and is typed again.

    unshare --mount python -m tests.engines.small_disk FOLDER KB ENGINE WORDS

prints how the two commands ended, as JSON. The mounts are its own; with ENGINE=slurm, the jobs of a Slurm of one node
have them, too.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..terminal import Terminal
from .slurm_node import slurm_node


def main(folder: Path, kilobytes: int, engine: str, words: list[str]) -> None:
    journal = folder / "disk"
    journal.mkdir()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "nothing", str(journal)], check=True)
    with contextlib.ExitStack() as stack:
        if engine == "slurm":
            own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
            os.environ |= stack.enter_context(slurm_node(own, own / "hidden")).environment
        ends = []
        for _ in range(2):
            done = Terminal(folder).start(
                "train.py", "-m", *words, f"engine={engine}", f"tracking.journal={journal}", fresh=True
            )
            out, err = done.communicate(timeout=240)
            ends.append({"code": done.returncode, "out": out, "err": err, "left": os.listdir(journal)})
            subprocess.run(["mount", "-o", "remount,size=256m", str(journal)], check=True)
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
