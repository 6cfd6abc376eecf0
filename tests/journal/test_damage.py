"""A disk that changes what was written: what is known still is recorded, the rest is told; nothing stays RUNNING."""

import json
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweepstack.journal.ledger import Ledger
from sweepstack.planning.known_trials import INTERRUPTED
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.delivery import Delivery

from ..stories import DIVERGED, DONE, ERROR, Command, MakeTrial, ask, deliver_all, points, points_of, rows, states
from ..terminal import new_store

NAMES = ("lr=1", "lr=2", "lr=3")
ENDS = {"lr=1": "FINISHED", "lr=2": "FAILED", "lr=3": "FAILED"}


def told(ledger: Ledger) -> list[str]:
    lines: list[str] = []
    ledger.show_notes(lines.append)
    return lines


def trained(ledger: Ledger, trial: MakeTrial, store: Store | None = None) -> Command:
    """A command with three trials, ended as `ENDS` tells; delivered before they ended, where there is a store."""
    command = Command(ledger)
    trials = [trial(number) for number in (1, 2, 3)]
    command.claim(*trials)
    for one in trials:
        command.plan(f"stack of {one.id}", one)
        command.start(one)
        command.measure(one, 1)
    if store is not None:
        Delivery(store, ledger, command.number).deliver()
    for one, outcome in zip(trials, (DONE, DIVERGED, ERROR), strict=True):
        command.measure(one, 2)
        command.finish(one, outcome)
    command.join(trial(9), None)
    return command


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda text: text[:at] + bytes([text[at] ^ 4]) + text[at + 1 :]


def lines(text: bytes) -> list[bytes]:
    return text.splitlines(keepends=True)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "its last byte": lambda text: text[:-1],
    "its last lines": lambda text: b"".join(lines(text)[:-4]),
    "all": lambda _: b"",
    "a line in the middle": lambda text: b"".join([*lines(text)[:5], *lines(text)[6:]]),
    "the begins": lambda text: b"".join(line for line in lines(text) if b'"event":"Started"' not in line),
    "the ends": lambda text: b"".join(line for line in lines(text) if b'"event":"Ended"' not in line),
    "an end of line": lambda text: text.replace(b"}\n", b"}\x0b", 4),
    "a sector": lambda text: text[:512] + bytes(512) + text[1024:],
    "the second half": lambda text: text[: len(text) // 2] + b"\xff" * (len(text) // 2),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("begun", [False, True], ids=["not delivered", "delivered in part"])
def test_a_journal_that_has_lost_something_is_made_up_for_by_the_ledger(
    store: Store, ledger: Ledger, trial: MakeTrial, damage: Callable[[bytes], bytes], begun: bool
) -> None:
    command = trained(ledger, trial, store if begun else None)
    command.end()
    journal = ledger.journal(command.number)
    damaged = damage(journal.read_bytes())
    journal.write_bytes(damaged)
    deliver_all(store, ledger)
    assert states(store) == ENDS
    assert rows(store)["lr=1"].metrics == DONE.metrics
    assert rows(store)["lr=1"].params == {"dataset": "digits", "lr": "1"}
    assert rows(store)["lr=3"].reason == ERROR.reason
    assert max(points(store).values()) == 1
    (line,) = told(ledger)
    kept = ledger.folder / "damaged" / journal.name
    assert line.startswith("A journal is damaged: ")
    assert line.endswith(f"The file is kept as {kept}.")
    assert kept.read_bytes() == damaged
    assert not journal.exists()
    assert told(ledger) == []
    assert ledger.end_dead_sessions() == []


def test_a_journal_that_is_gone_is_made_up_for_too(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    command = trained(ledger, trial)
    command.end()
    ledger.journal(command.number).unlink()
    deliver_all(store, ledger)
    assert states(store) == ENDS
    (line,) = told(ledger)
    assert line.endswith("The file is gone.")


def test_what_is_whole_is_said_nothing_of(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    command = trained(ledger, trial)
    command.end()
    deliver_all(store, ledger)
    assert (states(store), told(ledger)) == (ENDS, [])
    assert not (ledger.folder / "damaged").exists()


def test_trials_that_joined_a_sweep_are_of_it_though_no_line_tells_it(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    first = Command(ledger)
    first.train(trial(1))
    first.end()
    deliver_all(store, ledger)
    second = Command(ledger)
    second.join(trial(1, "other", id="sweep-1"))
    second.train(trial(2, "other"))
    second.end()
    journal = ledger.journal(second.number)
    journal.write_bytes(b"".join(lines(journal.read_bytes())[1:]))
    deliver_all(store, ledger)
    assert sorted(row.name for row in store.rows("other")) == ["lr=1", "lr=2"]
    assert len(told(ledger)) == 1


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3, unique=True))
def test_wherever_bits_flip_in_the_journal_of_a_dead_command_nothing_is_lost_or_runs_for_ever(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, trial: MakeTrial, places: list[float]
) -> None:
    """The next command trains what nobody knows the end of."""
    folder = tmp_path_factory.mktemp("flips")
    store, ledger = new_store(folder, empty_database), Ledger(folder / "journal")
    command = trained(ledger, trial, store)
    command.die()
    journal = ledger.journal(command.number)
    text = journal.read_bytes()
    for place in {int(place * len(text)) for place in places}:  # two flips of one bit are none
        text = flip(place)(text)
    journal.write_bytes(text)
    again = Command(ledger)
    claim = again.claim(*(trial(number) for number in (1, 2, 3)))
    entries = [*claim.entries, *(entry for _, found in claim.resumed for entry in found.values())]
    left = {entry.trial.id: entry for entry in entries}
    for entry in left.values():
        outcome = {1: DONE, 2: DIVERGED, 3: ERROR}[entry.trial.number]
        again.start(entry.trial, again=entry.begun)
        again.measure(entry.trial, *(epoch for epoch in (1, 2) if epoch * 10 > entry.measured))
        again.finish(entry.trial, outcome)
    again.end()
    deliver_all(store, ledger)
    assert states(store) == ENDS
    assert rows(store)["lr=1"].params == {"dataset": "digits", "lr": "1"}
    assert rows(store)["lr=1"].metrics == DONE.metrics
    assert len(told(ledger)) == 1 or not text.endswith(b"\n")  # as if it had died in the middle of that line


def change(ledger: Ledger, statement: str) -> None:
    """As a disk does: nothing of the ledger's own hears of it."""
    with sqlite3.connect(ledger.file) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        database.execute(statement)
        for _, sql in triggers:
            database.execute(sql)
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET trial = substr(trial, 2) WHERE id = 'sweep-2'",
        "UPDATE trials SET trial = replace(trial, 'digits', 'dijits') WHERE id = 'sweep-2'",
        "UPDATE trials SET outcome = replace(outcome, '1.0', '7.0') WHERE id = 'sweep-2'",
        "UPDATE trials SET state = 'SETTLET' WHERE id = 'sweep-2'",
        "UPDATE trials SET session = 77 WHERE id = 'sweep-2'",
        "UPDATE trials SET id = 'sweep-Z' WHERE id = 'sweep-2'",
        "UPDATE trials SET trial = CAST(x'ff7b7d' AS TEXT) WHERE id = 'sweep-2'",
        "UPDATE sessions SET delivered = 1000000",
        "UPDATE sessions SET lines = 3",
        "UPDATE stacks SET content = '{'",
    ],
)
@pytest.mark.parametrize("end", ["ended", "died"])
def test_a_row_of_the_ledger_that_is_not_as_it_was_written_costs_nothing_that_the_journal_knows(
    store: Store, ledger: Ledger, trial: MakeTrial, statement: str, end: str
) -> None:
    command = trained(ledger, trial, store)
    command.end() if end == "ended" else command.die()
    change(ledger, statement)
    Command(ledger).end()
    deliver_all(store, ledger)
    assert states(store) == ENDS
    assert points(store)["lr=1", "val/accuracy", 2, 0.5] == 1
    has_changed = "trials" in statement and not ("outcome" in statement and end == "died")
    assert len(told(ledger)) == has_changed
    assert ledger.end_dead_sessions() == []


