"""Tasks against scikit-learn, their stacks against the plain trainer, and what is refused."""

import copy
import functools
import math
import warnings
import weakref
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn import linear_model, metrics
from torch import nn
from torch.utils.data import TensorDataset

from sweepstack.config.parsing import parse
from sweepstack.errors import ConfigError, DataError
from sweepstack.training.checks import check_trial
from sweepstack.training.data import diabetes, digits
from sweepstack.training.models import build_model
from sweepstack.training.stacked import build, equivalence
from sweepstack.training.stacked.dense_model import DenseModel
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.stacked.model import StackedModel
from sweepstack.training.stacked.single_model import SingleModel
from sweepstack.training.stacked.vmap_model import MappedModel
from sweepstack.training.tasks import Classification, Regression, Task
from sweepstack.training.trainer import train
from sweepstack.trial import Outcome, TrialState

from ..loading import Data, load_data

CPU = torch.device("cpu")
NOISE = 0.5
TASKS = "sweepstack.training.tasks"


def noisy(train: bool) -> TensorDataset:
    """A linear function of 8 numbers, with normal noise of standard deviation NOISE."""
    generator = torch.Generator().manual_seed(int(train))
    rows = torch.randn(20_000 if train else 5_000, 8, generator=generator)
    noise = torch.randn(len(rows), generator=generator) * NOISE
    return TensorDataset(rows, rows @ torch.linspace(-2, 2, 8) + 3 + noise)


def uneven(train: bool) -> TensorDataset:
    """The digits; of a digit d one in d + 1 is left."""
    images, labels = digits(train).tensors
    kept = torch.cat([(labels == digit).nonzero().flatten()[:: digit + 1] for digit in range(10)]).sort().values
    return TensorDataset(images[kept], labels[kept])


def properties(train: bool) -> TensorDataset:
    """The digits, each with three labels: even, above four, prime."""
    images, labels = digits(train).tensors
    prime = torch.isin(labels, torch.tensor([2, 3, 5, 7]))
    return TensorDataset(images, torch.stack([labels % 2 == 0, labels > 4, prime], 1))


class Counts(Task):
    """Counts, whose logarithm the model gives."""

    def loss(self, outputs, targets):
        return nn.functional.poisson_nll_loss(outputs[:, 0], targets)

    def predictions(self, outputs):
        return outputs.exp()

    def check_targets(self, targets, dataset, part):
        return targets.float()


class Watched(Classification):
    """Classes. It counts, at each update, the predictions that are still in memory."""

    made: ClassVar[list[weakref.ref[torch.Tensor]]] = []
    alive: ClassVar[list[int]] = []

    def loss(self, outputs, targets):
        if torch.is_grad_enabled():
            self.alive.append(sum(one() is not None for one in self.made))
        return super().loss(outputs, targets)

    def stored(self, predictions, outputs):
        kept = super().stored(predictions, outputs)
        self.made.append(weakref.ref(kept))
        return kept


class Maps(Regression):
    """Predictions with three axes, as those of every pixel have."""

    def stored(self, predictions, outputs):
        return predictions[..., None]


def bias(outputs, targets):
    """The mean of predicted minus true."""
    return (outputs - targets).mean()


def undefined(outputs, targets):
    return math.nan


def several(outputs, targets):
    return outputs


LINEAR = {"_target_": "sweepstack.training.models.Linear", "shape": [10], "outputs": 1}
NET = {"_target_": "sweepstack.training.models.MLP", "shape": [10], "classes": 1, "hidden": [32]}
DIABETES = {
    "dataset": {"_target_": "sweepstack.training.data.diabetes", "shape": [10], "outputs": 1},
    "task": {"_target_": f"{TASKS}.Regression"},
    "model": LINEAR,
    "optimizer.lr": 0.03,
}
UNEVEN = {"dataset": {"_target_": f"{__name__}.uneven", "shape": [1, 8, 8], "classes": 10}}
LABELS = {
    "dataset": {"_target_": f"{__name__}.properties", "shape": [1, 8, 8], "classes": 3},
    "task": {"_target_": f"{TASKS}.Multilabel", "metrics": ["auroc", "exact_match", "accuracy"]},
    "model": {"_target_": "sweepstack.training.models.MLP", "shape": [1, 8, 8], "classes": 3, "hidden": [16]},
    "optimizer.lr": 0.3,
}


