"""Schedules are pure functions of the step, and agree with PyTorch's own."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from sweepstack.config.schedule_sections import (
    ConstantSchedule,
    CosineSchedule,
    OneCycleSchedule,
    StepSchedule,
    WarmupCosineSchedule,
    WarmupSchedule,
)
from sweepstack.errors import ConfigError
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.prepare import check
from sweepstack.planning.compatibility import obstacle, trajectory_key
from sweepstack.schedules import factor, looks_at_horizon
from sweepstack.training.stacked.loop import epoch_factors
from sweepstack.training.trainer import train

from .test_stacked_loop import data_of

PART = st.floats(0, 1)
OPEN = st.floats(0, 1, exclude_min=True, exclude_max=True)
STEPS, EPOCHS = st.integers(1, 20), st.integers(1, 12)

CONSTANT = st.just(ConstantSchedule(kind="constant"))
STEP = st.builds(
    StepSchedule,
    kind=st.just("step"),
    every=st.integers(1, 5),
    gamma=st.floats(0, 1, exclude_min=True),
)
COSINE = st.builds(CosineSchedule, kind=st.just("cosine"), final=PART)
ONE_CYCLE = st.builds(OneCycleSchedule, kind=st.just("one_cycle"), rise=OPEN, start=PART, final=PART)
WARMUP = st.builds(
    WarmupSchedule,
    kind=st.just("warmup"),
    epochs=st.floats(0, 20, exclude_min=True),
    start=PART,
)
WARMUP_COSINE = st.builds(
    WarmupCosineSchedule,
    kind=st.just("warmup_cosine"),
    epochs=st.floats(0, 20, exclude_min=True),
    start=PART,
    final=PART,
)
HORIZON_FREE, WITH_HORIZON = CONSTANT | STEP | WARMUP, COSINE | ONE_CYCLE | WARMUP_COSINE


def factors(schedule, steps, epochs):
    """The factor of every update of a training."""
    return [factor(schedule, step, steps, epochs) for step in range(steps * epochs)]


def rates(scheduler_class, updates, **keywords):
    """The learning rate of every update under one of PyTorch's schedulers, at a full rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = scheduler_class(optimizer, **keywords)
    found = []
    for _ in range(updates):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def close(expected):
    return pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(schedule=HORIZON_FREE | WITH_HORIZON, steps=STEPS, epochs=EPOCHS)
def test_a_factor_is_between_0_and_1(schedule, steps, epochs):
    assert all(0.0 <= found <= 1.0 for found in factors(schedule, steps, epochs))


@given(schedule=HORIZON_FREE, steps=STEPS, epochs=EPOCHS, more=EPOCHS)
def test_without_a_horizon_a_short_training_is_the_beginning_of_a_long_one(schedule, steps, epochs, more):
    assert not looks_at_horizon(schedule)
    short, long = factors(schedule, steps, epochs), factors(schedule, steps, epochs + more)
    assert long[: len(short)] == short


@given(
    schedule=st.builds(CosineSchedule, kind=st.just("cosine"), final=st.floats(0, 0.9))
    | st.builds(OneCycleSchedule, kind=st.just("one_cycle"), start=st.floats(0, 0.5), final=st.floats(0, 0.5)),
    steps=st.integers(3, 20),
    epochs=st.integers(2, 12),
)
def test_with_a_horizon_it_is_not(schedule, steps, epochs):
    assert looks_at_horizon(schedule)
    short, long = factors(schedule, steps, epochs), factors(schedule, steps, epochs + 1)
    assert long[: len(short)] != short


@given(steps=STEPS, epochs=EPOCHS)
def test_constant_stays_1(steps, epochs):
    assert factors(ConstantSchedule(kind="constant"), steps, epochs) == [1.0] * (steps * epochs)


