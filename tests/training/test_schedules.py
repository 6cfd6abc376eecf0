"""Schedules are pure functions of the step, and agree with PyTorch's own."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from sweepstack.config.schema import ConstantSchedule, CosineSchedule, OneCycleSchedule, StepSchedule, WarmupSchedule
from sweepstack.schedules import factor, looks_at_horizon

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
HORIZON_FREE, WITH_HORIZON = CONSTANT | STEP | WARMUP, COSINE | ONE_CYCLE


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
