"""A worker in a process of its own: `python -m sweepstack.execution.engines.worker_main FOLDER [PARENT]`.

It does the assignment of a folder, and ends with its parent if that is given.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sweepstack.child_process import end_with_parent
from sweepstack.execution.assignment import Answer, Assignment, Reporter
from sweepstack.execution.engines.channel import ASSIGNMENT
from sweepstack.execution.engines.worker_side import FileSink, Sink, do_assignment
from sweepstack.execution.worker import do
from sweepstack.masking import mask
from sweepstack.standard_streams import open_closed


def main(
    folder: Path,
    open_sink: Callable[[Path], Sink] = FileSink,
    work: Callable[[Assignment, Reporter], Answer] = do,
) -> int:
    """Does the assignment of a folder; returns the exit code: 0 if it has reported how that went.

    Args:
        folder: the folder.
        open_sink: returns where the worker reports to.
        work: does the assignment.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch is loaded; see `app.main`
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    open_closed(output_is_needed=False)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own modules are there
    try:
        content = json.loads((folder / ASSIGNMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        rule = "a worker must see the folder of the journal: let tracking.journal name a folder that all machines share"
        print(mask(f"{rule} ({error})"), file=sys.stderr)
        return 2
    do_assignment(folder, open_sink(folder), work, content)
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 2:
        end_with_parent(int(sys.argv[2]))
    code = main(Path(sys.argv[1]).absolute())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to do, and Python takes PyTorch down for half a second
