"""The stacked trainer: every trial ends where the plain trainer takes it."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from sweepstack.config.schema import TrialConfig
from sweepstack.training import models
from sweepstack.training.stacked import build, members
from sweepstack.training.stacked.dense_model import DenseModel
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.stacked.model import StackedModel, Unstackable
from sweepstack.training.stacked.single_model import SingleModel
from sweepstack.training.stacked.vmap_model import MappedModel
from sweepstack.training.trainer import train
from sweepstack.trial import Measurement, Outcome, TrialState, Verdict

from ..loading import Data, load_data

CPU = torch.device("cpu")
MNIST = {
    "dataset": {"_target_": "sweepstack.training.data.mnist", "shape": [1, 28, 28], "classes": 10}
    | {"mean": 0.1307, "std": 0.3081},
    "model.shape": [1, 28, 28],
}
MLP = {"model._target_": "sweepstack.training.models.MLP", "model.hidden": [32]}


def adam(lr: float, **more: object) -> dict[str, Any]:
    return {"optimizer": {"_target_": "torch.optim.Adam", "lr": lr, **more}}


def own(name: str, **keywords: object) -> dict[str, Any]:
    return {"model": {"_target_": f"{__name__}.{name}", **keywords}}


class Smooth(nn.Sequential):
    """Convolutions with BatchNorm and no kinks: where a unit is about to flip, rounding decides, stacked or not."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, stride=2, bias=False),
            nn.BatchNorm2d(4),
            nn.SiLU(),
            nn.Conv2d(4, 8, 3, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(72, classes),
        )


class Tied(nn.Module):
    """One matrix that is used twice, a frozen one, one that the loss does not depend on, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(64, 16)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.leave = nn.Linear(16, 10)
        self.leave.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.silu(self.enter(images.flatten(1)))
        return self.leave(torch.tanh(self.second(torch.tanh(self.first(hidden * self.scale)))))  # type: ignore[operator]


class Branching(nn.Linear):
    def forward(self, images: Tensor) -> Tensor:
        images = images.flatten(1)
        return super().forward(images if self.bias.sum() > 0 else -images)


class OtherInEvaluation(nn.Linear):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images.flatten(1))
        return logits if self.training else 2 * logits


class Odd(nn.Module):
    """Two linear layers, and whatever a test adds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.enter, self.leave = nn.Linear(64, 16), nn.Linear(16, 10)
        self.first, self.second = nn.Parameter(torch.zeros(10)), nn.Parameter(torch.zeros(10))
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("mean", torch.zeros(16))
        if kind == "plain tensor":
            self.order = torch.randperm(64)
        if kind == "parameter hook":
            self.enter.weight.register_hook(lambda gradient: 2 * gradient)
        if kind == "module hook":
            self.enter.register_full_backward_hook(lambda module, grad_in, grad_out: (2 * grad_in[0],))  # type: ignore[index]
        if kind == "eval in init":
            self.norm.eval()

    def train(self, mode: bool = True) -> "Odd":
        super().train(mode)
        if self.kind == "frozen norm":
            self.norm.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if self.kind == "plain tensor":
            flat = flat[:, self.order]
        hidden = torch.tanh(self.enter(flat))
        if self.kind == "hidden hook" and hidden.requires_grad:
            hidden.register_hook(lambda gradient: 3 * gradient)
        if self.kind == "assigned buffer" and self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
            hidden = hidden - self.mean
        if "norm" in self.kind or self.kind == "eval in init":
            hidden = self.norm(hidden)
        if self.kind == "one gradient for two":
            return self.leave(hidden) + (self.first + self.second)
        if self.kind == "expanded gradient":
            return self.leave(hidden) * (1 + self.first.sum())
        return self.leave(hidden)