@pytest.fixture
def task_config(digits_plain):
    """Composes a config as a user would, with keys that the digits do not have left out."""

    def compose(changes: dict[str, Any], **more: Any):
        return parse(digits_plain(copy.deepcopy({**changes, **more}))).trial

    return compose


def data_of(config) -> Data:
    return load_data(config.dataset, config.validation_split, CPU, config.task)


def train_quietly(config) -> Outcome:
    return train(config, data_of(config), lambda _: None)


def outputs_of(config, outcome: Outcome) -> tuple[torch.Tensor, torch.Tensor]:
    """What a trained model gives for the test data, and their targets."""
    model = build_model(config.model)
    model.load_state_dict(outcome.weights)
    data = data_of(config)
    with torch.no_grad():
        return model.eval()(torch.cat([images for images, _ in data.test()])), data.test_labels


def test_a_linear_regression_predicts_as_well_as_ridge_regression_of_scikit_learn(task_config):
    config = task_config(DIABETES, epochs=100, batch_size=50, validation_split=0.0, schedule={"kind": "cosine"})
    outcome, data = train_quietly(config), data_of(config)
    ridge = linear_model.RidgeCV(np.logspace(-3, 3, 13)).fit(data.images.numpy(), data.labels.numpy()[:, 0])
    theirs = metrics.root_mean_squared_error(data.test_labels.numpy()[:, 0], ridge.predict(data.test_images.numpy()))
    assert outcome.metrics["test/rmse"] <= 1.02 * theirs
    assert outcome.metrics["test/rmse"] ** 2 == pytest.approx(outcome.metrics["test/loss"], rel=1e-5)
    assert outcome.predictions.dtype == np.float32
    assert outcome.predictions.shape == (88, 1)


def test_a_regression_comes_down_to_the_noise_of_its_data(task_config):
    made = {"dataset": {"_target_": f"{__name__}.noisy", "shape": [8], "outputs": 1}}
    config = task_config({**DIABETES, **made, "model.shape": [8]}, epochs=3)
    assert NOISE * 0.97 <= train_quietly(config).metrics["test/rmse"] <= NOISE * 1.02


def test_metrics_of_a_regression_are_those_of_scikit_learn(task_config):
    names = ["mse", "mae", "r2", "explained_variance", "pearson", "spearman"]
    config = task_config(DIABETES, epochs=5, **{"task.metrics": names})
    outcome = train_quietly(config)
    outputs, targets = (part.numpy()[:, 0].astype(float) for part in outputs_of(config, outcome))
    expected = {
        "mse": metrics.mean_squared_error(targets, outputs),
        "mae": metrics.mean_absolute_error(targets, outputs),
        "r2": metrics.r2_score(targets, outputs),
        "explained_variance": metrics.explained_variance_score(targets, outputs),
        "pearson": np.corrcoef(targets, outputs)[0, 1],
    }
    for name, value in expected.items():
        assert outcome.metrics[f"test/{name}"] == pytest.approx(value, rel=1e-5), name
    assert {f"val/{name}" for name in [*names, "rmse", "loss", "rmse_best"]} <= outcome.metrics.keys()


