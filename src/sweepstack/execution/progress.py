"""Shows in the terminal how trials train: one live line with a bar, or plain lines if the output is no terminal."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from sweepstack.errors import count, printable
from sweepstack.events import Ended, Measured, Started
from sweepstack.execution.control.eta import Eta, clock
from sweepstack.execution.control.stack_progress import StackProgress, key_of
from sweepstack.execution.listener import Listener
from sweepstack.metrics import bare_name, is_better, rounded
from sweepstack.planning.plan import Stack
from sweepstack.trial import Outcome, Trial, TrialState

MOST_STACKS = 8
"""The most stacks that have a line of their own in a terminal."""
LINE_SECONDS = 60.0
"""Seconds between lines about the progress, if the output is no terminal."""
LINE_SHARE = 0.05
"""The same as a part of the time so far, for long sweeps; the longer of both counts."""


class _Left(ProgressColumn):
    """The time that is left, by `Display.eta`; it is asked each time that the line is drawn."""

    max_refresh = 0.5

    def __init__(self, left: Callable[[TaskID], str]) -> None:
        super().__init__()
        self._left = left

    def render(self, task: Task) -> Text:
        return Text(self._left(task.id), style="progress.remaining")


class Display(Listener):
    """Shows the events of trials in the terminal.

    Args:
        console: where it prints; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._planned = self._expected = 0
        self._begun: set[Hashable] = set()
        self._paused: set[Hashable] = set()
        self._done = 0
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
            _Left(self._left),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[best]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._eta = Eta()
        self._lines: dict[StackProgress, TaskID] = {}  # of the stacks that train, in the terminal
        self._began: float | None = None  # when the first trial began
        self._last_line = 0.0  # when the last line about the progress was printed
        self._total = 0
        self._task = self._bar.add_task("", total=0, trials="", epoch="-", rate="", best="")

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
        if pruned or (self._searches and len(self._begun) + self._known):
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
            "running": len(self._begun) - self._done - stopped,
            "left": self._count - len(self._begun),
            "known before": self._known,
        }
        states = ", ".join(f"{number} {state}" for state, number in numbers.items() if number > 0)
        return "; ".join([*best, f"{count(self._count + self._known, 'trial')}: {states}"])

    def on_planned(self, trials: Sequence[Trial]) -> None:
        self._planned += len(trials)
        self._total += sum(trial.config.epochs for trial in trials)
        self._searches = self._searches or any(map(_is_searched, trials))
        self._update(total=self._total, trials=self._numbers)

    def on_stacks(self, stacks: Sequence[Stack], workers: int) -> None:
        self._eta.workers = workers
        for stack in stacks:
            self._eta.add([one.trials for one in stack.trajectories], stack.choice.epoch_seconds)

    def on_expected(self, number: int) -> None:
        self._expected = number

    @property
    def seconds_left(self) -> float | None:
        """How long the trials still train, estimated; None if that is not known."""
        return self._eta.seconds(time.time(), self._count - self._planned)

    def _left(self, task: TaskID) -> str:
        """Returns the time that is left, of all or of one stack, in words."""
        own = next((one for one, line in self._lines.items() if line == task), None)
        if own is None and task != self._task:  # it is just being added
            return "-"
        seconds = self.seconds_left if own is None else self._eta.seconds_of(own, time.time())
        return f"{clock(seconds)} left" if seconds is not None else "-"

    def _rate(self, now: float) -> str:
        """Returns how many trial-epochs are trained in a second, in words; empty if that is not known."""
        passed = now - self._began if self._began is not None else 0.0
        rate = self._completed / passed if passed > 0 else 0.0
        return f"{rate:,.0f} epochs/s" if rate >= 10 else f"{rate:.1f} epochs/s" if rate >= 0.1 else ""

    def _follow(self, event: Started | Measured | Ended) -> None:
        """Takes an event for the estimate, for the lines of stacks, and for lines in a file."""
        self._eta.take(event)
        self._began = event.at if self._began is None else self._began
        self._last_line = self._last_line or event.at
        if self._console.is_terminal:
            self._show_stacks()
        elif self._count > 1 and event.at - self._last_line >= max(LINE_SECONDS, LINE_SHARE * (event.at - self._began)):
            self._last_line = event.at
            left = self._eta.seconds(event.at, self._count - self._planned)
            about = f"about {clock(left)} left" if left is not None else ""
            done = f"{self._completed:,.0f} of {self._total:,} trial-epochs"
            self.on_message(", ".join(filter(None, [f"{self._numbers}: {done}", self._rate(event.at), about])))

    def _show_stacks(self) -> None:
        """Shows a line for each stack that trains, if there are several."""
        running = self._eta.running[:MOST_STACKS] if self._eta.number > 1 else []
        for one in [*self._lines]:
            if one not in running:
                self._bar.remove_task(self._lines.pop(one))
        for one in running:
            if one not in self._lines:
                title = f"  {count(sum(map(len, one.trajectories)), 'trial')}, batch {one.batch_size}"
                self._lines[one] = self._bar.add_task("", total=one.epochs, trials=title, epoch="-", rate="", best="")
            self._bar.update(self._lines[one], completed=one.done, epoch=f"{one.done:.0f}/{one.epochs}")

    @property
    def _count(self) -> int:
        """The number of trials in all, as far as it is known."""
        return max(self._planned, self._expected)

    @property
    def _numbers(self) -> str:
        """How many trials have begun, and how many of these train, wait and were pruned, in words."""
        running = len(self._begun) - self._done - sum(self._killed.values()) - len(self._paused)
        pruned = self._ended[TrialState.PRUNED]
        return (
            f"trial {len(self._begun)}/{self._count}"
            + (f", {running} running" if running > 1 else "")
            + (f", {len(self._paused)} paused" if self._paused else "")
            + (f", {pruned} pruned" if pruned else "")
        )

    def on_message(self, line: str) -> None:
        """Prints a line above the bar. Markup and control characters in it have no effect."""
        with contextlib.suppress(SystemExit):  # rich raises it if the reader has gone (`| head`); training goes on
            self._console.print(printable(line), markup=False, emoji=False)

    def on_started(self, event: Started) -> None:
        key = key_of(event.trial)
        self._paused.discard(key)
        self._follow(event)
        if key in self._begun:
            self._update(trials=self._numbers)
            return
        self._begun.add(key)
        self._update(trials=self._numbers, epoch=f"0/{event.trial.config.epochs}")

    def on_paused(self, event: Ended) -> None:
        self._paused.add(key_of(event.trial))
        self._eta.pause(event.trial)
        if self._console.is_terminal:
            self._show_stacks()
        self._update(trials=self._numbers)

    def on_measured(self, event: Measured) -> None:
        at, config, metrics = event.measurement, event.trial.config, event.measurement.metrics
        self._follow(event)
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
        self._paused.discard(key_of(event.trial))
        self._follow(event)
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
            self._bar.update(self._task, rate=self._rate(time.time()), **changes)


def _is_searched(trial: Trial) -> bool:
    return trial.run.search.name != "grid"


def _by_iteration(name: str, value: float) -> str:
    """Returns a metric as PyTorch's tutorials print it: accuracies in percent."""
    bare = bare_name(name)
    title = bare.capitalize() if bare in ("loss", "accuracy") else name
    return f"{title}: {100 * value:.2f}" if bare == "accuracy" else f"{title}: {rounded(value)}."
