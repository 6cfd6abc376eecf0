"""A fingerprint stands for all that can change what a trial trains, and for nothing else. Told as laws."""

import copy
import json
import math
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import sweepstack.app  # noqa: F401 - registers the resolver that the config names
from sweepstack.config.fingerprint import Fingerprint, fingerprint
from sweepstack.config.parsing import parse
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.config.sections import Section
from sweepstack.config.trial_sections import ModelConfig

from ..terminal import ROOT

DATA, CODE = "0123456789abcdef", "89abcdef"
PINNED = "52560290efb85aeab82d"
"""Of the digits, as version 0.1 has recorded it."""

COUNTS = {
    *("dataset", "model", "optimizer", "schedule", "epochs", "batch_size", "seed"),
    *("validation_split", "evaluate_every", "precision", "task", "step", "clip_norm", "trainer"),
    *("accumulate", "ema", "early_stopping", "keep_best", "augment", "drop_last"),
    *("split", "folds", "fold"),
}


def known_by(config: TrialConfig) -> str:
    return fingerprint(config, DATA, CODE).config


def test_every_key_of_what_is_trained_counts():
    """Whoever adds a key to `TrialConfig` says so here; it belongs there if the weights or any metric depend on it."""
    assert set(TrialConfig.model_fields) == COUNTS


def test_a_key_that_is_added_counts_unless_it_is_at_its_default(digits_plain):
    class LaterModel(ModelConfig):
        pruned: float = 0.0

    class Noise(Section):
        scale: float = 0.0

    class Later(TrialConfig):
        model: LaterModel
        dropped: bool | int = False
        noise: Noise = Noise()

    def of(changes=None):
        plain = digits_plain(changes)
        return known_by(Later.model_validate({key: plain[key] for key in plain.keys() & Later.model_fields.keys()}))

    used = [of({key: value}) for key in ("dropped", "noise.scale", "model.pruned") for value in (1, 2)]
    assert of() == of({"dropped": False, "noise.scale": 0.0, "model.pruned": 0.0}) == PINNED
    assert len({PINNED, of({"dropped": 0}), *used}) == 8  # somebody's code can tell 0 from false


# Configs, as many as it takes

TEXTS = ["", "1", "1.0", "true", "null", "NaN", '"', "a,b", "é", "e\u0301", "\ud83d\ude00", "😀", "\x00"]
NUMBERS = st.sampled_from([0, 1, -1, 2, 0.0, -0.0, 1.0, -1.0, 0.1, 1e-1, 1e300, math.inf, -math.inf, math.nan, 10**400])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b", "1", 1, "_target_", "repr"]), inner, max_size=2)
    ),
    max_leaves=4,
)
SCHEDULES = [
    {"kind": "constant"},
    {"kind": "cosine"},
    {"kind": "cosine", "final": 0},
    {"kind": "cosine", "final": 0.5},
    {"kind": "step", "every": 2, "gamma": 0.5},
    {"kind": "step", "every": 3, "gamma": 0.5},
    {"kind": "warmup", "epochs": 1, "start": 0.5},
    {"kind": "warmup", "epochs": 1.0, "start": 0.5},
]
THAT_COUNT = {
    "dataset.mean": st.sampled_from([0, 0.0, -0.0, 0.5]),
    "dataset.std": st.sampled_from([1, 1.0, 0.5]),
    "dataset.shape": st.sampled_from([[1, 8, 8], (1, 8, 8), [8, 8]]),
    "dataset.classes": st.sampled_from([10, 11]),
    "model._target_": st.sampled_from(["mine.Net", "mine.Nets"]),
    "model.a": VALUES,
    "model.b": VALUES,
    "model.target": VALUES,
    "optimizer._target_": st.sampled_from(["torch.optim.SGD", "torch.optim.Adam", "mine.SGD"]),
    "optimizer.lr": st.sampled_from([1, 1.0, 0.1, 1e-1, 0.10000000000000002]),
    "optimizer.a": VALUES,
    "schedule": st.sampled_from(SCHEDULES),
    "epochs": st.sampled_from([1, 2, 2.0]),
    "batch_size": st.sampled_from([10, 100]),
    "seed": st.sampled_from([0, 1, 2**63 - 1]),
    "validation_split": st.sampled_from([0, 0.0, -0.0, 0.1]),
    "evaluate_every": st.sampled_from(["epoch", 1, 2]),
    "precision": st.sampled_from(["float32", "bfloat16"]),
}
THAT_DO_NOT = {
    "dataset._target_": st.sampled_from(["mine.Images", "sweepstack.training.data.digits"]),
    "dataset.folder": VALUES,
    "dataset.source": st.sampled_from(["auto", "memory", "mapped", "streamed"]),
    "dataset.identity": st.sampled_from([None, "2026-11", 5]),
    "device": st.sampled_from(["auto", "cpu", "cuda:1"]),
    "threads": st.sampled_from([None, 1, 2]),
    "workers": st.sampled_from([None, 1, 2]),
    "eval_batch_size": st.sampled_from([None, 1, 500]),
    "pictures": st.integers(0, 100),
    "tracking": st.just({"uri": "http://127.0.0.1:5000", "experiment": "other", "sweep": "other", "journal": "here"}),
    "launch": st.just({"dry_run": True, "stack": False, "width": 3}),
    "search": st.sampled_from([{"name": "tpe", "trials": 8}, {"name": "random", "epochs": 9, "when": {"a": "b=1"}}]),
    "engine": st.sampled_from([{"name": "local", "workers": 3}, {"name": "slurm", "partition": "gpu", "minutes": 5}]),
    "pruner": st.just({"min_epochs": 2, "keep": False}),
    "rerun": st.booleans(),
    "retries": st.integers(0, 3),
    "max_failures": st.sampled_from([None, 1]),
    "checkpoint": st.just({"every": 0, "keep": True}),
}


