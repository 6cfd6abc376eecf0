"""The disk of the journal becomes full while workers train: the sweep ends one command later, with the same figures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..terminal import ROOT, Terminal, new_store
from . import slurm_node, test_two_hosts
from .test_local import Figures, figures

GRID = ("dataset=digits", "epochs=300", "batch_size=100,200", "optimizer.lr=0.1,0.2,0.3", "threads=1", "launch.width=3")
SWEEP = (*GRID, "checkpoint.every=0", "engine.workers=2")

pytestmark = pytest.mark.skipif(bool(test_two_hosts.why_not()), reason=test_two_hosts.why_not())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Figures:
    """What a sweep in one process ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    new_store(folder, empty_database)
    done = Terminal(folder).type("train.py", "-m", *GRID, "engine=inline")
    assert done.returncode == 0, done.stderr
    return figures(Terminal(folder))


def on_a_small_disk(folder: Path, kilobytes: int, engine: str) -> list[dict[str, Any]]:
    """How the command ends on a disk of a size, and the next one when there is room."""
    program = [sys.executable, "-m", "tests.engines.small_disk", str(folder), str(kilobytes), engine, *SWEEP]
    done = subprocess.run(["unshare", "--mount", *program], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    ends: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return ends


@pytest.mark.parametrize(
    "engine",
    [
        "local",
        pytest.param(
            "slurm",
            marks=[pytest.mark.slurm, pytest.mark.skipif(bool(slurm_node.why_not()), reason=slurm_node.why_not())],
        ),
    ],
)
@pytest.mark.parametrize("kilobytes", [400, 900])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    kilobytes: int, engine: str, tmp_path: Path, empty_database: Path, undisturbed: Figures
) -> None:
    new_store(tmp_path, empty_database)
    full, then = on_a_small_disk(tmp_path, kilobytes, engine)
    assert (full["code"], full["err"].count("\n")) == (2, 1), full
    assert "make room" in full["err"], full
    assert (then["code"], then["err"]) == (0, ""), then
    assert "halves" not in full["out"] + then["out"]
    assert figures(Terminal(tmp_path)) == undisturbed