class Sparing(nn.Module):
    """Leaves a layer out where a batch is short: its weights have no gradient then."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.extra, self.leave = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(self.enter(images.flatten(1)))
        if not self.training or len(images) == 100:
            hidden = torch.tanh(self.extra(hidden))
        return self.leave(hidden)


def data_of(config: TrialConfig) -> Data:
    return load_data(config.dataset, config.validation_split, CPU)


def tenth_of_mnist(config: TrialConfig) -> Data:
    """47 steps an epoch, the last of them short; a mathematical difference shows after one."""
    data = data_of(config)
    kept = torch.cat([data.train[:6000], data.held_out[:1000]])
    return dataclasses.replace(
        data,
        images=data.images[kept],
        labels=data.labels[kept],
        train=torch.arange(6000),
        held_out=torch.arange(6000, 7000),
        test_images=data.test_images[:1000],
        test_labels=data.test_labels[:1000],
    )


def run(
    trajectories: Sequence[Sequence[TrialConfig]],
    model: StackedModel | SingleModel | None = None,
    data: Data | None = None,
) -> tuple[list[Outcome], list[list[Measurement]]]:
    """Outcomes and reports of the trials, in the order of the configs."""
    flat = [config for configs in trajectories for config in configs]
    outcomes: list[Outcome | None] = [None] * len(flat)
    reports: list[list[Measurement]] = [[] for _ in flat]
    places = iter(range(len(flat)))

    def reader(config: TrialConfig) -> TrialReader:
        place = next(places)
        return TrialReader(config, reports[place].append, lambda outcome: outcomes.__setitem__(place, outcome))

    readers = [[reader(config) for config in configs] for configs in trajectories]
    longest = [max(configs, key=lambda config: config.epochs) for configs in trajectories]
    data = data or data_of(flat[0])
    train_stack(readers, data, model or build.build_stacked_model(longest, data.images.shape[1:], CPU))
    assert None not in outcomes
    return outcomes, reports


def distance(one: Outcome, other: Outcome) -> float:
    """The largest difference between two weights."""
    assert one.weights.keys() == other.weights.keys()
    return max(float((one.weights[name].double() - other.weights[name].double()).abs().max()) for name in one.weights)


def without_time(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if "seconds" not in key}


def assert_like_the_plain_trainer(
    configs: Sequence[TrialConfig], atol: float = 1e-5, images: int = 2, data: Data | None = None
) -> None:
    data = data or data_of(configs[0])
    outcomes, reports = run([[config] for config in configs], data=data)
    for config, outcome, reported in zip(configs, outcomes, reports, strict=True):
        expected_reports: list[Measurement] = []
        expected = train(config, data, expected_reports.append)
        assert outcome.state is expected.state
        assert [(m.epoch, m.step, m.steps) for m in reported] == [(m.epoch, m.step, m.steps) for m in expected_reports]
        assert distance(outcome, expected) <= atol
        assert outcome.metrics.keys() == expected.metrics.keys()
        for key, value in without_time(expected.metrics).items():
            counted = len(data.held_out) if key.startswith("val") else len(data.test_labels)
            slack = images / counted if "accuracy" in key else 1e-3
            assert outcome.metrics[key] == pytest.approx(value, abs=slack + 1e-9), key


# The same as the plain trainer


SCHEDULES = [
    {"kind": "constant"},
    {"kind": "cosine", "final": 0.1},
    {"kind": "one_cycle"},
    {"kind": "step", "every": 1, "gamma": 0.5},
]


MODELS: dict[str, dict[str, Any]] = {
    "logistic": {**MNIST, "model.shape": [1, 28, 28]},
    "mlp": {**MNIST, **MLP, "model.hidden": [64], "model.shape": [1, 28, 28]},
    "cnn": {"dataset": MNIST["dataset"], **own("Smooth")},
}


@pytest.mark.parametrize("optimizer", [adam(0.01), {"optimizer.momentum": 0.9}], ids=["adam", "sgd"])
def test_the_updates_of_each_parameter_are_counted(digits_config, optimizer):
    """Those of a layer that the last batch of each epoch leaves out are fewer than the steps."""
    words = {**own("Sparing"), **optimizer, "batch_size": 100, "epochs": 4}
    configs = [digits_config({**words, "optimizer.lr": lr}) for lr in (0.005, 0.01)]
    assert len(data_of(configs[0]).train) % 100
    assert_like_the_plain_trainer(configs)


@pytest.mark.parametrize("kind", ["momentum", "adam"])
@pytest.mark.parametrize("model", MODELS)
def test_two_epochs_of_mnist_end_within_rounding(digits_config, model, kind):
    """Mixed values, seeds, schedules and epochs, and a last batch that is short.

    Where a hidden unit of the MLP is just at its kink, rounding decides: such a trial ends up to 1e-2 away, as the
    plain trainer with another number of threads ends away from itself. The MLP is compared in float64 too, below.
    """
    rates = (0.003, 0.01, 0.03) if kind == "momentum" else (0.0003, 0.001, 0.0005)
    configs = []
    for place, lr in enumerate(rates):
        values = {"weight_decay": 1e-3 * (place + 1)}
        sgd = {"_target_": "torch.optim.SGD", "lr": lr, "momentum": 0.3 * place, **values}
        optimizer = {"optimizer": sgd} if kind == "momentum" else adam(lr, **values)
        rest = {"epochs": 2 - place % 2, "batch_size": 128, "seed": place // 2, "schedule": SCHEDULES[place]}
        configs.append(digits_config({**MODELS[model], **optimizer, **rest}))
    assert_like_the_plain_trainer(configs, 1e-2 if model == "mlp" else 1e-5, data=tenth_of_mnist(configs[0]))


DIGITS = [{**MLP, "model.hidden": [16, 16]}, own("Smooth"), own("Tied")]
MNIST_MLP = MODELS["mlp"]


@pytest.mark.parametrize("model", [*DIGITS, MNIST_MLP], ids=["mlp", "cnn", "tied", "mnist"])
@pytest.mark.parametrize("optimizer", [adam(0.003), adam(0.01, amsgrad=True), {"optimizer.momentum": 0.9}])
def test_with_more_digits_nothing_is_left_of_the_difference(digits_config, model, optimizer):
    """In float64: what is left in float32 is rounding, and no other mathematics."""
    configs = [
        digits_config({**model, **optimizer, "seed": place // 2, "epochs": 2, "schedule": SCHEDULES[place]})
        for place in range(3)
    ]
    data = tenth_of_mnist(configs[0]) if model is MNIST_MLP else data_of(configs[0])
    images, test_images = data.images.double(), data.test_images.double()
    if model is MNIST_MLP:
        images, test_images = images / 255, test_images / 255
    torch.set_default_dtype(torch.float64)
    try:
        data = dataclasses.replace(data, images=images, test_images=test_images)
        assert_like_the_plain_trainer(configs, 1e-9, 0, data)
    finally:
        torch.set_default_dtype(torch.float32)


sgd_values = st.fixed_dictionaries(
    {"lr": st.sampled_from([0.01, 0.05, 0.2]), "momentum": st.sampled_from([0.0, 0.5]), "weight_decay": st.just(0.01)}
)
trials = st.fixed_dictionaries(
    {
        "optimizer": sgd_values.map(lambda values: {"_target_": "torch.optim.SGD", **values}),
        "epochs": st.integers(1, 3),
        "seed": st.integers(0, 2),
        "schedule": st.sampled_from(SCHEDULES),
        "evaluate_every": st.sampled_from(["epoch", "epoch", 5]),
    }
)


@settings(max_examples=10, phases=[Phase.reuse, Phase.generate])  # a failing grid is small as it is
@given(st.lists(trials, min_size=2, max_size=5), st.sampled_from([64, 100, 2000]), st.sampled_from(["dense", "mapped"]))
def test_any_grid_on_digits_ends_within_rounding(digits_config, drawn, batch_size, way):
    model = {} if way == "dense" else own("Tied")
    assert_like_the_plain_trainer([digits_config({**model, **trial, "batch_size": batch_size}) for trial in drawn])


@pytest.mark.parametrize(
    "optimizer", [adam(0.01, amsgrad=True), {"optimizer.nesterov": True, "optimizer.momentum": 0.9}]
)
def test_flags_are_kept(digits_config, optimizer):
    assert_like_the_plain_trainer([digits_config({**optimizer, "seed": seed}) for seed in (0, 1)])


def test_bfloat16_is_trained_as_bfloat16(digits_config):
    configs = [digits_config({**MLP, "precision": "bfloat16", "optimizer.lr": lr}) for lr in (0.05, 0.1)]
    assert isinstance(build.build_stacked_model(configs, [1, 8, 8], CPU), MappedModel)
    assert_like_the_plain_trainer(configs, atol=0.02, images=8)


def test_a_test_loss_that_is_not_finite_fails_as_it_does_alone(digits_config):
    base = {**MLP, "epochs": 1, "batch_size": 1293}  # one update
    config = digits_config({**base, "optimizer.lr": 1e36})
    expected = train(config, data_of(config), lambda _: None)
    (outcome, good), _ = run([[config], [digits_config(base)]])
    assert (outcome.state, good.state) == (TrialState.FAILED, TrialState.FINISHED)
    assert outcome.reason == expected.reason


@pytest.mark.parametrize(
    "kind", ["one gradient for two", "expanded gradient", "frozen norm", "eval in init", "assigned buffer"]
)
@pytest.mark.parametrize("optimizer", [adam(0.01, weight_decay=0.01), {"optimizer.momentum": 0.9}], ids=["adam", "sgd"])
def test_odd_modules_end_within_rounding_too(digits_config, kind, optimizer):
    configs = [digits_config({**own("Odd", kind=kind), **optimizer, "seed": seed, "epochs": 2}) for seed in (0, 0, 1)]
    assert isinstance(build.build_stacked_model(configs, [1, 8, 8], CPU), MappedModel)
    assert_like_the_plain_trainer(configs, atol=1e-4)


@pytest.mark.parametrize("kind", ["parameter hook", "module hook", "hidden hook", "plain tensor"])
def test_what_would_be_lost_in_a_stack_is_not_stacked(digits_config, kind):
    configs = [digits_config({**own("Odd", kind=kind), "seed": seed}) for seed in (0, 1)]
    with pytest.raises(Unstackable):
        build.build_stacked_model(configs, [1, 8, 8], CPU)


# Which way


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({}, DenseModel),
        ({**MLP, "model.hidden": [8, 8], "model.dropout": 0.2}, DenseModel),
        (own("Tied"), MappedModel),
        (own("Smooth"), MappedModel),
        (own("OtherInEvaluation", in_features=64, out_features=10), MappedModel),
    ],
)
def test_linear_layers_are_written_out_and_anything_else_is_mapped(digits_config, changes, way):
    configs = [digits_config({**changes, "optimizer.lr": lr}) for lr in (0.1, 0.2)]
    assert type(build.build_stacked_model(configs, [1, 8, 8], CPU)) is way


def test_a_module_that_branches_on_its_numbers_cannot_be_stacked(digits_config):
    configs = [digits_config({**own("Branching", in_features=64, out_features=10), "seed": seed}) for seed in (0, 1)]
    with pytest.raises(Unstackable, match="vmap cannot map it"):
        build.build_stacked_model(configs, [1, 8, 8], CPU)


def test_another_evaluation_than_training_is_respected(digits_config):
    net = own("OtherInEvaluation", in_features=64, out_features=10)
    assert_like_the_plain_trainer([digits_config({**net, "optimizer.lr": lr}) for lr in (0.1, 0.2)])


@pytest.mark.parametrize("way", [DenseModel, MappedModel])
def test_dropout_has_its_own_mask_in_each_member_and_the_right_size(digits_config, way):
    """One hidden layer of a thousand units; equal members differ by their masks alone."""
    net = {**MLP, "model.hidden": [1000], "model.dropout": 0.25, "optimizer.lr": 1e-30}
    configs = [digits_config(net)] * 3
    model = way(configs, CPU)
    model.set_factors(torch.ones(40, 3, dtype=torch.float64))
    torch.manual_seed(0)
    images, labels = next(iter(data_of(configs[0]).stacked_batches(100, model.seeds, 1)))
    with_masks = torch.stack([model.step(images, labels) for _ in range(40)])  # nothing is learnt
    assert len(set(with_masks.flatten().tolist())) == 120
    plain = digits_config({**MLP, "model.hidden": [1000], "model.dropout": 0.25})
    torch.manual_seed(plain.seed)
    module = models.build_model(plain.model)
    alone = torch.stack([functional.cross_entropy(module(images[0]), labels[0]).detach() for _ in range(120)])
    assert float(with_masks.mean()) == pytest.approx(float(alone.mean()), abs=4 * float(alone.std()) / math.sqrt(60))
    assert float(with_masks.std()) == pytest.approx(float(alone.std()), rel=0.4)


# Shared trajectories


def test_trials_of_one_trajectory_read_it_at_their_own_ends(digits_config):
    warmup = {**MLP, "schedule": {"kind": "warmup", "epochs": 2.5, "start": 0.1}}
    configs = [digits_config({**warmup, "epochs": epochs}) for epochs in (1, 2, 4, 2)]
    outcomes, reports = run([configs, [digits_config({**warmup, "optimizer.lr": 0.3, "epochs": 3})]])
    for config, outcome, reported in zip(configs, outcomes, reports, strict=False):
        expected = train(config, data_of(config), lambda _: None)
        assert distance(outcome, expected) < 1e-5
        assert outcome.metrics["test/accuracy"] == pytest.approx(expected.metrics["test/accuracy"], abs=2 / 360)
        assert [m.epoch for m in reported] == list(range(1, config.epochs + 1))
        assert {m.steps for m in reported} == {13 * config.epochs}
    assert outcomes[1].metrics["val/accuracy"] == outcomes[3].metrics["val/accuracy"]


def test_a_trajectory_that_is_not_stacked_is_read_bit_for_bit(digits_config):
    """Whatever its optimizer, and where a trial's end falls between two measurements of a longer one."""
    base = {**MLP, "model.dropout": 0.2, "optimizer": {"_target_": "torch.optim.RMSprop", "lr": 0.01}}
    configs = [digits_config({**base, "epochs": epochs, "evaluate_every": 10}) for epochs in (1, 3)]
    outcomes, reports = run([configs], SingleModel(configs[-1], CPU))
    for config, outcome, reported in zip(configs, outcomes, reports, strict=True):
        expected_reports: list[Measurement] = []
        expected = train(config, data_of(config), expected_reports.append)
        assert reported == expected_reports
        assert distance(outcome, expected) == 0
        assert without_time(outcome.metrics) == without_time(expected.metrics)
    assert [m.step for m in reports[0]] == [10, 13]
    assert [m.step for m in reports[1]] == [10, 20, 30, 39]


