"""Trials that leave early: from trials to outcomes, in this process, and what later commands make of them."""

import errno
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sweepstack.config.parsing import parse
from sweepstack.events import Ended, Measured
from sweepstack.execution.assignment import Assignment, Parts, Paused, Reporter
from sweepstack.execution.engines.channel import work_folder
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.listener import Listener
from sweepstack.execution.open_store import ledger_of
from sweepstack.execution.prepare import Prepared, prepare
from sweepstack.execution.scheduler import execute, foresee
from sweepstack.planning.plan import UNITED
from sweepstack.tracking.runs import history
from sweepstack.tracking.store import Store
from sweepstack.trial import Outcome, Trial, TrialState

from ..stories import Command, deliver_all
from ..terminal import new_store

LRS = (0.0003, 3.0, 0.001, 1.0, 0.003, 0.3, 0.01, 0.1, 0.03)
HALVING = {"pruner.name": "halving"}
VALUE = "val/accuracy"

MakeTrials = Callable[..., Prepared]
Curves = Mapping[str, Sequence[float]]


@pytest.fixture
def trials(tmp_path: Path, digits_plain: Callable[..., dict[str, Any]]) -> Iterator[MakeTrials]:
    """`trials(**HALVING)`: one trial for each of `LRS`, 9 epochs each, in one stack."""
    threads = torch.get_num_threads()

    def make(
        seeds: Sequence[int] = (0,),
        batches: Sequence[int] = (100,),
        lrs: Sequence[float] = LRS,
        epochs: Sequence[int] = (9,),
        sweep: str = "sweep",
        **changes: Any,
    ) -> Prepared:
        config = {"threads": 1, "launch.stack": "force", "launch.width": 64, **changes}
        points = itertools.product(batches, lrs, seeds, epochs)
        made = []
        for number, (batch, lr, seed, longest) in enumerate(points):
            own = {"optimizer.lr": lr, "seed": seed, "batch_size": batch, "epochs": longest}
            parsed = parse(digits_plain({**config, **own}))
            params: dict[str, str | int | float | bool | None] = {
                "dataset": "digits",
                "lr": lr,
                "seed": seed,
                "batch_size": batch,
            }
            folder = tmp_path / "jobs" / str(number)
            name = f"lr={lr} seed={seed} bs={batch}" + (f" epochs={longest}" if len(epochs) > 1 else "")
            made.append(
                Trial(parsed.trial, number, name, params, folder, "", parsed.run, folder / "train.log", sweep=sweep)
            )
        return prepare(made, "train", InProcessExecutor())

    yield make
    torch.set_num_threads(threads)


class Events(Listener):
    """Keeps how trials end."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.lines: list[str] = []

    def on_ended(self, event: Ended) -> None:
        self.ended.append(event)

    def on_message(self, line: str) -> None:
        self.lines.append(line)


class Interrupts(Listener):
    """Ends the command when a trial is measured after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_measured(self, event: Measured) -> None:
        if event.measurement.epoch == self.epoch:
            self.epoch = 0  # a second signal would not wait for a checkpoint
            signal.raise_signal(signal.SIGINT)


def run(prepared: Prepared, store: Store, *listeners: Listener) -> dict[str, Outcome]:
    """Outcomes by the names of the trials."""
    outcomes = execute(prepared, store, InProcessExecutor(), listeners)
    deliver_all(store, ledger_of(store, None))  # what an interrupted command has left to a process of its own
    return {trial.name: outcomes[trial.fingerprint] for trial in prepared.trials}


