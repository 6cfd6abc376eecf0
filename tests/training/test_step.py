"""A training step of the user's own: in the plain trainer as in a loop written out, in a stack as alone."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from sweepstack.blame import reason
from sweepstack.config.fingerprint import fingerprint
from sweepstack.errors import ConfigError
from sweepstack.training.checks import check_trial
from sweepstack.training.models import build_model
from sweepstack.training.random_state import seed_all
from sweepstack.training.stacked import build
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.stacked.model import Unstackable
from sweepstack.training.stacked.vmap_model import MappedModel
from sweepstack.training.trainer import train
from sweepstack.trial import Outcome, TrialState

from .test_stacked_loop import CPU, data_of


def mixup(model, batch, loss, weight=0.7):
    """Mixes each image with the next one (Zhang et al., 2018), with a fixed weight."""
    images, labels = batch
    outputs = model(weight * images + (1 - weight) * images.roll(1, 0))
    return weight * loss(outputs, labels) + (1 - weight) * loss(outputs, labels.roll(1, 0))


def noisy(model, batch, loss):
    """Adds noise, which PyTorch draws."""
    images, labels = batch
    return loss(model(images + 0.1 * torch.randn_like(images)), labels)


def sharpness_aware(model, batch, loss, rho=0.05):
    """The loss at the worst point nearby (SAM, Foret et al., 2021)."""
    images, labels = batch
    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss(model(images), labels), list(weights.values()))
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt() + 1e-12
    worst = {
        name: weight + rho * gradient / norm
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    return loss(functional_call(model, worst, (images,)), labels)


def with_auxiliary(model, batch, loss):
    """Learns from a second output, too."""
    images, labels = batch
    outputs, auxiliary = model(images)
    return loss(outputs, labels) + 0.3 * loss(auxiliary, labels)


def data_dependent(model, batch, loss):
    """Learns from wrong answers only: how many depends on the values, which vmap cannot follow."""
    images, labels = batch
    outputs = model(images)
    wrong = outputs.argmax(1) != labels
    return loss(outputs[wrong], labels[wrong]) if wrong.any() else loss(outputs, labels)


def without_gradient(model, batch, loss):
    return loss(model(batch[0]), batch[1]).detach()


def broken(model, batch, loss):
    return loss(model(batch[0])[:3], batch[1])


class TwoHeads(nn.Module):
    """Gives two outputs while it is trained, and one when it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(64, 16), nn.Linear(16, 10), nn.Linear(16, 10)

    def forward(self, images):
        inner = self.body(images.flatten(1)).relu()
        return (self.head(inner), self.auxiliary(inner)) if self.training else self.head(inner)


STEPS: dict[str, dict[str, Any]] = {
    "mixup": {"step": {"_target_": f"{__name__}.mixup", "weight": 0.8}},
    "noise": {"step": {"_target_": f"{__name__}.noisy"}},
    "auxiliary": {
        "step": {"_target_": f"{__name__}.with_auxiliary"},
        "model": {"_target_": f"{__name__}.TwoHeads"},
    },
}
ALONE = {
    "sharpness": {"step": {"_target_": f"{__name__}.sharpness_aware"}},
    "data": {"step": {"_target_": f"{__name__}.data_dependent"}},
}


def train_quietly(config) -> Outcome:
    return train(config, data_of(config), lambda _: None)


@pytest.mark.parametrize("name", ["mixup", "sharpness", "auxiliary", "data"])
def test_a_step_trains_as_in_a_loop_written_out(digits_config, name):
    config = digits_config({**STEPS, **ALONE}[name] | {"epochs": 2, "optimizer.lr": 0.2})
    steps: dict[str, Any] = {"mixup": functools.partial(mixup, weight=0.8), "sharpness": sharpness_aware}
    step = {**steps, "auxiliary": with_auxiliary, "data": data_dependent}[name]
    data = data_of(config)
    seed_all(config.seed)
    model = build_model(config.model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for epoch in (1, 2):
        for batch in data.batches(config.batch_size, config.seed, epoch):
            loss = step(model, batch, nn.functional.cross_entropy)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    outcome = train_quietly(config)
    assert outcome.state is TrialState.FINISHED
    for key, weights in model.state_dict().items():
        torch.testing.assert_close(outcome.weights[key], weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "auxiliary"])