@given(schedule=COSINE, steps=STEPS, epochs=EPOCHS)
def test_cosine_is_cosine_annealing(schedule, steps, epochs):
    total = steps * epochs
    expected = rates(lr_scheduler.CosineAnnealingLR, total, T_max=total, eta_min=schedule.final)
    assert factors(schedule, steps, epochs) == close(expected)


@given(
    rise=OPEN,
    start=st.floats(1e-3, 1),
    final=st.floats(1e-8, 1),
    steps=STEPS,
    epochs=EPOCHS,
)
def test_one_cycle_is_one_cycle_lr(rise, start, final, steps, epochs):
    total = steps * epochs
    assume(rise * total > 1.001)  # below that PyTorch has no rise, or divides by zero
    assume((1 - rise) * total > 0.001)  # and here no fall
    expected = rates(
        lr_scheduler.OneCycleLR,
        total,
        max_lr=1.0,
        total_steps=total,
        pct_start=rise,
        div_factor=1 / start,
        final_div_factor=start / final,
        cycle_momentum=False,
    )
    schedule = OneCycleSchedule(kind="one_cycle", rise=rise, start=start, final=final)
    assert factors(schedule, steps, epochs) == close(expected)


@given(start=PART, final=PART, rise=OPEN)
def test_one_cycle_over_a_single_update_is_at_its_peak(start, final, rise):
    schedule = OneCycleSchedule(kind="one_cycle", rise=rise, start=start, final=final)
    assert factors(schedule, 1, 1) == [1.0]


@given(warm=st.integers(1, 5), start=st.floats(1e-3, 1), steps=STEPS, epochs=EPOCHS)
def test_warmup_is_linear_lr(warm, start, steps, epochs):
    expected = rates(
        lr_scheduler.LinearLR, steps * epochs, start_factor=start, end_factor=1.0, total_iters=warm * steps
    )
    schedule = WarmupSchedule(kind="warmup", epochs=warm, start=start)
    assert factors(schedule, steps, epochs) == close(expected)


def test_warmup_over_a_part_of_an_epoch_ends_within_it():
    schedule = WarmupSchedule(kind="warmup", epochs=0.5, start=0.0)
    assert factors(schedule, 8, 1) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]


@given(schedule=STEP, steps=STEPS, epochs=EPOCHS)
def test_step_is_step_lr_by_epochs(schedule, steps, epochs):
    by_epoch = rates(lr_scheduler.StepLR, epochs, step_size=schedule.every, gamma=schedule.gamma)
    assert factors(schedule, steps, epochs) == close([rate for rate in by_epoch for _ in range(steps)])


@given(
    warm=st.integers(1, 30),
    start=st.floats(1e-3, 1),
    final=PART,
    steps=STEPS,
    epochs=EPOCHS,
)
def test_warmup_cosine_is_linear_lr_and_then_cosine_annealing(warm, start, final, steps, epochs):
    total = steps * epochs
    assume(warm < total)
    schedule = WarmupCosineSchedule(kind="warmup_cosine", epochs=warm / steps, start=start, final=final)
    rise = rates(lr_scheduler.LinearLR, warm, start_factor=start, total_iters=warm)
    fall = rates(lr_scheduler.CosineAnnealingLR, total - warm, T_max=total - warm, eta_min=final)
    assert factors(schedule, steps, epochs) == close([*rise, *fall])


# Of one's own


def polynomial(step, steps_per_epoch, epochs, power=1.0):
    return (1 - step / (steps_per_epoch * epochs)) ** power


def falling(step, steps_per_epoch, epochs):
    return 1 - step / 20


def broken(step, steps_per_epoch, epochs):
    return 1 / abs(step - 3)


def nothing(step, steps_per_epoch, epochs):
    return None


def infinite(step, steps_per_epoch, epochs):
    return float("inf")


def own(name, **keywords):
    return {"schedule": {"_target_": f"{__name__}.{name}", **keywords}}


