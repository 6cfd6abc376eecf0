"""Finds the outcome of each trial: known outcomes are reused, all other trials are claimed, planned and trained."""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sweepstack.errors import UserError, count, one_line
from sweepstack.execution.describe import describe_duplicates, describe_parts, describe_work
from sweepstack.execution.engines.choose import Chosen, open_engine
from sweepstack.execution.engines.dispatch import Dispatcher
from sweepstack.execution.executor import Executor, InProcessExecutor
from sweepstack.execution.listener import Listener
from sweepstack.execution.open_store import ledger_of, wait_for_quiet
from sweepstack.execution.prepare import Prepared
from sweepstack.execution.remaining_work import Work
from sweepstack.execution.session import Session, open_session, peek
from sweepstack.execution.trial_files import draw, predict_held_out
from sweepstack.execution.worker import load_data_of
from sweepstack.files.replacing import replacing
from sweepstack.planning.plan import Plan, Stack, summary, unique
from sweepstack.tracking.store import Store
from sweepstack.trial import HELD_OUT_PREDICTIONS, MOST_AXES, PICTURES, PREDICTIONS, WEIGHTS, Outcome, Trial, TrialState

POLL_SECONDS = 1.0
"""Seconds between two queries of what another command trains."""


class Supply(Listener):
    """Further trials of a command, which follow from the outcomes of the first ones. It is a listener, too."""

    @property
    def expected(self) -> int | None:
        """The number of all trials, with those that are known already; None if that is not known."""
        return None

    @property
    def most_paused(self) -> int | None:
        """As soon as so many trials are paused, they go on before further ones are asked for; None: at last."""
        return None

    def has_more(self) -> bool:
        """Returns whether further trials may follow when it is known what becomes of those so far."""
        return False

    def next_trials(self, say: Callable[[str], None]) -> Sequence[Trial]:
        """Returns further trials, each with its fingerprint; none as long as nothing else is to be trained.

        Args:
            say: takes a line for the user.
        """
        raise NotImplementedError