def test_a_member_that_is_done_does_not_bend_the_schedules_of_those_that_go_on(digits_config):
    """It stays in the stack, for four of five is too wide to be worth a new one."""
    step = {"schedule": {"kind": "step", "every": 1, "gamma": 0.5}}
    epochs = (1, 4, 4, 4, 4)
    assert_like_the_plain_trainer(
        [digits_config({**step, "optimizer.lr": 0.1 * place, "epochs": n}) for place, n in enumerate(epochs, 1)]
    )


def test_the_shares_of_all_trials_make_up_the_time_of_the_stack(digits_config, monkeypatch):
    """By a clock of processor time: on a busy machine two looks at the other one are far apart."""
    monkeypatch.setattr(members, "time", SimpleNamespace(perf_counter=time.process_time))
    configs = [[digits_config({"optimizer.lr": lr, "epochs": epochs}) for epochs in (1, 2, 4)] for lr in (0.1, 0.2)]
    configs.append([digits_config({"optimizer.lr": 1e30, "epochs": 4})])
    outcomes, _ = run(configs)
    whole = max(outcome.metrics["train_seconds"] for outcome in outcomes)
    assert sum(outcome.metrics["train_seconds_share"] for outcome in outcomes) == pytest.approx(whole, rel=0.02)
    first, second, third = outcomes[:3]
    assert first.metrics["train_seconds_share"] < second.metrics["train_seconds_share"]
    assert second.metrics["train_seconds_share"] < third.metrics["train_seconds_share"] < whole


