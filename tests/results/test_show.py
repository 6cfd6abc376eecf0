"""What `sweepstack show` says of a run."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from sweepstack.config.parsing import parse
from sweepstack.events import Measured
from sweepstack.journal.ledger import Ledger
from sweepstack.results.show import describe_run
from sweepstack.tracking.histories import histories
from sweepstack.tracking.runs import find_run, history
from sweepstack.tracking.store import Store
from sweepstack.trial import Measurement, Outcome, TrialState

from ..stories import Command, MakeTrial, deliver_all


@pytest.mark.parametrize(("every", "line"), [("epoch", "epochs 1 to 2"), (5, "iterations 5 to 10")])
def test_a_curve_says_whether_its_steps_are_epochs_or_iterations(
    store: Store,
    ledger: Ledger,
    trial: MakeTrial,
    digits_plain: Callable[..., dict[str, Any]],
    every: str | int,
    line: str,
) -> None:
    plain = digits_plain({"evaluate_every": every})
    one = trial(1, config=parse(plain).trial, config_text=OmegaConf.to_yaml(plain))
    command = Command(ledger)
    command.claim(one)
    command.start(one)
    for place in (1, 2):
        command.put(Measured(one, Measurement(place, 5 * place, 20, {"val/accuracy": place / 4}), time.time()))
    command.finish(one)
    command.end()
    deliver_all(store, ledger)
    assert f"curves over {line}" in describe_run(store, find_run(store, "lr=1"))


def test_the_best_measurement_that_is_kept_does_not_hide_how_the_last_one_was(
    store: Store, ledger: Ledger, trial: MakeTrial, digits_plain: Callable[..., dict[str, Any]]
) -> None:
    plain = digits_plain({"keep_best": True})
    one = trial(1, config=parse(plain).trial, config_text=OmegaConf.to_yaml(plain))
    command = Command(ledger)
    command.claim(one)
    command.start(one)
    values = [0.2, 0.9, 0.3]
    for epoch, value in enumerate(values, 1):
        command.measure(one, epoch, value=value)
    command.finish(one, Outcome(TrialState.FINISHED, {"val/accuracy": 0.9}))
    command.end()
    deliver_all(store, ledger)
    run = find_run(store, "lr=1")
    assert run.row.metrics["val/accuracy"] == 0.9
    assert history(store, run.row.run_id, "val/accuracy") == [*enumerate(values, 1)]
    assert [(one.step, one.value) for one in histories(store, [run.row.run_id], "val/accuracy")] == [
        *enumerate(values, 1)
    ]
    assert "▁█▂  0.2000 to 0.3000, best 0.9000" in describe_run(store, run)
