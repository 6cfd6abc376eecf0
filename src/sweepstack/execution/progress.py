"""Shows in the terminal how trials train: one live line with a bar, or plain lines if the output is no terminal."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sweepstack.errors import printable
from sweepstack.events import Ended, Measured, Started
from sweepstack.execution.listener import Listener
from sweepstack.metrics import bare_name, is_better, rounded
from sweepstack.planning.plan import count
from sweepstack.trial import Outcome, Trial, TrialState


class Display(Listener):
    """Shows the events of trials in the terminal.

    Args:
        console: where it prints; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._planned = self._expected = 0
        self._begun = self._done = 0
        self._epochs: dict[tuple[str, int], float] = {}  # epochs done, by trial
        self._completed = 0.0  # the sum of these
        self._killed: Counter[str] = Counter()  # by reason: one line for all trials of a stack
        self._ended: Counter[str] = Counter()  # by state, without those that were stopped
        self._known = 0  # trials that were not trained, because their outcomes are known
        self._searches = False
        self._best_finished: dict[str, tuple[float, str]] = {}  # the same as `_best`, of whole trials
        self._epochs_pruned = 0.0  # those that pruned trials were not trained
        self._best: dict[str, tuple[float, str]] = {}  # by objective: its value, and the trial's name
        self._bar = Progress(
            TextColumn("{task.fields[trials]}", style="bold", markup=False),
            BarColumn(bar_width=24),
            TextColumn("epoch {task.fields[epoch]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[best]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._total = 0
        self._task = self._bar.add_task("", total=0, trials="", epoch="-", best="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()
        for reason, number in self._killed.items():
            self.on_message(f"{count(number, 'trial')} KILLED: {reason}")
        pruned = self._ended[TrialState.PRUNED]
        if pruned:
            epochs = f"{self._total - self._epochs_pruned:,.0f} of {self._total:,} trial-epochs trained"
            self.on_message(f"{count(pruned, 'trial')} PRUNED: {epochs}")
        if pruned or (self._searches and self._begun + self._known):
            self.on_message(self._so_far())

    def _so_far(self) -> str:
        """Says how good the best trial is that has finished, and what became of all of them."""
        best = [f"best {name} {rounded(value)} ({trial})" for name, (value, trial) in self._best_finished.items()]
        stopped = sum(self._killed.values())
        numbers = {
            "finished": self._ended[TrialState.FINISHED],
            "pruned": self._ended[TrialState.PRUNED],
            "failed": self._ended[TrialState.FAILED],
            "stopped": stopped,
            "running": self._begun - self._done - stopped,
            "left": self._count - self._begun,
            "known before": self._known,
        }
        states = ", ".join(f"{number} {state}" for state, number in numbers.items() if number > 0)
        return "; ".join([*best, f"{count(self._count + self._known, 'trial')}: {states}"])

    def on_planned(self, trials: Sequence[Trial]) -> None:
        self._planned += len(trials)
        self._total += sum(trial.config.epochs for trial in trials)
        self._searches = self._searches or any(map(_is_searched, trials))
        self._update(total=self._total, trials=self._numbers)

    def on_expected(self, number: int) -> None:
        self._expected = number

    @property
    def _count(self) -> int:
        """The number of trials in all, as far as it is known."""
        return max(self._planned, self._expected)

    @property
    def _numbers(self) -> str:
        """How many trials have begun, and how many of these still train and were pruned, in words."""
        running = self._begun - self._done - sum(self._killed.values())
        pruned = self._ended[TrialState.PRUNED]
        return (
            f"trial {self._begun}/{self._count}"
            + (f", {running} running" if running > 1 else "")
            + (f", {pruned} pruned" if pruned else "")
        )

    def on_message(self, line: str) -> None:
        """Prints a line above the bar. Markup and control characters in it have no effect."""
        with contextlib.suppress(SystemExit):  # rich raises it if the reader has gone (`| head`); training goes on
            self._console.print(printable(line), markup=False, emoji=False)

    def on_started(self, event: Started) -> None:
        self._begun += 1
        self._update(trials=self._numbers, epoch=f"0/{event.trial.config.epochs}")

    def on_measured(self, event: Measured) -> None:
        at, config, metrics = event.measurement, event.trial.config, event.measurement.metrics
        if config.trainer is not None:
            self._on_reported(event)
            return
        shown = [name for name in ("train/loss", config.objective) if name in metrics]
        if config.evaluate_every != "epoch":
            of = f"  ({event.trial.name})" if self._count > 1 else ""  # trials of a stack are measured in turn
            self.on_message(
                f"Iteration: {at.step}. {' '.join(_by_iteration(name, metrics[name]) for name in shown)}{of}"
            )
        elif self._count == 1:
            texts = [f"{name} {rounded(metrics[name])}" for name in shown]
            self.on_message("  ".join([f"epoch {at.epoch}/{config.epochs}", *texts]))
        self._advance(event.trial, config.epochs * at.step / at.steps)
        self._update(
            completed=self._completed, epoch=f"{at.epoch}/{config.epochs}", best=self._best_with(event.trial, metrics)
        )

    def _on_reported(self, event: Measured) -> None:
        """Shows what a loop of the user's own has reported: whatever it likes."""
        at, config = event.measurement, event.trial.config
        if self._count == 1:
            self.on_message(
                f"step {at.step}  {'  '.join(f'{name} {rounded(value)}' for name, value in at.metrics.items())}"
            )
        self._advance(event.trial, config.epochs * at.step / at.steps)
        best = self._best_with(event.trial, at.metrics)
        self._update(completed=self._completed, epoch=f"{at.step}/{at.steps}", best=best)

    def on_ended(self, event: Ended) -> None:
        if event.outcome.state is TrialState.KILLED:
            self._killed[event.outcome.reason] += 1
            return
        self._done += 1
        self._ended[event.outcome.state] += 1
        if event.outcome.state is TrialState.PRUNED:  # one line for all of them, at the end
            self._epochs_pruned += event.trial.config.epochs - self._epochs.get(
                (event.trial.id, event.trial.number), 0.0
            )
        self._advance(event.trial, event.trial.config.epochs)
        metrics, objective = event.outcome.metrics, event.trial.config.objective
        title = f"[{self._done}/{self._count}] {event.trial.name}"
        if event.outcome.state is TrialState.FINISHED:
            names = dict.fromkeys([objective, f"test/{bare_name(objective)}"])
            texts = [f"{name} {rounded(metrics[name])}" for name in names if name in metrics]
            self.on_message("  ".join([title, *texts, f"{metrics['train_seconds']:.1f} s"]))
            self._update(best=self._best_with(event.trial, metrics))
            self._take_best(self._best_finished, event.trial, metrics)
        elif event.outcome.state is not TrialState.PRUNED:
            self.on_message(f"{title}  {event.outcome.state}: {event.outcome.reason}")
        self._update(completed=self._completed, trials=self._numbers)

    def on_skipped(self, trial: Trial, outcome: Outcome, reason: str) -> None:
        """Shows the best trial, also if another command has trained it.

        Args:
            trial: a trial that is not trained.
            outcome: its outcome.
            reason: why it is not trained.
        """
        self._known += 1
        self._searches = self._searches or _is_searched(trial)
        if outcome.state is TrialState.FINISHED:
            self._update(best=self._best_with(trial, outcome.metrics))
            self._take_best(self._best_finished, trial, outcome.metrics)

    def _best_with(self, trial: Trial, metrics: Mapping[str, float]) -> str:
        """Returns the best value so far of a trial's objective, in words, after taking new metrics of it."""
        best, name = self._take_best(self._best, trial, metrics)
        return printable(f"best {trial.config.objective} {rounded(best)} ({name})") if name else ""

    @staticmethod
    def _take_best(
        known: dict[str, tuple[float, str]], trial: Trial, metrics: Mapping[str, float]
    ) -> tuple[float, str]:
        """Takes new metrics of a trial; returns the best value of its objective, and the name of the trial that has it.

        Args:
            known: the best values so far by objective; updated.
            trial: the trial.
            metrics: its metrics.
        """
        objective = trial.config.objective
        best = known.get(objective, (math.nan, ""))
        if is_better(metrics.get(objective, math.nan), best[0], trial.config.mode):
            best = known[objective] = metrics[objective], trial.name
        return best

    def _advance(self, trial: Trial, epochs: float) -> None:
        known = self._epochs.get((trial.id, trial.number), 0.0)
        self._epochs[trial.id, trial.number] = epochs
        self._completed += epochs - known

    def _update(self, **changes: Any) -> None:
        with contextlib.suppress(SystemExit):  # rich raises it if the reader has gone (`| head`); training goes on
            self._bar.update(self._task, **changes)


def _is_searched(trial: Trial) -> bool:
    return trial.run.search.name != "grid"


def _by_iteration(name: str, value: float) -> str:
    """Returns a metric as PyTorch's tutorials print it: accuracies in percent."""
    bare = bare_name(name)
    title = bare.capitalize() if bare in ("loss", "accuracy") else name
    return f"{title}: {100 * value:.2f}" if bare == "accuracy" else f"{title}: {rounded(value)}."
