"""From trials to outcomes, in this process: what earlier commands have left, and what goes wrong inside a stack."""

import importlib
import math
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from sweepstack.config import code_digest
from sweepstack.config.parsing import parse
from sweepstack.errors import DataError
from sweepstack.events import Ended
from sweepstack.execution.assignment import Assignment, Parts, Paused, Reporter
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.listener import Listener
from sweepstack.execution.open_store import ledger_of
from sweepstack.execution.prepare import Prepared, prepare
from sweepstack.execution.scheduler import execute, foresee
from sweepstack.execution.undelivered import undelivered
from sweepstack.journal.ledger import Ledger
from sweepstack.planning.known_trials import Composition
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process
from sweepstack.training.data import load
from sweepstack.trial import Outcome, Trial

from .. import here
from ..stories import CHOICE, Command, composition, deliver_all, room_for
from ..terminal import new_store

MakeTrials = Callable[..., list[Trial]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Store]:
    """One for all tests, and one process that writes to it: each has trials of its own."""
    store = new_store(tmp_path_factory.mktemp("executing"), empty_database)
    process = writer_process(store.uri)
    yield store
    process.close()
    process._process.wait(60)


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return ledger_of(store, None)


@pytest.fixture
def trials(
    tmp_path: Path, digits_plain: Callable[..., dict[str, Any]], request: pytest.FixtureRequest
) -> Iterator[MakeTrials]:
    """`trials(0.1, 0.2)`: two that differ in their learning rate, jobs 0 and 1 of a sweep named as the test is."""
    threads = torch.get_num_threads()
    sweep = request.node.name
    seed = zlib.crc32(sweep.encode()) >> 1  # no other test has trained these

    def make(*lrs: float, sweep: str = sweep, epochs: tuple[int, ...] = (2,), **changes: Any) -> list[Trial]:
        points = [(lr, longest) for lr in lrs for longest in epochs]
        config = {"seed": seed, "threads": 1, "checkpoint.every": 0.0, "launch.width": len(lrs), **changes}
        configs = [parse(digits_plain({**config, "optimizer.lr": lr, "epochs": longest})) for lr, longest in points]
        made = prepare(
            [
                Trial(
                    configs[number].trial,
                    number,
                    f"lr={lr} epochs={longest}" if len(epochs) > 1 else f"lr={lr}",
                    {"dataset": "digits", "lr": lr, "epochs": longest},
                    tmp_path / str(number),
                    "",
                    configs[number].run,
                    tmp_path / str(number) / "train.log",
                    sweep=sweep,
                )
                for number, (lr, longest) in enumerate(points)
            ],
            "train",
            InProcessExecutor(),
        )
        return [*made.trials]

    yield make
    torch.set_num_threads(threads)


def prepared(trials: list[Trial]) -> Prepared:
    return Prepared(tuple(trials), "train", {trial.run.device: "cpu" for trial in trials})


def run(trials: list[Trial], store: Store) -> list[Outcome]:
    outcomes = execute(prepared(trials), store, InProcessExecutor())
    return [outcomes[trial.fingerprint] for trial in trials]


def states(trials: list[Trial], store: Store) -> list[str]:
    return [str(outcome.state) for outcome in run(trials, store)]


def tags(store: Store, trials: list[Trial]) -> list[dict[str, str]]:
    """Of all runs of the sweep of these trials."""
    assert trials[0].sweep is not None
    return [store.client.get_run(row.run_id).data.tags for row in store.rows(trials[0].sweep)]


# --- What earlier commands have left


def train_before(ledger: Ledger, trials: list[Trial], weights: dict[str, bytes]) -> None:
    """By a command whose records are not delivered yet; with the weights of each trial by its name."""
    command = Command(ledger)
    for trial in trials:
        trial.folder.mkdir()
        (trial.folder / "weights.pt").write_bytes(weights[trial.name])
        command.train(replace(trial, id=f"{trial.sweep} {trial.name}"), files=(trial.folder / "weights.pt",))
    command.end()


def recorded(store: Store, sweep: str | None) -> dict[str, bytes]:
    """The weights of the runs of a sweep."""
    assert sweep is not None
    uris = {row.name: store.client.get_run(row.run_id).info.artifact_uri for row in store.rows(sweep)}
    return {name: Path(uri.removeprefix("file://"), "weights.pt").read_bytes() for name, uri in uris.items()}


