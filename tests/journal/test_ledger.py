"""The ledger: who trains what, however many commands ask, and whichever of them die."""

import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from sweepstack.errors import StoreError
from sweepstack.journal.files import keep_file, resolve_folder
from sweepstack.journal.ledger import Ledger
from sweepstack.planning.known_trials import CLAIMED, INTERRUPTED, SETTLED, Composition, Entry
from sweepstack.trial import Trial

from ..stories import (
    CHOICE,
    DIVERGED,
    DONE,
    ERROR,
    LOST,
    Command,
    MakeTrial,
    composition,
    content,
    in_process,
    kill_myself,
    members,
    read_only,
    room_for,
    start_process,
    wait_for,
    wait_until,
)


def ids(trials: list[Trial]) -> list[str]:
    return [one.id for one in trials]


def looked_up(ledger: Ledger, trial: Trial) -> Entry | None:
    return ledger.peek([trial]).entries.get(trial.fingerprint)


def deliver(command: Command, **run_ids: str) -> None:
    """As `Delivery` would."""
    command.ledger.note_delivered(command.number, command.ledger.journal(command.number).stat().st_size, run_ids)
    command.ledger.retire(command.number)


def test_two_commands_never_train_the_same_trial(ledger: Ledger, trial: MakeTrial) -> None:
    one, other = Command(ledger), Command(ledger)
    assert ids(one.claim(*map(trial, range(6))).fresh) == [f"sweep-{number}" for number in range(6)]
    claim = other.claim(*(trial(number, "other") for number in range(3, 9)))
    assert ids(claim.fresh) == ["other-6", "other-7", "other-8"]
    assert ids(claim.held) == ["other-3", "other-4", "other-5"]
    assert (claim.resumed, claim.settled) == ([], [])


def test_what_is_trained_elsewhere_is_known_as_soon_as_it_is_in_that_journal(ledger: Ledger, trial: MakeTrial) -> None:
    one, other = Command(ledger), Command(ledger)
    one.train(trial(1), trial(2), outcome=DIVERGED)
    one.train(trial(3), outcome=ERROR)
    claim = other.claim(*(trial(number, "other") for number in (1, 2, 3)))
    assert claim.settled == [
        (trial(number, "other", id=f"sweep-{number}"), outcome)
        for number, outcome in ((1, DIVERGED), (2, DIVERGED), (3, ERROR))
    ]  # as the sweep knows it, with the id of the record; nobody waits for one that has failed just now
    assert claim.held == []
    one.end()
    assert [entry.state for _, entries in other.claim(trial(3)).resumed for entry in entries.values()] == [CLAIMED]


def test_what_a_command_holds_is_given_to_it_again(ledger: Ledger, trial: MakeTrial) -> None:
    """To one that asks for more and more, such as an adaptive sweep."""
    one = Command(ledger)
    one.claim(trial(1))
    claim = one.claim(trial(1), trial(2))
    assert (ids(claim.fresh), claim.held) == (["sweep-1", "sweep-2"], [])


def test_a_killed_command_is_seen_to_by_the_next_claim(ledger: Ledger, trial: MakeTrial) -> None:
    def story() -> None:
        one = Command(ledger)
        one.claim(*map(trial, range(6)))
        one.plan("stack", trial(0), trial(1), trial(2), trial(3))
        one.plan("not begun", trial(4))
        for number in range(4):
            one.start(trial(number))
            one.measure(trial(number), 1, 2)
        one.measure(trial(1), 3)
        one.finish(trial(0))
        one.finish(trial(3), DIVERGED)
        kill_myself()

    assert in_process(story) == -signal.SIGKILL
    two = Command(ledger)
    claim = two.claim(*(trial(number, "other") for number in (0, 1, 4, 5)))
    assert claim.settled == [(trial(0, "other", id="sweep-0"), DONE)]
    assert claim.fresh == [trial(5, "other")]  # was claimed, and never planned
    assert claim.held == []
    (composition, members), (not_begun, entries) = claim.resumed
    whole = (("sweep-0",), ("sweep-1",), ("sweep-2", "sweep-3"))
    assert composition == Composition("stack", whole, CHOICE, "cpu")
    assert {key: (entry.state, entry.measured, entry.begun) for key, entry in members.items()} == {
        "sweep-0": (SETTLED, 20, True),
        "sweep-1": (CLAIMED, 30, True),
        "sweep-2": (CLAIMED, 20, True),
        "sweep-3": (SETTLED, 20, True),
    }
    assert members["sweep-1"].trial == trial(1, "other", id="sweep-1")  # as it is known now
    assert members["sweep-2"].trial == trial(2)  # nobody has asked for it, but the stack needs it
    assert {entry.session for entry in members.values() if entry.state == CLAIMED} == {two.number}
    assert (members["sweep-0"].outcome, members["sweep-3"].outcome) == (DONE, DIVERGED)
    assert not_begun.id == "not begun"
    assert {key: (entry.begun, entry.measured) for key, entry in entries.items()} == {"sweep-4": (False, 0)}
    three = Command(ledger)
    assert ids(three.claim(trial(2, "third")).held) == ["third-2"]


