"""The end of a job whose result is known already: the folder, the files and the return that Hydra would give it.

Hydra's `run_job` copies the config four times and writes it as YAML, which takes 15 ms, as much as a small trial. Here
one copy is made, by pickle, and a part of the YAML that an earlier job had too is not written again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sweepstack.hydra_adapter.job_context import alone, inside
from sweepstack.hydra_adapter.private import flush_loggers, yaml_text
from sweepstack.private_api_switch import tricks


def begin_job(context: HydraContext, cfg: DictConfig) -> None:
    """What `run_job` does until a job's task is called, for one that is trained together with others: its folder, its
    files, and its start for Hydra's callbacks."""
    with _in_folder(cfg):
        context.callbacks.on_job_start(config=cfg, task_function=lambda _: None)
        flush_loggers()


def finish_job(
    context: HydraContext, cfg: DictConfig, value: Any, log_lines: Callable[[], None], begun: bool = False
) -> JobReturn:
    """Does all that `run_job` does around a task which calls `log_lines` and returns `value`.

    Args:
        context: Hydra's; its callbacks hear of the job's start and end.
        cfg: the composed job with its node hydra, where the output folder is entered.
        value: what the job returns.
        log_lines: logs what belongs in the job's own log file.
        begun: whether `begin_job` was called for it.
    """

    def task(_: Any) -> Any:
        log_lines()
        return value

    hydra = cfg.hydra
    by_hydra = hydra.job.chdir or hydra.job.env_set or getattr(context, "execution_whitelist", None) is not None
    if by_hydra or not (begun or tricks()):
        return run_job(
            hydra_context=context,
            task_function=task,
            config=cfg,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    with _in_folder(cfg, written=begun) as (own, hydra_alone):
        overrides = cast("list[str]", OmegaConf.to_container(hydra.overrides.task))
        job = JobReturn(overrides=overrides, cfg=own, hydra_cfg=hydra_alone, working_dir=os.getcwd())
        if not begun:
            context.callbacks.on_job_start(config=cfg, task_function=task)
        try:
            job.return_value = task(own)
            job.status = JobStatus.COMPLETED
        except Exception as error:
            job.return_value = error
            job.status = JobStatus.FAILED
        job.task_name = JobRuntime.instance().get("name")
        flush_loggers()
        context.callbacks.on_job_end(config=cfg, job_return=job)
        return job


@contextlib.contextmanager
def _in_folder(cfg: DictConfig, written: bool = False) -> Iterator[tuple[DictConfig, DictConfig]]:
    """Inside of the job, with its folder, log and files; gives copies of the user's part of the config and of Hydra's.

    Args:
        written: whether the files are there already.
    """
    hydra = cfg.hydra
    with inside(cfg) as folder:
        own, hydra_alone = _split(cfg)
        folder.mkdir(parents=True, exist_ok=True)
        configure_log(hydra.job_logging, hydra.verbose)
        if hydra.output_subdir is not None and not written:
            _write_configs(folder / hydra.output_subdir, own, hydra_alone)
        yield own, hydra_alone


def _split(cfg: DictConfig) -> tuple[DictConfig, DictConfig]:
    """Copies of the user's part and of Hydra's."""
    own = cast("DictConfig", pickle.loads(pickle.dumps(cfg, pickle.HIGHEST_PROTOCOL)))
    with read_write(own), open_dict(own):
        hydra = own.hydra
        del own["hydra"]
    return own, alone(hydra)


def _write_configs(folder: Path, own: DictConfig, hydra: DictConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"config": _yaml(own), "hydra": _yaml(hydra), "overrides": OmegaConf.to_yaml(hydra.hydra.overrides.task)}
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def _yaml(cfg: DictConfig) -> str:
    """The same text as from `to_yaml`; most entries have been written for an earlier job."""
    content = cast("dict[str, Any]", OmegaConf.to_container(cfg, enum_to_str=True))
    if list(content) != ["hydra"]:
        return "".join(_yaml_entry(pickle.dumps((value, key))) for key, value in content.items()) or OmegaConf.to_yaml(
            cfg
        )
    lines = ["hydra:\n"]
    for section, part in content["hydra"].items():  # large, and a few of its entries differ in every job
        if isinstance(part, dict) and part:
            lines.append(f"  {section}:\n")
            lines += [_yaml_entry(pickle.dumps((value, key, section, "hydra"))) for key, value in part.items()]
        else:
            lines.append(_yaml_entry(pickle.dumps((part, section, "hydra"))))
    return "".join(lines)


@functools.lru_cache(maxsize=4096)
def _yaml_entry(pickled: bytes) -> str:
    """A value with its key, as they stand below the keys of the sections around; pickled, for it may hold lists."""
    entry, *keys = pickle.loads(pickled)
    for key in keys:
        entry = {key: entry}
    return yaml_text(entry).split("\n", maxsplit=len(keys) - 1)[-1]
