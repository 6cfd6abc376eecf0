"""Targets of a config and the whitelist of Hydra 1.4, which says what a config may make Hydra import and call.

By itself Hydra asks that of its own sections only, such as callbacks. Whoever gives a whitelist expects it to hold for
all of the config, so it does.
"""

from __future__ import annotations

from pydantic import BaseModel

from sweepstack.config.code_digest import targets_in
from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter import private

ALWAYS = "sweepstack.*"
"""Sweepstack's own classes and functions."""


def check_allowed(*parts: BaseModel) -> None:
    """Checks that every target in parts of a config is on the whitelist, if there is one.

    Raises:
        ConfigError: a target is not.
    """
    allowed = private.execution_whitelist()
    if allowed is None:
        return
    for target in targets_in([part.model_dump(by_alias=True) for part in parts]):
        if not any(_matches(target, pattern) for pattern in (ALWAYS, *allowed)):
            raise ConfigError(
                "every _target_ must be on the execution whitelist of hydra.main, which holds "
                f"{', '.join(allowed) or 'nothing'}",
                target,
                remedy(target),
            )


def remedy(target: str) -> str:
    """Returns what to do so that a target is allowed."""
    return f"if you trust it, allow it in train.py: @hydra.main(..., execution_whitelist=['{ALWAYS}', '{target}'])"


def _matches(target: str, pattern: str) -> bool:
    return target == pattern or (pattern.endswith(".*") and target.startswith(pattern[:-1]))
