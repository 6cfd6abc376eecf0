"""A config is typed once, at the edge; a mistake in it is answered in one line: rule, value, remedy."""

import subprocess
import sys
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sweepstack.config.parsing import parse
from sweepstack.config.run_sections import CheckpointConfig, EngineConfig, PrunerConfig
from sweepstack.config.schedule_sections import CosineSchedule
from sweepstack.config.schema import MAX_SEED, Config
from sweepstack.config.trial_sections import AugmentConfig, TaskConfig
from sweepstack.errors import ConfigError

from ..terminal import ROOT


def refusal(plain: dict) -> list[str]:
    """The lines that `parse` answers with."""
    with pytest.raises(ConfigError) as caught:
        parse(OmegaConf.create(plain))
    return str(caught.value).split("\n")


def test_what_was_composed_becomes_typed(digits_plain):
    cfg = OmegaConf.create(
        digits_plain({"model.shape": "${dataset.shape}", "schedule": {"kind": "cosine"}, "optimizer.momentum": 0.9})
    )
    config = parse(cfg).trial
    assert config.schedule == CosineSchedule(kind="cosine", final=0.0)
    assert config.dataset.shape == (1, 8, 8)
    assert config.model.target == "sweepstack.training.models.Logistic"
    assert config.model.keywords == {"shape": [1, 8, 8], "classes": 10}
    assert config.optimizer.lr == 0.1
    assert config.optimizer.keywords == {"momentum": 0.9}
    assert cast("Any", OmegaConf.to_container(cfg))["model"]["shape"] == "${dataset.shape}"


def test_a_config_cannot_be_changed_once_parsed(digits_config):
    config = digits_config()
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 3
    with pytest.raises(ValueError, match="frozen"):
        config.optimizer.lr = 3.0


def test_nothing_is_tried_again_and_no_checkpoint_kept_unless_asked_for(digits_run):
    run = digits_run()
    assert (run.rerun, run.retries, run.max_failures, run.tracking.journal) == (False, 0, None, None)
    assert run.checkpoint == CheckpointConfig(every=10.0, keep=False)


def test_the_defaults_are_those_that_the_yaml_file_shows(digits_config, digits_run):
    shown: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "config.yaml"))
    shown["tracking"]["sweep"] = digits_run().tracking.sweep
    plain = {**digits_config().model_dump(), **digits_run().model_dump()}
    given = {
        "dataset",
        "model",
        "optimizer",
        "schedule",
        "epochs",
        "batch_size",
        "device",
        "task",
        "augment",
        "engine",
        "pruner",
        "search",
    }
    assert {key: shown[key] for key in plain.keys() - given} == {key: plain[key] for key in plain.keys() - given}
    engine: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "engine" / "auto.yaml"))
    assert EngineConfig.model_validate({**shown["engine"], **engine}) == EngineConfig() == digits_run().engine
    pruner: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "pruner" / "none.yaml"))
    assert PrunerConfig.model_validate({**shown["pruner"], **pruner}) == PrunerConfig() == digits_run().pruner
    task: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "task" / "classification.yaml"))
    assert TaskConfig.model_validate(task) == TaskConfig()
    augment: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "augment" / "none.yaml"))
    assert augment == AugmentConfig().model_dump(mode="json")


def test_channels_need_a_shape_that_names_them(digits_plain):
    (line,) = refusal(digits_plain({"dataset.shape": None, "dataset.mean": [0.5]}))
    assert line.startswith("dataset.mean should be one number, because dataset.shape=null names no channels, got [0.5]")
    (line,) = refusal(digits_plain({"dataset.shape": [], "dataset.mean": [0.5]}))
    assert line.startswith("dataset.shape ")


def test_a_number_is_a_name_for_data(digits_config):
    assert [digits_config({"dataset.identity": one}).dataset.identity for one in (5, 1.5, "a")] == ["5", "1.5", "a"]


def test_free_variables_are_no_part_of_what_is_trained(digits_plain, digits_config):
    assert parse({**digits_plain(), "vars": {"width": 3, "anything": [{"at": "all"}]}}).trial == digits_config()
    assert parse({**digits_plain(), "vars": None}).trial == digits_config()
    with pytest.raises(ConfigError) as caught:
        parse({**digits_plain(), "vars": 3})
    assert str(caught.value) == "vars should have keys, for interpolations, got 3; for example +vars.width=32"


