"""Whatever a config names by `_target_`: imported, checked and called; and the models and optimizers of our own."""

import textwrap

import pytest
import torch
from hydra.utils import instantiate as hydra_instantiate
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import transforms

from sweepstack.config.trial_sections import ModelConfig, OptimizerConfig
from sweepstack.errors import ConfigError
from sweepstack.planning.compatibility import obstacle
from sweepstack.training import models, optimizers
from sweepstack.training.checks import check_trial
from sweepstack.training.hardware import choose_device
from sweepstack.training.instantiate import check_keywords, import_target, instantiate
from sweepstack.training.tasks.built import BuiltTask


def refusal(call, *arguments) -> str:
    """The one line that a `ConfigError` says."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Targets


def test_a_dotted_path_leads_to_a_class_or_a_function():
    assert import_target("optimizer", "torch.optim.SGD") is torch.optim.SGD
    assert import_target("model", "sweepstack.training.models.MLP") is models.MLP


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("torch.optim.SDG", "did you mean 'SGD'?"),
        ("no_such_package.Model", "correct the path, or run from the folder that holds the module"),
    ],
)
def test_a_target_that_cannot_be_imported_is_named(target, remedy):
    line = refusal(import_target, "model", target)
    assert line.startswith("model._target_ should name something that can be imported (")
    assert f", got {target!r}; " in line
    assert remedy in line


def test_a_module_that_breaks_while_it_is_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "own_broken.py").write_text("raise OSError('the disk\\nis full')\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = refusal(import_target, "model", "own_broken.Model")
    assert "(OSError: the disk is full), got 'own_broken.Model'; correct the module" in line


def test_a_target_that_is_not_callable_is_named():
    line = refusal(import_target, "model", "torch.nn.functional")
    assert line == (
        "model._target_ should name a class or a function, 'torch.nn.functional' is a module; name the class inside it"
    )


def test_a_target_that_is_no_path_is_named():
    line = refusal(instantiate, {"_target_": 3}, "model.layer")
    assert line.startswith("model.layer._target_ should name something that can be imported (")


def test_mappings_with_a_target_are_called_the_innermost_first():
    plain = {"_target_": "torchvision.transforms.Compose", "transforms": [
        {"_target_": "torchvision.transforms.Resize", "size": [4, 4]},
        {"_target_": "torchvision.transforms.ToTensor"},
    ]}  # fmt: skip
    built = instantiate({"transform": plain, "size": (1, {"a": 2}), "name": "x"})
    assert isinstance(built["transform"], transforms.Compose)
    assert isinstance(built["transform"].transforms[0], transforms.Resize)
    assert built["transform"].transforms[0].size == [4, 4]
    assert built["size"] == [1, {"a": 2}]
    assert built["name"] == "x"
    assert plain["_target_"] == "torchvision.transforms.Compose"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(value=PLAIN)
def test_without_a_target_a_value_is_built_to_itself(value):
    assert instantiate(value) == value


@pytest.mark.parametrize(
    ("target", "positional", "keywords", "message"),
    [
        (
            "torch.optim.SGD",
            1,
            {"lr": 0.1, "momentun": 0.9},
            "part.momentun is not a keyword of torch.optim.SGD; did you mean 'momentum'?",
        ),
        (
            "sweepstack.training.models.MLP",
            0,
            {"classes": 10},
            "part: sweepstack.training.models.MLP cannot be called: missing a required argument: 'shape'; "
            "give it with +part.NAME=VALUE",
        ),
    ],
)
def test_keywords_are_checked_against_the_signature(target, positional, keywords, message):
    assert refusal(check_keywords, "part", target, positional, keywords) == message


@pytest.mark.parametrize(
    ("key", "target", "positional", "remedy"),
    [
        (
            "task.loss",
            "torch.nn.functional.mse_loss",
            0,
            "add _partial_: true if it takes (outputs, targets), else give it with +task.loss.NAME=VALUE",
        ),
        ("task.loss", "sweepstack.training.models.MLP", 0, "give it with +task.loss.NAME=VALUE"),
        ("step", "math.sqrt", 3, "let it take (model, batch, loss)"),
        ("task.metrics[1]", "math.sqrt", 2, "let it take (outputs, targets)"),
        ("schedule", "math.sqrt", 3, "let it take (step, steps_per_epoch, epochs)"),
        ("trainer", "math.sqrt", 2, "let it take (config, context)"),
    ],
)
def test_a_target_that_cannot_be_called_is_told_what_it_must_take(key, target, positional, remedy):
    assert refusal(check_keywords, key, target, positional, {}).endswith(f"; {remedy}")


def test_a_target_that_takes_any_keyword_is_given_any():
    check_keywords("part", "builtins.dict", 0, {"whatever": 3})
    check_keywords("part", "torchvision.datasets.MNIST", 0, {"root": ".", "train": True})


# Hydra's words beside a target


def test_positional_arguments_partials_and_nested_targets_are_those_of_hydra():
    """On the same configs, Hydra's own `instantiate` gives the same."""
    plain = {
        "_target_": "builtins.dict",
        "_args_": [[["a", 1]]],
        "size": {"_target_": "builtins.complex", "_args_": [1, 2]},
        "later": {"_target_": "builtins.pow", "_partial_": True, "_args_": [2], "exp": 3},
        "kept": {"_target_": "builtins.dict", "_recursive_": False, "_convert_": "all", "part": {"_target_": "a.b"}},
    }
    ours, theirs = instantiate(plain), hydra_instantiate(plain)
    assert ours == {**theirs, "later": ours["later"]}
    assert ours["size"] == 1 + 2j
    assert ours["later"]() == theirs["later"]() == 8
    assert ours["kept"] == theirs["kept"] == {"part": {"_target_": "a.b"}}


