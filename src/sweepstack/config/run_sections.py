"""The sections of the config that say how, where and with what effort trials are trained; see `RunConfig`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from sweepstack.config.names import URI_PATTERN, check_experiment, check_sweep
from sweepstack.config.sections import Float, Int, Section, TargetConfig

MAX_SEARCH_SEED = 2**32 - 1
"""The largest seed of a search, which NumPy accepts."""


def _flag_or_force(value: Any) -> Any:
    """Checks both branches of the union with one message; pydantic would give one for each."""
    if isinstance(value, bool) or value == "force":
        return value
    raise ValueError("Input should be true, false or force")


def _flag_or_json(value: Any) -> Any:
    """Says of another value than true and false where json is understood: in a typed word; see `show_configs`."""
    if isinstance(value, bool):
        return value
    raise ValueError("Input should be true or false, or typed on the command line launch.dry_run=json")


class TrackingConfig(Section):
    """Where trials are recorded. With null, the environment or the project decides."""

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
    """How the trials of a sweep are executed. It changes results by rounding at most."""

    dry_run: Annotated[bool, BeforeValidator(_flag_or_json), Field(examples=["true"])] = False
    stack: Annotated[bool | Literal["force"], BeforeValidator(_flag_or_force), Field(examples=["true"])] = True
    width: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[64])] = None


ENGINE_KEYS = {
    "address": ("dask",),
    "tls_ca": ("dask",),
    "tls_cert": ("dask",),
    "tls_key": ("dask",),
    "partition": ("slurm",),
    "account": ("slurm",),
    "minutes": ("slurm",),
    "memory_gb": ("slurm",),
    "setup": ("slurm",),
    "detach": ("slurm",),
    "cores": ("slurm", "local"),
    "gpus_per_worker": ("slurm", "local"),
}
"""Keys of `engine` that only some engines have."""


class EngineConfig(Section):
    """Who trains the stacks of a sweep. It changes results by rounding at most.

    `auto` is `inline` or `local`, whichever the plan says is faster. `workers` train side by side: so many processes,
    Slurm jobs or Dask tasks at once. `cores` and `gpus_per_worker` are for each of them; less than one GPU is a share
    of one. `lease` is the time in seconds without a sign of life after which a worker counts as lost. With `detach`,
    jobs go on when the command is ended. `setup` are shell commands that a Slurm job runs first.
    """

    name: Annotated[Literal["auto", "inline", "local", "slurm", "dask"], Field(examples=["local"])] = "auto"
    workers: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[4])] = None
    cores: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[2])] = None
    gpus_per_worker: Annotated[Annotated[Float, Field(gt=0)] | None, Field(examples=[1])] = None
    lease: Annotated[Float, Field(ge=1, examples=[60])] = 60.0
    detach: Annotated[bool, Field(strict=True, examples=["true"])] = False
    address: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["tcp://scheduler:8786"])] = None
    tls_ca: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["ca.pem"])] = None
    tls_cert: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["cert.pem"])] = None
    tls_key: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["key.pem"])] = None
    partition: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["gpu"])] = None
    account: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["physics"])] = None
    minutes: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[60])] = None
    memory_gb: Annotated[Annotated[Float, Field(gt=0)] | None, Field(examples=[8])] = None
    setup: Annotated[tuple[str, ...], Field(examples=["[module load cuda]"])] = ()

    @field_validator(*ENGINE_KEYS)
    @classmethod
    def _check_engine(cls, value: Any, info: ValidationInfo) -> Any:
        engines = ENGINE_KEYS[str(info.field_name)]
        default = cls.model_fields[str(info.field_name)].default
        if value != default and info.data.get("name", engines[0]) not in engines:
            raise ValueError(f"Input should be {default}, because it is a key of engine={' and engine='.join(engines)}")
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _check_whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("Input should be a whole number, or a share below 1")
        return value


class OwnEngine(TargetConfig):
    """An engine of one's own: `target(journal, lease, **keywords)` gives an `Executor`; `workers` is one of the
    keywords, unless it is null."""

    name: Annotated[Literal["own"], BeforeValidator(lambda _: "own")] = "own"
    workers: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[4])] = None
    lease: Annotated[Float, Field(ge=1, examples=[60])] = 60.0
    cores: ClassVar[None] = None


ENGINE_TAGS = ("by name", "by target of an executor")
AnyEngine = Annotated[
    Annotated[EngineConfig, Tag(ENGINE_TAGS[0])] | Annotated[OwnEngine, Tag(ENGINE_TAGS[1])],
    Discriminator(
        lambda value: ENGINE_TAGS[isinstance(value, OwnEngine) or (isinstance(value, dict) and "_target_" in value)]
    ),
]
PRUNER_KEYS = {
    "factor": ("halving", "hyperband"),
    "min_trials": ("median",),
    "bound": ("threshold",),
    "patience": ("patient",),
    "min_delta": ("patient",),
}
"""Keys of `pruner` that only some pruners have."""


class PrunerConfig(Section):
    """Which trials of a sweep end before their last epoch, by the objective on held-out data. Trials that differ only
    in seed and fold are judged together, by their mean.

    `halving`: of the settings that reach `min_epochs`, and each `factor` times as many epochs, one in `factor` goes on.
    `hyperband`: the same in several brackets that begin later and later. `median`: a setting ends whose best value is
    worse than the median of the running means of at least `min_trials` settings. `threshold`: one ends that is worse
    than `bound`. `patient`: one ends that has not got better by more than `min_delta` for `patience` epochs. With
    `keep`, the state of a pruned trial is kept, so that it can be trained to its end.
    """

    name: Annotated[
        Literal["none", "halving", "hyperband", "median", "threshold", "patient"], Field(examples=["halving"])
    ] = "none"
    factor: Annotated[Int, Field(ge=2, examples=[3])] = 3
    min_epochs: Annotated[Int, Field(ge=1, examples=[1])] = 1
    min_trials: Annotated[Int, Field(ge=2, examples=[4])] = 4
    bound: Annotated[Float | None, Field(examples=[0.5])] = None
    patience: Annotated[Int, Field(ge=1, examples=[3])] = 3
    min_delta: Annotated[Float, Field(ge=0, examples=[0.0])] = 0.0
    keep: Annotated[bool, Field(strict=True, examples=["true"])] = True

    @field_validator(*PRUNER_KEYS)
    @classmethod
    def _check_pruner(cls, value: Any, info: ValidationInfo) -> Any:
        pruners = PRUNER_KEYS[str(info.field_name)]
        default = cls.model_fields[str(info.field_name)].default
        if value != default and info.data.get("name", pruners[0]) not in pruners:
            shown = "null" if default is None else default
            raise ValueError(f"Input should be {shown}, because it is a key of pruner={' and pruner='.join(pruners)}")
        return value

    @property
    def ranks(self) -> bool:
        """True if it lets a part of the trials go on at each rung: the more are known there, the better it chooses."""
        return self.name in ("halving", "hyperband")

    @property
    def compares(self) -> bool:
        """True if a trial is judged by those of other settings."""
        return self.name in ("halving", "hyperband", "median")


class CheckpointConfig(Section):
    """When the state of a training is saved, so that it can be resumed: after an epoch, if `every` seconds have passed
    since the last time. `keep` keeps the checkpoints of trials that have ended."""

    every: Annotated[Float, Field(ge=0, examples=[10.0])] = 10.0
    keep: Annotated[bool, Field(strict=True, examples=["true"])] = False


def _check_groups(groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    if any(len(group) < 2 for group in groups):
        raise ValueError("Input should have groups of two or more keys")
    keys = [key for group in groups for key in group]
    if len({*keys}) < len(keys):
        raise ValueError("Input should name each key once")
    return groups


def _pairs(value: Any) -> Any:
    """Converts conditions by key to pairs; recorded ones are pairs already."""
    if not isinstance(value, dict | list | tuple):
        raise ValueError("Input should have keys")
    if isinstance(value, dict):
        if not all(isinstance(one, str) and "=" in one for one in value.values()):
            raise ValueError("Input should have conditions such as KEY=VALUE")
        return tuple(value.items())
    return value


class SearchConfig(Section):
    """Which settings of a sweep are trained: the whole grid, or points of a space that a search chooses one after the
    other. It changes no weights.

    The budget is a number of `trials`, of trial-epochs (`epochs`), of `minutes` of each command, or ends after
    `patience` points in a row without a better objective; whichever is used up first. `seeds` trials of each point,
    with seeds from `seed` of the config on, make its objective by their mean. At most `width` points are trained at a
    time. `seed` is that of the search. `zip` names keys whose lists are read side by side instead of multiplied, `when`
    searched keys that a point has only if another one has a certain value.
    """

    name: Annotated[
        Literal["grid", "random", "qmc", "tpe", "cmaes", "gp", "nsga2"],
        Field(examples=["tpe"]),
    ] = "grid"
    trials: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[64])] = None
    epochs: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[320])] = None
    minutes: Annotated[Annotated[Float, Field(gt=0)] | None, Field(examples=[30])] = None
    patience: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[20])] = None
    seed: Annotated[Int, Field(ge=0, le=MAX_SEARCH_SEED, examples=[0])] = 0
    seeds: Annotated[Int, Field(ge=1, examples=[3])] = 1
    width: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[8])] = None
    zip: Annotated[
        tuple[tuple[str, ...], ...],
        AfterValidator(_check_groups),
        Field(examples=["[[batch_size,optimizer.lr]]"]),
    ] = ()
    when: Annotated[
        tuple[tuple[str, str], ...],
        BeforeValidator(_pairs),
        Field(examples=["{optimizer.momentum: optimizer=sgd}"]),
    ] = ()
