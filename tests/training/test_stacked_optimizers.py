"""Each row of a stacked optimizer steps as `torch.optim` does with that row's values."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sweepstack.config.trial_sections import OptimizerConfig
from sweepstack.training import optimizers
from sweepstack.training.stacked import optimizers as stacked_optimizers

STEPS = 12
numbers = st.floats(0.001, 0.5)
decays = st.sampled_from([0.0, 0.0, 0.01, 0.3])
sgd = st.fixed_dictionaries(
    {"lr": numbers, "momentum": st.sampled_from([0.0, 0.5, 0.9]), "dampening": st.sampled_from([0.0, 0.4])}
    | {"weight_decay": decays}
)
nesterov = st.fixed_dictionaries({"lr": numbers, "momentum": st.floats(0.1, 0.95), "weight_decay": decays})
plain = st.fixed_dictionaries({"lr": numbers})
adam = st.fixed_dictionaries(
    {"lr": numbers, "weight_decay": decays, "eps": st.sampled_from([1e-8, 1e-3])}
    | {"betas": st.tuples(st.floats(0.5, 0.95), st.floats(0.8, 0.999))}
)


def gradients(step: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def alone(config: OptimizerConfig, start: Tensor, member: int, factors: Tensor) -> list[Tensor]:
    """The parameter after every step of `torch.optim`."""
    parameter = nn.Parameter(start.clone())
    optimizer = optimizers.build_optimizer(config, nn.ParameterList([parameter]))
    after = []
    for step, factor in enumerate(factors[:, member].tolist()):
        optimizer.param_groups[0]["lr"] = config.lr * factor
        parameter.grad = gradients(step, (len(factors[0]), *start.shape))[member]
        optimizer.step()
        after.append(parameter.detach().clone())
    return after


def check(target: str, rows: list[dict[str, Any]], flags: dict[str, Any]) -> None:
    configs = [OptimizerConfig.model_validate({"_target_": target, **row, **flags}) for row in rows]
    start = torch.randn(len(rows), 3, 4, generator=torch.Generator().manual_seed(99))
    factors = torch.rand(STEPS, len(rows), dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    parameters = {"weight": start.clone()}
    stacked = stacked_optimizers.build_stacked_optimizer(configs, parameters)
    expected = [alone(config, start[member], member, factors) for member, config in enumerate(configs)]
    for step in range(STEPS):
        if step % 5 == 0:  # epochs of five steps
            stacked.set_factors(factors[step : step + 5])
        stacked.begin_step()
        stacked.update("weight", gradients(step, start.shape))
        for member in range(len(rows)):
            torch.testing.assert_close(parameters["weight"][member], expected[member][step], rtol=2e-5, atol=2e-6)


@settings(max_examples=25)
@given(st.lists(sgd, min_size=1, max_size=5))
def test_sgd(rows):
    check("torch.optim.SGD", rows, {})


@settings(max_examples=15)
@given(st.lists(nesterov, min_size=1, max_size=5))
def test_nesterov(rows):
    check("torch.optim.SGD", rows, {"nesterov": True})


@settings(max_examples=25)
@given(st.lists(adam, min_size=1, max_size=5), st.booleans(), st.sampled_from(["Adam", "AdamW"]))
def test_adam_and_adamw_also_as_amsgrad(rows, amsgrad, kind):
    check(f"torch.optim.{kind}", rows, {"amsgrad": amsgrad})


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_values_that_are_not_given_are_those_of_torch(kind):
    check(f"torch.optim.{kind}", [{"lr": 0.1}, {"lr": 0.2}], {})


@settings(max_examples=10)
@given(st.lists(st.one_of(plain, sgd), min_size=4, max_size=4), st.sampled_from([1, 2, 4]))
def test_a_gradient_that_is_a_product_need_not_be_written_out(rows, groups):
    configs = [OptimizerConfig.model_validate({"_target_": "torch.optim.SGD", **row}) for row in rows]
    start = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))
    both = [{"weight": start.clone()}, {"weight": start.clone()}]
    one, other = (stacked_optimizers.build_stacked_optimizer(configs, parameters) for parameters in both)
    for optimizer in (one, other):
        optimizer.set_factors(torch.ones(3, 4, dtype=torch.float64))
    for step in range(3):
        left = torch.randn(groups, 4 // groups * 3, 8, generator=torch.Generator().manual_seed(step))
        right = torch.randn(groups, 8, 6, generator=torch.Generator().manual_seed(10 + step))
        one.begin_step()
        one.update_by_product("weight", left.clone(), right)
        other.begin_step()
        other.update("weight", torch.bmm(left, right).view(4, 3, 6))
        torch.testing.assert_close(both[0]["weight"], both[1]["weight"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "row", [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {"lr": 0.1, "betas": (0.9, 0.99)}]
)
def test_a_frozen_row_stands_still_and_the_others_do_not_notice(row):
    target = "torch.optim.Adam" if "betas" in row else "torch.optim.SGD"
    configs = [OptimizerConfig.model_validate({"_target_": target, **row})] * 3
    results = []
    for freeze in (False, True):
        parameters = {"weight": torch.ones(3, 2)}
        optimizer = stacked_optimizers.build_stacked_optimizer(configs, parameters)
        for epoch in range(2):
            optimizer.set_factors(torch.ones(2, 3, dtype=torch.float64))
            for step in range(2):
                optimizer.begin_step()
                gradient = gradients(2 * epoch + step, (3, 2))
                if freeze:
                    gradient[1] = float("nan") if epoch == 0 else 1.0
                optimizer.update("weight", gradient)
            if freeze:
                optimizer.freeze(1)
        results.append(parameters["weight"])
    assert torch.equal(results[0][[0, 2]], results[1][[0, 2]])
    assert torch.equal(results[1][1], torch.zeros(2))


def test_kept_rows_go_on_with_their_state():
    configs = [
        OptimizerConfig.model_validate({"_target_": "torch.optim.Adam", "lr": lr, "weight_decay": lr})
        for lr in (0.1, 0.2, 0.3)
    ]
    factors = torch.ones(4, 3, dtype=torch.float64)
    start = torch.ones(3, 2)
    expected = alone(configs[2], start[2], 2, factors)
    optimizer = stacked_optimizers.build_stacked_optimizer(configs, {"weight": start})
    optimizer.set_factors(factors[:2])
    for step in range(2):
        optimizer.begin_step()
        optimizer.update("weight", gradients(step, (3, 2)))
    kept = {"weight": start[[2]].clone()}
    optimizer.keep([2], kept)
    optimizer.set_factors(factors[2:, [2]])
    for step in range(2, 4):
        optimizer.begin_step()
        optimizer.update("weight", gradients(step, (3, 2))[[2]])
    torch.testing.assert_close(kept["weight"][0], expected[-1])


def test_adam_counts_the_steps_of_each_parameter_on_its_own():
    """As torch.optim does for one that the loss does not depend on at first."""
    configs = [OptimizerConfig.model_validate({"_target_": "torch.optim.Adam", "lr": lr}) for lr in (0.1, 0.2)]
    start = torch.ones(2, 3)
    factors = torch.ones(6, 2, dtype=torch.float64)
    expected = [alone(config, start[member], member, factors)[2] for member, config in enumerate(configs)]
    parameters = {"early": start.clone(), "late": start.clone()}
    optimizer = stacked_optimizers.build_stacked_optimizer(configs, parameters)
    for step in range(6):
        if step % 4 == 0:
            optimizer.set_factors(factors[step : step + 4])
        optimizer.begin_step()
        optimizer.update("early", torch.ones(2, 3))
        if step >= 3:
            optimizer.update("late", gradients(step - 3, (2, 3)))
    torch.testing.assert_close(parameters["late"], torch.stack(expected))