def test_weights_stay_with_their_trial_when_another_grid_has_the_same_folder(
    store: Store, ledger: Ledger, trials: MakeTrials, tmp_path: Path
) -> None:
    """Two jobs change places, and a third one comes in between."""
    one, two, three = trials(0.1, 0.2, 0.3)
    before = {"lr=0.1": b"weights of the first", "lr=0.2": b"weights of the second"}
    train_before(ledger, [one, two], before)
    jobs = [tmp_path / str(number) for number in range(3)]
    again = [replace(trial, folder=folder) for trial, folder in zip((two, three, one), jobs, strict=True)]
    assert states(again, store) == ["FINISHED"] * 3
    found = [(job / "weights.pt").read_bytes() for job in jobs]
    assert (found[0], found[2]) == (before["lr=0.2"], before["lr=0.1"])
    assert recorded(store, one.sweep) == {**before, "lr=0.3": found[1]}
    assert torch.load(jobs[1] / "weights.pt", weights_only=True)["linear.weight"].shape == (10, 64)


class Lines(Listener):
    """Keeps the lines for the user."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_message(self, line: str) -> None:
        self.lines.append(line)


def without_held_out(store: Store, trials: list[Trial]) -> list[Path]:
    """Trains trials, and makes of them what an earlier version has recorded; returns what it had not kept."""
    assert states(trials, store) == ["FINISHED"] * len(trials)
    uris = {row.name: store.client.get_run(row.run_id).info.artifact_uri for row in store.rows(trials[0].sweep)}
    files = [Path(uris[trial.name].removeprefix("file://"), "held_out_predictions.npy") for trial in trials]
    for file in files:
        file.unlink()
    return files


def test_that_held_out_items_of_recorded_trials_are_predicted_is_said_once(store: Store, trials: MakeTrials) -> None:
    three = trials(0.1, 0.2, 0.3)
    files = without_held_out(store, three)
    foresee(prepared(three), store, InProcessExecutor())
    assert not any(file.exists() for file in files)
    line, first, second = "Predicting the held-out items of recorded trials: 3", Lines(), Lines()
    execute(prepared(three), store, InProcessExecutor(), [first])
    assert first.lines.count(line) == 1
    assert all(file.exists() for file in files)
    execute(prepared(three), store, InProcessExecutor(), [second])
    assert not [line for line in second.lines if "held-out" in line]


def test_after_one_failure_no_further_held_out_items_are_predicted(store: Store, trials: MakeTrials) -> None:
    three = trials(0.1, 0.2, 0.3)
    files = without_held_out(store, three)
    for file in files[:2]:
        file.with_name("weights.pt").write_bytes(b"damaged")
    said = Lines()
    execute(prepared(three), store, InProcessExecutor(), [said])
    failed = [line for line in said.lines if "cannot be predicted" in line]
    assert len(failed) == 1
    assert failed[0].startswith("The held-out items of lr=0.1 cannot be predicted, others are not tried: ")
    assert not any(file.exists() for file in files)


def test_weights_of_an_earlier_command_that_do_not_fit_on_the_disk_cost_nothing(
    store: Store, ledger: Ledger, trials: MakeTrials, tmp_path: Path
) -> None:
    (one,) = trials(0.1)
    train_before(ledger, [one], {"lr=0.1": b"large" * 100_000})
    moved = replace(one, folder=tmp_path / "elsewhere")
    with room_for(250_000):
        (outcome,) = run([moved], store)
    assert outcome.metrics["val/accuracy"] == 0.5  # as it was recorded
    assert list(moved.folder.iterdir()) == []
    run([moved], store)
    assert (moved.folder / "weights.pt").read_bytes() == b"large" * 100_000


def test_what_is_asked_for_of_a_known_trial_is_made_where_it_needs_no_training(
    store: Store, trials: MakeTrials, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record gets the pictures, once; a checkpoint that was not kept would need training."""
    run(trials(0.1), store)
    capsys.readouterr()
    wanted = trials(0.1, pictures=3, **{"checkpoint.keep": True})
    run(wanted, store)
    said = capsys.readouterr().out
    assert "pictures need no training: added to the records of 1 trial" in said
    assert "checkpoint.keep=true keeps nothing of 1 trial trained before: rerun=true trains" in said
    (row,) = store.rows(str(wanted[0].sweep))
    folder = Path(store.client.get_run(row.run_id).info.artifact_uri.removeprefix("file://"))
    drawn = (folder / "first_images.png").read_bytes()
    assert drawn == (wanted[0].folder / "first_images.png").read_bytes()
    assert [*(store.database.parent / "journal").glob("*/files/*")] == []
    run(trials(0.1, pictures=3), store)
    assert "pictures" not in capsys.readouterr().out
    run(trials(0.1, pictures=5), store)
    assert (folder / "first_images.png").read_bytes() != drawn


