"""What tells the trials of a sweep apart: names that no sweeper's batches change."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sweepstack.config.parsing import parse
from sweepstack.config.schema import TrialConfig
from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.job_context import split_job
from sweepstack.hydra_adapter.trials import fixed_keys, make_trial
from sweepstack.trial import Trial


def master(loader: ConfigLoader, *typed: str) -> DictConfig:
    return loader.load_configuration("config", ["dataset=digits", *typed], run_mode=RunMode.MULTIRUN)


def parsed(loader: ConfigLoader, *typed: str) -> TrialConfig:
    return parse(split_job(master(loader, *typed))[0]).trial


def name(loader: ConfigLoader, sweep: DictConfig, job: Sequence[str]) -> str:
    own, hydra = split_job(Composer(loader, sweep).compose(["dataset=digits", *job], 0))
    return make_trial(own, hydra, Path(), fixed_keys(sweep.hydra), in_sweep=True).name


@pytest.mark.parametrize(
    ("typed", "job", "expected"),
    [
        (["epochs=5", "optimizer.lr=0.1,0.2"], ["epochs=5", "optimizer.lr=0.1"], "lr=0.1"),
        (["optimizer.lr=choice(0.1)", "seed=range(2)"], ["optimizer.lr=0.1", "seed=0"], "lr=0.1 seed=0"),
        (["+hydra.sweeper.params={seed: '1,2'}", "epochs=5"], ["epochs=5", "seed=1"], "seed=1"),
        (["+hydra.sweeper.params={seed: '1,2', epochs: '3'}", "seed=4"], ["epochs=3", "seed=4"], ""),
        (["optimizer.lr=interval(0.1,0.2)", "epochs=5"], ["optimizer.lr=0.13", "epochs=5"], "lr=0.13"),
        (["epochs=5"], ["epochs=5", "++optimizer.dampening=0.2"], "dampening=0.2"),  # a sweeper with a space of its own
        (["model=mlp,logistic"], ["model=mlp"], "model=mlp"),
        (["optimizer={lr:0.1},{lr:0.2}", "optimizer={momentum:0.5}"], [], ""),
        (["tracking.sweep=mine", "epochs=5"], ["tracking.sweep=mine", "epochs=5"], "dataset=digits epochs=5"),
    ],
)
def test_a_name_is_what_the_sweep_varies(loader: ConfigLoader, typed: list[str], job: list[str], expected: str) -> None:
    """Each job is looked at alone, as it comes in a batch of one."""
    sweep = master(loader, *typed)
    if expected:
        assert name(loader, sweep, job) == expected
    else:
        assert name(loader, sweep, job).startswith("dataset=digits")


def test_all_that_is_merged_into_one_key_is_named(loader: ConfigLoader) -> None:
    sweep = master(loader, "optimizer={lr:0.1},{lr:0.2}", "optimizer={momentum:0.5},{momentum:0.9}")
    assert name(loader, sweep, ["optimizer={lr:0.1}", "optimizer={momentum:0.9}"]) == (
        "optimizer={lr:0.1} optimizer={momentum:0.9}"
    )


def test_a_resolver_that_draws_is_asked_once(loader: ConfigLoader) -> None:
    """What is recorded is what is trained."""
    import itertools

    count = itertools.count()
    OmegaConf.register_new_resolver("drawn", lambda: next(count), replace=True)
    own, hydra = split_job(Composer(loader, master(loader)).compose(["seed=${drawn:}"], 0))
    trial = make_trial(own, hydra, Path(), (), in_sweep=True)
    assert f"seed: {trial.config.seed}\n" in trial.config_text


def test_free_variables_name_jobs_and_count_only_where_they_are_used(loader: ConfigLoader) -> None:
    shared = ["dataset=digits", "model=mlp", "model.hidden=[${vars.width}]", "optimizer.lr=${vars.rate}"]
    sweep = master(loader, *shared, "+vars.width=4,8", "+vars.rate=0.5")

    def made(*words: str) -> Trial:
        own, hydra = split_job(Composer(loader, sweep).compose([*shared, *words], 0))
        return make_trial(own, hydra, Path(), fixed_keys(sweep.hydra), in_sweep=True)

    narrow, wide = (made(f"+vars.width={width}", "+vars.rate=0.5") for width in (4, 8))
    unused = made("+vars.width=4", "+vars.rate=0.5", "+vars.note='anything at all'")
    assert (narrow.name, wide.name) == ("vars.width=4", "vars.width=8")
    assert (wide.config.model.keywords["hidden"], wide.config.optimizer.lr) == ([8], 0.5)
    assert [one.params["model.hidden"] for one in (narrow, wide)] == [[4], [8]]
    assert not [key for key in wide.params if "vars" in key]
    assert narrow.config == unused.config != wide.config
    assert parse(cast("DictConfig", OmegaConf.create(wide.config_text))).trial == wide.config  # as `repro` reads it


@pytest.mark.parametrize(
    ("typed", "outputs"),
    [(["task=regression", "model=mlp"], 1), (["task=regression", "model=linear"], 1), (["dataset=diabetes"], 10)],
)
def test_the_remedy_for_a_dataset_that_does_not_suit_its_task_works_when_it_is_typed(
    loader: ConfigLoader, typed: list[str], outputs: int
) -> None:
    with pytest.raises(ConfigError, match="for example ") as refused:
        parsed(loader, *typed)
    remedy = str(refused.value).partition("for example ")[2].split()
    keywords = parsed(loader, *typed, *remedy).model.keywords
    assert (keywords.get("classes") or keywords["outputs"]) == outputs


def test_a_linear_model_has_one_output_for_each_label(loader: ConfigLoader) -> None:
    assert parsed(loader, "task=multilabel", "model=linear").model.keywords["outputs"] == 10


def params(loader: ConfigLoader, *typed: str) -> Mapping[str, object]:
    return make_trial(*split_job(master(loader, "hydra.job.num=0", *typed)), Path(), (), in_sweep=True).params


@pytest.mark.parametrize(
    "typed",
    ["keep_best=true", "early_stopping.patience=2", "schedule={kind:plateau}", "trainer={_target_:my.train}"],
)
def test_when_a_trial_is_measured_is_a_param_where_it_changes_the_result(loader: ConfigLoader, typed: str) -> None:
    assert params(loader, typed)["evaluate_every"] == "epoch"
    assert params(loader, typed, "evaluate_every=20")["evaluate_every"] == 20
    assert "evaluate_every" not in params(loader, "evaluate_every=20")  # as in records of version 0.1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("task.metrics=[{_target_:my.topk,mode:max,k:1}]", "task.metrics=[{_target_:my.topk,mode:max,k:5}]"),
        ("task.metrics=[{_target_:my.topk,mode:max}]", "task.metrics=[{_target_:my.topk,mode:min}]"),
        ("task.metrics=[{_target_:my.topk,mode:max}]", "task.metrics=[{_target_:your.topk,mode:max}]"),
        (
            "task.metrics=[{_target_:my.a,mode:max,name:b}]",
            "task.metrics=[{_target_:my.b,mode:max,name:b}]",
        ),
        (
            "trainer={_target_:my.train} task.objective={name:val/gain,mode:min}",
            "trainer={_target_:my.train} task.objective={name:val/gain,mode:max}",
        ),
    ],
)
def test_trials_with_different_metrics_have_different_params(loader: ConfigLoader, one: str, other: str) -> None:
    assert params(loader, *one.split()) != params(loader, *other.split())


def test_known_metrics_are_params_by_their_names(loader: ConfigLoader) -> None:
    found = params(loader, "task.metrics=[auroc]", "task.objective={name:val/auroc,mode:max}")
    assert (found["task.metrics"], found["task.objective"]) == (["auroc"], "val/auroc")
