"""What follows from the objective: plateaus, early ends, best measurements; alone, in a shared training, in a stack."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import ConfigError
from sweepstack.planning.compatibility import obstacle, stack_key, trajectory_key
from sweepstack.training.checkpoint import CheckpointManager
from sweepstack.training.models import build_model
from sweepstack.training.objective import ObjectiveTracker
from sweepstack.training.random_state import seed_all
from sweepstack.training.stacked.dense_model import DenseModel
from sweepstack.training.stacked.vmap_model import MappedModel
from sweepstack.training.trainer import train
from sweepstack.trial import Measurement, Outcome, TrialState

from .. import here
from ..terminal import new_store
from .test_checkpoint import SELDOM, Trials, after, assert_same_bits, timeless
from .test_stacked_loop import data_of, distance

MLP = {"model": {"_target_": "sweepstack.training.models.MLP", "shape": [1, 8, 8], "classes": 10, "hidden": [16]}}
NOISY = {**MLP, "optimizer.lr": 3.0, "evaluate_every": 5}
"""A learning rate at which the accuracy goes up and down."""
STOPPING = {"early_stopping": {"patience": 3}}
BEST = {"keep_best": True}
values = st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.3, float("nan")]), min_size=1, max_size=15)


def follow(config: TrialConfig, objective: Sequence[float]) -> list[tuple[float, bool, bool]]:
    """After each value of the objective: the factor, whether the training ends, whether the value is the best."""
    tracker = ObjectiveTracker(config)
    found = []
    for value in objective:
        best = tracker.is_best({config.objective: value})
        found.append((tracker.factor, tracker.ends_early, best))
        state, tracker = tracker.state(), ObjectiveTracker(config)
        tracker.restore(state)
    return found


@given(objective=values, patience=st.integers(0, 3), mode=st.sampled_from(["min", "max"]), least=st.floats(0, 0.1))
def test_a_plateau_is_that_of_pytorch(digits_config, objective, patience, mode, least):
    schedule = {"kind": "plateau", "factor": 0.5, "patience": patience, "min_factor": least}
    name = {"min": "val/loss", "max": "val/accuracy"}[mode]
    config = digits_config({"schedule": schedule, "task.objective": {"name": name, "mode": mode}})
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    expected = ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=patience, threshold=0, min_lr=least, eps=0)
    for value, (factor, _, _) in zip(objective, follow(config, objective), strict=True):
        expected.step(value)
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("stopping", "mode", "objective", "end"),
    [
        ({"patience": 2}, "max", [0.1, 0.2, 0.2, 0.1, 0.3], 3),
        ({"patience": 2}, "max", [0.1, 0.1, 0.2, 0.1, 0.3], None),
        ({"patience": 1}, "max", [0.1, 0.2, 0.3], None),
        ({"patience": 1, "min_delta": 0.15}, "max", [0.1, 0.2, 0.9], 1),
        ({"patience": 2, "min_delta": 0.15}, "max", [0.1, 0.2, 0.3, 0.3], None),
        ({"patience": 2}, "min", [0.3, 0.4, 0.2, 0.2, 0.2], 4),
        ({"patience": 2, "min_delta": 0.15}, "min", [0.3, 0.2, 0.2], 2),
        ({"patience": 2}, "min", [float("nan"), float("nan"), 0.1], 1),
    ],
)
def test_a_training_ends_once_patience_is_over(digits_config, stopping, mode, objective, end):
    name = {"min": "val/loss", "max": "val/accuracy"}[mode]
    config = digits_config({"early_stopping": stopping, "task.objective": {"name": name, "mode": mode}})
    ends = [ended for _, ended, _ in follow(config, objective)]
    assert (ends.index(True) if True in ends else None) == end


# In a training


def run(config: TrialConfig) -> tuple[Outcome, list[Measurement]]:
    reports: list[Measurement] = []
    return train(config, data_of(config), reports.append), reports


def test_it_ends_early_where_its_measurements_say_so_and_is_finished(digits_config):
    long = {**NOISY, "epochs": 12}
    _, all_reports = run(digits_config(long))
    outcome, reports = run(digits_config({**long, **STOPPING}))
    accuracies = [report.metrics["val/accuracy"] for report in reports]
    best = max(accuracies)
    assert reports == all_reports[: len(reports)]
    assert 4 <= len(reports) < len(all_reports)
    assert accuracies.index(best) == len(reports) - 4
    assert outcome.state is TrialState.FINISHED
    assert outcome.reason == (
        f"stopped early after step {5 * len(reports)} of 156: the last 3 measurements had no better val/accuracy than "
        f"{best:g}"
    )
    other, _ = run(digits_config({**long, "epochs": 1, "evaluate_every": 5}))
    assert outcome.metrics.keys() == other.metrics.keys()
    assert len(outcome.predictions) == 360


def test_the_best_measurement_is_kept(digits_config, tmp_path):
    config = digits_config({**NOISY, **BEST, "epochs": 6})
    outcome, reports = run(config)
    best = max(reports, key=lambda report: report.metrics["val/accuracy"])
    assert best.step < reports[-1].step
    assert {key: outcome.metrics[key] for key in best.metrics if key != "train/lr"} == {
        key: value for key, value in best.metrics.items() if key != "train/lr"
    }
    keeper = CheckpointManager(tmp_path, SELDOM, after(best.step))
    train(config, data_of(config), lambda _: None, keeper)
    state = keeper.restore()
    assert state["step"] == best.step
    assert all(torch.equal(outcome.weights[name], value) for name, value in state["model"].items())
    correct = torch.from_numpy(outcome.predictions).long() == data_of(config).test_labels
    assert outcome.metrics["test/accuracy"] == pytest.approx(float(correct.double().mean()))
    correct = torch.from_numpy(outcome.held_out_predictions).long() == data_of(config).held_out_targets
    assert outcome.metrics["val/accuracy"] == pytest.approx(float(correct.double().mean()))


def test_a_plateau_lowers_the_rate_as_in_a_plain_loop(digits_config):
    config = digits_config({**NOISY, "epochs": 4, "schedule": {"kind": "plateau", "factor": 0.5, "patience": 0}})
    data = data_of(config)
    seed_all(config.seed)
    model = build_model(config.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    scheduler = ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=0, threshold=0)
    rates: list[float] = []
    step = 0
    for epoch in range(1, 5):
        for images, labels in data.batches(config.batch_size, config.seed, epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            step += 1
            if step % 5 == 0:
                rates.append(optimizer.param_groups[0]["lr"])
                ((images, labels),) = data.evaluation()
                scheduler.step(float((model(images).argmax(1) == labels).double().mean()))
    outcome, reports = run(config)
    assert [report.metrics["train/lr"] for report in reports][: len(rates)] == rates
    assert 0 < rates[-1] < rates[0] == 3.0
    for name, value in model.state_dict().items():
        torch.testing.assert_close(outcome.weights[name], value, rtol=1e-4, atol=1e-5)


FOLLOWING: dict[str, dict[str, Any]] = {
    "plateau": {"schedule": {"kind": "plateau", "factor": 0.5, "patience": 0}},
    "early": STOPPING,
    "best": BEST,
    "all": {**STOPPING, **BEST, "schedule": {"kind": "plateau", "factor": 0.5, "patience": 1}, "ema": 0.5},
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_a_trial_stopped_anywhere_ends_where_an_undisturbed_one_does(digits_config, tmp_path, name):
    config = digits_config({**NOISY, "epochs": 4, **FOLLOWING[name]})
    expected, expected_reports = run(config)
    reports: list[Measurement] = []
    for steps in (7, 3, 13, 10**9):
        keeper = CheckpointManager(tmp_path, SELDOM, after(steps))
        keeper.restore()
        outcome = train(config, data_of(config), reports.append, keeper)
        if outcome.state is not TrialState.KILLED:
            break
    assert_same_bits(outcome, expected)
    assert reports == expected_reports


# In company

STACKS: dict[str, Callable[..., list[list[dict[str, Any]]]]] = {
    "epochs that share a training": lambda: [[{"epochs": 2}, {"epochs": 6}, {"epochs": 8, "evaluate_every": 4}]],
    "with and without": lambda: [
        [{"epochs": 3}, {"epochs": 8}, {"epochs": 8, "early_stopping": {}}, {"epochs": 8, "keep_best": False}]
    ],
    "a stack": lambda: [
        [{"epochs": 4, "seed": 1}, {"epochs": 8, "seed": 1}],
        [{"epochs": 8, "optimizer.lr": 2.0, "early_stopping": {"patience": 5}}],
        [{"epochs": 8, "optimizer.lr": 0.1, "keep_best": False}],
    ],
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("interrupted", [False, True])
def test_each_trial_ends_where_it_ends_alone(digits_config, tmp_path, name, interrupted):
    base = {**NOISY, **STOPPING, **BEST}
    trajectories = [[digits_config({**base, **changes}) for changes in one] for one in STACKS[name]()]
    trials = Trials(trajectories, DenseModel if len(trajectories) > 1 else None)
    for steps in (11, 9, 20, 10**9) if interrupted else (10**9,):
        keeper = CheckpointManager(tmp_path, SELDOM, after(steps))
        keeper.restore()
        trials.train(keeper, lambda key: key not in trials.outcomes or trials.outcomes[key].state is TrialState.KILLED)
        if not trials.killed:
            break
    for place, configs in enumerate(trajectories):
        for number, config in enumerate(configs):
            expected, expected_reports = run(config)
            outcome, reports = trials.outcomes[f"{place}.{number}"], trials.reports[f"{place}.{number}"]
            assert (outcome.state, outcome.reason) == (expected.state, expected.reason)
            assert [report.step for report in reports] == [report.step for report in expected_reports]
            assert timeless(outcome.metrics) == pytest.approx(timeless(expected.metrics), rel=1e-4, abs=1e-5)
            assert distance(outcome, expected) < 1e-3
            assert (outcome.predictions == expected.predictions).mean() > 0.99
            right = outcome.held_out_predictions == data_of(config).held_out_targets.numpy()
            assert right.mean() == pytest.approx(outcome.metrics["val/accuracy"])


def test_an_interrupted_stack_ends_to_the_bit_where_an_undisturbed_one_does(digits_config, tmp_path):
    base = {**NOISY, **STOPPING, **BEST, "epochs": 5}
    trajectories = [[digits_config({**base, "optimizer.lr": lr, "seed": lr})] for lr in (1, 2, 3)]
    whole, parts = Trials(trajectories, MappedModel), Trials(trajectories, MappedModel)
    whole.train(CheckpointManager(None))
    for steps in (6, 9, 12, 10**9):
        keeper = CheckpointManager(tmp_path, SELDOM, after(steps))
        keeper.restore()
        parts.train(keeper)
        if not parts.killed:
            break
    assert {outcome.reason.partition(" after")[0] for outcome in whole.outcomes.values()} == {"stopped early", ""}
    for key, outcome in whole.outcomes.items():
        assert_same_bits(parts.outcomes[key], outcome)


def test_what_shares_a_training_and_a_stack(digits_config, digits_run):
    def keys(changes: Mapping[str, Any]) -> tuple[str, str]:
        config = digits_config(changes)
        return trajectory_key(config, digits_run()), stack_key(config, digits_run())

    plain = keys({})
    many: list[dict[str, Any]] = [{"epochs": 7}, STOPPING, BEST, {"evaluate_every": 3}]
    for alike in many:
        assert keys(alike) == plain
    plateau: dict[str, Any] = {"schedule": {"kind": "plateau"}}
    apart: list[dict[str, Any]] = [
        {},
        plateau,
        {**plateau, "epochs": 7},
        {**plateau, "evaluate_every": 3},
        {"ema": 0.9},
        {"accumulate": 2},
    ]
    assert len({keys(changes)[0] for changes in apart}) == len(apart)
    assert keys(plateau)[1] not in {keys({})[1], keys({"ema": 0.9})[1]}
    assert obstacle(digits_config({**STOPPING, **BEST})) is None


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (STOPPING, "early_stopping"),
        (BEST, "keep_best"),
        ({"schedule": {"kind": "plateau"}}, "schedule=plateau"),
    ],
)
def test_the_test_data_must_not_select(digits_config, changes, key):
    with pytest.raises(ConfigError) as refused:
        digits_config({**changes, "validation_split": 0})
    assert str(refused.value) == (
        f"validation_split must hold data out for {key}, which would else select by the test data, got 0.0; "
        "for example validation_split=0.1"
    )


# As it is recorded


def test_a_record_has_the_figures_of_the_best_measurement_and_says_why_it_ended_early(
    tmp_path, empty_database, monkeypatch
):
    store = new_store(tmp_path, empty_database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    words = ["-m", "dataset=digits", "epochs=6", "optimizer.lr=3", "evaluate_every=5", "keep_best=true"]
    words += ["early_stopping.patience=3", "schedule=constant,plateau,warmup_cosine", "seed=1,2"]
    words += ["optimizer.groups=[{params:[biases,norms],weight_decay:0}]"]
    done = here.train(*words)
    assert (done.code, done.err) == (0, "")
    rows = store.rows("all")
    assert len(rows) == 6
    early = 0
    for row in rows:
        history = [point.value for point in store.client.get_metric_history(row.run_id, "val/accuracy")]
        assert row.metrics["val/accuracy"] == row.metrics["val/accuracy_best"] == max(history)
        assert row.state == "FINISHED"
        assert row.params["early_stopping.patience"] == "3"
        assert row.params["keep_best"] == "true"
        assert "weight_decay" in row.params["groups"]
        assert "ema" not in row.params
        early += row.reason.startswith("stopped early after step ")
    assert early
    assert "6 trials trained before: not trained again" in here.train(*words).out
    table = here.sweepstack("table")
    assert (table.code, table.err) == (0, "")
    assert "stopped early after step " in table.out