def some_of(values, at_most=None):
    """A dict with some of the keys."""
    keys = st.lists(st.sampled_from(sorted(values)), unique=True, max_size=at_most)
    return keys.flatmap(lambda keys: st.fixed_dictionaries({key: values[key] for key in keys}))


def alike(one, other, as_floats=False):
    """Whether nobody's code can tell two values apart, or torch.optim's cannot."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(alike(*pair, as_floats) for pair in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(part, other[key]) for key, part in one.items())
    numbers = all(type(value) in (int, float) for value in (one, other))
    if type(one) is not type(other) and not (as_floats and numbers):
        return False
    return one == other or (one != one and other != other)


def train_alike(one: TrialConfig, other: TrialConfig) -> bool:
    plain = ["schedule", "epochs", "batch_size", "seed", "validation_split", "evaluate_every", "precision"]
    of_torch = one.optimizer.target.startswith("torch.optim.")
    keywords = one.optimizer.keywords, other.optimizer.keywords
    return (
        all(getattr(one, key) == getattr(other, key) for key in plain)
        and all(getattr(one.dataset, key) == getattr(other.dataset, key) for key in ("mean", "std", "shape", "classes"))
        and (one.model.target, one.optimizer.target) == (other.model.target, other.optimizer.target)
        and one.optimizer.lr == other.optimizer.lr
        and alike(one.model.keywords, other.model.keywords)
        and keywords[0].keys() == keywords[1].keys()
        and all(alike(part, keywords[1][key], of_torch) for key, part in keywords[0].items())
    )


@given(start=some_of(THAT_COUNT), change=some_of(THAT_COUNT, at_most=2))
@example(start={"model.a": {1: 0}}, change={"model.a": {"1": 0}})
@example(start={"model.a": [[1], 2]}, change={"model.a": [[1, 2]]})
@example(start={"model.a": {}}, change={"model.a": []})
@example(start={"model.a": "\ud83d\ude00"}, change={"model.a": "😀"})
@example(start={"model.a": "\ud83d"}, change={"model.a": "?"})
@example(start={"model.a": {"b": 1}}, change={"model.a": {"b": 1.0}})
@example(start={"model.a": None}, change={"model.b": None})
@example(start={"optimizer._target_": "torch.optim.SGD", "optimizer.a": 0}, change={"optimizer.a": -0.0})
@example(start={"optimizer._target_": "torch.optim.SGD", "optimizer.a": [0, 1]}, change={"optimizer.a": (0.0, 1.0)})
@example(start={"optimizer._target_": "torch.optim.SGD", "optimizer.a": 2**53 + 1}, change={"optimizer.a": 2.0**53})
@example(start={"optimizer._target_": "torch.optim.SGD", "optimizer.a": 10**400}, change={"optimizer.a": math.inf})
@example(start={"optimizer._target_": "torch.optim.SGD", "optimizer.a": {"b": 1}}, change={"optimizer.a": {"b": 1.0}})
@example(start={"optimizer._target_": "torch.optim.SGD", "optimizer.a": True}, change={"optimizer.a": 1})
@example(start={"optimizer._target_": "mine.SGD", "optimizer.a": 0}, change={"optimizer.a": 0.0})
def test_fingerprints_are_equal_if_and_only_if_what_trains_is(digits_config, start, change):
    one, other = digits_config(start), digits_config({**start, **change})
    assert (known_by(one) == known_by(other)) is train_alike(one, other)


@given(start=some_of(THAT_COUNT), change=some_of(THAT_DO_NOT))
def test_what_changes_no_result_changes_no_fingerprint(digits_config, start, change):
    assert {key.partition(".")[0] for key in THAT_DO_NOT} == {"dataset", *RunConfig.model_fields}
    assert known_by(digits_config({**start, **change})) == known_by(digits_config(start))


@given(values=some_of(THAT_COUNT), random=st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_count(digits_plain, values, random):
    def shuffled(value):
        if isinstance(value, list):
            return [shuffled(part) for part in value]
        if not isinstance(value, dict):
            return value
        return {key: shuffled(value[key]) for key in random.sample(list(value), len(value))}

    plain = digits_plain(values)
    assert known_by(parse(shuffled(plain)).trial) == known_by(parse(plain).trial)


@given(value=st.floats(min_value=1e-12, max_value=1e12))
def test_how_a_number_is_written_does_not_count(digits_plain, value):
    written = [repr(value), f"{value:.17e}", f"{value:.25f}" if value > 1 else f"{value:.40f}"]
    for key in ("optimizer.lr", "optimizer.momentum", "model.dropout"):
        configs = [OmegaConf.create(digits_plain()) for _ in written]
        for config, text in zip(configs, written, strict=True):
            config.merge_with_dotlist([f"{key}={text}"])
        assert len({known_by(parse(config).trial) for config in configs}) == 1


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("model._target_", "mine.Net", "mine.Net2"),
        ("model.hidden", [64], [65]),
        ("model.hidden", [64], None),
        ("model.name", "é", "e\u0301"),
        ("model.inner", {"_target_": "mine.A"}, {"_target_": "mine.B"}),
        ("optimizer._target_", "torch.optim.SGD", "torch.optim.Adam"),
        ("optimizer.lr", 0.1, 0.1 + 2**-56),
        ("optimizer.momentum", 0.9, math.nan),
        ("schedule", {"kind": "constant"}, {"kind": "cosine", "final": 1.0}),
        ("epochs", 1, 2),
        ("batch_size", 50, 100),
        ("seed", 0, 1),
        ("validation_split", 0.1, 0.2),
        ("evaluate_every", "epoch", 13),
        ("precision", "float32", "bfloat16"),
        ("dataset.mean", 0.0, 0.1),
        ("dataset.std", 1.0, 0.5),
        ("dataset.shape", [1, 8, 8], [64]),
        ("dataset.classes", 10, 11),
    ],
)
def test_whatever_can_change_the_result_changes_the_fingerprint(digits_config, key, one, other):
    assert known_by(digits_config({key: one})) != known_by(digits_config({key: other}))


def test_null_is_not_absent(digits_config):
    assert known_by(digits_config({"model.width": None})) != known_by(digits_config())


def test_a_default_that_is_written_out_changes_nothing(digits_config):
    written = {"dataset.mean": 0.0, "seed": 0, "validation_split": 0.1, "evaluate_every": "epoch"}
    assert known_by(digits_config(written)) == known_by(digits_config())


@pytest.mark.parametrize(
    ("changes", "pinned"),
    [
        ({}, PINNED),
        ({"schedule": {"kind": "cosine"}}, "707a04eaa3c40a872613"),
        ({"schedule": {"kind": "one_cycle"}}, "761be0ea1fcac4a983ae"),
        ({"schedule": {"kind": "warmup"}}, "954dc85f8a22a45ad72e"),
        ({"schedule": {"kind": "step", "every": 2, "gamma": 0.5}}, "d69dd76dc9cdf24c736c"),
        (
            {
                "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01, "betas": [0.9, 0.99]},
                "model": {"_target_": "sweepstack.training.models.MLP", "hidden": [32], "dropout": 0.0},
            },
            "2b440eaa3a69a97b7a9a",
        ),
        (
            {"seed": 3, "validation_split": 0.0, "evaluate_every": 10, "precision": "bfloat16"},
            "9f6d33c3d437df7bcf74",
        ),
    ],
)
def test_it_is_the_same_today_and_tomorrow(digits_config, changes, pinned):
    """A change of these digits makes everybody train again what is finished."""
    assert known_by(digits_config(changes)) == pinned


def test_it_is_the_same_in_every_process(digits_plain):
    plain = digits_plain({"model.a": {"b": [1, 1.0, True, None], "c": {"é": "x", "d": math.inf}}, "optimizer.m": 1e-1})
    program = """
