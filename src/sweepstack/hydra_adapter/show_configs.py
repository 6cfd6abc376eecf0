"""Hydra's flags that print a config instead of training: `-m --cfg job` prints the config of each job of a sweep.

Hydra itself accepts --cfg only without -m. So Hydra gets the command line of a sweep without --cfg, and this module
stores what to print until the launcher has the jobs.
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from omegaconf import Container, DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter.job_context import inside
from sweepstack.hydra_adapter.private import arguments_parser

NOT_TOGETHER = ("run", "multirun", "cfg", "info", "shell_completion")
"""Flags of Hydra that exclude each other, except --multirun with --cfg."""
JSON_PLAN = "launch.dry_run=json"
"""The override that prints the plan of a sweep as JSON."""
ABOUT_THE_PLAN = re.compile(r"[+~]*launch(\.dry_run\b|=\{.*\bdry_run\b)")
"""Matches an override that says whether a plan is printed, and how."""


@dataclass(frozen=True)
class Shown:
    """The part of each job's config to print: `part` is job, hydra or all."""

    part: str
    package: str | None
    resolve: bool


_asked: list[Shown] = []
"""What the command line asks to print; at most one entry."""


def asked() -> Shown | None:
    """Returns what the command line asks to print of a sweep's jobs; None for nothing."""
    return _asked[-1] if _asked else None


def asks_for_json(arguments: Sequence[str]) -> bool:
    """True if the plan of a sweep is to be printed as JSON: if the last word about it says so, as for any key.

    It is known before anything can go wrong.
    """
    found = [word for word in arguments if ABOUT_THE_PLAN.match(word)]
    return bool(found) and found[-1].lstrip("+") == JSON_PLAN


def understood(arguments: Sequence[str]) -> list[str]:
    """Returns the command line for Hydra, and stores what to print.

    The config knows `launch.dry_run=true` only; how a plan is printed is no matter of a sweep.

    Raises:
        ConfigError: the flags cannot be combined.
    """
    _asked.clear()
    arguments = [
        word.replace(JSON_PLAN, "launch.dry_run=true") if asks_for_json([word]) else word for word in arguments
    ]
    known: Namespace = arguments_parser().parse_args(list(arguments))
    if known.help or known.hydra_help:
        return [word for word in arguments if word not in known.overrides or not _is_swept(word)]
    given = [f"--{name.replace('_', '-')}" for name in NOT_TOGETHER if getattr(known, name) not in (None, False)]
    if known.cfg is None:
        for flag, value in (("--resolve", known.resolve), ("--package", known.package is not None)):
            if value:
                raise ConfigError(f"{flag} is about what --cfg shows", remedy=f"add --cfg job, or leave {flag} out")
    if given == ["--multirun", "--cfg"]:
        _asked.append(Shown(known.cfg, known.package, known.resolve))
        return [*known.overrides, "--multirun", *_location_flags(known)]
    if len(given) > 1:
        raise ConfigError(
            f"{' and '.join(given)} cannot stand together", remedy="give one of them (--cfg goes with --multirun)"
        )
    return list(arguments)


def _is_swept(word: str) -> bool:
    """True for an override with several values, of which a help can show none."""
    from sweepstack.hydra_adapter.sweep_values import parse_overrides

    try:
        return parse_overrides([word])[0].is_sweep_override()
    except HydraException:  # Hydra says what is wrong
        return False


def _location_flags(known: Namespace) -> list[str]:
    """Returns the flags that say where the configs are."""
    names = ("config_path", "config_name", "config_dir", "experimental_rerun")
    return [
        f"--{name.replace('_', '-')}={value}" for name in names if (value := getattr(known, name, None)) is not None
    ]


def print_configs(jobs: Iterable[tuple[Sequence[str], DictConfig]], shown: Shown) -> None:
    """Prints the configs of jobs as YAML documents, each below its overrides.

    Args:
        jobs: the overrides and the composed config of each job.
        shown: the part to print.

    Raises:
        ConfigError: that part does not exist.
    """
    for overrides, cfg in jobs:
        number = cfg.hydra.job.num
        with inside(cfg):
            text = _yaml_document(cfg, shown)
        sys.stdout.write(f"---\n# job {number}: {' '.join(overrides)}\n{text}")


def _yaml_document(cfg: DictConfig, shown: Shown) -> str:
    with read_write(cfg), open_dict(cfg):
        hydra = cfg.hydra
        if shown.part == "job":
            del cfg["hydra"]
        else:
            with read_write(hydra), open_dict(hydra):
                for name in ("help", "hydra_help"):
                    hydra.pop(name, None)
        if shown.part == "hydra":
            for key in [key for key in cfg if key != "hydra"]:
                del cfg[key]
    package = None if shown.package == "_global_" else shown.package
    found: Any = cfg if package is None else _select(cfg, package)
    head = "" if package is None else f"# @package {package}\n"
    if not isinstance(found, Container):
        return f"{head}{found!s}\n"
    try:
        return f"{head}{OmegaConf.to_yaml(found, resolve=shown.resolve)}"
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the config cannot be resolved: {reason}", remedy="leave out --resolve") from error


def _select(cfg: DictConfig, package: str) -> Any:
    try:
        found = OmegaConf.select(cfg, package)
    except OmegaConfBaseException:
        found = None
    if found is None:
        raise ConfigError(
            "--package must be a section of the config", package, f"choose one such as {next(iter(cfg), 'model')!s}"
        )
    return found
