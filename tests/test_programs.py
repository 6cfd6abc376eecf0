"""Commands that programs type: strict JSON on standard output, an error as one object, exit codes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sweepstack.cli.main import main
from sweepstack.strict_json import as_json
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process

from . import here
from .terminal import ROOT, new_store

SWEEP = ("-m", "dataset=digits", "epochs=2", "optimizer.lr=0.1,0.2", "seed=0,1", "tracking.sweep='größe'")
ERROR = {"rule", "value", "remedy", "where", "message", "exit_code", "further"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Store]:
    """Four trials, and one that diverged."""
    folder = tmp_path_factory.mktemp("programs ü")
    store = new_store(folder, empty_database)
    process = writer_process(store.uri)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store.uri)
        assert here.train(*SWEEP).code == 0
        assert here.train("-m", *SWEEP[1:3], "model=mlp", "optimizer.lr=1e30", "tracking.sweep=bad").code == 1
    yield store
    process.close()
    process._process.wait(60)


@pytest.fixture(autouse=True)
def folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert store.database is not None
    monkeypatch.chdir(store.database.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return store.database.parent


def answer(*words: str, code: int = 0) -> Any:
    """What a command prints, as strict JSON."""
    done = here.sweepstack(*words)
    assert done.code == code, done.err
    return strict(done.out)


def is_documented(command: str, found: dict[str, Any]) -> bool:
    """True if the row of a command in the table of the page names all keys of its object."""
    page = (ROOT / "docs" / "how-to" / "programs.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{command}")]
    return all(f"`{key}`" in row for key in found)


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_every_command_that_prints_has_an_object_or_a_list_for_programs(folder: Path, tmp_path: Path) -> None:
    rows = answer("table", "--json", "--sweep", "größe")
    assert rows == answer("table", "--format", "json", "--sweep", "größe")
    assert {(row["lr"], row["seed"], row["state"], row["sweep"]) for row in rows} == {
        (lr, seed, "FINISHED", "größe") for lr in (0.1, 0.2) for seed in (0, 1)
    }
    assert len(answer("table", "--json", "--by-seed", "--sweep", "größe")) == 2
    (bad,) = answer("table", "--json", "--sweep", "bad")
    assert bad["state"] == "FAILED"

    shown = answer("show", rows[0]["run_id"], "--json")
    assert shown["metrics"]["val/accuracy"] == rows[0]["val/accuracy"]
    assert shown["params"]["lr"] == rows[0]["lr"] == shown["config"]["optimizer"]["lr"]
    assert [point["step"] for point in shown["curves"]["val/accuracy"]] == [1, 2]
    assert shown["curves_over"] == "epochs"
    assert is_documented("show", shown)

    status = answer("status", "--json")
    assert (status["running"], status["interrupted"]) == ([], [])
    assert answer("clean", "--json")["deleted"] == []
    assert answer("sync", "--json")["delivered"] == 0
    assert answer("data", "mnist", "--json")["dataset"] == "mnist"
    compared = answer("compare", "größe", "--json")
    assert compared["sweeps"][0]["trials"] == 2
    repro = answer("repro", rows[0]["run_id"], "--json")
    assert "dataset=digits" in repro["command"]
    assert repro["repeated"] is None
    assert is_documented("repro", repro)
    registered = answer("register", rows[0]["run_id"], "--json")
    assert (registered["uri"], registered["run_id"]) == ("models:/digits@best", rows[0]["run_id"])
    assert is_documented("register", registered)
    (tmp_path / "rows.csv").write_text(f"{','.join(['0'] * 64)}\n")
    (found,) = answer("predict", "--json", str(tmp_path / "rows.csv"))
    assert found["class"] in range(10)
    done = here.sweepstack("predict", "--json", "none.csv", str(tmp_path / "rows.csv"))
    assert (done.code, strict(done.out)) == (2, [found])
    assert strict(done.err)["rule"].startswith("none.csv")
    report = answer("report", "--json", "--sweep", "größe", "-o", str(tmp_path / "r.html"))
    assert (report["file"], report["trials"]) == (str(tmp_path / "r.html"), 4)
    assert (tmp_path / "r.html").is_file()
    assert is_documented("report", report)
    deleted = answer("delete", "bad", "--yes", "--json")
    assert deleted["deleted_runs"] == [bad["run_id"]]


def test_refine_says_what_it_found(store: Store) -> None:
    found = answer("refine", "--json", "--budget", "1", "--sweep", "größe")
    assert found["sweep"] == "größe"
    assert found["trained"] == 0
    assert is_documented("refine", found)
    assert found["why"]


@pytest.mark.parametrize(
    ("words", "rule", "remedy"),
    [
        (("table", "--json", "--sweep", "große"), "there is no sweep 'große'", "did you mean 'größe'?"),
        (("show", "no such", "--json"), "there is no run 'no such'", "give an id"),
        (("table", "--json", "--format", "csv"), "--json and --format csv", "leave out"),
        (("table", "--jsn", "--json"), "No such option", "sweepstack table --help"),
        (("tabel", "--json"), "No such command", "sweepstack --help"),
        (("table", "--top", "0", "--json"), "Invalid value for '--top'", "sweepstack table --help"),
        (("ui", "--json"), "No such option", "sweepstack ui --help"),
        (("show", "--json"), "Missing argument", "sweepstack show --help"),
        (("delete", "größe", "--json"), "the deletion of sweep", "add --yes"),
        (("table", "--json", "--store", "ftp://x"), "the tracking store must be a database or a server", "for example"),
    ],
)
def test_an_error_is_one_object_on_standard_error(words: tuple[str, ...], rule: str, remedy: str) -> None:
    done = here.sweepstack(*words)
    assert done.code == 2
    assert done.out == ""
    error = strict(done.err.splitlines()[-1])
    assert {*error} == ERROR
    assert rule in error["rule"]
    assert remedy in error["remedy"]
    assert error["exit_code"] == 2
    assert error["rule"] in error["message"]


def test_a_plan_and_its_mistakes_are_objects(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(folder.iterdir())
    done = here.train(*SWEEP[:3], "optimizer.lr=0.1,0.3", "seed=0", "launch.dry_run=json")
    assert done.code == 0
    plan = strict(done.out)
    assert (plan["trials"], plan["trial_epochs_to_train"], len(plan["stacks"])) == (1, 2, 1)
    assert plan["settled"] == [{"name": "lr=0.1", "state": "FINISHED"}]
    assert plan["seconds"] > 0
    assert is_documented("python train.py", plan)
    assert is_documented("python train.py", plan["stacks"][0])
    assert sorted(folder.iterdir()) == before
    done = here.train(*SWEEP[:3], "optimizer.lr=-1,0.1", "batch_size=0", "launch.dry_run=json")
    assert (done.code, done.out) == (2, "")
    error = strict(done.err.splitlines()[-1])
    assert {*error} == ERROR
    assert error["further"]
    done = here.train("dataset=digits", "launch.dry_run=json")  # no sweep
    assert done.code == 2
    assert "needs -m" in strict(done.err)["rule"]
    done = here.train(*SWEEP[:2], "optimizer.momentun=1,2", "launch.dry_run=json")
    assert "did you mean" in strict(done.err.splitlines()[-1])["remedy"]


@pytest.mark.parametrize(
    ("words", "rule"),
    [(("--bogus",), "unrecognized arguments: --bogus"), (("--cfg", "none"), "argument --cfg/-c: invalid choice")],
)
def test_an_unknown_flag_of_train_py_is_a_mistake_as_any(words: tuple[str, ...], rule: str) -> None:
    done = here.train(*SWEEP[:3], *words)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert done.err.startswith(f"error: {rule}")
    done = here.train(*SWEEP[:3], *words, "launch.dry_run=json")
    assert (done.code, done.out) == (2, "")
    assert strict(done.err)["rule"].startswith(rule)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_error_is_json_in_every_locale(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    commands = (
        ["-c", "from sweepstack.cli.main import main; main()", "show", "niemals größer ✓", "--json"],
        [str(ROOT / "train.py"), "-m", "optimizer.lr=0.1,0.2", "dataset=größer✓", "launch.dry_run=json"],
    )
    for words in commands:
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (2, b"")
        assert "größer" in strict(done.stderr.decode().splitlines()[-1])["rule"]


def test_a_plan_that_is_interrupted_ends_with_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("sweepstack.hydra_adapter.launcher.print_json", interrupt)
    done = here.train(*SWEEP[:3], "optimizer.lr=0.5,0.6", "launch.dry_run=json")
    assert (done.code, done.out) == (143, "")
    error = strict(done.err.splitlines()[-1])
    assert {*error} == ERROR
    assert (error["rule"], error["exit_code"]) == ("Stopped by SIGTERM", 143)


def test_another_value_than_json_is_told_of_json(folder: Path) -> None:
    done = here.train(*SWEEP[:3], "launch.dry_run=jsn")
    assert done.code == 2
    assert "launch.dry_run=json" in done.err


def test_json_is_strict_whatever_it_holds() -> None:
    nasty = {"nan": float("nan"), 1: (float("inf"), {1}), "path": Path("a"), "secret": "http://ada:pw@host"}
    assert strict(as_json(nasty)) == {
        "nan": None,
        "1": [None, [1]],
        "path": "a",
        "secret": "http://ada:***@host",
    }


@pytest.mark.parametrize(
    ("line", "offered"), [("ta", "plain,table"), ("table --js", "plain,--json"), ("table --format m", "plain,markdown")]
)
def test_the_shell_completes_commands_options_and_choices(line: str, offered: str) -> None:
    words = f"sweepstack {line}"
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    found = CliRunner().invoke(
        main, [], prog_name="sweepstack", env={**environment, "_SWEEPSTACK_COMPLETE": "bash_complete"}
    )
    assert offered in found.output.splitlines()
