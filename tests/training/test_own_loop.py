"""A loop of the user's own: it reports, saves, is stopped and resumed as our trainer is, or hears what it got wrong."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sweepstack import Context, Verdict
from sweepstack.config.parsing import parse
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.errors import ConfigError
from sweepstack.planning.compatibility import obstacle, trajectory_key
from sweepstack.training import own_loop
from sweepstack.training.checkpoint import CheckpointError, CheckpointManager
from sweepstack.training.checks import check_last_batch, check_trial
from sweepstack.training.hardware import ALL_THREADS, choose_threads
from sweepstack.training.trainer import train
from sweepstack.trial import Measurement, Outcome, TrialState

from ..loading import load_data

CPU = torch.device("cpu")


@torch.no_grad()
def accuracy(model: torch.nn.Module, batches: Any) -> float:
    hits = torch.cat([model(images).argmax(1) == labels for images, labels in batches])
    return float(hits.float().mean())


def plain(config: TrialConfig, context: Context, noise: float = 0.0) -> Any:
    """Trains as our trainer does, but for the noise on the images, which needs the random states."""
    model = context.build_model().to(context.device)
    optimizer = context.build_optimizer(model)
    state = context.checkpoint.restore()
    begun = 0
    if state is not None:
        begun = state["epoch"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(begun + 1, config.epochs + 1):
        losses = []
        for images, labels in context.data.batches(config.batch_size, config.seed, epoch):
            drawn = torch.randn_like(images) * random.random() * np.random.random()
            loss = cross_entropy(model(images + noise * drawn), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        loss = torch.stack(losses).mean()
        found: dict[str, SupportsFloat] = {
            "train/loss": loss,
            "val/accuracy": accuracy(model, context.data.evaluation()),
        }
        verdict = context.report(found, epoch)
        context.checkpoint.save({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()})
        if verdict is Verdict.STOP:
            return None
    return model, {"test/accuracy": accuracy(model, context.data.test())}


def loop(name: str = "plain", **keywords: Any) -> dict[str, Any]:
    return {"trainer": {"_target_": f"{__name__}.{name}", **keywords}}


def trained(
    config: TrialConfig,
    folder: Path,
    manager: CheckpointManager | None = None,
    heard: list[Measurement] | None = None,
) -> Outcome:
    data = load_data(config.dataset, config.validation_split, CPU)
    heard = [] if heard is None else heard

    def report(measurement: Measurement) -> Verdict:
        heard.append(measurement)
        return Verdict.CONTINUE

    assert config.trainer is not None
    return own_loop.train(config, config.trainer, data, folder, report, manager or CheckpointManager(None))


def without_times(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if "seconds" not in key}


def test_a_loop_that_does_what_the_plain_trainer_does_ends_with_the_same_bits(digits_config, tmp_path):
    momentum = {"optimizer.momentum": 0.9, "epochs": 3}
    ours = train(digits_config(momentum), load_data(digits_config().dataset, 0.1, CPU), lambda _: None)
    heard: list[Measurement] = []
    theirs = trained(digits_config({**momentum, **loop()}), tmp_path, heard=heard)
    assert theirs.state is TrialState.FINISHED
    assert theirs.weights is not None
    assert ours.weights is not None
    assert all(torch.equal(theirs.weights[name], value) for name, value in ours.weights.items())
    names = {"train/loss", "val/accuracy", "val/accuracy_best", "test/accuracy", "train_seconds"}
    assert {name: theirs.metrics[name] for name in names - {"train_seconds"}} == {
        name: pytest.approx(ours.metrics[name]) for name in names - {"train_seconds"}
    }
    assert names <= theirs.metrics.keys()
    assert [one.step for one in heard] == [1, 2, 3]


class Stopping:
    """Asks the training to stop after some looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("looks", [0, 1, 2, 3, 5])
def test_stopped_and_resumed_it_ends_where_an_undisturbed_one_does(digits_config, tmp_path, looks):
    config = digits_config({"epochs": 4, **loop(noise=0.3)})
    undisturbed = trained(config, tmp_path)
    folder = tmp_path / "checkpoints"
    states = []
    while not states or states[-1] is TrialState.KILLED:
        manager = CheckpointManager(folder, 1e9, Stopping(looks if not states else 10**9))
        manager.restore()
        outcome = trained(config, tmp_path, manager)
        states.append(outcome.state)
        assert len(states) < 9
    assert states == [TrialState.KILLED, TrialState.FINISHED]
    assert without_times(outcome.metrics) == without_times(undisturbed.metrics)
    assert outcome.weights is not None
    assert undisturbed.weights is not None
    assert all(torch.equal(outcome.weights[name], value) for name, value in undisturbed.weights.items())


