"""Whoever asks a sweep for its best setting, and for the set that may be the best, gets one answer."""

import csv
import io
import re
from pathlib import Path

import pytest

from sweepstack.results.reporting.report import report
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import summary_run

from .. import here
from ..terminal import new_store
from .test_report import Page

SMALL = ("-m", "dataset=digits", "epochs=3", "device=cpu", "threads=1", "batch_size=50")
Settings = dict[tuple[str, str], str]
"""The mark of each setting: of a pair of learning rate and weight decay."""


def as_typed(number: str) -> str:
    return format(float(number), "g")


def settings_of(text: str) -> Settings:
    rows = csv.DictReader(io.StringIO(text))
    return {(as_typed(row["lr"]), as_typed(row["weight_decay"])): row["mark"] or "worse" for row in rows}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Store:
    """With a sweep of single seeds, one of several, one of folds, and one where nothing was held out."""
    folder = tmp_path_factory.mktemp("agreement")
    store = new_store(folder, empty_database)
    grid = ("optimizer.lr=0.001,0.01,0.1,0.3", "optimizer.weight_decay=0,0.001")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store.uri)
        for name, more in SWEEPS.items():
            assert here.train(*SMALL, *grid, *more, f"tracking.sweep={name}").code == 0
    return store


SWEEPS = {
    "single": (),
    "seeds": ("seed=0,1,2",),
    "folds": ("folds=3", "fold=0,1,2"),
    "tempted": ("validation_split=0",),
}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_table_report_summary_and_register_agree(
    store: Store, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    table = here.sweepstack("table", "--by-seed", "--sweep", sweep, "--format", "csv")
    marks = settings_of(table.out)
    best, *tied = (setting for setting, mark in marks.items() if mark in ("best", "not told apart"))
    assert next(iter(marks)) == best
    assert 0 < len(tied) + 1 < len(marks) == 8

    assert here.sweepstack("report", "--sweep", sweep, "-o", "report.html").code == 0
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    shown = [
        row for name in ("settings", "settings-others") for row in (page.rows(name) if name in page.tables else [])
    ]
    assert {(as_typed(row["learning rate"]), as_typed(row["weight decay"])): row["mark"] for row in shown} == marks
    (answer,) = [text for text in page.texts["p"] if " has the highest " in text]
    assert answer.startswith(f"lr={best[0]} weight_decay={best[1]} has the highest ")
    members = re.search(r"The set that may be the best: (\d) of 8 settings", answer)
    assert int(members[1] if members else 1) == len(tied) + 1

    run_id = summary_run(store, sweep)
    assert run_id is not None
    run = store.client.get_run(run_id)
    assert run.data.tags["mlflow.note.content"].startswith(answer)
    recorded = Path(store.client.download_artifacts(run_id, "settings.csv")).read_text(encoding="utf-8")
    assert settings_of(recorded) == marks

    registered = here.sweepstack("register", "--sweep", sweep)
    assert registered.code == 0
    name = registered.out.splitlines()[0]
    (used,) = [row for row in store.rows(sweep) if name.startswith(f"{row.name}  ")]
    assert (as_typed(used.params["lr"]), as_typed(used.params["weight_decay"])) == best
    assert f"The set that may be the best: {len(tied) + 1} of 8 settings" in registered.out
    assert f"the set that may be the best: {len(tied) + 1} of 8 settings" in table.err
    about = "seeds" if sweep == "seeds" else "folds" if sweep == "folds" else "items"
    assert re.search(rf"this is about (the [a-z-]+ )?{about}: what", table.err)
    assert report(sweep, store=store).answer == answer
