"""Chooses who trains the stacks of a command: this process, or several ones side by side."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sweepstack.config.run_sections import EngineConfig, OwnEngine
from sweepstack.errors import ConfigError
from sweepstack.execution.assignment import Reporter
from sweepstack.execution.control.eta import SLOWER_TOGETHER
from sweepstack.execution.engines.fork_server import ForkServer
from sweepstack.execution.engines.local import LocalExecutor, cores
from sweepstack.execution.engines.measuring import settings_there
from sweepstack.execution.engines.own import build_executor
from sweepstack.execution.executor import Executor, InProcessExecutor, MeasuringExecutor
from sweepstack.execution.prepare import Prepared
from sweepstack.execution.worker import close_readers
from sweepstack.planning.compatibility import stack_key
from sweepstack.planning.plan import Plan, Stack, plan
from sweepstack.trial import StackSettings, Trial

WORTH_SECONDS = 2.0
"""Estimated seconds of training from which several workers are considered: choosing for them takes time, too."""
PAYS_BELOW = 0.9
"""Ratio of the estimated times, of workers side by side to one process, below which they are chosen."""
LEAST_CUT_WIDTH = 16
"""A stack that a pruner will make narrow is cut for several workers only into parts of at least so many trajectories:
steps of narrow stacks gain little from that."""

_has_trained = False
"""True if this process has trained or timed something, so that it must not be forked any more."""


@dataclass(frozen=True)
class Chosen:
    """A plan, and who executes it."""

    plan: Plan
    executor: Executor
    reason: str = ""
    """A line for the user; empty if there is nothing to say."""


class Engine:
    """Chooses plans and executors for the trials of a command. Get it from `open_engine`.

    Args:
        prepared: the trials.
        jobs: trains in this process.
        journal: the folder of the journal.
        server: forks workers; None if there is none.
        workers: the number of workers that train at once if they are chosen.
        gpus: for each of them, the value of CUDA_VISIBLE_DEVICES; empty without GPUs.
        cluster: trains elsewhere; None: this machine trains.
    """

    def __init__(
        self,
        prepared: Prepared,
        jobs: InProcessExecutor,
        journal: Path,
        server: ForkServer | None,
        workers: int,
        gpus: Sequence[str],
        cluster: Executor | None = None,
    ) -> None:
        self._prepared, self._jobs, self._config = prepared, jobs, prepared.run.engine
        self._workers, self._cluster, self._journal = workers, cluster, journal
        self._threads = self._config.cores or (max(1, cores() // workers) if cluster is None else 1)
        self._local = LocalExecutor(journal, workers, server, self._config.lease, gpus)

    def choose(
        self,
        fresh: Sequence[Trial],
        resumed: Sequence[Stack],
        wait_for_quiet: Callable[[], None] | None,
        executor: Executor | None = None,
        reporter: Reporter | None = None,
    ) -> Chosen:
        """Plans trials, and chooses who trains them.

        Args:
            fresh: trials that are trained from their beginning.
            resumed: stacks that are resumed, as they were planned.
            wait_for_quiet: see `Executor.choose_settings`.
            executor: who trains others already, and gets these, too, with the worker that is free; None to choose.
            reporter: receives lines for the user while a worker measures. None: no worker does, such as for a dry run.
        """
        name = self._config.name
        if executor is not None:
            planned = self._plan_beside(fresh, len(resumed) + self._workers - 1, wait_for_quiet)
            close_readers([stack.trials[0] for stack in (*resumed, *planned.stacks)])
            return Chosen(planned, executor)
        if self._cluster is not None and (fresh or resumed):
            if name != "slurm":  # the jobs of its stacks are as many as these are, unless the config says how many
                self._workers = self._cluster.workers
            planned = self._plan_beside(fresh, len(resumed), wait_for_quiet, reporter=reporter)
            close_readers([stack.trials[0] for stack in (*resumed, *planned.stacks)])
            return Chosen(planned, self._cluster)
        may_be_local = name in ("auto", "local") and self._workers > 1 and len(fresh) + len(resumed) > 1
        if not may_be_local:
            return Chosen(self._plan(fresh, wait_for_quiet), self._jobs)
        if name == "local":
            local = self._plan_beside(fresh, len(resumed), wait_for_quiet)
            several = len(resumed) + len(local.stacks) > 1
            close_readers([stack.trials[0] for stack in (*resumed, *local.stacks)])
            return Chosen(local, self._local if several else self._jobs)
        inline = self._plan(fresh, wait_for_quiet, estimate=True)
        stacks = [*resumed, *inline.stacks]
        one_by_one = sum(map(seconds_of, stacks))
        if one_by_one < WORTH_SECONDS or not all(map(seconds_of, stacks)):
            return Chosen(inline, self._jobs)
        if close_readers([stack.trials[0] for stack in stacks]):  # they use the other cores, and each needs memory
            return Chosen(inline, self._jobs)
        local = self._plan_beside(fresh, len(resumed), wait_for_quiet, inline)
        beside = SLOWER_TOGETHER * makespan(map(seconds_of, [*resumed, *local.stacks]), self._workers)
        is_cut = len(local.stacks) > len(inline.stacks)
        narrowest = min((len(stack.trajectories) for stack in local.stacks), default=LEAST_CUT_WIDTH)
        stays_whole = self._prepared.run.pruner.ranks and is_cut and narrowest < LEAST_CUT_WIDTH
        if len(resumed) + len(local.stacks) < 2 or stays_whole or beside > PAYS_BELOW * one_by_one:
            return Chosen(inline, self._jobs)
        reason = f"{self._workers} workers side by side: about {beside:.1f} s of training, {one_by_one:.1f} s in one"
        return Chosen(local, self._local, f"{reason} process (engine=inline trains so)")

    def _plan(self, trials: Sequence[Trial], wait_for_quiet: Callable[[], None] | None, estimate: bool = False) -> Plan:
        return self._planned(trials, lambda group: self._jobs.choose_settings(group, wait_for_quiet, estimate))

    def _plan_beside(
        self,
        trials: Sequence[Trial],
        others: int,
        wait_for_quiet: Callable[[], None] | None,
        inline: Plan | None = None,
        reporter: Reporter | None = None,
    ) -> Plan:
        """Plans trials for workers side by side.

        Args:
            trials: the trials.
            others: the number of stacks that are trained, too.
            wait_for_quiet: see `choose`.
            inline: how they would be trained one after the other, if that is known. What fits is not timed again.
            reporter: see `choose`.
        """
        groups = len({_key(trial) for trial in trials}) + others
        parts = max(1, math.ceil(self._workers / max(groups, 1)))
        known = {_key(stack.trials[0]): stack.choice for stack in inline.stacks} if inline and parts == 1 else {}
        if self._cluster is not None:
            known = self._known_there(trials, parts, reporter)

        def choose(group: Sequence[Trial]) -> StackSettings:
            found = known.get(_key(group[0]))
            who = f"{self._workers} workers side by side" if self._cluster is None else f"engine={self._config.name}"
            if found is None or found.threads != (group[0].run.threads or self._threads):
                estimate = inline is not None
                found = self._jobs.choose_settings(group, wait_for_quiet, estimate, (self._threads, parts))
                if self._cluster is not None and _can_choose(group):
                    who = f"measured on the machine of the command; {who}"
            return replace(found, reason=f"{found.reason}; {who}")

        return self._planned(trials, choose)

    def _known_there(self, trials: Sequence[Trial], parts: int, reporter: Reporter | None) -> dict[str, StackSettings]:
        """Returns what workers of the cluster have measured, by `_key`; if they do not measure, nothing.

        Args:
            trials: the trials.
            parts: the number of workers that can train trajectories of one group at once.
            reporter: see `choose`.
        """
        if not isinstance(self._cluster, MeasuringExecutor):
            return {}
        groups: list[Sequence[Trial]] = []

        def collect(group: Sequence[Trial]) -> StackSettings:
            groups.append(group)
            return StackSettings(len(group), 1, 0.0, "")

        plan(trials, collect, self._prepared.isolation_reason)
        groups = [group for group in groups if _can_choose(group)]
        device = self._prepared.devices.get("auto", "")
        found = settings_there(self._cluster, self._journal, groups, (self._threads, parts), device, reporter)
        return {_key(group[0]): settings for group, settings in zip(groups, found, strict=True) if settings is not None}

    def _planned(self, trials: Sequence[Trial], choose: Callable[[Sequence[Trial]], StackSettings]) -> Plan:
        planned = plan(trials, choose, self._prepared.isolation_reason)
        return Plan(tuple(replace(stack, device=self._prepared.device_of(stack)) for stack in planned.stacks))

    def close(self) -> None:
        """Ends all workers."""
        self._local.close()
        if self._cluster is not None:
            self._cluster.close()


@contextlib.contextmanager
def open_engine(prepared: Prepared, jobs: InProcessExecutor, journal: Path) -> Iterator[Engine]:
    """Opens the engine of a command for the block. It forks this process, so nothing may have been computed before.

    Args:
        prepared: the trials.
        jobs: trains in this process.
        journal: the folder of the journal.

    Raises:
        ConfigError: this machine does not have the GPUs that the config asks for.
    """
    global _has_trained
    config = prepared.run.engine
    cluster = _cluster(config, journal, prepared.run.threads or 1)
    if cluster is not None or isinstance(config, OwnEngine):
        with contextlib.closing(Engine(prepared, jobs, journal, None, config.workers or 1, [], cluster)) as engine:
            yield engine
        return
    on_gpus = set(prepared.devices.values()) == {"cuda"}
    if config.gpus_per_worker is not None and not on_gpus and config.name == "local":
        rule = "engine.gpus_per_worker needs a GPU to train on, and this machine has none or device is another one"
        raise ConfigError(rule, config.gpus_per_worker, "leave it out")
    gpus = _shares(config) if on_gpus and config.name in ("auto", "local") else []
    workers = config.workers or (len(gpus) if on_gpus else cores() // (config.cores or 1)) or 1
    workers = min(workers, len(prepared.trials))
    server = None
    wanted = config.name in ("auto", "local") and workers > 1
    may_fork = sys.platform == "linux" and hasattr(os, "fork") and threading.current_thread() is threading.main_thread()
    if wanted and may_fork and set(prepared.devices.values()) == {"cpu"} and not _has_trained:
        server = ForkServer(jobs.train_in_worker)
    _has_trained = True
    engine = Engine(prepared, jobs, journal, server, workers, gpus[:workers])
    try:
        yield engine
    finally:
        engine.close()


def _cluster(config: EngineConfig | OwnEngine, journal: Path, threads: int) -> Executor | None:
    """Returns the executor that an engine names; None for this process and this machine's workers.

    Args:
        config: the section of the config.
        journal: the folder of the journal.
        threads: the number of threads of a worker.
    """
    if isinstance(config, OwnEngine):
        return build_executor(config, journal)
    if config.name == "slurm":
        from sweepstack.execution.engines.slurm.executor import SlurmExecutor

        return SlurmExecutor(journal, config)
    if config.name == "dask":
        from sweepstack.execution.engines.dask.executor import DaskExecutor

        return DaskExecutor(journal, config, threads)
    return None


def _can_choose(group: Sequence[Trial]) -> bool:
    """True if it is to be measured how the trajectories of some trials train fastest: the config leaves it open."""
    launch = group[0].run.launch
    return len(group) > 1 and bool(launch.stack) and launch.width is None


def _key(trial: Trial) -> str:
    return stack_key(trial.config, trial.run)


def seconds_of(stack: Stack) -> float:
    """The estimated seconds that a stack trains; 0 if that is not known."""
    return stack.epochs * stack.choice.epoch_seconds


def makespan(times: Iterator[float] | Sequence[float], workers: int) -> float:
    """Returns the time until all stacks are trained, the longest ones first.

    Args:
        times: the times of the stacks.
        workers: the number of workers.
    """
    busy = [0.0] * workers
    for time in sorted(times, reverse=True):
        busy[busy.index(min(busy))] += time
    return max(busy)


def _shares(config: EngineConfig) -> list[str]:
    """Returns the GPUs of each worker: several, one, or one that others have, too."""
    from sweepstack.training.hardware import visible_gpus

    gpus, each = visible_gpus(), config.gpus_per_worker or 1.0
    if each < 1:
        return [gpu for gpu in gpus for _ in range(int(1 / each))]
    size = int(each)
    if size > len(gpus):
        rule = f"engine.gpus_per_worker must be at most the {len(gpus)} GPUs that this machine has"
        raise ConfigError(rule, size, f"for example engine.gpus_per_worker={len(gpus)}")
    return [",".join(gpus[begin : begin + size]) for begin in range(0, len(gpus) - size + 1, size)]
