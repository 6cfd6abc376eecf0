"""`sweepstack clean` and `sweepstack delete`: what nothing needs goes when it was listed, and nothing else is lost."""

import contextlib
import json
import os
import pty
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sweepstack.cli.cleaning import size_text
from sweepstack.cli.main import main
from sweepstack.execution.open_store import ledger_of
from sweepstack.files.downloads import download_lock
from sweepstack.files.owner_only import make_folder
from sweepstack.journal.codec import encode_line, outcome_as_json
from sweepstack.journal.control import About
from sweepstack.journal.database import transaction
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.runs_as_rows import jobs_tag, search_tag, space_tag
from sweepstack.tracking.store import Store
from sweepstack.trial import Outcome, TrialState

from . import here
from .stories import DONE, Command, MakeTrial, ask, content, deliver_all, in_process, killed_at, rows, states
from .terminal import Terminal

PRUNED = Outcome(TrialState.PRUNED, {"val/accuracy": 0.1}, "pruned at epoch 1", rungs={1.0: 0.1})
KILLED = Outcome(TrialState.KILLED, reason="SIGTERM")
FIRST, SECOND, THIRD = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"
"""Ids of stacks."""


@pytest.fixture(autouse=True)
def no_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine of the tests has in its folder of datasets is not listed."""
    monkeypatch.setenv("SWEEPSTACK_DATA", str(tmp_path / "no data"))


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """The ledger beside the store."""
    return ledger_of(store, None)


def sweepstack(store: Store, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--store", store.uri])


def inventory(store: Store, *words: str) -> dict[str, Any]:
    done = sweepstack(store, "clean", "--json", *words)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def paths(found: dict[str, Any], of: str) -> list[str]:
    return [item["path"] for item in found[of]]


def state(ledger: Ledger, stack: str, *names: str) -> Path:
    """A folder of checkpoints with some files of a kilobyte each."""
    folder = ledger.checkpoints(stack)
    for name in names or ("latest.pt", "previous.pt"):
        make_folder((folder / name).parent)
        (folder / name).write_bytes(b"x" * 1000)
    return folder


def interrupted(ledger: Ledger, trial: MakeTrial, *numbers: int, stack: str = FIRST, sweep: str = "sweep") -> Command:
    """A command that was interrupted, with a checkpoint."""
    command = Command(ledger)
    trials = [trial(number, sweep) for number in numbers]
    command.claim(*trials)
    command.plan(stack, *trials)
    state(ledger, stack)
    for one in trials:
        command.start(one)
        command.measure(one, 1)
        command.finish(one, KILLED)
    command.end()
    return command


def finished(store: Store, ledger: Ledger, trial: MakeTrial, *numbers: int, sweep: str = "sweep") -> None:
    """A sweep of trials that are trained and recorded."""
    command = Command(ledger)
    command.train(*(trial(number, sweep) for number in numbers))
    command.end()
    deliver_all(store, ledger)


def test_a_dry_run_lists_and_writes_nothing_and_what_is_needed_stays(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    interrupted(ledger, trial, 1, 2)
    orphan = state(ledger, SECOND)
    make_folder(ledger.folder / "searches")
    (ledger.folder / "searches" / "tpe-1.jsonl").write_text("{}\n")
    before = content(ledger.folder)
    done = sweepstack(store, "clean", "--kept")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Nothing needs, 2 kB:" in done.stdout
    assert f"      2 kB  checkpoints/{SECOND}" in done.stdout
    assert "2 interrupted trials of sweep sweep: the same command goes on from here" in done.stdout
    assert "it is not delivered yet: sweepstack sync delivers it" in done.stdout
    assert "the same search goes on from it" in done.stdout
    assert done.stdout.endswith(f"sweepstack clean --yes --kept --store {store.uri}\n")
    assert content(ledger.folder) == before
    assert "There is nothing to clean." in sweepstack(store, "clean", "--yes").stdout
    assert content(ledger.folder).keys() == before.keys()
    deleted = sweepstack(store, "clean", "--kept", "--yes")
    assert "Deleted, 2 kB:\n  Checkpoints that no command resumes: kept by checkpoint.keep" in deleted.stdout
    assert not orphan.exists()
    assert content(ledger.folder).keys() == before.keys() - {
        str(path) for path in (orphan, *map(orphan.joinpath, ("latest.pt", "previous.pt")))
    }


def test_where_nothing_was_trained_there_is_nothing_to_clean(store: Store, ledger: Ledger) -> None:
    done = sweepstack(store, "clean", "--yes")
    assert (done.exit_code, done.stdout) == (0, "There is nothing to clean.\n")
    assert not ledger.folder.exists()


def test_the_states_of_pruned_trials_stay_until_they_are_trained_on_elsewhere(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    one, two, three = (trial(number) for number in (1, 2, 3))
    command = Command(ledger)
    command.claim(one, two, three)
    command.plan(FIRST, one, two, three)
    folder = state(ledger, FIRST, "latest.pt", "previous.pt", "part-0.pt", "pruned-10/latest.pt", "pruned-20/latest.pt")
    for pruned, epochs in ((one, 1), (two, 2)):
        command.start(pruned)
        command.measure(pruned, *range(1, epochs + 1))
        command.finish(pruned, PRUNED)
    command.start(three)
    command.measure(three, 1)
    assert inventory(store)["unneeded"] == []  # it trains
    command.finish(three, DONE)
    command.die()
    assert inventory(store, "--yes")["unneeded"] == []  # no row says yet what its journal says
    deliver_all(store, ledger)
    found = inventory(store)
    of_stack = ("latest.pt", "part-0.pt", "previous.pt")
    assert sorted(paths(found, "unneeded")) == [f"checkpoints/{FIRST}/{name}" for name in of_stack]
    (stays,) = found["needed"]
    assert (stays["path"], stays["size"]) == (f"checkpoints/{FIRST}", 2000)
    assert stays["why"] == "2 pruned trials of sweep sweep: a command that does not prune goes on from here"

    other = Command(ledger)
    other.claim(one)  # trains it on, in a stack of its own
    other.plan(SECOND, one)
    other.start(one, again=True)
    other.measure(one, 2)
    other.finish(one, DONE)
    assert paths(inventory(store), "unneeded") == []
    other.end()
    deliver_all(store, ledger)
    found = inventory(store, "--yes")
    assert f"checkpoints/{FIRST}/pruned-10" in paths(found, "deleted")
    assert sorted(path.name for path in folder.rglob("*")) == ["latest.pt", "pruned-20"]
    assert (folder / "pruned-20" / "latest.pt").exists()
    assert inventory(store)["unneeded"] == []


def test_a_single_trial_that_was_pruned_keeps_the_state_that_it_resumes_from(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    command = Command(ledger)
    command.claim(trial(1))
    command.plan(FIRST, trial(1))
    state(ledger, FIRST)
    command.start(trial(1))
    command.measure(trial(1), 1)
    command.finish(trial(1), PRUNED)
    command.end()
    deliver_all(store, ledger)
    assert inventory(store, "--yes", "--kept")["deleted"] == []
    assert (ledger.checkpoints(FIRST) / "latest.pt").exists()


def test_checkpoints_that_were_kept_on_request_stay_until_kept_is_given(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    command = Command(ledger)
    command.claim(trial(1))
    command.plan(FIRST, trial(1), keep=True)
    folder = state(ledger, FIRST)
    command.start(trial(1))
    command.finish(trial(1), DONE)
    command.end()
    deliver_all(store, ledger)
    own = ledger.folder / "checkpoints" / "mine"  # of the user
    own.mkdir()
    assert inventory(store, "--yes")["deleted"] == []
    assert paths(inventory(store), "kept") == [f"checkpoints/{FIRST}"]
    living = Command(ledger)
    assert inventory(store, "--yes", "--kept")["deleted"] == []  # it may have just made them
    living.end()
    deliver_all(store, ledger)
    assert paths(inventory(store, "--yes", "--kept"), "deleted") == [f"checkpoints/{FIRST}"]
    assert (folder.exists(), own.exists()) == (False, True)


def test_files_and_work_folders_stay_while_anybody_may_need_them(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    command = Command(ledger)
    command.train(trial(1))
    folders = [ledger.files("1" * 16), ledger.work(SECOND), ledger.work(f"measure-{THIRD}")]
    for folder in folders:
        make_folder(folder.parent)
        make_folder(folder)
        (folder / "events.jsonl").write_text("{}\n")
    assert inventory(store, "--yes")["deleted"] == []
    command.end()
    assert inventory(store, "--yes")["deleted"] == []
    deliver_all(store, ledger)
    assert paths(inventory(store, "--yes"), "deleted") == [
        f"files/{'1' * 16}"
    ]  # a worker may still write to the others
    long_ago = time.time() - 2 * 86400
    for path in (one for folder in folders[1:] for one in (folder / "events.jsonl", folder)):
        os.utime(path, (long_ago, long_ago))
    assert len(inventory(store, "--yes")["deleted"]) == 2
    assert not any(folder.exists() for folder in folders)


def test_what_killed_deliveries_and_cleanings_have_left_is_removed(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    command = Command(ledger)
    command.train(trial(1))
    command.end()
    journal = ledger.journal(command.number)
    kept = journal.read_bytes()
    deliver_all(store, ledger)
    living = Command(ledger)
    with transaction(ledger.file) as database:  # as if killed inside of `retire`
        database.execute("INSERT INTO sessions (number, experiment, ended) VALUES (?, 'train', 2)", (7,))
    ledger.journal(7).write_bytes(kept)
    (ledger.folder / "000005.control").write_text("{}\n")
    (ledger.folder / "deleting-01234567").mkdir()
    (ledger.folder / "notes.txt").write_text("mine")
    found = inventory(store, "--yes")
    assert sorted(paths(found, "deleted")) == ["000005.control", "000007.jsonl", "deleting-01234567"]
    assert inventory(store)["unneeded"] == []
    assert {path.name for path in ledger.folder.iterdir()} >= {"notes.txt", ledger.journal(living.number).name}
    living.train(trial(2))
    living.end()
    deliver_all(store, ledger)
    assert states(store) == {"lr=1": "FINISHED", "lr=2": "FINISHED"}


def test_downloads_that_were_broken_off_go_and_those_that_go_on_stay(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    monkeypatch.setenv("SWEEPSTACK_DATA", str(root))
    folders = [root / ".mnist.fetch-1", root / ".cifar10.fetch-2", root / "MNIST"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"x" * 1000)
    with download_lock(root, "mnist"):
        found = inventory(store, "--yes")
    assert (paths(found, "deleted"), found["deleted"][0]["size"]) == ([str(folders[1])], 1000)
    assert paths(inventory(store, "--yes"), "deleted") == [str(folders[0])]
    assert [folder.exists() for folder in folders] == [False, False, True]


def test_downloads_of_others_stay_and_that_is_said(
    store: Store, ledger: Ledger, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("SWEEPSTACK_DATA", str(root))
    (root / ".mnist.fetch-1").mkdir()
    (root / ".mnist.lock").mkdir()  # what nobody can lock
    done = sweepstack(store, "clean", "--yes")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("Not deleted, because it is needed by now or cannot be deleted, 0 B:\n  Downloads: ")
    assert (root / ".mnist.fetch-1").exists()


def test_a_command_that_begins_after_the_list_was_made_loses_nothing(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    from sweepstack.journal.unneeded import find_unneeded, remove

    orphan = state(ledger, FIRST)
    Command(ledger).end()
    deliver_all(store, ledger)
    found = find_unneeded(ledger)
    assert [item.path for item in found.kept] == [f"checkpoints/{FIRST}"]
    command = Command(ledger)
    command.claim(trial(1))
    command.plan(FIRST, trial(1))
    assert remove(ledger, found.kept, remember=False) == []
    assert orphan.exists()


def test_a_ledger_that_is_lost_makes_nothing_unneeded(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    interrupted(ledger, trial, 1, 2)
    ledger.file.unlink()
    found = inventory(store, "--yes")
    assert (found["unneeded"], found["deleted"]) == ([], [])
    assert paths(found, "kept") == [f"checkpoints/{FIRST}"]
    assert deliver_all(store, ledger) == 2


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (999_999, "1 MB"), (5e15, "5e+03 TB")],
)
def test_sizes_are_read_at_a_glance(size: float, text: str) -> None:
    assert size_text(size) == text


def test_delete_asks_nobody_without_a_terminal(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    finished(store, ledger, trial, 1)
    done = sweepstack(store, "delete", "sweep")
    assert (done.exit_code, done.stdout) == (2, "")
    rule = "the deletion of sweep 'sweep' must be confirmed, and there is no terminal to ask at; add --yes"
    assert done.stderr == f"error: {rule}\n"
    assert states(store) == {"lr=1": "FINISHED"}


@contextlib.contextmanager
def asked(terminal: Terminal) -> Iterator[Callable[[str], tuple[int, str, str]]]:
    """`sweepstack delete sweep` at a terminal, once it has asked; yields what answers and returns code and outputs."""
    mine, theirs = pty.openpty()

    def sit_down() -> None:
        os.dup2(theirs, 0)

    process = terminal.start("sweepstack", "delete", "sweep", before=sit_down)
    assert process.stderr is not None
    question = ""
    while not question.endswith("[y/N]: ") and (char := process.stderr.read(1)):
        question += char

    def answer(word: str) -> tuple[int, str, str]:
        os.write(mine, f"{word}\n".encode())
        out, err = process.communicate(timeout=120)
        return process.returncode, out, question + err

    try:
        yield answer
    finally:
        os.close(mine)
        os.close(theirs)


def test_what_has_changed_since_delete_has_asked_counts(terminal: Terminal, trial: MakeTrial) -> None:
    store, ledger = terminal.store, ledger_of(terminal.store, None)
    finished(store, ledger, trial, 1, 2)
    with asked(terminal) as answer:
        finished(store, ledger, trial, 3)
        run = rows(store)["lr=1"].run_id
        store.client.update_run(run, "RUNNING")  # as on another machine
        code, out, err = answer("y")
    assert (code, out) == (2, ""), err
    assert len(states(store)) == 3
    store.client.update_run(run, "KILLED")
    with asked(terminal) as answer:
        code, out, err = answer("y")
    assert out.startswith("Sweep sweep is deleted:\n  3 runs (1 KILLED, 2 FINISHED)\n"), err
    assert store.runs("") == []


def test_delete_asks_at_a_terminal_and_obeys_the_answer(terminal: Terminal, trial: MakeTrial) -> None:
    store, ledger = terminal.store, ledger_of(terminal.store, None)
    finished(store, ledger, trial, 1, 2)
    with asked(terminal) as answer:
        code, out, err = answer("n")
    assert (code, out) == (1, ""), err
    assert f"In {store.uri} this deletes:\n  2 runs (2 FINISHED)\nDelete sweep sweep? [y/N]: " in err
    assert err.endswith("Nothing is deleted.\n")
    assert len(states(store)) == 2
    with asked(terminal) as answer:
        code, out, err = answer("y")
    assert code == 0, err
    assert out.startswith("Sweep sweep is deleted:\n  2 runs (2 FINISHED)\nMLflow can restore the runs until")
    assert store.runs("") == []


def test_a_deleted_sweep_is_trained_again_and_can_be_restored(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    from sweepstack.execution.remaining_work import lookup_settled
    from sweepstack.tracking.summary import record_summary

    finished(store, ledger, trial, 1, 2)
    finished(store, ledger, trial, 3, sweep="other")
    (experiment,) = {row.experiment_id for row in store.rows("all")}
    summary = record_summary(store, "sweep", experiment, {"report.html": b"<p>"})
    keys = [trial(number).fingerprint for number in (1, 2, 3)]
    assert len(lookup_settled(ledger, store, keys).finished) == 3
    ids = {row.name: row.run_id for row in store.rows("sweep")}
    done = sweepstack(store, "delete", "sweep", "--yes", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (sorted(told["deleted_runs"]), told["deleted_summaries"]) == (sorted(ids.values()), [summary])
    assert states(store) == {"lr=3": "FINISHED"}
    assert lookup_settled(ledger, store, keys).finished.keys() == {keys[2]}
    unknown = sweepstack(store, "delete", "othr", "--yes")
    assert (unknown.exit_code, unknown.stderr) == (
        2,
        f"error: there is no sweep 'othr' in {store.uri}; did you mean 'other'?\n",
    )
    latest = sweepstack(store, "delete", "latest", "--yes")
    assert latest.stderr == "error: a sweep to delete must be named by its own name, got 'latest'; known: other\n"
    again = Command(ledger)
    assert [one.name for one in again.claim(trial(1), trial(2)).fresh] == ["lr=1", "lr=2"]
    again.end()
    store.client.restore_run(ids["lr=1"])
    assert states(store) == {"lr=1": "FINISHED", "lr=3": "FINISHED"}
    assert lookup_settled(ledger, store, keys).finished.keys() == {keys[0], keys[2]}


def test_what_an_interrupted_sweep_would_resume_from_is_deleted_with_it(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    interrupted(ledger, trial, 1, 2)
    interrupted(ledger, trial, 3, stack=SECOND, sweep="other")
    done = sweepstack(store, "delete", "sweep", "--yes")  # what waits in the journal is delivered before
    assert done.exit_code == 0, done.stderr
    assert "  2 runs (2 KILLED)\n  the state of 2 unfinished trials, 2 kB of checkpoints\n" in done.stdout
    assert states(store) == {"lr=3": "KILLED"}
    assert (ledger.checkpoints(FIRST).exists(), ledger.checkpoints(SECOND).exists()) == (False, True)
    command = Command(ledger)
    claim = command.claim(trial(1), trial(2), trial(3, "other"))
    assert [one.name for one in claim.fresh] == ["lr=1", "lr=2"]
    ((stack, _),) = claim.resumed
    assert stack.id == SECOND
    command.end()


@pytest.mark.parametrize("after", [False, True], ids=["before its runs", "after its runs"])
def test_a_deletion_that_was_killed_is_completed_by_the_same_command(
    store: Store, ledger: Ledger, trial: MakeTrial, after: bool
) -> None:
    from sweepstack.execution.cleanup import delete as deletion

    interrupted(ledger, trial, 1, 2)
    finished(store, ledger, trial, 3)
    store.client.set_tag(rows(store)["lr=3"].run_id, search_tag("sweep"), "random")
    study = ledger.folder / "searches" / "random-1.jsonl"
    make_folder(study.parent)
    study.write_text("{}\n")
    fresh = Store(store.uri)

    def killed() -> None:
        killed_at(deletion, "delete_runs", after=after)
        deletion.delete(fresh, ledger, "sweep")

    assert in_process(killed) == -9
    command = Command(ledger)
    assert len(command.claim(trial(1), trial(2)).fresh) == 2  # no outcome and no checkpoint of deleted runs is used
    command.end()
    deliver_all(store, ledger)
    done = sweepstack(store, "delete", "sweep", "--yes")
    assert ("there is no sweep" in done.stderr) is after, done.stderr
    assert store.runs("") == []
    assert [*(ledger.folder / "checkpoints").iterdir()] == []
    assert not study.exists()
    assert paths(inventory(store, "--yes"), "unneeded") == []


def test_a_server_that_does_not_answer_brings_no_outcome_of_a_deleted_run_back(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    command = Command(ledger)
    command.train(trial(1), trial(2, "other"))
    command.end()
    deliver_all(store, ledger)
    ids = {name: row.run_id for name, row in rows(store).items()}
    with transaction(ledger.file) as database:  # as the delivery to a server leaves it
        for number in (1, 2):
            outcome = json.dumps(outcome_as_json(DONE))
            values = (trial(number).fingerprint, ids[f"lr={number}"], outcome)
            database.execute("INSERT INTO done (fingerprint, run_id, outcome) VALUES (?, ?, ?)", values)
    keys = [trial(number).fingerprint for number in (1, 2)]
    assert len(ledger.recorded_outcomes(keys)) == 2
    assert sweepstack(store, "delete", "sweep", "--yes").exit_code == 0
    assert ledger.recorded_outcomes(keys).keys() == {keys[1]}


def test_trials_that_other_sweeps_have_stay_with_those(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    finished(store, ledger, trial, 1, 2)
    (shared, own) = sorted(store.rows("sweep"), key=lambda row: row.name)
    for tag in (search_tag("sweep"), space_tag("sweep"), jobs_tag("sweep")):
        store.client.set_tag(shared.run_id, tag, "of the sweep")
    command = Command(ledger)
    command.join(trial(1, "other", id="elsewhere"), shared.run_id)  # as a command reuses what the store knows
    refused = sweepstack(store, "delete", "sweep", "--yes")
    assert refused.exit_code == 2
    assert "sweep 'sweep' must not be deleted while a command uses its trials" in refused.stderr
    assert len(states(store)) == 2
    command.end()
    done = sweepstack(store, "delete", "sweep", "--yes")
    assert done.exit_code == 0, done.stderr
    assert "  1 run (1 FINISHED)\n1 run stays, because others have the same trials: other (1)\n" in done.stdout
    (row,) = store.rows("other")
    assert (row.run_id, row.sweep) == (shared.run_id, "other")
    assert [row.sweep for row in store.rows("all")] == ["other"]
    assert not [tag for tag in store.client.get_run(shared.run_id).data.tags if tag.endswith("/sweep")]
    assert "there is no sweep 'sweep'" in sweepstack(store, "delete", "sweep", "--yes").stderr
    assert sweepstack(store, "delete", "other", "--yes").exit_code == 0
    assert (store.runs(""), own.state) == ([], "FINISHED")


def test_a_single_run_that_a_sweep_has_joined_stays(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    command = Command(ledger)
    command.train(trial(1, None))
    command.end()
    deliver_all(store, ledger)
    run = rows(store)["lr=1"].run_id
    command = Command(ledger)
    command.join(trial(1, id="elsewhere"), run)
    command.train(trial(2))
    command.end()
    deliver_all(store, ledger)
    assert len(store.rows("sweep")) == 2
    done = sweepstack(store, "delete", "sweep", "--yes")
    assert "1 run (1 FINISHED)\n1 run stays, because others have the same trials: a single run (1)\n" in done.stdout
    assert [(row.run_id, row.sweep) for row in store.rows("all")] == [(run, None)]
    assert "there is no sweep 'sweep'" in sweepstack(store, "delete", "sweep", "--yes").stderr


def test_a_trial_that_another_sweep_resumed_stays_resumable(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    interrupted(ledger, trial, 1)
    deliver_all(store, ledger)
    other = Command(ledger)
    ((stack, _),) = other.claim(trial(1, "other")).resumed
    one = trial(1, "other", id="sweep-1")
    other.start(one, again=True)
    other.measure(one, 2)
    other.finish(one, KILLED)
    other.end()
    done = sweepstack(store, "delete", "other", "--yes")
    assert done.exit_code == 0, done.stderr
    assert "1 run stays, because others have the same trials: sweep (1)" in done.stdout
    assert [row.sweep for row in store.rows("all")] == ["sweep"]
    again = Command(ledger)
    claim = again.claim(trial(1))
    assert ([one.id for one, _ in claim.resumed], claim.fresh) == ([stack.id], [])
    again.end()


def test_checkpoints_that_only_settled_trials_of_other_sweeps_are_left_of_go_too(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    one, two = trial(1), trial(2)
    command = Command(ledger)
    command.claim(one, two)
    command.plan(FIRST, one, two)
    state(ledger, FIRST)
    for each, outcome in ((one, DONE), (two, KILLED)):
        command.start(each)
        command.finish(each, outcome)
    command.end()
    deliver_all(store, ledger)
    other = Command(ledger)
    other.join(trial(1, "other", id=one.id), rows(store)["lr=1"].run_id)
    other.end()
    done = sweepstack(store, "delete", "sweep", "--yes")
    assert "  1 run (1 KILLED)\n  the state of 1 unfinished trial, 2 kB of checkpoints\n1 run stays" in done.stdout
    assert [row.sweep for row in store.rows("all")] == ["other"]
    assert not ledger.checkpoints(FIRST).exists()
    found = inventory(store)
    assert (found["needed"], found["kept"]) == ([], [])
    again = Command(ledger)
    assert [each.id for each in again.claim(one, two).fresh] == [one.id, two.id]  # then the store is asked about them
    again.end()


def test_a_sweep_is_not_deleted_while_others_resume_with_its_trials(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    interrupted(ledger, trial, 1, 2)
    other = Command(ledger)
    other.claim(trial(1, "other"))  # with the whole stack
    for one in (trial(1, "other", id="sweep-1"), trial(2)):
        other.start(one, again=True)
        other.finish(one, KILLED)
    other.end()
    done = sweepstack(store, "delete", "sweep", "--yes")
    assert done.exit_code == 2
    rule = "others need its checkpoints, as 1 interrupted trial of other in one stack with its trials; train those to"
    assert rule in done.stderr
    assert states(store) == {"lr=1": "KILLED", "lr=2": "KILLED"}
    assert ledger.checkpoints(FIRST).exists()


def test_a_sweep_is_not_deleted_while_a_command_trains_it(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    finished(store, ledger, trial, 1)
    command = Command(ledger)
    command.claim(trial(2))
    ledger.control(command.number).begin(About("here", 1, time.time(), "train.py", "sweep"))
    done = sweepstack(store, "delete", "sweep", "--yes")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: sweep 'sweep' must not be deleted while a command uses its trials, as process 1 on here does for sweep "
        "sweep; wait until it has ended, or end it: sweepstack stop --sweep sweep\n"
    )
    command.die()
    assert sweepstack(store, "delete", "sweep", "--yes").exit_code == 0
    assert store.runs("") == []


def test_a_sweep_is_not_deleted_while_a_registered_model_is_one_of_its(
    store: Store, ledger: Ledger, trial: MakeTrial
) -> None:
    finished(store, ledger, trial, 1)
    (row,) = store.rows("sweep")
    store.client.create_registered_model("digits")
    store.client.create_model_version("digits", "file:///nowhere", row.run_id)
    done = sweepstack(store, "delete", "sweep", "--yes")
    assert done.exit_code == 2
    assert "while models of it are registered, as digits (version 1); delete them first" in done.stderr
    store.client.delete_model_version("digits", "1")
    assert sweepstack(store, "delete", "sweep", "--yes").exit_code == 0


def test_after_a_clean_pruned_trials_are_resumed_where_they_were_pruned(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    rates = "optimizer.lr=0.0003,3,0.001,1,0.003,0.3,0.01,0.1,0.03"
    small = ("dataset=digits", "epochs=9", "device=cpu", "threads=1", "engine=inline", "launch.stack=force")
    assert here.train("-m", *small, rates, "pruner=halving", "checkpoint.every=0").code == 0
    terminal.wait_for_records()
    pruned = [row for row in terminal.store.rows("all") if row.state == "PRUNED"]
    found = json.loads(here.sweepstack("clean", "--yes", "--kept", "--json").out)
    (stays,) = found["needed"]
    why = f"{len(pruned)} pruned trials of sweep {pruned[0].sweep}: a command that does not prune goes on from here"
    assert (stays["kind"], stays["why"]) == ("Checkpoints", why)
    done = here.train("-m", *small, rates)
    assert f"{len(pruned)} trials pruned before: resumed where that was" in done.out
    terminal.wait_for_records()
    assert {row.state for row in terminal.store.rows("all")} == {"FINISHED"}
    steps = ask(terminal.store, "SELECT run_uuid, step FROM metrics WHERE key = 'val/accuracy'")
    assert sorted(step for _, step in steps) == sorted([*range(1, 10)] * 9)
    assert json.loads(here.sweepstack("clean", "--json").out)["needed"] == []


def test_a_deleted_search_begins_again(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    small = ("dataset=digits", "epochs=1", "device=cpu", "threads=1", "engine=inline")
    command = ("-m", *small, "search=random", "search.trials=3", "optimizer.lr=tag(log,interval(1e-3,1))")

    def studies() -> list[Path]:
        return [*terminal.folder.glob("journal/*/searches/*.jsonl")]

    assert here.train(*command, "tracking.sweep=first").code == 0
    assert here.train(*command, "tracking.sweep=second").code == 0  # of the same trials
    terminal.wait_for_records()
    listed = json.loads(here.sweepstack("clean", "--yes", "--json").out)
    assert (listed["unneeded"], listed["deleted"]) == ([], [])
    cleaned = json.loads(here.sweepstack("clean", "--yes", "--kept", "--json").out)
    assert {item["kind"] for item in cleaned["deleted"]} == {"Targets and plots that reports keep"}
    assert cleaned["deleted"] == listed["kept"]
    assert not [*terminal.folder.glob("journal/*/reports/*")]
    assert (len(listed["kept"]), [item["path"] for item in cleaned["needed"]]) == (2, [f"searches/{studies()[0].name}"])
    first = here.sweepstack("delete", "first", "--yes")
    assert first.out == "Sweep first is deleted:\n3 runs stay, because others have the same trials: second (3)\n"
    assert (len(studies()), len(terminal.store.rows("second"))) == (1, 3)
    second = here.sweepstack("delete", "second", "--yes")
    assert "  3 runs (3 FINISHED)\n  the study behind its search\n" in second.out
    assert (studies(), terminal.store.runs("")) == ([], [])
    again = here.train(*command, "tracking.sweep=first")
    assert "trained before" not in again.out
    assert {row.state for row in terminal.store.rows("first")} == {"FINISHED"}


@pytest.mark.parametrize(
    ("host", "pid", "age", "is_refused"),
    [
        ("", "of this one", 0, True),
        ("", "of this one", 100, False),  # a number that was given again
        ("", 0x7FFFFFFF, 0, False),
        ("elsewhere", 1, 0, True),
        ("elsewhere", 1, 100, False),
        ("", "of others", 100, False),
    ],
)
def test_a_sweep_is_not_deleted_while_a_worker_trains_it(
    store: Store,
    ledger: Ledger,
    trial: MakeTrial,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    pid: int | str,
    age: int,
    is_refused: bool,
) -> None:
    interrupted(ledger, trial, 1)
    if pid == "of others":  # the tests are those of root, to whom all belong

        def refuse(pid: int, signal: int) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "kill", refuse)
        pid = 1
    elif pid == "of this one":
        pid = os.getpid()
    hello = {"host": host or socket.gethostname(), "pid": pid, "at": 0}
    events = ledger.work(FIRST) / "events.jsonl"
    make_folder(events.parent.parent)
    make_folder(events.parent)
    events.write_bytes(encode_line({"hello": hello}, 0))
    os.utime(events, (time.time() - age, time.time() - age))
    done = sweepstack(store, "delete", "sweep", "--yes")
    if is_refused:
        who = f"process {pid} on {hello['host']}"
        assert f"'sweep' must not be deleted while a worker trains it, as {who} may; end it" in done.stderr
    assert (done.exit_code, events.exists()) == ((2, True) if is_refused else (0, False)), done.stderr


def test_a_run_that_trains_elsewhere_is_not_deleted(store: Store, ledger: Ledger, trial: MakeTrial) -> None:
    finished(store, ledger, trial, 1)
    (row,) = store.rows("sweep")
    store.client.update_run(row.run_id, "RUNNING")
    done = sweepstack(store, "delete", "sweep", "--yes")
    assert done.exit_code == 2
    assert "while it trains, and 1 of its runs is RUNNING without a command of this journal; end" in done.stderr
    assert states(store) == {"lr=1": "RUNNING"}
