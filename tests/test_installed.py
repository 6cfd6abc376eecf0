"""The wheel is enough: a project of the user's trains with it, and other Hydra programs beside it stay as they are."""

import csv
import io
import re
import zipfile
from pathlib import Path

import pytest

from sweepstack import paths

from .installed import Installed, build_wheel, environment
from .terminal import ROOT

TRAIN = """
import hydra
from sweepstack import app


@hydra.main(version_base=None, config_path="{path}", config_name="{name}")
def train(cfg):
    return app.run(cfg)


if __name__ == "__main__":
    app.main(train)
"""
NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, pixels, classes, width=8):
        super().__init__(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))
"""
MINIMAL = "defaults:\n  - dataset: digits\n  - model: net\n  - optimizer: sgd\n"
PLAIN = """
import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    {body}
    print(cfg, HydraConfig.get().runtime.choices, [source.path for source in HydraConfig.get().runtime.config_sources])


if __name__ == "__main__":
    main()
"""


def write(folder: Path, **files: str) -> Path:
    """Writes files; `__` in a name is the end of a folder's name, and the ending is `.yaml` below conf."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}{'.yaml' if '__' in name else '.py'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return environment(tmp_path_factory.mktemp("environment") / "with it", wheel)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return environment(tmp_path_factory.mktemp("environment") / "without it")


def test_the_wheel_has_the_one_copy_of_the_configs(wheel: Path, installed: Installed, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for folder in ("conf", "sweeps"):
            files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / folder).rglob("*.yaml")}
            prefix = f"sweepstack/{folder}/"
            inside = [name for name in archive.namelist() if name.startswith(prefix)]
            assert {name.removeprefix("sweepstack/"): archive.read(name) for name in inside} == files
    program = "import sweepstack, hydra_plugins.sweepstack as door; print(sweepstack.__file__, *door.__path__)"
    found = installed.type(tmp_path, "python", "-c", program)
    assert "with it" in found
    assert str(ROOT) not in found


def test_a_project_of_ones_own_trains_sweeps_and_is_looked_at_again(installed: Installed, tmp_path: Path) -> None:
    """With a main config that says what is learned, and nothing else."""
    project = write(
        tmp_path / "my project",
        train=TRAIN.format(path="conf", name="config"),
        net=NET,
        conf__config=MINIMAL,
        conf__model__net="_target_: net.Net\npixels: 64\nclasses: ${dataset.classes}\n",
        conf__optimizer__sgd="_target_: torch.optim.SGD\nlr: 0.25\n",
        sweeps__mine="# @package _global_\nhydra:\n  sweeper:\n    params:\n      optimizer.lr: 0.1,0.3\n",
    )
    installed.type(project, "python", "-m", "train", "--config-name", "config", "epochs=1")
    swept = installed.type(project, "python", "train.py", "-m", "sweeps=mine", "epochs=1")
    assert "2 trials -> 2 trajectories -> 1 stack" in swept
    assert re.search(r"^ 0\.3 .* FINISHED$", swept, re.MULTILINE)
    assert re.search(r"^Browse: .*sweepstack'? ui$", swept, re.MULTILINE)
    assert "2 trials trained; " in installed.type(project / "conf", "sweepstack", "refine", "--budget", "2")
    both = installed.type(project / "conf", "python", "../train.py", "-m", "sweeps=mine,lr", "epochs=1")
    assert "2 trials trained before" in both
    assert "5 trials -> " in both  # the sweep `lr` of the package has seven, two of them known
    assert (project / "mlruns" / "mlflow.db").is_file()
    assert not (project / "conf" / "mlruns").exists()
    inside = project / "conf" / "model"
    table = installed.type(inside, "sweepstack", "table", "--sweep", "all", "--format", "csv")
    rates = {row["lr"] for row in csv.DictReader(io.StringIO(table))}
    assert rates == {"0.001", "0.003", "0.01", "0.03", "0.1", "0.25", "0.3", "1.0"}  # 0.25: of the optimizer beside it
    assert "epochs: 1" in installed.type(inside, "sweepstack", "show", "lr=0.3")
    again = installed.type(inside, "sweepstack", "repro", "lr=0.3", "--run")
    assert again.startswith("python ../../train.py ")
    assert "\nequal, " in again
    expected = "python -m train --config-name config epochs=1 rerun=true\n"
    assert installed.type(project, "sweepstack", "repro", "epochs=1") == expected
    installed.type(project, "sweepstack", "report", "-o", "report.html")
    assert (project / "report.html").stat().st_size > 10_000


