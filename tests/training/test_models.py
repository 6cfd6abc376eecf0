"""The models that come with sweepstack: what they compute, that they stack, and what they refuse."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from sweepstack.errors import ConfigError
from sweepstack.training import models
from sweepstack.training.stacked import build
from sweepstack.training.stacked.single_model import SingleModel
from sweepstack.training.stacked.vmap_model import MappedModel
from sweepstack.training.trainer import train

from .test_stacked_build import SameMasks
from .test_stacked_loop import CPU, data_of, distance, run

DIGITS = {"shape": [1, 8, 8], "classes": 10}
SMALL: dict[str, dict[str, Any]] = {
    "CNN": {"channels": [4, 6], "hidden": 8, "dropout": 0.2},
    "CNN without BatchNorm": {"channels": [4], "hidden": 8, "kernel": 5, "batch_norm": False},
    "ResNet18": {"width": 2},
    "ViT": {"width": 8, "depth": 2, "heads": 2, "dropout": 0.2},
    "LSTM": {"hidden": 8, "layers": 2, "dropout": 0.2},
}
"""Models that torch.func.vmap maps, small."""


def small(name: str) -> dict[str, Any]:
    target = f"sweepstack.training.models.{name.split()[0]}"
    return {"model": {"_target_": target, **DIGITS, **SMALL[name]}, "epochs": 1, "batch_size": 256}


@pytest.mark.parametrize("name", SMALL)
def test_a_stack_of_it_ends_where_its_members_end_alone(digits_config, name):
    """In float64, so that no unit is within rounding of its kink, and with the same masks."""
    configs = [
        digits_config({**small(name), "seed": seed, "optimizer.lr": lr}) for seed, lr in ((0, 0.1), (0, 0.3), (1, 0.1))
    ]
    torch.set_default_dtype(torch.float64)
    try:
        data = data_of(configs[0])
        data = dataclasses.replace(data, images=data.images.double(), test_images=data.test_images.double())
        stack = build.build_stacked_model(configs, data.images.shape[1:], CPU, data.some())
        assert isinstance(stack, MappedModel)
        stack.same_draws = True
        with SameMasks():
            outcomes, _ = run([[config] for config in configs], stack, data)
        for config, outcome in zip(configs, outcomes, strict=True):
            with SameMasks():
                expected = train(config, data, lambda _: None)
            assert distance(outcome, expected) < 1e-9
            assert outcome.metrics["test/accuracy"] == expected.metrics["test/accuracy"]
    finally:
        torch.set_default_dtype(torch.float32)


def test_tokens_stay_integers_in_a_stack(digits_config):
    model = {"_target_": "sweepstack.training.models.LSTM", "shape": [9], "classes": 10, "hidden": 8, "vocabulary": 11}
    configs = [digits_config({"model": model, "seed": seed, "optimizer.lr": 0.1}) for seed in (0, 1)]
    tokens, labels = torch.randint(11, (1, 32, 9)), torch.randint(10, (1, 32))
    stack, factors = MappedModel(configs, CPU), torch.ones(1, 2, dtype=torch.float64)
    stack.set_factors(factors)
    losses = stack.step(tokens.expand(2, -1, -1), labels.expand(2, -1))
    for member, config in enumerate(configs):
        alone = SingleModel(config, CPU)
        alone.set_factors(factors[:, :1])
        torch.testing.assert_close(alone.step(tokens, labels), losses[member : member + 1])
        torch.testing.assert_close(stack.weights(member), alone.weights(0))


def same_weights(model: nn.Module, other: nn.Module) -> None:
    """Gives a model all tensors of another one, in their order."""
    own, others = model.state_dict(), other.state_dict()
    assert [value.shape for value in own.values()] == [value.shape for value in others.values()]
    model.load_state_dict(dict(zip(own, others.values(), strict=True)))


def test_the_defaults_of_cnn_stay_under_100_000_parameters_for_mnist():
    model = models.CNN([1, 28, 28], 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 90_124
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert models.CNN([3, 17, 9], 5, channels=[4, 4, 4])(torch.rand(2, 3, 17, 9)).shape == (2, 5)


def test_resnet18_is_that_of_torchvision_behind_another_beginning():
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=7)
    theirs.conv1, theirs.maxpool = nn.Conv2d(2, 64, 3, padding=1, bias=False), nn.Identity()
    ours = models.ResNet18([2, 16, 16], 7)
    same_weights(ours, theirs)
    images = torch.rand(4, 2, 16, 16)
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_a_layer_of_lstm_is_that_of_pytorch():
    theirs = nn.LSTM(5, 6, batch_first=True)
    ours = models.recurrent.LSTMLayer(5, 6)
    named = dict(theirs.named_parameters())
    with torch.no_grad():
        ours.of_input.weight.copy_(named["weight_ih_l0"])
        ours.of_input.bias.copy_(named["bias_ih_l0"] + named["bias_hh_l0"])
        ours.of_state.weight.copy_(named["weight_hh_l0"])
    sequences = torch.rand(3, 4, 5)
    torch.testing.assert_close(ours(sequences), theirs(sequences)[0])


def test_a_block_of_vit_is_the_encoder_layer_of_pytorch():
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    ours = models.transformer.Block(8, 2, dropout=0.0)
    named = dict(theirs.named_parameters())
    names = {
        "norm.": "norm1.",
        "projections.": "self_attn.in_proj_",
        "joined.": "self_attn.out_proj.",
        "linear.0.": "norm2.",
        "linear.1.": "linear1.",
        "linear.4.": "linear2.",
    }
    ours.load_state_dict(
        {own + kind: named[other + kind] for own, other in names.items() for kind in ("weight", "bias")}
    )
    tokens = torch.rand(3, 5, 8)
    torch.testing.assert_close(ours(tokens), theirs(tokens))


def test_lstm_takes_sequences_rows_of_images_and_tokens():
    assert models.LSTM([7, 3], 2)(torch.rand(4, 7, 3)).shape == (4, 2)
    rows = models.LSTM([2, 7, 3], 5)
    images = torch.rand(4, 2, 7, 3)
    torch.testing.assert_close(rows(images), rows(torch.cat([images[:, 0], images[:, 1]], 2)))
    assert rows.state_dict()["layers.0.of_input.weight"].shape == (4 * 64, 6)
    tokens = models.LSTM(None, 5, vocabulary=11)
    assert [tokens(torch.randint(11, (4, length))).shape for length in (9, 3)] == [(4, 5), (4, 5)]


@pytest.mark.parametrize(
    ("model", "shape", "keywords", "line"),
    [
        (models.CNN, [10], {}, "dataset.shape must be [channels, height, width] for a CNN, got [10]; choose another "
         "model, such as model=mlp"),
        (models.CNN, [1, 8, 8], {"kernel": 2}, "model.kernel must be odd, got 2; for example model.kernel=3"),
        (models.CNN, [1, 3, 8], {}, "model.channels must not halve images of 3 x 8 pixels more often than they can be, "
         "got [16, 32]; give fewer"),
        (models.ResNet18, [64], {}, "dataset.shape must be [channels, height, width] for a ResNet, got [64]; choose "
         "another model, such as model=mlp"),
        (models.ViT, [1, 8, 9], {}, "model.patch must divide height and width of the images, 8 and 9, got 4; for "
         "example model.patch=4 for images of 28 x 28 pixels"),
        (models.ViT, [1, 8, 8], {"heads": 3}, "model.heads must divide model.width, 64, got 3; for example "
         "model.heads=4"),
        (models.LSTM, [10], {}, "dataset.shape must be [length, features] for an LSTM without model.vocabulary, got "
         "[10]; choose another model, such as model=mlp"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_be_is_refused_in_one_line(model, shape, keywords, line):
    with pytest.raises(ConfigError) as caught:
        model(shape, 10, **keywords)
    assert str(caught.value) == line
