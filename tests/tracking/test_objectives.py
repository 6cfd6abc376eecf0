"""What a run says of its metrics: from the config of a trial to the row of the store."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from sweepstack.config.schema import TrialConfig
from sweepstack.events import Measured
from sweepstack.journal.ledger import Ledger
from sweepstack.metrics import MULTILABEL, REGRESSION, Direction
from sweepstack.results.register import describe_results
from sweepstack.results.show import describe_run
from sweepstack.tracking.objectives import (
    METRICS_TAG,
    OBJECTIVE_TAG,
    Declared,
    declared_in,
    objectives_of,
)
from sweepstack.tracking.runs import find_run
from sweepstack.tracking.store import Store
from sweepstack.trial import Measurement, Outcome, TrialState

from ..stories import Command, MakeTrial, deliver_all, rows

MakeConfig = Callable[..., TrialConfig]
REGRESSING = {"task._target_": REGRESSION, "dataset.classes": None, "dataset.outputs": 1}
GAIN = {"_target_": "my.gain", "mode": "max", "proportion": True}
LATENCY = {"_target_": "my.latency", "name": "seconds of latency", "mode": "min"}


@pytest.mark.parametrize(
    ("changes", "declared"),
    [
        ({}, Declared()),
        ({"validation_split": 0.0, "batch_size": 7}, Declared()),
        (REGRESSING, Declared("val/rmse", {"rmse": Direction("min")})),
        ({**REGRESSING, "validation_split": 0.0}, Declared("test/rmse", {"rmse": Direction("min")})),
        ({"task._target_": MULTILABEL}, Declared("val/f1_macro", {"f1_macro": Direction("max")})),
        (
            {"task.metrics": ["auroc", GAIN, LATENCY], "task.objective": {"name": "val/gain", "mode": "max"}},
            Declared("val/gain", {"gain": Direction("max", True), "seconds of latency": Direction("min")}),
        ),
        (
            {"task._target_": "my.Task", "task.objective": {"name": "val/elbo", "mode": "max"}},
            Declared("val/elbo", {"elbo": Direction("max")}),
        ),
    ],
)
def test_what_a_config_says_is_what_its_row_says(
    store: Store, ledger: Ledger, trial: MakeTrial, digits_config: MakeConfig, changes: Any, declared: Declared
) -> None:
    Command(ledger).train(trial(1, config=digits_config(changes)))
    deliver_all(store, ledger)
    (row,) = store.rows("all")
    assert row.declared == declared
    (run,) = store.runs("")
    assert (OBJECTIVE_TAG in run.data.tags) == (declared != Declared())
    assert (METRICS_TAG in run.data.tags) == ("gain" in declared.directions)


@pytest.mark.parametrize(
    "tags",
    [
        {OBJECTIVE_TAG: "{"},
        {OBJECTIVE_TAG: "[1]", METRICS_TAG: "null"},
        {OBJECTIVE_TAG: '{"name": 1, "mode": "min"}'},
        {METRICS_TAG: '{"gain": "max"}'},
        {METRICS_TAG: '{"gain": {"mode": "best"}}'},
        {METRICS_TAG: '{"gain": {"mode": ["max"]}}'},
    ],
)
def test_a_tag_that_a_user_has_damaged_says_nothing(tags: dict[str, str]) -> None:
    assert declared_in(tags) == Declared()


def test_runs_without_the_tag_are_selected_as_they_always_were() -> None:
    assert objectives_of([(Declared(), {"train_seconds": 1.0})]) == []
    assert objectives_of([(Declared(), {"test/accuracy": 1.0})]) == ["val/accuracy", "test/accuracy"]
    regression = (Declared("test/rmse"), {}), (Declared("val/rmse"), {})
    assert objectives_of(regression) == ["val/rmse", "test/rmse"]


@pytest.mark.parametrize(("mode", "best"), [("min", 1.0), ("max", 3.0)])
def test_the_best_of_a_curve_and_what_is_registered_follow_the_task(
    store: Store, ledger: Ledger, trial: MakeTrial, digits_config: MakeConfig, mode: str, best: float
) -> None:
    metric = {"_target_": "my.gain", "mode": mode}
    changes = {"task.metrics": [metric, "auroc"], "task.objective": {"name": "val/gain", "mode": mode}}
    one = trial(1, config=digits_config(changes))
    command = Command(ledger)
    command.claim(one)
    command.start(one)
    for epoch, gain in enumerate((2.0, 3.0, 1.0, 2.5), start=1):
        metrics = {"train/loss": gain, "train/lr": 0.1, "val/loss": gain, "val/gain": gain, "val/gain_best": best}
        command.put(Measured(one, Measurement(epoch, 5 * epoch, 20, metrics), time.time()))
    command.finish(one, Outcome(TrialState.FINISHED, {"test/gain": 0.25, "test/accuracy": 0.5, "train_seconds": 1.0}))
    command.end()
    deliver_all(store, ledger)
    text = describe_run(store, find_run(store, "lr=1"))
    curves = [line.split() for line in text.splitlines() if " to " in line and "best" in line]
    assert [(key, found) for key, _, *_, found in curves] == [
        ("train/loss", "1.0000"),
        ("val/loss", "1.0000"),
        ("val/gain", f"{best:.4f}"),
    ]
    assert describe_results(rows(store)["lr=1"]) == f"test/gain 0.2500  val/gain 2.5000  val/gain_best {best:.4f}"
