"""A terminal to type commands into, and a small config for the digits that come with scikit-learn."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweepstack.tracking.store import Store

from .forking import Forked

ROOT = Path(__file__).parents[1]

STARTED = subprocess.Popen

DIGITS = {
    "dataset": {"_target_": "sweepstack.training.data.digits", "shape": [1, 8, 8], "classes": 10},
    "model": {"_target_": "sweepstack.training.models.Logistic", "shape": [1, 8, 8], "classes": 10},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "schedule": {"kind": "constant"},
    "epochs": 2,
    "batch_size": 100,
    "device": "cpu",
}


def new_store(folder: Path, empty_database: Path) -> Store:
    """A store in that folder with nothing in it."""
    shutil.copy(empty_database, folder / "mlflow.db")
    store = Store(f"sqlite:///{folder}/mlflow.db")
    store.follow_move()  # here, or the first command would say that it was copied
    return store


@dataclass
class Terminal:
    """A user's terminal in a folder with a store of its own."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def store(self) -> Store:
        return Store(self.uri)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MLFLOW_TRACKING_URI": self.uri, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}

    def start(
        self, *words: str, before: Callable[[], None] | None = None, fresh: bool = False
    ) -> subprocess.Popen[str]:
        """Types a command; `train.py` and `sweepstack` are found.

        Args:
            before: called in the new process, before the command begins.
            fresh: in an interpreter of its own, whose descendants are its own, too; else it is forked, see `forking`.
        """
        programs = {
            "train.py": [sys.executable, str(ROOT / "train.py")],
            "sweepstack": [str(Path(sys.executable).with_name("sweepstack"))],
        }
        command = [*programs[words[0]], *words[1:]]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begin = STARTED if fresh else Forked
        return begin(command, cwd=self.folder, env=self.environment, preexec_fn=before, **pipes)

    def type(self, *words: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        """Types a command and waits for its end."""
        process = self.start(*words, before=before)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def wait_for_records(self) -> None:
        """Until all is in the store: a stopped command leaves that to the process beside, which takes its time."""
        deadline = time.monotonic() + 120
        while [*self.folder.glob("journal/*/*.jsonl")]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
