"""Turns what Hydra composed into a typed `Config`, or says what is wrong with it, one line for each mistake."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sweepstack.config.run_sections import ENGINE_TAGS, OwnEngine, SearchConfig
from sweepstack.config.schedule_sections import (
    SCHEDULE_TAGS,
    ConstantSchedule,
    CosineSchedule,
    OneCycleSchedule,
    OwnSchedule,
    PlateauSchedule,
    StepSchedule,
    WarmupCosineSchedule,
    WarmupSchedule,
)
from sweepstack.config.schema import Config, FlatConfig
from sweepstack.config.sections import TARGET_PATTERN, Section, TargetConfig
from sweepstack.config.task_rules import check_pruner, check_selection, check_split, check_task, check_training
from sweepstack.config.trial_sections import METRIC_TAGS
from sweepstack.errors import ConfigError, UserError, did_you_mean
from sweepstack.masking import hide_in

VARS = "vars"
"""The section with keys of the user's own. Other values refer to them, as in ${vars.width}; nothing else reads them."""


def resolve_config(cfg: DictConfig) -> dict[str, Any]:
    """Converts what Hydra composed to plain values. It resolves interpolations and masks the secrets of addresses (see
    `masking`). `cfg` is not changed.

    Raises:
        ConfigError: a value is missing, or an interpolation cannot be resolved; also what a resolver raises.
    """
    try:
        return cast("dict[str, Any]", hide_in(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)))
    except OmegaConfBaseException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise ConfigError(cause.rule, cause.value, cause.remedy, where=cause.where) from error
        key = getattr(error, "full_key", None) or "config"
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{key} is required and missing", remedy=f"give it with {key}=VALUE") from error
        raise ConfigError(
            f"{key} cannot be resolved: {str(error).splitlines()[0]}",
            remedy=f"correct it, or give a value with {key}=VALUE",
        ) from error