# Isolation


def test_the_first_loss_that_is_not_finite_is_named_where_no_epoch_ends_with_a_measurement(digits_config):
    config = digits_config({**MLP, "optimizer.lr": 1e30, "epochs": 3, "evaluate_every": 1000})
    expected = train(config, data_of(config), lambda _: None)
    assert expected.state is TrialState.FAILED
    (alone,), _ = run([[config]], SingleModel(config, CPU))
    stacked, _ = run([[config], [config.model_copy(update={"seed": 1})]])
    assert alone.reason == stacked[0].reason == expected.reason


@pytest.mark.parametrize("model", [MLP, own("Tied")], ids=["dense", "mapped"])
@pytest.mark.parametrize("optimizer", [{"optimizer.momentum": 0.5}, adam(0.01)], ids=["sgd", "adam"])
def test_a_member_that_diverges_costs_the_others_not_a_bit(digits_config, model, optimizer):
    def configs(odd: float) -> list[list[TrialConfig]]:
        rates = (0.01, 0.02, odd, 0.03, 0.04)
        return [[digits_config({**model, **optimizer, "optimizer.lr": lr, "epochs": 3})] for lr in rates]

    calm, _ = run(configs(0.05))
    outcomes, reports = run(configs(3e37))
    for place in (0, 1, 3, 4):
        assert distance(outcomes[place], calm[place]) == 0
        assert without_time(outcomes[place].metrics) == without_time(calm[place].metrics)
    failed = outcomes[2]
    (odd,) = configs(3e37)[2]
    expected = train(odd, data_of(odd), lambda _: None)
    assert failed.state is TrialState.FAILED
    assert failed.reason.split(" at ")[1] == expected.reason.split(" at ")[1]  # the step; nan and inf may differ
    assert reports[2] == []


