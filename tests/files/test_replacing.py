"""Nothing that is no regular file is replaced, and what a user asks for is written where the user says."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from sweepstack.cli.main import main
from sweepstack.errors import DataError, StoreError, UserError
from sweepstack.execution.open_store import ledger_of
from sweepstack.files.replacing import irregular, move_new, replacing, write_output
from sweepstack.tracking.store import Store
from sweepstack.training.checkpoint import CheckpointManager
from sweepstack.training.data.download import read_file

from ..terminal import new_store

ODD = {
    "folder": "a folder",
    "pipe": "a named pipe",
    "socket": "a socket",
    "to_pipe": "a named pipe",
    "to_device": "a device",
    "to_nothing": "a link to gone, which does not exist",
    "loop": "a link that leads to itself",
}


def make(path: Path, kind: str) -> Path:
    """Something that is no regular file."""
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "socket":
            here = os.open(".", os.O_RDONLY)
            os.chdir(path.parent)  # a socket's path must be short
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
            os.fchdir(here)
            os.close(here)
        case "to_pipe":
            os.mkfifo(path.with_name("the pipe"))
            path.symlink_to("the pipe")
        case "to_device":
            path.symlink_to("/dev/null")
        case "to_nothing":
            path.symlink_to("gone")
        case "loop":
            path.symlink_to(path.name)
    return path


def identity(path: Path) -> tuple[int, int, list[str]]:
    """What changes if something is put in the place of a path, or made beside it."""
    found = path.lstat()
    return found.st_mode, found.st_ino, sorted(os.listdir(path.parent))


@pytest.mark.parametrize("kind", ODD)
def test_a_store_is_neither_read_from_nor_made_in_what_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "mlflow.db", kind)
    before = identity(path)
    store = Store(f"sqlite:///{path}")
    for use in (store.check, store.load, store.rows, lambda: store.client, lambda: store.experiment_id("train")):
        with pytest.raises(StoreError, match="must be a regular file") as caught:
            use()
        assert ODD[kind] in str(caught.value)
        assert str(caught.value).endswith("; choose another with tracking.uri=sqlite:///FILE")
    assert identity(path) == before


@pytest.mark.parametrize("beside", ["mlflow.db.lock", "mlflow.db-journal", "mlflow.db-wal", "mlflow.db-shm"])
def test_what_lies_beside_a_database_is_checked_too(tmp_path: Path, empty_database: Path, beside: str) -> None:
    store = new_store(tmp_path, empty_database)
    (tmp_path / beside).unlink(missing_ok=True)
    os.mkfifo(tmp_path / beside)
    with pytest.raises(StoreError, match=rf"{beside} is a named pipe"):
        store.check()


def test_what_a_first_use_would_remove_is_checked_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".mlflow.db.new")
    with pytest.raises(StoreError, match=r"\.new is a named pipe"):
        _ = Store(f"sqlite:///{tmp_path}/mlflow.db").client
    assert irregular(tmp_path / ".mlflow.db.new") == "a named pipe"
    (tmp_path / ".mlflow.db.new-notes").write_text("not ours")


@pytest.mark.parametrize("how", ["empty file", "link to an empty file", "link to a store"])
def test_a_regular_file_and_a_link_to_one_are_used_and_not_replaced(
    tmp_path: Path, empty_database: Path, how: str
) -> None:
    path = tmp_path / "mlflow.db"
    real = path if how == "empty file" else tmp_path / "elsewhere.db"
    real.write_bytes(empty_database.read_bytes() if how == "link to a store" else b"")
    real.chmod(0o640)
    if real != path:
        path.symlink_to(real)
    before = real.stat().st_ino
    store = Store(f"sqlite:///{path}")
    assert store.check() is None
    assert store.experiment_id("train") == "1"
    assert (real.stat().st_ino, stat.S_IMODE(real.stat().st_mode)) == (before, 0o640)
    assert path.is_symlink() == (real != path)
    assert not [*tmp_path.glob(".*")]


def test_a_file_that_appears_while_a_store_is_made_is_kept(tmp_path: Path) -> None:
    made, target = tmp_path / "made", tmp_path / "target"
    made.write_text("new")
    target.symlink_to("nowhere")
    assert not move_new(made, target)
    target.unlink()
    assert move_new(made, target)
    assert target.read_text() == "new"
    assert not made.exists()


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "weights.pt", kind)
    before = identity(path)
    with pytest.raises(UserError, match="must be a regular file"), replacing(path) as aside:
        aside.write_text("weights")
    assert identity(path) == before
    said: list[str] = []
    keeper = CheckpointManager(make(tmp_path / "checkpoints", "folder"), say=said.append)
    for name in ("latest.pt", "previous.pt"):
        make(tmp_path / "checkpoints" / name, "pipe")
    keeper.save({"epoch": 1})
    assert "is a named pipe" in said[0]
    assert keeper.restore() is None
    assert irregular(tmp_path / "checkpoints" / "latest.pt") == "a named pipe"


def test_a_ledger_and_a_file_of_a_dataset_that_are_no_regular_files_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "ledger.db", "to_nothing")
    with pytest.raises(StoreError, match=r"ledger must be a regular file.*; move it away, or choose another folder"):
        ledger_of(Store(f"sqlite:///{tmp_path}/mlflow.db"), str(tmp_path))
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    make(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", "to_device")
    with pytest.raises(DataError, match="a file of a dataset must be a regular file"):
        read_file("mnist", "train-images-idx3-ubyte", tmp_path)


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_text("old")
    path.chmod(0o604)
    os.link(path, tmp_path / "kept")

    def write_half() -> None:
        with replacing(path) as aside:
            aside.write_text("ne")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_text() == "old"
    with replacing(path) as aside:
        aside.write_text("new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o604)
    assert (tmp_path / "kept").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["kept", "weights.pt"]


def test_an_output_is_written_to_a_pipe_and_through_a_link(tmp_path: Path) -> None:
    pipe = make(tmp_path / "pipe", "pipe")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_output(pipe, b"rows")
    reader.join()
    assert received == [b"rows"]
    assert irregular(pipe) == "a named pipe"
    write_output(Path("/dev/null"), b"rows")
    assert irregular(Path("/dev/null")) == "a device"
    link, real = tmp_path / "link", tmp_path / "real"
    real.write_text("long before")
    link.symlink_to(real)
    write_output(link, b"rows")
    assert (link.is_symlink(), real.read_bytes()) == (True, b"rows")


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = store.experiment_id("train")
    store.client.create_run(experiment, tags={"sweepstack.version": "1", "sweep": "one"}, run_name="lr=1")
    output = make(tmp_path / "socket", "socket")
    done = CliRunner().invoke(main, ["table", "--store", store.uri, "-o", str(output)])
    assert done.exit_code == 2
    assert "cannot be written" in done.output
    assert irregular(output) == "a socket"