def test_a_trial_whose_row_cannot_be_read_is_found_again_in_the_journal(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    """What it ended with is not trained again under another id, and what is left of its stack goes on."""
    command = Command(ledger)
    command.claim(trial(1), trial(2))
    for one in (trial(1), trial(2)):
        command.plan(f"stack of {one.id}", one)
        command.start(one)
        command.measure(one, 1)
    Delivery(store, ledger, command.number).deliver()
    command.finish(trial(1))
    command.die()
    change(ledger, "UPDATE trials SET trial = '{' WHERE id LIKE 'sweep-%'")
    new = Command(ledger)
    claim = new.claim(trial(1, id="new"), trial(2, id="newer"))
    assert [one.id for one, _ in claim.settled] == ["sweep-1"]
    assert [list(members) for _, members in claim.resumed] == [["sweep-2"]]
    assert claim.fresh == []
    (line,) = told(ledger)
    assert "2 trials cannot be read (its checksum does not match): it is set aside there" in line
    assert ask_ledger(ledger, "SELECT id FROM set_aside") == [("sweep-1",), ("sweep-2",)]
    new.die()
    deliver_all(store, ledger)
    assert states(store) == {"lr=1": "FINISHED", "lr=2": "KILLED"}


def broken_row(ledger: Ledger, number: int = 1) -> None:
    change(ledger, f"UPDATE trials SET fingerprint = fingerprint || '0' WHERE id = 'sweep-{number}'")


def begun(ledger: Ledger, trial: MakeTrial, store: Store) -> None:
    """A command that has measured a trial, delivered all of it, and died."""
    command = Command(ledger)
    command.claim(trial(1))
    command.plan("stack", trial(1))
    command.start(trial(1))
    command.measure(trial(1), 1, 2)
    Delivery(store, ledger, command.number).deliver()
    command.die()


def test_a_restored_trial_goes_on_in_the_run_that_it_has(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    begun(ledger, trial, store)
    broken_row(ledger)
    new = Command(ledger)
    ((_, found),) = new.claim(trial(1, id="new")).resumed
    assert found["sweep-1"].measured == 20
    new.start(found["sweep-1"].trial, again=True)
    new.measure(found["sweep-1"].trial, 3)
    new.finish(found["sweep-1"].trial)
    new.end()
    deliver_all(store, ledger)
    assert ask(store, "SELECT status FROM runs") == [("FINISHED",)]
    assert points_of("lr=1", epochs=(1, 2, 3)) <= points(store)
    assert max(points(store).values()) == 1


def test_a_run_whose_row_is_damaged_is_closed_by_sync(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    begun(ledger, trial, store)
    broken_row(ledger)
    deliver_all(store, ledger)
    assert states(store) == {"lr=1": "KILLED"}


def test_a_trial_that_waits_in_a_living_session_is_restored_for_that_one(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    begun(ledger, trial, store)
    living = Command(ledger)
    assert len(living.claim(trial(1)).resumed) == 1
    broken_row(ledger)
    third = Command(ledger)
    claim = third.claim(trial(1, id="new"))
    assert (claim.fresh, claim.resumed, [one.fingerprint for one in claim.held]) == ([], [], [trial(1).fingerprint])
    third.die()
    living.die()


def test_a_restored_trial_knows_the_steps_of_all_its_sessions(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    begun(ledger, trial, store)
    second = Command(ledger)
    ((_, found),) = second.claim(trial(1)).resumed
    second.start(found["sweep-1"].trial, again=True)
    second.die()
    broken_row(ledger)
    third = Command(ledger)
    ((_, found),) = third.claim(trial(1)).resumed
    assert found["sweep-1"].measured == 20
    third.die()


def ask_ledger(ledger: Ledger, question: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(ledger.file) as database:
        found = database.execute(question).fetchall()
    database.close()
    return found


@pytest.mark.parametrize("begun", [True, False])
def test_a_config_that_this_version_refuses_is_recorded_and_not_trained(
    store: Store, ledger: Ledger, trial: MakeTrial, begun: bool
) -> None:
    """What the removal of a key does, or a stricter check of a value."""
    command = Command(ledger)
    command.train(trial(1))
    command.claim(trial(2), trial(3), trial(4))
    command.plan("stack", trial(2), trial(3), trial(4))
    if begun:
        command.start(trial(2))
        command.measure(trial(2), 1)
    command.die()
    old = json.loads(ask_ledger(ledger, "SELECT trial FROM trials WHERE id = 'sweep-2'")[0][0])
    old["config"]["removed"] = True
    old["config"]["batch_size"] = "many"
    old["unknown"] = 1
    text = json.dumps(old).replace("'", "''")
    with sqlite3.connect(ledger.file) as database:
        from sweepstack.journal.schema import prepare_connection

        prepare_connection(database)
        database.execute(f"UPDATE trials SET trial = '{text}' WHERE id IN ('sweep-2')")
    database.close()
    new = Command(ledger)
    claim = new.claim(trial(3, "other"))
    assert ([one.id for one in claim.fresh], claim.resumed) == (["sweep-3"], [])
    looked = ledger.peek([trial(2)]).entries[trial(2).fingerprint]
    assert looked.state == INTERRUPTED
    assert looked.outdated.startswith("batch_size") or "removed" in looked.outdated
    claim = new.claim(trial(2, "other"))  # typed again, its config is one of this version
    assert [one.config for one in claim.fresh] == [trial(2).config]
    new.end()
    deliver_all(store, ledger)
    assert states(store)["lr=1"] == "FINISHED"
    assert "RUNNING" not in states(store).values()
    assert told(ledger) == []


def test_a_line_of_a_newer_version_waits_for_it_and_holds_up_no_other(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    newer = trained(ledger, trial)
    newer.end()
    journal = ledger.journal(newer.number)
    from sweepstack.journal import codec

    content = json.dumps({"v": codec.FORMAT + 1, "news": True}).encode()
    journal.write_bytes(b"%08x %b\n" % (zlib.crc32(content), content) + journal.read_bytes())
    other = Command(ledger)
    other.train(trial(7))
    other.end()
    with pytest.raises(Exception, match="is of a newer one; update sweepstack"):
        deliver_all(store, ledger)
    assert states(store) == {"lr=7": "FINISHED"}
    assert journal.exists()
    assert ask(store, "SELECT count(*) FROM runs") == [(1,)]
    assert points(store) == points_of("lr=7")


@pytest.mark.parametrize("name", ["000001.jsonl", "2024-data.jsonl", "1.jsonl"])
def test_files_of_others_in_the_journals_folder_are_no_journals(store: Store, tmp_path: Path, name: str) -> None:
    other = tmp_path / "data" / name
    other.parent.mkdir()
    other.write_text('{"image": 1}\n')
    deliver_all(store, Ledger(other.parent))
    assert other.read_text() == '{"image": 1}\n'
