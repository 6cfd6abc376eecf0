"""`sweepstack.sweep`: what is trained from Python is what is trained from the command line."""

import enum
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import sweepstack
from sweepstack.from_python import words_of
from sweepstack.hydra_adapter.sweep_values import expand, parse_overrides

from . import here
from .terminal import ROOT, Terminal


def read(word: str) -> list[Any]:
    """The values of a word in the jobs of a sweep, as their configs have them."""
    (override,) = parse_overrides([word])
    values = [parse_overrides([one])[0].value() for one in expand(override, lambda group: [])]
    found: list[Any] = OmegaConf.to_container(OmegaConf.create(values), resolve=True)  # type: ignore[assignment]
    return found


texts = st.text(st.sampled_from("ab1 ,'\"=$\\{}[]()#:~\n\té"), max_size=8)
numbers = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
values = st.recursive(st.one_of(texts, numbers), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@given(st.lists(st.one_of(values, st.dictionaries(st.sampled_from("abc"), values)), min_size=1, max_size=3))
def test_no_value_is_misread(listed: list[Any]) -> None:
    (word,) = words_of({"key": listed})
    found = read(word)
    assert found == listed
    assert repr(found) == repr(listed)  # of the same types, too


class Color(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([0.1, 1 / 3]), [0.1, 1 / 3]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ([np.float32(0.5), np.int64(3), np.bool_(True), np.str_("a,b")], [0.5, 3, True, "a,b"]),
        (np.float64(0.1), [0.1]),
        (np.array([0.1, 1e-30], dtype=np.float32), [0.1, 1e-30]),  # not 0.10000000149011612
        ([np.float16(0.1), [torch.tensor(0.3)], {"a": np.float32(0.1)}], [0.1, [0.3], {"a": 0.1}]),
        (pd.Series([0.1], dtype="Float32"), [0.1]),
        ([np.float64, torch.Tensor], ["numpy.float64", "torch.Tensor"]),
        (torch.tensor([1, 2]), [1, 2]),
        (pd.Series([1.5, 2.5], index=["x", "y"]), [1.5, 2.5]),
        (pd.Index(["a", "b"]), ["a", "b"]),
        (range(0, 6, 2), [0, 2, 4]),
        ((1, "1", None), [1, "1", None]),
        ((x / 10 for x in range(3)), [0.0, 0.1, 0.2]),
        ({1: None, 2: None}.keys(), [1, 2]),
        ([(64,), [128, 64]], [[64], [128, 64]]),
        ([[64]], [[64]]),
        ({"_target_": "torch.nn.ReLU", "inplace": False}, [{"_target_": "torch.nn.ReLU", "inplace": False}]),
        (Color.RED, ["red"]),
        (Path("/data/my images"), ["/data/my images"]),
        (torch.optim.SGD, ["torch.optim.SGD"]),
        ([torch.nn.functional.cross_entropy, json.dumps], ["torch.nn.functional.cross_entropy", "json.dumps"]),
    ],
)
def test_what_is_a_value_in_python_is_one_of_the_sweep(value: Any, expected: list[Any]) -> None:
    (word,) = words_of({"key": value})
    found = read(word)
    assert (found, [type(one) for one in found]) == (expected, [type(one) for one in expected])


