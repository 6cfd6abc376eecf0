"""The time that is left: by the measured epochs, the plan, and who trains side by side."""

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.events import Ended, Event, Measured, Started
from sweepstack.execution.control.eta import SLOWER_TOGETHER, Eta
from sweepstack.execution.control.stack_progress import StackProgress, Survival
from sweepstack.trial import DatasetFacts, Measurement, Outcome, Trial, TrialState

Make = Callable[..., TrialConfig]
MakeRun = Callable[..., RunConfig]
Events = list[tuple[float, Event]]
"""What happens, in the order of its times."""
STEPS = 10
"""Updates of an epoch."""
PARTS = 10
"""Parts of an epoch after which the made-up machine looks how many stacks train."""
GOAL = 0.2
"""How far the whole time may be off, as a part of it, from a tenth of it on."""


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


def test_the_pause_between_two_commands_is_no_training(digits_config: Make) -> None:
    one = trial(digits_config({"epochs": 10}), 0)
    eta = Eta()
    eta.add([[one]], planned=0.0)
    train(eta, [one], 0.0, 1.0, 4)
    eta.take(Started(one, 1000.0, DatasetFacts("d", 1000, 1, 1), resumed=True))
    assert eta.seconds(1000.0) == pytest.approx(6.0)
    eta.take(Measured(one, Measurement(5, 50, 100, {}), 1001.0))
    assert eta.seconds(1001.0) == pytest.approx(5.0)
    eta.take(Measured(one, Measurement(6, 60, 100, {}), 1001.0))  # two clocks that differ: no time has passed
    assert (eta.seconds(1001.0) or 0.0) <= 4.0


