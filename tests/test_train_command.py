"""python train.py, as a user types it."""

import importlib.metadata
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from sweepstack.tracking.runs_as_rows import Row

from . import here
from .terminal import ROOT, Terminal, new_store

DIGITS = ("dataset=digits", "epochs=2")


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> tuple[Terminal, subprocess.CompletedProcess[str]]:
    """One sweep that several tests look at: a named one, changed; three learning rates, one of them far too large."""
    terminal = Terminal(tmp_path_factory.mktemp("swept"))
    new_store(terminal.folder, empty_database)
    words = ("sweeps=lr_batch_epochs", *DIGITS, "batch_size=100", "model=mlp", "optimizer.lr=0.01,0.3,1e30")
    done = terminal.type("train.py", "-m", *words, "pictures=3")
    return terminal, done


def test_a_sweep_records_every_trial_with_its_true_state(swept) -> None:
    terminal, done = swept
    rows = by_name(terminal.store.rows())
    assert {name: row.state for name, row in rows.items()} == {
        "lr=0.01": "FINISHED",
        "lr=0.3": "FINISHED",
        "lr=1e+30": "FAILED",
    }
    assert done.returncode == 1  # one trial failed, and it cost no other one anything
    assert "step" in rows["lr=1e+30"].reason
    assert "1e+30" in rows["lr=1e+30"].reason
    assert rows["lr=0.3"].metrics["val/accuracy"] > rows["lr=0.01"].metrics["val/accuracy"]
    assert rows["lr=0.3"].params["lr"] == "0.3"
    assert rows["lr=0.3"].params["model"] == "mlp"


def test_a_sweep_ends_with_its_table_best_first_and_the_next_commands(swept) -> None:
    terminal, done = swept
    table = done.stdout[done.stdout.index("   lr") :].splitlines()
    assert [line.split()[0] for line in table[2:5]] == ["0.3", "0.01", "1e+30"]
    assert "FAILED" in table[4]
    assert "sweepstack ui" in done.stdout
    assert f"table --sweep {terminal.store.rows()[0].sweep}" in done.stdout
    assert "workflowType=machine_learning" in done.stdout
    assert done.stderr == ""  # no chatter of MLflow, Alembic or Hydra


def test_a_run_carries_metrics_per_epoch_dataset_artifacts_and_origin(swept) -> None:
    terminal, _ = swept
    client = terminal.store.client
    row = by_name(terminal.store.rows())["lr=0.3"]
    history = client.get_metric_history(row.run_id, "val/accuracy")
    assert [(point.step, point.value) for point in history][-1] == (2, row.metrics["val/accuracy"])
    assert len(history) == 2
    assert row.metrics["val/accuracy_best"] == max(point.value for point in history)

    run = client.get_run(row.run_id)
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"
    assert run.data.tags["versions.torch"] == importlib.metadata.version("torch")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.data.tags["mlflow.source.git.commit"] == commit.stdout.strip()
    assert run.data.tags["sweep"] == row.sweep
    assert client.get_experiment(run.info.experiment_id).name == "train"

    names = {file.path for file in client.list_artifacts(row.run_id)}
    kept = {"weights.pt", "test_predictions.npy", "held_out_predictions.npy", "first_images.png"}
    assert names == {"config.yaml", "overrides.yaml", *kept}
    config = yaml.safe_load(Path(client.download_artifacts(row.run_id, "config.yaml")).read_text())
    assert config["optimizer"]["lr"] == 0.3
    assert config["model"]["shape"] == [1, 8, 8]  # resolved, not ${dataset.shape}
    weights = torch.load(client.download_artifacts(row.run_id, "weights.pt"), weights_only=True)
    assert weights["layers.1.weight"].shape == (64, 64)


def test_a_named_sweep_that_is_changed_keeps_its_name(swept) -> None:
    terminal, _ = swept
    (sweep,) = {row.sweep for row in terminal.store.rows()}
    assert sweep.startswith("lr_batch_epochs_")
    assert [folder.name for folder in (terminal.folder / "multirun").iterdir()] == [sweep]


def test_each_trial_has_its_own_hydra_folder(swept) -> None:
    terminal, _ = swept
    (sweep,) = (terminal.folder / "multirun").iterdir()
    for job in ("0", "1", "2"):
        assert (sweep / job / ".hydra" / "overrides.yaml").is_file()
        assert (sweep / job / "train.log").is_file()
    assert "FAILED" in (sweep / "2" / "train.log").read_text()


