"""The fingerprint of a trial: a hash of all that can change the trained weights or the metrics."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from sweepstack.config.identity import Fingerprint as Fingerprint
from sweepstack.config.schema import TrialConfig
from sweepstack.config.sections import Mark, TargetConfig, marked
from sweepstack.config.trial_sections import DatasetConfig, OptimizerConfig


def fingerprint(config: TrialConfig, data: str, code: str) -> Fingerprint:
    """Computes the fingerprint of a trial. Trials of one fingerprint end with the same weights and metrics, but for
    rounding.

    It does not depend on the order of keys, on how a number is written (0.10 or 1e-1), on the process or on the
    machine. For the dataset, `data` replaces target and keywords, so that a moved folder changes nothing.

    Args:
        config: what is trained.
        data: checksum of images and labels, 16 hex digits.
        code: checksum of the training code, 8 hex digits.
    """
    counts = _hashed(config)
    by_digest = {"target", *marked(DatasetConfig, Mark.IN_DIGEST)}
    counts["dataset"] = {key: value for key, value in _hashed(config.dataset).items() if key not in by_digest}
    text = _as_json(_canonical(counts)).encode("utf-8", "surrogatepass")  # YAML allows half a surrogate pair
    return Fingerprint(hashlib.blake2b(text, digest_size=10).hexdigest(), data, code)


def _hashed(section: BaseModel) -> dict[str, Any]:
    """Returns the values of a section that enter the hash.

    A key at its default is left out unless it is marked. So a new key changes no fingerprint until somebody sets it.
    """
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
    """Converts a value to JSON values such that equal JSON means equal values.

    A user's code may treat 1, 1.0 and true differently, so they differ. 0.0 equals -0.0, and a tuple equals a list.

    Args:
        as_floats: take whole numbers as floats.
    """
    match value:
        case TargetConfig():
            of_torch = isinstance(value, OptimizerConfig) and value.target.startswith("torch.optim.")
            keywords = {key: _canonical(part, of_torch) for key, part in value.keywords.items()}
            fields = {key: _canonical(part, of_torch) for key, part in _hashed(value).items()}
            return {"fields": _with_json_keys(fields), "keywords": keywords}
        case BaseModel():
            parts = {**_hashed(value), **(value.model_extra or {})}
            return _with_json_keys({key: _canonical(part, as_floats) for key, part in parts.items()})
        case Mapping():
            return _with_json_keys({key: _canonical(part) for key, part in value.items()})
        case list() | tuple():
            return [_canonical(part, as_floats) for part in value]
        case bool() | str() | None:
            return value
        case int():
            with contextlib.suppress(OverflowError):
                return float(value) if as_floats and float(value) == value else value
            return value
        case float():
            return value + 0.0  # turns -0.0 into 0.0
        case _:  # a path or bytes; no mapping is written as {"repr": ...}, because its keys are JSON
            return {"repr": f"{type(value).__qualname__} {value!r}"}


def _with_json_keys(canonical: Mapping[Any, Any]) -> dict[str, Any]:
    """Converts keys to JSON, because "1" is not 1."""
    return {_as_json(_canonical(key)): part for key, part in canonical.items()}
