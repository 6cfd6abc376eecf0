"""Trains stacks with the workers of a Dask cluster.

cluster.py      connects to a cluster, or starts one of this machine (loopback.py)
link.py         the connection, which outlives interruptions
following.py    takes what a worker hands over for one stack
relay.py        in the Dask worker: hands over what a training process writes
server_main.py  beside the Dask worker: forks the training processes
"""

from __future__ import annotations

import time
from pathlib import Path

from sweepstack.config.run_sections import EngineConfig
from sweepstack.errors import ConfigError, UserError, count
from sweepstack.execution.assignment import Assignment, Reporter
from sweepstack.execution.engines.channel import Reports, WorkerHandle, work_folder, write_assignment
from sweepstack.execution.engines.dask.cluster import Loopback, address_of, check_installed, security_of
from sweepstack.execution.engines.dask.following import Following
from sweepstack.execution.engines.dask.link import Link
from sweepstack.execution.engines.local import cores
from sweepstack.execution.executor import Handle, Lost, Trained
from sweepstack.masking import has_masks

LAST_SECONDS = 10.0
"""Seconds after a worker was asked to stop in which its last checkpoint may arrive."""


class DaskExecutor:
    """Trains stacks with the workers of a Dask cluster. It connects, or starts a cluster, when it is first used.

    Args:
        journal: the folder of the journal.
        config: which cluster, and how many stacks train at once.
        threads: the threads of a stack.
    """

    def __init__(self, journal: Path, config: EngineConfig, threads: int = 1) -> None:
        self._journal, self._config, self._threads = journal, config, threads
        self._loopback: Loopback | None = None
        self._link: Link | None = None
        self._announced = ""

    @property
    def workers(self) -> int:
        """See `Executor`. A cluster may grow and shrink."""
        if self._config.workers is not None:
            return self._config.workers
        if self._config.address is None:
            return max(1, cores() // self._threads)
        return max(1, sum(max(1, threads // self._threads) for threads in self._connected().threads.values()))

    @property
    def kind_of_machine(self) -> str:
        """See `MeasuringExecutor`."""
        return f"Dask, {self._config.address or f'{cores()} cores of this machine'}"

    def _connected(self) -> Link:
        if self._link is None:
            check_installed()
            if self._config.address is not None:
                address, security = address_of(self._config), security_of(self._config)
                self._link = Link(address, security, self._config.lease)
            else:
                self._loopback = Loopback(self.workers, self._journal / "dask.log")
                self._link = Link(self._loopback.address, self._loopback.security, self._config.lease)
        return self._link

    def submit(self, assignment: Assignment, reporter: Reporter) -> Handle:
        """See `Executor`."""
        if self._config.address is not None and any(has_masks(repr(trial.config)) for trial in assignment.stack.trials):
            rule = "a config must have no passwords and tokens in its addresses: they are not sent to a Dask cluster"
            raise ConfigError(rule, remedy="let your code read them on the workers, or leave engine.address out")
        link = self._connected()
        link.greet()
        self._say_once(link, reporter)
        folder = work_folder(self._journal, assignment.stack.id)
        write_assignment(assignment, folder, self._config.lease)
        return DaskHandle(Reports(folder, assignment.stack, reporter), self._config.lease, link, folder)

    def wait(self, seconds: float) -> None:
        """See `NotifiedExecutor`."""
        news = self._connected().has_news
        news.wait(seconds)
        news.clear()

    def _say_once(self, link: Link, reporter: Reporter) -> None:
        if self._announced:
            return
        dashboard = self._loopback.dashboard if self._loopback is not None else link.dashboard
        self._announced = f"Dask: {count(len(link.threads), 'worker')} at {link.address}"
        if dashboard:
            self._announced += f"; dashboard: {dashboard}"
        reporter.say(self._announced)

    def close(self) -> None:
        """See `Executor`."""
        if self._link is not None:
            self._link.close()
        if self._loopback is not None:
            self._loopback.close()


class DaskHandle(WorkerHandle):
    """The handle of a stack that a Dask worker trains.

    Args:
        reports: what the worker reports.
        lease: see `WorkerHandle`.
        link: the connection to the cluster.
        folder: the folder of the assignment.
    """

    def __init__(self, reports: Reports, lease: float, link: Link, folder: Path) -> None:
        self._following = Following(link, folder, lease)
        super().__init__(reports, lease, lambda: self._following.gone, self._following.end)
        self._link, self._without_workers = link, time.monotonic()
        self._asked_to_stop = 0.0

    def poll(self) -> Trained | Lost | None:
        """See `Handle`."""
        if self._result is not None:
            return self._result
        if (failure := self._following.failure or self._link.failure) is not None:
            raise failure
        while self._link.notes:
            self._reports.reporter.say(self._link.notes.pop(0))
        if self._link.threads:
            self._without_workers = time.monotonic()
        elif time.monotonic() - self._without_workers > self._lease:
            rule = (
                f"a Dask cluster must have workers, the one at {self._link.address} has had none for {self._lease:g} s"
            )
            raise UserError(rule, remedy=f"start one (dask worker {self._link.address}); the same command goes on")
        self._heard = max(self._heard, self._following.heard())
        result = super().poll()
        if result is not None:
            self._following.end()
        return result

    def stop(self) -> None:
        """See `Handle`."""
        self._asked_to_stop = time.monotonic()
        super().stop()

    def end(self) -> None:
        """See `Handle`. What a worker has saved when it was asked to stop may still be on its way."""
        if self._asked_to_stop:
            self._following.wait(self._asked_to_stop + LAST_SECONDS - time.monotonic())
        super().end()

    def _ask_to_stop(self) -> None:
        super()._ask_to_stop()
        self._following.pass_control()
