"""Losses that a config names, and clipping: the plain trainer against PyTorch written out, stacks against it."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import nn

from sweepstack.config.fingerprint import fingerprint
from sweepstack.errors import ConfigError
from sweepstack.training.checks import check_trial
from sweepstack.training.models import build_model
from sweepstack.training.random_state import seed_all
from sweepstack.training.stacked import build
from sweepstack.training.stacked.dense_model import DenseModel
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.stacked.vmap_model import MappedModel
from sweepstack.training.trainer import train
from sweepstack.trial import Outcome, TrialState

from .. import here
from ..terminal import new_store
from .test_stacked_loop import CPU, data_of

CLASSES = 10
UNEVEN = [1.0 + index / 3 for index in range(CLASSES)]
MLP = {"model": {"_target_": "sweepstack.training.models.MLP", "shape": [1, 8, 8], "classes": 10, "hidden": [16]}}
LOSSES: dict[str, dict[str, Any]] = {
    "label smoothing": {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1},
    "class weights": {"_target_": "torch.nn.CrossEntropyLoss", "weight": UNEVEN},
    "both": {"_target_": "torch.nn.CrossEntropyLoss", "weight": UNEVEN, "label_smoothing": 0.2},
    "its own": {"_target_": f"{__name__}.Focal", "gamma": 2.0},
    "a function": {"_target_": f"{__name__}.make_hinge"},
}


class Focal(nn.Module):
    """Focal loss (Lin et al. 2017)."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logs = torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
        return (-((1 - logs.exp()) ** self.gamma) * logs).mean()


