"""What there is to do for trials: what a dry run foresees is what the claim of a command does right after."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweepstack.execution.describe import describe_work
from sweepstack.execution.open_store import ledger_of
from sweepstack.execution.remaining_work import Work
from sweepstack.execution.session import Session, peek
from sweepstack.planning.classify import Decision, Resume, Train
from sweepstack.planning.known_trials import Entry
from sweepstack.private_api_switch import NO_TRICKS
from sweepstack.tracking.runs_as_rows import SETTLED_TAG
from sweepstack.tracking.store import Store
from sweepstack.trial import Outcome, Trial

from ..stories import DIVERGED, DONE, ERROR, Command, MakeTrial, content, fingerprint

OUTCOMES = {"finished": DONE, "diverged": DIVERGED, "failed": ERROR}
FAR = ["claimed", "planned", "started", "measured", *OUTCOMES]
"""How far a command trains a trial."""
ENDS = ["lives", "delivers", "releases", "ends", "dies", "is delivered"]


class House:
    """A store, its ledger, and the commands that live."""

    def __init__(self, folder: Path, trial: MakeTrial) -> None:
        folder.mkdir(parents=True)
        self.store, self._trial = Store(f"sqlite:///{folder}/mlflow.db"), trial
        self.ledger = ledger_of(self.store, None)
        self.alive: list[Command] = []
        self._names = iter(range(1000))
        with (
            self._database() as database
        ):  # the tables that are asked; `test_known_fingerprints` holds that MLflow's are like them
            database.execute("CREATE TABLE runs (run_uuid, status, artifact_uri, start_time, lifecycle_stage)")
            database.execute("CREATE TABLE tags (run_uuid, key, value)")
            database.execute("CREATE TABLE latest_metrics (run_uuid, key, value, is_nan)")

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        assert self.store.database is not None
        with contextlib.closing(sqlite3.connect(self.store.database)) as database, database:
            yield database

    def record(self, key: str, outcome: Outcome = DONE) -> None:
        """The store has a settled trial of that fingerprint."""
        run, status = f"run {next(self._names)}", "FAILED" if outcome.diverged else "FINISHED"
        with self._database() as database:
            database.execute("INSERT INTO runs VALUES (?, ?, ?, 0, 'active')", (run, status, f"file:///runs/{run}"))
            database.execute("INSERT INTO tags VALUES (?, ?, ?)", (run, SETTLED_TAG, key))

    def trials(self, numbers: Iterable[int]) -> list[Trial]:
        """As a new command knows them."""
        sweep = f"sweep{next(self._names)}"
        return [self._trial(number, sweep) for number in sorted(numbers)]

    def claim(self, numbers: Iterable[int], rerun: bool = False) -> Work:
        """What a new command claims, which a dry run has foreseen and told in the same words. The command lives on."""
        trials = self.trials(numbers)
        before = content(self.ledger.folder) if self.ledger.folder.exists() else None
        foreseen = peek(trials, self.store, rerun)
        assert before == (content(self.ledger.folder) if before is not None else None)
        command = Command(self.ledger)
        session = Session(self.ledger, command.number, self.store, [])
        claimed = session.claim(trials, rerun)
        command.journal.close()
        command.journal, command.fold = session.journal, session.replay
        self.alive.append(command)
        assert [unclaimed(one, command.number) for one in claimed.decisions] == foreseen.decisions
        assert replace(claimed, decisions=[]) == replace(foreseen, decisions=[])
        assert describe_work(claimed, every=True) == describe_work(foreseen, every=True)
        return claimed

    def live(self, numbers: Iterable[int], far: Mapping[int, str], end: str = "lives", rerun: bool = False) -> Work:
        """A command claims trials, trains each so far, and then lives on or not."""
        work = self.claim(numbers, rerun)
        command = self.alive[-1]
        planned = [one for one in work.fresh if far[one.number] != "claimed"]
        if planned:
            command.plan(f"stack {next(self._names)}", *planned)
        known = self.ledger.peek(work.fresh + [one for stack in work.resumed for one in stack.trials]).entries
        for one in (entry.trial for entry in known.values() if entry.session == command.number):
            way = FAR.index(far[one.number])
            if way > FAR.index("planned"):
                command.start(one, again=any(one in stack.trials for stack in work.resumed))
            if way > FAR.index("started"):
                command.measure(one, 1)
            if way > FAR.index("measured"):
                command.finish(one, OUTCOMES[far[one.number]])
        if end == "releases":
            self.ledger.release(command.number, [*work.fresh, *(one for stack in work.resumed for one in stack.trials)])
        elif end == "delivers":
            self.ledger.note_delivered(command.number, 0, {}, command.fold.progress)
        elif end != "lives":
            self.stop(-1, end)
        return work

    def stop(self, which: int, end: str) -> None:
        """A command of those that live ends or dies; the records of one that has ended may be delivered."""
        command = self.alive.pop(which)
        if end == "dies":
            command.die()
            return
        command.end()
        if end == "is delivered":
            self._retire(command)

    def damage(self, table: str) -> None:
        """No row of a table in the ledger can be read."""
        with contextlib.closing(sqlite3.connect(self.ledger.file)) as database, database:
            database.execute(f"UPDATE {table} SET checksum = checksum + 1")

    def _retire(self, command: Command) -> None:
        for progress in command.fold.progress.values():
            if progress.outcome is not None and progress.outcome.settled:
                self.record(progress.trial.fingerprint, progress.outcome)
        self.ledger.retire(command.number)

    def close(self) -> None:
        for command in self.alive:
            command.die()


def unclaimed(decision: Decision, session: int) -> Decision:
    """A decision as a dry run tells it, which has no session."""

    def free(entry: Entry) -> Entry:
        return replace(entry, session=None) if entry.session == session else entry

    match decision:
        case Train(entry):
            return Train(free(entry))
        case Resume():
            return replace(decision, members={key: free(entry) for key, entry in decision.members.items()})
        case _:
            return decision


@pytest.fixture(autouse=True, scope="module")
def _private_queries() -> Iterator[None]:
    """The store of these stories has only those columns of MLflow's tables that our own queries read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(NO_TRICKS, raising=False)
        yield


