"""Whose mistake it is: 20 faults planted in sweepstack, 20 in a user's code, each told rightly, with its traceback."""

import itertools
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sweepstack import error_log
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process

from . import here
from .terminal import new_store

SWEEP = ("-m", "dataset=digits", "epochs=1", "checkpoint.every=1000")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Store]:
    """One for all tests: each trains other trials."""
    store = new_store(tmp_path_factory.mktemp("faults"), empty_database)
    process = writer_process(store.uri)
    yield store
    process.close()
    process._process.wait(60)


@pytest.fixture
def folder(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a store, a project's log and the user's modules in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr(error_log, "project_root", lambda: tmp_path)
    return tmp_path


NUMBERS = itertools.count(1)


def plant(folder: Path, source: str) -> str:
    """A module of the user's; gives its name, which no other test has used."""
    name = f"mine{next(NUMBERS)}"
    (folder / f"{name}.py").write_text(source)
    return name


def logged(folder: Path) -> str:
    """What stands in errors.log and in the logs of jobs."""
    return "".join(path.read_text() for path in [*folder.glob("mlruns/errors.log"), *folder.rglob("train.log")])


NET = """
import sys
import numpy, torch
class Odd(Exception):
    def __str__(self): raise ValueError("no text")
class Mine(KeyboardInterrupt): pass
class Net(torch.nn.Linear):
    def __init__(self, shape, classes):
        super().__init__(64, classes)
        {constructor}
    def forward(self, images):
        {forward}
        return super().forward(images.flatten(1))
"""

CONSTRUCTORS = {
    "1 / 0": "division by zero",
    "sys.exit()": "the code ends the program: SystemExit",
    "raise Odd": "it cannot be shown, because its __str__ raises ValueError",
    "raise RuntimeError('two\\nlines \\x1b[31m')": r"two lines \\x1b\[31m",
    "raise Mine('stop')": "the code ends the program: Mine: stop",
    "open('nowhere.txt')": "No such file or directory: 'nowhere.txt'",
    "import no_such_module": "No module named 'no_such_module'",
    "numpy.zeros(3) @ numpy.zeros(4)": "matmul",
    "raise MemoryError": "MemoryError",
}


@pytest.mark.parametrize("line", CONSTRUCTORS)
def test_a_fault_in_a_users_constructor_is_theirs(folder: Path, line: str) -> None:
    name = plant(folder, NET.format(constructor=line, forward="pass"))
    done = here.train(*SWEEP, f"model._target_={name}.Net")
    assert done.code == 2
    (shown,) = done.err.splitlines()
    assert shown.startswith("error: job 0 ")
    assert re.search(CONSTRUCTORS[line], shown)
    assert f"(in your {name}.py, line 10, __init__)" in shown
    assert f"(the traceback is in {folder}/mlruns/errors.log)" in shown
    assert f'{name}.py", line 10, in __init__' in logged(folder)


FORWARDS = {
    "1 / 0": "ZeroDivisionError: division by zero",
    "sys.exit(0)": "the code ends the program: SystemExit: 0",
    "raise KeyboardInterrupt": "the code ends the program: KeyboardInterrupt",
    "raise StopIteration": "StopIteration",
    "return self.forward(images)": "RecursionError: maximum recursion depth exceeded",
    "torch.zeros(2, 3) @ torch.zeros(2, 3)": "RuntimeError: ",
    "raise UserWarning('soon')": "UserWarning: soon",
}


def test_a_fault_in_a_users_forward_is_theirs(folder: Path, store: Store) -> None:
    """All in one sweep: each is FAILED with the reason and the place, and costs no other trial anything."""
    source = NET.format(constructor="", forward="if self.training: self.fault(images)")
    source = source.replace("(self, shape, classes)", "(self, shape, classes, number)").replace(
        "        \n", "        self.number = number\n", 1
    )
    faults = "".join(f"        if self.number == {place}: {line}\n" for place, line in enumerate(FORWARDS))
    name = plant(folder, f"{source}    def fault(self, images):\n{faults}")
    numbers = ",".join(map(str, range(len(FORWARDS) + 1)))
    done = here.train(*SWEEP, f"model._target_={name}.Net", f"+model.number={numbers}", "tracking.sweep=forwards")
    assert (done.code, done.err) == (1, "")
    rows = {int(row.name.rpartition("=")[2]): row for row in store.rows("forwards")}
    first = (folder / f"{name}.py").read_text().splitlines().index("    def fault(self, images):") + 2
    for place, said in enumerate(FORWARDS.values()):
        assert rows[place].state == "FAILED"
        assert rows[place].reason.startswith(said)
        assert rows[place].reason.endswith(f"(in your {name}.py, line {first + place}, fault)") or "Recursion" in said
    assert rows[len(FORWARDS)].state == "FINISHED"
    assert logged(folder).count("Traceback") >= len(FORWARDS)


DATASET = """
import sys, torch
class Data:
    def __init__(self, train):
        {constructor}
    def __len__(self):
        {length}
        return 100
    def __getitem__(self, place):
        {item}
        return torch.zeros(1, 8, 8), place % 10
"""
DATASETS = {
    "constructor": ("sys.exit(0)", "SystemExit: 0", 5, "__init__"),
    "length": ("1 / 0", "division by zero", 7, "__len__"),
    "item": ("{}[place]", "0", 10, "__getitem__"),
}


@pytest.mark.parametrize("where", DATASETS)
def test_a_fault_in_a_users_dataset_is_theirs(folder: Path, where: str) -> None:
    line, said, number, function = DATASETS[where]
    name = plant(folder, DATASET.format(**{**dict.fromkeys(DATASETS, "pass"), where: line}))
    own = (f"dataset._target_={name}.Data", "dataset.shape=[1,8,8]", "dataset.classes=10")
    done = here.train(*SWEEP, *own)
    assert done.code == 2
    (shown,) = done.err.splitlines()
    assert said in shown
    assert f"(in your {name}.py, line {number}, {function}; the traceback is in " in shown
    assert f'{name}.py", line {number}, in {function}' in logged(folder)


MODULES = {
    "class Net(:\n    pass\n": ("SyntaxError: invalid syntax", "line 1"),
    "x = 1\nimport no_such_module\n": ("ModuleNotFoundError: No module named 'no_such_module'", "line 2, <module>"),
    "import sys\nsys.exit()\n": ("the code ends the program: SystemExit", "line 2, <module>"),
    "raise GeneratorExit\n": ("the code ends the program: GeneratorExit", "line 1, <module>"),
}


@pytest.mark.parametrize("source", MODULES)
def test_a_fault_in_a_users_module_is_theirs(folder: Path, source: str) -> None:
    said, place = MODULES[source]
    name = plant(folder, source)
    done = here.train("dataset=digits", f"model._target_={name}.Net")
    assert done.code == 2
    assert done.err.startswith(f"error: model._target_ should name something that can be imported ({said}")
    assert f"correct the module (in your {name}.py, {place}; the traceback is in " in done.err
    assert said.partition(":")[0] in logged(folder) or "the code ends" in said


def test_a_fault_in_a_users_optimizer_schedule_or_callback_is_theirs(folder: Path) -> None:
    name = plant(
        folder,
        "import torch\nfrom hydra.experimental.callback import Callback\n"
        "class Step(torch.optim.SGD):\n    def step(self, closure=None):\n        raise LookupError('no step')\n"
        "class Back(Callback):\n    def on_job_start(self, **kwargs):\n        raise SystemExit(0)\n",
    )
    words = ("dataset=digits", "epochs=1", "seed=7")
    done = here.train(*words, f"optimizer._target_={name}.Step")
    assert (done.code, done.err) == (1, "")
    assert f"LookupError: no step (in your {name}.py, line 5, step)" in done.out
    done = here.train(*words, f"+hydra.callbacks.mine._target_={name}.Back")
    assert done.code == 2
    assert done.err.startswith(f"error: SystemExit: 0 (in your {name}.py, line 8, on_job_start; the traceback is in ")


OURS_TRAIN = [
    ("sweepstack.hydra_adapter.trials.parse", KeyError("planted")),
    ("sweepstack.hydra_adapter.jobs.make_trial", TypeError("planted")),
    ("sweepstack.hydra_adapter.launcher.fixed_keys", ValueError("planted")),
    ("sweepstack.hydra_adapter.launcher.prepare", AssertionError("planted")),
    ("sweepstack.execution.engines.choose.plan", IndexError("planted")),
    ("sweepstack.execution.prepare._fingerprint", UnicodeDecodeError("utf-8", b"", 0, 1, "planted")),
    ("sweepstack.execution.session.Journal", AttributeError("planted")),
    ("sweepstack.execution.session.ledger_of", sqlite3.ProgrammingError("planted")),
    ("sweepstack.execution.session.Session.claim", RecursionError("planted")),
    ("sweepstack.execution.session.Session.keep_plan", StopIteration("planted")),
    ("sweepstack.execution.prepare.check", OSError("planted")),
    ("sweepstack.execution.scheduler._keep_files", NotImplementedError("planted")),
]
OURS_COMMANDS = [
    (("table",), "sweepstack.results.tables.frame.as_frame", KeyError("planted")),
    (("table",), "sweepstack.results.tables.rendering.render", TypeError("planted")),
    (("table", "--by-seed"), "sweepstack.results.tables.grouping.by_seed", ZeroDivisionError("planted")),
    (("report",), "sweepstack.results.reporting.report.report", ValueError("planted")),
    (("show", "lr=0.1"), "sweepstack.results.show.describe_run", RuntimeError("planted")),
    (("repro", "lr=0.1"), "sweepstack.results.reproduce.repro_command", LookupError("planted")),
    (("sync",), "sweepstack.tracking.writer.delivery.deliver_what_is_left", OSError("planted")),
    (("register",), "sweepstack.results.register.register", AttributeError("planted")),
]


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A trial that commands can show, and that need not be trained again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        patch.setenv("MLFLOW_TRACKING_URI", store.uri)
        done = here.train(*SWEEP, "optimizer.lr=0.1,0.2")
        assert (done.code, done.err) == (0, ""), done.out


def is_ours(folder: Path, done: here.Done, error: BaseException) -> None:
    assert done.code == 1
    (shown,) = done.err.splitlines()
    assert shown.startswith(f"error: {type(error).__name__}: ")
    assert "planted" in shown
    assert shown.endswith(f"(not your mistake; the traceback is in {folder}/mlruns/errors.log)")
    assert type(error).__name__ in logged(folder)
    assert "Traceback" in logged(folder)


@pytest.mark.parametrize(("name", "error"), OURS_TRAIN, ids=lambda value: str(value).rpartition(".")[2])
def test_a_fault_of_ours_while_training_is_ours(folder: Path, trained: None, name: str, error: Any) -> None:
    lr = "0.1" if name.endswith("_keep_files") else f"0.3{next(NUMBERS)}"
    with mock.patch(name, side_effect=error):
        is_ours(folder, here.train(*SWEEP, f"optimizer.lr={lr}"), error)


@pytest.mark.parametrize(("words", "name", "error"), OURS_COMMANDS, ids=lambda value: str(value).rpartition(".")[2])
def test_a_fault_of_ours_in_a_command_is_ours(
    folder: Path, trained: None, words: tuple[str, ...], name: str, error: Any
) -> None:
    with mock.patch(name, side_effect=error):
        is_ours(folder, here.sweepstack(*words), error)


def test_a_fault_of_ours_in_a_training_fails_the_trial_and_is_ours(folder: Path) -> None:
    with mock.patch("sweepstack.training.trainer.evaluate", side_effect=ArithmeticError("planted")):
        done = here.train(*SWEEP, f"optimizer.lr=0.3{next(NUMBERS)}")
    assert done.code == 1
    assert "FAILED: ArithmeticError: planted (not your mistake)" in done.out
    assert "ArithmeticError: planted" in (folder / "mlruns" / "errors.log").read_text()


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if re.fullmatch(r"mine\d+", name)]:
        del sys.modules[name]