@pytest.mark.parametrize("convert", ["none", "partial", "object", "all"])
def test_containers_are_plain_unless_the_config_wants_those_of_omegaconf(convert):
    plain = {"_target_": "builtins.dict", "_convert_": convert, "a": [1, {"b": 2}], "c": {"d": {"e": [3]}}}
    plain["f"] = {"_target_": "builtins.dict", "g": [4]}
    ours, theirs = instantiate(plain), hydra_instantiate(plain)
    assert ours == theirs
    assert [type(part) for part in ours.values()] == [type(part) for part in theirs.values()]
    assert type(ours["f"]["g"]) is type(theirs["f"]["g"])
    assert all(type(part) in (dict, list) for name, part in instantiate({**plain, "_convert_": "all"}).items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"_args_": 3}, "part._args_ must be a list of positional arguments, got 3; for example part._args_=[1]"),
        ({"_partial_": "yes"}, "part._partial_ must be true or false, got 'yes'; for example part._partial_=true"),
        ({"_recursive_": 0}, "part._recursive_ must be true or false, got 0; for example part._recursive_=true"),
        (
            {"_convert_": "al"},
            "part._convert_ must be one of none, partial, object, all, got 'al'; leave it out for all",
        ),
    ],
)
def test_a_word_with_a_wrong_value_is_named(words, message):
    assert refusal(instantiate, {"_target_": "builtins.dict", **words}, "part") == message
    assert refusal(check_keywords, "part", "builtins.dict", 0, words) == message


def test_positional_arguments_count_where_keywords_are_checked():
    check_keywords("part", "sweepstack.training.models.MLP", 0, {"_args_": [[1, 8, 8], 10], "hidden": [3]})
    check_keywords("part", "sweepstack.training.models.MLP", 0, {"_partial_": True})
    assert refusal(check_keywords, "part", "sweepstack.training.models.MLP", 0, {"_args_": [1, 2, 3, 4, 5]}) == (
        "part: sweepstack.training.models.MLP cannot be called: too many positional arguments; "
        "give fewer values with part._args_"
    )


