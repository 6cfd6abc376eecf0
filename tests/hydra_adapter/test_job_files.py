"""A job finished here leaves what Hydra's run_job leaves, byte for byte."""

import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, run_job
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from sweepstack.hydra_adapter import job_files
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.job_files import finish_job
from sweepstack.private_api_switch import NO_TRICKS

from .conftest import nodes

Finish = Callable[[HydraContext, DictConfig, Any, Callable[[], None]], JobReturn]


def by_hydra(context: HydraContext, cfg: DictConfig, value: Any, log_lines: Callable[[], None]) -> JobReturn:
    def task(_: DictConfig) -> Any:
        log_lines()
        return value

    places: Any = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
    return run_job(hydra_context=context, task_function=task, config=cfg, **places)


def log_lines() -> None:
    logging.getLogger("trial").info("trained")
    logging.getLogger("trial").debug("in detail")


class Listener(Callback):
    """Notes what Hydra's callbacks can see."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def _look(self, config: DictConfig) -> None:
        shown = HydraConfig.get()
        sweep_dir = shown.sweep.dir  # leads into the user's part of the config
        self.seen.append((shown.job.num, shown.runtime.output_dir, sweep_dir, nodes(config), nodes(shown)))  # type: ignore[arg-type]

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._look(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        self._look(config)
        self.seen.append((job_return.status, job_return._return_value))


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def left(finish: Finish, loader: ConfigLoader, cfg: DictConfig, lines: Callable[[], None], folder: Path) -> Any:
    """All that is left when the job has ended; its folder is emptied."""
    listener = Listener()
    callbacks = Callbacks()
    callbacks.callbacks.append(listener)
    job = finish(HydraContext(config_loader=loader, callbacks=callbacks), cfg, 0.5, lines)
    assert not HydraConfig.initialized()
    logging.getLogger("trial").warning("after the job")
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    logs = {path: re.sub(rb"\[\d{4}-[\d :,-]+\]", b"[time]", text) for path, text in files.items()}
    shutil.rmtree(folder)
    folder.mkdir()
    whole = [job.overrides, job.working_dir, job.task_name, job.status, repr(job._return_value)]
    parents = [part._get_parent() is None for part in (job.cfg, job.hydra_cfg)]
    return logs, whole, parents, nodes(job.cfg), nodes(job.hydra_cfg), nodes(cfg), repr(listener.seen)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=mlp", "optimizer.lr=1e-3", "epochs=5"],
        ["tracking.sweep=mine", "+note='two  words, ü and a colon: here'", "+text=yes", "+number='1'", "+b=true"],
        ["+empty={a:{},b:[],c:null}", "+list=[1,[2,{x:1.5}],1e3]", f"+long={'many words ' * 30}", "~schedule"],
        ["+link=${dataset.shape}", "+later='${hydra:job.num}'", "+missing=???"],
        ["hydra.output_subdir=null"],
        ["hydra.output_subdir=deep/inside", "hydra.verbose=true"],
        ["hydra.verbose=[trial]", "hydra.sweep.subdir=${hydra.job.override_dirname}", "seed=3"],
        ["hydra/job_logging=none"],
        ["hydra/job_logging=default", "+hydra.job_logging.handlers.console.level=ERROR"],
        ["hydra.job.chdir=true"],
        ["hydra.job.chdir=false", "+hydra.job.env_set.SWEEPSTACK_TEST=1"],
    ],
)
def test_a_finished_job_leaves_what_run_job_leaves(
    loader: ConfigLoader, master: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    composer = Composer(loader, master)
    for number in (2, 3):
        folder = tmp_path / "multirun"
        expected = left(by_hydra, loader, composer.compose(overrides, number), log_lines, folder)
        assert expected[0] or "none" in str(overrides)
        assert left(finish_job, loader, composer.compose(overrides, number), log_lines, folder) == expected


def test_a_failure_to_log_is_a_failed_job(
    loader: ConfigLoader, master: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("disk full")

    monkeypatch.chdir(tmp_path)
    cfgs = [Composer(loader, master).compose(["epochs=1"], 0) for _ in range(2)]
    expected = left(by_hydra, loader, cfgs[0], fail, tmp_path / "multirun")
    ours = left(finish_job, loader, cfgs[1], fail, tmp_path / "multirun")
    assert ours[1:] == expected[1:]


def test_hydra_does_it_only_for_unusual_configs(
    loader: ConfigLoader, master: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # the public way is that Hydra always does it
    monkeypatch.chdir(tmp_path)
    handed_over: list[int] = []

    def note(config: DictConfig, **rest: Any) -> JobReturn:
        handed_over.append(config.hydra.job.num)
        return run_job(config=config, **rest)

    monkeypatch.setattr(job_files, "run_job", note)
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    composer = Composer(loader, master)
    for number, words in enumerate([["epochs=1"], ["hydra.job.chdir=true"], ["+hydra.job.env_set.A_B=1"]]):
        cfg = composer.compose(words, number)
        job = finish_job(context, cfg, math.nan, log_lines)
        assert math.isnan(job.return_value)
        assert OmegaConf.is_missing(cfg.hydra.runtime, "output_dir") is False
    assert handed_over == [1, 2]