def test_a_job_with_a_folder_of_its_own_records_in_the_store_of_the_project(
    installed: Installed, tmp_path: Path
) -> None:
    """Also where the configs are not in `conf`, so that nothing marks the project."""
    project = write(
        tmp_path, train=TRAIN.format(path="configs", name="main"), configs__main=MINIMAL.replace("net", "mlp")
    )
    installed.type(project, "python", "train.py", "hydra.job.chdir=true", "epochs=1")
    assert [
        path.relative_to(project).as_posix() for path in project.rglob("mlflow.db") if path.parent.name != "journal"
    ] == ["mlruns/mlflow.db"]
    assert "FINISHED" in installed.type(project, "sweepstack", "table", "--sweep", "all")


def test_another_hydra_program_beside_it_stays_as_it_was(
    installed: Installed, without: Installed, tmp_path: Path
) -> None:
    """Even one that has our words in its config, a folder sweeps beside it, and reads tables of ours."""
    write(
        tmp_path,
        plain=PLAIN.format(body="pass"),
        conf__config="defaults:\n  - db: mysql\n  - _self_\noptimizer: sgd\nlauncher: sweepstack\n",
        conf__db__mysql="port: 3306\n",
        sweeps__mine="a: 1\n",
    )
    commands = [
        ["--help"],
        ["--info", "searchpath"],
        ["--info", "defaults"],
        ["--info", "config"],
        ["--cfg", "all"],
        ["optimizer=adam"],
        ["-m", "optimizer=a,b"],
        ["-m", "+sweeps=1,2"],
    ]
    for words in commands:
        texts = [one.type(tmp_path, "python", "plain.py", *words) for one in (without, installed)]
        before, after = (re.sub(r"\d{4}-\d\d-\d\d[\s_/]\d\d[:-]\d\d[:-]\d\d(,\d+)?", "TIME", text) for text in texts)
        assert after == before, words
        assert before
    for word in ("dataset=mnist", "sweeps=mine"):
        for one in (without, installed):
            assert "Could not override" in one.type(tmp_path, "python", "plain.py", word, code=1)
    reading = tmp_path / "reading.py"
    reading.write_text(f"import sweepstack\nsweepstack.table\n{PLAIN.format(body='pass')}")
    assert "sweepstack/conf" not in installed.type(tmp_path, "python", "reading.py", "--info", "searchpath")