def test_a_function_of_ones_own_gives_the_factors(digits_config, digits_run):
    config = digits_config({**own("polynomial", power=2.0), "epochs": 3})
    reported: list[float] = []
    train(config, data_of(config), lambda one: reported.append(one.metrics["train/lr"]))
    assert reported == close([0.1 * (1 - step / 39) ** 2 for step in (12, 25, 38)])
    other = digits_config({**own("polynomial"), "epochs": 2})
    both = epoch_factors([config, other], 3, 13)
    assert both[:, 0].tolist() == factors(config.schedule, 13, 3)[26:]
    assert both[:, 1].tolist() == close([1 / 26] * 13)  # at its end
    assert looks_at_horizon(config.schedule)
    keys = {trajectory_key(digits_config({**own("polynomial"), "epochs": epochs}), digits_run()) for epochs in (2, 3)}
    assert len(keys) == 2
    assert obstacle(config) is None


def kind_of(step, steps_per_epoch, epochs, kind):
    return {"bool": 0.25, "int": 0.5}[type(kind).__name__]


def test_the_arguments_of_two_functions_differ_if_their_types_do(digits_config):
    configs = [digits_config({**own("kind_of", kind=kind), "epochs": 1}) for kind in (True, 1)]
    assert epoch_factors(configs, 1, 2).tolist() == [[0.25, 0.5]] * 2


def shaped(step, steps_per_epoch, epochs, shape, power=1.0):
    return shape(1 - step / (steps_per_epoch * epochs)) ** power


def test_a_function_of_ones_own_understands_the_words_of_hydra(digits_config, trial):
    root = {"_target_": "math.sqrt", "_partial_": True}
    config = digits_config({**own("shaped", _args_=[root], _partial_=True, power=4.0), "epochs": 1})
    assert factors(config.schedule, 13, 1) == close([(1 - step / 13) ** 2 for step in range(13)])
    check(trial(0, config=config), set(), {}, InProcessExecutor())


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "falling",
            "gives no learning rate for step 21: a factor must be finite and not negative, got -0.05 at step 21",
        ),
        ("broken", "gives no learning rate for step 3: division by zero (in your test_schedules.py, line "),
        ("nothing", "gives no learning rate for step 0: float() argument must be a string or a real number, not "),
        ("infinite", "gives no learning rate for step 0: a factor must be finite and not negative, got inf at step 0"),
    ],
)
def test_a_factor_that_no_rate_can_have_is_refused_before_anything_trains(digits_config, trial, name, line):
    seen: set[str] = set()
    good = trial(0, config=digits_config({**own("falling"), "epochs": 1}))
    check(good, seen, {}, InProcessExecutor())  # a shorter training asks for fewer steps
    with pytest.raises(ConfigError) as refused:
        check(trial(1, config=digits_config({**own(name), "epochs": 2})), seen, {}, InProcessExecutor())
    assert str(refused.value).startswith(f"schedule: {__name__}.{name} {line}")
    assert str(refused.value).endswith("; correct the function")


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (own("polynomail"), "schedule._target_ should name something that can be imported"),
        (own("polynomial", pwer=2), f"schedule.pwer is not a keyword of {__name__}.polynomial; did you mean 'power'?"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(digits_config, trial, schedule, line):
    with pytest.raises(ConfigError) as refused:
        check(trial(0, config=digits_config(schedule)), set(), {}, InProcessExecutor())
    assert str(refused.value).startswith(line)


def test_a_schedule_needs_a_kind_or_a_dotted_path(digits_config):
    for wrong, line in (
        ({"_target_": "polynomial"}, "schedule._target_ should be a dotted path package.module.name"),
        (
            {"kind": "plateau", "factor": 2},
            "schedule.factor should be less than 1, got 2; for example schedule.factor=0.1",
        ),
        ({"kind": "plateau", "paitence": 2}, "schedule.paitence is not a key of the config; did you mean 'patience'?"),
    ):
        with pytest.raises(ConfigError) as refused:
            digits_config({"schedule": wrong})
        assert str(refused.value).startswith(line)
