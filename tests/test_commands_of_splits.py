"""Folds, groups and parts as they are typed, to their table and report."""

import re
import textwrap
from pathlib import Path

import pytest

from sweepstack.results.reporting import report as reporting
from sweepstack.results.tables.frame import table
from sweepstack.tracking.store import Store

from . import here
from .terminal import new_store

OWN = """
import torch
from torch.utils.data import TensorDataset

from sweepstack.training.data import digits


class Patients(TensorDataset):
    '''The digits; a patient has four of the training part, and a fifth one in the test part if `mixed`.'''

    def __init__(self, train, mixed=False):
        super().__init__(*digits(train).tensors)
        first = 0 if train or mixed else 1000
        self.groups = [f"patient {first + index // 4}" for index in range(len(self))]


def rare(train):
    '''One item has a class of its own.'''
    images, labels = digits(train).tensors
    return TensorDataset(images, (torch.arange(len(labels)) == 1).long())
"""
SMALL = ("dataset=digits", "epochs=2", "device=cpu", "threads=1", "batch_size=50")


@pytest.fixture
def store(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Of the commands that are typed here, in a folder with a module of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_splits.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    store = new_store(tmp_path, empty_database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return store


def test_folds_are_swept_added_and_told(store):
    some = here.train("-m", *SMALL, "folds=5", "fold=0,1,2", "optimizer.lr=0.01,0.1", "tracking.sweep=folds")
    assert (some.code, some.err) == (0, "")
    assert "3 of 5 folds" in some.out
    assert "2 stacks" not in some.out  # each fold has data of its own
    groups = here.sweepstack("table", "--by-seed", "--sweep", "folds")
    assert "3 of 5" in groups.out
    assert "the training data of different folds overlap" in groups.err
    words = [*SMALL, "folds=5", "fold=0,1,2,3,4", "optimizer.lr=0.01,0.1", "tracking.sweep=folds"]
    every = here.train("-m", *words)
    assert "6 trials trained before: not trained again" in every.out
    assert "of 5 folds" not in every.out
    frame = table("folds", store=store)
    assert sorted(frame["fold"]) == sorted([*range(5)] * 2)
    assert set(frame["folds"]) == {5}
    made = reporting.report("folds", store=store)
    assert "on average over 5 of 5 folds" in made.html
    assert "paired over 5 folds" in made.html
    assert "Which of 2 settings of learning rate has" in made.html


def test_single_trials_are_compared_over_items_only_if_these_are_the_same(store):
    words = ["-m", *SMALL, "optimizer.lr=0.001,0.1", "tracking.sweep=one_fold"]
    assert here.train(*words, "folds=5", "fold=3").code == 0
    groups = here.sweepstack("table", "--by-seed", "--format", "csv")
    assert "McNemar over 287 held-out items" in groups.out
    assert "this is about the held-out items: what these trained models would give on others" in groups.err
    assert here.train("-m", *SMALL, "validation_split=0.1,0.2", "tracking.sweep=splits").code == 0
    groups = here.sweepstack("table", "--by-seed", "--format", "csv")
    assert "not tested,its held-out items are others than those of the best one" in groups.out


def test_a_sweep_without_a_test_part_says_so_everywhere(store):
    words = ["-m", *SMALL, "+dataset.parts.test=null", "optimizer.lr=0.01,0.1", "tracking.sweep=untested"]
    done = here.train(*words, "launch.stack=force")
    assert (done.code, done.err) == (0, "")
    assert "2 trials without a test part: no metrics and no predictions on test data" in done.out
    assert done.out.count("no test part") == 2
    assert "test/" not in done.out
    assert here.train(*words).out.count("2 trials trained before: not trained again") == 1
    best = table("untested", store=store).iloc[0]
    made = reporting.report("untested", store=store)
    assert "there is no test part to measure it on" in made.html
    assert "There is no test part, so what the model gets wrong is not known." in made.html
    assert "test accuracy" not in made.html
    shown = here.sweepstack("show", str(best["run_id"]))
    assert re.search(r"note +no test part", shown.out)
    registered = here.sweepstack("register")
    assert (registered.code, registered.err) == (0, "")
    assert "(no test part)" in registered.out
    repeated = here.sweepstack("repro", str(best["run_id"]))
    assert "+dataset.parts.test=null" in repeated.out


def test_what_test_data_select_is_marked_where_it_is_shown(store):
    done = here.train("-m", *SMALL, "validation_split=0", "optimizer.lr=0.01,0.1", "tracking.sweep=tempted")
    assert done.code == 0
    assert "2 trials selected on the test data, because nothing is held out" in done.out
    assert done.out.count("selected on the test data") == 3
    made = reporting.report("tempted", store=store)
    assert "accuracy on the test data that selected" in made.html
    assert re.findall("test accuracy", made.html) == []
    shown = here.sweepstack("show", str(table("tempted", store=store)["run_id"][0]))
    assert re.search(r"note +selected on the test data", shown.out)
    groups = here.sweepstack("table", "--by-seed", "--sweep", "tempted", "--format", "csv")
    assert "McNemar over 360 test items" in groups.out
    assert "nothing was held out, so test data selected: the test value is too good" in groups.err


def test_groups_stay_together_and_a_group_in_two_parts_is_refused(store):
    own = ["dataset._target_=own_splits.Patients", "split.grouped=true"]
    done = here.train(*SMALL, *own, "split.stratified=true")
    assert (done.code, done.err) == (0, "")
    mixed = here.train(*SMALL, *own, "+dataset.mixed=true")
    assert mixed.code == 2
    assert mixed.err == (
        "error: a group must be in one part of own_splits.Patients, 'patient 0' is in the training part and in the "
        "test part; move its items, or leave out split.grouped\n"
    )
    lacking = here.train(*SMALL, "split.grouped=true")
    assert lacking.code == 2
    assert lacking.err.startswith("error: split.grouped needs an attribute groups, the training part of sweepstack.")


def test_a_table_with_patients_is_cut_into_folds_of_whole_patients(store):
    rows = [
        f"patient {row // 5},{row * 7 % 11},{row % 3},{'ill' if row * 7 % 11 > 5 else 'well'}" for row in range(100)
    ]
    Path("patients.csv").write_text("\n".join(["patient,age,visits,state", *rows]))
    of_table = ["dataset=table", "dataset.file=patients.csv", "dataset.predict=state", "dataset.group=patient"]
    words = ["model=linear", "epochs=1", "split.grouped=true", "split.stratified=true", "folds=4", "fold=0,1,2,3"]
    done = here.train("-m", *of_table, *words, "dataset.test=null", "+dataset.parts.test=null")
    assert done.code == 0, done.err
    assert "4 trials without a test part" in done.out
    assert here.sweepstack("table", "--by-seed").out.count("4 of 4") == 1
    empty = here.train(*of_table, "dataset.test=null", "model=linear")
    assert empty.err.endswith("gives no test image; correct it, or set +dataset.parts.test=null\n")


def test_a_class_that_is_missing_is_told_before_anything_trains(store):
    rare = ["dataset._target_=own_splits.rare", "dataset.classes=2"]
    told = here.train(*SMALL, *rare)
    assert told.err.startswith("The held-out part of own_splits.rare lacks class 1, so nothing selects by it; set ")
    refused = here.train("-m", *SMALL, *rare, "folds=3", "fold=0,1,2")
    assert refused.code == 2
    assert "the training part must have every class, class 1 of own_splits.rare is only in the held-out part; " in (
        refused.err
    )
    assert "Traceback" not in refused.err
