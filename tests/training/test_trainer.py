"""The plain trainer: what it computes is what a plain PyTorch loop computes."""

import dataclasses
import math
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import lr_scheduler

from sweepstack.training.checks import check_trial
from sweepstack.training.hardware import choose_device
from sweepstack.training.trainer import train
from sweepstack.trial import Measurement, Outcome, TrialState

from ..loading import load_data

MLP = {"model._target_": "sweepstack.training.models.MLP", "model.hidden": [32]}
TRAINED_ON, HELD_OUT, TESTED_ON = 1293, 144, 360  # digits, a tenth held out


def run(config, device="cpu") -> tuple[Outcome, list[Measurement]]:
    """A trial from config to outcome, and what it reported on the way."""
    reported: list[Measurement] = []
    data = load_data(config.dataset, config.validation_split, choose_device(device))
    return train(config, data, reported.append), reported


def same_bits(one: Outcome, other: Outcome) -> bool:
    """Whether two trainings gave the same weights and figures, but for the seconds they took."""
    figures = [{k: v for k, v in outcome.metrics.items() if "seconds" not in k} for outcome in (one, other)]
    return figures[0] == figures[1] and all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


# The reference


def digits_by_hand() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images [n, 64] and labels to train with and to test with, straight from scikit-learn."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    pixels, labels = torch.from_numpy(bunch.data[order]).float() / 16, torch.from_numpy(bunch.target[order])
    return pixels[360:], labels[360:], pixels[:360], labels[:360]


def orders(config, epoch: int) -> list[torch.Tensor]:
    """The places that each batch of an epoch takes its images from."""
    data = load_data(config.dataset, config.validation_split, torch.device("cpu"))
    count = len(data.images)
    numbered = dataclasses.replace(data, images=torch.arange(count).float().reshape(count, 1), mean=0.0, std=1.0)
    return [images.flatten().long() for images, _ in numbered.batches(config.batch_size, config.seed, epoch)]


def plain_loop(config, make_optimizer, make_scheduler, by_epoch=False) -> nn.Module:
    """Training as a tutorial would write it: nothing of the trainer in it but the order of the batches."""
    images, labels, _, _ = digits_by_hand()
    torch.manual_seed(config.seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = make_optimizer(model.parameters())
    scheduler = make_scheduler(optimizer)
    for epoch in range(1, config.epochs + 1):
        for index in orders(config, epoch):
            loss = nn.CrossEntropyLoss()(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not by_epoch:
                scheduler.step()
        if by_epoch:
            scheduler.step()
    return model


EPOCHS, BATCH = 3, 64
STEPS = math.ceil(TRAINED_ON / BATCH)
SGD = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}}
NESTEROV = {
    "optimizer": {
        "_target_": "torch.optim.SGD",
        "lr": 0.1,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.01,
    }
}
ADAM = {"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01, "betas": [0.8, 0.99]}}
ADAMW = {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.1}}


