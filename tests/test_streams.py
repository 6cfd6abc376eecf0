"""Streamed and augmented data as a user types them: killed in the middle of an epoch, resumed, and what is said."""

import os
import signal
import time
from pathlib import Path

import pytest

from .terminal import Terminal, new_store

DATA = """
import os, pathlib, time, torch
from sweepstack.training.data import digits

class Noisy(torch.utils.data.Dataset):
    '''Digits with noise that is drawn for each item. With SLOW, an item takes its time.'''

    def __init__(self, train):
        self.images, self.labels = (part[:200] for part in digits(train).tensors)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if "SLOW" in os.environ and index < 100:
            time.sleep(0.01)
        return self.images[index] + 0.1 * torch.rand(8, 8), int(self.labels[index])

class Failing(Noisy):
    def __getitem__(self, index):
        if index == 150:
            raise OSError("the disk has gone")
        return super().__getitem__(index)
"""
SWEEP = (
    *("train.py", "-m", "dataset=digits", "dataset._target_=own_stream.Noisy", "augment=crop", "model=mlp"),
    *("model.dropout=0.2", "optimizer.lr=0.1,0.2", "seed=1,2", "epochs=3", "batch_size=20", "threads=1"),
    *("launch.stack=force", "checkpoint.every=0", "device=cpu"),
)
ALONE = (*SWEEP, "launch.stack=false")


def furnish(folder: Path, empty_database: Path) -> Terminal:
    folder.mkdir(exist_ok=True)
    new_store(folder, empty_database)
    (folder / "own_stream.py").write_text(DATA)
    return Terminal(folder)


@pytest.fixture
def terminal(tmp_path: Path, empty_database: Path) -> Terminal:
    return furnish(tmp_path, empty_database)


def weights(terminal: Terminal) -> dict[str, bytes]:
    """Those of each run, once all are in the store."""
    terminal.wait_for_records()
    return {path.parent.name: path.read_bytes() for path in terminal.folder.glob("multirun/streamed/*/weights.pt")}


@pytest.mark.parametrize(
    ("command", "by"), [(SWEEP, signal.SIGTERM), (ALONE, signal.SIGKILL)], ids=["stacked", "alone"]
)
def test_killed_in_the_middle_of_a_streamed_epoch_it_ends_as_if_undisturbed(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], by: signal.Signals
) -> None:
    command = (*command, "tracking.sweep=streamed")
    undisturbed = furnish(tmp_path / "undisturbed", empty_database)
    done = undisturbed.type(*command)
    assert done.returncode == 0, done.stderr
    assert "Dataset own_stream.Noisy is streamed by worker processes: its items draw random numbers" in done.stderr

    terminal = furnish(tmp_path / "killed", empty_database)
    monkeypatch.setenv("SLOW", "1")
    process = terminal.start(*command, fresh=True)
    deadline = time.monotonic() + 120
    while not [*terminal.folder.glob("journal/*/checkpoints/*/latest.pt")]:  # the first epoch is over
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, by)
    process.communicate(timeout=60)
    monkeypatch.delenv("SLOW")
    again = terminal.type(*command)  # at once: no worker of the dead command holds anything
    assert again.returncode == 0, again.stderr
    assert "resume" in again.stdout
    assert len(weights(undisturbed)) == 4
    assert weights(terminal) == weights(undisturbed)


def test_an_item_that_raises_is_named_and_its_traceback_is_in_the_log(terminal: Terminal) -> None:
    failing = [*SWEEP, "dataset._target_=own_stream.Failing", "tracking.sweep=streamed"]
    done = terminal.type(*failing)
    assert done.returncode == 2
    assert (
        "item 150 (from 0) of the training part of own_stream.Failing fails (OSError: the disk has gone)" in done.stderr
    )
    assert "Traceback" not in done.stderr
    done = terminal.type(*failing, "dataset.identity=now", "max_failures=1")
    assert done.returncode == 1
    assert "item 150 (from 0)" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    logs = [path.read_text() for path in terminal.folder.glob("multirun/streamed/*/*.log")]
    assert any('raise OSError("the disk has gone")' in log for log in logs)