def test_metrics_of_uneven_classes_are_those_of_scikit_learn_on_the_same_predictions(task_config):
    names = ["f1_macro", "f1_weighted", "precision_macro", "recall_macro", "balanced_accuracy", "auroc"]
    names += ["cohen_kappa", "matthews_corrcoef"]
    config = task_config({**UNEVEN, "task.metrics": names}, epochs=3)
    outcome = train_quietly(config)
    outputs, targets = outputs_of(config, outcome)
    predicted, probabilities = outputs.argmax(1).numpy(), outputs.double().softmax(1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that nothing is taken for
        expected = {
            "accuracy": metrics.accuracy_score(targets, predicted),
            "f1_macro": metrics.f1_score(targets, predicted, average="macro"),
            "f1_weighted": metrics.f1_score(targets, predicted, average="weighted"),
            "precision_macro": metrics.precision_score(targets, predicted, average="macro"),
            "recall_macro": metrics.recall_score(targets, predicted, average="macro"),
            "balanced_accuracy": metrics.balanced_accuracy_score(targets, predicted),
            "auroc": metrics.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro"),
            "cohen_kappa": metrics.cohen_kappa_score(targets, predicted),
            "matthews_corrcoef": metrics.matthews_corrcoef(targets, predicted),
        }
    for name, value in expected.items():
        assert outcome.metrics[f"test/{name}"] == pytest.approx(value, abs=1e-6), name


def test_metrics_of_several_labels_are_those_of_scikit_learn(task_config):
    config = task_config({**LABELS, "task.metrics": ["f1_micro", "auroc", "exact_match", "average_precision"]})
    outcome = train_quietly(config)
    outputs, targets = outputs_of(config, outcome)
    predicted, probabilities = (outputs > 0).numpy(), outputs.double().sigmoid().numpy()
    expected = {
        "f1_macro": metrics.f1_score(targets, predicted, average="macro", zero_division=0),
        "f1_micro": metrics.f1_score(targets, predicted, average="micro"),
        "auroc": metrics.roc_auc_score(targets, probabilities, average="macro"),
        "average_precision": metrics.average_precision_score(targets, probabilities, average="macro"),
        "exact_match": metrics.accuracy_score(targets, predicted),
    }
    for name, value in expected.items():
        assert outcome.metrics[f"test/{name}"] == pytest.approx(value, abs=1e-6), name
    assert outcome.predictions.tolist() == predicted.astype(int).tolist()


STACKED: dict[str, tuple[dict[str, Any], type[StackedModel]]] = {
    "linear regression": (DIABETES, DenseModel),
    "regression by a net": ({**DIABETES, "model": NET, "optimizer.lr": 3e-3}, DenseModel),
    "absolute errors": ({**DIABETES, "task.loss": {"_target_": "torch.nn.L1Loss"}, "optimizer.lr": 1.0}, MappedModel),
    "several labels": (LABELS, MappedModel),
    "counts": ({**DIABETES, "task": {"_target_": f"{__name__}.Counts"}, "optimizer.lr": 1e-4}, MappedModel),
    "uneven classes": ({**UNEVEN, "task.metrics": ["f1_macro", "auroc"]}, DenseModel),
}


@pytest.mark.parametrize("name", STACKED)
def test_a_stack_ends_where_its_trials_end_alone(task_config, name):
    changes, kind = STACKED[name]
    lr = changes.get("optimizer.lr", 0.1)
    configs = [
        task_config(changes, **{"optimizer.lr": lr * factor, "seed": seed, "epochs": 3, "evaluate_every": 5})
        for factor in (0.3, 1.0)
        for seed in (1, 2)
    ]
    data = data_of(configs[0])
    stack = build.build_stacked_model(configs, data.images.shape[1:], CPU, data.some())
    assert type(stack) is kind
    outcomes: dict[int, Outcome] = {}
    readers = [
        [TrialReader(config, lambda _: None, functools.partial(outcomes.__setitem__, number))]
        for number, config in enumerate(configs)
    ]
    train_stack(readers, data, stack)
    single: list[Outcome] = []
    train_stack([[TrialReader(configs[0], lambda _: None, single.append)]], data, SingleModel(configs[0], CPU))
    for config, outcome in [*zip(configs, (outcomes[n] for n in range(4)), strict=True), (configs[0], single[0])]:
        alone = train_quietly(config)
        assert alone.state is outcome.state is TrialState.FINISHED, outcome.reason
        assert alone.metrics.keys() == outcome.metrics.keys()
        for key, value in alone.metrics.items():
            if "seconds" not in key:
                assert math.isclose(outcome.metrics[key], value, rel_tol=1e-3, abs_tol=1e-5), key
        for key, weights in alone.weights.items():
            torch.testing.assert_close(outcome.weights[key], weights, rtol=1e-3, atol=1e-4)
        assert outcome.predictions.dtype == alone.predictions.dtype
        assert outcome.predictions.shape == alone.predictions.shape
        assert outcome.held_out_predictions.dtype == alone.held_out_predictions.dtype
        assert outcome.held_out_predictions.shape == alone.held_out_predictions.shape


def train_in_stack(configs) -> list[Outcome]:
    """Trains trials of one shape as one stack."""
    data = data_of(configs[0])
    model = build.build_stacked_model(configs, data.images.shape[1:], CPU, data.some())
    outcomes: dict[int, Outcome] = {}
    readers = [
        [TrialReader(config, lambda _: None, functools.partial(outcomes.__setitem__, number))]
        for number, config in enumerate(configs)
    ]
    train_stack(readers, data, model)
    return [outcomes[number] for number in range(len(configs))]


@pytest.mark.parametrize("changes", [{}, {"keep_best": True}, {"early_stopping": {"patience": 50}}])
@pytest.mark.parametrize("stacked", [False, True])
def test_predictions_do_not_stay_in_memory_while_it_trains_on(task_config, stacked, changes):
    Watched.made.clear()
    Watched.alive.clear()
    task = {"task": {"_target_": f"{__name__}.Watched"}, "evaluate_every": 5}
    configs = [task_config(task, epochs=2, seed=seed, **changes) for seed in (1, 2)]
    outcomes = train_in_stack(configs) if stacked else [train_quietly(configs[0])]
    assert len(Watched.made) > 4
    assert len(Watched.alive) > 20
    assert set(Watched.alive[-20:]) == {0}  # before, a stack is compared with its trials
    assert all(len(outcome.held_out_predictions) == 144 for outcome in outcomes)


@pytest.mark.parametrize("stacked", [False, True])
def test_predictions_for_held_out_items_that_nothing_compares_are_not_kept(task_config, stacked):
    configs = [task_config({**DIABETES, "task": {"_target_": f"{__name__}.Maps"}}, seed=seed) for seed in (1, 2)]
    outcome = train_in_stack(configs)[0] if stacked else train_quietly(configs[0])
    assert outcome.state is TrialState.FINISHED
    assert outcome.predictions.shape == (88, 1, 1)
    assert outcome.held_out_predictions is None


@pytest.mark.parametrize(
    ("metric", "mode", "best"), [("mae", "min", min), ("r2", "max", max), (f"{__name__}.bias", "max", max)]
)
def test_the_best_value_of_the_objective_follows_its_mode(task_config, metric, mode, best):
    own = {"_target_": metric, "mode": mode} if "." in metric else metric
    name = metric.rpartition(".")[2]
    task = {"task.metrics": [own], "task.objective": {"name": f"val/{name}", "mode": mode}}
    config = task_config({**DIABETES, **task}, epochs=6, **{"optimizer.lr": 0.2})
    values: list[float] = []
    outcome = train(config, data_of(config), lambda one: values.append(one.metrics[f"val/{name}"]))
    assert len(values) == 6
    assert outcome.metrics[f"val/{name}_best"] == best(values)
    assert outcome.objective(config) == values[-1]


def test_a_metric_that_is_nan_fails_the_trial_at_the_step_where_it_was_measured(task_config):
    own = {"_target_": f"{__name__}.undefined", "mode": "min"}
    config = task_config(DIABETES, evaluate_every=2, **{"task.metrics": [own]})
    outcome = train_quietly(config)
    reason = (
        "val/undefined must be a finite number, it was nan after step 2; leave it out of task.metrics, or measure it on"
    )
    assert outcome.state is TrialState.FAILED
    assert outcome.reason.startswith(reason)
    assert outcome.settled
    data, ended = data_of(config), []
    stack = build.build_stacked_model([config, config], [10], CPU, data.some())
    train_stack([[TrialReader(config, lambda _: None, ended.append)]] * 2, data, stack)
    assert [one.reason for one in ended] == [outcome.reason] * 2


def test_a_training_that_diverges_is_not_called_a_metric_that_is_nan(task_config):
    outcome = train_quietly(task_config(DIABETES, epochs=30, **{"optimizer.lr": 1e3}))
    assert outcome.state is TrialState.FAILED
    assert "try a smaller optimizer.lr" in outcome.reason


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"task.metrics": ["acuracy"]}, "task.metrics[0] must be a metric that sweepstack knows"),
    ({"task.metrics": ["rmse"]}, "task.metrics must be metrics of a classification, got 'rmse'; known: accuracy, "),
    ({"task.metrics": ["auroc", "auroc"]}, "task.metrics must have different names, got 'auroc'"),
    ({"task.metrics": [{"_target_": "my.metric"}]}, "task.metrics[0].mode is required and missing; give it, for"),
    ({"task.metrics": [{"_target_": "my.auroc", "mode": "max"}]}, "a metric of your own must not have the name"),
    ({"task.objective": {"name": "val/auroc"}}, "task.objective.mode is required and missing; give it, for example"),
    ({"task.objective": {"name": "val/auroc", "mode": "min"}}, "task.objective.mode must be max for auroc"),
    ({"task.objective": {"name": "val/auro", "mode": "max"}}, "task.objective.name must be val/ or test/ and the name"),
    (
        {"task.objective": {"name": "val/rmse", "mode": "min"}},
        "task.objective.name must be a metric of a classification, got 'rmse'; known: accuracy, ",
    ),
    ({"task.objective": {"name": "test/auroc", "mode": "max"}}, "task.objective.name must be val/ and the name of a"),
    ({"task": {"_target_": f"{TASKS}.Regression"}}, "dataset.outputs is required and missing for regression; give it"),
    ({"task": {"_target_": f"{TASKS}.Regresion"}}, "task._target_ should name something that can be imported"),
    ({"task.typo": 1}, f"task.typo is not a keyword of {TASKS}.Classification"),
    ({"task": {"_target_": "torch.nn.ReLU"}}, "task._target_ must name a subclass of sweepstack.Task, torch.nn.ReLU"),
    ({"task.loss": {"_target_": "torch.nn.MSELoss"}}, "task.loss: torch.nn.MSELoss does not take outputs float32 [n,"),
    *(
        (
            {"task.loss": {"_target_": "torch.nn.CrossEntropyLoss", "weight": weight}},
            "task.loss.weight must be a list of",
        )
        for weight in (3, [0] * 10, [-1, *[1] * 9], ["many"] * 10)
    ),
    ({**DIABETES, "dataset.classes": 2}, "dataset.classes must not be given for regression"),
    ({**DIABETES, "dataset.outputs": 2}, "a target must be 2 numbers, as dataset.outputs says; a training target of"),
    ({**DIABETES, "model.outputs": 2}, "model must give 1 numbers for each item, sweepstack.training.models.Linear"),
    ({**DIABETES, "task.loss": {"_target_": "torch.nn.NLLLoss"}}, "task.loss: torch.nn.NLLLoss does not take outputs"),
    ({**LABELS, "dataset.classes": 4}, "a target must have 0 or 1 for each of 4 labels, as dataset.classes says"),
    (
        {**LABELS, "dataset": {"_target_": f"{__name__}.noisy", "shape": [8], "classes": 1}},
        "dataset.classes should be greater than or equal to 2",
    ),
]


