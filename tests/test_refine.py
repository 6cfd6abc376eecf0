"""`sweepstack refine`, as it is typed: further seeds for the settings that may be the best."""

import shlex
import signal
import sys
from pathlib import Path

import pytest

from sweepstack.results.selection.select import select
from sweepstack.results.tables.frame import table
from sweepstack.tracking.store import Store

from . import here
from .terminal import Terminal, new_store

SMALL = ("dataset=digits", "epochs=3", "device=cpu", "threads=1", "engine=inline")


@pytest.fixture
def store(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Of the commands that are typed here."""
    monkeypatch.chdir(tmp_path)
    store = new_store(tmp_path, empty_database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return store


def test_the_settings_that_may_be_the_best_get_seeds_until_the_budget_is_spent(store, tmp_path, capfd):
    rates = "optimizer.lr=0.001,0.3,0.7,1.0"
    assert here.train("-m", *SMALL, rates, "seed=0,1,2", "tracking.sweep=rates").code == 0
    (tmp_path / "multirun" / "rates" / "multirun.yaml").rename(tmp_path / "before.yaml")
    done = here.sweepstack("refine", "--budget", "7")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "3 settings of 4 may be the best: 6 trials with seed 3, 4"
    assert "6 trials trained; the next round takes" in done.out
    assert "Trials were added after a first look at 3 seeds; the test allows for a look after each seed" in done.out
    assert "table --by-seed --sweep rates" in done.out
    trained = capfd.readouterr().out
    assert "6 trials -> 6 trajectories -> 1 stack" in trained
    assert " lr=0.3 seed=3  val" in trained
    assert "epochs=3" not in trained  # the names hold what varies in the sweep
    assert "state" not in trained  # no table of all trials
    frame = table("rates", store=store)
    assert len(frame) == 18
    assert set(frame[frame["lr"] == 0.001]["seed"]) == {0, 1, 2}
    assert set(frame[frame["lr"] == 0.7]["seed"]) == {0, 1, 2, 3, 4}
    assert not (tmp_path / "multirun" / "rates" / "multirun.yaml").exists()
    shown = here.sweepstack("table", "--by-seed", "--sweep", "rates")
    assert "note: trials were added after a first look at 3 seeds" in shown.err
    assert select(frame).groups.iloc[-1]["mark"] == ""
    again = here.train("-m", *SMALL, rates, "seed=0,1,2", "tracking.sweep=rates")
    assert "12 trials trained before: not trained again" in again.out


def test_seeds_that_a_second_command_adds_are_noted_and_those_of_a_resumed_one_are_not(store):
    words = ("-m", *SMALL, "optimizer.lr=0.3,1.0", "tracking.sweep=wider")
    assert here.train(*words, "seed=0,1").code == 0
    assert here.train(*words, "seed=0,1").code == 0
    assert select(table("wider", store=store)).added == ""
    assert here.train(*words, "seed=0,1,2", "hydra.sweeper.max_batch_size=2").code == 0
    assert "after a first look at 2 seeds" in select(table("wider", store=store)).added


def test_single_seeds_get_further_ones_and_what_is_clear_needs_none(store, capfd):
    assert here.train("-m", *SMALL, "optimizer.lr=0.0001,1.0", "tracking.sweep=single").code == 0
    done = here.sweepstack("refine", "--sweep", "single")
    assert done.code == 0
    assert "one setting is the best" in done.out
    assert "0 trials trained" in done.out
    assert "were added" not in done.out


def test_a_round_that_was_interrupted_is_completed_first_and_settings_with_fewer_seeds_catch_up(store, capfd):
    rates = ("optimizer.lr=0.7,1.0", "tracking.sweep=rates")
    assert here.train("-m", *SMALL, *rates, "seed=0,1").code == 0
    assert here.train("-m", *SMALL, "optimizer.lr=0.7", "tracking.sweep=rates", "seed=2").code == 0
    done = here.sweepstack("refine", "--budget", "1")
    assert "2 settings of 2 may be the best: 1 trial with seed 2" in done.out
    assert "seed=2  val" in capfd.readouterr().out
    frame = table("rates", store=store)
    assert sorted(frame["seed"]) == [0, 0, 1, 1, 2, 2]


def test_a_named_sweep_is_refined_with_its_settings_alone(store):
    words = ("-m", *SMALL, "sweeps=lr_batch_epochs", "optimizer.lr=0.7,1.0", "batch_size=100", "epochs=2")
    assert here.train(*words, "seed=0,1", "tracking.sweep='ä b'").code == 0
    done = here.sweepstack("refine", "--budget", "2")
    assert (done.code, done.err) == (0, "")
    frame = table("ä b", store=store)
    assert sorted(zip(frame["lr"], frame["seed"], strict=True)) == [
        (lr, seed) for lr in (0.7, 1.0) for seed in (0, 1, 2)
    ]


def test_seeds_of_a_sweep_whose_file_brings_a_pruner_and_a_search_are_all_trained_and_so_is_a_repetition(store):
    words = (
        "sweeps=hyperband",
        "pruner.min_epochs=2",
        "search.trials=4",
        "optimizer.lr=0.4,0.5,0.6,0.7",
        "batch_size=100",
    )
    done = here.train("-m", *SMALL, *words, "tracking.sweep=named")
    assert (done.code, done.err) == (0, "")
    first = table("named", store=store)
    assert {"FINISHED", "PRUNED"} == {*first["state"]}
    done = here.sweepstack("refine", "--budget", "4")
    assert (done.code, done.err) == (0, "")
    frame = table("named", store=store)
    added = frame[~frame["run_id"].isin(first["run_id"])]
    assert len(added) >= 2
    assert {*added["state"]} == {"FINISHED"}
    run = first[first["state"] == "FINISHED"]["run_id"].iloc[0]
    printed = here.sweepstack("repro", str(run))
    assert "pruner=none ++pruner.min_epochs=1 search=grid ++search.trials=null" in printed.out
    again = here.train(*shlex.split(printed.out.strip())[2:], "tracking.sweep=again")
    assert (again.code, again.err) == (0, "")


FRAGILE = """
import torch
from sweepstack.training.models import Logistic

class Fragile(Logistic):
    def __init__(self, **keywords):
        if torch.initial_seed() == 2:
            raise RuntimeError("seed 2 breaks it")
        super().__init__(**keywords)
"""


def test_a_trial_of_a_round_that_fails_gives_exit_code_1_and_ends_the_rounds(store, tmp_path, capfd):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    model = "model._target_=fragile.Fragile"
    try:
        assert here.train("-m", *SMALL, model, "optimizer.lr=0.7,1.0", "seed=0,1", "tracking.sweep=f").code == 0
    finally:
        sys.modules.pop("fragile", None)
    done = here.sweepstack("refine", "--budget", "4")
    assert done.code == 1
    assert "2 trials trained, 2 of them failed; the new trials gave no values." in done.out
    assert "seed 2 breaks it" in capfd.readouterr().out
    frame = table("f", store=store)
    assert set(frame[frame["seed"] == 2]["state"]) == {"FAILED"}
    assert set(frame[frame["seed"] < 2]["state"]) == {"FINISHED"}


def test_a_round_that_is_stopped_says_so_and_the_next_command_completes_it(store, tmp_path):
    words = ("-m", *SMALL, "optimizer.lr=0.7,1.0", "seed=0,1", "tracking.sweep=long", "epochs=300")
    assert here.train(*words, "checkpoint.every=0").code == 0
    terminal = Terminal(tmp_path)
    process = terminal.start("sweepstack", "refine", "--budget", "2")
    assert process.stdout is not None
    for line in process.stdout:
        if "-> 1 stack" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM; the same command goes on from here." in err
    terminal.wait_for_records()
    done = here.sweepstack("refine", "--budget", "2")
    assert done.code == 0
    assert set(table("long", store=store)["state"]) == {"FINISHED"}
    assert sorted(table("long", store=store)["seed"]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sweep", "all"), "refine adds seeds to one sweep, got 'all'; name it with --sweep NAME"),
        (("--sweep", "nowhere"), "there is no sweep 'nowhere'"),
        (("--sweep", "folds"), "the settings of this sweep are compared over folds"),
        (("--budget", "0"), "0 is not in the range x>=1"),
    ],
)
def test_what_cannot_be_refined_is_one_line(words, message, store):
    folds = ("folds=3", "fold=0,1", "optimizer.lr=0.1,0.2", "tracking.sweep=folds")
    assert here.train("-m", *SMALL, *folds, "epochs=1").code == 0
    done = here.sweepstack("refine", *words)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) <= 4
    assert "Traceback" not in done.err
