"""A job composed from a copy is the job that Hydra composes, down to the last flag."""

from collections.abc import Sequence
from typing import Any

import pytest
from hydra.core.config_loader import ConfigLoader
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict

from sweepstack.hydra_adapter.composer import Composer
from sweepstack.private_api_switch import NO_TRICKS

from .conftest import nodes

words = str.split  # more of them fit a line than of quoted ones
PLAIN = words("epochs batch_size seed threads device evaluate_every optimizer.lr optimizer.momentum tracking.sweep")
KEYS = words("""
    model.shape model.shape.0 model.hidden dataset.classes dataset.shape dataset.shape.1 schedule tracking.uri tracking
    optimizer.lr.deeper optimizer.new new new.deeper.still optimizer dataset tracking.typo hydra.job.name hydra.verbose
""")
NUMBERS = words("1 -3 0.10 1e-3 -1E+5 007 1_000 .5 inf nan true False null NULL int(3.7)")
STRINGS = ["", "???", "text", "'quoted, text'", '"1"', "'true'", "a b", "\\,", "1,2", "[1", "é"]
NESTED = words("[] [1,28,28] [a,[b,null]] {} {a:1,b:{c:x}} {shape:[1,2,3]}")
INTERPOLATIONS = ["${dataset.classes}", "'${epochs} and more'", "${sweep_name:}", "[${epochs}]"]
CHOICES = words("""
    dataset=digits dataset=mnist model=mlp model=logistic optimizer=adam schedule=cosine experiment=tutorial
    sweeps=lr_batch_epochs ~schedule ~schedule=constant +experiment=tutorial +model@other=mlp model@optimizer=mlp
    schedule=null model=typo schedule={kind:step} hydra/job_logging=none hydra/launcher=basic
""")


def overrides(prefixes: list[str], keys: list[str], values: list[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}={}".format, *map(st.sampled_from, (prefixes, keys, values)))


simple = overrides([""], PLAIN, NUMBERS + STRINGS[:7])
anything = overrides(["", "", "+", "++", "~"], PLAIN + KEYS, NUMBERS + STRINGS + NESTED + INTERPOLATIONS)
deletion = overrides(["~"], PLAIN + KEYS, [""]).map(lambda line: line.rstrip("="))
choice = st.sampled_from(CHOICES)
jobs = st.lists(st.one_of(simple, simple, simple, anything, deletion, choice), max_size=5)


def by_hydra(loader: ConfigLoader, master: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    cfg = loader.load_sweep_config(master, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = str(number)
        cfg.hydra.job.num = number
    return cfg


def told(compose: Any, *arguments: Any) -> tuple[Any, ...]:
    """All that can be told of a config, or of the error."""
    try:
        cfg = compose(*arguments)
    except Exception as error:
        return type(error), str(error), str(error.__cause__), type(error.__context__)
    assert cfg._get_parent() is None
    own = cfg.copy()
    OmegaConf.set_readonly(own, False)
    OmegaConf.set_struct(own, False)
    del own["hydra"]
    try:
        resolved = repr((OmegaConf.to_container(own, resolve=True), cfg.hydra.job.override_dirname))
    except Exception as error:
        resolved = repr(error)
    return nodes(cfg), OmegaConf.to_yaml(cfg), resolved


@pytest.fixture(scope="module")
def composer(loader: ConfigLoader, master: DictConfig) -> Composer:
    return Composer(loader, master)


@settings(max_examples=15)
@given(overrides=jobs, number=st.integers(0, 10))
def test_a_job_is_what_hydra_composes(
    composer: Composer, loader: ConfigLoader, master: DictConfig, overrides: list[str], number: int
) -> None:
    assert told(composer.compose, overrides, number) == told(by_hydra, loader, master, overrides, number)


@pytest.fixture
def asked(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of the jobs that Hydra itself composes."""
    asked: list[list[str]] = []
    compose = loader.load_sweep_config

    def load_sweep_config(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        asked.append(sweep_overrides)
        return compose(master_config, sweep_overrides)

    monkeypatch.setattr(loader, "load_sweep_config", load_sweep_config)
    return asked


def test_hydra_composes_each_choice_of_groups_once(
    loader: ConfigLoader, master: DictConfig, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # the public way composes each job anew
    composer = Composer(loader, master)
    for number in range(20):
        values = [
            f"optimizer.lr={number}e-3",
            f"+new={number}",
            "+trainer._target_=spin.train",  # trainer is null
            f"+trainer.seconds={number}",
            "model.shape=[1,8,8]",
            "~seed",
            "tracking.uri=a/${epochs}",
        ]
        model = ("mlp", "logistic")[number % 2]
        cfg = composer.compose([f"model={model}", *values], number)
        assert (cfg.optimizer.lr, cfg.new, cfg.hydra.job.num) == (number / 1000, number, number)
        assert cfg.trainer == {"_target_": "spin.train", "seconds": number}
        assert cfg.tracking.uri == "a/5"
        assert cfg.hydra.runtime.choices.model == model
    assert asked == [["model=mlp"], ["model=logistic"]]


@pytest.mark.parametrize(
    "overrides",
    [
        ["tracking={uri: '${epochs}'}", "tracking.uri.deeper=1"],  # order matters
        ["hydra.job.name=other"],  # could change what Hydra derives from overrides
        ["+model.shape.a=1"],  # model.shape is ${dataset.shape}
        ["~model.shape"],  # the value is looked up
    ],
)
def test_hydra_composes_what_hangs_on_more_than_a_key(
    loader: ConfigLoader, master: DictConfig, asked: list[list[str]], overrides: list[str]
) -> None:
    assert told(Composer(loader, master).compose, overrides, 0) == told(by_hydra, loader, master, overrides, 0)
    assert asked[-2:] == [overrides, overrides]


@pytest.mark.parametrize(
    "overrides",
    [
        ["+trainer._target_=spin.train", "+trainer.seconds=1"],  # trainer is null
        ["trainer={_target_: spin.train}", "+trainer.seconds=1"],
        ["trainer={_target_: spin.train}", "++trainer._target_=other.train"],
        ["epochs=1", "epochs=2"],
        ["+new.a=1", "+new.b-c=1", "++new={a: 2}"],
        ["+epochs.deeper.still=1", "++epochs.deeper=2"],
        ["~epochs", "+epochs.deeper={a: [1, 2]}"],
        ["+model@other=mlp", "+new.a=1", "++other.new=2"],
    ],
)
def test_what_is_added_is_composed_quickly(
    loader: ConfigLoader,
    master: DictConfig,
    asked: list[list[str]],
    overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)
    quick = told(Composer(loader, master).compose, overrides, 0)
    assert asked == [[line for line in overrides if "@" in line]]
    assert quick == told(by_hydra, loader, master, overrides, 0)


def test_every_job_has_what_the_multirun_has_resolved_until_then(loader: ConfigLoader, master: DictConfig) -> None:
    composer = Composer(loader, master)
    composer.compose(["epochs=1"], 0)
    OmegaConf.clear_cache(master)
    name = master.tracking.sweep
    sweeps = {composer.compose([f"epochs={number}"], number).tracking.sweep for number in range(2)}
    assert sweeps == {name}