def test_plain_hydra_launcher_gives_the_same_figures(swept, terminal: Terminal) -> None:
    ours = by_name(swept[0].store.rows())["lr=0.3"]
    sweep = ("-m", "hydra/launcher=basic", *DIGITS, "model=mlp", "optimizer.lr=0.3,0.01")
    assert terminal.type("train.py", *sweep).returncode == 0
    rows = terminal.store.rows()
    assert len(rows) == 2
    plain = next(row for row in rows if row.params["lr"] == "0.3")
    for key, value in ours.metrics.items():
        if "seconds" not in key:
            assert plain.metrics[key] == pytest.approx(value, rel=1e-4), key


def test_in_a_multirun_nothing_trains_until_every_job_is_checked(bare_terminal: Terminal) -> None:
    done = bare_terminal.type("train.py", "-m", *DIGITS, "optimizer.lr=0.1,-1", "batch_size=10,0")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(
        "error: job 1 (dataset=digits epochs=2 optimizer.lr=0.1 batch_size=0): batch_size should"
    )
    assert done.stdout == ""
    assert not (bare_terminal.folder / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optimizer.momentun=0.9"], "optimizer.momentun is not a key of the config; did you mean 'momentum'?"),
        (["model=mpl"], "model=mpl does not exist; did you mean 'mlp'?"),
        (["sweeps=lr_batch"], "sweeps=lr_batch does not exist; did you mean 'lr_batch_epochs'?"),
        (["batch_size=0"], "batch_size should be greater than or equal to 1, got 0"),
        (["optimizer.lr=[1"], "override 'optimizer.lr=[1' cannot be read"),
        (
            ["dataset=digits", "+optimizer.momentun=1"],
            "optimizer.momentun is not a keyword of torch.optim.SGD; did you",
        ),
        (["dataset=digits", "model.shape=[1,28,28]"], "model must take the dataset's images"),
        (["tracking.uri=http://nowhere.invalid:5000"], "the tracking server must have a host that is known"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(terminal: Terminal, words: list[str], line: str) -> None:
    done = terminal.type("train.py", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    (shown,) = done.stderr.splitlines()
    assert shown.startswith(f"error: {line}")


def test_help_and_config_errors_load_neither_torch_nor_mlflow(terminal: Terminal) -> None:
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "finally: print(sorted({'torch', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)), file=sys.stderr)\n"
    )
    train = str(Path(__file__).parents[1] / "train.py")
    for words in (["--help"], ["epochs=0"], ["-m", "optimizer.lr=0.1,-1"]):
        done = subprocess.run(
            [sys.executable, "-c", code, train, *words], cwd=terminal.folder, capture_output=True, text=True
        )
        assert done.stderr.splitlines()[-1] == "[]", words


def test_a_failing_single_trial_exits_with_1_and_our_traceback_is_in_the_log(terminal: Terminal) -> None:
    (terminal.folder / "broken.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, images):\n"
        "        if self.training: raise RuntimeError('the net tore')\n"
        "        return super().forward(images.flatten(1))\n"
    )
    net = [
        "model._target_=broken.Net",
        "~model.shape",
        "~model.classes",
        "+model.in_features=64",
        "+model.out_features=10",
    ]
    done = terminal.type("train.py", *DIGITS, *net)
    assert done.returncode == 1
    assert "FAILED: RuntimeError: the net tore" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    (log,) = terminal.folder.glob("outputs/*/train.log")
    assert "Traceback" in log.read_text()
    assert terminal.store.rows("all")[0].state == "FAILED"


def test_own_model_dataset_and_optimizer_come_in_from_a_folder_elsewhere(terminal: Terminal) -> None:
    (terminal.folder / "mine.py").write_text(
        "import numpy, torch\n"
        "from PIL import Image\n"
        "from sklearn.datasets import load_digits\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.layers = torch.nn.Sequential(torch.nn.Conv2d(1, width, 3), torch.nn.ReLU(), torch.nn.Flatten(),\n"
        "                                          torch.nn.LazyLinear(10))\n"
        "        self.layers(torch.zeros(1, 1, 8, 8))\n"
        "    def forward(self, images):\n"
        "        return self.layers(images)\n"
        "class Pictures:\n"
        "    def __init__(self, train, count):\n"
        "        digits = load_digits()\n"
        "        part = slice(count) if train else slice(count, None)\n"
        "        self.images = digits.images[part].astype('uint8') * 15\n"
        "        self.labels = digits.target[part]\n"
        "    def __len__(self):\n"
        "        return len(self.labels)\n"
        "    def __getitem__(self, place):\n"
        "        return Image.fromarray(self.images[place]), int(self.labels[place])\n"
        "class Sign(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n"
        "        for group in self.param_groups:\n"
        "            for p in group['params']:\n"
        "                p.grad.sign_()\n"
        "        return super().step(closure)\n"
    )
    for group, name, text in (
        ("model", "net", "_target_: mine.Net\nwidth: 4\n"),
        ("dataset", "pictures", "_target_: mine.Pictures\ncount: 1500\nshape: [1, 8, 8]\nclasses: 10\n"),
        ("optimizer", "sign", "_target_: mine.Sign\nlr: 0.01\n"),
    ):
        path = terminal.folder / "my_conf" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    mine = ("--config-dir", "my_conf", "dataset=pictures", "model=net", "optimizer=sign", "epochs=3")
    done = terminal.type("train.py", "-m", *mine, "model.width=4,8")
    assert done.returncode == 0, done.stderr
    rows = by_name(terminal.store.rows())
    assert set(rows) == {"width=4", "width=8"}
    assert all(row.metrics["test/accuracy"] > 0.6 for row in rows.values())


def test_a_plan_is_shown_and_nothing_is_trained_or_written(bare_terminal: Terminal) -> None:
    grid = ("dataset=digits", "optimizer.lr=0.1,0.2", "epochs=5,10", "batch_size=50,100")
    done = bare_terminal.type("train.py", "-m", *grid, "launch={dry_run:true,stack:true,width:null}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "8 trials -> 4 trajectories -> 2 stacks" or "plain trainer" in done.stdout  # as was measured
    assert lines[1].startswith("60 run-epochs asked for, 40 to train, in about ")
    assert any(line == "    lr=0.1 epochs=10 bs=50  <- lr=0.1 epochs=5 bs=50" for line in lines)
    assert [*bare_terminal.folder.iterdir()] == []


def test_a_plan_of_a_single_trial_is_a_mistake(terminal: Terminal) -> None:
    done = terminal.type("train.py", "dataset=digits", "launch.dry_run=true")
    assert done.returncode == 2
    assert done.stderr.startswith("error: launch.dry_run shows the plan of a sweep")


def test_a_stack_and_the_plain_trainer_record_the_same(terminal: Terminal) -> None:
    """Shared trajectories, mixed seeds: as many runs and the same figures, whichever way they train; one for all
    duplicates, which each have their folder."""
    grid = ("-m", "dataset=digits", "optimizer.lr=0.05,0.1", "epochs=2,4,2", "seed=0,1")
    stacked = terminal.type("train.py", *grid, "launch.width=4", "tracking.sweep=stacked")
    assert (stacked.returncode, stacked.stderr) == (0, "")
    assert stacked.stdout.splitlines()[:2] == [
        "8 jobs are 4 trials: the same config is trained once",
        "8 trials -> 4 trajectories -> 1 stack: 16 of 24 run-epochs to train",
    ]
    assert len([*terminal.folder.glob("multirun/stacked/*/.hydra")]) == 12
    plain = terminal.type("train.py", *grid, "launch.stack=false", "tracking.sweep=plain", "rerun=true")
    assert plain.returncode == 0
    rows = {sweep: sorted(terminal.store.rows(sweep), key=lambda row: row.name) for sweep in ("stacked", "plain")}
    assert [row.name for row in rows["stacked"]] == [row.name for row in rows["plain"]]
    assert len(rows["stacked"]) == 8
    assert len({row.run_id for of_sweep in rows.values() for row in of_sweep}) == 16
    client = terminal.store.client
    for one, other in zip(rows["stacked"], rows["plain"], strict=True):
        for key in ("train/loss", "val/loss", "test/loss"):
            assert one.metrics[key] == pytest.approx(other.metrics[key], abs=1e-5)
        history = client.get_metric_history(one.run_id, "val/accuracy")
        assert [point.step for point in history] == list(range(1, int(one.params["epochs"]) + 1))
        assert one.metrics["train_seconds_share"] < one.metrics["train_seconds"]
        weights = [torch.load(client.download_artifacts(row.run_id, "weights.pt")) for row in (one, other)]
        torch.testing.assert_close(*(parts["linear.weight"] for parts in weights), rtol=0, atol=1e-5)
        tags = client.get_run(one.run_id).data.tags
        assert tags["trained"].startswith("stacked, 4 trajectories wide, ")
        assert client.get_run(other.run_id).data.tags["trained"].startswith("by the plain trainer")
    assert len({row.params["seed"] for row in rows["plain"]}) == 2


def test_a_stopped_sweep_keeps_what_is_finished_and_says_killed(terminal: Terminal) -> None:
    process = terminal.start("train.py", "-m", "dataset=digits", "epochs=1,1000000")
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stdout is not None
    assert process.stdout.readline().startswith("2 trials -> 1 trajectory -> 1 stack: ")
    assert process.stdout.readline().startswith("[1/2] epochs=1 ")
    time.sleep(1)  # the second trial trains by now
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    watchdog.cancel()
    assert process.returncode == 143
    assert "KILLED" in out
    assert err.startswith("Stopped")
    terminal.wait_for_records()
    states = {row.name: row.state for row in terminal.store.rows()}
    assert states == {"epochs=1": "FINISHED", "epochs=1000000": "KILLED"}


def test_a_stopped_stack_kills_what_still_trains(terminal: Terminal) -> None:
    grid = ("dataset=digits", "optimizer.lr=0.1,0.2", "epochs=1,1000000", "launch.width=2", "tracking.sweep=stopped")
    process = terminal.start("train.py", "-m", *grid)
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stdout is not None
    while not process.stdout.readline().startswith("[2/4]"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate()
    watchdog.cancel()
    assert process.returncode == 130
    terminal.wait_for_records()
    states = {row.name: row.state for row in terminal.store.rows()}
    assert states == {
        "lr=0.1 epochs=1": "FINISHED",
        "lr=0.2 epochs=1": "FINISHED",
        "lr=0.1 epochs=1000000": "KILLED",
        "lr=0.2 epochs=1000000": "KILLED",
    }
    kept = sorted(path.parent.name for path in (terminal.folder / "multirun" / "stopped").glob("*/.hydra"))
    assert kept == ["0", "2"]  # for the files of those that were stopped there is no time


def test_an_exception_inside_a_stack_costs_only_those_that_fail_alone_too(terminal: Terminal) -> None:
    (terminal.folder / "broken.py").write_text(
        "import os, torch\n"
        "def count():\n"  # where no stack looks: a module that counts in an attribute trains alone
        "    os.environ['CALLS'] = str(int(os.environ.get('CALLS', 0)) + 1)\n"
        "    return int(os.environ['CALLS'])\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__(64, classes)\n"
        "    def forward(self, images):\n"
        "        if self.training and count() > 400 and len(images) not in (50, 43):\n"
        "            if float(self.weight.detach().norm()) > 4: raise RuntimeError('the net tore')\n"
        "        return super().forward(images.flatten(1))\n"
    )
    grid = ("optimizer.lr=0.01,0.3", "batch_size=50,64", "epochs=30", "launch.width=2")
    done = terminal.type("train.py", "-m", "dataset=digits", "model._target_=broken.Net", *grid)
    assert done.returncode == 1
    assert done.stdout.count("; its trials go on one by one.") == 1
    assert "Traceback" not in done.stdout + done.stderr
    rows = by_name(terminal.store.rows())
    assert {name: (row.state, row.reason) for name, row in rows.items()} == {
        "lr=0.01 bs=50": ("FINISHED", ""),
        "lr=0.3 bs=50": ("FINISHED", ""),
        "lr=0.01 bs=64": ("FINISHED", ""),
        "lr=0.3 bs=64": ("FAILED", "RuntimeError: the net tore (in your broken.py, line 10, forward)"),
    }
    client = terminal.store.client
    tags = {name: client.get_run(row.run_id).data.tags for name, row in rows.items()}
    assert "a stack of 2 failed: " in tags["lr=0.01 bs=64"]["recomposed"]
    assert "recomposed" not in tags["lr=0.01 bs=50"]
    logs = [path.read_text() for path in terminal.folder.glob("multirun/*/*/train.log")]
    assert len(logs) == 4
    (torn,) = [text for text in logs if "the net tore" in text]
    assert "Traceback" in torn


def test_a_job_with_a_folder_and_an_environment_of_its_own_trains_there(terminal: Terminal) -> None:
    (terminal.folder / "where.py").write_text(
        "import os, pathlib, torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__(64, classes)\n"
        "        pathlib.Path('here.txt').write_text(os.environ.get('FOO', ''))\n"
        "    def forward(self, images):\n"
        "        return super().forward(images.flatten(1))\n"
    )
    grid = ("dataset=digits", "model._target_=where.Net", "epochs=1,2", "tracking.sweep=own")
    own = ("hydra.job.chdir=true", "+hydra.job.env_set.FOO=bar")
    done = terminal.type("train.py", "-m", *grid, *own)
    assert (done.returncode, done.stderr) == (0, "")
    for job in ("0", "1"):
        assert (terminal.folder / "multirun" / "own" / job / "here.txt").read_text() == "bar"


def test_a_folder_that_cannot_be_written_to_costs_one_trial_of_a_stack(terminal: Terminal) -> None:
    blocked = terminal.folder / "multirun" / "blocked"
    blocked.mkdir(parents=True)
    (blocked / "1").write_text("a file")
    done = terminal.type(
        "train.py", "-m", *DIGITS, "optimizer.lr=0.1,0.2,0.3", "launch.width=3", "tracking.sweep=blocked"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    states = {row.name: row.state for row in terminal.store.rows()}
    assert states == {"lr=0.1": "FINISHED", "lr=0.2": "FAILED", "lr=0.3": "FINISHED"}


def test_several_first_uses_at_once_brick_nothing(bare_terminal: Terminal) -> None:
    terminal = bare_terminal
    processes = [terminal.start("train.py", "dataset=digits", "epochs=1", f"seed={seed}") for seed in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert (process.returncode, err) == (0, "")
    rows = terminal.store.rows("all")
    assert sorted(row.params["seed"] for row in rows) == ["0", "1", "2"]
    assert {row.state for row in rows} == {"FINISHED"}
    with sqlite3.connect(terminal.folder / "mlflow.db") as database:
        used = database.execute(
            "SELECT DISTINCT experiments.name FROM experiments JOIN runs USING (experiment_id)"
        ).fetchall()
    assert used == [("train",)]  # none under Default


@pytest.mark.parametrize("words", [(), ("-m",)])
def test_a_signal_after_the_last_trial_loses_nothing(terminal: Terminal, words: tuple[str, ...]) -> None:
    process = terminal.start("train.py", *words, "dataset=digits", "epochs=1")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("[1/1]"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    terminal.wait_for_records()
    assert [row.state for row in terminal.store.rows("all")] == ["FINISHED"]


@pytest.mark.parametrize(
    ("swept", "line"),
    [
        ("tracking.experiment=one,other", "error: tracking must be the same for all jobs of a sweep"),
        ("tracking.sweep=null", "error: job 0 (dataset=digits epochs=2 tracking.sweep=null): tracking.sweep should be"),
        ("tracking.sweep=latest", "error: tracking.sweep should be"),
    ],
)
def test_a_sweep_has_one_place_and_one_name(terminal: Terminal, swept: str, line: str) -> None:
    done = terminal.type("train.py", "-m", *DIGITS, swept)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1


def test_a_trial_of_an_earlier_command_is_shown_by_its_params(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the name of that command, and the table of the sweep its params. The named sweep has a dot in its name."""
    (terminal.folder / "conf").mkdir()
    (terminal.folder / "conf" / "config.yaml").write_text("defaults: [dataset: digits]\nepochs: 1\nthreads: 1\n")
    (terminal.folder / "train.py").write_text((ROOT / "src/sweepstack/cli/project/train.py.template").read_text())
    (terminal.folder / "sweeps").mkdir()
    for name, values in (("lr_v1", "0.3,0.4"), ("lr_v1.5", "0.1,0.2")):
        grid = f"# @package _global_\nhydra:\n  sweeper:\n    params:\n      optimizer.lr: {values}\n"
        (terminal.folder / "sweeps" / f"{name}.yaml").write_text(grid)
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    for words in (["optimizer.lr=0.1", "optimizer.momentum=0.0"], ["-m", "sweeps=lr_v1.5"]):
        done = here.train(*words, program=terminal.folder / "train.py")
        assert done.code == 0, done.err
    assert {row.params["lr"] for row in terminal.store.rows()} == {"0.1", "0.2"}
    shown = here.sweepstack("show", "lr=1e-1 bs=100")
    assert shown.out.startswith("lr=0.1 momentum=0.0  FINISHED\n"), shown.err
