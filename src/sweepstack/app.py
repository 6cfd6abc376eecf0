"""What train.py runs: a single job here, a multirun through the launcher. It also decides the exit code."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sweepstack.blame import Whose, is_signal, judge
from sweepstack.errors import ConfigError, printable
from sweepstack.exits import EXIT_INTERRUPTED, FAILED, OK, TERMINATED, WAITING, Ending, as_object, ending, leave
from sweepstack.files.current import current_folder
from sweepstack.hydra_adapter.ignored_settings import trains_elsewhere
from sweepstack.hydra_adapter.mask_inputs import hide_composed, hide_typed, reveal_environment
from sweepstack.hydra_adapter.user_program.base import put_base_below
from sweepstack.hydra_adapter.user_program.command import remember_program
from sweepstack.private_api_switch import tricks
from sweepstack.standard_streams import lenient_output, open_closed
from sweepstack.strict_json import is_reserved, print_error_json, reserved_output
from sweepstack.sweep_end import print_after_error, print_next, print_table, tracking_of
from sweepstack.trial import TrialState

SHOW_TRACEBACKS = bool(os.environ.get("HYDRA_FULL_ERROR"))
"""True if the user wants tracebacks instead of one-line errors."""
show_table: Callable[[DictConfig], list[str]] = print_table
"""What shows the table at the end of a sweep, and returns the states of its trials."""
RESUME_HINT = "the same command goes on from here"
"""What a user reads when a command was stopped."""
HYDRA_1_4 = ("The version_base parameter", "(?s).*execution whitelist", r"register_new_resolver\(\) is deprecated")
"""Warnings of Hydra 1.4 about calls that Hydra 1.3 needs, as patterns."""
for warning in HYDRA_1_4:
    warnings.filterwarnings("ignore", message=warning, category=UserWarning)


hide_composed()  # at import: processes that a launcher starts import this file, then compose
put_base_below()


class Terminated(KeyboardInterrupt):
    """SIGTERM; it is handled like Ctrl-C."""


def run(cfg: DictConfig) -> float:
    """Trains one composed job and records it.

    Returns:
        The objective, for sweepers: by default the held-out accuracy; or NaN when a trial of a multirun failed.

    Raises:
        SystemExit: 1 if the trial of a single run failed; 2 for a mistake in the config, data that cannot be obtained
            or a store that cannot be used; 3 if the record waits in the journal. The line that says so was printed.
    """
    with _exiting():  # here, because Hydra would add lines of its own to an exception that leaves a job
        return _run(cfg)


def _run(cfg: DictConfig) -> float:
    from sweepstack.execution.executor import InProcessExecutor
    from sweepstack.execution.listener import JobLog
    from sweepstack.execution.open_store import usable_store
    from sweepstack.execution.prepare import prepare
    from sweepstack.execution.scheduler import execute
    from sweepstack.execution.undelivered import undelivered
    from sweepstack.hydra_adapter.ignored_settings import check_grid, check_searches, check_trains
    from sweepstack.hydra_adapter.trials import asked_of, make_trial
    from sweepstack.metrics import bare_name, rounded
    from sweepstack.paths import begin_in
    from sweepstack.tracking.address import own_options
    from sweepstack.trial import Outcome, Trial, TrialState

    hydra = cast("DictConfig", HydraConfig.get())
    in_sweep = hydra.mode == RunMode.MULTIRUN
    check_grid(cfg, hydra)
    begin_in(Path(hydra.runtime.cwd))
    reveal_environment(hydra.job.env_set)
    if in_sweep and OmegaConf.select(cfg, "tracking.sweep") is None:  # another program's config, not on top of ours
        cfg = cast("DictConfig", OmegaConf.merge(cfg, {"tracking": {"sweep": sweep_name()}}))
    trial = make_trial(cfg, hydra, Path(hydra.runtime.output_dir), (), in_sweep)
    check_trains(trial.run)
    check_searches(hydra, trial.run)
    task = hydra.job.name
    store = usable_store(trial.run.tracking, task)

    class Log(JobLog):
        def on_skipped(self, trial: Trial, outcome: Outcome, reason: str) -> None:
            super().on_skipped(trial, outcome, reason)
            if not in_sweep:
                selects = bare_name(trial.config.objective)
                metrics = sorted((key, value) for key, value in outcome.metrics.items() if bare_name(key) == selects)
                shown = "  ".join(f"{key} {rounded(value)}" for key, value in metrics)
                print(printable(f"{trial.name}  {shown or outcome.reason}"))

    executor = InProcessExecutor()
    if not in_sweep:
        trial = replace(trial, asked=asked_of([trial.overrides])[0])
    prepared = prepare([trial], task, executor)
    outcomes = execute(prepared, store, executor, [Log()])
    outcome = outcomes[prepared.trials[0].fingerprint]  # among others, where the stack of an earlier sweep was resumed
    if not in_sweep:
        if outcome.state not in (TrialState.FINISHED, TrialState.PRUNED):
            raise SystemExit(FAILED)
        own = own_options(trial.run.tracking.uri)
        if undelivered():  # the session has printed why
            raise SystemExit(WAITING)
        print_next(["Browse", "ui", *own], ["Table", "table", "--sweep", "all", *own])
    return outcome.objective(trial.config)


@functools.cache
def sweep_name() -> str:
    """Returns a name for the sweep of this process: its start time, and four random digits to keep it unique."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(2)}"


