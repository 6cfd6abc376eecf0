"""Reads what a command searches: typed overrides and those of files -> a space, and the jobs of its points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from sweepstack.config.parsing import parse_search, takes_whole_numbers
from sweepstack.config.schema import RunConfig
from sweepstack.errors import ConfigError, did_you_mean
from sweepstack.hydra_adapter import private
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.grids import merged
from sweepstack.hydra_adapter.ignored_settings import grid_of
from sweepstack.hydra_adapter.sweep_values import expand, parse_overrides, range_values
from sweepstack.search.space import Distribution, Numbers, Options, Space, interval
from sweepstack.trial import REPLICATES

EXAMPLE = "for example 'optimizer.lr=tag(log,interval(1e-4,1))' or batch_size=50,100,200"
"""What a user can search."""
AND = " and "
"""Joins the keys, and the values, that are read side by side."""


def searches(config: DictConfig, arguments: Sequence[str]) -> bool:
    """True if a command searches, instead of training a whole grid or a list of jobs.

    Args:
        config: the config of the sweep.
        arguments: the typed overrides.

    Raises:
        ConfigError: several searches are asked for at once, or the section `search` has a mistake.
    """
    for line in arguments:
        if line.partition("=")[0].partition(".")[0] == "search" and parse_overrides([line])[0].is_sweep_override():
            raise ConfigError("search must be the same for all trials of a sweep", line, "type one command for each")
    listed = OmegaConf.select(config, "hydra.sweeper.jobs", throw_on_missing=False) is not None
    return parse_search(config).name != "grid" and not listed


@dataclass(frozen=True)
class SearchedJobs:
    """What is searched, and how a job is made of a point."""

    space: Space
    lines: tuple[str, ...]
    """The overrides of a job in order; a searched one is its key alone."""
    replicates: tuple[tuple[str, ...], ...]
    """The overrides of each trial of a point: those of seed and fold. Nothing if there is one trial."""
    zipped: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """For a key that stands for several ones, whose lists are read side by side, the overrides of each value."""

    @property
    def fixed(self) -> list[str]:
        """The overrides that all jobs have."""
        return [line for line in self.lines if line not in self.space.distributions]

    def with_seeds(self, first: int, number: int) -> SearchedJobs:
        """Returns the same with several trials of each point, of seeds in a row.

        Args:
            first: the first seed.
            number: the number of seeds.

        Raises:
            ConfigError: the seeds are listed, too.
        """
        if number == 1:
            return self
        listed = [line for one in self.replicates for line in one if line.startswith("seed=")]
        if listed:
            rule = "search.seeds takes seeds from the one of the config on, and seeds are listed, too"
            raise ConfigError(rule, ",".join(listed), "leave one of them out")
        lines = tuple(line for line in self.lines if not line.startswith("seed="))
        seeds = [f"seed={seed}" for seed in range(first, first + number)]
        return replace(
            self,
            lines=lines,
            replicates=tuple((seed, *one) for one in self.replicates for seed in seeds),
        )

    def jobs(self, texts: Mapping[str, str]) -> list[list[str]]:
        """Returns the overrides of the jobs of a point: one for each replicate.

        Args:
            texts: the value of each searched key that the point has, as it is typed.
        """
        own: list[str] = []
        for line in self.lines:
            if line in self.zipped and line in texts:
                own += self.zipped[line][texts[line]]
            elif line in texts:
                own.append(f"{line}={texts[line]}")
            elif line not in self.space.distributions:
                own.append(line)
        return [[*own, *replicate] for replicate in self.replicates]

    def probes(self) -> list[list[str]]:
        """Returns the overrides of jobs that have each option, and the ends and a fraction of each range.

        The first point has all replicates. A search checks them before anything trains.
        """
        first = {key: one.probes()[0] for key, one in self.space.distributions.items()}
        probes = [first]
        for key, one in self.space.distributions.items():
            needed: dict[str, str] = {}
            above = key
            while above in self.space.when:  # a condition may have a condition itself
                above, value = self.space.when[above]
                needed[above] = value
            probes += [{**first, **needed, key: text} for text in one.probes()[0 if needed else 1 :]]
        first_jobs, *others = (self.jobs(self.space.part(texts)) for texts in probes)
        return [*first_jobs, *(jobs[0] for jobs in others)]


def read_search(composer: Composer, master: DictConfig, arguments: Sequence[str]) -> SearchedJobs:
    """Reads what a command searches.

    Args:
        composer: composes the jobs.
        master: the config of the sweep.
        arguments: the typed overrides.

    Raises:
        HydraException: an override cannot be read.
        ConfigError: nothing is searched, a distribution has a mistake, or something is searched that must not be.
    """
    search = parse_search(master)
    conditional = {key.lstrip("+") for key, _ in search.when}
    params = parse_overrides([f"{key}={value}" for key, value in grid_of(master.hydra).items()])
    space: dict[str, Distribution] = {}
    lines: list[str] = []
    replicates: list[list[str]] = []
    for override in merged(params, parse_overrides(arguments)):
        key = override.get_key_element()
        values = _values(override, composer)
        bare = override.key_or_group
        is_single = not override.is_sweep_override() or (isinstance(values, list) and len(values) == 1)
        if is_single and (override.is_delete() or bare not in conditional):
            lines += values if isinstance(values, list) else [str(override.input_line)]
        elif bare in REPLICATES:
            if not isinstance(values, list):
                rule = f"a search compares means over {bare}s, so it does not search for a {bare}"
                remedy = (
                    "search.seeds=3 trains three seeds of each point" if bare == "seed" else "list folds: fold=0,1,2"
                )
                raise ConfigError(rule, override.input_line, remedy)
            replicates.append(values)
        elif bare.partition(".")[0] in {*RunConfig.model_fields, "sweeps", "hydra"} or bare.startswith("hydra/"):
            raise ConfigError(
                f"{bare} must be the same for all trials of a search", override.input_line, "give one value"
            )
        else:
            one = Options(tuple(line.partition("=")[2] for line in values)) if isinstance(values, list) else values
            if isinstance(one, Numbers) and one.has_fractions and takes_whole_numbers(bare):
                text = f"int(interval({one.low:g},{one.high:g}))"
                remedy = f"write {key}={f'tag(log,{text})' if one.log else text}"
                raise ConfigError(f"{bare} takes whole numbers, and this has fractions", override.input_line, remedy)
            space[key] = one
            lines.append(key)
    lines, zipped = _zip(space, lines, search.zip)
    searched = _space(space, lines, dict(search.when))
    if not searched.distributions:
        raise ConfigError("a search must have something to search", " ".join(arguments), EXAMPLE)
    return SearchedJobs(searched, tuple(lines), tuple(itertools.product(*replicates)), zipped)


def _zip(
    space: dict[str, Distribution], lines: list[str], groups: Sequence[Sequence[str]]
) -> tuple[list[str], dict[str, dict[str, tuple[str, ...]]]]:
    """Makes one searched key of several ones; returns the lines of a job with it, and what its values stand for.

    Args:
        space: the searched keys; changed.
        lines: see `SearchedJobs.lines`.
        groups: the keys that are to be one.

    Raises:
        ConfigError: one of them has no list of values, or their lists are not of one length.
    """
    zipped: dict[str, dict[str, tuple[str, ...]]] = {}
    for group in groups:
        lists = {key: one.texts for key in group if isinstance(one := space.pop(key, None), Options)}
        if len(lists) < len(group):
            rule = "search.zip names keys that have lists of values"
            raise ConfigError(rule, ", ".join(group), "for example batch_size=50,100 optimizer.lr=0.1,0.2")
        if len({len(texts) for texts in lists.values()}) > 1:
            lengths = ", ".join(f"{key}: {len(texts)}" for key, texts in lists.items())
            rule = "lists that search.zip reads side by side must have one length"
            raise ConfigError(rule, lengths, "give each as many values")
        joined = AND.join(group)
        zipped[joined] = {
            AND.join(one): tuple(f"{key}={text}" for key, text in zip(group, one, strict=True))
            for one in zip(*lists.values(), strict=True)
        }
        space[joined] = Options(tuple(zipped[joined]))
        lines = [joined if line == group[0] else line for line in lines if line not in group[1:]]
    return lines, zipped


def _space(space: dict[str, Distribution], lines: list[str], conditions: Mapping[str, str]) -> Space:
    """Returns the space with its conditions; a key comes after the one that its condition names.

    Args:
        space: the searched keys, and those with a condition and a single value. A key whose condition a fixed value
            decides is removed or has none; one that depends on a removed key is removed, too.
        lines: see `SearchedJobs.lines`; changed as well.
        conditions: for each key that not every point has, another key and its value, as KEY=VALUE.

    Raises:
        ConfigError: a condition does not name a searched key and one of its values.
    """
    keys = {key.lstrip("+"): key for key in space}
    fixed = {key.lstrip("+"): text for key, _, text in (line.partition("=") for line in lines if line not in space)}
    left: dict[str, tuple[str, str]] = {}
    for key, condition in conditions.items():
        if (own := keys.get(key.lstrip("+"))) is None:
            raise ConfigError("search.when is about searched keys", key, did_you_mean(key, space))
        other, _, text = condition.partition("=")
        left[own] = other.lstrip("+"), text
    absent: set[str] = set()
    while decided := [key for key, (other, _) in left.items() if other in fixed or other in absent]:
        for key in decided:
            other, text = left.pop(key)
            one, bare = space[key], key.lstrip("+")
            if other in absent or _value_of(fixed[other]) != _value_of(text):
                del space[key]
                lines.remove(key)
                absent.add(bare)
            elif isinstance(one, Options) and len(one.texts) == 1:
                del space[key]
                lines[lines.index(key)] = f"{key}={one.texts[0]}"
                fixed[bare] = one.texts[0]
    when = {key: (keys.get(other, other), text) for key, (other, text) in left.items()}
    for key, (other, text) in when.items():
        if (above := space.get(other)) is None:
            rule = f"search.when.{key} must name a searched key and one of its values, as in KEY=VALUE"
            raise ConfigError(rule, f"{other}={text}", did_you_mean(other, space))
        when[key] = other, _value_in(key, other, above, text)
    ordered = {key: one for key, one in space.items() if key not in when}
    while late := [key for key, (other, _) in when.items() if key not in ordered and other in ordered]:
        ordered |= {key: space[key] for key in late}
    if len(ordered) < len(space):
        rule = "the conditions of search.when must not go round in a circle"
        raise ConfigError(rule, ", ".join(sorted(space.keys() - ordered.keys())), "leave one of them out")
    return Space(ordered, when)


def _value_of(text: str) -> str:
    """Returns a form of a text in Hydra's syntax that is equal for texts of one value, such as 0.1, 0.10 and 1e-1."""
    try:
        (override,) = parse_overrides([f"key={text}"])
    except HydraException:
        return text
    return repr(override.value())