TYPED = {
    "env_copy": (("hydra.job.env_copy=[NO_SUCH_VARIABLE]",), "names the variable NO_SUCH_VARIABLE, which is not set"),
    "digits": (("epochs=" + "1" * 100_000,), "cannot be read (a number of more than 4300 digits)"),
    "nested": (("+model.x=" + "{a:" * 400 + "1" + "}" * 400,), "cannot be read (it is nested too deeply)"),
    "surrogate": (("seed=\udc80",), r"override 'seed=\udc80' cannot be read"),
    "nul": (("seed=a\0b",), "cannot be read"),
    "folder": (("hydra.run.dir=/proc/x",), "/proc/x cannot be used (No such file or directory)"),
    "logging": (("hydra.job_logging.version=9",), "Unsupported version: 9; correct hydra.job_logging"),
    "launcher": (("-m", "hydra/launcher=nope"), "hydra/launcher=nope does not exist; known: basic"),
    "adam": (("-m", "optimizer=adam,adamw", "optimizer.momentun=1"), "adam,adamw have: ++optimizer.momentun=VALUE"),
    "sweep": (("epochs=range(1,2)",), "add -m, or give one value"),
}


@pytest.mark.parametrize("name", TYPED)
def test_what_was_typed_is_the_users_mistake(folder: Path, name: str) -> None:
    words, said = TYPED[name]
    done = here.train("dataset=digits", *words) if words[0] != "-m" else here.train("-m", "dataset=digits", *words[1:])
    assert done.code == 2
    (shown,) = done.err.splitlines()
    assert said in shown
    assert len(shown) < 700
