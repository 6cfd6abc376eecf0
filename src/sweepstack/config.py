"""The typed config of one trial: `parse` turns what Hydra composed into a `TrialConfig`, or says what is wrong with it;
`fingerprint` says which configs train the same.

Nothing heavy is imported here: a mistake must be answered before PyTorch is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from sweepstack.errors import ConfigError, did_you_mean
from sweepstack.masking import hide_in
from sweepstack.names import check_experiment, check_sweep

MAX_SEED = 2**63 - 1


def _number(value: Any) -> Any:
    """Only what YAML calls a number: neither `true` nor the text "3"."""
    if isinstance(value, bool | str):
        raise ValueError("Input should be a number")
    return value


def _epoch_or_count(value: Any) -> Any:
    """Both branches of the union in one sentence; pydantic would give a line for each."""
    if value == "epoch" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("Input should be epoch or a number of iterations from 1")


URI_PATTERN = r"^(sqlite|postgresql|mysql|mssql|https?|databricks)\b"

Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Part = Annotated[Float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, and it cannot be changed once it is parsed."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")


class Target(BaseModel):
    """Something named by `_target_`, a dotted path to a callable; all other keys are its keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")

    target: Annotated[
        str, Field(alias="_target_", pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)+$", examples=["package.module.name"])
    ]

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments for the target."""
        return dict(self.model_extra or {})


class DatasetConfig(Target):
    """A dataset: `target(train=True, **keywords)` and `target(train=False, **keywords)` give its two parts."""

    shape: Annotated[tuple[Annotated[Int, Field(ge=1)], ...], Field(min_length=1, examples=["[1,28,28]"])]
    classes: Annotated[Int, Field(ge=2, examples=[10])]
    mean: Annotated[Float, Field(examples=[0.0])] = 0.0
    std: Annotated[Float, Field(gt=0, examples=[1.0])] = 1.0


class ModelConfig(Target):
    """A model: `target(**keywords)` gives an `nn.Module` from images [N, *shape] to logits [N, classes]."""


class OptimizerConfig(Target):
    """An optimizer: `target(parameters, lr=lr, **keywords)` gives a `torch.optim.Optimizer`."""

    lr: Annotated[Float, Field(gt=0, examples=[0.01])]


class ConstantSchedule(Section):
    kind: Literal["constant"]


class StepSchedule(Section):
    kind: Literal["step"]
    every: Annotated[Int, Field(ge=1, examples=[2])]
    gamma: Annotated[Float, Field(gt=0, le=1, examples=[0.5])]


class CosineSchedule(Section):
    kind: Literal["cosine"]
    final: Annotated[Part, Field(examples=[0.0])] = 0.0


class OneCycleSchedule(Section):
    kind: Literal["one_cycle"]
    rise: Annotated[Float, Field(gt=0, lt=1, examples=[0.3])] = 0.3
    start: Annotated[Part, Field(examples=[0.04])] = 0.04
    final: Annotated[Part, Field(examples=[4e-6])] = 4e-6


class WarmupSchedule(Section):
    kind: Literal["warmup"]
    epochs: Annotated[Float, Field(gt=0, examples=[1.0])] = 1.0
    start: Annotated[Part, Field(examples=[0.1])] = 0.1


ScheduleConfig = Annotated[
    ConstantSchedule | StepSchedule | CosineSchedule | OneCycleSchedule | WarmupSchedule,
    Field(discriminator="kind"),
]


class TrackingConfig(Section):
    """Where trials are recorded; null leaves the choice to the environment and the project."""

    uri: Annotated[
        str | None,
        Field(
            pattern=URI_PATTERN,
            examples=["http://127.0.0.1:5000"],
        ),
    ] = None
    journal: Annotated[str | None, Field(min_length=1, examples=["mlruns/journal"])] = None
    experiment: Annotated[
        Annotated[str, AfterValidator(check_experiment)] | None, Field(min_length=1, examples=["train"])
    ] = None
    sweep: Annotated[str, Field(min_length=1, examples=["my_sweep"]), AfterValidator(check_sweep)] = "unnamed"


class LaunchConfig(Section):
    """How the trials of a sweep are executed; changes no result but for rounding."""

    dry_run: Annotated[bool, Field(strict=True, examples=["true"])] = False
    stack: Annotated[bool, Field(strict=True, examples=["true"])] = True
    width: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[64])] = None


class CheckpointConfig(Section):
    """When the state of a training is saved, so that it can be gone on with: after an epoch, at most every so many
    seconds."""

    every: Annotated[Float, Field(ge=0, examples=[10.0])] = 10.0
    keep: Annotated[bool, Field(strict=True, examples=["true"])] = False


class TrialConfig(Section):
    """All that a trial is made of. Units: `lr` is the step size before the schedule's factor, `epochs` are passes over
    the training part, `validation_split` is a fraction of the training data, `evaluate_every` counts iterations
    (optimizer updates) unless it is "epoch"."""

    dataset: Annotated[DatasetConfig, Field(examples=["mnist"])]
    model: Annotated[ModelConfig, Field(examples=["logistic"])]
    optimizer: Annotated[OptimizerConfig, Field(examples=["sgd"])]
    schedule: Annotated[ScheduleConfig, Field(examples=["constant"])]
    epochs: Annotated[Int, Field(ge=1, examples=[5])]
    batch_size: Annotated[Int, Field(ge=1, examples=[100])]
    seed: Annotated[Int, Field(ge=0, le=MAX_SEED, examples=[0])] = 0
    validation_split: Annotated[Float, Field(ge=0, lt=1, examples=[0.1])] = 0.1
    evaluate_every: Annotated[
        Literal["epoch"] | int, BeforeValidator(_epoch_or_count), Field(examples=["epoch", 200])
    ] = "epoch"
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,2}))?)$", examples=["cpu", "cuda:0"])
    ] = "auto"
    precision: Annotated[Literal["float32", "bfloat16"], Field(examples=["float32"])] = "float32"
    threads: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[1])] = None
    pictures: Annotated[Int, Field(ge=0, le=100, examples=[10])] = 0
    tracking: TrackingConfig = TrackingConfig()
    launch: LaunchConfig = LaunchConfig()
    rerun: Annotated[bool, Field(strict=True, examples=["true"])] = False
    retries: Annotated[Int, Field(ge=0, examples=[2])] = 0
    max_failures: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[10])] = None
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def objective(self) -> str:
        """The metric that selects: on the held-out part, or on the test data when nothing is held out."""
        return "val/accuracy" if self.validation_split else "test/accuracy"


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """What Hydra composed as plain values, its interpolations resolved, the secrets of addresses masked (see
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


def parse(cfg: DictConfig | Mapping[str, Any]) -> TrialConfig:
    """What Hydra composed, or what `resolve` gave, checked and typed. `cfg` is not changed.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is out of range. One line a mistake.
    """
    plain = resolve(cfg) if isinstance(cfg, DictConfig) else cfg
    try:
        return TrialConfig.model_validate(plain)
    except ValidationError as error:
        raise ConfigError.of_all([_explain(detail, plain) for detail in error.errors()]) from error


def _explain(detail: ErrorDetails, plain: Any) -> ConfigError:
    """One mistake: rule, value, remedy."""
    path = _path(detail["loc"])
    key = ".".join(path)
    value = detail["input"]
    section: Any = TrialConfig
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


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """pydantic's location as the user's key: without the kind of schedule, and with an index for a list."""
    path: list[str] = []
    for place, part in enumerate(loc):
        if isinstance(part, int):
            path[-1] += f"[{part}]"
        elif place == 1 and loc[0] == "schedule" and part in _KINDS:
            continue
        else:
            path.append(part)
    return path


def _section(section: Any, part: str, plain: Any) -> Any:
    if part == "schedule":
        return _KINDS.get(plain["schedule"].get("kind"), section)
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
}


