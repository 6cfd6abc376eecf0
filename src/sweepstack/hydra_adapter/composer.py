"""Composes many jobs fast: Hydra composes each choice of groups once, and the values are set in copies.

For every job, Hydra reads the YAML files and computes the defaults list again, which takes 40 ms. But only choices of
groups (`model=mlp`) can change the files that are read; every other override is applied to their result. So a job
starts from a copy of the result of its choices, and Hydra's own function applies the other overrides to it, in 2 ms.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import pickle
import re
from collections.abc import Sequence
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import Container, DictConfig, Node, OmegaConf, ValueNode, open_dict

from sweepstack.hydra_adapter import private
from sweepstack.hydra_adapter.output_folders import Folders
from sweepstack.private_api_switch import tricks

PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
"""Matches a key of names and dots, without brackets."""


class NotQuicklyError(Exception):
    """Hydra itself has to compose the job."""


class Composer:
    """Composes the jobs of a multirun exactly as Hydra's `load_sweep_config` does, with the same errors.

    Args:
        loader: Hydra's loader.
        master: the config of the multirun; every job gets its cache of resolved values.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._overrides: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._bases: dict[tuple[str, ...], _Base | None] = {}
        self.asked: Sequence[str] = ()
        """Which seeds the command asks for of the setting of each job (see `Trial.asked`); empty if that is not known,
        as for an adaptive sweeper."""
        self.folders = Folders()
        """The output folders of the jobs of the sweep."""

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """Composes the config of a job; every call makes a new one.

        Raises:
            HydraException: Hydra's error for a mistake in the overrides.
        """
        cfg = None
        with contextlib.suppress(Exception):  # Hydra composes everything else, and reports errors
            cfg = self._compose_quickly(overrides)
        if cfg is None:
            cfg = self._load(overrides)
        with open_dict(cfg):
            cfg.hydra.job.id = str(number)
            cfg.hydra.job.num = number
        return cfg

    def _compose_quickly(self, lines: Sequence[str]) -> DictConfig:
        if not tricks():
            raise NotQuicklyError("the public way is wanted")
        overrides = [self._parse(line) for line in lines]
        choices, values = [], []
        for line, override in zip(lines, overrides, strict=True):
            if self._is_choice(override):
                choices.append(line)
            else:
                values.append(override)
        _check_independent(values)
        base = self._base(tuple(choices))
        for override in values:
            base.check(override)
        cfg = base.copy()
        private.apply_overrides(self._loader, values, cfg)
        cfg.hydra.overrides.task = list(lines)
        if (dirname := private.overrides_dirname(overrides, cfg.hydra.job)) is not None:
            cfg.hydra.job.override_dirname = dirname
        OmegaConf.copy_cache(from_config=self._master, to_config=cfg)
        return cfg

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        """Lets Hydra compose a job.

        Since version 1.4, Hydra refuses a job that changes settings of the sweep. Here the grids of files are joined,
        and `check_obeyed` refuses the other changes.
        """
        try:
            return self._loader.load_sweep_config(self._master, list(overrides))
        except ConfigCompositionException:
            if not private.refuses_words_on_the_sweep(self._loader):
                raise
        of_sweep = cast("list[str]", OmegaConf.to_container(self._master.hydra.overrides.hydra))
        cfg = self._loader.load_configuration(
            self._master.hydra.job.config_name, [*of_sweep, *overrides], run_mode=RunMode.RUN
        )
        OmegaConf.copy_cache(from_config=self._master, to_config=cfg)
        return cfg

    def _parse(self, line: str) -> Override:
        if line not in self._overrides:
            from hydra.core.override_parser.overrides_parser import OverridesParser

            (self._overrides[line],) = OverridesParser.create().parse_overrides([line])
        return self._overrides[line]

    def base(self, choices: Sequence[str]) -> DictConfig:
        """Returns the config of a job with these choices only. Do not change it: it is shared.

        Raises:
            HydraException: the choices cannot be composed without other overrides.
        """
        if not any(is_of_hydra(self._parse(line)) for line in choices):
            with contextlib.suppress(NotQuicklyError):
                return self._base(tuple(choices)).cfg
        return self._load(choices)

    def options(self, group: str) -> list[str]:
        """Returns the options of a group; an empty list if the group does not exist."""
        found: list[str] = self._files.get_group_options(group, ObjectType.CONFIG)
        return found

    def choices(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """Returns the overrides of a job that can change the config below hydra."""
        return tuple(line for line in overrides if self.is_choice(self._parse(line)))

    def is_choice(self, override: Override) -> bool:
        """Whether an override can change the config below hydra: it chooses a file or overrides Hydra's config."""
        try:
            return is_of_hydra(override) or self._is_choice(override)
        except NotQuicklyError:
            return False

    def _is_choice(self, override: Override) -> bool:
        """Whether an override chooses a file, and not a value."""
        key = override.key_or_group
        if is_of_hydra(override):
            raise NotQuicklyError("it could change anything below hydra, on which this class relies")
        if key not in self._groups:
            self._groups[key] = self._files.group_exists(key)
        if self._groups[key]:
            if isinstance(override.value(), dict):
                raise NotQuicklyError("a dict for a group is merged into the config like any value")
            return True
        if override.is_delete() and self._files.config_exists(key):
            raise NotQuicklyError("Hydra 1.4 deletes a config file from the defaults list so")
        return False

    @functools.cached_property
    def _files(self) -> Any:
        """The repository of config files, which knows whether a key is a group."""
        overrides = cast("list[str]", OmegaConf.to_container(self._master.hydra.overrides.hydra))
        return private.config_files(self._loader, self._master.hydra.job.config_name, overrides)

    def _base(self, choices: tuple[str, ...]) -> _Base:
        if choices not in self._bases:
            self._bases[choices] = None  # so that a failure is not tried again
            self._bases[choices] = _Base(self._load(choices))
        base = self._bases[choices]
        if base is None:
            raise NotQuicklyError("these choices do not compose on their own")
        return base


class _Base:
    """The config for some choices of groups, before any value is set."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self._pickled: bytes | None = None
        with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):  # it may hold a local class
            self._pickled = pickle.dumps(cfg, pickle.HIGHEST_PROTOCOL)  # twice as fast as deepcopy
        self._checked: set[tuple[str, OverrideType, bool]] = set()

    def copy(self) -> DictConfig:
        cfg = copy.deepcopy(self.cfg) if self._pickled is None else pickle.loads(self._pickled)
        assert isinstance(cfg, DictConfig)
        return cfg

    def check(self, override: Override) -> None:
        """Refuses an override if there is an interpolation on the path to its key, or below its key.

        Another override of the job, or one of Hydra's own entries, may change the result of the interpolation.
        """
        key, plain = override.key_or_group, not isinstance(override.value(), list | dict)
        if (key, override.type, plain) in self._checked:
            return
        replaces = override.type is OverrideType.CHANGE and plain
        node: Node | None = self.cfg
        for name in key.split("."):
            if isinstance(node, ValueNode) and not private.is_interpolation(node):
                node = None  # Hydra replaces a value on the path, such as null, by a new section
            if node is None:
                break
            if not isinstance(node, DictConfig) or private.is_interpolation(node):
                raise NotQuicklyError(f"{key} leads elsewhere, or into a list")
            node = private.child(node, name)
        if isinstance(node, Container) and not replaces and "${" in repr(node):
            raise NotQuicklyError(f"{key} holds interpolations")
        added = override.type is not OverrideType.CHANGE
        if isinstance(node, ValueNode) and added and private.is_interpolation(node):
            raise NotQuicklyError(f"{key} is an interpolation")
        self._checked.add((key, override.type, plain))


def is_of_hydra(override: Override) -> bool:
    """Whether an override changes Hydra's own config, as hydra.job.name=... and +hydra/launcher=... do."""
    return re.match(r"hydra\b", override.key_or_group) is not None


def _check_independent(values: Sequence[Override]) -> None:
    """Refuses overrides that do not set a value at a key, or may put an interpolation on the path to another one's key.

    Overrides of one key, or of a key below another one, are applied in their order, as Hydra does.
    """
    for override in values:
        simple = override.value_type in (None, ValueType.ELEMENT) and override.package is None
        if not simple or not PLAIN_KEY.fullmatch(override.key_or_group):
            raise NotQuicklyError(f"{override.input_line} is not a value at a key")
    if not any("${" in str(override.input_line) for override in values):
        return
    keys = sorted(f"{override.key_or_group}." for override in values)
    for key, following in itertools.pairwise(keys):
        if following.startswith(key):
            raise NotQuicklyError(f"{key} and {following} meet")