def execute(
    prepared: Prepared,
    store: Store,
    jobs: InProcessExecutor,
    listeners: Sequence[Listener] = (),
    supply: Supply | None = None,
) -> dict[str, Outcome]:
    """Trains all trials that have no outcome yet. Trials of one fingerprint are trained once.

    Args:
        prepared: the trials.
        store: where they are recorded.
        jobs: trains stacks in this process; `engine` may choose others to train them.
        listeners: receive what happens to the trials, after the terminal does.
        supply: gives further trials whenever a worker is free; None: there are no others.

    Returns:
        The outcomes by fingerprint.

    Raises:
        UserError, KeyboardInterrupt: see `run_stack`.
    """
    trials, run = [*prepared.trials], prepared.run
    waiting = unique(trials)
    first = {trial.fingerprint: trial for trial in waiting}
    settled: dict[str, Outcome] = {}
    listeners = [*listeners, *([supply] if supply is not None else [])]

    def skip(trial: Trial, outcome: Outcome, reason: str) -> None:
        for listener in listeners:
            listener.on_skipped(trial, outcome, reason)

    journal = ledger_of(store, run.tracking.journal).folder
    with (
        open_engine(prepared, jobs, journal) as engine,
        open_session(run, store, prepared.task, listeners, trials[0].sweep, prepared.longest) as session,
    ):
        printed: set[str] = set()
        for line in [*describe_duplicates(trials), *describe_parts(trials, prepared.longest)]:
            session.say(line)
        missing_files = _MissingFiles(session.say)
        held: list[Trial] = []

        def begin(wanted: Sequence[Trial], executor: Executor | None = None) -> tuple[list[Stack], Executor]:
            """Claims and plans trials; returns the stacks to train, and who trains them.

            Args:
                wanted: the trials. Those that another command trains are added to `held`.
                executor: who trains already; None to choose.
            """
            work = session.claim(wanted, run.rerun, missing_files)
            for trial, outcome, files in work.settled:
                settled[trial.fingerprint] = outcome
                if files is not None and not _keep_files(trial, files):
                    later = session.artifacts(trial)  # the journal was delivered meanwhile, which moves the files
                    _ = later is not None and _keep_files(trial, later)
                before = "pruned" if outcome.state is TrialState.PRUNED else "trained"
                session.announce_skipped(trial, outcome, f"it was {before} before")
            continued = [one.stack for one in work.continued]
            waited = [*work.resumed, *continued]
            chosen = engine.choose(work.fresh, waited, lambda: wait_for_quiet(store), executor, session)
            stacks = [*work.resumed, *session.keep_plan([*continued, *chosen.plan.stacks])]
            lines = [*describe_work(work), *([summary(chosen.plan)] if work.fresh else [])]
            lines = lines if len(trials) > 1 else describe_work(work)
            for line in [*lines, *([chosen.reason] if chosen.reason else [])]:
                if line not in printed:
                    session.say(line)
                    printed.add(line)
            session.announce_plan(stacks, chosen.executor.workers)
            if supply is not None and supply.expected is not None:
                session.announce_expected(supply.expected - len(settled))
            held.extend(work.held)
            return stacks, chosen.executor

        def further() -> list[Trial]:
            """Returns further trials that are no duplicates."""
            while supply is not None and not session.is_stopping():
                if supply.most_paused is not None and session.paused >= supply.most_paused:
                    break
                given = supply.next_trials(session.say)
                trials.extend(given)
                wanted = [trial for trial in given if first.setdefault(trial.fingerprint, trial) is trial]
                if wanted or not given:
                    return wanted
            return []

        def refill(executor: Executor) -> list[Stack]:
            """Returns further stacks for who trains already; none if there are none now."""
            while wanted := further():
                stacks, _ = begin(wanted, executor)
                if stacks:
                    return stacks
            return session.go_on() if session.paused else []

        executor: Executor = jobs
        more = supply.has_more if supply is not None and run.pruner.ranks else lambda: False
        with _paused_stopped(session):
            while (waiting or session.paused) and not session.is_stopping():
                held.clear()
                stacks: list[Stack] = []
                if waiting:
                    stacks, executor = begin(waiting)
                if not stacks and session.paused:  # also while another command trains what this one waits for
                    stacks = session.go_on()
                # This process is free when all is trained: then it is chosen again who trains what comes next.
                dispatcher = Dispatcher(session, prepared, executor, more)
                dispatcher.train(stacks, None if executor is jobs else functools.partial(refill, executor))
                new = further()
                waiting = [*held, *new]
                if held and not (new or session.paused) and not session.is_stopping():
                    time.sleep(POLL_SECONDS)
        if session.is_stopping():
            session.stop_paused("max_failures is reached")
        else:
            session.announce_expected(0)  # points of a search that are no trials of their own do not follow any more
    outcomes = {**settled, **session.outcomes}
    why = f", because max_failures={run.max_failures} is reached" if session.is_stopping() else ""
    usual = f"not trained{why}"
    untrained = {
        key: f"{session.left_out.get(key, usual)}; the same command goes on from here"
        for key in first
        if key not in outcomes
    }
    for reason, number in Counter(untrained.values()).items():
        print(f"{count(number, 'trial')} {reason}")
    for trial in trials:
        known = outcomes.get(trial.fingerprint)
        if known is None:
            reason = untrained[trial.fingerprint]
            outcomes[trial.fingerprint] = known = Outcome(TrialState.KILLED, reason=reason)
            skip(trial, known, reason)
        elif trial is not first[trial.fingerprint]:
            skip(trial, known, f"it is the same as {first[trial.fingerprint].name}")
    return outcomes


def foresee(prepared: Prepared, store: Store, jobs: InProcessExecutor) -> tuple[Work, Chosen]:
    """Returns what `execute` would find and train. Writes nothing.

    Args:
        prepared: the trials.
        store: where they would be recorded.
        jobs: chooses the settings of the stacks.
    """
    journal = ledger_of(store, prepared.run.tracking.journal).folder
    with open_engine(prepared, jobs, journal) as engine:
        work = peek(unique(prepared.trials), store, prepared.run.rerun, prepared.longest)
        begun = [*work.resumed, *(one.stack for one in work.continued)]
        chosen = engine.choose(work.fresh, begun, None)
        return work, replace(chosen, plan=Plan((*begun, *chosen.plan.stacks)))


