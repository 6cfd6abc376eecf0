"""Temporary folders: a killed process leaves its own behind, and the next one removes that, but none that is in use."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sweepstack.files.scratch import scratch

HOLD = """
import sys
from sweepstack.files.scratch import scratch
with scratch() as folder:
    (folder / "file").write_bytes(b"1")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_leaves_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = [Path(holder.stdout.readline().strip()) for holder in holders]
    with scratch() as own:
        assert [*own.iterdir()] == []
        assert all((folder / "file").exists() for folder in folders)
    holders[0].kill()
    holders[0].communicate()
    with scratch():
        assert not folders[0].exists()
        assert (folders[1] / "file").exists()
    holders[1].communicate()
    assert [*tmp_path.iterdir()] == []


BUSY = """
from sweepstack.files.scratch import scratch
for number in range(60):
    with scratch() as folder:
        (folder / "file").write_bytes(b"1")
        assert (folder / "file").exists()
        assert folder.parent.stat().st_mode & 0o077 == 0
"""


def test_processes_that_make_folders_at_once_leave_each_other_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    others = [subprocess.Popen([sys.executable, "-c", BUSY], stderr=subprocess.PIPE, text=True) for _ in range(6)]
    assert [(other.communicate()[1], other.returncode) for other in others] == [("", 0)] * 6
    assert [*tmp_path.iterdir()] == []
