"""What a command prints when its sweep is over: the table, failures, trials that never reported, the next commands."""

from __future__ import annotations

import contextlib
import shutil
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from sweepstack.blame import describe_error
from sweepstack.config.parsing import resolve_config
from sweepstack.config.run_sections import TrackingConfig
from sweepstack.error_log import log_traceback
from sweepstack.errors import StoreError, UserError, as_typed, printable
from sweepstack.masking import MASK, has_masks

if TYPE_CHECKING:
    from sweepstack.hydra_adapter.jobs import HydraJobs
    from sweepstack.journal.ledger import Ledger
    from sweepstack.tracking.runs_as_rows import Row
    from sweepstack.tracking.store import Store
    from sweepstack.trial import Trial

START_SECONDS = 10.0
"""Seconds that a job has to claim its trial after it has begun: it loads PyTorch before."""


def print_table(config: DictConfig, unreported: Sequence[Trial] = ()) -> list[str]:
    """Prints the table of a sweep and the next commands; returns the states of its trials.

    Args:
        config: the config of the sweep.
        unreported: trials that are not in the table, or are there because a killed process has left them.
    """
    from sweepstack.tracking.address import own_options, resolve_uri
    from sweepstack.tracking.writer.client import writer_process

    tracking = tracking_of(config)
    sweep, uri = tracking.sweep, tracking.uri
    store = own_options(uri)
    found = writer_process(resolve_uri(uri)).find(sweep)
    from sweepstack.results.tables.frame import as_frame  # loads pandas, while the store is read
    from sweepstack.results.tables.rendering import failures, never_reported, to_text

    try:
        rows, link = found()
    except StoreError as error:  # the journal holds what has been trained
        print(f"The table must wait: {error}", file=sys.stderr)
        print(never_reported(unreported), end="")
        sync = own_options(uri, tracking.journal)
        print_next(["Deliver", "sync", *sync], ["Table", "table", "--sweep", sweep, *store])
        return _states_in_journal(config)
    try:
        frame = as_frame(rows)
    except UserError as error:  # the trials have different objectives
        print(f"The trials are not ranked: {error}", file=sys.stderr)
        frame = as_frame(rows, sort="started")
    print(f"\n{to_text(frame)}")
    for part in (failures(frame), never_reported(unreported)):
        if part:
            print(part)
    print_next(
        ["Browse", "ui", *store],
        ["Export", "table", "--sweep", sweep, "--format", "csv", *store],
        ["Report", "report", "--sweep", sweep, *store],
    )
    print(f"          {link}")
    return [str(row.state) for row in rows]


def tracking_of(config: DictConfig) -> TrackingConfig:
    """Returns the section `tracking` of a sweep; what the config leaves out has its default."""
    found = OmegaConf.select(config, "tracking")
    return TrackingConfig.model_validate(resolve_config(found) if isinstance(found, DictConfig) else {})


def read_rows(config: DictConfig) -> list[Row]:
    """Returns the rows of a sweep's trials.

    Args:
        config: the config of the sweep.

    Raises:
        StoreError: the store does not answer.
    """
    from sweepstack.tracking.address import own_options, resolve_uri
    from sweepstack.tracking.writer.client import writer_process

    tracking = tracking_of(config)
    try:
        rows, _ = writer_process(resolve_uri(tracking.uri)).find(tracking.sweep)()
    except StoreError as error:
        sync = as_typed(["sweepstack", "sync", *own_options(tracking.uri, tracking.journal)])
        raise StoreError(
            f"the table must wait: {error}", remedy=f"what was trained is in the journal: {sync}"
        ) from error
    return rows


def print_next(*commands: list[str]) -> None:
    """Prints the next commands, as they can be typed in this folder, whatever environment is active."""
    installed = Path(sys.executable).with_name("sweepstack")
    program = "sweepstack" if shutil.which("sweepstack") or not installed.exists() else str(installed)
    for title, *arguments in commands:
        print(f"{title + ':':<9} {as_typed([program, *arguments])}")
    if any(has_masks(argument) for arguments in commands for argument in arguments):
        print(f"          ({MASK} stands for the password; MLFLOW_TRACKING_URI can hold the whole address)")


def print_after_error(config: DictConfig, error: Exception) -> str | None:
    """Prints what has become of a sweep that an error has ended, and whose jobs other processes train.

    It waits for the jobs that still train: a launcher may raise the error of one job while others go on.

    Args:
        config: the config of the sweep.
        error: the error.

    Returns:
        A line about the error; None if the error itself says what there is to say.
    """
    from sweepstack.hydra_adapter.ignored_settings import launcher_of
    from sweepstack.hydra_adapter.launcher import LauncherError

    if not isinstance(error, LauncherError) and not _frames(error) & {"launch", "return_value"}:
        return None  # nothing was launched
    store, ledger = _store_and_ledger(config)
    sweep, cause = tracking_of(config).sweep, error.__cause__ or error
    jobs = error.jobs if isinstance(error, LauncherError) else None
    folders = [Path(config.hydra.sweep.dir)] if jobs is None else [one.folder for one in jobs.trials.values()]
    begun = any(folder.exists() for folder in folders)
    is_over = isinstance(error, UserError) or isinstance(cause, BrokenExecutor) or not begun
    unreported: list[Trial] = []
    with contextlib.suppress(StoreError):
        from sweepstack.execution.control.unreported import wait_for_unreported
        from sweepstack.tracking.writer.delivery import deliver_what_is_left

        trials = _prepared(config, jobs) if begun and jobs is not None else ()
        unreported = wait_for_unreported(trials, sweep, store, ledger, 0.0 if is_over else START_SECONDS, print)
        deliver_what_is_left(store, ledger)  # of killed processes
    if begun:
        print_table(config, unreported)
    if jobs is None and not _is_of_launcher(error):
        return None
    log = log_traceback(error)
    where = f" (the traceback is in {log})" if log else ""
    return printable(f"error: hydra/launcher={launcher_of(config)} has failed: {describe_error(cause)}{where}")


def _is_of_launcher(error: Exception) -> bool:
    """True if a launcher has raised an error, and not a job or a sweeper; another sweeper than ours does not say so."""
    return "launch" in _frames(error) and not isinstance(error, UserError)


def _frames(error: Exception) -> set[str]:
    """Returns the names of the functions that an error has come through."""
    return {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}


def _prepared(config: DictConfig, jobs: HydraJobs) -> Sequence[Trial]:
    """Returns the trials of all jobs with their fingerprints; none if their data are gone."""
    from sweepstack.execution.prepare import prepare

    with contextlib.suppress(UserError):
        return prepare([*jobs.trials.values()], config.hydra.job.name, jobs).trials
    return ()


def _states_in_journal(config: DictConfig) -> list[str]:
    """Returns the states of those trials of a sweep that the store has not received."""
    from sweepstack.journal.unfinished import rows_of_sweep

    with contextlib.suppress(StoreError):
        _, ledger = _store_and_ledger(config)
        rows = rows_of_sweep(ledger, tracking_of(config).sweep)
        return [str(row.outcome.state) for row in rows if row.outcome is not None]
    return []


def _store_and_ledger(config: DictConfig) -> tuple[Store, Ledger]:
    from sweepstack.execution.open_store import ledger_of
    from sweepstack.tracking.store import Store

    tracking = tracking_of(config)
    store = Store(tracking.uri)
    return store, ledger_of(store, tracking.journal)