def test_words_and_keywords_stand_beside_mappings() -> None:
    words = words_of(["a=1,2", "~b"], "c=range(3)", {"+d": 1, "e.f": "x"}, {"g": True})
    assert [*words] == ["a=1,2", "~b", "c=range(3)", "+d=1", "e.f=x", "g=True"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"optimizer.lr": []}, "optimizer.lr must have a value, got []; for example {'optimizer.lr': [1, 2]}"),
        ({"seed": {0, 1}}, "the values of seed must have an order, got {0, 1}; give a list, such as sorted(...)"),
        ({"a=b": 1}, "a key must be one of the config, or +KEY to add one, got 'a=b'; for example"),
        ({3: 1}, "a key must be one of the config, or +KEY to add one, got 3; for example"),
        (
            {"a": 1 + 2j},
            "a must be a number, a text, None, or a list or dict of these, got (1+2j); convert the complex",
        ),
        (
            {"a": b"text"},
            "a must be a number, a text, None, or a list or dict of these, got b'text'; convert the bytes",
        ),
        (5, "settings must be mappings or overrides KEY=VALUE, got 5; for example {'epochs': 3}"),
        (None, "settings must be mappings or overrides KEY=VALUE, got None"),
        ({"a": pd.DataFrame()}, "a must be a number, a text, None, or a list or dict of these, got Empty DataFrame"),
        ({"a": "x\0"}, "a must not have a NUL character"),
        ({"a": {"x y": 1}}, "a name inside of a must be a word, got 'x y'"),
        ({"a": lambda: 0}, "a must name what another process can import, got <function"),
        ({"a": "__main__.Net"}, "a must name what another process can import, got '__main__.Net'; write it to a file"),
        ("--cfg=job", "a setting must be a mapping or an override KEY=VALUE, got '--cfg=job'; for example epochs=3"),
        (["a=1", {"b": 1}], "a setting must be a mapping or an override KEY=VALUE, got {'b': 1}; for example epochs=3"),
        (["a=1", "+a=2"], "a key must be given once, got 'a'; put all its values into one list"),
    ],
)
def test_a_mistake_is_one_line(settings: Any, line: str) -> None:
    with pytest.raises(sweepstack.UserError) as raised:
        sweepstack.sweep(settings)
    assert str(raised.value).startswith(line)


def test_a_class_of_the_module_that_was_begun_is_named_by_its_module(tmp_path: Path) -> None:
    """python -m package.script"""
    (tmp_path / "package").mkdir()
    code = "from sweepstack.from_python import words_of\nclass Net: ...\nprint(*words_of({'model._target_': Net}))\n"
    (tmp_path / "package" / "script.py").write_text(code)
    for words, name in ((["-m", "package.script"], "package.script"), (["package/script.py"], "script")):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"model._target_={name}.Net\n"


GRID = {"optimizer.lr": [0.1, 1e38], "batch_size": [50, 100]}