def test_a_narrower_stack_changes_no_more_than_rounding(digits_config):
    rates = [0.01, 0.02, 1e30, 1e30, 1e30]
    configs = [digits_config({**MLP, "optimizer.lr": lr, "epochs": 3}) for lr in rates]
    outcomes, _ = run([[config] for config in configs])
    for config, outcome in zip(configs[:2], outcomes, strict=False):
        assert distance(outcome, train(config, data_of(config), lambda _: None)) < 1e-5
    assert all(outcome.state is TrialState.FAILED for outcome in outcomes[2:])


def test_what_is_interrupted_has_given_the_outcomes_that_it_had(digits_config):
    outcomes: list[Outcome] = []

    def stop(measurement: Measurement) -> None:
        if measurement.epoch == 2:
            raise KeyboardInterrupt

    short, long = (digits_config({"epochs": epochs, "optimizer.lr": epochs / 10}) for epochs in (1, 5))
    readers = [[TrialReader(short, lambda _: None, outcomes.append)], [TrialReader(long, stop, outcomes.append)]]
    with pytest.raises(KeyboardInterrupt):
        train_stack(readers, data_of(short), build.build_stacked_model([short, long], [1, 8, 8], CPU))
    assert [outcome.state for outcome in outcomes] == [TrialState.FINISHED]