@pytest.mark.parametrize(("changes", "begins"), MISTAKES)
def test_what_does_not_fit_the_task_is_refused_in_one_line_before_anything_trains(task_config, changes, begins):
    with pytest.raises((ConfigError, DataError)) as refused:
        check_trial(task_config(changes), "cpu")
    assert str(refused.value).startswith(begins)
    assert "\n" not in str(refused.value)


def huge(train: bool) -> TensorDataset:
    return TensorDataset(torch.rand(20, 10), 1e9 + torch.rand(20, dtype=torch.float64))


def holes(train: bool) -> TensorDataset:
    return TensorDataset(torch.rand(20, 10), torch.tensor([1.0] * 7 + [math.inf] * 13))


@pytest.mark.parametrize(
    ("made", "begins"),
    [
        (huge, f"training targets of {__name__}.huge must differ by more than float32 rounds, which is up to "),
        (
            holes,
            f"all training targets of {__name__}.holes must be finite as float32, got [inf]; correct or leave out 13",
        ),
    ],
)
def test_targets_that_float32_cannot_hold_are_refused(task_config, made, begins):
    changes = {**DIABETES, "dataset": {"_target_": f"{__name__}.{made.__name__}", "shape": [10], "outputs": 1}}
    with pytest.raises(DataError) as refused:
        check_trial(task_config(changes), "cpu")
    assert str(refused.value).startswith(begins)


