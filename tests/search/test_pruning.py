"""What pruners decide, from values alone."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from sweepstack.config.parsing import parse
from sweepstack.config.run_sections import PrunerConfig, SearchConfig
from sweepstack.config.schema import RunConfig
from sweepstack.errors import ConfigError
from sweepstack.planning.compatibility import objective_key, setting_key
from sweepstack.search.pruning import Pruner
from sweepstack.search.rungs import (
    KnownRungs,
    Standing,
    bracket_of,
    brackets,
    describe_pruner,
    rungs_of,
    rungs_within,
)
from sweepstack.search.standings import Standings
from sweepstack.trial import Measurement, Outcome, TrialState

from ..stories import fingerprint

KEYS = [fingerprint(number) for number in range(10)]


def pruner(epochs: dict[str, int], settings: dict[str, int] | None = None, mode: Any = "max", **keys: Any) -> Pruner:
    """Trials by name, each with its epochs; each a setting of its own unless `settings` says otherwise."""
    numbers = settings or {name: number for number, name in enumerate(epochs)}
    standings = {name: Standing(numbers[name], one, "val/accuracy", mode) for name, one in epochs.items()}
    known = KnownRungs(PrunerConfig(**keys), max(epochs.values()), standings)
    found = Pruner(KnownRungs.from_json(json.loads(json.dumps(known.as_json()))))  # as a worker gets it
    found.begin()
    return found


def at(one: Pruner, epoch: float, **values: float) -> dict[str, str]:
    for name, value in values.items():
        one.take(name, epoch, value)
    return dict(one.decide().leaving)


def test_of_n_that_reach_a_rung_together_the_best_third_goes_on() -> None:
    one = pruner(dict.fromkeys("abcdefg", 9), name="halving")
    leaving = at(one, 1, a=0.1, b=0.7, c=0.3, d=0.4, e=0.5, f=0.6, g=0.2)
    assert leaving == {
        "e": "pruned at epoch 1 by halving: 3rd of 7",
        "d": "pruned at epoch 1 by halving: 4th of 7",
        "c": "pruned at epoch 1 by halving: 5th of 7",
        "g": "pruned at epoch 1 by halving: 6th of 7",
        "a": "pruned at epoch 1 by halving: 7th of 7",
    }
    assert at(one, 2, b=0.1, f=0.9) == {}
    assert at(one, 3, b=0.1, f=0.9) == {"b": "pruned at epoch 3 by halving: 2nd of 2"}
    assert at(one, 9, f=0.9) == {}


def test_one_goes_on_even_of_two_and_the_first_of_equal_ones() -> None:
    assert sorted(at(pruner(dict.fromkeys("ab", 4), name="halving", mode="min"), 1, a=0.3, b=0.3)) == ["b"]
    assert at(pruner({"a": 4}, name="halving"), 1, a=0.3) == {}


def test_seeds_of_a_setting_are_judged_by_their_mean() -> None:
    seeds = {"a0": 0, "a1": 0, "b0": 1, "b1": 1, "c0": 2, "c1": 2}
    one = pruner(dict.fromkeys(seeds, 4), seeds, name="halving")
    leaving = at(one, 1, a0=0.9, a1=0.1, b0=0.6, b1=0.6, c0=0.0, c1=0.99)
    assert sorted(leaving) == ["a0", "a1", "c0", "c1"]


def test_a_setting_of_which_a_trial_has_failed_comes_last_at_the_next_rung_only() -> None:
    seeds = {"a0": 0, "a1": 0, "b0": 1, "c0": 2}
    one = pruner(dict.fromkeys(seeds, 27), seeds, name="halving", factor=2)
    one.end("a1", failed=True)
    assert sorted(at(one, 1, a0=0.9, b0=0.2, c0=0.1)) == ["a0", "c0"]  # of three, one goes on
    other = pruner(dict.fromkeys("abcd", 8), name="halving", factor=2)
    assert sorted(at(other, 1, a=0.4, b=0.3, c=0.2, d=0.1)) == ["c", "d"]
    other.end("a", failed=True)
    assert at(other, 2, b=0.3) == {}  # a counts as the loser


def test_a_stack_counts_who_has_reached_the_rung_before_it() -> None:
    one = pruner(dict.fromkeys("abcdef", 9), name="halving")
    one._standings["a"].values[1], one._standings["b"].values[1] = 0.5, 0.6
    assert sorted(at(one, 1, c=0.7, d=0.55, e=0.1, f=0.65)) == ["d", "e"]
    assert at(one, 3, c=0.7, f=0.9) == {"c": "pruned at epoch 3 by halving: 2nd of 2"}


def test_what_was_pruned_before_is_pruned_at_the_same_rung_again_and_its_other_seeds_with_it() -> None:
    one = pruner(dict.fromkeys(("a0", "a1", "b0"), 9), {"a0": 0, "a1": 0, "b0": 1}, name="halving")
    one._standings["a0"].values.update({1: 0.9, 3: 0.9})
    one._standings["a0"].pruned = True
    assert at(one, 1, a0=0.9, a1=0.9, b0=0.1) == {"b0": "pruned at epoch 1 by halving: 2nd of 2"}
    assert sorted(at(one, 3, a0=0.9, a1=0.9)) == ["a0", "a1"]


@pytest.mark.parametrize("name", ["halving", "median"])
def test_who_left_in_one_fold_does_not_push_out_in_the_next_one_who_went_on(name: str) -> None:
    """Folds are stacks of their own. Else each of two settings would be pruned in one of them, and none be whole."""
    settings = {"a0": 0, "a1": 0, "b0": 1, "b1": 1, "b2": 1, "c0": 2}
    one = pruner(dict.fromkeys(settings, 9), settings, name=name, **({"min_trials": 2} if name == "median" else {}))
    for key, value in {"a0": 0.5, "b0": 0.6}.items():
        one._standings[key].values[1] = value
    one._standings["a0"].pruned = True
    assert sorted(at(one, 1, a1=0.9, b1=0.6)) == ["a1"]
    assert sorted(at(one, 1, c0=0.9)) == []
    assert sorted(at(one, 1, b2=0.6)) == ["b2"]  # a new setting does push out


def test_who_left_in_one_fold_does_not_push_out_those_that_have_paused() -> None:
    """They have gone on, too. Else all trials of a grid could be pruned."""
    settings = {"a0": 0, "a1": 0, "b0": 1, "b1": 1, "c0": 2}
    one = pruner(dict.fromkeys(settings, 9), settings, name="halving")
    for key, value in {"a0": 0.5, "b0": 0.6, "a1": 0.9, "b1": 0.6}.items():
        one._standings[key].values[1] = value
    one._standings["a0"].pruned = one._standings["a1"].pruned = True
    assert one.decide_where_they_stand(["b0", "b1"]) == {}
    one._standings["c0"].values[1] = 0.9
    assert sorted(one.decide_where_they_stand(["b0", "b1"])) == ["b0", "b1"]


def test_no_median_is_computed_of_values_that_are_no_numbers() -> None:
    nan = math.nan
    assert at(pruner(dict.fromkeys("abcd", 9), name="median"), 1, a=nan, b=nan, c=nan, d=nan) == {}


def test_rungs_of_a_shorter_training_are_at_the_same_part_of_its_own_epochs() -> None:
    config = PrunerConfig(name="halving")
    assert rungs_of(config, 27) == [1, 3, 9]
    assert rungs_of(config, 28) == [1, 3, 9, 27]
    assert rungs_within(config, 27, 9) == [(3, 1.0), (9, 3.0)]  # a third of an epoch is before min_epochs
    one = pruner({"a": 27, "b": 9}, name="halving")
    assert at(one, 1, a=0.1, b=0.9) == {}  # rung 1 of a, and rung 3 of b
    assert at(one, 3, a=0.8, b=0.9) == {"a": "pruned at epoch 3 by halving: 2nd of 2"}
    wider = pruner({"a": 9, "b": 9, "c": 27}, name="halving")  # what a sweep of 9 epochs has left
    for name, value in {"a": 0.9, "b": 0.8}.items():
        wider._standings[name].values.update({1: value, 3: value})
    assert at(wider, 1, c=0.1) == {}
    assert at(wider, 3, c=0.1) == {"c": "pruned at epoch 3 by halving: 3rd of 3"}
    (line,) = describe_pruner(config, [27, 9])
    assert line.startswith("pruner=halving: 1 in 3 goes on at epochs 1, 3 and 9 of 27 epochs, in a shorter training")
    assert line.endswith("at the same part of its own epochs (at epochs 1 and 3 of 9)")
    assert describe_pruner(config, [1, 1]) == [
        "pruner=halving: no trial has more epochs than pruner.min_epochs=1, so none ends early"
    ]


def test_a_training_that_is_measured_seldom_is_judged_at_the_first_measurement_after_a_rung() -> None:
    one = pruner(dict.fromkeys("ab", 9), name="halving")
    assert at(one, 0.5, a=0.2, b=0.1) == {}
    assert at(one, 1.5, a=0.2, b=0.1) == {"b": "pruned at epoch 1.5 by halving: 2nd of 2"}


def test_a_training_that_goes_on_from_a_checkpoint_knows_the_rungs_that_it_has_passed() -> None:
    one = pruner(dict.fromkeys("ab", 9), name="halving")
    at(one, 1, a=0.2)
    at(one, 3, a=0.3)
    kept = json.loads(json.dumps(one.passed))
    again = pruner(dict.fromkeys("ab", 9), name="halving")
    again.begin(4.0, kept)
    assert at(again, 5, a=0.9, b=0.1) == {}
    assert again.rungs("a") == {1: 0.2, 3: 0.3}
    assert again.rungs("b") == {}  # its checkpoint knew no pruner: what it had at a rung is not known


def test_hyperband_deals_settings_to_brackets_by_their_numbers() -> None:
    config = PrunerConfig(name="hyperband")
    shares = brackets(config, 27)
    assert shares == [27, 12, 6, 4]  # as in the paper, for R = 27 and eta = 3
    dealt = [bracket_of(number, shares) for number in range(49)]
    assert [dealt.count(bracket) for bracket in range(4)] == shares
    assert len({*dealt[:6]}) > 2  # not the first settings of a grid into one bracket
    one = pruner({str(number): 27 for number in range(49)}, name="hyperband")
    first = at(one, 1, **{str(number): number / 49 for number in range(49)})
    assert len(first) == 27 - 9
    assert {bracket_of(int(name), shares) for name in first} == {0}


def test_the_median_does_not_get_stricter_when_the_losers_are_gone() -> None:
    one = pruner(dict.fromkeys("abcd", 9), name="median")
    assert sorted(at(one, 1, a=0.1, b=0.2, c=0.3, d=0.4)) == ["a", "b"]
    assert at(one, 2, c=0.35, d=0.4) == {}  # below the median of both that are left
    few = pruner(dict.fromkeys("abc", 9), name="median")
    assert at(few, 1, a=0.1, b=0.2, c=0.3) == {}  # fewer than min_trials


def test_a_bound_and_patience_compare_a_setting_with_nobody() -> None:
    one = pruner(dict.fromkeys("ab", 9), mode="min", name="threshold", bound=1.0, min_epochs=2)
    assert at(one, 1, a=5.0, b=0.5) == {}
    assert at(one, 2, a=5.0, b=0.5) == {
        "a": "pruned at epoch 2 by threshold: val/accuracy is 5.0000, the bound is 1.0000"
    }
    two = pruner(dict.fromkeys("ab", 9), name="patient", patience=2, min_delta=0.05)
    assert at(two, 1, a=0.5, b=0.5) == at(two, 2, a=0.52, b=0.6) == {}
    assert at(two, 3, a=0.54, b=0.61) == {
        "a": "pruned at epoch 3 by patient: no better val/accuracy than 0.5000 for 2 epochs"
    }


def test_patience_counts_epochs_however_seldom_a_trial_is_measured() -> None:
    one = pruner({"a": 18}, name="patient", patience=3)
    assert at(one, 2, a=0.5) == at(one, 4, a=0.4) == {}
    assert at(one, 6, a=0.5) == {"a": "pruned at epoch 6 by patient: no better val/accuracy than 0.5000 for 4 epochs"}
    (line,) = describe_pruner(PrunerConfig(name="patient"), [18], by_epoch=False)
    assert line.endswith("after each epoch from 1 to 17, or at the first measurement after that")


def test_a_trial_that_ends_by_itself_at_a_rung_is_not_pruned_nor_are_its_other_seeds_for_it() -> None:
    seeds = {"a0": 0, "a1": 0, "b0": 1, "c0": 2}
    one = pruner(dict.fromkeys(seeds, 9), seeds, name="halving")
    for name, value in {"a0": 0.1, "b0": 0.9, "c0": 0.2}.items():
        one.take(name, 1, value)
    one.end("a0", failed=False)  # as early_stopping does
    decision = one.decide()
    assert dict(decision.leaving) == {"c0": "pruned at epoch 1 by halving: 2nd of 3"}
    assert decision.judged == 2
    one._standings["c0"].values[1] = one._standings["b0"].values[1] = 0.01
    assert at(one, 1, a1=0.5) == {}  # the setting is the best now


ACCURACY = {"task.objective": {"name": "val/accuracy", "mode": "max"}}
LOSS = {"task.objective": {"name": "val/loss", "mode": "min"}}
SMOOTH = {"task.loss": {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1}}
OWN = {"_target_": "my.top5", "name": "top5", "mode": "max"}
TOP5 = {"task.objective": {"name": "val/top5", "mode": "max"}}


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({}, ACCURACY, True),
        ({}, {**ACCURACY, **SMOOTH}, True),
        ({}, LOSS, False),
        (LOSS, {**LOSS, **SMOOTH}, False),
        ({}, {"validation_split": 0.2}, False),
        ({"folds": 3, "fold": 0}, {"folds": 3, "fold": 1}, True),
        ({**LOSS, **SMOOTH}, {**LOSS, **SMOOTH}, True),
        ({**TOP5, "task.metrics": [OWN]}, {**TOP5, "task.metrics": [OWN, "auroc"]}, True),
        ({**TOP5, "task.metrics": [OWN]}, {**TOP5, "task.metrics": [{**OWN, "k": 3}]}, False),
    ],
)
def test_trials_are_compared_if_their_objectives_measure_the_same(
    trial: Any, digits_config: Any, one: dict[str, Any], other: dict[str, Any], alike: bool
) -> None:
    standings = Standings(PrunerConfig(name="halving"))
    configs = [digits_config({"optimizer.lr": lr, **changes}) for lr, changes in ((0.1, one), (0.2, other))]
    held_out = [config.held_out._replace(fold=None) for config in configs]
    same_key = objective_key(configs[0]) == objective_key(configs[1])
    assert (same_key and held_out[0] == held_out[1]) is alike
    standings.add(trial(number, fingerprint=KEYS[number], config=config) for number, config in enumerate(configs))
    known = standings.known()
    assert known is not None
    judge = Pruner(known)
    judge.begin()
    for key, value in zip(KEYS[:2], (0.5, 0.4), strict=True):
        judge.take(key, 1.0, value)
    assert len(judge.decide().leaving) == alike


def test_trials_on_unlike_data_are_not_compared(trial: Any, digits_config: Any) -> None:
    """Else the data that are the easiest would be all that is left."""
    standings = Standings(PrunerConfig(name="halving"))
    keys = [fingerprint(number, data=number // 2) for number in range(4)]
    lrs = (0.1, 0.2, 0.3, 0.4)
    standings.add(
        trial(number, fingerprint=keys[number], config=digits_config({"optimizer.lr": lr}))
        for number, lr in enumerate(lrs)
    )
    known = standings.known()
    assert known is not None
    judge = Pruner(known)
    judge.begin()
    for key, value in zip(keys, (0.9, 0.8, 0.2, 0.1), strict=True):
        judge.take(key, 1.0, value)
    assert [*judge.decide().leaving] == [keys[1], keys[3]]


def test_smaller_and_larger_values_are_better_side_by_side() -> None:
    one = pruner(dict.fromkeys("abcd", 9), name="halving")
    for name in "cd":
        one._standings[name].mode, one._standings[name].comparable = "min", "loss"
    assert sorted(at(one, 1, a=0.9, b=0.1, c=0.9, d=0.1)) == ["b", "c"]


def test_a_setting_is_all_but_seed_and_fold(digits_config: Any) -> None:
    same = [digits_config({"seed": seed, "folds": 3, "fold": seed}) for seed in (0, 1)]
    assert len({setting_key(config) for config in (*same, digits_config({"optimizer.lr": 0.5}))}) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_the_worst(value: float) -> None:
    one = pruner(dict.fromkeys("ab", 9), mode="min", name="halving")
    assert [*at(one, 1, a=value, b=5.0)] == ["a"]


def test_what_a_command_knows_of_a_trial_is_what_its_worker_knows(trial: Any, digits_config: Any) -> None:
    one, other = (
        trial(number, fingerprint=KEYS[number], config=digits_config({"optimizer.lr": lr}))
        for number, lr in enumerate((0.1, 0.2))
    )
    standings = Standings(PrunerConfig(name="halving"))
    standings.add([one, other])
    epochs = one.config.epochs
    assert epochs == 2
    standings.take(one, Measurement(1, 7, 14, {"val/accuracy": 0.5}), 0)
    standings.take(other, Measurement(2, 14, 14, {"val/accuracy": 0.5}), 7)  # at its end
    known = standings.known()
    assert known is not None
    assert [known.standings[key].values for key in KEYS[:2]] == [{1.0: 0.5}, {}]
    worker = Pruner(known)
    worker.begin()
    worker.take(KEYS[1], 1.0, 0.4)
    assert [*worker.decide().leaving] == [KEYS[1]]
    assert standings.known() is not known
    assert Standings(PrunerConfig()).known() is None


def test_rungs_are_counted_on_the_longest_training_that_may_come(trial: Any, digits_config: Any) -> None:
    short = trial(0, fingerprint=KEYS[0], config=digits_config({"epochs": 9}))
    standings = Standings(PrunerConfig(name="halving"), longest=27)
    standings.add([short])
    known = standings.known()
    assert known is not None
    assert known.longest == 27
    (line,) = describe_pruner(known.config, [9], longest=27)
    assert line.startswith("pruner=halving: 1 in 3 goes on at epochs 1, 3 and 9 of 27 epochs, in a shorter training")


@pytest.mark.parametrize(("search", "stands"), [("grid", False), ("tpe", True)])
def test_what_was_decided_stands_in_a_search_that_has_grown_and_in_no_other_grid(
    trial: Any, digits_config: Any, search: str, stands: bool
) -> None:
    config = PrunerConfig(name="halving")
    run = RunConfig(pruner=config, search=SearchConfig(name=search))
    trials = [
        trial(number, fingerprint=KEYS[number], config=digits_config({"optimizer.lr": lr}), run=run)
        for number, lr in enumerate((0.1, 0.2, 0.3))
    ]
    small, large, same, other = (Standings(config) for _ in range(4))
    small.add(trials[:2])
    large.add(trials)
    same.add(trials[:2])
    other.add(trials[1:])
    known = small.known()
    assert known is not None
    outcome = Outcome(TrialState.PRUNED, reason="as it was", rungs={1.0: 0.5}, population=known.population)
    assert same.judge({KEYS[1]: outcome, KEYS[9]: outcome}) == {KEYS[1]: outcome}
    assert large.judge({KEYS[1]: outcome}) == ({KEYS[1]: outcome} if stands else {})
    assert other.judge({KEYS[1]: outcome}) == {}
    two = other.judge({KEYS[1]: outcome, KEYS[2]: replace(outcome, rungs={1.0: 0.6})})
    assert {key: one.reason for key, one in two.items()} == {KEYS[1]: "pruned at epoch 1 by halving: 2nd of 2"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"pruner.name": "halving", "search.name": "nsga2"}, "judges by one objective, and search=nsga2 has two"),
        ({"pruner.name": "median", "validation_split": 0.0}, "validation_split must hold data out for pruner=median"),
        ({"pruner.name": "threshold"}, "pruner.bound is required and missing: the val/accuracy at which a trial ends"),
        ({"pruner.name": "median", "pruner.patience": 2}, "should be 3, because it is a key of pruner=patient, got 2"),
        ({"pruner.name": "halvng"}, "pruner.name should be 'none', 'halving'"),
    ],
)
def test_a_mistake_is_one_line(digits_plain: Any, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        parse(digits_plain(changes))
    assert "\n" not in str(caught.value)