@pytest.mark.parametrize("width", [1, 2])
def test_a_trial_ends_where_whoever_hears_of_it_says_stop(digits_config, width):
    """Alone, in a stack, and beside another trial of its trajectory, which goes on to its end."""
    outcomes: dict[int, Outcome] = {}
    heard: dict[int, list[int]] = {3: [], 4: []}

    def reader(epochs: int, lr: float, verdict: Verdict | None) -> TrialReader:
        def report(measurement: Measurement) -> Verdict | None:
            heard[epochs].append(measurement.epoch)
            return verdict if measurement.epoch == 2 else Verdict.CONTINUE

        config = digits_config({"epochs": epochs, "optimizer.lr": lr})
        return TrialReader(config, report, lambda outcome: outcomes.__setitem__(epochs, outcome))

    short, long = reader(3, 0.1, Verdict.STOP), reader(4, 0.1 * width, None)
    readers = [[short, long]] if width == 1 else [[short], [long]]
    configs = [short.config, long.config]
    model = SingleModel(long.config, CPU) if width == 1 else build.build_stacked_model(configs, [1, 8, 8], CPU)
    train_stack(readers, data_of(short.config), model)
    assert (outcomes[3].state, outcomes[4].state) == (TrialState.KILLED, TrialState.FINISHED)
    assert heard == {3: [1, 2], 4: [1, 2, 3, 4]}
    alone = train(short.config, data_of(short.config), short.report)
    assert alone == outcomes[3]
    assert alone.reason == "stopped after step 26 of 39"
    last = reader(4, 0.1, None).config.model_copy(update={"epochs": 2})
    assert train(last, data_of(last), lambda _: Verdict.STOP).state is TrialState.KILLED
    assert train(last, data_of(last), short.report).state is TrialState.FINISHED  # it is at its end


def test_stacked_batches_are_those_of_each_seed(digits_config):
    data = data_of(digits_config())
    for images, labels in data.stacked_batches(500, [3, 5], 2):
        for place, seed in enumerate((3, 5)):
            expected = {len(y): (x, y) for x, y in data.batches(500, seed, 2)}
            if len(labels[0]) != 500:  # the short one, which is known by its length
                assert torch.equal(images[place], expected[len(labels[0])][0])
                assert torch.equal(labels[place], expected[len(labels[0])][1])
    data = dataclasses.replace(data, device=CPU)
    assert len(list(data.stacked_batches(500, [3, 5], 2))) == data.steps_per_epoch(500)
