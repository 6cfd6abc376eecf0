"""Trials -> trajectories -> stacks, as values: nothing is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstack.config.parsing import parse
from sweepstack.planning.plan import Plan, describe, plan
from sweepstack.trial import StackSettings, Trial

ADAM = {"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01}}


def stacked(width: int) -> Callable[[Sequence[Trial]], StackSettings]:
    return lambda trials: StackSettings(min(width, len(trials)), 1, 0.5, "it is faster")


def planned(digits_plain: Callable[..., dict[str, Any]], changes: Sequence[dict[str, Any]], width: int = 99) -> Plan:
    configs = [parse(digits_plain(change)) for change in changes]
    trials = [Trial(one.trial, n, f"trial {n}", {}, Path(), "", one.run) for n, one in enumerate(configs)]
    return plan(trials, stacked(width))


def shape(found: Plan) -> list[list[list[int]]]:
    """Numbers of trials in trajectories in stacks."""
    return [[[trial.number for trial in t.trials] for t in stack.trajectories] for stack in found.stacks]


def test_learning_rates_are_one_stack(digits_plain) -> None:
    assert shape(planned(digits_plain, [{"optimizer.lr": lr} for lr in (0.1, 0.2, 0.3)])) == [[[0], [1], [2]]]


def test_epochs_are_read_from_one_trajectory_and_duplicates_train_once(digits_plain) -> None:
    found = planned(digits_plain, [{"epochs": 5}, {"epochs": 20}, {"epochs": 10}, {"epochs": 20}])
    assert shape(found) == [[[0, 2, 1, 3]]]
    assert (found.epochs_asked_for, found.epochs_to_train) == (55, 20)


def test_a_schedule_that_looks_at_the_horizon_shares_nothing_but_the_stack(digits_plain) -> None:
    cosine = {"schedule": {"kind": "cosine"}}
    assert shape(planned(digits_plain, [{**cosine, "epochs": 5}, {**cosine, "epochs": 10}])) == [[[0], [1]]]


@pytest.mark.parametrize(
    "changes",
    [
        [{"batch_size": 50}, {"batch_size": 100}],
        [{"optimizer.lr": 0.01}, ADAM],
        [{"optimizer.nesterov": True, "optimizer.momentum": 0.9}, {"optimizer.nesterov": False}],
        [{"precision": "bfloat16"}, {}],
        [{"device": "auto"}, {"device": "cpu"}],
        [{"threads": 1}, {"threads": 2}],
        [{"validation_split": 0.2}, {}],
        [{"folds": 5, "fold": 0}, {"folds": 5, "fold": 1}],
        [{"split.stratified": True}, {}],
        [{"dataset.mean": 0.5}, {}],
        [{"model.classes": 10, "model._target_": "sweepstack.training.models.MLP"}, {}],
    ],
)
def test_what_cannot_be_one_batched_model_is_two_stacks(digits_plain, changes) -> None:
    assert shape(planned(digits_plain, changes)) == [[[0]], [[1]]]


@pytest.mark.parametrize(
    "changes",
    [
        [{"optimizer.momentum": 0.9}, {"optimizer.weight_decay": 0.1}, {"optimizer.dampening": 0.1}],
        [{**ADAM, "optimizer.betas": [0.8, 0.9]}, {**ADAM, "optimizer.eps": 1e-6}, ADAM],
        [{"schedule": {"kind": "cosine"}}, {"schedule": {"kind": "step", "every": 1, "gamma": 0.1}}, {}],
        [{"seed": 0}, {"seed": 1}, {"seed": 2}],
        [{"evaluate_every": 7, "optimizer.lr": 0.2}, {"pictures": 3, "optimizer.lr": 0.3}, {}],
    ],
)
def test_numbers_schedules_and_seeds_may_differ_inside_a_stack(digits_plain, changes) -> None:
    assert len(planned(digits_plain, changes).stacks) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"optimizer": {"_target_": "torch.optim.RMSprop", "lr": 0.1}}, "torch.optim.RMSprop has no stacked form"),
        ({"optimizer.fused": True}, "torch.optim.SGD with fused has no stacked form"),
        ({"optimizer.momentum": "much"}, "optimizer.momentum is not a number"),
    ],
)
def test_what_has_no_stacked_form_trains_alone_and_the_plan_says_why(digits_plain, change, why) -> None:
    found = planned(digits_plain, [{**change, "seed": 0}, {**change, "seed": 1}])
    assert shape(found) == [[[0]], [[1]]]
    assert all(stack.choice.reason.startswith(why) for stack in found.stacks)
    assert why in "\n".join(describe(found))


def test_infinite_values_are_told_apart(digits_plain) -> None:
    """In JSON, infinity and null would both be null."""
    found = planned(digits_plain, [{"model.limit": value} for value in (float("inf"), float("-inf"), None)])
    assert len(found.trajectories) == 3


def test_where_every_job_needs_its_own_process_nothing_is_shared(digits_plain) -> None:
    trials = [Trial(parse(digits_plain({"epochs": epochs})).trial, epochs, "", {}, Path(), "") for epochs in (1, 2)]
    found = plan(trials, stacked(9), isolation_reason="hydra.job.chdir is set")
    assert shape(found) == [[[1]], [[2]]]
    assert found.stacks[0].how_trained == "by the plain trainer, 1 thread (hydra.job.chdir is set)"


def test_a_stack_that_is_too_wide_is_parted_evenly_with_seeds_side_by_side(digits_plain) -> None:
    changes: list[dict[str, Any]] = [
        {"seed": seed, "epochs": epochs} for epochs in (2, 4) for seed in (0, 1) for _ in "ab"
    ]
    changes = [{**change, "optimizer.lr": 0.1 + 0.01 * number} for number, change in enumerate(changes)]
    found = planned(digits_plain, changes, width=5)
    assert [len(stack.trajectories) for stack in found.stacks] == [4, 4]
    for stack, epochs in zip(found.stacks, (2, 4), strict=True):
        configs = [trajectory.config for trajectory in stack.trajectories]
        assert [config.seed for config in configs] == [0, 0, 1, 1]
        assert {config.epochs for config in configs} == {epochs}  # nobody waits for a longer one


def test_the_plan_in_words(digits_plain) -> None:
    lines = describe(planned(digits_plain, [{"epochs": 5}, {"epochs": 10}, {"optimizer.lr": 0.3, "epochs": 10}]))
    assert lines[0] == "3 trials -> 2 trajectories -> 1 stack"
    assert lines[1] == "25 run-epochs asked for, 20 to train, in about 5.0 s"
    assert lines[3].startswith("stack 1: 3 trials, batch 100, 10 epochs, stacked, 2 trajectories wide, 1 thread (it")
    assert lines[4:] == ["    trial 1  <- trial 0", "    trial 2"]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "optimizer.lr": st.sampled_from([0.1, 0.2]),
                "epochs": st.integers(1, 4),
                "batch_size": st.sampled_from([50, 100]),
                "seed": st.integers(0, 2),
                "schedule": st.sampled_from([{"kind": "constant"}, {"kind": "cosine"}]),
            }
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_every_trial_is_trained_exactly_once_to_its_own_end(digits_plain, changes, width) -> None:
    found = planned(digits_plain, changes, width)
    assert sorted(trial.number for trial in found.trials) == list(range(len(changes)))
    assert found.epochs_to_train <= found.epochs_asked_for
    for stack in found.stacks:
        assert len(stack.trajectories) <= width
        assert len({trial.config.batch_size for trial in stack.trials}) == 1
        for trajectory in stack.trajectories:
            first, *_ = trajectory.trials
            for trial in trajectory.trials:
                assert trial.config.epochs <= trajectory.config.epochs
                assert trial.config.model_copy(update={"epochs": 1}) == first.config.model_copy(update={"epochs": 1})