def test_sections_understand_the_words(digits_config):
    """A model with positional arguments, an optimizer as Hydra's users write it, a function as a partial loss."""
    config = digits_config(
        {
            "model": {"_target_": "torch.nn.Sequential", "_args_": [
                {"_target_": "torch.nn.Flatten"},
                {"_target_": "torch.nn.Linear", "_args_": [64, 10]},
            ]},
            "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.5},
            "dataset._convert_": "all",
            "task.loss": {"_target_": "torch.nn.functional.cross_entropy", "_partial_": True, "label_smoothing": 0.1},
        }
    )  # fmt: skip
    check_trial(config, "cpu")
    model = models.build_model(config.model)
    assert [type(layer) for layer in model.children()] == [nn.Flatten, nn.Linear]
    (group,) = optimizers.build_optimizer(config.optimizer, model).param_groups
    assert (group["lr"], group["momentum"]) == (0.1, 0.5)
    assert obstacle(config) is None
    smooth = BuiltTask(config, torch.device("cpu")).loss(torch.eye(10), torch.arange(10))
    torch.testing.assert_close(smooth, nn.CrossEntropyLoss(label_smoothing=0.1)(torch.eye(10), torch.arange(10)))


# Models


def test_logistic_is_one_linear_layer_on_the_flattened_image():
    model = models.Logistic([1, 8, 8], 10)
    images = torch.rand(5, 1, 8, 8)
    weight, bias = model.state_dict().values()
    assert weight.shape == (10, 64)
    torch.testing.assert_close(model(images), images.reshape(5, 64) @ weight.T + bias)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    classes=st.integers(2, 12),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    dropout=st.sampled_from([0.0, 0.5]),
)
def test_an_mlp_goes_from_images_to_logits(shape, classes, hidden, dropout):
    model = models.MLP(shape, classes, hidden, dropout)
    assert model(torch.rand(3, *shape)).shape == (3, classes)
    linear = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [*hidden, classes]
    assert sum(isinstance(layer, nn.ReLU) for layer in model.layers) == len(hidden)
    assert sum(isinstance(layer, nn.Dropout) for layer in model.layers) == (len(hidden) if dropout else 0)


def test_dropout_drops_in_training_alone():
    model = models.MLP([64], 10, [200], dropout=0.5)
    images = torch.rand(4, 64)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_fresh_weights_are_drawn_from_the_seed():
    config = ModelConfig(target="sweepstack.training.models.MLP", shape=[1, 8, 8], classes=10, hidden=[3])
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(models.build_model(config).state_dict()["layers.1.weight"])
    assert drawn[0].shape == (3, 64)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# Optimizers


def test_an_optimizer_gets_its_keywords():
    config = OptimizerConfig(target="torch.optim.Adam", lr=0.25, betas=[0.5, 0.75], amsgrad=True)
    optimizer = optimizers.build_optimizer(config, nn.Linear(2, 2))
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.Adam)
    assert (group["lr"], *group["betas"], group["amsgrad"]) == (0.25, 0.5, 0.75, True)


# All of a config, before anything trains


