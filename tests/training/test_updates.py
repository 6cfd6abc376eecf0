"""How weights are updated: accumulation, moving average, groups, closures, every optimizer of PyTorch; each against a
plain loop, and stopped and resumed."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sweepstack.config.fingerprint import fingerprint
from sweepstack.config.schema import TrialConfig
from sweepstack.errors import ConfigError
from sweepstack.planning.compatibility import obstacle
from sweepstack.training import models
from sweepstack.training.checkpoint import CheckpointManager
from sweepstack.training.checks import check_trial
from sweepstack.training.optimizers import build_optimizer
from sweepstack.training.random_state import seed_all
from sweepstack.training.stacked.build import build_stacked_model
from sweepstack.training.stacked.model import Unstackable
from sweepstack.training.trainer import train
from sweepstack.trial import Measurement

from .test_checkpoint import NO_MORE, SELDOM, Trials, after, assert_same_bits
from .test_stacked_loop import CPU, data_of


class Net(nn.Module):
    """With BatchNorm, and with a matrix that no bias follows."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(64, 16), nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 10, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.enter(images.flatten(1).to(self.head.weight.dtype)))))


class Matrices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(64, 16, bias=False), nn.Linear(16, 10, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.tanh(self.enter(images.flatten(1))))


class Sparse(nn.Module):
    """One vector for each pixel and each of 17 shades of it: its gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.shades = nn.EmbeddingBag(64 * 17, 10, mode="sum", sparse=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.shades((images.flatten(1) * 16).round().long() + 17 * torch.arange(64))


@pytest.fixture
def in_float64() -> Iterator[None]:
    """In float64, what is left is no rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def plain_loop(config: TrialConfig, optimizer_of: Any, accumulate: int = 1, decay: float | None = None) -> nn.Module:
    """What a tutorial writes: nothing of the trainer in it but the order of the batches."""
    data = data_of(config)
    seed_all(config.seed)
    model = models.build_model(config.model).train()
    optimizer = optimizer_of(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    for epoch in range(1, config.epochs + 1):
        batches = list(data.batches(config.batch_size, config.seed, epoch))
        for first in range(0, len(batches), accumulate):
            group = batches[first : first + accumulate]

            def closure(group: Any = group) -> Tensor:
                count = sum(len(labels) for _, labels in group)
                optimizer.zero_grad()
                total = torch.zeros(())
                for images, labels in group:
                    loss = nn.functional.cross_entropy(model(images), labels, reduction="sum") / count
                    loss.backward()
                    total += loss.detach()
                return total

            if isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            if averaged is not None:
                averaged.update_parameters(model)
    return model if averaged is None else averaged.module


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def in_groups(model: Net) -> torch.optim.Optimizer:
    free = [model.enter.bias, *model.norm.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [model.enter.weight]},
        {"params": free, "weight_decay": 0.0},
        {"params": [model.head.weight], "lr": 0.01, "momentum": 0.5},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1)


def lbfgs(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, history_size=5)


