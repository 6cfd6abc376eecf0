"""What sections of the config are made of: their base classes, the types of numbers, and marks of keys."""

from __future__ import annotations

import enum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _strict_number(value: Any) -> Any:
    """Refuses `true` and the text "3", which pydantic would take as numbers."""
    if isinstance(value, bool | str):
        raise ValueError("Input should be a number")
    return value


TARGET_PATTERN = r"^[^\W\d]\w*(\.[^\W\d]\w*)+$"
"""Matches a dotted path."""
Int = Annotated[int, BeforeValidator(_strict_number)]
Float = Annotated[float, BeforeValidator(_strict_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, le=1)]


class Mark(enum.Enum):
    """A special property of a key; it is part of the key's annotation."""

    HASHED_AT_DEFAULT = enum.auto()
    """The key enters the fingerprint even at its default, as it did in version 0.1. A later key must not have this
    mark: it would change the fingerprints of all earlier trials, so that they would be trained again."""
    IN_DIGEST = enum.auto()
    """The key does not enter the fingerprint, because the checksum of the data says what it changes."""
    LATER = enum.auto()
    """Version 0.1 did not have this key of `RunConfig`. Journals name it only once it is used."""
    MEASURES = enum.auto()
    """The key says when a training is measured. If measurements decide what is trained or kept (see
    `TrialConfig.measurements_decide`), it is a param of the record; else it changes no weights, and is no param."""
    PARSED = enum.auto()
    """`parse` checks the key completely: no check that needs PyTorch or the data depends on it."""
    PER_JOB = enum.auto()
    """Jobs of one sweep may differ in this key of `RunConfig`, and their names then show it. Without the mark, a key of
    `RunConfig` has one value for the whole sweep."""
    PER_STACK = enum.auto()
    """Trials with different values of this key of `RunConfig` cannot be trained in one stack."""
    RECORDED = enum.auto()
    """This key of `RunConfig` is a param of the record, as the keys of `TrialConfig` are."""


def marked(model: type[BaseModel], mark: Mark) -> set[str]:
    """Returns the keys of a model that have a mark."""
    return {key for key, field in model.model_fields.items() if mark in field.metadata}


class Section(BaseModel):
    """A part of the config. It refuses unknown keys, and cannot be changed after it was parsed."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")


class TargetConfig(BaseModel):
    """A callable that `_target_` names by a dotted path; all other keys are its keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")

    target: Annotated[str, Field(alias="_target_", pattern=TARGET_PATTERN, examples=["package.module.name"])]

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments for the target."""
        return dict(self.model_extra or {})