def first_given(*values: Any) -> Any:
    """Returns the first value that is not null. (`oc.select` returns its default only if the key is missing.)"""
    return next((value for value in values if value is not None), None)


def from_data(key: str, *, _parent_: DictConfig, _root_: DictConfig) -> Any:
    """Returns a value of the section `dataset` that the files of the dataset say, such as its shape.

    Args:
        key: the key of the value.
        _parent_: the section.
        _root_: the whole config.
    """
    from sweepstack.data_files.facts import find_fact

    return find_fact(key, cast("Mapping[str, Any]", _parent_), str(OmegaConf.select(_root_, "task._target_")))


OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True, use_cache=True)
OmegaConf.register_new_resolver("first_given", first_given, replace=True)
OmegaConf.register_new_resolver("from_data", from_data, replace=True)


class AfterSweep(Callback):
    """Prints the table of the trials and the next commands at the end of a multirun."""

    elsewhere: ClassVar[DictConfig | None] = None
    """The config of the sweep that other processes train for this one; None if there is none."""

    def __init__(self) -> None:
        self._objectives: list[float] = []

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exiting():
            _check_names(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exiting():
            _check_names(config)
        AfterSweep.elsewhere = config if trains_elsewhere(config) else None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.status is JobStatus.COMPLETED:
            self._objectives.append(job_return.return_value)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        stopped = sys.exc_info()[1] is not None  # Hydra 1.4 calls this even then
        if stopped:
            return
        with _exiting():
            states = show_table(config)
            code = self._code(config, states)
        if code != OK:
            raise SystemExit(code)

    def _code(self, config: DictConfig, states: Collection[str]) -> int:
        """Returns the exit code. If no job has reported, a launcher has trained in other processes, and the recorded
        states decide."""
        failed = any(math.isnan(objective) for objective in self._objectives)
        if failed or (not self._objectives and {*states} - {TrialState.FINISHED, TrialState.PRUNED}):
            return FAILED
        return WAITING if self._undelivered(config) else OK

    def _undelivered(self, config: DictConfig) -> str | None:
        from sweepstack.execution.undelivered import undelivered
        from sweepstack.tracking.store import Store

        if self._objectives:
            return undelivered()
        tracking = tracking_of(config)
        return undelivered(Store(tracking.uri), tracking.journal)


def _check_names(config: DictConfig) -> None:
    """Checks the name of the sweep before Hydra makes a folder of that name. `parse` checks everything else."""
    from omegaconf.errors import InterpolationResolutionError

    from sweepstack.config.names import check_sweep

    if not isinstance(section := OmegaConf.select(config, "tracking", default={}), DictConfig | dict):
        raise ConfigError("tracking should have keys", section, "for example tracking.sweep=my_sweep")
    try:
        name = OmegaConf.select(config, "tracking.sweep")
    except InterpolationResolutionError:  # ${hydra:...} is known only inside the job, where `parse` checks it
        return
    if isinstance(name, str):
        try:
            check_sweep(name)
        except ValueError as error:
            raise ConfigError(f"tracking.sweep {error}", name, "for example tracking.sweep=my_sweep") from None


def main(task: Callable[[], Any], module: str | None = None) -> NoReturn:
    """Runs Hydra's main function, and ends the program with one line and an exit code.

    Exit codes: see `exits`. With HYDRA_FULL_ERROR=1 it shows the traceback instead of the line, and exits with 1.

    Args:
        task: the function.
        module: the module that `python -m` begins this program by; None if it is the one that has been begun.
    """
    caller = sys._getframe(1)
    is_main = caller.f_globals["__name__"] == "__main__"
    spec = caller.f_globals.get("__spec__") if is_main else None
    is_program = caller.f_back is None and is_main
    try:
        _run_task(task, module if spec is None else spec.name)
    except SystemExit as end:
        if is_program and tricks() and isinstance(end.code, int):  # nobody is left who could catch it
            leave(end.code)
        raise


def _run_task(task: Callable[[], Any], module: str | None) -> NoReturn:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints every exception itself, and exits with 1
    # Threads that spin while they wait cost 10x on a busy machine, threads that sleep at once 1.5x on a quiet one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    gc.set_threshold(50_000, 20, 50)  # a collection visits all objects of PyTorch and Hydra: 5 % of a short sweep
    hide_typed()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    open_closed(output_is_needed=False)
    from sweepstack.hydra_adapter.show_configs import asks_for_json, understood

    with lenient_output(), reserved_output() if asks_for_json(sys.argv[1:]) else contextlib.nullcontext():
        with _exiting():
            if getattr(task, "__wrapped__", None) is run:
                rule = "Hydra looks for configs beside the function that it calls, and app.run is one of ours"
                raise ConfigError(rule, remedy="write a function of your own: def train(cfg): return app.run(cfg)")
            sys.path.append(str(current_folder()))  # a user's own modules are there, as with `python -m`
            remember_program(module)
            sys.argv[1:] = understood(sys.argv[1:])
            AfterSweep.elsewhere = None
            try:
                task()
            except Exception as error:
                config = AfterSweep.elsewhere
                if config is not None and (line := print_after_error(config, error)) is not None:
                    _stop(FAILED, f"{line}; {RESUME_HINT}")
                raise
        sys.exit(OK)


@contextlib.contextmanager
def _exiting() -> Iterator[None]:
    """Turns every exception that leaves the block into one line and an exit code."""
    try:
        yield
    except Terminated:
        _stop(TERMINATED, f"Stopped by SIGTERM; {RESUME_HINT}.")
    except KeyboardInterrupt as error:
        if is_signal(error):
            by = "" if type(error) is KeyboardInterrupt else f" by {error}"
            _stop(EXIT_INTERRUPTED, f"Stopped{by}; {RESUME_HINT}.")
        _end(error)
    except BaseException as error:
        if SHOW_TRACEBACKS or (isinstance(error, SystemExit) and judge(error).whose is not Whose.CODE):
            raise
        _end(error)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Handles a signal: after the first one the trial is recorded as KILLED, a second one ends the process at once."""
    from sweepstack.execution.signals import interruption

    signal.signal(number, signal.SIG_DFL)
    raise Terminated("SIGTERM") if number == signal.SIGTERM else interruption()


def _end(error: BaseException) -> NoReturn:
    """Ends the program by an exception: with a line for each mistake, or with one object for programs."""
    end = ending(error)
    _stop(end.code, *end.lines, error=error)


def _stop(code: int, *lines: str, error: BaseException | None = None) -> NoReturn:
    """Ends the program with lines, or with one object for programs.

    Args:
        code: the exit code.
        lines: the lines for the standard error.
        error: what ends the program; None if the lines say all.
    """
    sys.stdout.flush()
    if is_reserved() and lines:
        print_error_json(as_object(error or SystemExit(), Ending(code, lines)))
        sys.exit(code)
    for line in lines:
        print(line, file=sys.stderr)
    sys.exit(code)
