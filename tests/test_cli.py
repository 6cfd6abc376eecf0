"""The command sweepstack, as a user types it, on a store with one sweep and one single run."""

import io
import json
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from sweepstack import results
from sweepstack.cli.main import main

from .terminal import Terminal, new_store


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("cli"))
    new_store(terminal.folder, empty_database)
    assert terminal.type("train.py", "-m", "dataset=digits", "epochs=2", "optimizer.lr=0.01,0.1,1").returncode == 0
    assert terminal.type("train.py", "dataset=digits", "epochs=1", "model=mlp").returncode == 0
    return terminal


def sweepstack(terminal: Terminal, *words: str) -> Result:
    """Types the command; in this process, for most of its time goes to importing MLflow."""
    return CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": terminal.uri})


def test_the_table_is_of_the_latest_sweep_best_first(terminal: Terminal) -> None:
    done = sweepstack(terminal, "table")
    header, _, *rows = done.stdout.splitlines()
    accuracies = ["val/accuracy", "val/accuracy_best", "test/accuracy"]
    assert header.split() == ["lr", *accuracies, "train_seconds", "train_seconds_share", "state"]
    assert len(rows) == 3
    order = [float(row.split()[1]) for row in rows]
    assert order == sorted(order, reverse=True)


def test_csv_keeps_numbers_as_numbers_and_params_that_vary_come_first(terminal: Terminal) -> None:
    done = sweepstack(terminal, "table", "--format", "csv")
    frame = pd.read_csv(io.StringIO(done.stdout))
    assert frame.columns[0] == "lr"
    assert set(frame["lr"]) == {0.01, 0.1, 1.0}
    assert frame["epochs"].tolist() == [2, 2, 2]
    stored = {row.params["lr"]: row.metrics["test/accuracy"] for row in terminal.store.rows()}
    for lr, accuracy in zip(frame["lr"], frame["test/accuracy"], strict=True):
        assert accuracy == stored[str(lr)]  # every digit


@pytest.mark.parametrize("form", ["json", "parquet", "markdown", "latex", "html", "text"])
def test_every_format_holds_the_same_rows(terminal: Terminal, form: str) -> None:
    path = terminal.folder / f"results.{form}"
    done = sweepstack(terminal, "table", "--format", form, "-o", str(path))
    assert done.exit_code == 0
    assert done.stderr == f"3 trials: {path}\n"
    if form == "parquet":
        assert sorted(pd.read_parquet(path)["lr"]) == [0.01, 0.1, 1.0]
    elif form == "json":
        assert sorted(row["lr"] for row in json.loads(path.read_text())) == [0.01, 0.1, 1.0]
    else:
        text = path.read_text()
        assert len(re.findall(r"FINISHED", text)) == 3
        if form == "latex":
            assert "\\toprule" in text
            assert "val/accuracy\\_best" in text


def test_the_same_store_gives_the_same_bytes(terminal: Terminal) -> None:
    once, again = (sweepstack(terminal, "table", "--sweep", "all", "--format", "csv").stdout for _ in range(2))
    assert once == again
    assert len(once.splitlines()) == 5


def test_sort_and_columns(terminal: Terminal) -> None:
    words = ("--sweep", "all", "--sort", "lr", "--columns", "lr,model", "--format", "csv")
    lines = sweepstack(terminal, "table", *words).stdout.splitlines()
    assert lines == ["lr,model", "0.01,logistic", "0.01,mlp", "0.1,logistic", "1.0,logistic"]


def test_a_table_from_python_is_that_of_the_command(terminal: Terminal) -> None:
    frame = results.table(store=terminal.store)
    assert frame.to_csv(index=False) == sweepstack(terminal, "table", "--format", "csv").stdout
    assert results.table("all", store=terminal.store, where="params.lr > 0.01")["lr"].tolist() != frame["lr"].tolist()


def test_where_metric_and_top_choose_trials(terminal: Terminal) -> None:
    words = ("--sweep", "all", "--where", "optimizer.lr < 1 and model == 'logistic'", "--columns", "optimizer.lr,state")
    lines = sweepstack(terminal, "table", *words, "--format", "csv").stdout.splitlines()
    assert lines[0] == "lr,state"
    assert sorted(lines[1:]) == ["0.01,FINISHED", "0.1,FINISHED"]
    words = ("--metric", "metrics.train_seconds", "--top", "2", "--format", "json")
    shown = [record["train_seconds"] for record in json.loads(sweepstack(terminal, "table", *words).stdout)]
    assert shown == sorted(row.metrics["train_seconds"] for row in terminal.store.rows())[:2]


def test_groups_are_means_over_everything_else(terminal: Terminal) -> None:
    words = ("--sweep", "all", "--group-by", "model", "--metric", "test/accuracy")
    frame = pd.read_csv(io.StringIO(sweepstack(terminal, "table", *words, "--format", "csv").stdout))
    stored = [row.metrics["test/accuracy"] for row in terminal.store.rows()]
    (logistic,) = frame[frame["model"] == "logistic"].to_dict("records")
    assert logistic["mean"] == pytest.approx(sum(stored) / 3, rel=1e-12)
    assert (logistic["n"], logistic["missing"]) == (3, 0)
    assert frame["mean"].is_monotonic_decreasing
    header, _, *lines = sweepstack(terminal, "table", *words, "--sort", "n").stdout.splitlines()
    assert header.split() == ["model", "mean", "test/accuracy", "sd", "n"]
    assert [line.split()[0] for line in lines] == ["mlp", "logistic"]