CHANGES_NOTHING = frozenset(
    {"device", "threads", "pictures", "tracking", "launch", "rerun", "retries", "max_failures", "checkpoint"}
)
"""Keys that change neither weights nor metrics, but for rounding. A key that is not listed here counts."""


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
    counts: dict[str, Any] = {
        key: getattr(config, key) for key in type(config).model_fields if key not in CHANGES_NOTHING
    }
    counts["dataset"] = {
        key: getattr(config.dataset, key) for key in type(config.dataset).model_fields if key != "target"
    }
    text = _text(_canonical(counts)).encode("utf-8", "surrogatepass")  # YAML can write half a surrogate pair
    return Fingerprint(hashlib.blake2b(text, digest_size=10).hexdigest(), data, code)


def _text(canonical: Any) -> str:
    return json.dumps(canonical, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _canonical(value: Any, as_floats: bool = False) -> Any:
    """`value` as JSON knows it, such that equal texts mean equal values. Somebody's code may tell 1 from 1.0 or true,
    so they differ, unless numbers are to be taken `as_floats`; nobody's tells 0.0 from -0.0, or a tuple from a list."""
    match value:
        case Target():
            fields = {key: getattr(value, key) for key in type(value).model_fields}
            of_torch = isinstance(value, OptimizerConfig) and value.target.startswith("torch.optim.")
            keywords = {key: _canonical(part, of_torch) for key, part in value.keywords.items()}
            return {"fields": _canonical(fields), "keywords": keywords}
        case BaseModel():
            return _canonical({key: getattr(value, key) for key in type(value).model_fields})
        case Mapping():  # keys as texts of their own, for "1" is not 1
            return {_text(_canonical(key)): _canonical(part) for key, part in value.items()}
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
