"""The points of a search, chosen by Optuna and kept in its own storage, which `optuna-dashboard` opens.

Each point gets a new sampler, with a seed of its own: what it chooses follows from the points and results so
far, which the study holds. So a search that is resumed goes on as if nothing had happened.
"""

from __future__ import annotations

import copy
import json
import os
import random
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from sweepstack.errors import StoreError, one_line
from sweepstack.files.owner_only import make_folder, opener
from sweepstack.search.space import Distribution, Options, Space, Value
from sweepstack.search.strategy import Point, PointState

SPACE = "space"
"""Attribute of a study: the space of its points, in words."""
EXACT_SPACE = "exact space"
"""Attribute of a study: the same with all digits, by which it is found again."""
LINE = "line"
"""Key of our lines in the file of a study: their number, from 0. Optuna ignores this key and the next two."""
LAST = "last"
"""Key of our lines: the number of the last one that was written with this one. All of them count, or none. Lines of
development versions may lack this key and the next one."""
CHECKSUM = "checksum"
"""Key of our lines: the CRC-32 of the line without this key."""
STATES = {
    PointState.ASKED: TrialState.RUNNING,
    PointState.COMPLETE: TrialState.COMPLETE,
    PointState.PRUNED: TrialState.PRUNED,
    PointState.FAILED: TrialState.FAIL,
}
BACK = {state: mine for mine, state in STATES.items()}
STARTUP = 10
"""Points that TPE and the Gaussian process draw at random before they learn."""


class StudyFile(BaseJournalBackend):
    """The file of a study, in the format of Optuna's `JournalFileBackend`: one line of JSON for each operation.

    Only one process writes it, under a lock of ours. What belongs together is written at once by `keep`, and counts as
    a whole or not at all: lines at the end whose last one is missing were being written when the power went. Optuna's
    own class would write and sync each operation, and leave a lock behind when the process is killed.

    Args:
        path: the file; it need not exist.
        writes: False if nothing is to be written.

    Raises:
        StoreError: it cannot be read, or is not as it was written.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self._path, self._writes = path, writes
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            count = len(lines)
            if lines and not lines[-1].endswith(b"\n"):
                lines.pop()
            self._logs: list[dict[str, Any]] = [_checked(number, line) for number, line in enumerate(lines, 1)]
            own = [index for index, log in enumerate(self._logs) if LINE in log]  # optuna-dashboard may add its own
            if wrong := [index for number, index in enumerate(own) if self._logs[index][LINE] != number]:
                raise ValueError(f"before line {wrong[0] + 1}, lines are missing or twice there")
            while own and self._logs[own[-1]].get(LAST, 0) >= len(own):
                del self._logs[own.pop() :]
            self._torn_at = None if len(self._logs) == count else sum(map(len, lines[: len(self._logs)]))
        except (OSError, ValueError) as error:
            rule = f"the study of a search must be readable ({one_line(error)})"
            raise StoreError(
                rule, str(path), "move it away: the points are asked again, their trials are known"
            ) from error
        self._kept = len(self._logs)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """See `BaseJournalBackend`."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See `BaseJournalBackend`; nothing is written before `keep`."""
        self._logs += json.loads(json.dumps(logs))

    def keep(self) -> None:
        """Writes what is new, and returns when it is on the disk."""
        new = self._logs[self._kept :]
        if not (new and self._writes):
            return
        first = sum(LINE in log for log in self._logs)
        last = first + len(new) - 1
        for number, log in enumerate(new, first):
            log |= {LINE: number, LAST: last}
            log[CHECKSUM] = _crc(log)
        make_folder(self._path.parent)
        with open(self._path, "ab", opener=opener) as file:
            if self._torn_at is not None:
                file.truncate(self._torn_at)
            file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in new).encode())
            file.flush()
            os.fsync(file.fileno())
        self._torn_at, self._kept = None, len(self._logs)