def _value_in(key: str, other: str, one: Distribution, text: str) -> str:
    """Returns the value that a condition names, as the points of the space have it.

    Args:
        key: the key with the condition, for errors.
        other: the key that it names.
        one: what that key is drawn from.
        text: the value, as it is typed.

    Raises:
        ConfigError: no point has the value, or only by chance.
    """
    if isinstance(one, Numbers):
        return _number(f"search.when.{key}", one, text)
    found = text if text in one.texts else next((own for own in one.texts if _value_of(own) == _value_of(text)), None)
    if found is None:
        raise ConfigError(f"search.when.{key} must name a value of {other}", text, did_you_mean(text, one.texts))
    return found


def _number(key: str, one: Numbers, text: str) -> str:
    """Returns a number that a condition names, as the points of a range have it.

    Args:
        key: the condition, for errors.
        one: the range.
        text: the number, as it is typed.

    Raises:
        ConfigError: no point has the number, or only by chance.
    """
    if one.step is None and not one.whole:
        remedy = "list the values of that key, or give it a range with a step"
        raise ConfigError(f"{key} must name one of some values, and an interval of fractions has none", text, remedy)
    try:
        number = int(text) if one.whole else float(text)
    except ValueError:
        number = math.nan
    if not one.contains(number):
        raise ConfigError(f"{key} must name one of the numbers {one}", text, f"for example {one.probes()[0]}")
    return one.text(number)


