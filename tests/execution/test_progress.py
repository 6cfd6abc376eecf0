"""What the terminal shows: plain lines into a file, a bar on a terminal."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import printable
from sweepstack.events import Ended, Measured, Started
from sweepstack.execution.progress import Display
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
