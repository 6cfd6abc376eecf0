"""The jobs of a sweep: what was typed and what files say below hydra, nothing lost."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.grids import jobs_of
from sweepstack.hydra_adapter.ignored_settings import check_grid, check_obeyed

FILES = {
    "sweeps/a.yaml": "{tracking: {sweep: 'a_${sweep_name:}'}, hydra: {sweeper: {params: {optimizer.lr: '0.1,0.2'}}}}",
    "sweeps/b.yaml": "{tracking: {sweep: b}, hydra: {sweeper: {params: {seed: '1,2', batch_size: 50}}}}",
    "experiment/plain.yaml": "batch_size: 20",
    "experiment/grid.yaml": "{batch_size: 30, hydra: {sweeper: {params: {epochs: 'range(1,3)'}}}}",
    "experiment/nested.yaml": "hydra: {sweeper: {params: {sweeps: 'a,b', epochs: 3}}}",
    "experiment/called.yaml": "hydra: {callbacks: {mine: {_target_: hydra.experimental.callback.Callback}}}",
    "experiment/batched.yaml": "hydra: {sweeper: {max_batch_size: 2}}",
    "experiment/placed.yaml": "hydra: {sweep: {subdir: 'mine_${hydra.job.num}'}}",
    "model/deep.yaml": "{_target_: a.b, hidden: 3}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        package = "" if name.startswith("model") else "# @package _global_\n"
        (folder / name).write_text(f"{package}{text}\n")
    return folder


Jobs = Callable[..., list[list[str]]]


@pytest.fixture
def jobs(loader: ConfigLoader, folder: Path) -> Jobs:
    setup_globals()

    def make(*typed: str) -> list[list[str]]:
        """All overrides of each job; every one of them passes the checks of the launcher."""
        of_hydra = [f"hydra.searchpath=[file://{folder}]", "hydra.mode=MULTIRUN"]
        line = ["dataset=digits", *typed]
        master = loader.load_configuration("config", [*of_hydra, *line], run_mode=RunMode.MULTIRUN)
        composer = Composer(loader, master)
        found = jobs_of(composer, master, line)
        for number, job in enumerate(found):
            cfg = composer.compose(job, number)
            check_obeyed(cfg.hydra, master.hydra)
            check_grid(cfg, cfg.hydra)
        return found

    return make


def shown(jobs: Sequence[Sequence[str]]) -> list[str]:
    return [" ".join(line for line in job if line != "dataset=digits" and "tracking.sweep" not in line) for job in jobs]


def test_a_grid_is_in_the_order_that_hydra_gives_it(jobs: Jobs) -> None:
    assert shown(jobs("seed=1,2", "optimizer.lr=0.1,0.2")) == [
        "seed=1 optimizer.lr=0.1",
        "seed=1 optimizer.lr=0.2",
        "seed=2 optimizer.lr=0.1",
        "seed=2 optimizer.lr=0.2",
    ]


def test_named_sweeps_are_joined_under_one_name(jobs: Jobs) -> None:
    found = jobs("sweeps=a,b")
    assert shown(found) == [
        "optimizer.lr=0.1 sweeps=a",
        "optimizer.lr=0.2 sweeps=a",
        "seed=1 batch_size=50 sweeps=b",
        "seed=2 batch_size=50 sweeps=b",
    ]
    names = [line for job in found for line in job if line.startswith("tracking.sweep=")]
    assert (len(names), len(set(names))) == (4, 1)


def test_what_is_typed_is_crossed_with_each_grid_and_replaces_its_keys(jobs: Jobs) -> None:
    found = jobs("sweeps=a,b", "seed=7,8", "tracking.sweep=mine")
    assert shown(found) == [
        "optimizer.lr=0.1 sweeps=a seed=7",
        "optimizer.lr=0.1 sweeps=a seed=8",
        "optimizer.lr=0.2 sweeps=a seed=7",
        "optimizer.lr=0.2 sweeps=a seed=8",
        "seed=7 batch_size=50 sweeps=b",
        "seed=8 batch_size=50 sweeps=b",
    ]
    assert all(job.count("tracking.sweep=mine") == 1 for job in found)


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        (["experiment=plain,grid"], 1 + 2),
        (["experiment=grid", "epochs=5"], 1),
        (["experiment=nested,grid,plain"], 4 + 2 + 1),
        (["experiment=plain,grid", "sweeps=a,b"], 2 * 2 + 2 * 4),
        (["experiment=glob(*,exclude=[*ed,tutorial,*mnist*])"], 1 + 2),
        (["experiment=placed,plain"], 2),  # each job has a folder of its own
    ],
)
def test_the_grid_of_each_file_is_swept(jobs: Jobs, typed: list[str], count: int) -> None:
    found = shown(jobs(*typed))
    assert len(found) == len(set(found)) == count


@pytest.mark.parametrize("name", ["called", "batched"])
def test_what_a_job_says_of_the_whole_sweep_is_refused(jobs: Jobs, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"experiment={name}: hydra\.\w+\.\w+ must be the same for all jobs"):
        jobs(f"experiment=plain,{name}")
    assert len(jobs(f"experiment={name}")) == 1


@pytest.mark.parametrize(
    "typed",
    [
        ["optimizer={lr:0.1}", "optimizer={momentum:0.9}"],
        ["optimizer.lr=0.3", "optimizer={lr:0.1}"],
        ["optimizer.lr=0.3", "optimizer={lr:0.1}", "optimizer.lr=0.4"],
        ["optimizer=adam", "optimizer={lr:0.1}"],
        ["optimizer={lr:0.1}", "optimizer=adam"],
        ["optimizer={lr:0.1}", "++optimizer={lr:0.2}", "+optimizer={dampening:0.1}"],
        ["+new={a:1}", "new.a=2", "new={b:3}", "++new.b=4"],
        ["~optimizer.momentum", "+optimizer.momentum=0.5"],
        ["+new=1", "+new=2"],
        ["+new=1", "new=2", "~new"],
        ["model=mlp", "model.hidden=[8]", "model={hidden:[9]}"],
    ],
)
def test_a_job_is_what_a_single_run_with_the_same_overrides_is(
    loader: ConfigLoader, jobs: Jobs, folder: Path, typed: list[str]
) -> None:
    def told(compose: Callable[[], DictConfig]) -> Any:
        try:
            cfg = compose()
        except HydraException as error:
            return type(error)
        return {key: value for key, value in OmegaConf.to_container(cfg).items() if key != "hydra"}  # type: ignore[union-attr]

    def in_sweep() -> DictConfig:
        master = loader.load_configuration("config", ["dataset=digits", *typed], run_mode=RunMode.MULTIRUN)
        composer = Composer(loader, master)
        (job,) = jobs_of(composer, master, ["dataset=digits", *typed])
        return composer.compose(job, 0)

    single = told(lambda: loader.load_configuration("config", ["dataset=digits", *typed], run_mode=RunMode.RUN))
    assert told(in_sweep) == single


def test_dicts_are_swept_and_merged(jobs: Jobs) -> None:
    found = jobs("optimizer={lr:0.1},{lr:0.2}", "optimizer={momentum:0.5}")
    assert shown(found) == [f"optimizer={{lr:{lr}}} optimizer={{momentum:0.5}}" for lr in (0.1, 0.2)]


def test_more_jobs_than_a_sweep_can_hold_are_refused_before_they_are_made(jobs: Jobs) -> None:
    with pytest.raises(ConfigError, match="a sweep must not be too large, got '99,990,000 jobs'"):
        jobs("seed=range(10000)", "batch_size=range(1,10000)")


@pytest.mark.parametrize("mode", ["RUN", "MULTIRUN"])
def test_a_grid_that_nothing_sweeps_is_refused(loader: ConfigLoader, folder: Path, mode: str) -> None:
    """Without -m, and with a sweeper that did not see it."""
    of_hydra = [f"hydra.searchpath=[file://{folder}]", f"hydra.mode={mode}"]
    cfg = loader.load_configuration("config", [*of_hydra, "experiment=grid"], run_mode=RunMode.RUN)
    with pytest.raises(ConfigError, match=r"params\.epochs is a grid that nothing sweeps") as caught:
        check_grid(cfg, cfg.hydra)
    assert ("add -m" in caught.value.remedy) is (mode == "RUN")


def test_a_grid_in_the_main_file_is_for_minus_m_alone(
    loader: ConfigLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Hydra documents it; nobody has typed it."""
    (tmp_path / "main.yaml").write_text("defaults: [config, _self_]\nhydra: {sweeper: {params: {seed: '1,2'}}}\n")
    path = loader.get_search_path()
    path.prepend("test", f"file://{tmp_path}")
    monkeypatch.setattr(GlobalHydra.instance(), "hydra", Hydra("train", own := ConfigLoaderImpl(path)))
    cfg = own.load_configuration("main", ["hydra.mode=RUN"], run_mode=RunMode.RUN)
    check_grid(cfg, cfg.hydra)
    typed = ["hydra.mode=RUN", "+hydra.sweeper.params={epochs: '1,2'}"]
    cfg = own.load_configuration("main", typed, run_mode=RunMode.RUN)
    with pytest.raises(ConfigError, match=r"params\.epochs is a grid that nothing sweeps"):
        check_grid(cfg, cfg.hydra)