def _values(override: Override, composer: Composer) -> list[str] | Numbers:
    """Returns the overrides of a list of values, or the numbers of an interval or a range."""
    value: Any = private.typed_value(override)
    line = str(override.input_line)
    match value:
        case IntervalSweep():
            bounds: Sequence[Any] = (value.start, value.end)
            for cast in getattr(value, "transformers", ()):  # since Hydra 1.4
                bounds = [cast(bound) for bound in bounds]
            return interval(line, bounds, "log" in value.tags)
        case RangeSweep() if (
            len(numbers := sorted({*range_values(value, line)})) > 1 and override.key_or_group not in REPLICATES
        ):
            steps = {Fraction(str(after)) - Fraction(str(before)) for before, after in itertools.pairwise(numbers)}
            if "log" in value.tags:
                is_whole = isinstance(numbers[0], int)
                if not (is_whole and steps == {1}):
                    ends = f"interval({numbers[0]:g},{numbers[-1]:g})"
                    remedy = f"list the values, or leave out the steps: tag(log,{f'int({ends})' if is_whole else ends})"
                    raise ConfigError("a range by the logarithm has whole numbers in steps of 1", line, remedy)
                return interval(line, (numbers[0], numbers[-1]), log=True)
            if len(steps) == 1:  # rounded to whole numbers, those of int(range(...)) may lie unevenly
                return Numbers(numbers[0], numbers[-1], type(numbers[0])(steps.pop()))
        case ChoiceSweep():
            value.shuffle = False
    return expand(override, composer.options)
