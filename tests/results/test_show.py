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
from sweepstack.tracking.runs import find_run
from sweepstack.tracking.store import Store
from sweepstack.trial import Measurement

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