@contextlib.contextmanager
def _paused_stopped(session: Session) -> Iterator[None]:
    """Ends the paused trials if a signal comes in the block."""
    try:
        yield
    except KeyboardInterrupt as stop:
        session.stop_paused(str(stop) or "interrupted")
        raise


class _MissingFiles:
    """Makes the files that settled trials ask for, or that an earlier version has not kept, unless their records have
    them; see `Session.claim`.

    Args:
        say: takes a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._predicts = True

    def __call__(self, settled: Sequence[tuple[Trial, Outcome, Path | None]]) -> Iterator[list[Path]]:
        """Yields the files of each trial."""
        weights = [_recorded_weights(*one) if self._predicts else None for one in settled]
        if number := len(weights) - weights.count(None):
            self._say(f"Predicting the held-out items of recorded trials: {number}")
        for (trial, outcome, files), recorded in zip(settled, weights, strict=True):
            drawn = _missing_pictures(trial, files, self._say) if outcome.state is TrialState.FINISHED else []
            yield [*drawn, *self._missing_predictions(trial, recorded)]

    def _missing_predictions(self, trial: Trial, weights: Path | None) -> list[Path]:
        """Predicts the held-out items with the recorded weights; after a first failure no others."""
        if weights is None or not self._predicts:
            return []
        try:
            predicted = predict_held_out(trial, weights, load_data_of(trial))
        except Exception as error:  # a user's model can fail in any way
            self._predicts = False
            self._say(
                f"The held-out items of {trial.name} cannot be predicted, others are not tried: {one_line(error)}"
            )
            return []
        return [] if predicted is None else [predicted]


def _recorded_weights(trial: Trial, outcome: Outcome, files: Path | None) -> Path | None:
    """Returns the weights of a record that lacks predictions for the held-out items; None if they are not here, or if
    such predictions are not kept."""
    holds_out = trial.config.trainer is None and trial.config.selecting_part == "val"
    if outcome.state is not TrialState.FINISHED or files is None or not holds_out:
        return None
    if (files / HELD_OUT_PREDICTIONS).exists() or not (files / WEIGHTS).is_file():
        return None
    import numpy as np

    with contextlib.suppress(OSError, ValueError, EOFError):  # a file that is missing or damaged says nothing
        if np.load(files / PREDICTIONS, mmap_mode="r").ndim > MOST_AXES:
            return None
    return files / WEIGHTS


def _missing_pictures(trial: Trial, files: Path | None, say: Callable[[str], None]) -> list[Path]:
    """Draws the pictures that a settled trial asks for, unless its record has the same.

    Args:
        files: the folder of the record's files, if it is on this machine.
        say: takes a line for the user.
    """
    if not trial.run.pictures:
        return []
    try:
        drawn = draw(trial, load_data_of(trial))
        recorded = files / PICTURES if files is not None else None
        known = recorded is not None and recorded.is_file() and recorded.read_bytes() == drawn.read_bytes()
    except OSError as error:
        say(f"The pictures of {trial.name} cannot be drawn: {one_line(error)}.")
        return []
    return [] if known else [drawn]


def _keep_files(trial: Trial, recorded: Path) -> bool:
    """Copies the recorded files of a trial that was trained before to the folder of its job, if there is room.

    Returns:
        False if the folder of the record is not there.
    """
    if not recorded.is_dir():
        return False
    for name in (WEIGHTS, PREDICTIONS, HELD_OUT_PREDICTIONS):
        with contextlib.suppress(OSError, UserError):
            if not (recorded / name).is_file():
                continue
            trial.folder.mkdir(parents=True, exist_ok=True)
            with replacing(trial.folder / name) as temporary:
                shutil.copy2(recorded / name, temporary)
    return True
