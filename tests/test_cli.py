"""The command sweepstack, as a user types it, on a store with one sweep and one single run."""

import io
import json
import re
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from sweepstack.cli import main

from .conftest import Terminal, new_store


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
    accuracies = [float(row.split()[1]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)


def test_csv_keeps_numbers_as_numbers_and_params_that_vary_come_first(terminal: Terminal) -> None:
    done = sweepstack(terminal, "table", "--format", "csv")
    frame = pd.read_csv(io.StringIO(done.stdout))
    assert frame.columns[0] == "lr"
    assert set(frame["lr"]) == {0.01, 0.1, 1.0}
    assert frame["epochs"].tolist() == [2, 2, 2]
    stored = {row.params["lr"]: row.metrics["test/accuracy"] for row in terminal.store.rows()}
    for lr, accuracy in zip(frame["lr"], frame["test/accuracy"], strict=True):
        assert accuracy == stored[str(lr)]  # every digit


@pytest.mark.parametrize("form", ["json", "parquet", "markdown", "latex", "text"])
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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["table", "--sweep", "nope"], "there is no sweep 'nope' in"),
        (
            ["table", "--sort", "val/acuracy"],
            "there is no column 'val/acuracy' in this table; did you mean 'val/accuracy'?",
        ),
        (["table", "--columns", "lr,modle"], "there is no column 'modle' in this table; did you mean 'model'?"),
        (["table", "--format", "parquet"], "parquet is no text, it must go to a file; give one with -o FILE"),
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
    assert link.startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs?searchFilter=tags.%60sweep%2F")
    assert "workflowType=machine_learning" in link
    with urllib.request.urlopen(link, timeout=30) as page:
        assert b"MLflow" in page.read()
    process.send_signal(sent)
    assert process.wait(60) == 0
    watchdog.cancel()
    for _ in range(100):  # nothing is left behind
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    pytest.fail("the server is still there")


def test_ui_says_when_a_port_is_taken(terminal: Terminal) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = sweepstack(terminal, "ui", "--port", str(port))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: port {port} must be free")
    assert len(done.stderr.splitlines()) == 1