def test_jobs_that_are_one_trial_are_told_with_what_is_trained(
    store: Store, trials: MakeTrials, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [*trials(0.1), *trials(0.1, pictures=2), *trials(0.1, threads=2), *trials(0.2), *trials(0.2)]
    jobs = [replace(trial, number=number, folder=trial.folder / str(number)) for number, trial in enumerate(parts)]
    assert states(jobs, store) == ["FINISHED"] * 5
    said = capsys.readouterr().out
    assert (
        "3 jobs are 1 trial: pictures and threads change results by rounding at most, so each is trained once" in said
    )
    assert "with pictures=2 threads=1; rerun=true in a command of its own" in said
    assert "2 jobs are 1 trial: the same config is trained once" in said
    assert (jobs[1].folder / "first_images.png").is_file()
    assert len(store.rows(str(jobs[0].sweep))) == 2


def leave_open(ledger: Ledger, trials: list[Trial], device: str, begun: bool) -> list[Trial]:
    """A stack of a command that has died."""
    known = [replace(trial, id=f"{trial.sweep} {trial.name}") for trial in trials]
    command = Command(ledger)
    command.claim(*known)
    stack = Composition(str(trials[0].sweep), tuple((one.id,) for one in known), CHOICE, device)
    ledger.plan(command.number, [stack])
    for one in known if begun else ():
        command.start(one)
    command.die()
    return known


def test_a_stack_that_goes_on_on_another_device_says_so(store: Store, ledger: Ledger, trials: MakeTrials) -> None:
    two = trials(0.1, 0.2)
    assert prepare(two, "train", InProcessExecutor()).devices == {two[0].run.device: "cpu"}
    leave_open(ledger, two, "cuda", begun=True)
    assert states(two, store) == ["FINISHED"] * 2
    assert [one["recomposed"] for one in tags(store, two)] == ["it began on cuda and was resumed on cpu"] * 2


def test_a_stack_that_is_not_whole_any_more_is_foreseen_as_new_trials(
    store: Store, ledger: Ledger, trials: MakeTrials
) -> None:
    """One of its trials was taken by a command that has done nothing with it."""
    three = trials(0.1, 0.2, 0.3)
    known = leave_open(ledger, three, "cpu", begun=False)
    work, _ = foresee(prepared(three), store, InProcessExecutor())
    assert (work.fresh, [stack.trials for stack in work.resumed]) == ([], [known])
    taker = Command(ledger)
    taker.claim(three[1])
    taker.end()
    work, chosen = foresee(prepared(three), store, InProcessExecutor())
    assert (work.fresh, work.resumed) == ([known[0], three[1], known[2]], [])
    assert {trial.name for trial in chosen.plan.trials} == {"lr=0.1", "lr=0.2", "lr=0.3"}
    assert composition(ledger, str(three[0].sweep)) is not None  # though the ledger still has it


def test_records_that_the_store_has_not_received_are_known_until_somebody_delivers_them(
    store: Store, ledger: Ledger, trials: MakeTrials
) -> None:
    deliver_all(store, ledger)  # what other tests have left
    assert (undelivered(), undelivered(store)) == (None, None)
    gone = store.experiment_id("gone")
    store.client.delete_experiment(gone)
    assert states(trials(0.1, **{"tracking.experiment": "gone"}), store) == ["FINISHED"]
    line = undelivered()
    assert line is not None
    assert line.startswith("Records of 1 trial are kept in the journal")
    assert "sweepstack sync" in line
    assert undelivered(store) == line
    store.client.restore_experiment(gone)
    assert deliver_all(store, ledger) == 1
    assert (undelivered(), undelivered(store)) == (None, None)


def test_records_that_another_process_has_left_in_the_journal_are_asked_for_by_store(
    store: Store, ledger: Ledger, trials: MakeTrials
) -> None:
    """As launchers do that train elsewhere."""
    deliver_all(store, ledger)
    other = Command(ledger)
    assert undelivered(store) is None  # it lives
    other.die()
    assert undelivered() is None
    line = undelivered(store)
    assert line is not None
    assert line.startswith("Records are kept in the journal")
    assert deliver_all(store, ledger) == 0
    assert undelivered(store) is None


# --- What goes wrong inside a stack


CALLS = "CALLS_OF_NET"
"""Counted where no stack looks: a module that counts in an attribute trains alone."""


def calls() -> int:
    return int(os.environ.get(CALLS, 0))


class Net(torch.nn.Linear):
    """There is not enough memory for some of its steps, counted from the first checkpoint on."""

    checkpoints: ClassVar = Path()
    too_large: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and any(Net.checkpoints.glob("*/latest.pt")):
            os.environ[CALLS] = str(calls() + 1)
            if calls() in Net.too_large:
                raise torch.OutOfMemoryError("the memory is full")
        return super().forward(images.flatten(1))


NET = {"model": {"_target_": f"{__name__}.Net"}}
STEPS = math.ceil(1797 * 0.8 * 0.9 / 100)
"""In an epoch."""


@pytest.fixture
def checkpoints(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Path:
    Net.checkpoints = ledger.folder / "checkpoints"
    monkeypatch.setenv(CALLS, "0")
    return Net.checkpoints


def test_halves_of_a_stack_that_ran_out_of_memory_go_on_from_its_checkpoint(
    store: Store, checkpoints: Path, trials: MakeTrials
) -> None:
    """In the last step of its ninth epoch."""
    Net.too_large = {8 * STEPS}
    four = trials(0.1, 0.2, 0.3, 0.4, epochs=(9,), **NET)
    assert states(four, store) == ["FINISHED"] * 4
    assert 2 * STEPS <= calls() - 8 * STEPS < 2 * 3 * STEPS  # that epoch, and the try whether they can be stacked
    (why,) = {one["recomposed"] for one in tags(store, four)}
    assert why.startswith("a stack of 4 failed: OutOfMemoryError: the memory is full (in your test_scheduler.py, ")
    assert all(one["trained"].startswith("stacked, 2 trajectories wide") for one in tags(store, four))
    assert list(checkpoints.iterdir()) == []


def test_a_half_that_runs_out_of_memory_too_goes_on_as_single_trials(
    store: Store, checkpoints: Path, trials: MakeTrials, capsys: pytest.CaptureFixture[str]
) -> None:
    Net.too_large = {STEPS, 2 * STEPS}
    four = trials(0.1, 0.2, 0.3, 0.4, epochs=(9,), **NET)
    assert states(four, store) == ["FINISHED"] * 4
    said = capsys.readouterr()
    for width in (4, 2):
        line = rf"A stack of {width} failed: OutOfMemoryError: the memory is full \(.*\); its trials go on in halves\."
        assert re.search(line, said.out)
    assert "Traceback" not in said.out + said.err
    assert all("failed: OutOfMemoryError: the memory is full" in one["recomposed"] for one in tags(store, four))
    ways = sorted(one["trained"].split(",")[0] for one in tags(store, four))
    assert ways == ["by the plain trainer"] * 2 + ["stacked"] * 2
    assert not any("by the plain trainer" in one["trained"] for one in tags(store, four) if one["trained"][0] == "s")
    assert list(checkpoints.iterdir()) == []


def test_weights_that_could_not_be_kept_are_trained_again_in_a_trajectory_that_has_gone_on(
    store: Store, trials: MakeTrials, tmp_path: Path
) -> None:
    """A file where the folder of the first job should be; the checkpoint of the stack is past its end by then."""
    four = trials(0.1, 0.2, epochs=(2, 6))
    (tmp_path / "0").write_text("in the way")
    assert Counter(states(four, store)) == {"FAILED": 1, "FINISHED": 3}
    (tmp_path / "0").unlink()
    assert states(four, store) == ["FINISHED"] * 4
    assert [row.state for row in store.rows(str(four[0].sweep))] == ["FINISHED"] * 4
    assert (tmp_path / "0" / "weights.pt").is_file()


def test_a_stack_that_is_resumed_on_another_device_and_cut_says_why_it_was_cut(
    store: Store, ledger: Ledger, checkpoints: Path, trials: MakeTrials
) -> None:
    Net.too_large = {STEPS}
    four = trials(0.1, 0.2, 0.3, 0.4, epochs=(9,), **NET)
    leave_open(ledger, four, "cuda", begun=True)
    assert states(four, store) == ["FINISHED"] * 4
    assert all("failed: OutOfMemoryError: the memory is full" in one["recomposed"] for one in tags(store, four))


class Rude(Listener):
    """Fails when the first trial ends."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def on_ended(self, event: Ended) -> None:
        self.ended.append(event.trial.name)
        if len(self.ended) == 1:
            raise RuntimeError("torn")


def test_a_listener_that_fails_costs_no_trial_and_none_is_trained_twice(store: Store, trials: MakeTrials) -> None:
    three, rude, widths = trials(0.1, 0.2, 0.3), Rude(), []

    class Counting(InProcessExecutor):
        def train(self, assignment: Assignment, reporter: Reporter) -> Parts | Paused | None:
            widths.append(len(assignment.stack.trajectories))
            return super().train(assignment, reporter)

    outcomes = execute(prepared(three), store, Counting(), [rude])
    assert [str(outcomes[trial.fingerprint].state) for trial in three] == ["FINISHED"] * 3
    assert (rude.ended, widths) == (["lr=0.1", "lr=0.2", "lr=0.3"], [3, 1, 1])


def test_what_only_fails_when_stacked_is_trained_alone(
    store: Store, trials: MakeTrials, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured as something that can be stacked, the module has changed since, by a file that nobody knows of."""
    text = (
        "import pathlib, torch\n"
        "BRANCHES = pathlib.Path(__file__).with_name('branches').exists()\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(64, 10)\n"
        "    def forward(self, images):\n"
        "        if BRANCHES and self.bias.sum() > 1e9: return -images\n"
        "        return super().forward(images.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = {"model": {"_target_": "branching_net.Net"}}
    (tmp_path / "branching_net.py").write_text(text)
    before = trials(0.1, 0.2, sweep="before", **own)
    assert states(before, store) == ["FINISHED"] * 2
    capsys.readouterr()

    (tmp_path / "branches").touch()
    del sys.modules["branching_net"]  # what comes now is a new command
    importlib.invalidate_caches()
    code_digest._digest_of.cache_clear()
    after = trials(0.3, 0.4, sweep="after", **own)
    assert states(after, store) == ["FINISHED"] * 2
    said = capsys.readouterr().out
    assert "A stack of 2 failed: " in said
    assert "Traceback" not in said
    assert all(one["trained"].startswith("stacked, 2 trajectories wide") for one in tags(store, before))
    assert all(one["trained"].startswith("by the plain trainer") for one in tags(store, after))
    assert all("a stack of 2 failed: " in one["recomposed"] for one in tags(store, after))


def test_data_that_are_not_those_of_the_fingerprint_are_not_trained_on(
    store: Store, trials: MakeTrials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files can change between two loads, and the last two datasets alone are kept in memory."""
    (tmp_path / "own_files.py").write_text(
        "import torch\n"
        "from pathlib import Path\n"
        "from torch.utils.data import TensorDataset\n"
        "from sweepstack.training.data import digits\n"
        "def read(train, file):\n"
        "    images, labels = digits(train).tensors\n"
        "    return TensorDataset(images * float(Path(file).read_text()), labels)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "factor"
    file.write_text("1.0")
    one = trials(0.1, **{"dataset._target_": "own_files.read", "dataset.file": str(file)})
    file.write_text("0.5")
    load._read.cache_clear()
    with pytest.raises(DataError, match="dataset must give the same data at every load"):
        run(one, store)


def test_a_single_command_resumes_the_stack_of_a_sweep_and_tells_of_its_own_trial(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep stopped after its first failure; the trial beside the one that is typed is trained on, too."""
    store = new_store(tmp_path, empty_database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    words = ("dataset=digits", "model=mlp", "epochs=3", "seed=11")
    stopped = here.train("-m", *words, "optimizer.lr=0.1,0.2,1e30", "launch.width=3", "max_failures=1")
    assert stopped.code == 1
    assert "2 trials KILLED" in stopped.out
    done = here.train(*words, "optimizer.lr=0.1")
    assert (done.code, done.err) == (0, "")
    assert "1 stack interrupted before: resumed" in done.out
    assert {(row.name.split()[-1], str(row.state)) for row in store.rows("all")} == {
        ("lr=0.1", "FINISHED"),
        ("lr=0.2", "FINISHED"),
        ("lr=1e+30", "FAILED"),
    }