def _checked(number: int, line: bytes) -> dict[str, Any]:
    """Reads a line of a study.

    Args:
        number: that of the line, from 1.
        line: its text.

    Raises:
        ValueError: it is not as it was written.
    """
    try:
        log: dict[str, Any] = json.loads(line)
        rest = {key: one for key, one in log.items() if key != CHECKSUM}
        damaged = CHECKSUM in log and log[CHECKSUM] != _crc(rest)
    except (ValueError, AttributeError):
        damaged = True
    if damaged:
        raise ValueError(f"line {number} is damaged")
    return log


def _crc(log: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(log, separators=(",", ":")).encode())


class OptunaStrategy:
    """Chooses points with a sampler of Optuna; see `Strategy`.

    Args:
        file: the file of the study.
        name: what is searched. A study has a name of its own for each space, because Optuna's samplers want one space.
        sampler: the name of the sampler: random, qmc, tpe, cmaes, gp or nsga2.
        seed: of the search.
        space: what is searched. If the study had another one, the points that lie in this one are taken over.
        modes: for each objective, whether the smallest or the largest value is the best.
        width: the points that are out at a time, for the population of nsga2.
        writes: False if nothing is to be written, for a dry run.
    """

    def __init__(
        self,
        file: Path,
        name: str,
        sampler: str,
        seed: int,
        space: Space,
        modes: Sequence[str],
        width: int,
        writes: bool = True,
    ) -> None:
        self._path = file
        self.taken_over: tuple[int, int] | None = None
        """The points of the study before this one that lie in this space, and all of them; None if there is none."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._file, self._sampler, self._seed, self._space, self._width = (
            StudyFile(file, writes),
            sampler,
            seed,
            space,
            width,
        )
        self._interim: dict[int, tuple[PointState, Sequence[float], int]] = {}
        self._directions = [StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in modes]
        self._distributions = {key: _distribution(one) for key, one in space.distributions.items()}
        try:
            self._storage = JournalStorage(self._file)
            self._study = self._open(name)
        except Exception as error:  # a file of others, or of another version
            rule = f"the study of a search must be Optuna's ({one_line(error)})"
            raise StoreError(
                rule, str(file), "move it away: the points are asked again, their trials are known"
            ) from error

    def _open(self, name: str) -> Study:
        """Returns the study of the space; takes over the points of the latest one that had another space."""
        exact = repr(self._space)
        studies = self._storage.get_all_studies()
        for one in studies:
            if one.user_attrs.get(EXACT_SPACE) == exact:
                study = optuna.load_study(study_name=one.study_name, storage=self._storage)
                for trial in study.get_trials(deepcopy=False):
                    if not self._space.contains(trial.params):
                        raise ValueError(f"its point {trial.number} does not lie in its space")
                return study
        own_name = name if not studies else f"{name} ({len(studies) + 1})"
        study = optuna.create_study(study_name=own_name, storage=self._storage, directions=self._directions)
        if studies:
            before = optuna.load_study(study_name=studies[-1].study_name, storage=self._storage)
            points = before.get_trials(deepcopy=False)
            inside = [trial for trial in points if self._space.contains(trial.params)]
            for trial in inside:
                study.add_trial(
                    create_trial(
                        state=trial.state,
                        values=trial.values,
                        params=trial.params,
                        distributions=self._of(trial.params),
                        intermediate_values=trial.intermediate_values,  # by which pruned ones are ranked
                    )
                )
            self.taken_over = len(inside), len(points)
        study.set_user_attr(SPACE, "; ".join(self._space.lines()))
        study.set_user_attr(EXACT_SPACE, exact)
        return study

    @property
    def points(self) -> list[Point]:
        """See `Strategy`."""
        return [
            Point(number, trial.params, BACK[trial.state], tuple(trial.values or ()))
            for number, trial in enumerate(self._trials)
        ]

    def ask(self) -> Point:
        """See `Strategy`."""
        number = len(self._trials)
        if self._sampler in ("random", "qmc"):
            values = self._space.at(self._shares(number))
            self._study.add_trial(create_trial(state=TrialState.RUNNING, params=values, distributions=self._of(values)))
            return Point(number, values)
        seed = self._random(number).randrange(2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of samplers that were experimental in Optuna 4
            study = self._interim_study() if self._interim else self._study
            study.sampler = self._make_sampler(seed)
            if not self._space.when:
                values = study.ask(self._distributions).params
            else:
                trial = study.ask()
                for key, one in self._space.distributions.items():
                    if self._space.has(key, self._space.text(trial.params)):
                        _suggest(trial, key, one)
                values = trial.params
        if study is not self._study:
            self._study.add_trial(study.get_trials(deepcopy=False)[number])
        return Point(number, values)

    def _interim_study(self) -> Study:
        """Returns a copy of the study, in memory, in which points that have no result yet have what they have achieved
        so far: Optuna's samplers take any other point that has not ended for a bad one."""
        study = optuna.create_study(directions=self._directions)
        for trial in self._trials:
            if trial.number in self._interim:
                state, objectives, rung = self._interim[trial.number]
                trial = copy.copy(trial)
                trial.intermediate_values = {rung: objectives[0]} if objectives else {}
                trial.state, trial.datetime_complete = STATES[state], trial.datetime_start
            study.add_trial(trial)
        return study

    def _of(self, values: Mapping[str, Value]) -> dict[str, BaseDistribution]:
        return {key: self._distributions[key] for key in values}

    @property
    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _shares(self, number: int) -> Sequence[float]:
        """Returns a point of the unit cube."""
        if self._sampler == "random":
            draw = self._random(number)
            return [draw.random() for _ in self._distributions]
        from scipy.stats import qmc

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a number of points that is no power of 2 has a little less balance
            return [float(one) for one in qmc.Sobol(len(self._distributions), seed=self._seed).random(number + 1)[-1]]

    def _random(self, number: int) -> random.Random:
        """Returns the source of chance for one point."""
        return random.Random(f"{self._seed} {number}")

    def _make_sampler(self, seed: int) -> BaseSampler:
        match self._sampler:
            case "tpe":
                return TPESampler(
                    multivariate=True,
                    group=bool(self._space.when),
                    constant_liar=True,
                    n_startup_trials=STARTUP,
                    seed=seed,
                )
            case "cmaes":
                return CmaEsSampler(
                    seed=seed,
                    independent_sampler=RandomSampler(seed=seed),
                    warn_independent_sampling=False,
                    consider_pruned_trials=True,
                )
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=STARTUP)
            case _:
                return NSGAIISampler(population_size=max(STARTUP, self._width), seed=seed)

    def tell(self, number: int, state: PointState, objectives: Sequence[float] = (), rung: int = 1) -> None:
        """See `Strategy`."""
        self._interim.pop(number, None)
        trial = self._trials[number]
        if trial.state is not TrialState.RUNNING:
            return
        if state is PointState.PRUNED and len(self._directions) == 1:
            # Optuna takes the value of a pruned trial from its last intermediate value, and ranks it by the step of it.
            self._storage.set_trial_intermediate_value(trial._trial_id, rung, objectives[0])
        values = [*objectives] if state is PointState.COMPLETE else None
        self._study.tell(trial.number, values, STATES[state])

    def take_interim(self, number: int, state: PointState, objectives: Sequence[float], rung: int) -> None:
        """See `Strategy`."""
        self._interim[number] = state, objectives, rung

    def keep(self) -> None:
        """See `Strategy`."""
        try:
            self._file.keep()
        except OSError as error:
            rule = f"the study of a search must be writable ({one_line(error)})"
            remedy = "make room there, or choose another folder with tracking.journal=DIR"
            raise StoreError(rule, str(self._path), remedy) from error


def _suggest(trial: Trial, key: str, one: Distribution) -> None:
    """Makes Optuna choose a value."""
    if isinstance(one, Options):
        trial.suggest_categorical(key, one.texts)
    elif one.whole:
        trial.suggest_int(key, int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    else:
        trial.suggest_float(key, one.low, one.high, log=one.log, step=one.step)


def _distribution(one: Distribution) -> BaseDistribution:
    if isinstance(one, Options):
        return CategoricalDistribution(one.texts)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)
