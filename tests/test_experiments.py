"""The recipes in conf/experiment, and the models in conf/model: each composes and fits its dataset."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import sweepstack.app  # noqa: F401 - registers the resolver that the config names
from sweepstack.config.parsing import parse
from sweepstack.config.schema import TrialConfig
from sweepstack.training.checks import check_trial
from sweepstack.training.models import build_model

from . import here
from .terminal import ROOT, new_store

RECIPES = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*_*.yaml"))
MODELS = sorted(file.stem for file in (ROOT / "conf" / "model").glob("*.yaml"))


def composed(*overrides: str) -> TrialConfig:
    """The trial that `python train.py OVERRIDES` trains."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
        return parse(compose("config", [*overrides])).trial


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_composes_and_selects_on_held_out_data(name: str) -> None:
    config = composed(f"experiment={name}")
    assert config.validation_split > 0
    parameters = sum(parameter.numel() for parameter in build_model(config.model).parameters())
    assert parameters < (100_000 if name.endswith("cnn") else 300_000)


@pytest.mark.parametrize("name", RECIPES)
def test_the_comment_of_a_recipe_names_its_command_and_its_time(name: str) -> None:
    text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    assert f"#   python train.py -m experiment={name} " in text
    assert "test/accuracy" in text


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_the_config_fits_images(model: str) -> None:
    check_trial(composed("dataset=digits", f"model={model}"), "cpu")


@pytest.mark.parametrize("model", ["linear", "logistic", "mlp"])
def test_a_model_of_linear_layers_fits_a_table(model: str) -> None:
    check_trial(composed("dataset=diabetes", "task=regression", f"model={model}"), "cpu")


def test_a_recipe_trains(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path, empty_database)
    monkeypatch.chdir(tmp_path)
    done = here.train("experiment=mnist_cnn", "dataset=digits", "epochs=1", f"tracking.uri={store.uri}")
    assert done.code == 0, done.err
    assert "test/accuracy" in done.out
