"""Exit codes, in the order in which they count: 2 nothing trained, 1 a trial failed, 3 records wait, 0."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweepstack.cli import main
from sweepstack.standard_streams import lenient_output
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process

from . import here
from .terminal import new_store

DIGITS = ("dataset=digits", "epochs=1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Store]:
    store = new_store(tmp_path_factory.mktemp("exits"), empty_database)
    process = writer_process(store.uri)
    yield store
    process.close()
    process._process.wait(60)


@pytest.fixture
def folder(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return tmp_path


def test_a_failed_trial_comes_before_records_that_wait(folder: Path) -> None:
    away = ("tracking.uri=http://127.0.0.1:9", f"tracking.journal={folder}/waiting")  # where no server answers
    assert here.train("-m", *DIGITS, "optimizer.lr=0.1,0.2").code == 0
    assert here.train("-m", *DIGITS, "optimizer.lr=0.11,0.21", *away).code == 3
    assert here.train(*DIGITS, "optimizer.lr=0.31", *away).code == 3
    assert here.train("-m", *DIGITS, "model=mlp", "optimizer.lr=0.12,1e30", *away).code == 1
    assert here.train(*DIGITS, "model=mlp", "optimizer.lr=1e30", *away, "seed=1").code == 1
    assert here.train("-m", *DIGITS, "optimizer.lr=0.13,-1", *away).code == 2
    assert here.train("-m", *DIGITS, "optimizer.lr=0.13", *away, "launch.dry_run=true").code == 0


def test_a_table_that_cannot_be_printed_is_an_error_and_nobody_to_read_it_ends_it_quietly(folder: Path) -> None:
    full, (reader, writer) = os.open("/dev/full", os.O_WRONLY), os.pipe()
    os.close(reader)
    assert printed_to(full, "data", "mnist") == (2, "error: the output cannot be written (No space left on device)")
    assert printed_to(full, "--help") == (2, "error: the output cannot be written (No space left on device)")
    assert printed_to(writer, "data", "mnist") == (141, "")


def printed_to(file: int, *words: str) -> tuple[int, str]:
    """The exit code of a command, and the beginning of what it says, when its output goes to that file."""
    errors = io.StringIO()
    with (
        os.fdopen(os.dup(file), "w") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        main.main([*words])
    assert isinstance(end.value.code, int)
    return end.value.code, errors.getvalue().partition(";")[0]


def test_a_training_needs_no_output(folder: Path) -> None:
    """Whatever was printed is lost, and said so where somebody may read it."""
    errors = io.StringIO()
    with open("/dev/full", "w") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        with lenient_output():
            print("figures")
            sys.stdout.flush()
            print("more figures", flush=True)
        assert sys.stdout is output
    assert errors.getvalue() == (
        "Some of the output could not be written (No space left on device); all records are complete.\n"
    )
