"""Turns what Hydra composed into a typed `Config`, or says what is wrong with it, one line for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sweepstack.config.schema import (
    METRIC_TAGS,
    SCHEDULE_TAGS,
    Config,
    ConstantSchedule,
    CosineSchedule,
    FlatConfig,
    OneCycleSchedule,
    OwnSchedule,
    PlateauSchedule,
    Section,
    StepSchedule,
    WarmupCosineSchedule,
    WarmupSchedule,
)
from sweepstack.config.task_rules import check_selection, check_task
from sweepstack.errors import ConfigError, did_you_mean
from sweepstack.masking import hide_in

VARS = "vars"
"""The section with keys of the user's own. Other values refer to them, as in ${vars.width}; nothing else reads them."""


def resolve_config(cfg: DictConfig) -> dict[str, Any]:
    """Converts what Hydra composed to plain values. It resolves interpolations and masks the secrets of addresses (see
    `masking`). `cfg` is not changed.

    Raises:
        ConfigError: a value is missing, or an interpolation cannot be resolved.
    """
    try:
        return cast("dict[str, Any]", hide_in(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)))
    except OmegaConfBaseException as error:
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
        config = FlatConfig.model_validate(plain).split()
    except ValidationError as error:
        raise ConfigError.of_all([_explain(detail, plain) for detail in error.errors()]) from error
    check_task(config.trial)
    check_selection(config.trial)
    return config


def _explain(detail: ErrorDetails, plain: Any) -> ConfigError:
    """Converts one mistake that pydantic found to an error with rule, value and remedy."""
    path = _key_path(detail["loc"])
    key = ".".join(path)
    value = detail["input"]
    section: Any = FlatConfig
    for part in path[:-1]:
        section = _section(section, part, plain)
    fields: dict[str, Any] = getattr(section, "model_fields", {})
    match detail["type"]:
        case "extra_forbidden":
            return ConfigError(f"{key} is not a key of the config", remedy=did_you_mean(path[-1], fields))
        case "missing":
            remedy = f"give it, for example {key}={_example(fields, path[-1])}"
            return ConfigError(f"{key} is required and missing", remedy=remedy)
        case "union_tag_invalid" | "union_tag_not_found":
            tag = value.get("kind") if isinstance(value, dict) else value
            return ConfigError(f"{key}.kind must be one of {', '.join(_KINDS)}", tag, f"choose one with {key}=NAME")
    rule = detail["msg"].removeprefix("Value error, ").split(", got ")[0]
    rule = rule.removeprefix("Input ").removeprefix("String ").removeprefix("Tuple ")
    if detail["type"] == "string_pattern_mismatch" and path[-1] == "device":
        rule = "should be auto, cpu, mps, cuda or cuda:N"
    elif detail["type"] == "string_pattern_mismatch" and key == "tracking.uri":
        rule = (
            "should be a database or a server (sqlite:///..., http://..., postgresql://...); MLflow 3 refuses folders"
        )
    elif detail["type"] == "string_pattern_mismatch":
        rule = "should be a dotted path package.module.name"
    return ConfigError(f"{key} {rule}", value, f"for example {key.split('[')[0]}={_example(fields, path[-1])}")


def _key_path(loc: tuple[int | str, ...]) -> list[str]:
    """Converts pydantic's location to the user's key: with the index in a list, and without the tags of unions."""
    path: list[str] = []
    for depth, part in enumerate(loc):
        if isinstance(part, int):
            path[-1] += f"[{part}]"
        elif not (
            part in SCHEDULE_TAGS
            or (depth == 2 and loc[1] in SCHEDULE_TAGS and part in _KINDS)
            or (depth == 3 and part in METRIC_TAGS)
        ):
            path.append(part)
    return path


def _section(section: Any, part: str, plain: Any) -> Any:
    if part == "schedule":
        schedule = plain["schedule"]
        return OwnSchedule if "_target_" in schedule else _KINDS.get(schedule.get("kind"), section)
    field = getattr(section, "model_fields", {}).get(part)
    return field.annotation if field is not None else section


def _example(fields: dict[str, Any], name: str) -> str:
    name = name.split("[")[0]
    field = next((f for key, f in fields.items() if name in (key, f.alias)), None)
    return str(field.examples[0]) if field is not None and field.examples else "VALUE"


_KINDS: dict[str, type[Section]] = {
    "constant": ConstantSchedule,
    "step": StepSchedule,
    "cosine": CosineSchedule,
    "one_cycle": OneCycleSchedule,
    "warmup": WarmupSchedule,
    "warmup_cosine": WarmupCosineSchedule,
    "plateau": PlateauSchedule,
}