def test_a_stack_comes_back_whole_however_often_it_is_interrupted(ledger: Ledger, trial: MakeTrial) -> None:
    first = Command(ledger)
    first.claim(trial(1), trial(2), trial(3))
    first.plan("stack", trial(1), trial(2), trial(3))
    for epoch in range(1, 4):
        command = Command(ledger)
        if epoch > 1:
            ((composition, members),) = command.claim(trial(epoch)).resumed
            assert composition.trajectories == (("sweep-1",), ("sweep-2", "sweep-3"))
            assert sorted(members) == ["sweep-1", "sweep-2", "sweep-3"]
            assert {entry.measured for entry in members.values()} == {10 * (epoch - 1)}
        else:
            first.lock.release()
            assert len(command.claim(trial(1), trial(2), trial(3)).resumed) == 1
        for one in (1, 2, 3):
            command.start(trial(one), again=epoch > 1)
            command.measure(trial(one), epoch)
        command.die()
        assert ledger.end_dead_sessions()
        assert {looked_up(ledger, trial(one)).measured for one in (1, 2, 3)} == {10 * epoch}


def test_a_command_that_dies_again_before_it_begins_forgets_nothing(ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.measure(trial(1), 1, 2)
    one.die()
    two = Command(ledger)
    assert len(two.claim(trial(1)).resumed) == 1
    two.die()
    ((_, members),) = Command(ledger).claim(trial(1)).resumed
    assert (members["sweep-1"].begun, members["sweep-1"].measured) == (True, 20)


def test_an_error_may_pass_so_the_trial_is_tried_again_and_what_diverges_is_not(
    ledger: Ledger, trial: MakeTrial
) -> None:
    one = Command(ledger)
    one.train(trial(1), outcome=ERROR)
    one.train(trial(2), outcome=DIVERGED)
    one.end()
    deliver(one)
    two = Command(ledger)
    claim = two.claim(trial(1), trial(2))
    assert [sorted(members) for _, members in claim.resumed] == [["sweep-1"]]
    assert ids(claim.fresh) == ["sweep-2"]  # which the store knows now


def test_again_trains_what_is_settled_and_leaves_others_alone(ledger: Ledger, trial: MakeTrial) -> None:
    one, two = Command(ledger), Command(ledger)
    one.train(trial(1))
    one.claim(trial(2))
    claim = two.claim(trial(1, "other"), trial(2, "other"), again=True)
    assert ids(claim.fresh) == ["other-1"]  # a record of its own
    assert ids(claim.held) == ["other-2"]
    two.plan("stack", trial(1, "other"))
    two.start(trial(1, "other"))
    two.die()
    ((_, members),) = Command(ledger).claim(trial(1, "third")).resumed  # the newest counts
    assert sorted(members) == ["other-1"]


def test_what_is_given_back_is_free_and_what_has_begun_is_left_open(ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.end()
    two = Command(ledger)
    assert len(two.claim(trial(1), trial(2)).resumed) == 1
    ledger.release(two.number, [trial(1), trial(2)])
    assert looked_up(ledger, trial(2)) is None
    assert looked_up(ledger, trial(1)).state == INTERRUPTED
    three = Command(ledger)
    claim = three.claim(trial(1), trial(2, "other"))
    assert ids(claim.fresh) == ["other-2"]
    assert [sorted(members) for _, members in claim.resumed] == [["sweep-1"]]


def test_nobody_gives_back_what_another_holds(ledger: Ledger, trial: MakeTrial) -> None:
    one, two = Command(ledger), Command(ledger)
    one.claim(trial(1))
    ledger.release(two.number, [trial(1)])
    assert looked_up(ledger, trial(1)).session == one.number


def checkpoint(ledger: Ledger, stack: str) -> Path:
    file = ledger.checkpoints(stack) / "1.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"state")
    return file


def test_a_stack_is_forgotten_when_all_of_it_is_settled_and_delivered(ledger: Ledger, trial: MakeTrial) -> None:
    file = checkpoint(ledger, "stack")
    one = Command(ledger)
    one.claim(trial(1), trial(2))
    one.plan("stack", trial(1), trial(2))
    for number in (1, 2):
        one.start(trial(number))
    one.finish(trial(1))
    one.end()
    deliver(one, **{"sweep-1": "run 1", "sweep-2": "run 2"})
    assert not ledger.is_undelivered(one.number)
    assert file.exists()
    two = Command(ledger)
    ((_, members),) = two.claim(trial(2)).resumed
    assert {key: (entry.state, entry.run_id) for key, entry in members.items()} == {
        "sweep-1": (SETTLED, "run 1"),
        "sweep-2": (CLAIMED, "run 2"),
    }
    two.start(trial(2), again=True)
    two.finish(trial(2))
    two.end()
    assert file.exists()  # it is not delivered yet
    deliver(two)
    assert not file.parent.exists()
    assert composition(ledger, "stack") is None
    assert ledger.peek([trial(1), trial(2)]).entries == {}
    assert sorted(path.name for path in ledger.folder.iterdir()) == ["checkpoints", "ledger.db"]


def test_checkpoints_stay_where_they_are_wanted(ledger: Ledger, trial: MakeTrial) -> None:
    file = checkpoint(ledger, "kept")
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("kept", trial(1), keep=True)
    one.start(trial(1))
    one.finish(trial(1))
    one.end()
    deliver(one)
    assert file.exists()
    assert composition(ledger, "kept") is None


def test_the_checkpoints_of_a_stack_that_goes_on_in_parts_go_with_it(ledger: Ledger, trial: MakeTrial) -> None:
    file = checkpoint(ledger, "whole")
    one = Command(ledger)
    one.claim(trial(1), trial(2), trial(3))
    one.plan("whole", trial(1), trial(2), trial(3))
    one.plan("half", trial(2), trial(3))
    assert file.exists()
    assert [len(members(ledger, stack)) for stack in ("whole", "half")] == [1, 2]
    one.plan("other half", trial(1))
    assert not file.exists()
    assert composition(ledger, "whole") is None


def test_eight_commands_that_ask_at_once_get_each_trial_once(ledger: Ledger, trial: MakeTrial) -> None:
    """On a ledger that none of them has made yet."""
    folder = ledger.folder.with_name("told")
    folder.mkdir()

    def story(number: int) -> None:
        while time.time() < begin:
            pass
        command = Command(ledger)
        trials = [trial(which, f"sweep{number}") for which in range(100)]
        random.Random(number).shuffle(trials)
        mine: list[str] = []
        for part in range(0, 100, 20):
            mine += ids(command.claim(*trials[part : part + 20]).fresh)
        (folder / str(number)).write_text(json.dumps(mine))
        (folder / f"{number}.done").touch()
        wait_until(lambda: len(list(folder.glob("*.done"))) == 8)  # a session that has ended holds nothing

    begin = time.time() + 0.3
    processes = [start_process(lambda number=number: story(number)) for number in range(8)]  # type: ignore[misc]
    assert [wait_for(process) for process in processes] == [0] * 8
    told = [json.loads((folder / str(number)).read_text()) for number in range(8)]
    claimed = Counter(one.split("-")[1] for mine in told for one in mine)
    assert claimed == Counter(map(str, range(100)))


def test_wherever_a_command_is_killed_nothing_is_lost_or_doubled(ledger: Ledger, trial: MakeTrial) -> None:
    everything = [trial(number) for number in range(12)]

    def story() -> None:
        while True:
            command = Command(ledger)
            claim = command.claim(*everything)
            for number in range(0, len(claim.fresh), 3):
                command.plan(f"{command.number}.{number}", *claim.fresh[number : number + 3])
            open_ones = [
                entry.trial for _, members in claim.resumed for entry in members.values() if entry.state == CLAIMED
            ]
            for one in (*claim.fresh, *open_ones):
                command.start(one)
                command.measure(one, 1)
            command.end()

    dice = random.Random(0)
    for _ in range(8):
        process = start_process(story)
        time.sleep(dice.uniform(0.01, 0.15))
        os.kill(process, signal.SIGKILL)
        assert wait_for(process) == -signal.SIGKILL
        sessions = ledger.end_dead_sessions() if ledger.folder.exists() else []
        claim = Command(ledger).claim(*everything)
        found = [one.fingerprint for one in claim.fresh]
        found += [entry.trial.fingerprint for _, members in claim.resumed for entry in members.values()]
        assert Counter(found) == Counter(one.fingerprint for one in everything)
        assert (claim.held, claim.settled) == ([], [])
        for session in sessions:
            ledger.retire(session)


def test_a_session_lives_as_long_as_its_command_and_no_longer(ledger: Ledger, trial: MakeTrial) -> None:
    one, two = Command(ledger), Command(ledger)
    assert ledger.end_dead_sessions() == []
    one.end()
    assert ledger.end_dead_sessions() == [one.number]
    two.die()
    assert ledger.end_dead_sessions() == [one.number, two.number]
    ledger.retire(one.number)
    assert ledger.end_dead_sessions() == [two.number]
    assert Command(ledger).number not in (one.number, two.number)


def test_a_fork_that_outlives_its_command_does_not_keep_it_alive(ledger: Ledger) -> None:
    """Workers that load data, for example."""
    told, written = os.pipe()

    def story() -> None:
        Command(ledger)
        worker = start_process(lambda: time.sleep(60))
        os.write(written, b"%d\n" % worker)
        kill_myself()

    assert in_process(story) == -signal.SIGKILL
    worker = int(os.read(told, 20))
    try:
        assert ledger.end_dead_sessions() == [1]
    finally:
        os.kill(worker, signal.SIGKILL)


def test_thousands_of_trials_are_one_question(ledger: Ledger, trial: MakeTrial) -> None:
    one, two = Command(ledger), Command(ledger)
    assert len(one.claim(*map(trial, range(1500))).fresh) == 1500
    claim = two.claim(*map(trial, range(1400, 1600)))
    assert (len(claim.fresh), len(claim.held)) == (100, 100)
    assert len(ledger.peek([trial(number) for number in range(2000)]).entries) == 1600
    ledger.note_delivered(one.number, 0, {f"sweep-{number}": f"run {number}" for number in range(1500)})
    assert len(ledger.run_ids(f"sweep-{number}" for number in range(1600))) == 1500


def test_a_ledger_of_a_newer_sweepstack_is_left_as_it_is(ledger: Ledger, trial: MakeTrial) -> None:
    Command(ledger).end()
    file = ledger.folder / "ledger.db"
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    before = file.read_bytes()
    newer = r"^the journal must be of this version of sweepstack or an older one, .*ledger\.db is of a newer one; "
    for use in (lambda: ledger.open("train"), lambda: ledger.peek([trial(1)]), ledger.end_dead_sessions):
        with pytest.raises(StoreError, match=newer) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", [b"this is no database, and never was one" * 100, None], ids=["other", "garbled"])
def test_a_damaged_ledger_is_one_line_and_is_not_made_worse(
    ledger: Ledger, trial: MakeTrial, damage: bytes | None
) -> None:
    Command(ledger).claim(*map(trial, range(200)))
    file = ledger.folder / "ledger.db"
    garbled = bytearray(file.read_bytes())
    garbled[4096:] = os.urandom(len(garbled) - 4096)
    file.write_bytes(garbled if damage is None else damage)
    before = file.read_bytes()
    damaged = r"^the journal's ledger must be an sqlite file, .*ledger\.db is damaged \(.*\); delete it and run again: "
    for use in (lambda: ledger.claim(1, [trial(1)]), lambda: ledger.peek([trial(1)]), ledger.end_dead_sessions):
        with pytest.raises(StoreError, match=damaged) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


@LOST
def test_when_the_ledger_is_deleted_what_the_journals_tell_is_known_again(
    ledger: Ledger, trial: MakeTrial, first: str
) -> None:
    """As the error of a damaged one says."""
    oldest, one, alive = Command(ledger), Command(ledger), Command(ledger)
    oldest.end()
    if first == "is retired":
        ledger.retire(oldest.number)
    one.train(trial(1))
    one.claim(trial(2))
    one.plan("stack", trial(2))
    one.start(trial(2))
    one.die()
    alive.train(trial(3))
    alive.claim(trial(4))
    alive.plan("other", trial(4))
    alive.start(trial(4))
    (ledger.folder / "ledger.db").unlink()
    taken = [int(path.stem) for path in ledger.folder.glob("*.jsonl")]
    new = Command(ledger)
    assert new.number not in taken
    claim = new.claim(*(trial(number, "other") for number in range(1, 6)))
    assert [(one.number, outcome) for one, outcome in claim.settled] == [(1, DONE), (3, DONE)]
    assert ids(claim.fresh) == ["sweep-2", "other-5"]
    assert ids(claim.held) == ["other-4"]
    assert {one.number} <= set(ledger.end_dead_sessions()) <= {oldest.number, one.number}
    assert Command(ledger).number > alive.number


def test_a_full_disk_is_one_line_and_costs_nothing_that_is_written(ledger: Ledger, trial: MakeTrial) -> None:
    told = ledger.folder.with_name("told")
    one = Command(ledger)
    one.train(trial(1))
    one.end()

    def story() -> None:
        two = Command(ledger)
        with room_for((ledger.folder / "ledger.db").stat().st_size), pytest.raises(StoreError) as caught:
            two.claim(*map(trial, range(500)))
        told.write_text(str(caught.value))
        assert len(two.claim(*map(trial, range(500))).fresh) == 499
        assert len(ledger.peek([trial(number) for number in range(500)]).entries) == 500

    assert in_process(story) == 0
    assert told.read_text().startswith(f"the journal's ledger must be usable, {ledger.folder}/ledger.db is not (")
    assert "\n" not in told.read_text()
    assert looked_up(ledger, trial(1)).state == SETTLED


def test_a_folder_that_cannot_be_written_to_is_one_line(reachable: Path, trial: MakeTrial) -> None:
    inside, below = Ledger(reachable), Ledger(reachable / "deep" / "journal")
    with read_only(reachable):
        for ledger in (inside, below):
            with pytest.raises(StoreError, match=r"^the journal's .*tracking\.journal=DIR$") as caught:
                ledger.open("train")
            assert "\n" not in str(caught.value)
    Command(inside).claim(trial(1))
    with read_only(reachable), pytest.raises(StoreError, match=r"^the journal's .*tracking\.journal=DIR$"):
        inside.open("train")


def test_a_look_at_a_folder_that_cannot_be_written_to_tells_what_is_there(reachable: Path, trial: MakeTrial) -> None:
    """For a dry run of somebody whom the owner lets read."""
    ledger = Ledger(reachable)
    command = Command(ledger)
    command.train(trial(1))
    command.claim(trial(2))
    command.plan("stack", trial(2))
    command.die()
    for path in reachable.iterdir():
        path.chmod(0o644)
    with read_only(reachable):
        found = ledger.peek([trial(1), trial(2), trial(3)])
    assert [entry.state for entry in found.entries.values()] == [SETTLED, INTERRUPTED]


def test_a_look_writes_nothing_and_tells_what_a_claim_would(ledger: Ledger, trial: MakeTrial) -> None:
    assert ledger.peek([trial(1)]).entries == {}
    assert not ledger.folder.exists()
    dead, alive = Command(ledger), Command(ledger)
    dead.train(trial(1))
    dead.claim(trial(2), trial(3))
    dead.plan("stack", trial(2), trial(3))
    dead.start(trial(2))
    dead.die()
    alive.train(trial(4))
    alive.claim(trial(5))
    before = content(ledger.folder)
    found = Ledger(ledger.folder).peek([trial(number, "other") for number in range(1, 7)]).entries
    assert content(ledger.folder) == before
    assert {entry.trial.number: (entry.state, entry.outcome) for entry in found.values()} == {
        1: (SETTLED, DONE),
        2: (INTERRUPTED, None),
        3: (INTERRUPTED, None),
        4: (SETTLED, DONE),
        5: (CLAIMED, None),
    }
    assert composition(ledger, "stack") is not None
    assert ids(members(ledger, "stack")) == ["sweep-2", "sweep-3"]
    assert content(ledger.folder) == before


def test_a_look_at_somebody_who_is_training_goes_on_reading(ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    watcher = Ledger(ledger.folder)
    seen = []
    for act in (lambda: one.start(trial(1)), lambda: one.measure(trial(1), 1), lambda: one.finish(trial(1))):
        seen.append(looked_up(watcher, trial(1)))
        act()
    seen.append(looked_up(watcher, trial(1)))
    assert [(entry.state, entry.begun) for entry in seen if entry] == [
        (CLAIMED, False),
        (CLAIMED, True),
        (CLAIMED, True),
        (SETTLED, True),
    ]


def test_a_ledger_that_is_locked_for_a_while_is_waited_for(ledger: Ledger, trial: MakeTrial) -> None:
    command = Command(ledger)
    database = sqlite3.connect(ledger.folder / "ledger.db", isolation_level=None, check_same_thread=False)
    database.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.5, lambda: database.execute("ROLLBACK"))
    timer.start()
    assert ids(command.claim(trial(1)).fresh) == ["sweep-1"]
    timer.join()
    database.close()


def test_a_kept_file_stays_as_it_was_when_its_place_is_taken(ledger: Ledger, tmp_path: Path) -> None:
    file, aside = tmp_path / "weights.pt", tmp_path / ".weights.pt"
    file.write_bytes(b"first")
    kept = keep_file(ledger.files("trial"), file)
    aside.write_bytes(b"second")
    aside.replace(file)
    assert kept.read_bytes() == b"first"
    assert keep_file(ledger.files("trial"), file) == kept
    assert kept.read_bytes() == b"second"


def test_each_store_has_a_ledger_of_its_own(tmp_path: Path) -> None:
    one, two = (
        resolve_folder(tmp_path / name, f"sqlite:///{tmp_path}/{name}", tmp_path, None) for name in ("a.db", "b.db")
    )
    assert one != two
    assert {one.parent, two.parent} == {tmp_path / "journal"}
    server, other = (resolve_folder(None, f"http://host:{port}", tmp_path, None) for port in (1, 2))
    assert server != other
    assert {server.parent, other.parent} == {tmp_path / "mlruns" / "journal"}
    assert resolve_folder(None, "http://host:1", tmp_path, "~/here") == Path.home() / "here"


def test_a_stack_that_is_cut_takes_along_what_is_settled_of_it(ledger: Ledger, trial: MakeTrial) -> None:
    """Trials 1 and 2 share a trajectory; 1 ended before its command died, and the next command cuts the stack."""
    one = Command(ledger)
    one.claim(*map(trial, range(3)))
    one.plan("stack", *map(trial, range(3)))
    for number in range(3):
        one.start(trial(number))
    one.finish(trial(1))
    one.die()
    two = Command(ledger)
    ((_, members),) = two.claim(trial(0), trial(1), trial(2)).resumed
    assert members["sweep-1"].state == SETTLED
    pieces = [
        Composition("left", (("sweep-0",),), CHOICE, "cpu", note="cut"),
        Composition("right", (("sweep-1", "sweep-2"),), CHOICE, "cpu", note="cut"),
    ]
    ledger.plan(two.number, pieces)
    assert composition(ledger, "stack") is None
    two.die()
    resumed = Command(ledger).claim(trial(0), trial(2)).resumed
    assert [(composition.id, sorted(members)) for composition, members in resumed] == [
        ("left", ["sweep-0"]),
        ("right", ["sweep-1", "sweep-2"]),
    ]


def test_a_stack_that_never_began_is_not_trained_for_one_of_its_trials(ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.claim(*map(trial, range(3)))
    one.plan("stack", *map(trial, range(3)))
    one.die()
    two = Command(ledger)
    claim = two.claim(trial(1))
    assert (ids(claim.fresh), claim.resumed) == (["sweep-1"], [])
    two.end()
    claim = Command(ledger).claim(*map(trial, range(3)))  # the company is not whole any more
    assert (sorted(ids(claim.fresh)), claim.resumed) == (["sweep-0", "sweep-1", "sweep-2"], [])


def test_what_began_before_its_ledger_was_lost_is_not_recorded_twice(ledger: Ledger, trial: MakeTrial) -> None:
    one = Command(ledger)
    one.claim(trial(1))
    one.plan("stack", trial(1))
    one.start(trial(1))
    one.measure(trial(1), 1, 2)
    one.die()
    (ledger.folder / "ledger.db").unlink()
    two = Command(ledger)
    (entry,) = two.claim(trial(1)).entries
    assert entry.trial.id == "sweep-1"
    assert (entry.begun, entry.measured) == (True, 20)
    assert ledger.has_undelivered_predecessor("sweep-1", two.number)  # for what the first one has to say


def test_what_a_server_has_taken_is_known_while_it_is_away(ledger: Ledger, trial: MakeTrial) -> None:
    for number, remember in ((1, True), (2, False)):
        command = Command(ledger)
        command.train(trial(number))
        command.end()
        ledger.note_delivered(command.number, 1, {f"sweep-{number}": f"run {number}"})
        ledger.retire(command.number, remember)
    asked = [trial(number).fingerprint for number in (1, 2, 3)]
    assert ledger.recorded_outcomes(asked) == {trial(1).fingerprint: ("run 1", DONE)}
