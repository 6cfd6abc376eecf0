"""Submits jobs through submitit, and says in one line why Slurm refuses one."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sweepstack.config.run_sections import EngineConfig
from sweepstack.errors import ConfigError, UserError, did_you_mean, one_line
from sweepstack.execution.engines.slurm.queue import LONGEST_SECONDS
from sweepstack.execution.engines.slurm.worker import SlurmWorker
from sweepstack.paths import began_in

LOGS = "slurm"
"""The folder, in that of an assignment, with the script and the log of its job."""
WARNING_SECONDS = 90
"""Seconds before its time limit in which a job saves its state and goes back into the queue."""
UNANSWERED = re.compile(
    r"unable to contact|timed out|connect|communication|zero bytes|temporarily|has not ended|try again", re.IGNORECASE
)
"""Matches what sbatch says when it does not know whether Slurm has the job."""

_under_way: set[Future[str]] = set()
"""The submissions for which sbatch has not ended: the ids of their jobs."""


class UnansweredError(Exception):
    """Slurm has not said whether it has the job."""


def check_config(config: EngineConfig) -> None:
    """Checks what can be checked before anything is submitted.

    Raises:
        ConfigError: this machine or the config does not fit Slurm.
    """
    if config.gpus_per_worker is not None and config.gpus_per_worker < 1:
        rule = "engine.gpus_per_worker must be at least 1 for engine=slurm, which alone can share GPUs"
        raise ConfigError(rule, config.gpus_per_worker, "for example engine.gpus_per_worker=1")
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        rule = "engine=slurm needs the package submitit"
        raise ConfigError(rule, remedy='pip install "sweepstack[slurm]"') from error
    missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        rule = f"engine=slurm needs the commands of Slurm, {missing[0]} is not on this machine"
        remedy = "type the command on a machine that submits jobs to the cluster, or leave engine out"
        raise ConfigError(rule, remedy=remedy)


def job_name(stack: str) -> str:
    """Returns the name of the job of a stack, by which a later command finds it."""
    return f"sweepstack-{stack}"


def submit(folder: Path, stack: str, config: EngineConfig) -> str:
    """Submits the job of an assignment; returns its id.

    Args:
        folder: the folder of the assignment.
        stack: the id of its stack.
        config: what the job asks for.

    Raises:
        ConfigError, UserError: Slurm refuses the job.
        UnansweredError: see there.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    executor = SlurmExecutor(folder / LOGS)
    executor.update_parameters(**_parameters(stack, config))
    job: Future[str] = Future()
    job.add_done_callback(_under_way.discard)

    def run() -> None:
        try:
            with _outside_of_jobs():
                job.set_result(str(executor.submit(SlurmWorker(folder)).job_id))
        except BaseException as error:  # for the thread that waits
            job.set_exception(error)

    _under_way.add(job)
    with contextlib.redirect_stderr(io.StringIO()):  # submitit prints there what sbatch says
        threading.Thread(target=run, daemon=True, name="sweepstack-sbatch").start()  # submitit waits without a limit
        futures.wait([job], LONGEST_SECONDS)
    if not job.done():
        raise UnansweredError(f"sbatch has not ended within {LONGEST_SECONDS:g} s")
    try:
        return job.result()
    except FailedJobError as error:
        raise _refusal(str(error), config) from error


def wait_for_sbatch(seconds: float) -> None:
    """Waits until no sbatch is under way any more.

    Args:
        seconds: how long at most. A job that Slurm takes later cannot begin, see `can_begin`.
    """
    futures.wait([*_under_way], seconds)


def can_begin(folder: Path, job: str) -> bool:
    """True if a job finds what it is to run: submitit puts it there when sbatch has said the id of the job.

    Args:
        folder: the folder of the assignment.
        job: the id of the job.
    """
    return (folder / LOGS / f"{job}_submitted.pkl").exists()


def _parameters(stack: str, config: EngineConfig) -> dict[str, Any]:
    """Returns the parameters of a job for submitit. None: as Slurm's administrator has set it."""
    cores = config.cores or 1
    path = os.pathsep.join(filter(None, sys.path))
    seconds = WARNING_SECONDS if config.minutes is None else min(WARNING_SECONDS, config.minutes * 30)
    memory = config.memory_gb
    return {
        "job_name": job_name(stack),
        "partition": config.partition,
        "account": config.account,
        "time": config.minutes,
        "mem": None if memory is None else f"{round(memory * 1024)}MB",
        "cpus_per_task": cores,
        "gpus_per_node": None if config.gpus_per_worker is None else int(config.gpus_per_worker),
        "setup": [*config.setup, f"export PYTHONPATH={shlex.quote(path)}"],
        "signal_delay_s": seconds,
        "wckey": None,
        "stderr_to_stdout": True,
        "additional_parameters": {"chdir": str(began_in()), "requeue": True},
        "srun_args": [f"--cpus-per-task={cores}"],  # it does not take that from the job
    }


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """In the block, this process does not look like a job itself, which submitted ones would take after."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    config = os.environ.get("SLURM_CONF")
    with clean_env():
        if config is not None:
            os.environ["SLURM_CONF"] = config
        yield


def _refusal(text: str, config: EngineConfig) -> Exception:
    """Returns what the user is to know of a refusal by sbatch."""
    lines = [line.removeprefix("sbatch: error: ") for line in text.splitlines() if line.startswith("sbatch: ")]
    message = one_line("; ".join(lines) or text)
    lower = message.lower()
    if "partition" in lower and "invalid" in lower and "account" not in lower:
        known = _output("sinfo", "--noheader", "--format=%R").split()
        rule = f"engine.partition must be a partition of this Slurm ({message})"
        return ConfigError(rule, config.partition, did_you_mean(config.partition or "", known))
    if "account" in lower and ("invalid" in lower or "not permitted" in lower):
        rule = f"engine.account must be an account that may use this Slurm ({message})"
        return ConfigError(rule, config.account, "`sacctmgr show associations user=$USER` lists yours")
    if "configuration is not available" in lower or "memory specification" in lower or "generic resource" in lower:
        return cannot_start(message, config)
    if "time limit" in lower and "submit limit" not in lower:
        rule = f"engine.minutes must be a time that the partition allows ({message})"
        return ConfigError(rule, config.minutes, "`sinfo --format='%P %l'` shows the limits")
    if "submit limit" in lower or "submitjob" in lower:
        rule = f"engine.workers must be at most the number of jobs that Slurm takes from you ({message})"
        return ConfigError(rule, config.workers, "for example engine.workers=4")
    if UNANSWERED.search(message):
        return UnansweredError(message)
    rule = f"Slurm must take the jobs of engine=slurm, sbatch says: {message}"
    return UserError(rule, remedy="ask the people who run the cluster, or set other keys of engine")


def cannot_start(message: str, config: EngineConfig) -> ConfigError:
    """Returns the mistake of a job that asks for more than there is.

    Args:
        message: what Slurm says of it.
        config: what the job asks for.
    """
    keys = ("partition", "gpus_per_worker", "memory_gb", "cores", "minutes", "account")
    asked = " ".join(f"engine.{key}={value}" for key in keys if (value := getattr(config, key)) is not None)
    rule = f"a job must ask for what a partition has and allows, or it never starts ({message})"
    remedy = "`sinfo --format='%P %c %m %G %l'` shows the cores, MB, GPUs and time limits of the partitions"
    return ConfigError(rule, asked, remedy)


def _output(*command: str) -> str:
    """Returns what a command of Slurm prints; empty if it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=10, check=True).stdout
    return ""