def test_a_list_of_jobs_is_swept_and_a_grid_multiplies_it(jobs, tmp_path):
    file = tmp_path / "jobs.yaml"
    file.write_text("jobs: [[optimizer.lr=0.1, seed=3], [optimizer.lr=0.2, seed=4]]")
    listed = f"hydra.sweeper.jobs={file}"
    found = [shown([job[2:]]) for job in jobs(listed)]  # without the dataset and the path of the list
    assert found == [["optimizer.lr=0.1 seed=3"], ["optimizer.lr=0.2 seed=4"]]
    assert [" ".join(job[2:]) for job in jobs(listed, "epochs=1,2")] == [
        "epochs=1 optimizer.lr=0.1 seed=3",
        "epochs=1 optimizer.lr=0.2 seed=4",
        "epochs=2 optimizer.lr=0.1 seed=3",
        "epochs=2 optimizer.lr=0.2 seed=4",
    ]


@pytest.mark.parametrize(
    "text", ["{}", "[]", "jobs: []", "jobs: 3", "jobs: [optimizer.lr=0.1]", "jobs: [[null]]", "other: [[seed=1]]"]
)
def test_a_list_of_jobs_must_be_one(jobs, tmp_path, text):
    (tmp_path / "jobs.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.jobs must be a YAML file with a list"):
        jobs(f"hydra.sweeper.jobs={tmp_path / 'jobs.yaml'}")
    with pytest.raises(ConfigError, match="cannot be read"):
        jobs("hydra.sweeper.jobs=nowhere.yaml")
