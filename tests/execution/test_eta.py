"""The time that is left: by the measured epochs, the plan, and who trains side by side."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sweepstack.config.schema import TrialConfig
from sweepstack.events import Ended, Measured, Started
from sweepstack.execution.control.eta import SLOWER_TOGETHER, Eta, StackProgress
from sweepstack.trial import DatasetFacts, Measurement, Outcome, Trial, TrialState

Make = Callable[..., TrialConfig]
STEPS = 10
"""Updates of an epoch."""


def trial(config: TrialConfig, number: int) -> Trial:
    return Trial(config, number, f"trial {number}", {}, Path(), "")


def train(eta: Eta, trials: Sequence[Trial], begin: float, each: float, epochs: int) -> float:
    """Trains some epochs of a stack, each of that many seconds; returns the time."""
    for one in trials:
        eta.take(Started(one, begin, DatasetFacts("d", 1000, 1, 1)))
    for epoch in range(1, epochs + 1):
        for one in trials:
            at = Measurement(epoch, epoch * STEPS, one.config.epochs * STEPS, {})
            if epoch <= one.config.epochs:
                eta.take(Measured(one, at, begin + epoch * each))
            if epoch == one.config.epochs:
                eta.take(Ended(one, Outcome(TrialState.FINISHED), begin + epoch * each))
    return begin + epochs * each


def test_waiting_stacks_take_as_long_as_the_plan_says_corrected_by_what_was_measured(digits_config: Make) -> None:
    first, second = (
        trial(digits_config({"epochs": 10, "batch_size": size}), number) for number, size in enumerate((10, 50))
    )
    eta = Eta()
    eta.add([[first]], planned=1.0)
    eta.add([[second]], planned=0.5)
    assert eta.seconds(0.0) == pytest.approx(15.0)
    now = train(eta, [first], 0.0, 2.0, 4)  # twice as slow as planned
    assert eta.seconds(now) == pytest.approx(6 * 2.0 + 10 * 1.0)
    assert eta.seconds(now + 1.0) == pytest.approx(6 * 2.0 + 10 * 1.0 - 1.0)
    eta.workers = 2
    assert eta.seconds(now) == pytest.approx(10.0 * SLOWER_TOGETHER + 2.0)  # the last one has the machine for itself


def test_without_a_plan_nothing_is_known_before_the_first_epoch(digits_config: Make) -> None:
    same = [trial(digits_config({"epochs": 4, "optimizer.lr": lr}), number) for number, lr in enumerate((0.1, 0.2))]
    eta = Eta()
    for one in same:
        eta.add([[one]], planned=0.0)
    assert eta.seconds(0.0) is None
    now = train(eta, same[:1], 0.0, 1.0, 3)
    assert eta.seconds(now) == pytest.approx(1.0 + 4.0)
    assert eta.seconds(now, unplanned=4) == pytest.approx(5.0 + 16.0)  # those of a search that follow


def test_a_stack_trains_faster_when_its_short_trials_have_ended(digits_config: Make) -> None:
    members = [trial(digits_config({"epochs": epochs}), number) for number, epochs in enumerate((2, 2, 2, 8))]
    eta = Eta()
    eta.add([[one] for one in members], planned=1.0)
    assert 2.0 + 6.0 > (eta.seconds(0.0) or 0.0) > 2.0 + 6.0 / 4  # between no faster, and as much as it is narrower
    now = train(eta, members, 0.0, 1.0, 2)
    pruned = replace(members[3])
    eta.take(Ended(pruned, Outcome(TrialState.PRUNED), now))
    assert eta.seconds(now) == 0.0


def test_a_resumed_stack_is_not_taken_to_have_trained_all_its_epochs_now(digits_config: Make) -> None:
    one = trial(digits_config({"epochs": 10}), 0)
    eta = Eta()
    eta.add([[one]], planned=1.0)
    eta.take(Started(one, 0.0, DatasetFacts("d", 1000, 1, 1), resumed=True))
    eta.take(Measured(one, Measurement(8, 80, 100, {}), 1.0))
    assert eta.seconds(1.0) == pytest.approx(2.0)


def test_thousands_of_stacks_that_are_alike_are_looked_at_once(
    digits_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[StackProgress] = []
    look = Eta._each_beside

    def counted(eta: Eta, one: StackProgress) -> float | None:
        looks.append(one)
        return look(eta, one)

    monkeypatch.setattr(Eta, "_each_beside", counted)
    eta, config = Eta(), digits_config({"epochs": 3})
    trials = [trial(config, number) for number in range(50)]
    for one in trials:
        eta.add([[one]], planned=0.0)
    now = train(eta, trials[:1], 0.0, 1.0, 3)
    assert eta.seconds(now) == eta.seconds(now) == pytest.approx(49 * 3.0)
    assert len(looks) == 1