def test_thousands_of_stacks_that_are_alike_are_looked_at_once(
    digits_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[StackProgress] = []
    summed: list[StackProgress] = []
    look, sum_up = Eta._each_beside, StackProgress.epochs_left

    def counted(eta: Eta, one: StackProgress) -> float | None:
        looks.append(one)
        return look(eta, one)

    def counted_too(one: StackProgress, survival: Survival) -> tuple[float, float]:
        summed.append(one)
        return sum_up(one, survival)

    monkeypatch.setattr(Eta, "_each_beside", counted)
    monkeypatch.setattr(StackProgress, "epochs_left", counted_too)
    eta, config = Eta(), digits_config({"epochs": 3})
    trials = [trial(config, number) for number in range(50)]
    for one in trials:
        eta.add([[one]], planned=0.0)
    now = train(eta, trials[:1], 0.0, 1.0, 3)
    assert eta.seconds(now) == eta.seconds(now) == pytest.approx(49 * 3.0)
    assert (len(looks), len(summed)) == (1, 1)


@dataclass
class Machine:
    """A made-up machine that trains as no estimate can know: what it takes for what, in seconds."""

    workers: int = 1
    setup: float = 1.0
    """Before the first epoch of a stack."""
    testing: float = 0.3
    """At the end of a trial."""
    gap: float = 0.2
    """From one stack of a worker to the next."""
    together: float = 1.0
    """How many times as long epochs take while two workers train."""

    def each(self, stack: Sequence[Trial], alive: int) -> float:
        """The seconds of an epoch alone: with small batches longer, and hardly shorter in a narrower stack at first."""
        width = alive / len(stack)
        return 32 / stack[0].config.batch_size * (1.0 if width > 0.6 else 0.3 + 0.6 * width)

    def train(self, stacks: Sequence[Sequence[Trial]], pruned: Callable[[Trial], int] = lambda one: 10**6) -> Events:
        """Returns what happens when: each worker takes the next stack when it is free.

        Args:
            stacks: the trials of each.
            pruned: the epoch after which a trial leaves.
        """
        waiting, events = [*stacks], list[tuple[float, Event]]()
        running: list[tuple[float, int, Iterator[float | Event]]] = []
        now, count = 0.0, itertools.count()
        for _ in range(self.workers):
            if waiting:
                heapq.heappush(running, (0.0, next(count), self._course(waiting.pop(0), pruned)))
        while running:
            now, _, course = heapq.heappop(running)
            crowd = self.together if running else 1.0
            for step in course:
                if isinstance(step, float):
                    heapq.heappush(running, (now + step * crowd, next(count), course))
                    break
                events.append((now, replace(step, at=now)))
            else:
                if waiting:
                    course = self._course(waiting.pop(0), pruned)
                    heapq.heappush(running, (now + self.gap, next(count), course))
        return events

    def _course(self, stack: Sequence[Trial], pruned: Callable[[Trial], int]) -> Iterator[float | Event]:
        """Yields the events of a stack, and the seconds between them."""
        for one in stack:
            yield Started(one, 0.0, DatasetFacts("d", 1000, 1, 1))
        yield self.setup
        alive = [*stack]
        for epoch in itertools.count(1):
            for _ in range(PARTS):  # so that the others of a crowd are noticed in the midst of an epoch
                yield self.each(stack, len(alive)) / PARTS
            for one in alive:
                yield Measured(one, Measurement(epoch, epoch * STEPS, one.config.epochs * STEPS, {}), 0.0)
            leaving = [one for one in alive if epoch in (one.config.epochs, pruned(one))]
            for one in leaving:
                yield self.testing
                state = TrialState.FINISHED if epoch == one.config.epochs else TrialState.PRUNED
                yield Ended(one, Outcome(state), 0.0)
            alive = [one for one in alive if one not in leaving]
            if not alive:
                return


def shown(eta: Eta, events: Events, expected: int = 0) -> dict[float, float]:
    """Returns the whole time as it is shown, as a part of the true one, by the part of the time at which it is."""
    end, taken, found = events[-1][0], 0, {}
    for part in range(10, 91):
        now = part / 100 * end
        while taken < len(events) and events[taken][0] <= now:
            eta.take(events[taken][1])
            taken += 1
        left = eta.seconds(now, expected)
        assert left is not None
        found[part / 100] = (now + left) / end
    return found


def wrong(found: dict[float, float]) -> dict[float, float]:
    return {at: round(whole, 2) for at, whole in found.items() if abs(whole - 1) > GOAL}


@pytest.mark.parametrize("off", [1.0, 1.15])
@pytest.mark.parametrize(
    "machine",
    [Machine(), Machine(2), Machine(2, together=1.4), Machine(2, together=1.7), Machine(2, setup=3.0, gap=1.0)],
    ids=["one worker", "two", "each disturbs the other", "very much so", "they begin slowly"],
)
def test_a_tenth_of_the_time_tells_the_whole_within_a_fifth(machine: Machine, off: float, digits_config: Make) -> None:
    """Stacks of unlike epochs and batch sizes; the plan is wrong, of each other stack too low."""
    eta, stacks = Eta(machine.workers), list[list[Trial]]()
    for size, wrong_by in ((16, off), (32, 1 / off), (64, off), (128, 1 / off)):
        settings = itertools.product((4, 12, 40), (0.1, 0.2, 0.3))
        configs = [digits_config({"batch_size": size, "epochs": e, "optimizer.lr": lr}) for e, lr in settings]
        stacks.append([trial(config, 10 * size + number) for number, config in enumerate(configs)])
        eta.add([[one] for one in stacks[-1]], machine.each(stacks[-1], 9) * wrong_by)
    assert wrong(shown(eta, machine.train(stacks))) == {}


def test_trials_of_a_search_are_expected_to_leave_at_the_rungs_as_earlier_ones_did(
    digits_config: Make, digits_run: MakeRun
) -> None:
    """Halving in stacks of nine, of which only the first four are planned; the others follow."""
    config, run = digits_config({"epochs": 27}), digits_run({"pruner": {"name": "halving"}})
    stacks = [[replace(trial(config, 9 * row + number), run=run) for number in range(9)] for row in range(12)]
    leaves = {trial.number: (27, 9, 3, 3, 3, 1, 1, 1, 1)[trial.number % 9] for stack in stacks for trial in stack}
    eta, machine = Eta(), Machine()
    events = machine.train(stacks, lambda one: leaves[one.number])
    for stack in stacks[:4]:
        eta.add([[one] for one in stack], machine.each(stack, 9))
    early = {at: whole for at, whole in shown(eta, events, 8 * 9).items() if at < 0.3}
    assert wrong(early) == {}
    assert eta.seconds(None, 0) == 0.0


def test_a_stack_whose_epoch_takes_long_is_not_taken_to_have_done_it(digits_config: Make) -> None:
    one = trial(digits_config({"epochs": 10}), 0)
    eta = Eta()
    eta.add([[one]], planned=1.0)
    now = train(eta, [one], 0.0, 1.0, 4)
    assert eta.seconds(now + 0.5) == pytest.approx(5.5)
    assert eta.seconds(now + 20.0) == pytest.approx(5.0)  # such as on a machine that sleeps


def test_what_is_left_of_stacks_waits_and_goes_on_in_another_one(digits_config: Make) -> None:
    trials = [trial(digits_config({"epochs": 27, "batch_size": 10}), number) for number in range(12)]
    eta, now = Eta(), 0.0
    for stack in (trials[:4], trials[4:8], trials[8:]):
        eta.add([[one] for one in stack], planned=1.0)
    for stack in (trials[:4], trials[4:8]):
        now = train(eta, stack, now, 1.0, 3)
        eta.pause(stack[0])
        for one in stack[1:]:
            eta.take(Ended(one, Outcome(TrialState.PRUNED), now))
        assert eta.running == []
    two, one_left = 24 * (0.3 + 0.7 * 2 / 4), 24 * (0.3 + 0.7 / 4)
    # Of the third stack nobody is expected to go on.
    assert eta.seconds(now) == pytest.approx(3.0 + two, rel=0.1)
    eta.take(Ended(trials[4], Outcome(TrialState.PRUNED), now))  # it does not go on
    assert eta.seconds(now) == pytest.approx(3.0 + one_left, rel=0.1)
    united = eta.add([trials[:1]], planned=9.0)
    assert eta.seconds(now) == pytest.approx(3.0 + one_left, rel=0.1)
    now += 100.0  # nobody has trained meanwhile
    eta.take(Started(trials[0], now, DatasetFacts("d", 1000, 1, 1), resumed=True))
    assert eta.running == [united]
    assert (united.done, united.epochs) == (3, 27)
    assert eta.seconds_of(united, now) == pytest.approx(one_left, rel=0.1)
    eta.take(Measured(trials[0], Measurement(4, 4 * STEPS, 27 * STEPS, {}), now + 0.5))
    assert eta.seconds_of(united, now + 0.5) == pytest.approx(23 * 0.5, rel=0.01)