FORMS = {
    "a config name and folder of its own": (
        TRAIN.format(path="../configs", name="main"),
        {"configs/main.yaml": MINIMAL.replace("net", "mlp")},
    ),
    "no config at all": (TRAIN.replace('config_path="{path}", config_name="{name}"', ""), {}),
    "sections of its own, and no list of defaults": (
        TRAIN.format(path="conf", name="config"),
        {
            "pkg/conf/config.yaml": "dataset:\n {_target_: sweepstack.training.data.digits, shape: [64], classes: 10}\n"
            "model: {_target_: sweepstack.training.models.Linear, shape: [1, 8, 8], outputs: 10}\n"
            "optimizer: {_target_: torch.optim.Rprop, lr: 0.1}\n"
        },
    ),
    "groups that another config of its own chooses": (
        TRAIN.format(path="conf", name="config"),
        {
            "pkg/conf/config.yaml": "defaults: [common, setup: small]\nepochs: 2\n",
            "pkg/conf/common.yaml": "defaults: [model: mlp]\n",
            "pkg/conf/setup/small.yaml": "# @package _global_\ndefaults: [/dataset: digits, /optimizer: adam]\n",
        },
    ),
    "changes of our groups": (
        TRAIN.format(path="conf", name="config"),
        {"pkg/conf/config.yaml": "defaults:\n  - override dataset: digits\n  - override hydra/launcher: basic\n"},
    ),
    "our launcher, and an import inside of the function": (
        TRAIN.format(path="conf", name="config")
        .replace("from sweepstack import app\n", "", 1)
        .replace("    return app", "    from sweepstack import app\n    return app")
        .replace("    app.main(train)", "    train()"),
        {"pkg/conf/config.yaml": f"{MINIMAL.replace('net', 'mlp')}  - override hydra/launcher: sweepstack\n"},
    ),
    "structured configs with the names of ours": (
        "from dataclasses import dataclass, field\nfrom hydra.core.config_store import ConfigStore\n\n\n"
        "@dataclass\nclass Main:\n"
        "    defaults: list = field(default_factory=lambda: [{'dataset': 'digits'}, '_self_'])\n    seed: int = 3\n\n\n"
        "ConfigStore.instance().store(name='config', node=Main)\n"
        "ConfigStore.instance().store(group='model', name='logistic', node={'_target_': 'own.Net'})\n"
        + TRAIN.replace('config_path="{path}", config_name="{name}"', 'config_name="config"'),
        {},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_main_function_of_hydra_gets_every_default(installed: Installed, tmp_path: Path, form: str) -> None:
    program, files = FORMS[form]
    for name, text in {"pkg/__init__.py": "", "pkg/train.py": program, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    words = ["--cfg", "job", "epochs=7", "clip_norm=1.5"]
    (tmp_path / "elsewhere").mkdir()
    shown = [
        installed.type(tmp_path, "python", "-m", "pkg.train", *words),
        installed.type(tmp_path / "elsewhere", "python", "../pkg/train.py", *words),
    ]
    shown = [text[text.index("dataset:\n") :] for text in shown]  # Hydra 1.4 may warn of `version_base` before
    assert shown[0] == shown[1]
    shown[0] = f"\n{shown[0]}"
    for line in ("epochs: 7", "clip_norm: 1.5", "  sweep: ${sweep_name:}", "  name: grid", "  kind: constant"):
        assert f"\n{line}\n" in shown[0]
    assert ("\nseed: 3\n" in shown[0], "_target_: own.Net\n" in shown[0]) == (form.startswith("structured"),) * 2
    uses_sgd = form not in (
        "sections of its own, and no list of defaults",
        "groups that another config of its own chooses",
    )
    assert ("momentum" in shown[0]) == uses_sgd  # of another optimizer, ours would be one keyword too many


def test_a_program_whose_configs_hydra_would_not_find_is_told_so(installed: Installed, tmp_path: Path) -> None:
    """It would read those of the package in their place."""
    program = "import hydra\nfrom sweepstack import app\n\napp.main(hydra.main('conf', 'config', None)(app.run))\n"
    write(tmp_path, program=program)
    told = installed.type(tmp_path, "python", "program.py", code=2)
    assert told.startswith("error: Hydra looks for configs beside the function that it calls")
    assert told.count("\n") == 1


@pytest.fixture
def not_in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "checkout", lambda: None)


@pytest.mark.usefixtures("not_in_a_checkout")
def test_the_project_is_the_nearest_folder_with_configs_and_none_of_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        return paths.project_root()

    outer, inner = tmp_path / "outer", tmp_path / "outer" / "work" / "inner"
    assert found(outer / "work") == outer / "work"
    for project, name in ((outer, "train.yaml"), (inner, "model/net.yaml")):
        file = project / "conf" / name
        file.parent.mkdir(parents=True)
        file.write_text("a: 1\n")
    assert found(outer / "work") == outer
    assert found(inner / "src" / "deep") == inner
    assert found(inner / "conf" / "model") == inner
    (outer / "work" / "other" / "conf").mkdir(parents=True)
    (outer / "work" / "other" / "conf" / "nginx.conf").write_text("")
    assert found(outer / "work" / "other") == outer
    packages = inner / ".venv" / "lib" / "python3.11" / "site-packages"
    for folder in (packages, inner / ".venv"):
        (folder / "conf").mkdir(parents=True)
        (folder / "conf" / "config.yaml").write_text("a: 1\n")
    (inner / ".venv" / "pyvenv.cfg").write_text("")
    assert found(packages / "one") == inner