def test_a_metric_that_gives_several_numbers_is_named(task_config):
    own = {"_target_": f"{__name__}.several", "mode": "min"}
    with pytest.raises(TypeError, match=r"the metric several must be one number, got a tensor of shape \[35, 1\]"):
        train_quietly(task_config(DIABETES, **{"task.metrics": [own]}))


# What a review found: figures that were wrong in silence


def halved(outputs, targets):
    """The square root of the mean squared error: no mean over items."""
    return (outputs - targets).square().mean().sqrt()


def spoiled(outputs, targets):
    """Changes what it is given."""
    targets -= targets.mean()
    return outputs.zero_().mean()


def centred(outputs, targets):
    return targets.mean()


def fussy(outputs, targets):
    """Fails on NaN, as metrics of scikit-learn do."""
    return metrics.mean_absolute_error(targets.numpy(), outputs.numpy())


def drifting(train: bool) -> TensorDataset:
    return TensorDataset(torch.rand(20, 10), torch.stack([1.7e9 + 20 * torch.rand(20).double(), torch.rand(20)], 1))


class Houses(TensorDataset):
    """Diabetes with targets as large as prices of houses."""

    def __init__(self, train: bool) -> None:
        rows, targets = diabetes(train).tensors
        super().__init__(rows, targets * 1e4)