def test_validation_data_selects_unless_nothing_is_held_out(digits_config):
    assert digits_config().objective == "val/accuracy"
    assert digits_config({"validation_split": 0.0}).objective == "test/accuracy"


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("batchsize", "did you mean 'batch_size'?"),
        ("batch-size", "did you mean 'batch_size'?"),
        ("tracking.experimant", "did you mean 'experiment'?"),
        ("tracking.run-name", "known: experiment, journal, sweep, uri"),
        ("re-run", "did you mean 'rerun'?"),
        ("checkpoint.keeps", "did you mean 'keep'?"),
        ("schedule.finall", "did you mean 'final'?"),
        ("schedule.step", "known: final, kind"),  # also the name of a kind of schedule
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(digits_plain, key, remedy):
    (line,) = refusal(digits_plain({"schedule": {"kind": "cosine"}, key: 3}))
    assert line == f"{key} is not a key of the config; {remedy}"


def test_a_choice_written_as_a_key_is_told_of_the_list_of_defaults(digits_plain):
    (line,) = refusal(digits_plain({"model": "mlp"}))
    assert line == (
        "model should have keys (in a config file, a choice is a line of the list defaults: - model: NAME), got 'mlp'; "
        "for example model=logistic"
    )


def test_a_key_of_ones_own_belongs_below_vars(digits_plain):
    (line,) = refusal(digits_plain({"data_dir": "/data"}))
    rule = "data_dir is not a key of the config; keys of your own belong below vars, such as vars.data_dir (known: "
    assert line.startswith(rule)
    assert "epochs, " in line


@pytest.mark.parametrize(
    ("section", "name", "remedy"),
    [
        (None, "epochs", "epochs=5"),
        (None, "optimizer", "optimizer=sgd"),
        ("optimizer", "lr", "optimizer.lr=0.01"),
        ("model", "_target_", "model._target_=package.module.name"),
        ("schedule", "every", "schedule.every=2"),
    ],
)
def test_a_missing_key_is_asked_for(digits_plain, section, name, remedy):
    plain = digits_plain({"schedule": {"kind": "step", "every": 1, "gamma": 0.5}})
    del (plain[section] if section else plain)[name]
    key = f"{section}.{name}" if section else name
    (line,) = refusal(plain)
    assert line == f"{key} is required and missing; give it, for example {remedy}"


@pytest.mark.parametrize(
    ("task", "line"),
    [
        (
            {"objective": {"name": "val/rmse"}},
            "task.objective.mode is required and missing; give it, for example "
            "task.objective={name:val/f1_macro,mode:max}",
        ),
        (
            {"metrics": [{"_target_": "my.metric"}]},
            "task.metrics[0].mode is required and missing; give it, for example mode: max",
        ),
    ],
)
def test_a_missing_key_of_a_section_that_is_null_by_default_is_given_with_the_section(digits_plain, task, line):
    assert refusal(digits_plain({"task": task})) == [line]


OWN_LOOP = {"trainer": {"_target_": "my.train"}}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        *(
            (
                {**OWN_LOOP, key: value},
                f"{key.removesuffix('.patience')} has no effect beside a trainer of your own; leave it out",
            )
            for key, value in [
                ("keep_best", True),
                ("early_stopping.patience", 3),
                ("task.metrics", ["auroc"]),
                ("step", {"_target_": "my.step"}),
            ]
        ),
        (
            {"schedule": {"kind": "warmup_cosine", "epochs": 2}, "epochs": 2},
            "schedule.epochs must be less than epochs=2, or the rate never reaches its full size, got 2.0; "
            "for example schedule.epochs=0.2",
        ),
        *(
            (
                {"optimizer.groups": [{"params": "biases", "lr": lr}]},
                f"optimizer.groups[0].lr must be a number from 0, got {lr!r}; for example lr: 0.01, or lr: 0 to freeze "
                "its parameters",
            )
            for lr in (-1, "fast", True, float("nan"))
        ),
    ],
)
def test_keys_that_do_not_suit_each_other_are_refused(digits_plain, changes, line):
    assert refusal(digits_plain(changes)) == [line]


def test_a_value_that_is_left_open_is_asked_for(digits_plain):
    (line,) = refusal(digits_plain({"optimizer.lr": "???"}))
    assert line == "optimizer.lr is required and missing; give it with optimizer.lr=VALUE"