def test_a_pivot_has_a_row_and_a_column_for_each_value(terminal: Terminal) -> None:
    done = sweepstack(terminal, "table", "--sweep", "all", "--pivot", "optimizer.lr", "model", "--format", "markdown")
    header, _, *lines = done.stdout.splitlines()
    assert header.replace(" ", "") == "|lr|model=logistic|model=mlp|"
    assert [[cell.strip() == "-" for cell in line.split("|")[1:-1]] for line in lines] == [
        [False, False, False],
        [False, False, True],
        [False, False, True],
    ]


def test_settings_by_seed_are_marked(terminal: Terminal) -> None:
    done = sweepstack(terminal, "table", "--by-seed", "--format", "csv")
    frame = pd.read_csv(io.StringIO(done.stdout))
    assert sorted(frame["lr"]) == [0.01, 0.1, 1.0]
    assert frame["mark"][0] == "best"
    assert sorted(frame["run_ids"]) == sorted(row.run_id for row in terminal.store.rows())
    assert "run_ids" not in sweepstack(terminal, "table", "--by-seed").stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["table", "--sweep", "nope"], "there is no sweep 'nope' in"),
        (["table", "--metric", "val/acuracy"], "there is no metric 'val/acuracy' in this table; did you mean"),
        (["table", "--where", "lr > 7"], "none of the 3 trials fulfils 'lr > 7'"),
        (["table", "--where", "lr = 7"], "a condition compares params, metrics, state or name with values"),
        (["table", "--where", "__import__('os')"], "a condition compares params, metrics, state or name with values"),
        (["table", "--group-by", "lrr"], "there is no column 'lrr' in this table; did you mean 'lr'?"),
        (["table", "--pivot", "lr", "val/loss"], "groups are made by params, got the metric 'val/loss'"),
        (["table", "--by-seed", "--group-by", "lr"], "--by-seed and --group-by make different tables; choose one"),
        (
            ["table", "--pivot", "lr", "model", "--top", "2"],
            "a pivot is shown whole, in the order of its params; leave",
        ),
        (["table", "--sort", "lr", "--metric", "val/loss"], "--sort and --metric both say what to sort trials by"),
        (
            ["table", "--sort", "val/acuracy"],
            "there is no column 'val/acuracy' in this table; did you mean 'val/accuracy'?",
        ),
        (["table", "--columns", "lr,modle"], "there is no column 'modle' in this table; did you mean 'model'?"),
        (["table", "--format", "parquet"], "parquet is not text, it must be written to a file; name one with -o FILE"),
        (["table", "-o", "/nonexistent/x.csv"], "/nonexistent/x.csv cannot be written"),
        (["table", "--store", "somewhere"], "the tracking store must be a database or a server, got 'somewhere'"),
        (["sync", "--store", "somewhere"], "the tracking store must be a database or a server, got 'somewhere'"),
        (["data", "mnits"], "dataset 'mnits' has no files to fetch; did you mean 'mnist'?"),
        (
            ["table", "--store", "sqlite:////nonexistent/empty.db"],
            "the tracking store sqlite:////nonexistent/empty.db holds",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(terminal: Terminal, words: list[str], line: str) -> None:
    done = sweepstack(terminal, *words)
    assert done.exit_code == 2
    assert done.stdout == ""
    (shown,) = done.stderr.splitlines()
    assert shown.startswith(f"error: {line}")


def test_a_database_that_is_none_is_named(terminal: Terminal) -> None:
    broken = terminal.folder / "broken.db"
    broken.write_text("this is no database")
    done = sweepstack(terminal, "table", "--store", f"sqlite:///{broken}")
    assert done.exit_code == 2
    (shown,) = done.stderr.splitlines()
    assert shown.startswith(f"error: the tracking store sqlite:///{broken} cannot be used")


def test_sync_has_nothing_to_do_after_an_undisturbed_sweep(terminal: Terminal) -> None:
    done = sweepstack(terminal, "sync")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "Everything is delivered.\n", "")


def test_data_says_where_the_verified_files_are(terminal: Terminal) -> None:
    done = sweepstack(terminal, "data", "mnist")
    assert done.exit_code == 0
    assert done.stdout.startswith("mnist is complete and verified: ")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ui_serves_on_loopback_and_ends_calmly(terminal: Terminal, sent: int) -> None:
    port = free_port()
    process = terminal.start("sweepstack", "ui", "--port", str(port))
    watchdog = threading.Timer(150, process.kill)
    watchdog.start()
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    link = lines[1].split()[1]
    assert link.startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs?viewStateShareKey=")
    assert "workflowType=machine_learning" in link
    with urllib.request.urlopen(link, timeout=30) as page:
        assert b"MLflow" in page.read()
    stranger = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "example.org"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(stranger, timeout=30)
    assert refused.value.code == 403
    process.send_signal(sent)
    assert process.wait(60) == 0
    watchdog.cancel()
    for _ in range(100):  # nothing is left behind
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    pytest.fail("the server is still there")


def test_a_dash_is_the_standard_output(terminal: Terminal) -> None:
    assert sweepstack(terminal, "table", "-o", "-").stdout == sweepstack(terminal, "table").stdout


def test_a_report_that_has_no_place_is_told_before_all_the_work(terminal: Terminal) -> None:
    done = sweepstack(terminal, "report", "-o", str(terminal.folder / "nowhere" / "report.html"))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "there is no folder" in done.stderr


def test_ui_says_when_a_port_is_taken(terminal: Terminal) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = sweepstack(terminal, "ui", "--port", str(port))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: port {port} must be free")
    assert len(done.stderr.splitlines()) == 1