class Counting(nn.Module):
    """A loss with a memory that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, outputs, targets):
        self.calls += 1
        return nn.functional.mse_loss(outputs, targets) / self.calls


class Cut(Task):
    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def check_targets(self, targets, dataset, part):
        return targets[:100]


class Lossless(Task):
    pass


def make_root():
    return halved


def stacked_outcomes(configs: list[Any]) -> list[Outcome]:
    data = data_of(configs[0])
    outcomes: dict[int, Outcome] = {}
    readers = [
        [TrialReader(config, lambda _: None, functools.partial(outcomes.__setitem__, number))]
        for number, config in enumerate(configs)
    ]
    train_stack(readers, data, build.build_stacked_model(configs, data.images.shape[1:], CPU, data.some()))
    return [outcomes[number] for number in range(len(configs))]


@pytest.mark.parametrize("batch_size", [10, 100])
def test_a_loss_that_is_no_mean_over_items_is_the_same_stacked_and_alone_at_any_size(task_config, batch_size):
    loss = {"task.loss": {"_target_": f"{__name__}.make_root"}, "batch_size": batch_size}
    configs = [task_config(DIABETES, **loss, **{"optimizer.lr": lr}) for lr in (0.1, 0.2)]
    for config, outcome in zip(configs, stacked_outcomes(configs), strict=True):
        alone = train_quietly(config)
        assert outcome.metrics["test/loss"] == pytest.approx(alone.metrics["test/loss"], rel=1e-4)
        assert alone.metrics["test/loss"] == pytest.approx(alone.metrics["test/rmse"], rel=1e-5)


def test_a_metric_that_changes_what_it_is_given_changes_no_other_one(task_config):
    own = [{"_target_": f"{__name__}.{name}", "mode": "min"} for name in ("spoiled", "centred")]
    config = task_config(DIABETES, **{"task.metrics": own})
    alone = train_quietly(config)
    assert alone.metrics["test/centred"] == pytest.approx(float(data_of(config).test_labels.mean()), rel=1e-6)
    for outcome in stacked_outcomes([config, config]):
        assert outcome.metrics["test/centred"] == pytest.approx(alone.metrics["test/centred"], rel=1e-6)
        assert outcome.metrics["test/rmse"] == pytest.approx(alone.metrics["test/rmse"], rel=1e-4)


def test_a_member_that_diverges_does_not_break_a_metric_of_the_others(task_config):
    own = {"task.metrics": [{"_target_": f"{__name__}.fussy", "mode": "min"}]}
    configs = [task_config(DIABETES, **own, epochs=3, **{"optimizer.lr": lr}) for lr in (0.03, 1e38)]
    good, bad = stacked_outcomes(configs)
    assert good.state is TrialState.FINISHED
    assert bad.state is TrialState.FAILED
    assert "try a smaller optimizer.lr" in bad.reason
    assert bad.reason == train_quietly(configs[1]).reason


def test_unscaled_targets_are_no_reason_not_to_stack(task_config):
    houses = {"dataset._target_": f"{__name__}.Houses", "model": {**NET, "dropout": 0.2}, "optimizer.lr": 1e-9}
    configs = [task_config(DIABETES, **houses)] * 2
    data = data_of(configs[0])
    for made in (DenseModel, MappedModel):
        probe = equivalence.Probe(configs, [10], CPU, data.some())
        probe.compare(made(probe.configs, CPU), probe.alone())


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        (
            {**DIABETES, "task.loss": {"_target_": f"{__name__}.Counting"}},
            f"task.loss: {__name__}.Counting must keep no",
        ),
        ({"task.loss": {"_target_": "torch.nn.CrossEntropyLoss", "reduction": "sum"}}, "task.loss must be a mean over"),
        (
            {**DIABETES, "task.metrics": [{"_target_": f"{__name__}.several", "mode": "min"}]},
            "task.metrics: the metric",
        ),
        (
            {"task": {"_target_": f"{__name__}.Cut"}},
            "check_targets of the task must return a tensor",
        ),
        ({"task": {"_target_": f"{__name__}.Lossless"}}, f"a task must have a loss, {__name__}.Lossless defines none"),
        (
            {"task": {"_target_": f"{__name__}.Cut", "objective": {"name": "val/foo", "mode": "min"}}},
            f"task.objective.name must name a metric of {__name__}.Cut",
        ),
        (
            {**DIABETES, "dataset": {"_target_": f"{__name__}.drifting", "shape": [10], "outputs": 2}},
            f"training targets of {__name__}.drifting (number 0 of each, from 0) must differ by",
        ),
    ],
)
def test_what_would_be_wrong_in_silence_is_refused_in_one_line(task_config, changes, begins):
    with pytest.raises((ConfigError, DataError)) as refused:
        check_trial(task_config(changes), "cpu")
    assert str(refused.value).startswith(begins)
    assert "\n" not in str(refused.value)
