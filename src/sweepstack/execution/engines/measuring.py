"""Lets a worker of a cluster measure how trajectories train fastest on its machine. What it finds is remembered."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sweepstack.execution.assignment import Assignment, Groups, Reporter
from sweepstack.execution.engines.channel import checkpoints_of, work_folder
from sweepstack.execution.engines.own import check_handle, check_result
from sweepstack.execution.executor import Lost, MeasuringExecutor, Trained, UnreachableError
from sweepstack.execution.worker import choices_file, load_data_of
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.trial import StackSettings, Trial

ANSWER_SECONDS = 120.0
"""Seconds in which a worker must have begun and measured."""
GROUP_SECONDS = 10.0
"""Further seconds for each group of trajectories."""
POLL_SECONDS = 0.02
"""Seconds between two looks for the answer."""
STALE_SECONDS = 86400.0
"""Age in seconds of the folder of a measurement from which its command was killed."""
PREFIX = "measure-"
"""The ids of the assignments begin with it."""


def settings_there(
    executor: MeasuringExecutor,
    journal: Path,
    groups: Sequence[Sequence[Trial]],
    asked: tuple[int, int],
    device: str,
    reporter: Reporter | None,
) -> list[StackSettings | None]:
    """Returns how groups of trajectories train fastest on the machines of an executor's workers.

    What no earlier command has measured there, one worker measures now.

    Args:
        executor: has the workers.
        journal: the folder of the journal.
        groups: for each group, the longest trial of each of its trajectories.
        asked: the threads of each worker, and the number of workers that can train trajectories of one group at once.
        device: the kind of device that `device=auto` means for the workers.
        reporter: receives lines for the user. None for a dry run: no worker measures.

    Returns:
        The settings of each group; None for those of which nothing is known.

    Raises:
        UserError: see `Executor.submit` and `Handle.poll`.
    """
    from sweepstack.training.stacked import autotune

    def key(group: Sequence[Trial]) -> str:
        configs, run = [trial.config for trial in group], group[0].run
        return autotune.key_of(configs, run, load_data_of(group[0]), autotune.Beside(*asked), executor.kind_of_machine)

    keys = [key(group) for group in groups]
    found = [autotune.recall(choices_file(), key) for key in keys]
    unknown = [index for index, settings in enumerate(found) if settings is None]
    if reporter is None or not unknown:
        return found
    reporter.say("A worker measures how wide stacks should be there; that is remembered.")
    sent = [groups[index][: autotune.MAX_WIDTH] for index in unknown]
    counts = tuple(len(groups[index]) for index in unknown)
    wanted = Groups(tuple(map(len, sent)), counts, *asked)
    trajectories = tuple(Trajectory((trial,)) for group in sent for trial in group)
    id = f"{PREFIX}{secrets.token_hex(8)}"
    stack = Stack(trajectories, StackSettings(1, asked[0], 0.0, "to be measured"), id, device=device)
    result = _measure(executor, journal, stack, wanted, reporter)
    if isinstance(result, Lost) or len(result.settings) != len(unknown):
        why = result.reason if isinstance(result, Lost) else "it has answered something else"
        reporter.say(f"No worker has measured how wide stacks should be ({why}): this machine measures instead.")
        return found
    measured = dict(zip(unknown, result.settings, strict=True))
    autotune.remember(choices_file(), {keys[index]: settings for index, settings in measured.items()})
    return [measured.get(index, settings) for index, settings in enumerate(found)]


def _measure(
    executor: MeasuringExecutor, journal: Path, stack: Stack, groups: Groups, reporter: Reporter
) -> Trained | Lost:
    """Gives an assignment to a worker, and waits for its answer."""
    _remove_stale(journal)
    folder = work_folder(journal, stack.id)
    seconds = ANSWER_SECONDS + GROUP_SECONDS * len(groups.sizes)
    until, result = time.monotonic() + seconds, None
    assignment = Assignment(stack, frozenset(), checkpoints_of(folder), keep=False, groups=groups)
    try:
        handle = check_handle(executor, executor.submit(assignment, reporter))
        try:
            while result is None:
                with suppress(UnreachableError):  # its answer may be readable later
                    result = check_result(executor, handle.poll())
                if result is None and time.monotonic() > until:
                    return Lost(f"it has not answered within {seconds:g} s")
                time.sleep(POLL_SECONDS if result is None else 0.0)
        finally:
            if result is None:
                handle.stop()
                handle.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _remove_stale(journal: Path) -> None:
    """Removes what commands have left that were killed while a worker measured."""
    for folder in work_folder(journal, "").glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
