"""engine=dask where the cluster is not as it should be: strange workers, strange errors, slow connections."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweepstack.config.run_sections import EngineConfig
from sweepstack.errors import ConfigError, UserError
from sweepstack.events import Ended
from sweepstack.execution.engines.channel import (
    FILES,
    Reports,
    checkpoints_of,
    make_assignment,
    work_folder,
)
from sweepstack.execution.engines.conformance import Recorder, assign, make_trials, wait
from sweepstack.execution.engines.dask import cluster as cluster_module
from sweepstack.execution.engines.dask import link as link_module
from sweepstack.execution.engines.dask.executor import DaskExecutor
from sweepstack.execution.engines.dask.link import Link
from sweepstack.execution.engines.worker_side import FileSink, WorkerReporter
from sweepstack.execution.executor import Trained
from sweepstack.files.scratch import remove_leftovers
from sweepstack.journal.codec import encode_line
from sweepstack.masking import hide
from sweepstack.trial import Outcome, TrialState

from .test_dask import Cluster
from .test_local import parents, wait_until

pytest.importorskip("distributed", reason='needs pip install "sweepstack[dask]"')
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="training processes are forked, and found in /proc")

LONG = {"epochs": 20_000, "checkpoint.every": 1}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose workers write to its folder."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DASK_TEMPORARY_DIRECTORY", str(started.folder))
        started.start()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal")


@pytest.fixture(scope="module")
def executor(cluster: Cluster, journal: Path) -> Iterator[DaskExecutor]:
    made = DaskExecutor(journal, EngineConfig(name="dask", workers=2, address=cluster.address))
    yield made
    made.close()


def test_to_ask_a_cluster_for_its_workers_starts_nothing_there(cluster: Cluster, tmp_path: Path) -> None:
    asking = DaskExecutor(tmp_path, EngineConfig(name="dask", address=cluster.address))
    try:
        wait_until(lambda: asking.workers == 2)
        assert not {worker.pid for worker in cluster.workers} & {*parents().values()}
    finally:
        asking.close()


def test_a_worker_writes_only_inside_of_its_own_folder(
    executor: DaskExecutor, journal: Path, cluster: Cluster, tmp_path: Path
) -> None:
    victim, recorder = tmp_path / "victim.txt", Recorder()
    victim.write_text("precious")
    handle = executor.submit(assign(journal, make_trials(tmp_path, changes=LONG), "e" * 16), recorder)
    wait_until(lambda: handle.poll() is None and len(recorder.events) > 2)
    (events,) = cluster.folder.glob(f"**/work/{'e' * 16}/events.jsonl")
    with events.open("ab", buffering=0) as stream:
        stream.write(encode_line({"files": [str(victim)]}, 0))
    with pytest.raises(UserError, match="must name files inside of its own folder, got '/"):
        wait(handle)
    assert victim.read_text() == "precious"


def test_what_a_worker_names_outside_of_its_folder_is_not_moved(tmp_path: Path) -> None:
    (trial,) = make_trials(tmp_path / "trials", [0.1])
    assignment = assign(tmp_path / "journal", [trial])
    folder, victim = work_folder(tmp_path / "journal", assignment.stack.id), tmp_path / "journal" / "victim.txt"
    make_assignment({}, folder)
    victim.write_text("precious")
    files = (folder / FILES / f"../../../{victim.name}",)
    worker = WorkerReporter(FileSink(folder), folder / FILES)
    worker.emit(Ended(trial, Outcome(TrialState.FINISHED), 0.0, files))
    with pytest.raises(UserError, match="must name files inside of its own folder"):
        Reports(folder, assignment.stack, Recorder()).pass_on()
    assert victim.read_text() == "precious"


def test_a_worker_of_another_version_that_comes_later_is_left_out(
    executor: DaskExecutor, journal: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    first = executor.submit(assign(journal, make_trials(tmp_path / "1", changes=LONG), "1" * 16), recorder)
    patch = "import importlib.metadata as m; v = m.version; m.version = lambda n: '1.0' if n == 'torch' else v(n)"
    (tmp_path / "sitecustomize.py").write_text(patch)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(tmp_path))
        cluster.start_worker()
    wait_until(lambda: first.poll() is None and any("is left out: " in line for line in recorder.lines))
    second = executor.submit(assign(journal, make_trials(tmp_path / "2"), "2" * 16), recorder)
    assert wait(second) == [Trained()]
    assert first.poll() is None
    first.end()
    stranger = cluster.workers.pop()
    stranger.kill()
    stranger.wait()
    (line,) = [line for line in recorder.lines if "is left out: " in line]
    assert "a Dask worker must have the versions of the command: torch " in line


def test_the_last_checkpoint_is_waited_for(
    executor: DaskExecutor, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*words: Any, **values: Any) -> dict[str, Any]:
        await asyncio.sleep(2.0 if "name" in values else 0.0)
        return await call(*words, **values)

    recorder, call = Recorder(), Link.call
    monkeypatch.setattr(Link, "call", slow)
    changes = {"epochs": 20_000, "checkpoint.every": 3600}
    assignment = assign(journal, make_trials(tmp_path, changes=changes), "c" * 16)
    handle = executor.submit(assignment, recorder)
    wait_until(lambda: handle.poll() is None and len(recorder.events) > 2)
    handle.stop()
    handle.end()
    assert (checkpoints_of(work_folder(journal, "c" * 16)) / "latest.pt").exists()


def test_a_connection_that_fails_in_an_unusual_way_is_made_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, connect, errors = Link(cluster.address, None, 10.0), cluster_module.connect, [AttributeError("it is closed")]

    async def connect_later(*words: Any) -> Any:
        if errors:
            raise errors.pop()
        return await connect(*words)

    async def close() -> None:
        await before.close()

    try:
        monkeypatch.setattr(link_module, "connect", connect_later)
        before = link.client
        assert before is not None
        link.do(close())
        wait_until(lambda: link.client not in (None, before))
        assert link.failure is None
    finally:
        link.close()


def test_secrets_are_not_sent(executor: DaskExecutor, journal: Path, tmp_path: Path) -> None:
    (trial,) = make_trials(tmp_path, [0.1])
    dataset = trial.config.dataset.model_copy(update={"url": hide("https://ann:secret@data.example/digits")})
    secret = replace(trial, config=trial.config.model_copy(update={"dataset": dataset}))
    with pytest.raises(ConfigError, match="no passwords and tokens in its addresses"):
        executor.submit(assign(journal, [secret]), Recorder())


def test_what_a_killed_command_has_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, pathlib, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from sweepstack.execution.engines.dask.cluster import Loopback\n"
        "cluster = Loopback(1, pathlib.Path(sys.argv[1], 'dask.log')); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=100)
    assert [*tmp_path.glob("sweepstack-*/**/worker-*")]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def is_removed() -> bool:
        remove_leftovers()
        return not [*tmp_path.glob("sweepstack-*")]

    wait_until(is_removed)  # its workers end a moment later