def test_a_checkpoint_is_written_when_it_is_due(digits_config, tmp_path):
    config = digits_config({"epochs": 2, **loop()})
    for every, expected in ((1e9, False), (0.0, True)):
        trained(config, tmp_path, CheckpointManager(tmp_path / str(every), every))
        assert (tmp_path / str(every) / "latest.pt").exists() is expected


def test_a_checkpoint_of_another_kind_is_said_not_to_fit(digits_config, tmp_path):
    manager = CheckpointManager(None)
    manager.state = {"step": 3, "model": {}}
    with pytest.raises(CheckpointError):
        trained(digits_config(loop()), tmp_path, manager)


PAIRS = {
    "a vector": ({"w": torch.ones(3)}, {"test/by_class": torch.ones(2)}),
    "two weights": ({"w": torch.ones(3)}, {"v": torch.ones(3)}),
    "two metrics": ({"test/a": 1}, {"test/b": 1}),
    "single numbers": ({"w": torch.tensor(3.0)}, {"test/accuracy": torch.tensor(0.5)}),
}
"""What a loop may return, by name: a config has no tuples."""


def once(config: TrialConfig, context: Context, **given: Any) -> Any:
    """Reports and returns what the config says."""
    for step, metrics in given.get("reports", [(1, {"val/accuracy": 0.5})]):
        context.report(metrics, step)
    if "state" in given:
        context.checkpoint.save(given["state"])
    return PAIRS[given["pair"]] if "pair" in given else given.get("returns")


@pytest.mark.parametrize(
    ("given", "reason", "diverged"),
    [
        (
            {"reports": [(1, {"train/loss": 2.0})]},
            "the loop must report val/accuracy, which selects trials, it reported train/loss; report it, or name "
            "another metric with task.objective={name: NAME, mode: min or max}",
            False,
        ),
        (
            {"reports": []},
            "the loop must report val/accuracy, which selects trials, it reported nothing; report it, or name "
            "another metric with task.objective={name: NAME, mode: min or max}",
            False,
        ),
        ({"reports": [(7, {"train/loss": float("nan")})]}, "the loop reported train/loss = nan at step 7", True),
        (
            {"reports": [(7, {"train/loss": "low"})]},
            "the loop must report numbers, it reported train/loss = 'low' at step 7",
            False,
        ),
        (
            {"reports": [(7, {"train/loss": None})]},
            "the loop must report numbers, it reported train/loss = None at step 7",
            False,
        ),
        (
            {"reports": [(7, 0.5)]},
            "the loop must give metrics as a dict of names and numbers, it gave a float at step 7",
            False,
        ),
        (
            {"reports": [(7, {"val//a": 1.0})]},
            "the loop must report names such as val/accuracy, it reported 'val//a' at step 7",
            False,
        ),
        (
            {"reports": [(7, {"fid": 1.0})]},
            "the loop must report names that begin with train/ or val/, it reported fid at step 7; return what is "
            "measured once, at the end",
            False,
        ),
        (
            {"reports": [(1, {"train/loss": 1.0}), (1, {"val/accuracy": 1.0})]},
            "the loop must report steps that are whole numbers from 1 and grow, it reported 1 after 1; report all "
            "metrics of a step at once",
            False,
        ),
        (
            {"reports": [(0, {})]},
            "the loop must report steps that are whole numbers from 1 and grow, it reported 0 after 0; report all "
            "metrics of a step at once",
            False,
        ),
        (
            {"returns": 0.5},
            "the loop must give metrics as a dict of names and numbers, it gave a float at the end",
            False,
        ),
        ({"returns": {"test/accuracy": float("inf")}}, "the loop reported test/accuracy = inf at the end", True),
        (
            {"pair": "a vector"},
            "the loop must report numbers, it reported test/by_class = tensor([1., 1.]) at the end",
            False,
        ),
        (
            {"pair": "two weights"},
            "the loop must return weights once, it returned them twice; put them into one dict",
            False,
        ),
        (
            {"pair": "two metrics"},
            "the loop must return metrics once, it returned them twice; put them into one dict",
            False,
        ),
    ],
)
def test_a_loop_that_breaks_a_rule_fails_with_one_line(digits_config, tmp_path, given, reason, diverged):
    outcome = trained(digits_config(loop("once", **given)), tmp_path)
    assert (outcome.state, outcome.reason, outcome.diverged) == (TrialState.FAILED, reason, diverged)
    assert "BrokenRule" in outcome.traceback
    assert outcome.metrics["train_seconds"] > 0