def make_hinge():
    return lambda logits, labels: torch.nn.functional.multi_margin_loss(logits, labels)


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def losses_of(config) -> list[float]:
    """Ten epochs of plain PyTorch, with the batches of the trainer: the loss of each step."""
    named = dict(config.task.loss.keywords)
    if "weight" in named:
        named["weight"] = torch.tensor(named["weight"])
    loss_of = nn.CrossEntropyLoss(**named)
    data = data_of(config)
    seed_all(config.seed)
    model = nn.Linear(64, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.optimizer.lr)
    found = []
    for epoch in range(1, config.epochs + 1):
        for images, labels in data.batches(config.batch_size, config.seed, epoch):
            loss = loss_of(model(images.flatten(1)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return found


@pytest.mark.parametrize("name", ["label smoothing", "class weights", "both"])
def test_a_loss_of_pytorch_is_minimized_as_in_a_loop_written_out(digits_config, name):
    config = digits_config({"task": {"loss": LOSSES[name]}, "epochs": 4, "evaluate_every": 1, "optimizer.lr": 0.1})
    reported: list[float] = []
    outcome = train(config, data_of(config), lambda one: reported.append(one.metrics["train/loss"]))
    assert len(reported) == 52
    assert reported == pytest.approx(losses_of(config), abs=1e-6)
    with torch.no_grad():
        data = data_of(config)
        images, labels = (torch.cat(parts) for parts in zip(*data.test(), strict=True))
        named = dict(LOSSES[name])
        named.pop("_target_")
        if "weight" in named:
            named["weight"] = torch.tensor(named["weight"])
        logits = images.flatten(1) @ outcome.weights["linear.weight"].T + outcome.weights["linear.bias"]
        assert outcome.metrics["test/loss"] == pytest.approx(
            float(nn.CrossEntropyLoss(**named)(logits, labels)), abs=1e-5
        )


@pytest.mark.parametrize("name", LOSSES)
def test_a_stack_ends_where_its_trials_end_alone(digits_config, name):
    changes = {"task": {"loss": LOSSES[name]}, "epochs": 3, "evaluate_every": 7}
    configs = [digits_config({**changes, "optimizer.lr": lr}) for lr in (0.03, 0.1, 0.3)]
    outcomes: dict[int, Outcome] = {}
    model = build.build_stacked_model(configs, [1, 8, 8], CPU, data_of(configs[0]).some())
    assert isinstance(model, MappedModel)
    readers = [
        [TrialReader(config, lambda _: None, functools.partial(outcomes.__setitem__, number))]
        for number, config in enumerate(configs)
    ]
    train_stack(readers, data_of(configs[0]), model)
    for number, config in enumerate(configs):
        alone = train(config, data_of(config), lambda _: None)
        assert alone.state is outcomes[number].state is TrialState.FINISHED
        for key, value in alone.metrics.items():
            if "seconds" not in key:
                assert math.isclose(outcomes[number].metrics[key], value, rel_tol=1e-4, abs_tol=1e-6), key
        for key, weights in alone.weights.items():
            torch.testing.assert_close(outcomes[number].weights[key], weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip_norm", [0.05, 0.2, 1e9])
@pytest.mark.parametrize("model", ["logistic", "mlp"])
def test_gradients_are_clipped_alone_and_in_a_stack_as_pytorch_does(digits_config, clip_norm, model):
    """Clipping binds in every step, in some, in none."""
    changes = {"clip_norm": clip_norm, "epochs": 2, **({} if model == "logistic" else MLP)}
    configs = [digits_config({**changes, "optimizer.lr": lr, "seed": seed}) for lr in (0.1, 0.5) for seed in (1, 2)]
    outcomes: dict[int, Outcome] = {}
    stack = build.build_stacked_model(configs, [1, 8, 8], CPU, data_of(configs[0]).some())
    assert isinstance(stack, MappedModel)
    readers = [
        [TrialReader(config, lambda _: None, functools.partial(outcomes.__setitem__, number))]
        for number, config in enumerate(configs)
    ]
    train_stack(readers, data_of(configs[0]), stack)
    for number, config in enumerate(configs):
        alone = train(config, data_of(config), lambda _: None)
        expected = clipped_by_hand(config)
        for key, weights in alone.weights.items():
            torch.testing.assert_close(weights, expected[key], rtol=0, atol=1e-6)
            torch.testing.assert_close(outcomes[number].weights[key], weights, rtol=1e-4, atol=1e-5)
    free = train(
        digits_config({**changes, "clip_norm": None, "optimizer.lr": 0.1, "seed": 1}),
        data_of(configs[0]),
        lambda _: None,
    )
    same = all(torch.equal(free.weights[key], value) for key, value in train_quietly(configs[0]).weights.items())
    assert same == (clip_norm == 1e9)


def train_quietly(config) -> Outcome:
    return train(config, data_of(config), lambda _: None)


def clipped_by_hand(config) -> dict[str, torch.Tensor]:
    """The same training in plain PyTorch, the norm taken over all gradients in one vector."""
    data = data_of(config)
    seed_all(config.seed)
    model = build_model(config.model).train()
    parameters = list(model.parameters())
    for epoch in range(1, config.epochs + 1):
        for images, labels in data.batches(config.batch_size, config.seed, epoch):
            gradients = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), parameters)
            norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
            factor = min(1.0, config.clip_norm / (norm + 1e-6))
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(config.optimizer.lr * factor * gradient)
    return {key: value.detach() for key, value in model.state_dict().items()}


def test_without_a_loss_the_fingerprint_and_the_fast_way_stay(digits_config):
    plain = digits_config()
    data, code = "0" * 16, "0" * 8
    assert fingerprint(digits_config({"task": {"loss": None}}), data, code) == fingerprint(plain, data, code)
    smooth = digits_config({"task": {"loss": LOSSES["label smoothing"]}})
    assert fingerprint(smooth, data, code) != fingerprint(plain, data, code)
    assert isinstance(build.build_stacked_model([plain, plain], [1, 8, 8], CPU), DenseModel)
    assert isinstance(build.build_stacked_model([smooth, smooth], [1, 8, 8], CPU), MappedModel)
    assert isinstance(build.build_stacked_model([plain, plain], [1, 8, 8], CPU), DenseModel)
    assert fingerprint(digits_config({"clip_norm": None}), data, code) == fingerprint(plain, data, code)


CE = "torch.nn.CrossEntropyLoss"


@pytest.mark.parametrize(
    ("loss", "begins"),
    [
        ({"_target_": CE, "label_smoothin": 0.1}, f"task.loss.label_smoothin is not a keyword of {CE}; did you mean"),
        ({"_target_": f"{CE}s"}, "task.loss._target_ should name something that can be imported"),
        (
            {"_target_": CE, "weight": [1.0, 2.0]},
            f"task.loss: {CE} does not take outputs float32 [n, 10] and targets int64 [n]: ",
        ),
        (
            {"_target_": CE, "reduction": "none"},
            f"task.loss must give one number that has a gradient, {CE} gives a tensor of shape [2]; use the mean",
        ),
        (
            {"_target_": f"{__name__}.Learned"},
            "task.loss must have no parameters of its own, which nothing would train",
        ),
        ({"_target_": f"{__name__}.Focal"}, f"task.loss: {__name__}.Focal cannot be called: missing a required arg"),
        (
            {"_target_": "torch.nn.NLLLoss", "weight": ["a"]},
            "task.loss.weight must be a list of numbers from 0, not all",
        ),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_in_one_line_before_anything_trains(digits_config, loss, begins):
    with pytest.raises(ConfigError) as refused:
        check_trial(digits_config({"task": {"loss": loss}}), "cpu")
    assert str(refused.value).startswith(begins)
    assert "\n" not in str(refused.value)


def test_a_sweep_over_losses_records_each_and_trains_what_a_stack_takes_together(tmp_path, empty_database, monkeypatch):
    store = new_store(tmp_path, empty_database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    smooth = f"{{_target_:{CE},label_smoothing:0.1}}"
    words = ("-m", "dataset=digits", "epochs=1", "optimizer.lr=0.1,0.2", f"task.loss={smooth},null", "launch.width=2")
    done = here.train(*words)
    assert (done.code, done.err) == (0, "")
    rows = {row.name: row.params for row in store.rows("all")}
    assert len(rows) == 4
    for name, params in rows.items():
        with_it = "label_smoothing" in name
        assert params.get("task.loss") == (CE if with_it else None)
        assert "clip_norm" not in params
        assert params.get("task.loss.label_smoothing") == ("0.1" if with_it else None)
    again = here.train(*words)
    assert "4 trials trained before: not trained again" in again.out
    done = here.sweepstack("table", "--by-seed")
    assert done.code == 0
    assert done.err.startswith("note: the set that may be the best: ")
    assert "task.loss.label_smoothing" in done.out
