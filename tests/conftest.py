"""What all tests can ask for by name; what they import is in `terminal`, `stories` and `here`."""

import copy
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from sweepstack import paths
from sweepstack.config.parsing import parse
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.journal.ledger import Ledger
from sweepstack.tracking.store import Store
from sweepstack.trial import Trial

from .forking import Forked
from .stories import MakeTrial, fingerprint
from .terminal import DIGITS, Terminal, new_store

subprocess.Popen = Forked  # type: ignore[misc] # also for the process that writes records, which tests begin in this one

LONGEST = (
    "test_slurm.py",
    "test_resume.py",
    "test_train_command.py",
    "test_examples.py",
    "test_stacked_loop.py",
    "test_ui.py",
    "test_readme.py",
    "test_commands.py",
    "test_report.py",
    "test_writer.py",
)
"""Files that take long: they begin first, or the last of them would be waited for by all other workers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


settings.register_profile("sweepstack", deadline=None, max_examples=50)
settings.load_profile("sweepstack")


@pytest.fixture(autouse=True)
def nothing_typed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that other tests have typed in this process began in other folders."""
    monkeypatch.setattr(paths, "_began", None)


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
    """What is trained of the same, typed."""
    return lambda changes=None: parse(digits_plain(changes)).trial


@pytest.fixture(scope="session")
def digits_run(digits_plain: Callable[..., dict[str, Any]]) -> Callable[..., RunConfig]:
    """How the same is trained."""
    return lambda changes=None: parse(digits_plain(changes)).run


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


@pytest.fixture
def bare_terminal(tmp_path: Path) -> Terminal:
    """Whose store is made by the first command."""
    return Terminal(tmp_path)


@pytest.fixture
def terminal(tmp_path: Path, empty_database: Path) -> Terminal:
    """Whose store is there, with nothing in it."""
    new_store(tmp_path, empty_database)
    return Terminal(tmp_path)


@pytest.fixture
def trial(digits_plain: Callable[..., dict[str, Any]]) -> MakeTrial:
    """`trial(3)`: number 3 of the sweep named sweep; `trial(3, "other")` is the same as another command knows it."""
    config, run = parse(digits_plain())

    def make(number: int, sweep: str | None = "sweep", **changes: Any) -> Trial:
        one = Trial(
            config,
            number,
            f"lr={number}",
            {"dataset": "digits", "lr": number},
            Path(f"/nowhere/{sweep}/{number}"),
            "epochs: 2\n",
            run,
            Path(f"/nowhere/{sweep}/{number}/train.log"),
            ("lr=1",),
            sweep,
            fingerprint(number),
            f"{sweep}-{number}",
        )
        return replace(one, **changes)

    return make


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Store:
    """A store with nothing in it. A process that is forked must not use a client that has been used here."""
    return new_store(tmp_path, empty_database)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "journal")


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that nobody, too, can look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
