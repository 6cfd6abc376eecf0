"""Two jobs of a sweep never write to one folder."""

import os
from pathlib import Path

import pytest

from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter.output_folders import Folders

from ..terminal import Terminal


def test_a_folder_is_one_jobs_however_it_is_spelt_and_in_whatever_launch(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    folders = Folders()
    folders.take(tmp_path / "0", 0)
    folders.take(tmp_path / "1", 1)
    folders.take(tmp_path / "0", 0)  # the same job
    for same in ("0", "./0", "1/../0", "link/0", "link/link/0/."):
        with pytest.raises(ConfigError, match=r"a folder of its own, jobs 0 and 2 both have .*; leave out hydra"):
            folders.take(tmp_path / same, 2)


@pytest.mark.parametrize(
    "words",
    [
        ("hydra.sweep.subdir=same",),
        ("hydra.sweep.subdir=.", "launch.dry_run=true"),
        ("hydra.sweep.subdir=same", "hydra/launcher=basic"),
    ],
)
def test_jobs_of_one_folder_are_refused_before_anything_trains(terminal: Terminal, words: tuple[str, ...]) -> None:
    before = os.listdir(terminal.folder)
    done = terminal.type("train.py", "-m", "dataset=digits", "epochs=1", "optimizer.lr=0.1,0.2", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: each job of a sweep must have a folder of its own, jobs 0 and 1 both have ")
    assert done.stderr.count("\n") == 1
    assert not [*terminal.folder.rglob("weights.pt")]
    if len(words) > 1:
        assert os.listdir(terminal.folder) == before
