"""What the terminal shows: plain lines into a file, a bar on a terminal."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import printable
from sweepstack.events import Ended, Measured, Started
from sweepstack.execution.progress import Display
from sweepstack.metrics import REGRESSION
from sweepstack.trial import DatasetFacts, Measurement, Outcome, Trial, TrialState

GOOD = {"val/accuracy": 0.9, "test/accuracy": 0.8, "train_seconds": 2.0, "train/loss": 0.5}


def trials(config: TrialConfig, count: int, name: str = "lr=") -> list[Trial]:
    return [Trial(config, number, f"{name}{number}", {}, Path(), "") for number in range(count)]


def shown(console: Console, config: TrialConfig, count: int, name: str = "lr=") -> str:
    console.file = io.StringIO()
    with Display(console) as display:
        display.on_planned(trials(config, count, name))
        for trial in trials(config, count, name):
            display.on_started(Started(trial, 0.0, DatasetFacts("d", 1, 1, 1)))
            display.on_measured(Measured(trial, Measurement(1, 5, 10, GOOD), 1.0))
            ended = Outcome(TrialState.FINISHED, GOOD) if trial.number else Outcome(TrialState.FAILED, reason="[b] nan")
            display.on_ended(Ended(trial, ended, 2.0))
    return console.file.getvalue()


def test_a_file_gets_one_plain_line_for_each_trial(digits_config: Callable[..., TrialConfig]) -> None:
    lines = shown(Console(highlight=False), digits_config(), 2).splitlines()
    assert lines == [
        "[1/2] lr=0  FAILED: [b] nan",
        "[2/2] lr=1  val/accuracy 0.9000  test/accuracy 0.8000  2.0 s",
    ]


def test_what_is_found_later_to_be_trained_counts_from_then_on(digits_config: Callable[..., TrialConfig]) -> None:
    console = Console(highlight=False, file=io.StringIO())
    with Display(console) as display:
        for part in (trials(digits_config(), 3)[:1], trials(digits_config(), 3)[1:]):
            display.on_planned(part)
            for trial in part:
                display.on_started(Started(trial, 0.0, DatasetFacts("d", 1, 1, 1)))
                display.on_ended(Ended(trial, Outcome(TrialState.FAILED, reason="torn"), 2.0))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["[1/1]", "[2/3]", "[3/3]"]


def test_a_single_trial_shows_its_epochs(digits_config: Callable[..., TrialConfig]) -> None:
    assert shown(Console(), digits_config(), 1).startswith("epoch 1/2  train/loss 0.5000  val/accuracy 0.9000")


def test_a_terminal_gets_a_bar_with_the_best_so_far(digits_config: Callable[..., TrialConfig]) -> None:
    text = shown(Console(force_terminal=True, width=160), digits_config(), 2)
    assert "trial 2/2" in text
    assert "epoch" in text
    assert "best val/accuracy 0.9000" in text


TEXTS = ["[/red]", "[bold]", ":smile:", "two\nlines", "a\rb", "a\x1b[2Jb", "a\x9b31mb", "a\u202eb", "a\ud800b"]


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_names_are_shown_as_they_are_and_move_no_cursor(
    digits_config: Callable[..., TrialConfig], text: str, terminal: bool
) -> None:
    console = Console(force_terminal=terminal, width=200, highlight=False)
    found = shown(console, digits_config(), 2, text)
    assert f"[2/2] {printable(text)}1  val/accuracy" in found
    assert text.isprintable() or text not in found
    if terminal:
        assert f"best val/accuracy 0.9000 ({printable(text)}0)" in found


REGRESSION_CONFIG = {"task._target_": REGRESSION, "dataset.classes": None, "dataset.outputs": 1}


@pytest.mark.parametrize(
    ("changes", "objective", "best"),
    [
        ({}, "val/accuracy", 3.0),
        (REGRESSION_CONFIG, "val/rmse", 1.0),
        ({**REGRESSION_CONFIG, "task.objective": {"name": "val/r2", "mode": "max"}}, "val/r2", 3.0),
        (
            {"trainer": {"_target_": "my.train"}, "task.objective": {"name": "val/fid", "mode": "min"}},
            "val/fid",
            1.0,
        ),
    ],
)
def test_the_best_so_far_is_that_of_the_objective(
    digits_config: Callable[..., TrialConfig], changes: dict[str, object], objective: str, best: float
) -> None:
    console = Console(force_terminal=True, width=160, highlight=False, file=io.StringIO())
    some = trials(digits_config(changes), 3)
    values = {0: 2.0, 1: 1.0, 2: 3.0}
    with Display(console) as display:
        display.on_planned(some)
        for trial in some:
            metrics = {objective: values[trial.number], f"test/{objective[4:]}": 7.0, "train_seconds": 1.0}
            display.on_started(Started(trial, 0.0, DatasetFacts("d", 1, 1, 1)))
            display.on_measured(Measured(trial, Measurement(1, 5, 10, {objective: 2.5}), 1.0))
            display.on_measured(Measured(trial, Measurement(1, 5, 10, {"train/loss": 2.5}), 1.0))
            display.on_ended(Ended(trial, Outcome(TrialState.FINISHED, metrics), 2.0))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert f"[2/3] lr=1  {objective} 1.0000  test/{objective[4:]} 7.0000  1.0 s" in text
    name = f"lr={next(number for number, value in values.items() if value == best)}"
    assert re.findall(r"best (\S+ \S+ \(.*?\))", text)[-1] == f"{objective} {best:.4f} ({name})"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "Iteration: 5. Loss: 0.5000. Accuracy: 90.00"),
        (REGRESSION_CONFIG, "Iteration: 5. Loss: 0.5000. val/rmse: 12.3400."),
    ],
)
def test_an_iteration_has_a_percentage_for_an_accuracy_alone(
    digits_config: Callable[..., TrialConfig], changes: dict[str, object], line: str
) -> None:
    console = Console(highlight=False, file=io.StringIO())
    (trial,) = trials(digits_config({**changes, "evaluate_every": 5}), 1)
    with Display(console) as display:
        display.on_planned([trial])
        display.on_measured(Measured(trial, Measurement(1, 5, 10, {**GOOD, "val/rmse": 12.34}), 1.0))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == f"{line}\n"


def test_at_its_end_a_pruned_sweep_says_the_best_whole_trial_and_what_became_of_all(
    digits_config: Callable[..., TrialConfig],
) -> None:
    console = Console(force_terminal=True, width=160, highlight=False, file=io.StringIO())
    some = trials(digits_config(), 6)
    outcomes = {
        0: Outcome(TrialState.FINISHED, {**GOOD, "val/accuracy": 0.8}),
        1: Outcome(TrialState.PRUNED, GOOD),
        2: Outcome(TrialState.FAILED, reason="torn"),
        3: Outcome(TrialState.KILLED, reason="stopped"),
    }
    with Display(console) as display:
        display.on_planned(some)
        for trial in some[:5]:
            display.on_started(Started(trial, 0.0, DatasetFacts("d", 1, 1, 1)))
            display.on_measured(Measured(trial, Measurement(1, 5, 10, GOOD), 1.0))
            if trial.number in outcomes:
                display.on_ended(Ended(trial, outcomes[trial.number], 2.0))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "1 trial PRUNED: " in text
    last = "best val/accuracy 0.8000 (lr=0); 6 trials: 1 finished, 1 pruned, 1 failed, 1 stopped, 1 running, 1 left"
    assert last in text
    assert "trial 5/6, 1 pruned" in text
