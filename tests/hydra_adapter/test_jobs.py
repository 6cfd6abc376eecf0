"""A job of a launch is inside of itself: its interpolations, its user's code and callbacks find what Hydra promises."""

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.grids import jobs_of
from sweepstack.hydra_adapter.ignored_settings import task_overrides
from sweepstack.hydra_adapter.launcher import launch
from sweepstack.tracking.store import Store
from sweepstack.tracking.writer.client import writer_process
from sweepstack.training.stacked import autotune
from sweepstack.trial import WEIGHTS, StackSettings

from ..terminal import new_store


class Plain(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 10)
        to_absolute_path("data")  # the same in all jobs: no reason to train alone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1))


class Asking(Plain):
    """Its constructor asks which job it is in."""

    built: ClassVar[list[tuple[int, str]]] = []

    def __init__(self) -> None:
        super().__init__()
        hydra = HydraConfig.get()
        Asking.built.append((hydra.job.num, Path(hydra.runtime.output_dir).name))


class AskingLate(Plain):
    """Its training asks which job it is in."""

    trained: ClassVar[list[int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            AskingLate.trained.append(HydraConfig.get().job.num)
        return super().forward(images)


class Listener(Callback):
    """Notes the starts and ends of jobs, and what lies in their folders by then."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, bool, bool]] = []

    def _note(self, what: str) -> None:
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        logging.getLogger("callback").info(what)
        self.seen.append((what, hydra.job.num, (folder / ".hydra").is_dir(), (folder / WEIGHTS).exists()))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._note("start")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        self._note("end")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Store]:
    store = new_store(tmp_path_factory.mktemp("jobs"), empty_database)
    process = writer_process(store.uri)
    yield store
    process.close()
    process._process.wait(60)


@pytest.fixture(autouse=True)
def always_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be one stack is one, however fast the machine is."""
    monkeypatch.setattr(
        autotune, "choose", lambda configs, *rest, **named: StackSettings(len(configs), 1, 0.1, "always stacked")
    )


Sweep = Callable[..., tuple[list[JobReturn], Listener, Path]]


@pytest.fixture
def sweep(loader: ConfigLoader, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*typed: str, listening: bool = True) -> tuple[list[JobReturn], Listener, Path]:
        line = ["dataset=digits", "epochs=1", f"tracking.uri={store.uri}", *typed]
        of_hydra = [f"hydra.sweep.dir={tmp_path}", "hydra.mode=MULTIRUN"]
        master = loader.load_configuration("config", [*of_hydra, *line], run_mode=RunMode.MULTIRUN)
        listener, callbacks = Listener(), Callbacks()
        callbacks.callbacks += [listener] if listening else []
        composer = Composer(loader, master)
        context = HydraContext(config_loader=loader, callbacks=callbacks)
        returns = launch(context, master, composer, jobs_of(composer, master, task_overrides(master.hydra)), 0)
        torch.set_num_threads(threads)
        return returns, listener, tmp_path

    return run


def of(model: type[torch.nn.Module]) -> list[str]:
    return [f"model={{_target_: {__name__}.{model.__name__}}}", "~model.shape", "~model.classes"]


def values(returns: list[JobReturn]) -> list[float]:
    return [done.return_value for done in returns]


def test_interpolations_of_hydra_are_those_of_the_job(sweep: Sweep, store: Store) -> None:
    returns, _, _ = sweep("seed=${hydra:job.num}", "optimizer.lr=0.1,0.2", "tracking.sweep=interpolated")
    rows = store.rows("interpolated")
    assert {row.params["lr"]: row.params["seed"] for row in rows} == {"0.1": "0", "0.2": "1"}
    assert len(set(values(returns))) == 2


def test_callbacks_hear_of_each_start_before_anything_trains(sweep: Sweep) -> None:
    _, listener, folder = sweep("seed=11,12")
    assert listener.seen[:2] == [("start", 0, True, False), ("start", 1, True, False)]
    assert sorted(listener.seen[2:]) == [("end", 0, True, True), ("end", 1, True, True)]
    for job in range(2):
        lines = (folder / str(job) / "train.log").read_text().splitlines()
        assert [word for line in lines for word in ("start", "FINISHED", "end") if word in line] == [
            "start",
            "FINISHED",
            "end",
        ]


def test_known_trials_start_and_end_too(sweep: Sweep) -> None:
    sweep("seed=13,14", listening=False)
    _, listener, _ = sweep("seed=13,14")
    assert [(what, job) for what, job, _, _ in listener.seen] == [("start", 0), ("end", 0), ("start", 1), ("end", 1)]


def test_a_model_whose_constructor_asks_for_its_job_is_trained_alone_in_it(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    Asking.built.clear()
    with pytest.raises(SystemExit):
        sweep(*of(Asking), "optimizer.lr=0.1,0.2", "launch.dry_run=true")
    assert "its code asks Hydra which job it is in" in capsys.readouterr().out
    Asking.built.clear()
    _, listener, _ = sweep(*of(Asking), "optimizer.lr=0.1,0.2")
    assert {number for number, _ in Asking.built} == {0, 1}
    assert all(str(number) == folder for number, folder in Asking.built)
    assert Asking.built[-1] == (1, "1")
    assert [(what, job) for what, job, _, _ in listener.seen] == [("start", 0), ("end", 0), ("start", 1), ("end", 1)]


def test_a_model_that_asks_for_its_job_while_it_trains_goes_on_alone_in_it(sweep: Sweep) -> None:
    AskingLate.trained.clear()
    returns, listener, _ = sweep(*of(AskingLate), "seed=21,22")
    assert set(AskingLate.trained) == {0, 1}
    assert all(value == value for value in values(returns))
    assert [what for what, *_ in listener.seen].count("start") == 2


def test_a_path_from_the_first_folder_is_no_reason_to_train_alone(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sweep(*of(Plain), "optimizer.lr=0.1,0.2", "launch.dry_run=true")
    assert "always stacked" in capsys.readouterr().out


def test_a_job_finds_its_own_environment_when_its_config_is_read(sweep: Sweep, store: Store) -> None:
    sweep("+hydra.job.env_set={OWN_SEED: '31'}", "seed='${oc.decode:${oc.env:OWN_SEED}}'", "tracking.sweep=environment")
    (row,) = store.rows("environment")
    assert row.params["seed"] == "31"


def test_what_a_resolver_keeps_is_the_same_wherever_the_job_is_composed(sweep: Sweep, store: Store) -> None:
    """And each job has its own, unless the sweep has asked before."""
    OmegaConf.register_new_resolver("lot", lambda: random.randrange(10**9), use_cache=True, replace=True)
    _, _, folder = sweep(
        "seed=${lot:}", "optimizer.lr=0.1,0.2", "hydra.sweep.subdir=${lot:}", "tracking.sweep=lots_${now:%f}"
    )
    seeds = {row.params["seed"] for row in store.rows("all") if str(row.sweep).startswith("lots_")}
    assert len(seeds) == 2
    assert {path.name for path in folder.iterdir() if path.is_dir()} == seeds
