"""Finishes a job whose result is known: makes the folder, the files and the return that Hydra would make.

Hydra's `run_job` copies the config four times and writes it as YAML, which takes 15 ms, as long as a small trial. Here
one copy is made, by pickle, if there are users' callbacks, and the YAML of entries that an earlier job had is reused.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sweepstack.hydra_adapter.job_context import alone, inside, split_job
from sweepstack.hydra_adapter.private import flush_loggers, yaml_text
from sweepstack.private_api_switch import tricks


def begin_job(context: HydraContext, cfg: DictConfig) -> None:
    """Does what `run_job` does before it calls a job's task: makes the folder and the files, and calls callbacks.

    It is for a job that is trained together with others.
    """
    with _in_folder(cfg, context):
        context.callbacks.on_job_start(config=cfg, task_function=lambda _: None)
        flush_loggers()


def finish_job(
    context: HydraContext, cfg: DictConfig, value: Any, log_lines: Callable[[], None], begun: bool = False
) -> JobReturn:
    """Does everything that `run_job` does with a task that calls `log_lines` and returns `value`.

    Args:
        context: Hydra's context; its callbacks are called at the start and at the end of the job.
        cfg: the composed job with its node hydra, which gets the output folder.
        value: the return value of the job.
        log_lines: writes the lines of the job's own log file.
        begun: whether `begin_job` was called for the job.
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
    with _in_folder(cfg, context, written=begun) as (own, hydra_alone):
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
def _in_folder(
    cfg: DictConfig, context: HydraContext, written: bool = False
) -> Iterator[tuple[DictConfig, DictConfig]]:
    """Makes the folder, log and files of a job, and sets its context for the block.

    Yields the user's part of the config and Hydra's part: copies, if a user's callback may change one of the two.

    Args:
        cfg: the composed job with its node hydra.
        context: Hydra's context, with the callbacks.
        written: whether the files exist already.
    """
    hydra = cfg.hydra
    with inside(cfg) as folder:
        ours = all(type(one).__module__.startswith("sweepstack.") for one in context.callbacks.callbacks)
        own, hydra_alone = (split_job(cfg)[0], alone(hydra)) if ours else _split(cfg)
        folder.mkdir(parents=True, exist_ok=True)
        configure_log(hydra.job_logging, hydra.verbose)
        if hydra.output_subdir is not None and not written:
            _write_configs(folder / hydra.output_subdir, own, hydra_alone)
        yield own, hydra_alone


def _split(cfg: DictConfig) -> tuple[DictConfig, DictConfig]:
    """Returns copies of the user's part of a config and of Hydra's part."""
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
    """Returns the text of `to_yaml`; reuses the text of entries that an earlier job had."""
    content = cast("dict[str, Any]", OmegaConf.to_container(cfg, enum_to_str=True))
    if list(content) != ["hydra"]:
        return yaml_of(content)
    lines = ["hydra:\n"]
    for section, part in content["hydra"].items():  # it is large, and only a few entries differ between jobs
        if isinstance(part, dict) and part:
            lines.append(f"  {section}:\n")
            lines += [yaml_entry(value, key, section, "hydra") for key, value in part.items()]
        else:
            lines.append(yaml_entry(part, section, "hydra"))
    return "".join(lines)


def yaml_of(content: Mapping[Any, Any]) -> str:
    """Returns the YAML of plain values, in OmegaConf's format; reuses the text of entries of earlier jobs."""
    return "".join(yaml_entry(value, key) for key, value in content.items()) or yaml_text({})


def yaml_entry(value: Any, *keys: Any) -> str:
    """Returns the YAML of a value and its key, indented for its sections.

    Args:
        value: a plain value.
        keys: its key, then that of its section, and so on.
    """
    return _of_pickled(pickle.dumps((value, *keys)))


@functools.lru_cache(maxsize=4096)
def _of_pickled(entry: bytes) -> str:
    """Returns the YAML of an entry; pickled, because it may contain lists."""
    value, *keys = pickle.loads(entry)
    for key in keys:
        value = {key: value}
    return yaml_text(value).split("\n", maxsplit=len(keys) - 1)[-1]
