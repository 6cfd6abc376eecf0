"""What other systems than Linux lack. Nothing of it was run on Windows: here Python lacks what it lacks there."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .terminal import ROOT

SOURCE = ROOT / "src"
COMMAND = "from sweepstack.cli.main import main; main()"
IMPORT_ALL = """
import importlib, pkgutil, hydra_plugins.sweepstack, sweepstack
for package in (sweepstack, hydra_plugins.sweepstack):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(found.name)
        print(found.name)
"""
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{number}" for kind in ("COM", "LPT") for number in range(1, 10))}
IN_THE_ENCODING_OF_THE_MACHINE = {
    "sweepstack/results/reproduce.py",  # a command, which writes in that encoding
}


def refused_by_windows(name: str) -> str:
    """Why Windows refuses a name of a file; empty if it takes it."""
    if bad := [char for char in name if char in '<>:"|?*\\' or ord(char) < 32]:
        return f"it has {bad[0]!r}"
    if name[-1:] in (" ", "."):
        return "its end would be cut off"
    return "it is a device" if name.partition(".")[0].rstrip().upper() in RESERVED else ""


def test_names_that_windows_refuses_are_known() -> None:
    for name in ("a:b", "what?", 'a"b', "a\\b", "a|b", "x.", "x ", "nul", "Com1.txt", "a\tb", "aux .csv"):
        assert refused_by_windows(name), name
    assert not refused_by_windows("lr=0.1,epochs=5 (2)[a]'b'.jsonl")


class Machine:
    """A folder, and a Python that lacks what Windows lacks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._written = folder, folder / "written.txt"
        (folder / "site").mkdir()
        shutil.copy(Path(__file__).with_name("windows_like.py"), folder / "site" / "sitecustomize.py")
        (folder / "temporary").mkdir()
        given = {"FILES_WRITTEN": self._written, "TMPDIR": folder / "temporary", "HOME": folder}
        self.environment = {**os.environ, **{name: str(path) for name, path in given.items()}, "USER": "me"}
        self.environment |= {"PYTHONPATH": str(folder / "site"), "PYTHONUTF8": "0", "LC_ALL": "C"}
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def python(self, *words: str, cwd: Path) -> str:
        done = subprocess.run(
            [sys.executable, *words], env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def written(self) -> set[Path]:
        """The files and folders that were made, as paths in the folder; those that are gone, too."""
        lines = self._written.read_text(encoding="utf-8").splitlines()
        noted = {Path(line) for line in lines if "/file:/" not in line}  # addresses of databases
        paths = noted | {*self.folder.rglob("*")}
        return {path.relative_to(self.folder) for path in paths if path.is_relative_to(self.folder)}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def project(machine: Machine) -> Path:
    """A project in which two sweeps were trained: in one process, and in two workers that are new processes."""
    folder = machine.folder / "my project"
    machine.python("-c", COMMAND, "new", str(folder), cwd=machine.folder)
    words = ["train.py", "-m", "model.width=4,8", "epochs=2"]
    machine.python(*words, "optimizer.lr=0.1,0.3", "engine=inline", cwd=folder)
    machine.python(*words, "optimizer.lr=0.2", "engine=local", "engine.workers=2", "launch.width=1", cwd=folder)
    return folder


def test_each_module_can_be_imported(machine: Machine) -> None:
    names = machine.python("-c", IMPORT_ALL, cwd=machine.folder).split()
    files = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    assert len(names) > len(files)
    assert {"sweepstack.files.scratch", "sweepstack.execution.engines.slurm.worker"} < {*names}


def test_sweeps_train_and_are_read(machine: Machine, project: Path) -> None:
    found = json.loads(machine.python("-c", COMMAND, "table", "--sweep=all", "--json", cwd=project))
    assert [row["state"] for row in found] == ["FINISHED"] * 6
    assert list((machine.folder / "temporary").glob("sweepstack-*")) == []


def test_windows_would_take_the_names_of_all_files(machine: Machine, project: Path) -> None:
    written = machine.written()
    names = {part for path in written for part in path.parts}
    assert {"ledger.db", "mlflow.db", "000001.jsonl", "weights.pt", "assignment.json"} <= names
    assert {name: why for name in names if (why := refused_by_windows(name))} == {}
    by_case: dict[str, set[Path]] = {}
    for path in written:
        by_case.setdefault(str(path).lower(), set()).add(path)
    assert [paths for paths in by_case.values() if len(paths) > 1] == []


def test_text_has_an_encoding_by_name() -> None:
    """Else Windows writes it in the encoding of the country."""
    bare = [
        f"{name}, line {node.lineno}"
        for path in sorted(SOURCE.rglob("*.py"))
        if (name := path.relative_to(SOURCE).as_posix()) not in IN_THE_ENCODING_OF_THE_MACHINE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _is_bare(node)
    ]
    assert bare == []


def _is_bare(call: ast.Call) -> bool:
    """True if a call reads or writes text, and names no encoding."""
    if any(word.arg in ("encoding", None) for word in call.keywords):
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "fdopen" or (isinstance(call.func, ast.Name) and name == "open"):
        modes = [one.value for one in call.args[1:] if isinstance(one, ast.Constant)]
        return not any("b" in str(mode) for mode in modes)
    return name in ("read_text", "write_text") or any(word.arg == "text" for word in call.keywords)
