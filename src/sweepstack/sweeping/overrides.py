"""Hydra's own errors about overrides and config files, as one line: rule, value, remedy."""

from __future__ import annotations

import re

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from sweepstack.errors import did_you_mean, one_line


def explain(error: BaseException) -> str:
    """The line for an error that Hydra or OmegaConf raised while composing."""
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    if isinstance(error, OverrideParseException):
        reason = " ".join(re.split(r"\s+See http", str(error))[0].split())
        return f"override {error.override!r} cannot be read ({reason}); write it as key=value, quoted for the shell"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    composed = not isinstance(cause, InterpolationResolutionError)
    if (
        composed
        and isinstance(cause, OmegaConfBaseException)
        and cause.parent_node is not None
        and cause.key is not None
    ):
        section = cause.parent_node
        unknown = isinstance(section, DictConfig) and not section._is_none() and cause.key not in section
        if unknown and not OmegaConf.is_missing(section, cause.key):
            known = [str(name) for name in section]
            key = str(cause.full_key or cause.key)
            if key == cause.key:  # at the top Hydra's own section is no suggestion
                known = [name for name in known if name != "hydra"]
            return f"{key} is not a key of the config; {did_you_mean(str(cause.key), known)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{one_line(' '.join(lines[:3]))}; python train.py --help shows every key"


def _missing_file(error: MissingConfigException) -> str:
    missing = re.search(r"Could not find '([^']+)'", str(error))
    name = missing.group(1) if missing else str(error.missing_cfg_file)
    group, _, option = name.rpartition("/")
    if group and error.options:
        return f"{group}={option} does not exist; {did_you_mean(option, error.options)}"
    return f"{name} does not exist; python train.py --help shows the groups (--config-dir DIR adds your own)"