def test_a_step_that_maps_is_stacked_and_ends_where_it_ends_alone(digits_config, name):
    changes = STEPS[name] | {"epochs": 2, "evaluate_every": 7}
    configs = [digits_config({**changes, "optimizer.lr": lr, "seed": seed}) for lr in (0.1, 0.3) for seed in (1, 2)]
    data = data_of(configs[0])
    stack = build.build_stacked_model(configs, [1, 8, 8], CPU, data.some())
    assert type(stack) is MappedModel
    outcomes: dict[int, Outcome] = {}
    readers = [
        [TrialReader(config, lambda _: None, functools.partial(outcomes.__setitem__, number))]
        for number, config in enumerate(configs)
    ]
    train_stack(readers, data, stack)
    for number, config in enumerate(configs):
        alone = train_quietly(config)
        for key, value in alone.metrics.items():
            if "seconds" not in key:
                assert math.isclose(outcomes[number].metrics[key], value, rel_tol=1e-4, abs_tol=1e-6), key
        for key, weights in alone.weights.items():
            torch.testing.assert_close(outcomes[number].weights[key], weights, rtol=1e-4, atol=1e-5)


def test_members_of_a_stack_draw_their_own_noise(digits_config):
    configs = [digits_config({**STEPS["noise"], "optimizer.lr": 0.1})] * 2
    stack = build.build_stacked_model(configs, [1, 8, 8], CPU, data_of(configs[0]).some())
    stack.set_factors(torch.ones(1, 2, dtype=torch.float64))
    images, labels = data_of(configs[0]).some()
    losses = stack.step(images[None], labels[None])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", ["data"])
def test_a_step_that_does_not_map_has_no_stack_and_the_reason_is_said(digits_config, name):
    configs = [digits_config({**ALONE[name], "optimizer.lr": lr}) for lr in (0.1, 0.3)]
    with pytest.raises(Unstackable, match=r"torch\.func\.vmap cannot map it: "):
        build.build_stacked_model(configs, [1, 8, 8], CPU, data_of(configs[0]).some())


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"step": {"_target_": f"{__name__}.mixup", "wieght": 1}}, f"step.wieght is not a keyword of {__name__}.mixup"),
        ({"step": {"_target_": f"{__name__}.without_gradient"}}, "step must give one number that has a gradient"),
        ({"step": {"_target_": f"{__name__}.broken"}}, f"step: {__name__}.broken fails on "),
    ],
)
def test_a_step_that_does_not_fit_is_refused_in_one_line_before_anything_trains(digits_config, changes, begins):
    with pytest.raises(ConfigError) as refused:
        check_trial(digits_config(changes), "cpu")
    assert str(refused.value).startswith(begins)
    assert "\n" not in str(refused.value)


def test_a_model_that_gives_a_pair_while_it_is_trained_fails_at_its_first_step_without_a_step_for_it(digits_config):
    config = digits_config({"model": {"_target_": f"{__name__}.TwoHeads"}})
    check_trial(config, "cpu")
    with pytest.raises(
        TypeError, match=r"model must give one tensor when it is trained, .*TwoHeads gives tuple; write a"
    ):
        train_quietly(config)
    with pytest.raises(TypeError) as failed:
        train_quietly(config)
    assert "not your mistake" not in reason(failed.value)


def test_a_step_counts_in_the_fingerprint(digits_config):
    plain, mixed = digits_config(), digits_config(STEPS["mixup"])
    assert len({fingerprint(one, "0" * 16, "0" * 8) for one in (plain, mixed, digits_config({"step": None}))}) == 2


def leaves_evaluation(model, batch, loss):
    """Looks at the model in evaluation mode, and leaves it there."""
    images, labels = batch
    found = loss(model(images), labels)
    model.eval()
    return found


class Teacher(nn.Linear):
    """Learns while it teaches, which no checkpoint holds."""

    def forward(self, images):
        with torch.no_grad():
            self.weight *= 0.9
        return super().forward(images.flatten(1))


def distil(model, batch, loss, teacher):
    images, labels = batch
    outputs = model(images)
    return loss(outputs, labels) + nn.functional.mse_loss(outputs, teacher(images))


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def test_a_step_that_leaves_the_model_in_evaluation_mode_trains_in_training_mode_all_the_same(digits_config):
    changes = {"model": {"_target_": f"{__name__}.Normed"}, "epochs": 1, "optimizer.lr": 0.1}
    odd = train_quietly(digits_config({**changes, "step": {"_target_": f"{__name__}.leaves_evaluation"}}))
    plain = train_quietly(digits_config(changes))
    for key, weights in plain.weights.items():
        torch.testing.assert_close(odd.weights[key], weights)


def test_a_teacher_that_learns_is_refused(digits_config):
    teacher = {"_target_": f"{__name__}.Teacher", "in_features": 64, "out_features": 10}
    step = {"step": {"_target_": f"{__name__}.distil", "teacher": teacher}}
    with pytest.raises(ConfigError, match=r"must keep no state between batches, Teacher changes its weight"):
        check_trial(digits_config(step), "cpu")
    fixed = {**teacher, "_target_": "torch.nn.Linear"}
    flat = {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Flatten"}, fixed]}
    assert train_quietly(digits_config({"step": {**step["step"], "teacher": flat}})).state is TrialState.FINISHED