def states(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {name: str(outcome.state) for name, outcome in outcomes.items()}


def curves(store: Store) -> dict[str, list[float]]:
    """The objective of each run after each epoch; every epoch is there once."""
    found = {}
    for row in store.rows("sweep"):
        points = store.client.get_metric_history(row.run_id, VALUE)
        assert sorted(point.step for point in points) == [*range(1, len(points) + 1)]
        found[row.name] = [value for _, value in history(store, row.run_id, VALUE)]
    return found


def unpruned(trials: Prepared, folder: Path, empty_database: Path) -> tuple[dict[str, Outcome], dict[str, list[float]]]:
    """Outcomes and curves of the same trials without a pruner, in a store of their own."""
    folder.mkdir()
    store = new_store(folder, empty_database)
    outcomes = run(trials, store)
    assert {*states(outcomes).values()} <= {"FINISHED", "FAILED"}
    return outcomes, curves(store)


def by_hand(settings: Sequence[Sequence[str]], values: Curves, before: Sequence[Curves] = ()) -> dict[str, int]:
    """Successive halving as the books have it: the epochs that each trial is trained.

    Args:
        settings: the names of the trials of each setting of a stack.
        values: the full curves of all trials.
        before: for the first rung and the second one, the values that earlier stacks have had there.
    """
    left, trained = [*settings], {name: 9 for names in settings for name in names}
    for number, rung in enumerate((1, 3)):
        mean = {names: sum(values[name][rung - 1] for name in names) / len(names) for names in map(tuple, left)}
        others = [value for (value,) in before[number].values()] if before else []
        ranking = sorted([*others, *mean.values()], reverse=True)
        places = {names: ranking.index(value) for names, value in mean.items()}
        for tied in mean:  # of equal ones, the first in the sweep wins
            places[tied] += others.count(mean[tied]) + [*mean.values()][: [*mean].index(tied)].count(mean[tied])
        stay = [names for names in mean if places[names] < max(1, len(ranking) // 3)]
        for names in mean:
            if names not in stay:
                trained |= dict.fromkeys(names, rung)
        left = [*stay]
    return trained


def test_halving_in_a_stack_is_successive_halving(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, full_curves = unpruned(trials(), tmp_path / "plain", empty_database)
    expected = by_hand([[name] for name in full], full_curves)
    assert sorted(expected.values()) == [1] * 6 + [3] * 2 + [9]
    capsys.readouterr()
    outcomes = run(trials(**HALVING), store)
    said = capsys.readouterr().out
    assert "pruner=halving: 1 in 3 goes on at epochs 1 and 3" in said
    assert "halving at epoch 1: 3 of 9 trials go on" in said
    assert "halving at epoch 3: 1 of 3 trials go on" in said
    assert "8 trials PRUNED: 21 of 81 trial-epochs trained" in said
    found = curves(store)
    assert {name: len(values) for name, values in found.items()} == expected
    for name, outcome in outcomes.items():
        assert found[name] == pytest.approx(full_curves[name][: expected[name]], abs=0.01)
        assert str(outcome.state) == ("FINISHED" if expected[name] == 9 else "PRUNED")
        assert outcome.metrics[VALUE] == found[name][-1]
        assert outcome.rungs == {epoch: found[name][epoch - 1] for epoch in (1, 3) if epoch <= len(found[name])}
        if expected[name] < 9:
            assert outcome.reason.startswith(f"pruned at epoch {expected[name]} by halving: ")
    rows = {row.name: row for row in store.rows("sweep")}
    assert {name: row.state for name, row in rows.items()} == states(outcomes)
    runs = [store.client.get_run(row.run_id) for row in rows.values()]
    assert {one.info.status for one in runs} == {"FINISHED"}
    pruned = [one for one in runs if "sweepstack.pruned" in one.data.tags]
    assert len(pruned) == 8
    assert not any("sweepstack.settled" in one.data.tags for one in pruned)


def test_the_same_command_leaves_pruned_trials_and_one_without_the_pruner_trains_them_on(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, full_curves = unpruned(trials(), tmp_path / "plain", empty_database)
    first = run(trials(**HALVING), store)
    work, chosen = foresee(trials(**HALVING), store, InProcessExecutor())
    assert (work.fresh, work.resumed, work.continued, chosen.plan.stacks) == ([], [], [], ())
    capsys.readouterr()
    seen = Events()
    assert run(trials(**HALVING), store, seen) == first
    assert seen.ended == []
    assert "8 trials pruned before: left so (pruner=none trains on)" in capsys.readouterr().out

    work, chosen = foresee(trials(), store, InProcessExecutor())
    assert [sorted(len(stack.trajectories) for stack in chosen.plan.stacks), work.fresh] == [[2, 6], []]
    outcomes = run(trials(), store, seen)
    assert "8 trials pruned before: resumed where that was" in capsys.readouterr().out
    assert states(outcomes) == states(full)
    assert len(seen.ended) == 8
    assert {one.recomposed for one in seen.ended} == {"resumed where it was pruned"}
    found = curves(store)  # of which each epoch is there once: none was trained twice
    for name, values in full_curves.items():
        assert found[name] == pytest.approx(values, abs=0.01)
    rows = store.rows("sweep")
    assert len(rows) == 9
    assert {row.state for row in rows} == {*states(full).values()}
    assert run(trials(**HALVING), store) == run(trials(), store)  # what is settled stays so


def test_seeds_of_a_setting_stay_and_leave_together(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path
) -> None:
    _, full_curves = unpruned(trials(seeds=(0, 1)), tmp_path / "plain", empty_database)
    settings = [[f"lr={lr} seed={seed} bs=100" for seed in (0, 1)] for lr in LRS]
    expected = by_hand(settings, full_curves)
    outcomes = run(trials(seeds=(0, 1), **HALVING), store)
    assert {name: len(values) for name, values in curves(store).items()} == expected
    assert len({outcomes[name].reason for name in settings[0]}) == 1


def test_a_second_stack_counts_what_the_first_one_has_reached(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path
) -> None:
    full, values = unpruned(trials(batches=(100, 200)), tmp_path / "plain", empty_database)
    one, two = ([[name] for name in full if name.endswith(f"bs={batch}")] for batch in (100, 200))
    first = by_hand(one, values)
    at_rungs = [{name: [values[name][rung - 1]] for name in first if first[name] >= rung} for rung in (1, 3)]
    expected = first | by_hand(two, values, at_rungs)
    run(trials(batches=(100, 200), **HALVING), store)
    assert {name: len(found) for name, found in curves(store).items()} == expected


def test_trials_that_train_alone_are_judged_against_those_before(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path
) -> None:
    full, values = unpruned(trials(**{"launch.stack": False}), tmp_path / "plain", empty_database)
    at_rungs: list[dict[str, list[float]]] = [{}, {}]
    expected: dict[str, int] = {}
    for name in full:
        expected |= by_hand([[name]], values, at_rungs)
        for known, rung in zip(at_rungs, (1, 3), strict=True):
            known |= {name: [values[name][rung - 1]]} if expected[name] >= rung else {}
    assert {*expected.values()} == {1, 3, 9}
    alone = {**HALVING, "launch.stack": False}
    outcomes = run(trials(**alone), store)
    assert {name: len(found) for name, found in curves(store).items()} == expected
    again = run(trials(**alone), store)
    assert [(one.state, one.rungs, one.reason) for one in again.values()] == [
        (one.state, one.rungs, one.reason) for one in outcomes.values()
    ]
    outcomes = run(trials(**{"launch.stack": False}), store)
    assert states(outcomes) == states(full)
    assert curves(store) == values  # bit for bit, since each goes on from its own checkpoint


def test_trials_that_are_trained_again_are_judged_as_the_first_time(store: Store, trials: MakeTrials) -> None:
    """Alone, the first one has nobody to be compared with."""
    alone = {**HALVING, "launch.stack": False}
    first = run(trials(lrs=LRS[:4], **alone), store)
    assert states(first)["lr=0.0003 seed=0 bs=100"] == "FINISHED"
    assert states(run(trials(lrs=LRS[:4], rerun=True, **alone), store)) == states(first)


def test_without_a_kept_state_a_pruned_trial_begins_again(store: Store, trials: MakeTrials, tmp_path: Path) -> None:
    first = run(trials(**HALVING, **{"pruner.keep": False}), store)
    assert store.database is not None
    assert not [*store.database.parent.glob("journal/*/checkpoints/*/*")]
    work, _ = foresee(trials(), store, InProcessExecutor())
    assert (len(work.fresh), work.continued) == (8, [])
    assert {*states(run(trials(), store)).values()} == {"FINISHED"}
    assert {str(one.state) for one in first.values()} == {"FINISHED", "PRUNED"}
    assert {len(values) for values in curves(store).values()} == {9}


def test_a_trial_that_was_pruned_alone_goes_on_as_a_stack_of_one(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path
) -> None:
    two = (0.001, 0.1)
    full, values = unpruned(trials(lrs=two), tmp_path / "plain", empty_database)
    first = run(trials(lrs=two, **HALVING), store)
    assert [*states(first).values()] == ["PRUNED", "FINISHED"]
    work, _ = foresee(trials(lrs=two), store, InProcessExecutor())
    assert [len(one.stack.trials) for one in work.continued] == [1]
    assert states(run(trials(lrs=two), store)) == states(full)
    found = curves(store)
    for name in full:
        assert found[name] == pytest.approx(values[name], abs=0.01)


def test_trials_that_share_a_training_leave_it_one_by_one(store: Store, trials: MakeTrials) -> None:
    """Of each learning rate one trial of 3 epochs, and one of 9: rungs are at the same part of their own epochs."""
    lrs = (0.001, 0.003, 0.1)
    outcomes = run(trials(lrs=lrs, epochs=(3, 9), **HALVING), store)
    found = {name: (str(one.state), len(curves(store)[name])) for name, one in outcomes.items()}
    # at epoch 1 the long ones are at their first rung, the short ones at the second one, their only one
    assert found == {
        "lr=0.001 seed=0 bs=100 epochs=3": ("PRUNED", 1),
        "lr=0.001 seed=0 bs=100 epochs=9": ("PRUNED", 1),
        "lr=0.003 seed=0 bs=100 epochs=3": ("PRUNED", 1),
        "lr=0.003 seed=0 bs=100 epochs=9": ("PRUNED", 1),
        "lr=0.1 seed=0 bs=100 epochs=3": ("FINISHED", 3),
        "lr=0.1 seed=0 bs=100 epochs=9": ("FINISHED", 9),
    }
    assert {*states(run(trials(lrs=lrs, epochs=(3, 9)), store)).values()} == {"FINISHED"}
    assert {name: len(values) for name, values in curves(store).items()} == {
        name: int(name.rpartition("=")[2]) for name in outcomes
    }


def test_what_was_pruned_in_a_sweep_counts_in_a_wider_one(store: Store, trials: MakeTrials) -> None:
    first = run(trials(lrs=LRS[:6], **HALVING), store)
    outcomes = run(trials(sweep="wider", **HALVING), store)
    assert {name: outcomes[name].state for name in first} == {name: one.state for name, one in first.items()}
    reasons = [one.reason for name, one in outcomes.items() if name not in first]
    assert all(" of 9" in reason or " of 3" in reason for reason in reasons if reason)


def test_a_loop_of_ones_own_is_told_to_stop_and_goes_on_from_its_state(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path
) -> None:
    own = {"trainer": {"_target_": "tests.training.test_own_loop.plain"}}
    _, values = unpruned(trials(lrs=(0.1, 0.001), **own), tmp_path / "plain", empty_database)
    outcomes = run(trials(lrs=(0.1, 0.001), **HALVING, **own), store)
    assert [*states(outcomes).values()] == ["FINISHED", "PRUNED"]
    assert [len(found) for found in curves(store).values()] == [9, 1]
    assert {*states(run(trials(lrs=(0.1, 0.001), **own), store)).values()} == {"FINISHED"}
    assert curves(store) == values


def test_trials_that_were_pruned_out_of_one_training_share_it_again(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path
) -> None:
    alone = {"lrs": (0.01,), "epochs": (3, 9)}
    _, values = unpruned(trials(**alone), tmp_path / "plain", empty_database)
    outcomes = run(trials(**alone, **{"pruner.name": "threshold", "pruner.bound": 0.99}), store)
    assert {one.reason for one in outcomes.values()} == {
        f"pruned at epoch 1 by threshold: val/accuracy is {values['lr=0.01 seed=0 bs=100 epochs=9'][0]:.4f}, the bound "
        "is 0.9900"
    }
    work, _ = foresee(trials(**alone), store, InProcessExecutor())
    assert [len(one.stack.trajectories) for one in work.continued] == [1]
    assert {*states(run(trials(**alone), store)).values()} == {"FINISHED"}
    assert curves(store) == values


def test_a_resumed_stack_trains_members_of_another_sweep_to_their_end(store: Store, trials: MakeTrials) -> None:
    """Nobody judges them or counts them: their own sweep has no pruner."""
    lrs = (0.0003, 0.001, 0.3, 0.01, 0.1)
    with pytest.raises(KeyboardInterrupt):
        run(trials(lrs=lrs, **{"checkpoint.every": 0}), store, Interrupts(2))
    two = run(trials(lrs=(0.01, 0.1), sweep="two", **HALVING), store)
    assert [*states(two).values()] == ["PRUNED", "FINISHED"]
    assert two["lr=0.01 seed=0 bs=100"].reason == "pruned at epoch 3 by halving: 2nd of 2"
    assert sorted(row.state for row in store.rows("sweep")) == [*["FINISHED"] * 4, "PRUNED"]
    assert {*states(run(trials(lrs=lrs), store)).values()} == {"FINISHED"}
    assert {len(values) for values in curves(store).values()} == {9}


def test_another_grid_decides_anew_by_what_is_known_at_the_rungs(store: Store, trials: MakeTrials) -> None:
    first = run(trials(lrs=(0.001, 0.01, 0.1), **HALVING), store)
    assert [*states(first).values()] == ["PRUNED", "PRUNED", "FINISHED"]
    fewer = trials(lrs=(0.001, 0.01), sweep="fewer", **HALVING)
    work, chosen = foresee(fewer, store, InProcessExecutor())
    assert [[trial.name for trial in stack.trials] for stack in chosen.plan.stacks] == [["lr=0.01 seed=0 bs=100"]]
    assert [outcome.reason for _, outcome, _ in work.settled] == ["pruned at epoch 1 by halving: 2nd of 2"]
    seen = Events()
    outcomes = run(fewer, store, seen)
    assert states(outcomes) == {"lr=0.001 seed=0 bs=100": "PRUNED", "lr=0.01 seed=0 bs=100": "FINISHED"}
    assert [one.recomposed for one in seen.ended] == ["resumed where it was pruned"]
    assert sorted(map(len, curves(store).values())) == [1, 9, 9]
    again = run(fewer, store, seen)
    assert (states(again), len(seen.ended)) == (states(outcomes), 1)
    bound = {"pruner.name": "threshold", "pruner.bound": 0.999}  # another pruner, too
    (outcome,) = run(trials(lrs=(0.001,), sweep="bound", **bound), store, seen).values()
    assert outcome.reason.startswith("pruned at epoch 1 by threshold: ")
    assert len(seen.ended) == 1


@pytest.mark.parametrize("stack", ["force", False])
def test_who_ends_by_itself_at_a_rung_is_not_pruned_there(store: Store, trials: MakeTrials, stack: Any) -> None:
    early = {"early_stopping.patience": 1, "early_stopping.min_delta": 0.99}
    seen = Events()
    made = trials(lrs=LRS[:2], epochs=(4,), **early, **HALVING, **{"pruner.min_epochs": 2, "launch.stack": stack})
    outcomes = run(made, store, seen)
    assert [str(one.state) for one in outcomes.values()] == ["FINISHED"] * 2
    assert all("no better" in one.reason or "patience" in one.reason for one in outcomes.values())
    assert [line for line in seen.lines if "go on" in line] == []


@pytest.mark.parametrize("keep_best", [False, True])
def test_the_record_of_a_trial_that_was_pruned_and_trained_on_has_the_points_of_an_undisturbed_one(
    store: Store, trials: MakeTrials, tmp_path: Path, empty_database: Path, keep_best: bool
) -> None:
    made = {"lrs": (0.001, 0.1), "epochs": (3,), "keep_best": keep_best}
    (tmp_path / "plain").mkdir()
    undisturbed = new_store(tmp_path / "plain", empty_database)
    run(trials(**made), undisturbed)
    run(trials(**made, **HALVING), store)
    run(trials(**made), store)
    assert recorded(store) == recorded(undisturbed)


def recorded(store: Store) -> Counter[tuple[str, str, int]]:
    """How often the store holds a point of each metric of each run at each step; but for times, of which each end has
    one.
    """
    runs = ((row, store.client.get_run(row.run_id).data.metrics) for row in store.rows("sweep"))
    names = ((row, key) for row, metrics in runs for key in metrics)
    histories = ((row.name, store.client.get_metric_history(row.run_id, key)) for row, key in names)
    return Counter(
        (name, point.key, point.step) for name, points in histories for point in points if "seconds" not in point.key
    )


BEHIND = tuple(5e-4 * number for number in (1, 3, 5, 7, 9, 11, 13, 15, 17, 2, 4, 6, 8, 10, 12, 14, 16, 22))
AHEAD = tuple(0.02 * number for number in (2, 3, 4, 5, 6, 7, 8, 9, 10))
THREE_STACKS = {**HALVING, "lrs": (*BEHIND, *AHEAD), "launch.width": 9, "checkpoint.every": 0}
"""What is left of the first two stacks pauses. The third one is better, and as much is left of it that it does not."""


class Pauses(Events):
    """Notes who has paused, and what is measured. Ends the command when one of those leaves, or when they go on."""

    def __init__(self, ends_at: str = "") -> None:
        super().__init__()
        self.ends_at, self.paused = ends_at, list[str]()
        self.measured: list[tuple[str, int]] = []

    def on_paused(self, event: Ended) -> None:
        self.paused.append(event.trial.name)

    def on_measured(self, event: Measured) -> None:
        self.measured.append((event.trial.name, round(event.measurement.epoch)))

    def on_ended(self, event: Ended) -> None:
        super().on_ended(event)
        if self.ends_at == "leaves" and event.trial.name in self.paused:
            raise KeyboardInterrupt

    def on_message(self, line: str) -> None:
        super().on_message(line)
        if self.ends_at and self.ends_at in line:
            raise KeyboardInterrupt


def test_who_was_paused_when_the_command_ended_is_still_compared_with_all_others(
    store: Store, trials: MakeTrials
) -> None:
    first, second = Pauses("leaves"), Pauses()
    with pytest.raises(KeyboardInterrupt):
        run(trials(**THREE_STACKS), store, first)
    assert len(first.paused) >= 2
    ended = {event.trial.name for event in first.ended}
    assert len(ended & {*first.paused}) == 1
    found = run(trials(**THREE_STACKS), store, second)
    assert {*second.paused} == {*first.paused} - ended
    assert {str(found[name].state) for name in first.paused} == {"PRUNED"}


@pytest.mark.parametrize("has_links", [True, False], ids=["", "no hard links"])
def test_those_that_go_on_together_keep_their_states_when_their_worker_is_lost_at_once(
    store: Store, trials: MakeTrials, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def no_link(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if not has_links:
        monkeypatch.setattr(os, "link", no_link)
    two_stacks = {**THREE_STACKS, "lrs": BEHIND}
    first, second = Pauses("paused trials go on"), Pauses()
    with pytest.raises(KeyboardInterrupt):
        run(trials(**two_stacks), store, first)
    ledger = ledger_of(store, None)
    (united,) = (path.parent for path in (ledger.folder / "checkpoints").glob("*/part-0.pt"))
    work_folder(ledger.folder, united.name).mkdir(parents=True)  # as of a worker that has reported nothing
    found = run(trials(**two_stacks), store, second)
    assert min(epoch for _, epoch in second.measured) > 3
    assert {str(found[name].state) for name in first.paused} & {"FINISHED"}


def test_paused_trials_do_not_wait_for_those_that_another_command_trains(store: Store, trials: MakeTrials) -> None:
    prepared = trials(**{**THREE_STACKS, "lrs": (*BEHIND, 0.1)})
    other = Command(ledger_of(store, None))
    assert other.claim(prepared.trials[-1]).fresh
    went_on: list[bool] = []

    def let_go(after: bool) -> None:
        if not went_on:
            went_on.append(after)
            other.end()

    class Waits(Listener):
        def on_message(self, line: str) -> None:
            if "paused trials go on" in line:
                let_go(True)

    late = threading.Timer(30, let_go, [False])
    late.start()
    found = run(prepared, store, Waits())
    late.cancel()
    assert went_on == [True]
    assert {*states(found).values()} == {"FINISHED", "PRUNED"}


class Fails(InProcessExecutor):
    """The first stack that goes on fails."""

    has_failed = False

    def train(self, assignment: Assignment, reporter: Reporter) -> Parts | Paused | None:
        if assignment.stack.note != UNITED or self.has_failed:
            return super().train(assignment, reporter)
        self.has_failed = True
        for trial in assignment.stack.trials:
            reporter.emit(Ended(trial, Outcome(TrialState.FAILED, reason="torn"), time.time()))
        return None


def test_those_that_were_about_to_go_on_end_when_too_many_have_failed(store: Store, trials: MakeTrials) -> None:
    events = Pauses()
    prepared = trials(**{**THREE_STACKS, "lrs": BEHIND[:9], "batches": (100, 85), "max_failures": 1})
    outcomes = execute(prepared, store, Fails(), [events])
    deliver_all(store, ledger_of(store, None))
    found = [outcomes[trial.fingerprint] for trial in prepared.trials if trial.name in events.paused]
    assert sorted(str(one.state) for one in found) == ["FAILED", "KILLED"]
    assert {event.trial.name for event in events.ended} >= {*events.paused}
    assert not [row.name for row in store.rows("sweep") if row.state == "RUNNING"]
    assert {*states(run(prepared, store)).values()} == {"FINISHED", "PRUNED"}