@pytest.fixture
def house(tmp_path: Path, trial: MakeTrial) -> Iterator[House]:
    house = House(tmp_path / "house", trial)
    yield house
    house.close()


NUMBERS = st.sets(st.integers(0, 3), min_size=1)
COMMANDS = st.builds(
    lambda numbers, far, end, rerun: lambda house: house.live(numbers, dict(enumerate(far)), end, rerun),
    NUMBERS,
    st.lists(st.sampled_from(FAR), min_size=4, max_size=4),
    st.sampled_from(ENDS),
    st.booleans(),
)
STOPS = st.builds(
    lambda which, end: lambda house: house.stop(which % len(house.alive), end) if house.alive else None,
    st.integers(0, 3),
    st.sampled_from(["ends", "dies", "is delivered"]),
)
RECORDS = st.builds(
    lambda number, code, outcome: lambda house: house.record(fingerprint(number, code=code), outcome),
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from([DONE, DIVERGED]),
)
DAMAGES = st.builds(
    lambda table: lambda house: house.damage(table) if house.ledger.file.exists() else None,
    st.sampled_from(["trials", "stacks", "sessions"]),
)
STORIES = st.lists(st.one_of(COMMANDS, COMMANDS, COMMANDS, STOPS, RECORDS, DAMAGES), max_size=8)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(story=STORIES, wanted=NUMBERS, rerun=st.booleans())
def test_whatever_has_happened_a_claim_does_what_the_dry_run_foresees(
    tmp_path_factory: pytest.TempPathFactory,
    trial: MakeTrial,
    story: list[Callable[[House], object]],
    wanted: set[int],
    rerun: bool,
) -> None:
    house = House(tmp_path_factory.mktemp("story") / "house", trial)
    try:
        for happen in story:
            happen(house)
        house.claim(wanted, rerun)
    finally:
        house.close()


def test_what_has_failed_in_a_command_that_lives_is_not_waited_for(house: House) -> None:
    """The dry run said that another command is training it."""
    house.live([1], {1: "failed"})
    work = house.claim([1])
    assert [outcome for _, outcome, _ in work.settled] == [ERROR]
    assert work.held == []


def test_damaged_rows_keep_their_numbers_whoever_else_is_found_in_the_journals(house: House) -> None:
    """The trial of the first command got the number of the second one's, whose row could not be inserted then."""
    house.live({0}, {0: "started"}, "releases")
    house.live({0}, {0: "started"}, "lives")
    house.damage("trials")
    assert [trial.number for trial in house.claim({0}).held] == [0]


def test_what_lost_its_stack_is_asked_of_the_store(house: House) -> None:
    """The dry run asked for those alone of which the ledger had nothing."""
    house.live([1, 2], {1: "started", 2: "started"}, "ends")
    house.damage("stacks")
    house.record(fingerprint(1))
    work = house.claim([1, 2])
    assert [trial.number for trial, *_ in work.settled] == [1]
    assert [trial.number for trial in work.fresh] == [2]


def test_what_has_changed_is_told_of_what_is_trained_and_of_nothing_else(house: House) -> None:
    """A claim told it of what the ledger knew to be settled, too."""
    house.record(fingerprint(1, code=7))
    assert house.live([1], {1: "finished"}).changed == {fingerprint(1): "the training code has changed"}
    assert house.claim([1]).changed == {}


def test_a_rerun_that_died_before_its_plan_leaves_the_outcome_known(house: House) -> None:
    """The dry run said that the trial is trained again."""
    house.live([1], {1: "finished"}, "ends")
    house.live([1], {1: "claimed"}, "dies", rerun=True)
    assert [outcome for _, outcome, _ in house.claim([1]).settled] == [DONE]


def test_trials_whose_ledger_is_lost_are_foreseen_by_their_journals(house: House) -> None:
    house.live([1, 2], {1: "finished", 2: "measured"}, "dies")
    house.ledger.file.unlink()
    work = house.claim([1, 2])
    assert [trial.number for trial, *_ in work.settled] == [1]
    assert [trial.number for trial in work.fresh] == [2]


def test_a_stack_whose_rows_cannot_be_read_is_resumed_for_one_of_its_trials(house: House) -> None:
    """The rows of the others, too, are made again of the journal when a session opens."""
    house.live([1, 2], {1: "measured", 2: "measured"}, "dies")
    house.damage("trials")
    (stack,) = house.claim([1]).resumed
    assert [trial.number for trial in stack.trials] == [1, 2]