def odd_state(config: TrialConfig, context: Context) -> None:
    context.report({"val/accuracy": 0.5}, 1)
    context.checkpoint.save({"best": [np.float64(0.5)]})


def test_a_state_that_could_not_be_read_again_is_refused_at_once(digits_config, tmp_path):
    outcome = trained(digits_config(loop("odd_state")), tmp_path, CheckpointManager(tmp_path / "checkpoints", 1e9))
    assert outcome.reason == (
        "checkpoint.save takes tensors and plain values in dicts, lists and tuples, state['best'][0] is a "
        "numpy.float64; convert it"
    )


def test_what_it_returns_is_kept(digits_config, tmp_path):
    heard: list[Measurement] = []
    config = digits_config(loop("once", returns={"val/accuracy": 0.75, "fid": 3}, reports=[]))
    outcome = trained(config, tmp_path, heard=heard)
    assert without_times(outcome.metrics) == {"val/accuracy": 0.75, "val/accuracy_best": 0.75, "fid": 3.0}
    assert [(one.step, one.metrics["val/accuracy"]) for one in heard] == [(config.epochs, 0.75)]
    assert trained(digits_config(loop("once")), tmp_path).weights is None


def test_weights_may_be_single_numbers(digits_config, tmp_path):
    outcome = trained(digits_config(loop("once", pair="single numbers")), tmp_path)
    assert outcome.weights == {"w": torch.tensor(3.0)}
    assert without_times(outcome.metrics).keys() == {"val/accuracy", "val/accuracy_best", "test/accuracy"}


def drawing(config: TrialConfig, context: Context) -> None:
    assert [path.name for path in context.folder.iterdir()] == ["of a failed one.txt"]
    (context.folder / "drawn.txt").write_text("now")
    context.report({"val/accuracy": 0.5}, 1)


def test_files_of_an_earlier_record_do_not_change_when_the_trial_is_trained_again(digits_config, tmp_path):
    folder, kept = tmp_path / "files", tmp_path / "kept.txt"
    folder.mkdir()
    (folder / "of a failed one.txt").touch()
    (folder / "drawn.txt").write_text("before")
    kept.hardlink_to(folder / "drawn.txt")  # as the journal keeps a file
    assert trained(digits_config(loop("drawing")), folder).state is TrialState.FINISHED
    assert (kept.read_text(), (folder / "drawn.txt").read_text()) == ("before", "now")


def test_any_metric_may_select_if_the_config_says_which_way(digits_plain, tmp_path):
    named = {"task.objective": {"name": "val/quality", "mode": "min"}}
    reports = [(step, {"val/quality": value}) for step, value in ((1, 0.5), (3, 0.25), (4, 0.75))]
    config = parse(digits_plain({**named, **loop("once", reports=reports)})).trial
    outcome = trained(config, tmp_path)
    assert (outcome.objective(config), outcome.metrics["val/quality_best"]) == (0.75, 0.25)
    with pytest.raises(ConfigError, match="must be val/ or test/ and the name of a metric"):
        parse(digits_plain(named))


def test_nothing_is_asked_of_the_model_and_each_trial_is_trained_alone(digits_config):
    odd = {"model": {"_target_": "builtins.dict"}, "batch_size": 1, "optimizer": {"_target_": "builtins.dict", "lr": 1}}
    config = digits_config({**odd, **loop(noise=0.1)})
    check_last_batch(config, check_trial(config, "cpu"))
    assert obstacle(config) == f"{__name__}.plain is a loop of its own"
    shorter, run = digits_config({"epochs": 1, **loop()}), RunConfig()
    assert trajectory_key(shorter, run) != trajectory_key(digits_config(loop()), run)
    assert (choose_threads(config, None), choose_threads(config, 3)) == (ALL_THREADS, 3)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (
            {"_target_": f"{__name__}.plain", "nois": 1},
            f"trainer.nois is not a keyword of {__name__}.plain; did you mean 'noise'?",
        ),
        ({"_target_": f"{__name__}.plan"}, "did you mean 'plain'?"),
        (
            {"_target_": f"{__name__}.without_times"},
            f"trainer: {__name__}.without_times cannot be called: too many positional arguments; "
            "let it take (config, context)",
        ),
    ],
)
def test_a_loop_that_cannot_be_called_is_refused_before_anything_trains(digits_config, trainer, message):
    with pytest.raises(ConfigError) as caught:
        check_trial(digits_config({"trainer": trainer}), "cpu")
    assert message in str(caught.value)
