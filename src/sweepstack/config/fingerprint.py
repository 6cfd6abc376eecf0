"""Which configs train the same: a hash of all that can change the trained weights or the metrics."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sweepstack.config.schema import Mark, OptimizerConfig, TargetConfig, TrialConfig


@dataclass(frozen=True)
class Fingerprint:
    """What determines the weights and metrics of a trial, as three hashes in lowercase hex digits.

    Raises:
        ValueError: they are not 20, 16 and 8 such digits.
    """

    config: str
    """Of all in the config that counts."""
    data: str
    """Of images and labels."""
    code: str
    """Of what trains them: sweepstack's own meaning of a config, and the user's modules that the config names."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{20}-[0-9a-f]{16}-[0-9a-f]{8}", str(self)):
            raise ValueError(
                f"a fingerprint should be 20, 16 and 8 lowercase hex digits joined by -, got {str(self)!r}"
            )

    def __str__(self) -> str:
        return f"{self.config}-{self.data}-{self.code}"

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """The fingerprint that `str` gave. Raises ValueError for any other text."""
        config, _, rest = text.partition("-")
        data, _, code = rest.partition("-")
        return cls(config, data, code)

    def change_since(self, other: Fingerprint) -> str:
        """In words, what makes this one another than `other`: "the data have changed"; empty when nothing does."""
        names = {"config": "the config", "data": "the data", "code": "the training code"}
        changed = [name for part, name in names.items() if getattr(self, part) != getattr(other, part)]
        if not changed:
            return ""
        *first, last = changed
        subject = f"{', '.join(first)} and {last}" if first else last
        return f"{subject} {'have' if first or last == 'the data' else 'has'} changed"


def fingerprint(config: TrialConfig, data: str, code: str) -> Fingerprint:
    """What a trial is known by: trials of one fingerprint end with the same weights and metrics, but for rounding.

    It does not depend on the order of keys, on how a number is written (0.10 or 1e-1), on the process or the machine.
    Of the dataset, `data` stands for target and keywords: a folder that was moved changes nothing.

    Args:
        data: checksum of images and labels, 16 hex digits.
        code: checksum of the training code, 8 hex digits.
    """
    counts = _hashed(config)
    counts["dataset"] = {key: value for key, value in _hashed(config.dataset).items() if key != "target"}
    text = _as_json(_canonical(counts)).encode("utf-8", "surrogatepass")  # YAML can write half a surrogate pair
    return Fingerprint(hashlib.blake2b(text, digest_size=10).hexdigest(), data, code)


def _hashed(section: BaseModel) -> dict[str, Any]:
    """The values of a section that count. A key at its default is left out unless it is marked, so a key that is added
    changes no fingerprint until somebody uses it."""
    counts: dict[str, Any] = {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        always = field.is_required() or Mark.HASHED_AT_DEFAULT in field.metadata
        if always or _as_json(_canonical(value)) != _as_json(_canonical(field.get_default(call_default_factory=True))):
            counts[key] = value
    return counts


def _as_json(canonical: Any) -> str:
    return json.dumps(canonical, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _canonical(value: Any, as_floats: bool = False) -> Any:
    """`value` as JSON knows it, such that equal texts mean equal values. Somebody's code may tell 1 from 1.0 or true,
    so they differ, unless numbers are to be taken `as_floats`; nobody's tells 0.0 from -0.0, or a tuple from a list."""
    match value:
        case TargetConfig():
            of_torch = isinstance(value, OptimizerConfig) and value.target.startswith("torch.optim.")
            keywords = {key: _canonical(part, of_torch) for key, part in value.keywords.items()}
            return {"fields": _canonical(_hashed(value)), "keywords": keywords}
        case BaseModel():
            return _canonical(_hashed(value))
        case Mapping():  # keys as texts of their own, for "1" is not 1
            return {_as_json(_canonical(key)): _canonical(part) for key, part in value.items()}
        case list() | tuple():
            return [_canonical(part, as_floats) for part in value]
        case bool() | str() | None:
            return value
        case int():
            with contextlib.suppress(OverflowError):
                return float(value) if as_floats and float(value) == value else value
            return value
        case float():
            return value + 0.0  # makes -0.0 to 0.0
        case _:  # a path, bytes, ...; no key of a mapping is written so
            return {"repr": f"{type(value).__qualname__} {value!r}"}