@pytest.mark.parametrize(
    ("changes", "schedule", "make_optimizer", "make_scheduler", "by_epoch"),
    [
        pytest.param(
            SGD,
            {"kind": "constant"},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            lambda o: lr_scheduler.ConstantLR(o, factor=1.0),
            False,
            id="sgd constant",
        ),
        pytest.param(
            SGD,
            {"kind": "cosine", "final": 0.05},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=EPOCHS * STEPS, eta_min=0.005),
            False,
            id="sgd cosine",
        ),
        pytest.param(
            NESTEROV,
            {"kind": "step", "every": 1, "gamma": 0.3},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
            lambda o: lr_scheduler.StepLR(o, step_size=1, gamma=0.3),
            True,
            id="nesterov step",
        ),
        pytest.param(
            ADAM,
            {"kind": "one_cycle", "rise": 0.4, "start": 0.1, "final": 0.001},
            lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99)),
            lambda o: lr_scheduler.OneCycleLR(
                o,
                max_lr=0.01,
                total_steps=EPOCHS * STEPS,
                pct_start=0.4,
                div_factor=10,
                final_div_factor=100,
                cycle_momentum=False,
            ),
            False,
            id="adam one-cycle",
        ),
        pytest.param(
            ADAMW,
            {"kind": "warmup", "epochs": 2, "start": 0.01},
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
            lambda o: lr_scheduler.LinearLR(o, start_factor=0.01, total_iters=2 * STEPS),
            False,
            id="adamw warmup",
        ),
    ],
)
def test_it_ends_with_the_weights_of_a_plain_loop(
    digits_config, changes, schedule, make_optimizer, make_scheduler, by_epoch
):
    config = digits_config({**MLP, **changes, "schedule": schedule, "epochs": EPOCHS, "batch_size": BATCH, "seed": 7})
    outcome, _ = run(config)
    model = plain_loop(config, make_optimizer, make_scheduler, by_epoch)
    for ours, expected in zip(outcome.weights.values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    _, _, images, labels = digits_by_hand()
    with torch.no_grad():
        logits = model(images)
    assert outcome.metrics["test/accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert outcome.metrics["test/accuracy"] > 0.8  # so it has learnt, and the comparison says something


def test_the_figures_are_those_of_the_returned_weights(digits_config):
    outcome, reported = run(digits_config({"epochs": 3}))
    weight, bias = (value.double().numpy() for value in outcome.weights.values())
    images, labels, test_images, test_labels = (part.numpy().astype(float) for part in digits_by_hand())

    def by_hand(images, labels):
        logits = images @ weight.T + bias
        likely = logits[np.arange(len(labels)), labels.astype(int)] - np.log(np.exp(logits).sum(1))
        return -likely.mean(), (logits.argmax(1) == labels).mean()

    loss, accuracy = by_hand(test_images, test_labels)
    assert outcome.metrics["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert outcome.metrics["test/accuracy"] == pytest.approx(accuracy)
    config = digits_config()
    held_out = load_data(config.dataset, config.validation_split, torch.device("cpu")).held_out.numpy()
    loss, accuracy = by_hand(images[held_out], labels[held_out])
    assert outcome.metrics["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert outcome.metrics["val/accuracy"] == pytest.approx(accuracy)
    assert (outcome.held_out_predictions == (images[held_out] @ weight.T + bias).argmax(1)).all()
    assert (outcome.predictions == (test_images @ weight.T + bias).argmax(1)).all()
    history = [measurement.metrics["val/accuracy"] for measurement in reported]
    assert outcome.metrics["val/accuracy_best"] == max(history)
    assert outcome.metrics["val/accuracy"] == history[-1]
    assert outcome.metrics["train_seconds"] > 0


def test_the_loss_of_an_epoch_is_the_mean_over_its_batches(digits_config):
    _, by_iteration = run(digits_config({"evaluate_every": 1}))
    _, by_epoch = run(digits_config())
    losses = [measurement.metrics["train/loss"] for measurement in by_iteration]
    assert len(losses) == 26
    assert by_epoch[0].metrics["train/loss"] == pytest.approx(sum(losses[:13]) / 13)
    assert by_epoch[1].metrics["train/loss"] == pytest.approx(sum(losses[13:]) / 13)


def test_before_the_first_update_the_loss_is_that_of_fresh_weights(digits_config):
    config = digits_config({"evaluate_every": 1, "epochs": 1, "seed": 3})
    _, reported = run(config)
    torch.manual_seed(3)
    fresh = nn.Linear(64, 10)
    images, labels, _, _ = digits_by_hand()
    first = orders(config, 1)[0]
    expected = nn.CrossEntropyLoss()(fresh(images[first]), labels[first])
    assert reported[0].metrics["train/loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_tutorials_recipe_gives_the_tutorials_accuracy(digits_config):
    """Logistic regression on real MNIST, 5 epochs of SGD at 0.001, pixels in 0..1: 82 to 83 %."""
    mnist = {"_target_": "sweepstack.training.data.mnist", "shape": [1, 28, 28], "classes": 10}
    recipe = {"optimizer.lr": 0.001, "epochs": 5, "validation_split": 0.0, "evaluate_every": 1000}
    outcome, reported = run(digits_config({"dataset": mnist, "model.shape": [1, 28, 28], **recipe}))
    assert outcome.state is TrialState.FINISHED
    assert 0.82 < outcome.metrics["test/accuracy"] < 0.83
    assert [measurement.step for measurement in reported] == [1000, 2000, 3000]


# The same seed, the same bits


def test_a_seed_gives_the_same_bits_whatever_came_before(digits_config):
    config = digits_config({**MLP, **SGD, "model.dropout": 0.3, "seed": 5})
    first, first_reports = run(config)
    torch.manual_seed(99)
    torch.rand(1234)
    second, second_reports = run(config)
    assert same_bits(first, second)
    assert first_reports == second_reports


def test_whoever_listens_may_draw_random_numbers_too(digits_config):
    config = digits_config({**MLP, "model.dropout": 0.3, "epochs": 3})
    undisturbed, _ = run(config)
    data = load_data(config.dataset, config.validation_split, torch.device("cpu"))
    assert same_bits(train(config, data, lambda measurement: torch.rand(measurement.step)), undisturbed)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("change", [{"seed": 6}, {"optimizer.lr": 0.11}, {"model.dropout": 0.4}])
def test_another_seed_or_value_gives_other_bits(digits_config, change):
    changes = {**MLP, **SGD, "model.dropout": 0.3, "seed": 5}
    assert not same_bits(run(digits_config(changes))[0], run(digits_config({**changes, **change}))[0])


LATE = [0.0]
"""Seconds that the clock of a test is ahead."""


class SlowToBuild(nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 10)
        LATE[0] += 1000

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flatten(1))


def slow_sgd(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.SGD:
    LATE[0] += 1000
    return torch.optim.SGD(parameters, lr)


def test_the_time_of_a_trial_begins_when_it_trains(digits_config, monkeypatch):
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + LATE[0])
    model, optimizer = ({"_target_": f"{__name__}.{name}"} for name in ("SlowToBuild", "slow_sgd"))
    config = digits_config({"model": model, "optimizer": {**optimizer, "lr": 0.1}})
    assert run(config)[0].metrics["train_seconds"] < 1000


def test_the_first_trial_of_a_process_is_not_charged_for_imports():
    """What an update imports is imported before the clock begins, and the random numbers stay where they are."""
    program = (
        "import sys, torch\n"
        "from sweepstack.training.trainer import warm_up\n"
        "state = torch.get_rng_state()\n"
        "warm_up(torch.device('cpu'))\n"
        "assert torch.equal(state, torch.get_rng_state())\n"
        "before = set(sys.modules)\n"
        "net = torch.nn.Linear(2, 2)\n"
        "optimizer = torch.optim.SGD(net.parameters(), lr=0.1)\n"
        "net(torch.ones(1, 2)).sum().backward()\n"
        "optimizer.step()\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_when_it_is_measured_does_not_change_what_is_trained(digits_config):
    changes = {**MLP, **SGD, "model.dropout": 0.3}
    expected, _ = run(digits_config(changes))
    for every in (1, 7, 1000):
        outcome, _ = run(digits_config({**changes, "evaluate_every": every}))
        assert all(torch.equal(outcome.weights[name], expected.weights[name]) for name in expected.weights)


def test_without_a_horizon_a_short_training_is_the_beginning_of_a_long_one(digits_config):
    warmup = {**MLP, "schedule": {"kind": "warmup", "epochs": 2.5, "start": 0.1}}
    short, long = (run(digits_config({**warmup, "epochs": epochs}))[1] for epochs in (2, 4))
    assert [m.metrics for m in long[:2]] == [m.metrics for m in short]


# What is reported, and when


def test_every_epoch_is_reported(digits_config):
    _, reported = run(digits_config({"epochs": 3}))
    assert [(m.epoch, m.step, m.steps) for m in reported] == [(1, 13, 39), (2, 26, 39), (3, 39, 39)]
    assert all(
        set(m.metrics) == {"train/loss", "train/lr", "val/loss", "val/accuracy", "val/accuracy_best"} for m in reported
    )


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (10, [(1, 10), (2, 20), (2, 26)]),
        (13, [(1, 13), (2, 26)]),
        (26, [(2, 26)]),
        (1000, [(2, 26)]),
        (1, [(1 if step <= 13 else 2, step) for step in range(1, 27)]),
    ],
)
def test_every_so_many_iterations_and_the_end_are_reported(digits_config, every, expected):
    _, reported = run(digits_config({"evaluate_every": every}))
    assert [(m.epoch, m.step) for m in reported] == expected


def test_the_last_short_batch_is_trained_on(digits_config):
    config = digits_config({"batch_size": 1000, "evaluate_every": 1, "epochs": 1})
    _, reported = run(config)
    assert [len(index) for index in orders(config, 1)] == [1000, 293]
    assert [m.step for m in reported] == [1, 2]
    assert reported[0].metrics["val/loss"] != reported[1].metrics["val/loss"]


def test_a_batch_can_be_larger_than_the_data(digits_config):
    _, reported = run(digits_config({"batch_size": 5000}))
    assert [m.step for m in reported] == [1, 2]


def test_the_learning_rate_that_was_used_is_reported(digits_config):
    changes = {"schedule": {"kind": "step", "every": 1, "gamma": 0.5}, "epochs": 3, "optimizer.lr": 0.2}
    _, reported = run(digits_config(changes))
    assert [m.metrics["train/lr"] for m in reported] == pytest.approx([0.2, 0.1, 0.05])


def test_with_nothing_held_out_it_is_measured_on_the_test_data(digits_config):
    outcome, reported = run(digits_config({"validation_split": 0.0}))
    assert [m.step for m in reported] == [15, 30]  # on all 1,437
    assert all(set(m.metrics) == {"train/loss", "train/lr", "test/loss", "test/accuracy"} for m in reported)
    assert outcome.metrics["test/accuracy"] == reported[-1].metrics["test/accuracy"]
    assert not [name for name in outcome.metrics if name.startswith("val/")]
    assert len(outcome.predictions) == TESTED_ON
    assert outcome.held_out_predictions is None


# How it can end


def test_a_loss_that_is_not_finite_ends_the_trial_with_a_reason(digits_config):
    outcome, reported = run(digits_config({**MLP, "optimizer.lr": 1e30}))
    assert outcome.state is TrialState.FAILED
    assert outcome.reason == "the loss was nan at step 2 with learning rate 1e+30; try a smaller optimizer.lr"
    assert outcome.weights is None
    assert reported == []


def test_the_reason_names_the_first_bad_step_and_the_rate_of_that_step(digits_config):
    schedule = {"kind": "warmup", "epochs": 1, "start": 0.0}  # the first update changes nothing
    outcome, reported = run(digits_config({**MLP, "optimizer.lr": 1.3e31, "schedule": schedule, "evaluate_every": 2}))
    assert outcome.state is TrialState.FAILED
    assert "at step 3 with learning rate 2e+30; " in outcome.reason
    assert [m.step for m in reported] == [2]


def test_weights_that_the_very_last_update_ruined_are_no_success(digits_config):
    outcome, _ = run(digits_config({**MLP, "optimizer.lr": 1e30, "batch_size": 5000, "epochs": 1}))
    assert outcome.state is TrialState.FAILED
    assert outcome.reason == "the loss was nan at step 1 with learning rate 1e+30; try a smaller optimizer.lr"
    assert outcome.weights is None


def test_bfloat16_learns_too(digits_config):
    changes = {**MLP, **SGD, "epochs": 5}
    outcome, _ = run(digits_config({**changes, "precision": "bfloat16"}))
    exact, _ = run(digits_config(changes))
    assert outcome.state is TrialState.FINISHED
    assert outcome.metrics["test/accuracy"] > 0.85
    assert {value.dtype for value in outcome.weights.values()} == {torch.float32}
    assert not same_bits(outcome, exact)


def test_it_trains_on_the_best_device_there_is(digits_config):
    outcome, _ = run(digits_config({**SGD, "epochs": 5}), "auto")
    assert outcome.metrics["test/accuracy"] > 0.9
    assert {value.device.type for value in outcome.weights.values()} == {"cpu"}


# Parts of the user's own

MODULE = """
import torch
from PIL import Image
from torch import nn
from torch.optim import Optimizer


class Shades:
    '''PIL images: dark ones (0) and bright ones (1).'''

    def __init__(self, train, transform=None):
        self.count = 80 if train else 20
        self.transform = transform

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        image = Image.new("RGB", (6, 6), (100 * (place % 2) + place, 50, 50))
        return (self.transform(image) if self.transform else image), place % 2


class Net(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.convolution = nn.Conv2d(3, channels, 3)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        return self.head(self.norm(self.convolution(images)).relu().mean((2, 3)))


class SignSGD(Optimizer):
    def __init__(self, parameters, lr, shrink=1.0):
        super().__init__(parameters, {"lr": lr, "shrink": shrink})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * group["shrink"] * parameter.grad.sign()
"""


def test_own_model_dataset_and_optimizer_train_by_their_paths(digits_config, tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    config = digits_config(
        {
            "dataset": {
                "_target_": "own_parts.Shades",
                "transform": {"_target_": "torchvision.transforms.ToTensor"},
                "shape": [3, 6, 6],
                "classes": 2,
            },
            "model": {"_target_": "own_parts.Net", "channels": 4, "classes": 2},
            "optimizer": {"_target_": "own_parts.SignSGD", "lr": 0.02, "shrink": 0.5},
            "schedule": {"kind": "cosine"},
            "epochs": 10,
            "batch_size": 16,
        }
    )
    check_trial(config, "cpu")
    outcome, reported = run(config)
    assert outcome.state is TrialState.FINISHED
    assert outcome.metrics["test/accuracy"] == 1.0
    assert outcome.weights["convolution.weight"].shape == (4, 3, 3, 3)
    assert int(outcome.weights["norm.num_batches_tracked"]) == 10 * 5
    assert len(reported) == 10
