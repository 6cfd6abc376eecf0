"""Trains stacks side by side, in processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sweepstack.child_process import NEW_GROUP
from sweepstack.execution.assignment import Assignment, Reporter
from sweepstack.execution.engines.channel import Reports, WorkerHandle, work_folder, write_assignment
from sweepstack.execution.engines.fork_server import ForkServer, how_it_ended
from sweepstack.execution.executor import Handle
from sweepstack.paths import began_in

UNTOLD_SECONDS = 0.02
"""The longest time in seconds between two looks at workers of which nobody tells how they have ended."""


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalExecutor:
    """Trains stacks in workers of this machine: forked ones, or new processes on GPUs and for several threads.

    Args:
        journal: the folder of the journal.
        workers: the number of workers that train at once.
        server: forks workers; None starts new processes.
        lease: seconds without a sign of life after which a worker counts as lost.
        gpus: for each of the workers, the value of CUDA_VISIBLE_DEVICES; empty without GPUs.
    """

    def __init__(
        self,
        journal: Path,
        workers: int,
        server: ForkServer | None = None,
        lease: float = 60.0,
        gpus: Sequence[str] = (),
    ) -> None:
        self.workers = workers
        self._journal, self._server, self._lease, self._gpus = journal, server, lease, gpus
        self._processes: dict[subprocess.Popen[bytes], str] = {}  # with its GPUs

    def submit(self, assignment: Assignment, reporter: Reporter) -> Handle:
        """See `Executor`."""
        folder = work_folder(self._journal, assignment.stack.id)
        write_assignment(assignment, folder, self._lease)
        reports = Reports(folder, assignment.stack, reporter)
        single = assignment.stack.choice.threads == 1  # a fork cannot use threads that this process may have had
        if self._server is not None and self._server.alive and single:
            order = self._server.start(folder)
            if order is not None:
                return WorkerHandle(reports, self._lease, order.ended, order.kill, order.is_waiting)
        return self._start(folder, reports)

    def wait(self, seconds: float) -> None:
        """See `NotifiedExecutor`. The server tells what its workers do; other ones are looked at."""
        if self._server is not None and self._server.alive:
            self._server.receive(seconds)
        else:
            time.sleep(min(seconds, UNTOLD_SECONDS))

    def _start(self, folder: Path, reports: Reports) -> WorkerHandle:
        """Starts a worker that is a new process."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        gpu = self._free_gpu() if self._gpus else ""
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        command = [sys.executable, "-m", "sweepstack.execution.engines.worker_main", str(folder), str(os.getpid())]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd=began_in(),
            env=environment,
            start_new_session=True,
            creationflags=NEW_GROUP,
        )
        self._processes[process] = gpu

        def gone() -> str | None:
            code = process.poll()
            return None if code is None else how_it_ended(code)

        return WorkerHandle(reports, self._lease, gone, process.kill)

    def _free_gpu(self) -> str:
        """Returns the GPUs of a worker that has ended, or of none yet. A worker ends soon after its last report."""
        while True:
            taken = [gpu for process, gpu in self._processes.items() if process.poll() is None]
            for gpu in self._gpus:
                if taken.count(gpu) < self._gpus.count(gpu):
                    return gpu
            time.sleep(0.01)

    def close(self) -> None:
        """See `Executor`."""
        if self._server is not None:
            self._server.close()
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
