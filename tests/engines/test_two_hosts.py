"""A worker on another machine: it sees the shared folder under another path, and nothing else of the command's files.

The machine is a process with mounts, processes, a network and a host name of its own. Locks of the shared folder do not
reach it, and it lists the folder as it was when it was mounted: empty.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sweepstack.execution.assignment import Assignment, Reporter
from sweepstack.execution.engines.channel import Reports, WorkerHandle, work_folder, write_assignment
from sweepstack.execution.engines.conformance import ExecutorConformance, Recorder, assign, make_trials, wait
from sweepstack.execution.executor import Executor, Handle

BEGIN = """
set -e
mount --make-rprivate /
mount --bind "$JOURNAL" "$SHARED"
mount -t tmpfs nothing "$HIDDEN"
hostname other
exec "$PYTHON" -m sweepstack.execution.engines.worker_main "$SHARED/work/$STACK"
"""
LATE = """
import errno, fcntl, os

def of_shared_folder(path):
    return str(path if not isinstance(path, int) else os.readlink(f"/proc/self/fd/{path}")).startswith(SHARED)

def refuse(file, *rest):
    if of_shared_folder(file if isinstance(file, int) else file.fileno()):
        raise OSError(errno.ENOLCK, "locks do not reach this machine")

SHARED, listdir, scandir = os.environ["SHARED"], os.listdir, os.scandir
os.listdir = lambda path=".": [] if of_shared_folder(path) else listdir(path)
os.scandir = lambda path=".": scandir(os.environ["EMPTY"] if of_shared_folder(path) else path)
fcntl.flock = fcntl.lockf = refuse
"""


def why_not() -> str:
    if sys.platform != "linux" or not shutil.which("unshare"):
        return "namespaces are of Linux"
    tried = subprocess.run(["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "true"], capture_output=True)
    return "" if tried.returncode == 0 else "this user may make no namespaces"


class OtherMachine:
    """Trains on a machine that shares the journal's folder alone."""

    workers = 1

    def __init__(self, journal: Path, folder: Path, hidden: Path) -> None:
        self._journal, self._folder, self._hidden = journal, folder, hidden
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("shared", "late", "empty"):
            (folder / name).mkdir()
        (folder / "late" / "sitecustomize.py").write_text(LATE)

    def submit(self, assignment: Assignment, reporter: Reporter) -> Handle:
        write_assignment(assignment, work_folder(self._journal, assignment.stack.id), 60.0)
        places = {"JOURNAL": self._journal, "SHARED": self._folder / "shared", "HIDDEN": self._hidden}
        program = {"STACK": assignment.stack.id, "PYTHON": sys.executable, "EMPTY": self._folder / "empty"}
        environment = {**os.environ, **{key: str(value) for key, value in (places | program).items()}}
        environment["PYTHONPATH"] = os.pathsep.join([str(self._folder / "late"), *filter(None, sys.path)])
        command = ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", BEGIN]
        process = subprocess.Popen(command, env=environment)
        self._processes.append(process)

        def gone() -> str | None:
            return None if process.poll() is None else f"it ended with exit code {process.returncode}"

        reports = Reports(work_folder(self._journal, assignment.stack.id), assignment.stack, reporter)
        return WorkerHandle(reports, 60.0, gone, process.kill)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.mark.skipif(bool(why_not()), reason=why_not())
class TestOtherMachine(ExecutorConformance):
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
        self.folder, self.hidden = tmp_path_factory.mktemp("elsewhere"), tmp_path

    def executor(self, journal: Path) -> Executor:
        journal.mkdir(parents=True, exist_ok=True)
        return OtherMachine(journal, self.folder, self.hidden)

    def test_its_name_is_known(self, tmp_path: Path) -> None:
        executor, recorder = self.executor(tmp_path / "journal"), Recorder()
        try:
            handle = executor.submit(assign(tmp_path / "journal", make_trials(tmp_path / "trials")), recorder)
            wait(handle)
        finally:
            executor.close()
        assert isinstance(handle, WorkerHandle)
        assert handle.host == "other"