@pytest.mark.parametrize("model", ["Logistic", "MLP"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_what_fits_together_passes(digits_config, model, optimizer):
    check_trial(
        digits_config(
            {"model._target_": f"sweepstack.training.models.{model}", "optimizer._target_": f"torch.optim.{optimizer}"}
        ),
        "cpu",
    )


def test_checking_leaves_the_random_state_alone(digits_config):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    check_trial(digits_config(), "cpu")
    assert torch.equal(torch.rand(3), expected)


NET = "sweepstack.training.models.MLP"


@pytest.mark.parametrize(
    ("changes", "begins", "ends"),
    [
        # keywords
        (
            {"optimizer.momentun": 0.9},
            "optimizer.momentun is not a keyword of torch.optim.SGD",
            "did you mean 'momentum'?",
        ),
        (
            {"model._target_": NET, "model.hiden": [8]},
            f"model.hiden is not a keyword of {NET}",
            "did you mean 'hidden'?",
        ),
        (
            {"dataset.folder": "x"},
            "dataset.folder is not a keyword of sweepstack.training.data.digits",
            "known: train",
        ),
        (
            {"model": {"_target_": "torch.nn.Linear", "in_features": 64}},
            "model: torch.nn.Linear cannot be called: missing a required argument: 'out_features'",
            "give it with +model.NAME=VALUE",
        ),
        # targets
        (
            {"dataset._target_": "no_such_package.Images"},
            "dataset._target_ should name something that can be imported (",
            "correct the path, or run from the folder that holds the module (or put it on PYTHONPATH)",
        ),
        (
            {"optimizer._target_": "torch.optim"},
            "optimizer._target_ should name a class or a function, 'torch.optim' is a module",
            "name the class inside it",
        ),
        (
            {"model": {"_target_": "builtins.dict"}},
            "model: builtins.dict refuses its values: builtins.dict should give a torch.nn.Module, got dict",
            "change it",
        ),
        (
            {"optimizer._target_": "builtins.dict"},
            "optimizer: builtins.dict refuses its values: ",
            "change it",
        ),
        # values
        (
            {"optimizer.momentum": -1},
            "optimizer: torch.optim.SGD refuses its values: Invalid momentum value: -1",
            "change it",
        ),
        (
            {"optimizer._target_": "torch.optim.Adam", "optimizer.betas": [0.9]},
            "optimizer: torch.optim.Adam refuses its values: ",
            "change it",
        ),
        (
            {"model._target_": NET, "model.dropout": 2.0},
            f"model: {NET} refuses its values: dropout probability has to be between 0 and 1",
            "change it",
        ),
        (
            {"model._target_": NET, "model.hidden": [8, 0]},
            "model.hidden must be widths from 1, got [8, 0]",
            "for example model.hidden=[64]",
        ),
        # images through the model
        (
            {"model.shape": [1, 28, 28]},
            "model must take the dataset's images, sweepstack.training.models.Logistic does not take [1, 8, 8]: ",
            "let it use ${dataset.shape}, or choose another model or dataset",
        ),
        (
            {"model.classes": 9},
            "model must give one logit for each of the 10 classes, sweepstack.training.models.Logistic gives [9]",
            "let it use ${dataset.classes}",
        ),
        (
            {"model": {"_target_": "torch.nn.Flatten"}},
            "model must give one logit for each of the 10 classes, torch.nn.Flatten gives [64]",
            "let it use ${dataset.classes}",
        ),
        (
            {"model": {"_target_": "torch.nn.Flatten"}, "dataset.classes": 64},
            "model must have parameters to train, torch.nn.Flatten has none",
            "choose another",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_line(digits_config, changes, begins, ends):
    line = refusal(check_trial, digits_config(changes), "cpu")
    assert line.startswith(begins)
    assert line.endswith(f"; {ends}")


def test_a_model_that_gives_no_tensor_is_named(digits_config, tmp_path, monkeypatch):
    (tmp_path / "own_pair.py").write_text(
        textwrap.dedent("""
        from torch import nn

        class Pair(nn.Linear):
            def forward(self, images):
                logits = super().forward(images.flatten(1))
                return logits, images
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = digits_config({"model": {"_target_": "own_pair.Pair", "in_features": 64, "out_features": 10}})
    assert refusal(check_trial, config, "cpu").startswith(
        "model must give one tensor when it is evaluated, own_pair.Pair gives tuple; "
    )


# Devices


def test_a_device_that_this_machine_lacks_is_refused(digits_config):
    lacking = f"cuda:{torch.cuda.device_count()}"  # one more than there are; where there are none, any
    line = refusal(check_trial, digits_config(), lacking)
    assert line == f"device must be one that this machine has, got {lacking}; for example device=auto"


@pytest.mark.parametrize("index", [256, 300, 999])
def test_a_high_device_index_is_not_taken_for_a_low_one(index):
    assert f"got cuda:{index}; " in refusal(choose_device, f"cuda:{index}")


def test_auto_is_the_best_device_there_is():
    assert choose_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto") == torch.device(best)
    assert torch.zeros(3, device=choose_device("auto")).sum() == 0
