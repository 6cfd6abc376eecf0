"""The faster way is chosen by measuring, once, within what the memory holds."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sweepstack.config import code_digest
from sweepstack.config.schema import RunConfig
from sweepstack.training.hardware import memory_budget
from sweepstack.training.stacked import autotune
from sweepstack.training.stacked import build as stacked_build
from sweepstack.trial import StackSettings

from ..loading import load_data

CPU = torch.device("cpu")


class Branching(nn.Linear):
    def forward(self, images: Tensor) -> Tensor:
        images = images.flatten(1)
        return super().forward(images if images.sum() > 0 else -images)


class SlowTogether(nn.Linear):
    """Under vmap it counts its members and takes its time for each."""

    def forward(self, images: Tensor) -> Tensor:
        if torch._C._functorch.is_batchedtensor(self.weight):
            for _ in range(400):
                images = images + 0
        return super().forward(images.flatten(1))


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def stopwatch(monkeypatch):
    """Of processor time: whatever else the machine does, the same way is the faster one."""
    monkeypatch.setattr(autotune, "time", SimpleNamespace(perf_counter=time.process_time))


AS_USUAL = RunConfig()


def choose(configs, remembered=None, run=AS_USUAL, **more) -> StackSettings:
    return autotune.choose(configs, run, load_data(configs[0].dataset, 0.1, CPU), remembered, **more)


def rates(digits_config, count, changes=None):
    return [digits_config({**(changes or {}), "optimizer.lr": 0.1 / (place + 1)}) for place in range(count)]


def test_many_small_trials_are_stacked(digits_config):
    choice = choose(rates(digits_config, 12))
    assert choice.width == 12
    assert choice.epoch_seconds > 0
    assert "us a step and trial stacked" in choice.reason


def test_what_is_slower_together_trains_alone(digits_config):
    net = {"model": {"_target_": f"{__name__}.SlowTogether", "in_features": 64, "out_features": 10}}
    choice = choose(rates(digits_config, 2, net))
    assert choice.width == 1
    assert "alone" in choice.reason


def test_the_user_may_force_a_stack_that_is_slower(digits_config, digits_run, tmp_path: Path):
    net = {"model": {"_target_": f"{__name__}.SlowTogether", "in_features": 64, "out_features": 10}}
    assert choose(rates(digits_config, 2, net), tmp_path / "choices.json").width == 1
    forced = digits_run({"launch.stack": "force"})
    choice = choose(rates(digits_config, 2, net), tmp_path / "choices.json", forced)
    assert choice.width == 2
    assert choice.reason.startswith("launch.stack is force: ")
    net["model"]["_target_"] = f"{__name__}.Branching"  # which cannot be stacked at all
    choice = choose([digits_config({**net, "seed": seed}) for seed in (0, 1)], run=forced)
    assert choice.width == 1
    assert choice.reason.startswith("torch.func.vmap cannot map it")


def test_what_vmap_cannot_train_is_found_by_training_it(digits_config):
    net = {"model": {"_target_": f"{__name__}.Branching", "in_features": 64, "out_features": 10}}
    choice = choose([digits_config({**net, "seed": seed}) for seed in (0, 1)])
    assert choice.width == 1
    assert choice.reason.startswith("torch.func.vmap cannot map it")


def test_a_single_trajectory_is_not_measured_unless_its_time_is_asked_for(digits_config):
    assert choose([digits_config()]) == StackSettings(1, 1, 0.0, "alone")
    assert choose([digits_config()], estimate=True).epoch_seconds > 0


def test_the_user_may_say_no_or_how_wide(digits_config, digits_run):
    assert choose(rates(digits_config, 8), run=digits_run({"launch.stack": False})).width == 1
    assert choose(rates(digits_config, 8), run=digits_run({"launch.width": 3})).width == 3


def test_a_stack_is_no_wider_than_the_memory_allows(digits_config, monkeypatch):
    (config,) = rates(digits_config, 1)
    data = load_data(config.dataset, 0.1, CPU)
    one = memory_budget(CPU) / autotune._fitting_width(config, data)
    monkeypatch.setattr(autotune, "memory_budget", lambda device: int(5.5 * one))
    choice = choose(rates(digits_config, 12))
    assert choice.width == 4  # three stacks of four rather than two of five and one of two
    assert "4 fit into memory" in choice.reason


def test_no_stack_is_as_wide_as_a_sweep_of_thousands(digits_config, digits_run, monkeypatch):
    monkeypatch.setattr(autotune, "MAX_WIDTH", 5)
    built: list[int] = []
    build = stacked_build.build_stacked_model

    def counted(configs, *rest):
        built.append(len(configs))
        return build(configs, *rest)

    monkeypatch.setattr(stacked_build, "build_stacked_model", counted)
    assert choose(rates(digits_config, 12)).width == 4
    assert max(built) == 4
    assert choose(rates(digits_config, 12), run=digits_run({"launch.width": 12})).width == 12  # unless the user says so


def test_a_choice_is_remembered_by_what_it_depends_on(digits_config, tmp_path: Path, monkeypatch):
    file = tmp_path / "new" / "choices.json"
    waited: list[bool] = []
    first = choose(rates(digits_config, 4), file, wait_for_quiet=lambda: waited.append(True))
    assert waited == [True]
    monkeypatch.setattr(autotune, "_time_all_ways", lambda *_: pytest.fail("measured again"))
    assert choose(rates(digits_config, 4), file) == first
    assert choose(rates(digits_config, 4, {"epochs": 99, "schedule": {"kind": "cosine"}}), file) == first
    assert "measured again" in choose(rates(digits_config, 5), file).reason
    assert "measured again" in choose(rates(digits_config, 4, {"batch_size": 50}), file).reason
    monkeypatch.setattr(code_digest, "SEMANTICS", 0)  # as if any code that trains had changed
    assert "measured again" in choose(rates(digits_config, 4), file).reason


@pytest.mark.parametrize("content", ["", "{", "[1]", json.dumps({"x": {"old": 1}})])
def test_a_damaged_memory_is_measured_anew(digits_config, tmp_path: Path, content: str):
    file = tmp_path / "choices.json"
    file.write_text(content)
    choice = choose(rates(digits_config, 2), file)
    assert choice.epoch_seconds > 0
    assert choose(rates(digits_config, 2), file) == choice


def test_a_folder_that_cannot_be_written_to_costs_nothing_but_the_memory(digits_config, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert choose(rates(digits_config, 2), tmp_path / "file" / "choices.json").epoch_seconds > 0
