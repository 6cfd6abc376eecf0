"""What train.py runs: one job at a time here, a multirun through the launcher; and how it ends."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sweepstack.errors import UserError

SHOW_TRACEBACKS = bool(os.environ.get("HYDRA_FULL_ERROR"))
OK, FAILED, USER_ERROR, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


HYDRA_1_4 = ("The version_base parameter", "(?s).*execution whitelist", r"register_new_resolver\(\) is deprecated")
for notice in HYDRA_1_4:  # says so of calls that 1.3 knows no other way to make
    warnings.filterwarnings("ignore", message=notice, category=UserWarning)


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken as calmly as Ctrl-C."""


def run(cfg: DictConfig) -> float:
    """Trains one composed job and records it.

    Returns:
        The objective, for sweepers: held-out accuracy, or NaN when a trial of a multirun failed.

    Raises:
        SystemExit: 1 when a trial on its own failed, 2 for a mistake in the config, unobtainable data or an unusable
            store; the line that says so has been printed.
    """
    with _ending():  # here, for Hydra would add lines of its own to what leaves a job
        return _run(cfg)


def _run(cfg: DictConfig) -> float:
    from sweepstack.errors import ConfigError
    from sweepstack.sweeping.jobs import make_trial, varied_keys
    from sweepstack.sweeping.plan import plan
    from sweepstack.sweeping.recording import recording, usable_store, wait_for_quiet
    from sweepstack.sweeping.runner import choose, log_outcome, prepare, run_stack
    from sweepstack.trial import Ended, Event, Outcome, TrialState

    hydra = cast("DictConfig", HydraConfig.get())
    in_sweep = hydra.mode == RunMode.MULTIRUN
    varied = varied_keys([hydra.overrides.task])
    trial = make_trial(cfg, hydra, Path(hydra.runtime.output_dir), varied, in_sweep)
    if trial.config.launch.dry_run:
        raise ConfigError(
            "launch.dry_run shows the plan of a sweep, which needs -m and hydra/launcher=sweepstack; add or remove them"
        )
    store = usable_store([trial])
    prepare(trial.config, set())
    outcomes: list[Outcome] = []
    with recording([trial], store, hydra.job.name) as emit:

        def take(event: Event) -> None:
            emit(event)
            if isinstance(event, Ended):
                outcomes.append(event.outcome)
                log_outcome(trial, event.outcome)

        for stack in plan([trial], lambda configs: choose(configs, lambda: wait_for_quiet(store))).stacks:
            run_stack(stack, take)
    if not in_sweep:
        if outcomes[0].state is not TrialState.FINISHED:
            raise SystemExit(FAILED)
        _print_next(["Browse", "ui"], ["Table", "table", "--sweep", "all"])
    return outcomes[0].objective(trial.config)


@functools.cache
def sweep_name() -> str:
    """A name for the sweep of this process: its start, and four digits that keep two of the same second apart."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(2)}"


OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True, use_cache=True)


class AfterSweep(Callback):
    """At the end of a multirun: the table of its trials, and what to type next."""

    def __init__(self) -> None:
        self._objectives: list[float] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.status is JobStatus.COMPLETED:
            self._objectives.append(job_return.return_value)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        stopped = sys.exc_info()[1] is not None  # Hydra 1.4 calls this all the same
        if stopped or not self._objectives:
            return
        with _ending():
            self._show(config)
        if any(math.isnan(objective) for objective in self._objectives):
            raise SystemExit(FAILED)

    def _show(self, config: DictConfig) -> None:
        from sweepstack.tracking.process import writer_process
        from sweepstack.tracking.store import resolve_uri

        sweep = str(config.tracking.sweep)
        found = writer_process(resolve_uri(config.tracking.uri)).find(sweep)
        from sweepstack.results.table import as_frame, to_text  # loads pandas, while the store is read

        rows, link = found()
        print(f"\n{to_text(as_frame(rows))}")
        _print_next(["Browse", "ui"], ["Export", "table", "--sweep", sweep, "--format", "csv"])
        print(f"          {link}")


def _print_next(*commands: list[str]) -> None:
    """The next commands, as they can be typed here."""
    beside = Path(sys.executable).with_name("sweepstack")
    program = "sweepstack" if shutil.which("sweepstack") or not beside.exists() else os.path.relpath(beside)
    for title, *words in commands:
        print(f"{title + ':':<9} {shlex.join([program, *words])}")


def main(task: Callable[[], Any]) -> NoReturn:
    """Runs Hydra's main function and turns however it ends into one line and an exit code: 0, 1 when a trial failed,
    2 for a mistake of the user's, 130 on Ctrl-C, 143 on SIGTERM. HYDRA_FULL_ERROR=1 shows the traceback instead
    of the line, and exits with 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print what it catches, and exit with 1 whatever it was
    # Threads that spin while they wait cost 10x on a busy machine, threads that sleep at once 1.5x on a quiet one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    gc.set_threshold(50_000, 20, 50)  # a collection walks over all that PyTorch and Hydra hold; 5 % of a short sweep
    sys.path.append(os.getcwd())  # where a user's own modules are, as with `python -m`
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    with _ending():
        task()
    sys.exit(OK)


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Whatever ends the block becomes one line and an exit code."""
    try:
        yield
    except Terminated:
        _stop(TERMINATED, "Stopped by SIGTERM.")
    except KeyboardInterrupt:
        _stop(INTERRUPTED, "Stopped.")
    except Exception as error:
        if SHOW_TRACEBACKS:
            raise
        _stop(*_explain(error))


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """The first signal lets the trial be recorded as KILLED; a second one ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise Terminated("SIGTERM") if number == signal.SIGTERM else KeyboardInterrupt("Ctrl-C")


def _stop(code: int, message: str) -> NoReturn:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    sys.exit(code)


def _explain(error: Exception) -> tuple[int, str]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return USER_ERROR, "\n".join(f"error: {line}" for line in str(error).splitlines())
    of_hydra = isinstance(error, HydraException | OmegaConfBaseException)
    if of_hydra or str(error).startswith("Config group override"):
        from sweepstack.sweeping.overrides import explain

        return USER_ERROR, f"error: {explain(error)}"
    if isinstance(error, OSError):
        where = error.filename or "a file"
        return USER_ERROR, f"error: {where} cannot be used ({error.strerror or error}); choose another place for it"
    log_file = _log_traceback(error)
    return (
        FAILED,
        f"error: {type(error).__name__}: {error} (not your mistake; the traceback is in {log_file})",
    )


def _log_traceback(error: Exception) -> Path:
    from sweepstack.tracking.store import project_root

    path = project_root() / "mlruns" / "errors.log"
    try:
        path.parent.mkdir(exist_ok=True)
        handler = logging.FileHandler(path)
    except OSError:  # a project that cannot be written to
        path = Path(tempfile.gettempdir(), "sweepstack-errors.log")
        handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    record = logging.LogRecord("sweepstack", logging.ERROR, "", 0, shlex.join(sys.argv), None, None)
    record.exc_info = (type(error), error, error.__traceback__)
    handler.handle(record)
    handler.close()
    return path
