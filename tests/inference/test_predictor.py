"""What trials predict for the test images, by the plain trainer and in stacks, and trained models in use."""

import functools
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import UserError
from sweepstack.inference.inputs import InputError
from sweepstack.inference.predictor import CPU, Predictor
from sweepstack.inference.trial_data import build_predictor, example, load_targets
from sweepstack.inference.weights import distance, has_kinks
from sweepstack.training.data import digits
from sweepstack.training.stacked import build
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.stacked.single_model import SingleModel
from sweepstack.training.trainer import train
from sweepstack.trial import Outcome, TrialState

from ..loading import Data, load_data

MLP = {"model._target_": "sweepstack.training.models.MLP", "model.hidden": [32]}


def loaded(config: TrialConfig) -> Data:
    return load_data(config.dataset, config.validation_split, CPU)


def weights_of(outcome: Outcome) -> bytes:
    buffer = io.BytesIO()
    torch.save(outcome.weights, buffer)
    return buffer.getvalue()


def accuracy(outcome: Outcome, config: TrialConfig) -> float:
    return float((outcome.predictions == loaded(config).test_labels.numpy()).mean())


@pytest.mark.parametrize("validation_split", [0.1, 0.0])
@pytest.mark.parametrize("way", ["plain", "stack", "shared trajectory", "mapped"])
def test_a_finished_trial_keeps_what_it_predicts(digits_config, way, validation_split):
    precision = {"precision": "bfloat16"} if way == "mapped" else {}
    configs = [
        digits_config({**precision, "optimizer.lr": lr, "epochs": epochs, "validation_split": validation_split})
        for lr, epochs in [(0.1, 1), (0.1, 2), (0.5, 2)]
    ]
    outcomes: dict[int, Outcome] = {}
    readers = [
        TrialReader(config, lambda _: None, functools.partial(outcomes.__setitem__, place), str(place))
        for place, config in enumerate(configs)
    ]
    here = loaded(configs[0])
    match way:
        case "plain":
            outcomes = {place: train(config, here, lambda _: None) for place, config in enumerate(configs)}
        case "shared trajectory":
            train_stack([readers[:2]], here, SingleModel(configs[1], CPU))
        case _:
            train_stack(
                [[reader] for reader in readers], here, build.build_stacked_model(configs, here.images.shape[1:], CPU)
            )
    assert len(outcomes) == (2 if way == "shared trajectory" else 3)
    for place, outcome in outcomes.items():
        assert outcome.predictions.dtype == np.uint8
        assert accuracy(outcome, configs[place]) == pytest.approx(outcome.metrics["test/accuracy"], abs=1e-6)
        if not configs[place].validation_split:
            assert outcome.held_out_predictions is None
            continue
        assert outcome.held_out_predictions.dtype == np.uint8
        right = outcome.held_out_predictions == loaded(configs[place]).held_out_targets.numpy()
        assert float(right.mean()) == pytest.approx(outcome.metrics["val/accuracy"], abs=1e-6)


def test_a_trial_that_diverges_keeps_none(digits_config):
    config = digits_config({**MLP, "optimizer.lr": 1e30})
    assert train(config, loaded(config), lambda _: None).predictions is None


def test_with_many_classes_they_are_int32(digits_config):
    config = digits_config({"dataset.classes": 300, "model.classes": 300})
    outcome = train(config, loaded(config), lambda _: None)
    assert outcome.predictions.dtype == np.int32
    assert accuracy(outcome, config) == pytest.approx(outcome.metrics["test/accuracy"], abs=1e-6)


@pytest.fixture(scope="module")
def trained(digits_config) -> tuple[TrialConfig, Outcome]:
    config = digits_config({**MLP, "epochs": 20, "optimizer.lr": 0.3, "dataset.mean": 0.3, "dataset.std": 0.4})
    return config, train(config, loaded(config), lambda _: None)


def test_a_model_in_use_predicts_what_it_did_in_training(trained, tmp_path):
    config, outcome = trained
    first = build_predictor(config, weights_of(outcome))
    first.save(tmp_path, weights_of(outcome))
    again = Predictor.load(tmp_path)
    images = loaded(config).test_images.numpy()
    probabilities = again.predict(images)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (probabilities.argmax(1) == outcome.predictions).all()
    assert (probabilities == first.predict(images)).all()
    assert (again.box, again.high, again.dtype) == (8, 1.0, np.float32)
    assert example(config).shape == (2, 1, 8, 8)


def test_loading_a_model_leaves_the_random_state_alone(trained):
    config, outcome = trained
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    build_predictor(config, weights_of(outcome))
    assert torch.rand(1) == expected