@pytest.mark.parametrize("value", ["${nowhere}", "${nobody:1}"])
def test_an_interpolation_that_leads_nowhere_is_named(digits_plain, value):
    (line,) = refusal(digits_plain({"optimizer.lr": value}))
    assert line.startswith("optimizer.lr cannot be resolved: ")
    assert ("nowhere" in line) or ("nobody" in line)
    assert line.endswith("give a value with optimizer.lr=VALUE")


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "value", "rule", "remedy"),
    [
        # out of range
        ("optimizer.lr", 0, "should be greater than 0", "optimizer.lr=0.01"),
        ("optimizer.lr", -0.1, "should be greater than 0", "optimizer.lr=0.01"),
        ("optimizer.lr", NAN, "should be a finite number", "optimizer.lr=0.01"),
        ("optimizer.lr", INF, "should be a finite number", "optimizer.lr=0.01"),
        ("batch_size", 0, "should be greater than or equal to 1", "batch_size=100"),
        ("epochs", 0, "should be greater than or equal to 1", "epochs=5"),
        ("validation_split", 1.5, "should be less than 1", "validation_split=0.1"),
        ("validation_split", -0.1, "should be greater than or equal to 0", "validation_split=0.1"),
        ("seed", -1, "should be greater than or equal to 0", "seed=0"),
        ("seed", MAX_SEED + 1, "should be less than or equal to", "seed=0"),
        ("dataset.std", 0, "should be greater than 0", "dataset.std=1.0"),
        ("dataset.std", [-1.0], "should be greater than 0", "dataset.std=1.0"),
        ("dataset.mean", NAN, "should be a finite number", "dataset.mean=0.0"),
        (
            "dataset.mean",
            [0.5, 0.5],
            "should have as many numbers as dataset.shape has channels (1)",
            "dataset.mean=0.0",
        ),
        ("dataset.shape", [1, 0], "should be greater than or equal to 1", "dataset.shape=[1,28,28]"),
        ("dataset.shape", [], "should have at least 1 item", "dataset.shape=[1,28,28]"),
        ("pictures", 101, "should be less than or equal to 100", "pictures=10"),
        ("retries", -1, "should be greater than or equal to 0", "retries=2"),
        ("max_failures", 0, "should be greater than or equal to 1", "max_failures=10"),
        ("checkpoint.every", -1, "should be greater than or equal to 0", "checkpoint.every=10.0"),
        ("checkpoint.every", INF, "should be a finite number", "checkpoint.every=10.0"),
        ("tracking.journal", "", "should have at least 1 character", "tracking.journal=mlruns/journal"),
        # wrong type
        ("epochs", 2.5, "should be a valid integer", "epochs=5"),
        ("epochs", None, "should be a valid integer", "epochs=5"),
        ("epochs", [5], "should be a valid integer", "epochs=5"),
        ("optimizer", "adam", "should have keys", "optimizer=sgd"),
        ("early_stopping", 3, "should have keys", "early_stopping.patience=3"),
        ("schedule", 3, "should have keys", "schedule=constant"),
        ("trainer", "my.train", "should have keys", "trainer={_target_:my.train}"),
        ("task.loss", "torch.nn.L1Loss", "should have keys", "task.loss={_target_:torch.nn.L1Loss}"),
        ("task.objective", "val/f1", "should have keys", "task.objective={name:val/f1_macro,mode:max}"),
        ("task.metrics", "auroc", "should be a list", "task.metrics=[f1_macro,auroc]"),
        ("rerun", 1, "should be a valid boolean", "rerun=true"),
        ("rerun", "yes", "should be a valid boolean", "rerun=true"),
        ("checkpoint.keep", "true", "should be a valid boolean", "checkpoint.keep=true"),
        ("launch.stack", "true", "should be true, false or force", "launch.stack=true"),
        ("launch.stack", 1, "should be true, false or force", "launch.stack=true"),
        ("retries", 0.5, "should be a valid integer", "retries=2"),
        ("retries", None, "should be a valid integer", "retries=2"),
        ("checkpoint.every", None, "should be a valid number", "checkpoint.every=10.0"),
        ("tracking.journal", 3, "should be a valid string", "tracking.journal=mlruns/journal"),
        # neither true nor the text "3" is a number
        ("epochs", True, "should be a number", "epochs=5"),
        ("epochs", "5", "should be a number", "epochs=5"),
        ("batch_size", "many", "should be a number", "batch_size=100"),
        ("batch_size", False, "should be a number", "batch_size=100"),
        ("optimizer.lr", True, "should be a number", "optimizer.lr=0.01"),
        ("optimizer.lr", "0.1", "should be a number", "optimizer.lr=0.01"),
        ("validation_split", True, "should be a number", "validation_split=0.1"),
        ("max_failures", True, "should be a number", "max_failures=10"),
        ("retries", "2", "should be a number", "retries=2"),
        ("checkpoint.every", "10 s", "should be a number", "checkpoint.every=10.0"),
        ("dataset.mean", "0.5", "should be a number, or a list with one for each channel", "dataset.mean=0.0"),
        ("dataset.mean", [True], "should be a number, or a list with one for each channel", "dataset.mean=0.0"),
        ("dataset.shape", [1, "8"], "should be a number", "dataset.shape=[1,28,28]"),
        # one of a few
        ("device", "gpu", "should be auto, cpu, mps, cuda or cuda:N", "device=cpu"),
        ("device", "cuda:", "should be auto, cpu, mps, cuda or cuda:N", "device=cpu"),
        ("device", "cuda:01", "should be auto, cpu, mps, cuda or cuda:N", "device=cpu"),
        ("device", "cpu\n", "should be auto, cpu, mps, cuda or cuda:N", "device=cpu"),
        ("precision", "float16", "should be 'float32' or 'bfloat16'", "precision=float32"),
        ("evaluate_every", 0, "should be epoch or a number of iterations from 1", "evaluate_every=epoch"),
        ("evaluate_every", True, "should be epoch or a number of iterations from 1", "evaluate_every=epoch"),
        ("evaluate_every", "epochs", "should be epoch or a number of iterations from 1", "evaluate_every=epoch"),
        ("model._target_", "MLP", "should be a dotted path", "model._target_=package.module.name"),
        ("model._target_", "os.path.1", "should be a dotted path", "model._target_=package.module.name"),
        ("tracking.uri", "file:///tmp/runs", "MLflow 3 refuses folders", "tracking.uri=http://127.0.0.1:5000"),
        ("tracking.uri", "./mlruns", "MLflow 3 refuses folders", "tracking.uri=http://127.0.0.1:5000"),
    ],
)
def test_a_wrong_value_gets_rule_value_and_remedy_in_one_line(digits_plain, key, value, rule, remedy):
    (line,) = refusal(digits_plain({key: value}))
    assert line.startswith(key)
    assert rule in line
    offending = value[1] if key == "dataset.shape" and value else value
    assert f", got {offending!r}; " in line
    assert line.endswith(f"for example {remedy}")