def parse(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Checks what Hydra composed, or what `resolve_config` returned, and gives it types. `cfg` is not changed.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is out of range. It has one line for
            each mistake.
    """
    plain = dict(resolve_config(cfg) if isinstance(cfg, DictConfig) else cfg)
    free = plain.pop(VARS, None)
    if not isinstance(free, Mapping | None):
        raise ConfigError(f"{VARS} should have keys, for interpolations", free, f"for example +{VARS}.width=32")
    try:
        config = FlatConfig.model_validate(plain).both()
    except ValidationError as error:
        raise ConfigError.of_all([_explain(detail, plain) for detail in error.errors()]) from error
    check_split(config.trial)
    check_task(config.trial)
    check_selection(config.trial)
    check_training(config.trial)
    check_pruner(config)
    return config


def parse_search(cfg: DictConfig) -> SearchConfig:
    """Checks the section `search` alone, which a sweep obeys before it has jobs, and gives it types.

    Raises:
        ConfigError: see `parse`.
    """
    found = OmegaConf.select(cfg, "search")
    if found is None:
        return SearchConfig()
    plain = resolve_config(found) if isinstance(found, DictConfig) else found
    try:
        return SearchConfig.model_validate(plain)
    except ValidationError as error:
        details = [{**detail, "loc": ("search", *detail["loc"])} for detail in error.errors()]
        raise ConfigError.of_all([_explain(cast("ErrorDetails", one), {"search": plain}) for one in details]) from error


def remedy_for_key(key: str, known: Iterable[str], own: str = f"{VARS}.") -> str:
    """Returns a remedy for a key that the config does not have.

    Args:
        key: the key.
        known: the keys of its section.
        own: what is put before it to make it a key of the user's own.
    """
    remedy = did_you_mean(key.rpartition(".")[2], known)
    if "." in key or not remedy.startswith("known: "):
        return remedy
    return f"keys of your own belong below {VARS}, such as {own}{key} ({remedy})"


def _explain(detail: ErrorDetails, plain: Any) -> ConfigError:
    """Converts one mistake that pydantic found to an error with rule, value and remedy."""
    path = _key_path(detail["loc"])
    key = ".".join(path)
    value = detail["input"]
    sections: list[Any] = [FlatConfig]
    for part in path[:-1]:
        sections.append(_section(sections[-1], part, plain))
    match detail["type"]:
        case "extra_forbidden":
            fields = getattr(sections[-1], "model_fields", {})
            return ConfigError(f"{key} is not a key of the config", remedy=remedy_for_key(key, fields))
        case "missing":
            optional = len(path) > 1 and (above := _field(sections[-2], path[-2])) is not None and above.default is None
            if optional and "[" not in key:  # the config has null there, so the whole section must be given
                path, sections = path[:-1], sections[:-1]
            return ConfigError(f"{key} is required and missing", remedy=f"give it, {_example(path, sections)}")
        case "model_type" | "model_attributes_type":
            is_choice = key in ("dataset", "model", "optimizer") and isinstance(value, str)
            note = f" (in a config file, a choice is a line of the list defaults: - {key}: NAME)" if is_choice else ""
            return ConfigError(f"{key} should have keys{note}", value, _example(path, sections, value))
        case "tuple_type":
            return ConfigError(f"{key} should be a list", value, _example(path, sections))
        case "union_tag_invalid" | "union_tag_not_found":
            tag = value.get("kind") if isinstance(value, dict) else value
            return ConfigError(f"{key}.kind must be one of {', '.join(_KINDS)}", tag, f"choose one with {key}=NAME")
    rule = detail["msg"].removeprefix("Value error, ").split(", got ")[0]
    for subject in ("Input ", "String ", "Tuple ", "Value "):
        rule = rule.removeprefix(subject)
    rule = rule.split(" after validation")[0]
    if detail["type"] == "string_pattern_mismatch" and path[-1] == "device":
        rule = "should be auto, cpu, mps, cuda or cuda:N"
    elif detail["type"] == "string_pattern_mismatch" and key == "tracking.uri":
        rule = (
            "should be a database or a server (sqlite:///..., http://..., postgresql://...); MLflow 3 refuses folders"
        )
    elif detail["type"] == "string_pattern_mismatch":
        rule = "should be a dotted path package.module.name"
    return ConfigError(f"{key} {rule}", value, _example(path, sections))


def _key_path(loc: tuple[int | str, ...]) -> list[str]:
    """Converts pydantic's location to the user's key: with the index in a list, and without the tags of unions."""
    path: list[str] = []
    for depth, part in enumerate(loc):
        if isinstance(part, int):
            path[-1] += f"[{part}]"
        elif not (
            part in SCHEDULE_TAGS + ENGINE_TAGS
            or (depth == 2 and loc[1] in SCHEDULE_TAGS and part in _KINDS)
            or (depth == 3 and part in METRIC_TAGS)
        ):
            path.append(part)
    return path


def _section(section: Any, part: str, plain: Any) -> Any:
    if part == "schedule":
        schedule = plain["schedule"]
        return OwnSchedule if "_target_" in schedule else _KINDS.get(schedule.get("kind"), section)
    if part == "engine" and "_target_" in plain["engine"]:
        return OwnEngine
    field = _field(section, part)
    return _model_in(field.annotation) if field is not None else section


def _field(section: Any, name: str) -> Any:
    """Returns the field of a section that a key names, or a key with an index; None if there is none."""
    name = name.split("[")[0]
    return next((f for key, f in getattr(section, "model_fields", {}).items() if name in (key, f.alias)), None)


def takes_whole_numbers(key: str) -> bool:
    """True if a key of the config takes whole numbers and no fractions; False for one that it does not know."""
    found: list[Any] = [FlatConfig]
    *sections, name = key.split(".")
    for part in sections:
        fields = [field for one in found if (field := _field(one, part)) is not None]
        found = [model for field in fields for model in _models_in(field.annotation)]
    fields = [field for one in found if (field := _field(one, name)) is not None]
    return bool(fields) and all(map(_refuses_fractions, fields))


def _refuses_fractions(field: FieldInfo) -> bool:
    """True if a key takes a whole number, and not the fractions beside it."""
    adapter = TypeAdapter[Any](cast("Any", Annotated[field.annotation, "", *field.metadata]))  # it needs one

    def takes(value: float) -> bool:
        with contextlib.suppress(ValidationError):
            adapter.validate_python(value)
            return True
        return False

    return any(takes(whole) and not takes(whole - 0.5) and not takes(whole + 0.5) for whole in (1, 2, 8, 64))


def _models_in(annotation: Any) -> list[Any]:
    """Returns all sections in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _model_in(annotation: Any) -> Any:
    """Returns the section in an annotation such as `Section | None` or `tuple[Section, ...]`; None if there is none."""
    return next(iter(_models_in(annotation)), None)


def _example(path: list[str], sections: list[Any], value: Any = None) -> str:
    """Returns a remedy with a value that a key may have.

    Args:
        path: the key.
        sections: what each part of the path is in.
        value: what a section has instead of keys; it may be meant as the `_target_`.
    """
    field, key = _field(sections[-1], path[-1]), ".".join(path).split("[")[0]
    kind = _model_in(field.annotation) if field is not None else None
    if "[" in ".".join(path[:-1]):
        key, separator = path[-1], ": "  # Hydra cannot override a part of a list
    else:
        separator = "="
    example = str(field.examples[0]) if field is not None and field.examples else "VALUE"
    if kind is not None and "[" not in path[-1] and isinstance(value, str) and re.fullmatch(TARGET_PATTERN, value):
        example = f"{{_target_:{value}}}" if issubclass(kind, TargetConfig) and field.default is None else example
    elif kind is not None and example == "VALUE":
        name, inner = next((name, one) for name, one in kind.model_fields.items() if one.examples)
        key, example = f"{key}.{inner.alias or name}", str(inner.examples[0])
    return f"for example {key}{separator}{example}"


_KINDS: dict[str, type[Section]] = {
    "constant": ConstantSchedule,
    "step": StepSchedule,
    "cosine": CosineSchedule,
    "one_cycle": OneCycleSchedule,
    "warmup": WarmupSchedule,
    "warmup_cosine": WarmupCosineSchedule,
    "plateau": PlateauSchedule,
}
