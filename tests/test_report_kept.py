"""What a report keeps for the next one: right whatever was trained, never used when it is damaged, and quick."""

import itertools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from sweepstack.files.kept import MOST, REPORTS_FOLDER, is_kept, keep, key_of_targets, load_kept
from sweepstack.inference.trial_data import _load_targets, load_targets
from sweepstack.results.selection.predictions import Targets, targets_of
from sweepstack.tracking.artifacts import config_of, location
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import SUMMARY_TAG

from . import here
from .terminal import new_store

OWN = """
import torch
from torch.utils.data import Dataset, TensorDataset

from sweepstack.training.data import digits


class Patients(TensorDataset):
    def __init__(self, train):
        super().__init__(*digits(train).tensors)
        self.groups = [f"patient {(0 if train else 1000) + index // 4}" for index in range(len(self))]


class Streamed(Dataset):
    def __init__(self, train):
        self.images, self.labels = (part[:100] for part in digits(train).tensors)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])


def properties(train):
    images, labels = digits(train).tensors
    return TensorDataset(images, torch.stack([labels % 2 == 0, labels > 4], 1))


def own_loop(config, context):
    context.report({"val/accuracy": 0.5}, step=1)
"""
SMALL = ("epochs=1", "device=cpu", "threads=1", "batch_size=50")
DIGITS = ("dataset=digits", "optimizer.lr=0.01,0.1")
TRAINED = {
    "numbers": ("-m", "dataset=diabetes", "task=regression", "model=linear", "optimizer.lr=0.001,0.002"),
    "labels": ("dataset=digits", "dataset._target_=of_reports.properties", "dataset.classes=2", "task=multilabel"),
    "folds": ("-m", "dataset=digits", "folds=3", "fold=0,1"),
    "whole groups": ("dataset=digits", "dataset._target_=of_reports.Patients", "split.grouped=true"),
    "another split": ("dataset=digits", "validation_split=0.3", "split.stratified=true"),
    "a loop of one's own": ("dataset=digits", "trainer={_target_: of_reports.own_loop}"),
    "a stream": ("dataset=digits", "dataset._target_=of_reports.Streamed", "dataset.source=streamed"),
}