def test_pictures_of_digits_are_classified(trained, tmp_path):
    config, outcome = trained
    model = build_predictor(config, weights_of(outcome))
    images, labels = loaded(config).test_images[:50, 0].numpy(), loaded(config).test_labels[:50].numpy()
    paths = [tmp_path / f"{place}.png" for place in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray((255 - image * 255).astype(np.uint8)).resize((160, 160), Image.Resampling.BICUBIC).save(path)
    right = (np.concatenate([model.predict_file(path) for path in paths]).argmax(1) == labels).mean()
    assert right >= (outcome.predictions[:50] == labels).mean() - 0.15


def coloured(train: bool) -> TensorDataset:
    images, labels = digits(train).tensors
    return TensorDataset(images.reshape(-1, 4, 4, 4), labels)


class OfTokens(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embed(tokens).mean(1)


def test_a_token_that_the_model_does_not_know_is_one_line(digits_config, tmp_path):
    config = digits_config(
        {"dataset.tokens": True, "dataset.shape": [3], "model": {"_target_": f"{__name__}.OfTokens"}}
    )
    model = Predictor(
        config, weights_of(Outcome(TrialState.FINISHED, weights=OfTokens().state_dict())), 4, "int64", 1, (0, 0)
    )
    (tmp_path / "rows.csv").write_text("0,1,4\n")
    assert model.predict_file(tmp_path / "rows.csv").shape == (1, 10)
    (tmp_path / "rows.csv").write_text("0,1,5\n")
    with pytest.raises(InputError, match=r"^must hold tokens that the model knows .*, got 'tokens from 0 to 5'; give"):
        model.predict_file(tmp_path / "rows.csv")


def test_a_model_of_coloured_images_takes_no_pictures_of_digits(digits_config, tmp_path):
    own = {"dataset._target_": f"{__name__}.coloured", "dataset.shape": [4, 4, 4], "model.shape": [4, 4, 4]}
    config = digits_config(own)
    model = build_predictor(config, weights_of(train(config, loaded(config), lambda _: None)))
    Image.new("L", (9, 9)).save(tmp_path / "x.png")
    with pytest.raises(
        UserError, match=r"a model must take grey images to read pictures, got \[4, 4, 4\]; give rows of numbers"
    ):
        model.predict_file(tmp_path / "x.png")


@pytest.mark.parametrize("content", [b"no weights", b"", None], ids=["text", "nothing", "of another model"])
def test_weights_that_do_not_fit_are_one_line(digits_config, trained, content):
    weights = content if content is not None else weights_of(trained[1])
    with pytest.raises(
        UserError, match=r"the weights must be those of sweepstack\.training\.models\.Logistic"
    ) as error:
        Predictor(digits_config(), weights, 1.0, "float32", 8, (3.5, 3.5))
    assert len(str(error.value).splitlines()) == 1


class Undecided(torch.nn.Linear):
    """Drops units when it is used, too."""

    def __init__(self) -> None:
        super().__init__(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.dropout(images.flatten(1), 0.5, training=True))


class Alternating(Undecided):
    """Changes with every call."""

    calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (self.calls % 2) * images.flatten(1)[:, :10]


@pytest.mark.parametrize("kind", ["Undecided", "Alternating"])
def test_an_answer_that_is_not_the_same_twice_is_not_given(digits_config, tmp_path, kind):
    weights = io.BytesIO()
    torch.save(Undecided().state_dict(), weights)
    config = digits_config({"model": {"_target_": f"{__name__}.{kind}"}})
    model = Predictor(config, weights.getvalue(), 1.0, "float32", 8, (3.5, 3.5))
    pixels = np.zeros((30, 30), np.uint8)
    pixels[8:22, 12:18] = 255
    Image.fromarray(255 - pixels).save(tmp_path / "one.png")
    with pytest.raises(
        UserError, match=r"a model must give the same answer twice, .* does not: a probability differs by "
    ):
        model.predict_file(tmp_path / "one.png")


def test_nobody_is_told_to_switch_a_protection_off(digits_config):
    """Which is what PyTorch says of a file with something else than tensors in it."""
    import pickle

    tampered = io.BytesIO()
    torch.save({"linear.weight": io.BytesIO, "linear.bias": 1}, tampered)
    for weights in (tampered.getvalue(), pickle.dumps([1]), pickle.dumps({"a": io.BytesIO})):
        with pytest.raises(UserError) as refused:
            Predictor(digits_config(), weights, 1.0, "float32", 8, (3.5, 3.5))
        assert "weights_only" not in str(refused.value)
        assert str(refused.value).endswith("; train the trial again with rerun=true")
        with pytest.raises(UserError) as refused:
            distance(io.BytesIO(weights), io.BytesIO(weights))
        assert "weights_only" not in str(refused.value)


def test_a_pickle_is_not_run(digits_config):
    import pickle

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("it was run",))

    with pytest.raises(UserError, match="the weights must be"):
        Predictor(digits_config(), pickle.dumps(Trap()), 1.0, "float32", 8, (3.5, 3.5))


def test_distances_of_weights():
    def saved(**tensors: torch.Tensor) -> io.BytesIO:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        buffer.seek(0)
        return buffer

    ones = torch.ones(2)
    far = (float("inf"), float("inf"))
    assert distance(saved(a=ones), saved(a=ones)) == (0, 0)
    assert distance(saved(a=ones), saved(a=ones + 0.5)) == (0.5, 0.5)
    assert distance(saved(a=ones * 8, n=torch.tensor(900)), saved(a=ones * 4, n=torch.tensor(900))) == (4, 0.5)
    assert distance(saved(a=ones * 0), saved(a=ones)) == (1, float("inf"))
    assert distance(saved(a=ones), saved(b=ones)) == far
    assert distance(saved(a=ones), saved(a=torch.ones(3))) == far
    assert distance(saved(a=ones), saved(a=ones * float("nan"))) == far


def test_kinks_are_seen_wherever_the_model_has_them(digits_config):
    assert has_kinks(digits_config(MLP))
    assert not has_kinks(digits_config())


def test_labels_come_with_the_checksum_of_their_data(digits_config):
    config = digits_config()
    for part, expected in (("test", "test_targets"), ("val", "held_out_targets")):
        digest, labels = load_targets(config, part)
        assert digest == loaded(config).facts.digest
        assert (labels == getattr(loaded(config), expected).numpy()).all()