@pytest.mark.parametrize(("schedule", "got"), [({"kind": "cosinus"}, "'cosinus'"), ({"final": 0.1}, "None")])
def test_a_schedule_is_of_a_known_kind(digits_plain, schedule, got):
    (line,) = refusal(digits_plain({"schedule": schedule}))
    assert line == (
        f"schedule.kind must be one of constant, step, cosine, one_cycle, warmup, warmup_cosine, plateau, got {got}; "
        "choose one with schedule=NAME"
    )


def test_values_inside_a_schedule_have_their_rules(digits_plain):
    assert refusal(digits_plain({"schedule": {"kind": "step", "every": 0, "gamma": 2.0}})) == [
        "schedule.every should be greater than or equal to 1, got 0; for example schedule.every=2",
        "schedule.gamma should be less than or equal to 1, got 2.0; for example schedule.gamma=0.5",
    ]


def test_several_mistakes_get_one_line_each(digits_plain):
    plain = digits_plain({"epochs": 0, "batch_size": "x", "momentum": 0.9, "evaluate_every": 0})
    del plain["optimizer"]["lr"]
    lines = refusal(plain)
    assert sorted(line.split()[0] for line in lines) == [
        "batch_size",
        "epochs",
        "evaluate_every",
        "momentum",
        "optimizer.lr",
    ]


def test_mistakes_in_what_is_trained_and_in_how_it_is_run_are_told_together(digits_plain):
    mistakes = {"retries": -1, "epochs": 0, "tracking.foo": 1, "momentum": 0.9, "device": "gpu", "launch.width": 0}
    assert [line.split()[0] for line in refusal(digits_plain(mistakes))] == [
        *("epochs", "device", "tracking.foo", "launch.width", "retries", "momentum")
    ]


KEYS = [
    *("epochs", "batch_size", "seed", "validation_split", "evaluate_every", "device", "precision", "threads"),
    *("pictures", "tracking", "tracking.uri", "tracking.sweep", "model", "model._target_", "optimizer"),
    *("optimizer.lr", "schedule", "schedule.kind", "dataset.shape", "dataset.mean"),
    *("rerun", "retries", "max_failures", "checkpoint", "checkpoint.every", "checkpoint.keep", "tracking.journal"),
]
WORDS = st.text("abcz_:/. \n0123456789é?", max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | WORDS | st.sampled_from(["cosine", "cuda:0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "lr", "x"]), inner),
    max_leaves=4,
)


@given(key=st.sampled_from(KEYS), value=ANYTHING)
def test_whatever_is_written_is_parsed_or_explained_in_lines_that_name_it(digits_plain, key, value):
    try:
        config = parse(OmegaConf.create(digits_plain({key: value})))
    except ConfigError as error:
        lines = str(error).split("\n")
        assert all(line.startswith(key) and "; " in line for line in lines)
        assert len(set(lines)) == len(lines)
    else:
        assert isinstance(config, Config)


def test_a_mistake_is_answered_without_pytorch_or_mlflow():
    program = """
import sys
from omegaconf import OmegaConf
from sweepstack.config.parsing import parse
from sweepstack.errors import ConfigError
try:
    parse(OmegaConf.create({"epochs": 0}))
except ConfigError as error:
    print(str(error).splitlines()[-1])
print(sorted({"torch", "mlflow"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    mistake, heavy = done.stdout.splitlines()
    assert mistake.startswith("batch_size is required and missing")
    assert heavy == "[]"
