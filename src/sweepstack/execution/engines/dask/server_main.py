"""The server of the training processes of a Dask worker: `python -m sweepstack.execution.engines.dask.server_main PID`.

It loads PyTorch and the data, and forks a process for each stack (see `fork_server`). The orders come by its standard
input, a socket. It ends with the Dask worker, whose process is PID.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweepstack.blame import contained
from sweepstack.child_process import end_with_parent
from sweepstack.config.code_digest import digest
from sweepstack.config.fingerprint import Fingerprint
from sweepstack.errors import UserError
from sweepstack.execution.assignment import Answer, Assignment, Reporter
from sweepstack.execution.engines.assignment_file import assignment_from_json
from sweepstack.execution.engines.channel import versions
from sweepstack.execution.engines.fork_server import serve
from sweepstack.execution.worker import do, load_data_of, load_training


def work(assignment: Assignment, reporter: Reporter) -> Answer:
    """Does an assignment if the code of its trials is the same here; see `worker.do`.

    Args:
        assignment: the stack.
        reporter: receives the events of its trials.

    Raises:
        UserError: see `do`; or the code is missing here, or differs.
    """
    for trial in assignment.stack.trials:
        if trial.fingerprint and Fingerprint.parse(trial.fingerprint).code != digest(trial.config):
            config = trial.config
            named = [part.target for part in (config.model, config.trainer, config.optimizer, config.task) if part]
            own = [target for target in named if not target.startswith(("sweepstack.", "torch."))]
            raise UserError(
                f"a Dask worker must have the code of the command: {', '.join(own) or config.model.target} is missing "
                f"on {socket.gethostname()}, or is another version",
                remedy="install the same there, or start the Dask workers in the folder of the command",
            )
    return do(assignment, reporter)


def warm_up() -> None:
    """Loads all that trains, so that the forked processes have it."""
    import torch

    torch.set_num_threads(1)  # so that it starts none: a fork would wait for threads that it does not have
    load_training(is_alone=True)
    versions()


def load(content: Mapping[str, Any]) -> None:
    """Loads the data of an assignment, so that the process that trains it has them at once.

    Args:
        content: the content of the assignment's file.
    """
    from sweepstack.training.hardware import choose_device

    trial = assignment_from_json(content, Path()).stack.trials[0]
    if choose_device(trial.run.device).type == "cpu":  # a process cannot use a GPU that its parent has used
        with contained():
            load_data_of(trial)


def main(parent: int) -> None:
    """Serves until the Dask worker is gone.

    Args:
        parent: the id of its process.
    """
    end_with_parent(parent)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch is loaded; see `app.main`
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # to ask whether there is a GPU does not use it
    orders = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    warm_up()
    serve(orders, work, load)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    finally:
        os._exit(0)