MOMENTUM = {"optimizer.momentum": 0.9}
GROUPS = [{"params": ["biases", "norms"], "weight_decay": 0}, {"params": "head.*", "lr": 0.01, "momentum": 0.5}]
LBFGS = {"_target_": "torch.optim.LBFGS", "lr": 0.5, "max_iter": 4, "history_size": 5}
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accumulation": ({"accumulate": 4, "batch_size": 25, **MOMENTUM}, {"optimizer_of": sgd, "accumulate": 4}),
    "average": ({"ema": 0.9, **MOMENTUM}, {"optimizer_of": sgd, "decay": 0.9}),
    "groups": (
        {"optimizer.groups": GROUPS, "optimizer.weight_decay": 0.1, **MOMENTUM},
        {"optimizer_of": in_groups},
    ),
    "LBFGS": ({"optimizer": LBFGS, "batch_size": 500, "epochs": 17}, {"optimizer_of": lbfgs}),
    "all": (
        {"optimizer": LBFGS, "accumulate": 2, "batch_size": 250, "ema": 0.8, "epochs": 17},
        {"optimizer_of": lbfgs, "accumulate": 2, "decay": 0.8},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_that_of_a_plain_loop_after_fifty_steps(digits_config, in_float64, name):
    changes, of_loop = RECIPES[name]
    config = digits_config({**own_net("Net"), "epochs": 4, **changes})
    reports: list[Measurement] = []
    outcome = train(config, data_of(config), reports.append)
    assert reports[-1].step == reports[-1].steps >= 50
    expected = plain_loop(config, **of_loop)
    for key, value in expected.state_dict().items():
        assert value.dtype in (torch.float64, torch.int64)
        torch.testing.assert_close(outcome.weights[key], value, rtol=0, atol=1e-6)
    with torch.no_grad():
        images, labels = (torch.cat(parts) for parts in zip(*data_of(config).test(), strict=True))
        logits = expected.eval()(images)
    assert outcome.metrics["test/accuracy"] == float((logits.argmax(1) == labels).double().mean())
    assert outcome.metrics["test/loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))


def own_net(name: str) -> dict[str, Any]:
    return {"model": {"_target_": f"{__name__}.{name}"}}


@pytest.mark.parametrize("name", RECIPES)
def test_a_trial_stopped_anywhere_ends_where_an_undisturbed_one_does(digits_config, tmp_path, name):
    changes, _ = RECIPES[name]
    config = digits_config({**own_net("Net"), **changes, "batch_size": 25, "epochs": 2, "evaluate_every": 5})
    steps = data_of(config).steps_per_epoch(25, config.accumulate)
    assert steps == -(-1293 // (25 * config.accumulate))
    expected_reports: list[Any] = []
    expected = train(config, data_of(config), expected_reports.append)
    outcome, reports = resumed(config, [3, steps - 3, 7], tmp_path)
    assert_same_bits(outcome, expected)
    assert (outcome.predictions == expected.predictions).all()
    assert reports == expected_reports


def resumed(config: TrialConfig, stops: list[int], folder: Path) -> tuple[Any, list[Any]]:
    reports: list[Any] = []
    for steps in (*stops, NO_MORE):
        keeper = CheckpointManager(folder, SELDOM, after(steps))
        keeper.restore()
        outcome = train(config, data_of(config), reports.append, keeper)
    return outcome, reports


@pytest.mark.parametrize("name", RECIPES)
def test_trials_of_five_and_ten_epochs_share_one_training(digits_config, tmp_path, name):
    changes, _ = RECIPES[name]
    changes = {**own_net("Net"), **changes, "batch_size": 100}
    configs = [digits_config({**changes, "epochs": epochs}) for epochs in (1, 2)]
    trials = Trials([configs], None)
    first_end = data_of(configs[0]).steps_per_epoch(100, configs[0].accumulate)
    trials.train(CheckpointManager(tmp_path, SELDOM, after(first_end + 1)))
    keeper = CheckpointManager(tmp_path)
    assert keeper.restore() is not None
    trials.train(keeper)
    for number, config in enumerate(configs):
        assert_same_bits(trials.outcomes[f"0.{number}"], train(config, data_of(config), lambda _: None))


# Every optimizer of PyTorch

OPTIMIZERS = [
    name
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
]
MODELS = {"Muon": "Matrices", "SparseAdam": "Sparse"}
RATES = {"SGD": 0.1, "ASGD": 0.3, "RAdam": 0.03, "LBFGS": 0.02, "Adadelta": 1.0, "SparseAdam": 0.05}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Optimizer"])
def test_every_optimizer_of_pytorch_trains_as_in_a_plain_loop_and_resumes_to_the_bit(digits_config, tmp_path, name):
    lr = RATES.get(name, 0.01)
    optimizer = {"_target_": f"torch.optim.{name}", "lr": lr}
    config = digits_config({**own_net(MODELS.get(name, "Net")), "optimizer": optimizer, "batch_size": 200, "epochs": 4})
    check_trial(config, "cpu")
    outcome = train(config, data_of(config), lambda _: None)
    assert outcome.metrics["test/accuracy"] > 0.5
    expected = plain_loop(config, lambda model: getattr(torch.optim, name)(model.parameters(), lr=lr))
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(outcome.weights[key], value, rtol=1e-3, atol=1e-4)
    again, _ = resumed(config, [2, 9], tmp_path)
    assert_same_bits(again, outcome)


# What is refused


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"optimizer": {"_target_": "torch.optim.Muon", "lr": 0.02}},
            "optimizer: torch.optim.Muon takes matrices only, linear.bias has the shape [10]; "
            "choose a model without biases, or another optimizer",
        ),
        (
            {"optimizer.groups": [{"params": "linear.wieght", "lr": 0.1}]},
            "optimizer: torch.optim.SGD refuses its values: 'linear.wieght' in optimizer.groups matches no parameter; "
            "did you mean 'linear.weight'?",
        ),
        (
            {"optimizer.groups": [{"params": "biases", "weight_decai": 0.1}]},
            "optimizer: torch.optim.SGD refuses its values: weight_decai in optimizer.groups is not one of its "
            "keywords; did you mean 'weight_decay'?",
        ),
        (
            {"optimizer.groups": [{"params": "biases", "weight_decay": -1}]},
            "optimizer: torch.optim.SGD refuses its values: optimizer.groups[0]: Invalid weight_decay value: -1",
        ),
        (
            {"optimizer": {"_target_": "torch.optim.LBFGS", "lr": 1, "groups": [{"params": "biases", "lr": 0.1}]}},
            "optimizer: torch.optim.LBFGS refuses its values: LBFGS doesn't support per-parameter options",
        ),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused_in_one_line_before_anything_trains(digits_config, changes, line):
    with pytest.raises(ConfigError) as refused:
        check_trial(digits_config(changes), "cpu")
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_a_group_whose_rate_is_0_is_frozen(digits_config):
    config = digits_config({**own_net("Net"), "optimizer.groups": [{"params": "enter.*", "lr": 0}], "epochs": 1})
    check_trial(config, "cpu")
    outcome = train(config, data_of(config), lambda _: None)
    seed_all(config.seed)
    before = models.build_model(config.model).state_dict()
    frozen = {key for key, value in before.items() if torch.equal(value, outcome.weights[key])}
    assert {"enter.weight", "enter.bias"} <= frozen < before.keys()


def test_a_word_fits_any_model_and_a_parameter_is_in_the_first_group_that_names_it(digits_config):
    groups = [{"params": ["norms", "biases"], "weight_decay": 0}, {"params": "*", "lr": 0.3}]
    config = digits_config({"optimizer.groups": groups})
    check_trial(config, "cpu")
    optimizer = build_optimizer(config.optimizer, Net())
    shapes = [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]
    assert shapes == [[[16], [16], [16]], [[16, 64], [10, 16]]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3]
    assert [
        list(p.shape) for group in build_optimizer(config.optimizer, Matrices()).param_groups for p in group["params"]
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"accumulate": 2}, "accumulate has no stacked form"),
        ({"ema": 0.9}, "ema has no stacked form"),
        ({"optimizer.groups": [{"params": "biases", "weight_decay": 0}]}, "optimizer.groups have no stacked form"),
        ({"schedule": {"kind": "plateau"}}, "schedule=plateau waits for the measurements of its trial"),
        ({"optimizer": LBFGS}, "torch.optim.LBFGS has no stacked form"),
    ],
)
def test_what_has_no_stacked_form_says_so_and_is_in_the_fingerprint(digits_config, changes, why):
    config = digits_config(changes)
    assert str(obstacle(config)).startswith(why)
    with pytest.raises(Unstackable) as refused:
        build_stacked_model([config, config], [1, 8, 8], CPU)
    assert str(refused.value) == obstacle(config)
    assert fingerprint(config, "0" * 16, "0" * 8) != fingerprint(digits_config(), "0" * 16, "0" * 8)


def test_equal_values_of_a_group_are_one_fingerprint_and_others_are_not(digits_config):
    found = {
        str(fingerprint(digits_config({"optimizer.groups": groups}), "0" * 16, "0" * 8))
        for groups in (
            [],
            [{"params": "biases", "weight_decay": 0.5}],
            [{"weight_decay": 0.5, "params": ["biases"]}],
            [{"params": "biases", "weight_decay": 0.25}],
            [{"params": "norms", "weight_decay": 0.5}],
        )
    }
    assert len(found) == 4
