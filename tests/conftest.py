"""What the tests share: a small config for the digits that come with scikit-learn, and a terminal to type into."""

import copy
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from sweepstack.config import TrialConfig
from sweepstack.tracking import address
from sweepstack.tracking.store import Store

from .forking import Forked

ROOT = Path(__file__).parents[1]

STARTED = subprocess.Popen
subprocess.Popen = Forked  # type: ignore[misc] # also for the process that writes records, which tests begin in this one

LONGEST = (
    "test_resume.py",
    "test_train_command.py",
    "test_stack.py",
    "test_ui.py",
    "test_readme.py",
    "test_commands.py",
    "test_report.py",
    "test_process.py",
)
"""Files that take long: they begin first, or the last of them would be waited for by all other workers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


settings.register_profile("sweepstack", deadline=None, max_examples=50)
settings.load_profile("sweepstack")

DIGITS = {
    "dataset": {"_target_": "sweepstack.training.data.digits", "shape": [1, 8, 8], "classes": 10},
    "model": {"_target_": "sweepstack.training.models.Logistic", "shape": [1, 8, 8], "classes": 10},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "schedule": {"kind": "constant"},
    "epochs": 2,
    "batch_size": 100,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def nothing_typed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that other tests have typed in this process began in other folders."""
    monkeypatch.setattr(address, "_began", None)


@pytest.fixture(scope="session")
def digits_plain() -> Callable[..., dict[str, Any]]:
    """`digits_plain({"optimizer.lr": 0.5})`: a config as a plain dict, with the values at dotted keys replaced."""

    def plain(changes: dict[str, Any] | None = None) -> dict[str, Any]:
        config: dict[str, Any] = copy.deepcopy(DIGITS)
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            section = config
            for name in sections:
                section = section.setdefault(name, {})
            section[last] = value
        return config

    return plain


@pytest.fixture(scope="session")
def digits_config(digits_plain: Callable[..., dict[str, Any]]) -> Callable[..., TrialConfig]:
    """The same, typed."""
    return lambda changes=None: TrialConfig.model_validate(digits_plain(changes))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A store with nothing in it. MLflow takes seconds to make one: it is made once for all processes that test."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "empty"
    folder.mkdir(exist_ok=True)
    store = Store(f"sqlite:///{folder}/mlflow.db")
    assert store.database is not None
    with FileLock(folder / "made.lock"):
        if not store.database.exists():
            _ = store.client
    return store.database


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
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
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


@pytest.fixture
def bare_terminal(tmp_path: Path) -> Terminal:
    """Whose store is made by the first command."""
    return Terminal(tmp_path)


@pytest.fixture
def terminal(tmp_path: Path, empty_database: Path) -> Terminal:
    """Whose store is there, with nothing in it."""
    new_store(tmp_path, empty_database)
    return Terminal(tmp_path)
