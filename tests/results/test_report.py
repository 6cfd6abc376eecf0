"""The report of a real sweep: right numbers, everything escaped, nothing fetched, recorded once."""

import base64
import hashlib
import io
import itertools
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from sweepstack.cli.main import main
from sweepstack.results.reporting.report import report
from sweepstack.results.reporting.sections import about_sweep, make_sections
from sweepstack.results.reporting.tables import settings_table
from sweepstack.results.tables.frame import table
from sweepstack.results.tables.objective import objective
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import SUMMARY_TAG

from ..terminal import Terminal, new_store
from .trials import ACCURACY

SWEEP = ["dataset=digits", "optimizer.lr=0.01,0.1,1e38", "epochs=1,3", "seed=0,1", "tracking.sweep=first"]


class Page(HTMLParser):
    """What a browser would make of it: texts by tag, tables by id, and all attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self._open: list[str] = []
        self._table = ""
        self._value: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag in ("meta", "path", "use", "image", "rect"):
            return
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")
        if tag == "table":
            self._table = dict(attrs)["id"] or ""
            self.tables[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("td", "th"):
            self.tables[self._table][-1].append(("", dict(attrs).get("data-value")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data
        if self._table and {"td", "th"} & set(self._open):
            text, value = self.tables[self._table][-1][-1]
            self.tables[self._table][-1][-1] = (text + data, value)

    def rows(self, table: str) -> list[dict[str, str]]:
        """Texts by column; a number with all its digits."""
        heads, *rows = self.tables[table]
        names = [name for name, _ in heads]
        return [dict(zip(names, (value or text for text, value in row), strict=True)) for row in rows]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("report"))
    new_store(terminal.folder, empty_database)
    assert terminal.type("train.py", "-m", *SWEEP).returncode == 1  # the trials with lr=1e38 diverge
    return terminal


def sweepstack(terminal: Terminal, *words: str) -> Result:
    return CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": terminal.uri})


@pytest.fixture(scope="module")
def html(terminal: Terminal) -> str:
    path = terminal.folder / "report.html"
    done = sweepstack(terminal, "report", "-o", str(path))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"12 trials: {path}\n")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def finished(terminal: Terminal) -> pd.DataFrame:
    rows = [row for row in terminal.store.rows("first") if row.state == "FINISHED"]
    frame = pd.DataFrame([{**row.params, **row.metrics, "run_id": row.run_id, "name": row.name} for row in rows])
    assert len(frame) == 8
    return frame


def test_question_and_answer_are_those_of_the_store(page: Page, finished: pd.DataFrame) -> None:
    question = "Which of 6 settings of learning rate and epochs has the highest validation accuracy?"
    assert page.texts["h1"] == [question]
    means = finished.groupby(["lr", "epochs"])["val/accuracy"].mean()
    lr, epochs = cast("tuple[float, int]", means.idxmax())
    answer = next(text for text in page.texts["p"] if "has the highest" in text)
    assert answer.startswith(
        f"lr={lr} epochs={epochs} has the highest validation accuracy, {means.max():.4f} on average over 2"
    )
    best = finished[(finished["lr"] == lr) & (finished["epochs"] == epochs)]
    chosen = best.sort_values(["val/accuracy", "seed"], ascending=[False, True]).iloc[0]
    assert f"the accuracy of the best of its trials is {chosen['test/accuracy']:.4f}" in answer
    assert re.sub(r"\d\.\d", "", answer).count(".") == 1  # one sentence


def test_tables_hold_every_setting_and_trial_with_every_digit(page: Page, finished: pd.DataFrame) -> None:
    settings = page.rows("settings")
    means = finished.groupby(["lr", "epochs"])["val/accuracy"].mean()
    assert len(settings) == 6
    assert settings[0]["mark"] == "best"
    for row in settings[:4]:
        found = means[row["learning rate"], row["epochs"].removesuffix(".0")]
        assert float(row["mean validation accuracy"]) == pytest.approx(found, abs=1e-12)
    trials = page.rows("trials")
    assert len(trials) == 12
    stored = dict(zip(finished["name"], finished["test/accuracy"], strict=True))
    shown = {row["run"]: row["test accuracy"] for row in trials if row["state"] == "FINISHED"}
    assert {name: float(value) for name, value in shown.items()} == stored
    marked = [value for tag, key, value in page.attributes if (tag, key) == ("tr", "data-trials")]
    assert marked[6:18] == [str(place) for place in range(12)]


def test_failures_are_told_with_reason_and_log(page: Page) -> None:
    failed = page.rows("unfinished")
    assert len(failed) == 4
    assert all(
        "lr=1e+38" in row["run"] and "the loss" in row["reason"] and row["log"].endswith(".log") for row in failed
    )
    assert any(text.startswith("4 trials failed, for example: ") for text in page.texts["li"])


def test_the_command_reproduces_the_trial_to_use(
    page: Page, finished: pd.DataFrame, tmp_path: Path, store: Store
) -> None:
    python, script, *overrides = shlex.split(page.texts["pre"][0])
    assert (python, script) == ("python", "train.py")
    elsewhere = Terminal(tmp_path)
    assert elsewhere.type("train.py", *overrides).returncode == 0
    (again,) = elsewhere.store.rows("all")
    (one,) = finished[
        (finished[["lr", "epochs", "seed"]] == [again.params[k] for k in ("lr", "epochs", "seed")]).all(axis=1)
    ].to_dict("records")
    assert again.metrics["test/accuracy"] == one["test/accuracy"]
    answer = next(text for text in page.texts["p"] if "has the highest" in text)
    assert f"{one['test/accuracy']:.4f}" in answer


def test_environment_and_data_are_named(page: Page, terminal: Terminal) -> None:
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    run = terminal.store.client.get_run(facts["run"])
    assert facts["dataset checksum"] == run.inputs.dataset_inputs[0].dataset.digest
    assert facts["dataset"] == "digits: 1,293 train, 144 held out, 360 test images"
    assert f"torch {run.data.tags['versions.torch']}" in facts["versions"]


def test_the_mistakes_are_those_of_the_trial_to_use(page: Page, terminal: Terminal) -> None:
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    accuracy = terminal.store.client.get_run(facts["run"]).data.metrics["test/accuracy"]
    wrong = round((1 - accuracy) * 360)
    labels = [value for tag, key, value in page.attributes if (tag, key) == ("div", "aria-label")]
    assert f"{wrong} of 360 test images are classified wrongly" in labels


def test_nothing_is_fetched_and_only_the_own_script_runs(html: str, page: Page) -> None:
    links = [(tag, value) for tag, key, value in page.attributes if key in ("src", "href", "xlink:href", "action")]
    assert links
    assert all(value.startswith(("#", "data:image/png;base64,")) for _, value in links)
    assert not re.search(r"@import|url\((?!#)|<link|<iframe|<base", html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for tag, key, value in page.attributes if (tag, key) == ("meta", "content") and "src" in value)
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{checksum}';" in policy


def test_each_trial_can_be_found_in_the_plots_and_ids_are_unique(page: Page) -> None:
    marks = {value for tag, key, value in page.attributes if (tag, key) == ("g", "data-trials")}
    assert {str(place) for place in range(8)} <= marks
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    referred = {value[1:] for _, key, value in page.attributes if key == "href" and value.startswith("#")}
    assert referred <= set(ids)


def test_the_same_store_gives_the_same_bytes_and_one_summary_run_that_is_no_trial(
    terminal: Terminal, html: str, tmp_path: Path
) -> None:
    before = [row.run_id for row in terminal.store.rows("all")]
    store = terminal.store
    (run,) = store.runs(f"tags.`{SUMMARY_TAG}` = 'first'")
    stale = store.client.get_run(run.info.run_id).info.artifact_uri.removeprefix("file://")
    (Path(stale) / "plots" / "old.png").write_bytes(b"of an earlier report")
    assert sweepstack(terminal, "report", "-o", str(tmp_path / "again.html")).exit_code == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == html
    (run,) = store.runs(f"tags.`{SUMMARY_TAG}` = 'first'")
    assert (run.info.run_name, run.info.status) == ("summary of first", "FINISHED")
    assert [row.run_id for row in store.rows("all")] == before
    assert run.info.run_id not in before
    assert {file.path for file in store.client.list_artifacts(run.info.run_id)} == {
        "plots",
        "report.html",
        "settings.csv",
        "table.csv",
    }
    plots = {Path(file.path).name for file in store.client.list_artifacts(run.info.run_id, "plots")}
    assert {"hyperparameters.svg", "curves.svg", "pairs.svg", "time.svg", "confusion.svg"} <= plots
    assert "old.png" not in plots
    kept = Path(store.client.download_artifacts(run.info.run_id, "report.html", str(tmp_path)))
    assert kept.read_text(encoding="utf-8") == html
    drawn = Path(store.client.download_artifacts(run.info.run_id, "plots/hyperparameters.svg", str(tmp_path)))
    assert drawn.read_bytes().startswith(b"<?xml")


def test_a_store_that_takes_nothing_costs_the_record_and_not_the_file(terminal: Terminal, tmp_path: Path) -> None:
    (run,) = terminal.store.runs(f"tags.`{SUMMARY_TAG}` = 'first'")
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("no folder")
    try:
        done = sweepstack(terminal, "report", "-o", str(tmp_path / "report.html"))
    finally:
        folder.unlink()
        aside.rename(folder)
    assert done.exit_code == 0
    assert (tmp_path / "report.html").exists()
    _, line = done.stderr.splitlines()
    assert line.startswith(f"The report is not recorded in MLflow: {terminal.uri} does not take the report (")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--sweep", "frist"], "there is no sweep 'frist' in"),
        (["--metric", "val/acuracy"], "there is no metric 'val/acuracy' in this table; did you mean 'val/accuracy'?"),
        (["--metric", "train/lr"], "the objective must be a result of training, got train/lr, which is an input"),
        (["-o", "/nonexistent/report.html"], "/nonexistent/report.html cannot be written"),
        (["--store", "sqlite:////nonexistent/empty.db"], "the tracking store sqlite:////nonexistent/empty.db holds"),
    ],
)
def test_a_mistake_is_one_clear_line(terminal: Terminal, words: list[str], line: str) -> None:
    done = sweepstack(terminal, "report", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    (shown,) = done.stderr.splitlines()
    assert shown.startswith(f"error: {line}")


HOSTILE = '<script>alert("1")</script> & "quoted" \'ünï☃\' $x$ {{ 7*7 }}'


@pytest.fixture(scope="module")
def old_store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Store:
    """As an earlier version has left it: a tag for the sweep, no inputs, no files. Nobody has checked names."""
    return new_store(tmp_path_factory.mktemp("old"), empty_database)


def record(
    store: Store,
    sweep: str,
    params: dict[str, str],
    metrics: dict[str, float],
    state: str = "FINISHED",
    about: str = HOSTILE,
) -> None:
    """A run whose name is about something; so is the reason of one that has not finished."""
    client: MlflowClient = store.client
    tags = {"sweepstack.version": "0.0.1", "sweep": sweep, "reason": "" if state == "FINISHED" else about}
    run_id = client.create_run(store.experiment_id("old"), tags=tags, run_name=about).info.run_id
    for key, text in params.items():
        client.log_param(run_id, key, text)
    for key, number in metrics.items():
        client.log_metric(run_id, key, number)
    client.set_terminated(run_id, state)


def test_names_and_reasons_are_text_whatever_they_hold(old_store: Store) -> None:
    for number, note in enumerate([HOSTILE, "plain", "<b>", "<i>"]):
        record(old_store, HOSTILE, {"note": note, "lr": str(number)}, {"val/accuracy": number / 10})
    record(old_store, HOSTILE, {"lr": "9"}, {}, "FAILED")  # without a note
    html = report(HOSTILE, store=old_store).html
    assert html.count("<script") == 1
    assert "alert(&#34;1&#34;)" in html or "alert(&quot;1&quot;)" in html
    page = Page(html)
    assert page.texts["title"] == [f"{HOSTILE}: report"]
    assert HOSTILE in [row["reason"] for row in page.rows("unfinished")]
    assert {row["note"] for row in page.rows("trials")} == {HOSTILE, "plain", "<b>", "<i>", "not set"}
    assert any(text.startswith("The mistakes of the trial to use cannot be shown here: ") for text in page.texts["p"])
    assert any(text.startswith("What was typed for") for text in page.texts["p"])


def test_no_control_character_gets_into_the_page(old_store: Store) -> None:
    for number, note in enumerate(["\x1b[2Jx", "y\x07", "\x9bz"]):
        record(old_store, "control", {"note": note}, {"val/accuracy": number / 10, "train_seconds": 1.0})
    record(old_store, "control", {"note": "a"}, {}, "FAILED", about="\x1b[31mred\u202e\nline")
    html = report("control", store=old_store).html
    assert not [sign for sign in html if sign != "\n" and not sign.isprintable()]
    page = Page(html)
    assert {r"\x1b[2Jx", r"y\x07", r"\x9bz", "a"} == {row["note"] for row in page.rows("trials")}
    (failed,) = page.rows("unfinished")
    assert failed["reason"] == failed["run"] == "\\x1b[31mred\\u202e\nline"
    assert any("note=\\x9bz" in text for text in page.texts["code"])


HOW_HIGH = "How high is the validation accuracy?"
WHICH = "Which of 3 settings of learning rate has the highest validation accuracy?"
NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "trials", "question", "said"),
    [
        ("one", [("1", 0.5, "FINISHED")], HOW_HIGH, "has a validation accuracy of 0.5000"),
        ("none", [("1", None, "FAILED"), ("2", None, "FAILED")], HOW_HIGH, "There is no answer: "),
        (
            "nan",
            [("1", NAN, "FINISHED"), ("2", 0.5, "FINISHED"), ("3", 0.2, "FINISHED")],
            WHICH,
            "lr=2 has the highest",
        ),
        ("running", [("1", 0.5, "RUNNING")], HOW_HIGH, "There is no answer: "),
    ],
)
def test_a_meagre_sweep_has_a_report_too(old_store: Store, name, trials, question, said) -> None:
    for lr, accuracy, state in trials:
        record(old_store, name, {"lr": lr}, {} if accuracy is None else {"val/accuracy": accuracy}, state)
    page = Page(report(name, store=old_store).html)
    assert page.texts["h1"] == [question]
    assert any(said in text for text in page.texts["p"])
    assert len(page.rows("trials")) == len(trials)


def test_values_that_are_missing_in_several_params_cost_nothing(old_store: Store) -> None:
    for number, (lr, norm, wait) in enumerate(
        itertools.product(("0.1", "0.2"), (None, "1.5", "2.5"), (None, "3", "9"))
    ):
        given = {"lr": lr, "clip_norm": norm, "early_stopping.patience": wait, "note": None if number % 2 else "a"}
        params = {key: text for key, text in given.items() if text is not None}
        metrics = {"val/accuracy": NAN if number == 4 else number / 100, "train_seconds": 1.0 + number}
        record(old_store, "missing", params, metrics, about=f"trial {number}")
    page = Page(report("missing", store=old_store).html)
    assert len(page.rows("trials")) == 18
    assert {row["clip norm"] for row in page.rows("trials")} == {"not set", "1.5", "2.5"}
    assert not any("settings with a result are too few" in text for text in page.texts["p"])


def test_weights_that_are_gone_cost_the_pictures_of_mistakes_alone(terminal: Terminal, page: Page) -> None:
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    folder = Path(terminal.store.client.get_run(facts["run"]).info.artifact_uri.removeprefix("file://"))
    weights = (folder / "weights.pt").rename(folder / "aside.pt")
    try:
        without = report("first", store=terminal.store)
    finally:
        weights.rename(folder / "weights.pt")
    said = (
        "The mistakes of the trial to use cannot be shown here: its weights are not in the store; train it again with "
    )
    assert f"{said}rerun=true." in Page(without.html).texts["p"]
    assert "plots/confusion.svg" not in without.files
    assert "plots/curves.svg" in without.files


def test_mistakes_are_not_those_of_other_code(terminal: Terminal, page: Page) -> None:
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    folder = Path(terminal.store.client.get_run(facts["run"]).info.artifact_uri.removeprefix("file://"))
    kept = (folder / "test_predictions.npy").read_bytes()
    try:
        np.save(folder / "test_predictions.npy", (np.load(io.BytesIO(kept)) + 1) % 10)
        found = report("first", store=terminal.store)
    finally:
        (folder / "test_predictions.npy").write_bytes(kept)
    assert any("predicts 360 of 360 test images differently" in text for text in Page(found.html).texts["p"])
    assert "plots/confusion.svg" not in found.files


def test_another_metric_can_select_and_nothing_need_be_recorded(
    terminal: Terminal, finished: pd.DataFrame, tmp_path: Path
) -> None:
    runs = len(terminal.store.runs(""))
    words = ("--sweep", "first", "--metric", "val/loss", "--no-record", "-o", str(tmp_path / "report.html"))
    assert sweepstack(terminal, "report", *words).stderr.count("\n") == 1
    assert len(terminal.store.runs("")) == runs
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.texts["h1"] == ["Which of 6 settings of learning rate and epochs has the lowest validation loss?"]
    lowest = finished.groupby(["lr", "epochs"])["val/loss"].mean().min()
    assert any(f"has the lowest validation loss, {lowest:.4f}" in text for text in page.texts["p"])


def test_a_trial_that_was_recorded_twice_counts_once_in_tables_and_plots(old_store: Store) -> None:
    """As after rerun=true in the same sweep: 0.75 is the mean of two seeds, 0.7333 would be that of three runs."""
    for lr, size, seed, figure in [
        *[(1, 50, 0, 0.9), (1, 50, 0, 0.5), (1, 50, 1, 0.8)],
        *[(lr, size, seed, 0.1) for lr, size in [(1, 100), (2, 50), (2, 100)] for seed in (0, 1)],
    ]:
        params = {"lr": str(lr), "batch_size": str(size), "seed": str(seed)}
        metrics = {"val/accuracy": figure, "test/accuracy": figure, "train_seconds": figure}
        record(old_store, "twice", params, {**metrics, "train_seconds_share": figure})
    frame = table("twice", store=old_store)
    about = about_sweep(old_store, frame, ACCURACY)
    assert about.selection is not None
    assert about.selection.groups["mean"].iloc[0] == pytest.approx(0.75)
    best = settings_table(frame, about.selection, about.varied).rows[0]
    assert [cell.text for cell in best.cells[:2]] == ["1", "50"]
    assert (best.cells[3].text, [cell.text for cell in best.cells[-3:-1]]) == ("0.7500", ["0.7500", "0.75"])
    figures = {plate.name: plate.figure for plate in make_sections(about, lambda _: None) if plate.figure is not None}
    assert "0.750" in [text.get_text() for text in figures["pairs"].axes[0].texts]
    rings = {
        name: sorted(float(line.get_ydata()[0]) for line in figures[name].axes[0].lines if line.get_markersize() == 9)  # type: ignore[arg-type, index]
        for name in ("hyperparameters", "time")
    }
    assert rings["hyperparameters"] == pytest.approx([0.7, 0.8])
    assert rings["time"] == pytest.approx([0.75])


@pytest.mark.parametrize("metric", ["train_seconds", "train_seconds_share"])
def test_what_a_better_time_costs_is_not_drawn(terminal: Terminal, metric: str) -> None:
    frame = table("first", metric=metric, store=terminal.store)
    names = {
        plate.name
        for plate in make_sections(about_sweep(terminal.store, frame, objective(frame, metric)), lambda _: None)
    }
    assert "time" not in names
    assert {"hyperparameters", "pairs", "together", "curves"} <= names


def test_a_metric_without_a_direction_is_told_on_stderr(old_store: Store) -> None:
    for lr, cost in (("1", 2.0), ("2", 1.0)):
        record(old_store, "directions", {"lr": lr}, {"val/cost": cost, "val/accuracy": 0.5}, about=f"lr={lr}")
    words = ["table", "--sweep", "directions", "--store", old_store.uri]
    told = CliRunner().invoke(main, [*words, "--metric", "cost"])
    assert told.exit_code == 2
    told = CliRunner().invoke(main, [*words, "--metric", "val/cost"])
    assert told.stderr == (
        "note: nothing says whether small or large values of val/cost are better; the smallest is taken\n"
    )
    assert told.stdout.splitlines()[2].split()[:2] == ["2", "1.0000"]
    assert CliRunner().invoke(main, [*words, "--metric", "val/accuracy"]).stderr == ""
