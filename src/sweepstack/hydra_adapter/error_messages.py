"""Rewrites Hydra's errors about overrides and config files as one line: rule, value, remedy."""

from __future__ import annotations

import os
import re
import sys

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from sweepstack.errors import LONGEST_VALUE, did_you_mean, one_line
from sweepstack.hydra_adapter.allowed_targets import remedy
from sweepstack.hydra_adapter.private import is_empty

REFUSED_TARGET = re.compile(r"Target '([^']+)' is (blacklisted|not in the Hydra execution whitelist)")
"""Matches the error of Hydra 1.4 about a target in a section of its own, such as callbacks."""


def explain(error: BaseException) -> str:
    """Returns the line for an error that Hydra or OmegaConf raised while composing."""
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    if isinstance(error, OverrideParseException):
        reason = " ".join(re.split(r"\s+See http", str(error))[0].split())
        override = (
            error.override if len(error.override) <= LONGEST_VALUE else f"{error.override[: LONGEST_VALUE - 3]}..."
        )
        return f"override {override!r} cannot be read ({one_line(reason)}); write it as key=value, quoted for the shell"
    if refused := REFUSED_TARGET.match(str(error)):
        return f"Hydra refuses to make {refused[1]} from a config ({refused[2]}); {remedy(refused[1])}"
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
        unknown = isinstance(section, DictConfig) and not is_empty(section) and cause.key not in section
        if unknown and not OmegaConf.is_missing(section, cause.key):
            known = [str(name) for name in section]
            key = str(cause.full_key or cause.key)
            if key == cause.key:  # do not suggest Hydra's own section at the top level
                known = [name for name in known if name != "hydra"]
            if choices := _swept_choices(key):
                rule = f"{key} is not a key of every config of the sweep"
                return f"{rule}; for one that some of {choices} have: ++{key}=VALUE"
            from sweepstack.config.parsing import VARS, remedy_for_key

            return f"{key} is not a key of the config; {remedy_for_key(key, known, f'+{VARS}.')}"
    if isinstance(error, KeyError) and error.args and str(error.args[0]) not in os.environ:
        name = str(error.args[0])
        return f"hydra.job.env_copy names the variable {name}, which is not set; set it, or leave it out"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used ({error.strerror}); correct it, or choose another place"
    if isinstance(error, UnicodeError) or not isinstance(error, HydraException | OmegaConfBaseException):
        culprit = _culprit(error)
        if culprit:
            reason = one_line(_shortened_error(error))
            return f"override {culprit!r} cannot be read ({reason}); give a smaller or simpler value"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{one_line(' '.join(lines[:3]))}; {_override_remedy(error)}"


def _swept_choices(key: str) -> str:
    """Returns the swept choices of a key's group, such as optimizer=adam,adamw; empty if the group is not swept.

    In a sweep of choices Hydra looks for a key in the default choice first, so the keys of that are not suggestions.
    """
    group = key.partition(".")[0]
    return next((word for word in sys.argv[1:] if word.startswith(f"{group}=") and "," in word), "")


def _override_remedy(error: BaseException) -> str:
    text = str(error)
    if "Only one of --run, --multirun" in text:
        return "leave out the others"
    if "--resolve flag" in text:
        return "add --cfg job"
    if "Additional config directory" in text:
        return "correct --config-dir"
    if "requires --multirun" in text:
        return "add -m, or give one value"
    if "nterpolation" in text:
        return "correct the name after ${, or give a value"
    if "logger" in text or "version" in text or "configure handler" in text:
        return "correct hydra.job_logging, hydra.hydra_logging, hydra.verbose or hydra.job.name"
    return "python train.py --help shows every key"


def _culprit(error: BaseException) -> str:
    """Finds the typed override that cannot be read, because some errors of Hydra's parser do not name it."""
    for word in sys.argv[1:]:
        if "=" in word and not word.startswith("-"):
            try:
                override = OverridesParser.create().parse_override(word)
                for _ in override.sweep_iterator() if override.is_sweep_override() else ():
                    pass
            except type(error):
                return word if len(word) <= LONGEST_VALUE else f"{word[: LONGEST_VALUE - 3]}..."
            except Exception:
                continue
    return ""


def _shortened_error(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "integer string conversion" in str(error):
        return f"a number of more than {sys.get_int_max_str_digits()} digits"
    return str(error)


def _missing_file(error: MissingConfigException) -> str:
    if folder := re.search(r"config directory '(.+)' exists", str(error)):
        return f"there is no folder {folder[1]} of configs; name yours in @hydra.main(config_path=...) of the program"
    missing = re.search(r"Could not find '([^']+)'", str(error))
    name = missing.group(1) if missing else str(error.missing_cfg_file or "the folder of the config")
    group, _, option = name.rpartition("/")
    if group and error.options:
        return f"{group}={option} does not exist; {did_you_mean(option, error.options)}"
    return f"{name} does not exist; python train.py --help shows the groups (--config-dir DIR adds your own)"