import json, sys
from sweepstack.config.fingerprint import fingerprint
from sweepstack.config.parsing import parse
print(fingerprint(parse(json.loads(sys.argv[1])).trial, sys.argv[2], sys.argv[3]))
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", program, json.dumps(plain), DATA, CODE]
    here = fingerprint(parse(copy.deepcopy(plain)).trial, DATA, CODE)
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.split() == [str(here), "False"]


# Through the door


@pytest.fixture(scope="module")
def typed():
    """`typed("optimizer.lr=0.1")`: the fingerprint of what a user types."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
        yield lambda *overrides: known_by(parse(compose("config", ["dataset=digits", *overrides])).trial)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["optimizer.lr=0.10"], ["optimizer.lr=1e-1"]),
        (["optimizer.lr=1"], ["optimizer.lr=1.0"]),
        (["optimizer.momentum=0"], ["optimizer.momentum=0.0"]),
        (["optimizer=adam", "optimizer.betas=[0,0.9]"], ["optimizer.betas=[0.0,9e-1]", "optimizer=adam"]),
        (
            ["+optimizer.groups=[{params:[biases],weight_decay:0,lr:1}]"],
            ["+optimizer.groups=[{params:[biases],weight_decay:0.0,lr:1.0}]"],
        ),
        (["dataset.mean=-0.0"], ["dataset.mean=0"]),
        (["model=mlp", "seed=3"], ["seed=3", "model=mlp"]),
        (["schedule=cosine"], ["schedule=cosine", "schedule.final=0"]),
        (["dataset=mnist"], ["dataset=mnist", "dataset.folder=/moved"]),
        ([], ["device=cpu", "threads=2", "rerun=true", "retries=3", "max_failures=1", "pictures=3"]),
        ([], ["checkpoint.every=0", "checkpoint.keep=true", "tracking.journal=here", "launch.stack=false"]),
    ],
)
def test_what_trains_the_same_is_known_as_the_same(typed, one, other):
    assert typed(*one) == typed(*other)


def test_what_somebodys_code_can_tell_apart_is_known_apart(typed):
    written = ["1", "1.0", "true", "'1'", "'1.0'", "[1]", "[1.0]", "{a:1}", "{a:1.0}", "null", "inf", "nan"]
    fingerprints = [typed(), *(typed(f"+model.extra={value}") for value in written)]
    assert len(set(fingerprints)) == len(written) + 1


# As text

HEX = "0123456789abcdef"
FINGERPRINTS = st.builds(Fingerprint, *(st.text(HEX, min_size=size, max_size=size) for size in (20, 16, 8)))


@given(known=FINGERPRINTS)
def test_its_text_is_read_back(known):
    assert Fingerprint.parse(str(known)) == known


def test_its_text_is_three_numbers(digits_config):
    config, data, code = str(fingerprint(digits_config(), DATA, CODE)).split("-")
    assert (len(config), data, code) == (20, DATA, CODE)


@pytest.mark.parametrize(
    "text",
    ["", "--", "a-b-c", f"{'A' * 20}-{DATA}-{CODE}", f"{'a' * 20}-{DATA}-{CODE}-", f"{'a' * 20}-{DATA}-{CODE}\n"],
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="should be 20, 16 and 8 lowercase hex digits joined by -, got "):
        Fingerprint.parse(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"data": "f" * 16}, "the data have changed"),
        ({"code": "f" * 8}, "the training code has changed"),
        ({"data": "f" * 16, "code": "f" * 8}, "the data and the training code have changed"),
        ({"config": "f" * 20}, "the config has changed"),
        (
            {"config": "f" * 20, "data": "f" * 16, "code": "f" * 8},
            "the config, the data and the training code have changed",
        ),
    ],
)
def test_what_has_changed_is_said_in_words(change, words):
    before = {"config": "0" * 20, "data": DATA, "code": CODE}
    assert Fingerprint(**{**before, **change}).change_since(Fingerprint(**before)) == words