@pytest.fixture
def store(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Of the commands that are typed here, in a folder with a module of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_reports.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    store = new_store(tmp_path, empty_database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return store


def kept(store: Store) -> list[Path]:
    assert store.database is not None
    return sorted(store.database.parent.glob("journal/*/reports/*.npz"))


def test_kept_targets_are_those_that_the_dataset_gives(store: Store) -> None:
    seen: set[str] = set()
    for name, words in TRAINED.items():
        done = here.train(*words[:1], *SMALL, *words[1:]) if words[0] == "-m" else here.train(*SMALL, *words)
        assert done.code == 0, (name, done.err)
        before = kept(store)
        rows = [row for row in store.rows("all") if row.run_id not in seen]
        seen |= {row.run_id for row in rows}
        assert rows
        for row in rows:
            known = location(store, row.run_id)
            assert known is not None
            for part in ("val", "test"):
                found = targets_of(store, row.run_id, part, known)
                assert isinstance(found, Targets)
                digest, expected = load_targets(config_of(store, row.run_id), part)
                assert (digest, found.values.dtype, found.values.shape) == (known.data, expected.dtype, expected.shape)
                assert (found.values == expected).all(), (name, part)
                assert found.items == targets_of(store, row.run_id, part, known).items  # type: ignore[union-attr]
        _load_targets.cache_clear()
        assert (kept(store) == before) == (name != "a stream")  # which nobody has read once more while it trained
    assert len({path.name for path in kept(store)}) == len(kept(store)) >= 11


def test_an_old_record_and_damaged_files_give_the_same_report_and_are_told(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    assert here.train("-m", *SMALL, *DIGITS, "batch_size=50,100", "tracking.sweep=old").code == 0
    shutil.rmtree(kept(store)[0].parent)  # as an earlier version has left it
    first = report()
    assert len(kept(store)) == 4
    assert report() == first
    contents = {path: path.read_bytes() for path in kept(store)}
    one, other, *_ = contents
    for path, damaged in (
        *((path, content[:100] + bytes([content[100] ^ 1]) + content[101:]) for path, content in contents.items()),
        *((one, damaged) for damaged in (b"", contents[one][:-1], contents[other])),
    ):
        path.write_bytes(damaged)
        for each in contents.keys() - {path}:
            if each.stat().st_size > 4000:
                each.unlink()  # the plots, so that everything is asked for
        done = here.sweepstack("report", "--no-record", "-o", "told.html")
        assert (done.code, Path("told.html").read_text()) == (0, first)
        assert f"{path} is damaged and is not used" in caplog.text  # on stderr, if nobody listens
        caplog.clear()
        assert kept(store) == [*contents]


def report() -> str:
    done = here.sweepstack("report", "--no-record", "-o", "report.html")
    assert (done.code, done.err) == (0, "4 trials: report.html\n")
    return Path("report.html").read_text()


def test_a_report_of_the_same_record_imports_no_heavy_library_and_of_another_one_is_drawn_again(store: Store) -> None:
    assert here.train("-m", *SMALL, *DIGITS, "tracking.sweep=warm").code == 0
    program = """
import sys
from sweepstack.cli.main import main

main(sys.argv[1:], standalone_mode=False)
heavy = ("torch", "mlflow", "sqlalchemy", "matplotlib", "sklearn", "scipy.stats", "scipy.optimize")
sys.exit(str([name for name in heavy if name in sys.modules]))
"""

    def imported() -> str:
        words = [sys.executable, "-c", program, "report"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stderr.splitlines()[-1]

    assert "torch" in imported()
    (run,) = store.runs(f"tags.`{SUMMARY_TAG}` = 'warm'")
    first = Path("report.html").read_text()
    assert imported() == "[]"
    assert Path("report.html").read_text() == first
    (plots,) = Path(run.info.artifact_uri.removeprefix("file://")).glob("plots")
    recorded = {path.name: path.read_bytes() for path in plots.iterdir()}
    (plots / "curves.svg").write_bytes(b"somebody has changed it")
    assert "mlflow" in imported()
    assert {path.name: path.read_bytes() for path in plots.iterdir()} == recorded
    assert here.train("-m", *SMALL, "dataset=digits", "optimizer.lr=0.05", "tracking.sweep=warm").code == 0
    assert "matplotlib" in imported()
    assert Path("report.html").read_text().count('data-trials="2"') > first.count('data-trials="2"') == 0
    assert (plots / "curves.svg").read_bytes() != recorded["curves.svg"]


def test_a_key_has_all_of_what_it_names_and_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    """YAML writes an empty line where a text has one."""
    texts = [
        OmegaConf.to_yaml({"dataset": {"query": "SELECT *\n\nFROM a", "split": split}, "epochs": 3, "task": task})
        for split, task in itertools.product((1, 2), ("a", "b"))
    ]
    assert "\n\n" in texts[0]
    assert len({key_of_targets(text, "test", "0") for text in texts}) == 4
    assert key_of_targets(texts[0].replace("epochs: 3", "epochs: 4"), "test", "0") == key_of_targets(
        texts[0], "test", "0"
    )
    keep(tmp_path, "one", values=np.arange(3))
    keep(tmp_path, "one", values=np.arange(3))
    (path,) = (tmp_path / REPORTS_FOLDER).iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    for number in range(MOST + 1):
        keep(tmp_path, str(number), values=np.arange(number))
        for path in (tmp_path / REPORTS_FOLDER).iterdir():
            os.utime(path, (path.stat().st_mtime - 1,) * 2)
    assert [is_kept(tmp_path, str(number)) for number in range(MOST + 1)] == [False] + MOST * [True]
    last = load_kept(tmp_path, str(MOST))
    assert last is not None
    assert last["values"].tolist() == [*range(MOST)]


def test_a_store_without_a_journal_gets_none_by_a_report(store: Store) -> None:
    assert here.train("-m", *SMALL, *DIGITS, "batch_size=50,100", "tracking.sweep=copied").code == 0
    first = report()
    shutil.rmtree(kept(store)[0].parents[1])
    assert report() == first
    assert kept(store) == []