def test_it_is_the_sweep_of_the_command_line(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = terminal.folder / "my notebooks"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    typed = here.train("-m", "dataset=digits", "epochs=2", "optimizer.lr=0.1,1e38", "batch_size=50,100", "threads=1")
    assert typed.code == 1
    expected = sweepstack.table()
    before = (sys.argv[:], sys.path[:], Path.cwd(), signal.getsignal(signal.SIGINT), GlobalHydra.instance().hydra)
    with pytest.warns(RuntimeWarning, match=r"2 of 4 trials have no result: lr=1e\+38 bs=\d+ \(FAILED: ") as warned:
        frame = sweepstack.sweep(GRID, dataset="digits", epochs=2, threads=1)
    assert warned[0].filename == __file__
    out, err = capfd.readouterr()
    assert out == "4 trials trained before, 2 of which diverged: not trained again (rerun=true does)\n"
    assert err == ""
    columns = [name for name in expected if name not in ("sweep", "log")]
    pd.testing.assert_frame_equal(frame[columns], expected[columns])
    assert Counter(frame["state"]) == {"FINISHED": 2, "FAILED": 2}
    after = (sys.argv[:], sys.path[:], Path.cwd(), signal.getsignal(signal.SIGINT), GlobalHydra.instance().hydra)
    assert after == before
    with pytest.raises(sweepstack.UserError) as raised:
        sweepstack.sweep({"optimizer.lrr": [1, 2]}, dataset="digits")
    assert str(raised.value) == "optimizer.lrr is not a key of the config; did you mean 'lr'?"
    assert (raised.value.rule, raised.value.remedy) == (
        "optimizer.lrr is not a key of the config",
        "did you mean 'lr'?",
    )
    with pytest.raises(sweepstack.UserError) as raised:
        sweepstack.sweep({"epochs": [-1, 0]}, dataset="digits")
    first, second = raised.value.errors
    assert (first.value, second.where) == (-1, "job 1 (epochs=0 dataset=digits)")
    assert (second.rule, second.remedy) == ("epochs should be greater than or equal to 1", "for example epochs=5")
    for key in ("epoch", "+epochs"):
        with pytest.raises(sweepstack.UserError, match=r"^(epoch is not a key|Could not append)"):
            sweepstack.sweep({"launch.dry_run": "json", key: 0}, dataset="digits")
    plan = sweepstack.sweep({"launch.dry_run": True, "seed": [5, 6]}, dataset="digits", epochs=2)
    assert plan.empty
    assert capfd.readouterr().out.startswith("2 trials -> 2 trajectories -> 1 stack\n")


SCRIPT = """
import sweepstack
from torch import nn

class Net(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))

sweepstack.sweep({"model._target_": Net, "optimizer.lr": [0.1, 0.2]}, dataset="digits", epochs=1)
"""


def test_a_script_without_a_guard_is_told_of_it(terminal: Terminal) -> None:
    (terminal.folder / "my_script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "my_script.py"], cwd=terminal.folder, env=terminal.environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert "a sweep imports the file with your model, and that file begins another sweep" in last
    assert "put sweepstack.sweep(...) below `if __name__ == '__main__':`" in last


NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
"""


def test_its_trials_can_be_trained_again_and_refined_without_a_train_py(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command that `repro` prints is typed as it stands, and finds the model beside the notebook."""
    (terminal.folder / "net_of_mine.py").write_text(NET)
    configs = terminal.folder / "my configs"
    configs.mkdir()
    (configs / "main.yaml").write_text("defaults: [dataset: digits]\nmodel: {_target_: net_of_mine.Net}\nepochs: 1\n")
    monkeypatch.chdir(terminal.folder)
    monkeypatch.syspath_prepend(str(terminal.folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    model = {"model._target_": "net_of_mine.Net", "model.shape": [[1, 8, 8]], "model.classes": 10}
    added = {f"+{key}": value for key, value in model.items() if key != "model._target_"}
    sweepstack.sweep({"seed": [0, 1], "optimizer.lr": [0.1, 0.2]}, added, config_dir=configs, config_name="main")
    sweepstack.sweep({"seed": [0, 1], "optimizer.lr": [0.3, 0.31]}, model, dataset="digits", epochs=1)
    capfd.readouterr()
    for name, flags in (("lr=0.2 seed=1", f"--config-path '{configs}' --config-name main"), ("lr=0.31 seed=1", "")):
        printed = terminal.type("sweepstack", "repro", name).stdout
        assert printed.startswith(f"python -m sweepstack.train {flags}".rstrip())
        words = shlex.split(printed)
        again = subprocess.run(
            [sys.executable, *words[1:]], cwd=terminal.folder, env=terminal.environment, capture_output=True, text=True
        )
        assert again.returncode == 0, again.stderr
    refined = terminal.type("sweepstack", "refine", "--budget", "2")
    assert refined.returncode == 0, refined.stderr
    assert refined.stdout.count("trials trained; ") == 1
    assert "2 trials -> " in refined.stdout


def test_a_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python and on the command line."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    line = "the current folder must exist (No such file or directory); change to another one (cd, in Python os.chdir)"
    with pytest.raises(sweepstack.UserError, match=re.escape(line)):
        sweepstack.sweep(dataset="digits")
    for done in (here.sweepstack("table"), here.train("dataset=digits")):
        assert (done.code, done.err) == (2, f"error: {line}\n")


STOPPED = """
import sweepstack
sweepstack.sweep(
    {"optimizer.lr": [0.1, 0.2], "checkpoint.every": 0, "threads": 1}, dataset="digits", model="cnn", epochs=%d
)
"""


def test_a_stopped_sweep_goes_on(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", STOPPED % 200]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=terminal.folder, env=terminal.environment, **pipes)
    deadline = time.monotonic() + 120
    while not [*terminal.folder.glob("journal/**/*.pt")]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert err.splitlines()[-1].startswith("KeyboardInterrupt")
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    plan = here.train(
        "-m", "dataset=digits", "model=cnn", "epochs=200", "optimizer.lr=0.1,0.2", "checkpoint.every=0", "threads=1",
        "launch.dry_run=true",
    )  # fmt: skip
    assert "interrupted" in plan.out


def test_the_page_says_what_works(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "how-to" / "from_python.md").read_text()
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    space: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(block, space)
    assert len(space["df"]) == 6
    assert {*space["df"]["state"]} <= {"FINISHED", "PRUNED"}
    assert len(sweepstack.table("all")) == 10
