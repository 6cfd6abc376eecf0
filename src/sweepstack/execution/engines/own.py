"""Builds the executor that a user's config names, and checks what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from sweepstack.blame import describe_error
from sweepstack.config.run_sections import OwnEngine
from sweepstack.errors import ConfigError, UserError
from sweepstack.execution.executor import Executor, Handle, Lost, Trained

PARTS = ("workers", "submit", "close")
"""What an executor must have."""
PARTS_OF_HANDLE = ("poll", "stop", "stop_trials", "end")
"""What its `submit` must return has these methods."""
SEE = "see docs/extending.md"


def build_executor(config: OwnEngine, journal: Path) -> Executor:
    """Builds the executor of `engine._target_`.

    Args:
        config: the section of the config.
        journal: the folder of the journal.

    Raises:
        ConfigError: it cannot be built, or is no executor.
    """
    from sweepstack.training.instantiate import bound, check_keywords

    workers = {} if config.workers is None else {"workers": config.workers}
    check_keywords("engine", config.target, 2, {**config.keywords, **workers})
    try:
        executor = bound(config, "engine")(journal, config.lease, **workers)
        missing = [name for name in PARTS if not hasattr(executor, name)]
        at_once = None if missing else executor.workers
    except UserError:
        raise
    except Exception as error:  # a user's code can fail in any way
        rule = f"engine: {config.target} cannot be built: {describe_error(error)}"
        raise ConfigError(rule, remedy="correct it, or what the config gives it") from error
    if missing:
        rule = f"engine._target_ must make an executor with {', '.join(PARTS)}; that of {config.target} lacks"
        raise ConfigError(f"{rule} {', '.join(missing)}", remedy=SEE)
    if not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1:
        rule = f"the attribute workers of {config.target} must be the number of stacks that it trains at once"
        raise ConfigError(rule, at_once, "for example workers = 2")
    return cast("Executor", executor)


def check_handle(executor: Executor, handle: object) -> Handle:
    """Returns what `submit` of an executor has returned.

    Args:
        executor: the executor.
        handle: what it has returned.

    Raises:
        ConfigError: it is no `Handle`.
    """
    missing = [name for name in PARTS_OF_HANDLE if not callable(getattr(handle, name, None))]
    if missing:
        rule = (
            f"{_name(executor)}.submit must return a handle with {', '.join(PARTS_OF_HANDLE)}, what it returned lacks"
        )
        raise ConfigError(f"{rule} {', '.join(missing)}", handle, f"for example a WorkerHandle, {SEE}")
    return cast("Handle", handle)


def check_result(executor: Executor, result: object) -> Trained | Lost | None:
    """Returns what `poll` of a handle has returned.

    Args:
        executor: the executor that made the handle.
        result: what it has returned.

    Raises:
        ConfigError: it is no result.
    """
    if result is not None and not isinstance(result, Trained | Lost):
        rule = f"poll of a handle of {_name(executor)} must return Trained(), Lost(reason), or None while it trains"
        raise ConfigError(rule, result, SEE)
    return result


def _name(executor: Executor) -> str:
    return f"{type(executor).__module__}.{type(executor).__qualname__}"
