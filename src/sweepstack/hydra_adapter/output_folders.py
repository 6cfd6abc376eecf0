"""The output folders of a sweep's jobs. Two jobs in one folder would overwrite each other's weights and configs."""

from __future__ import annotations

import os
from pathlib import Path

from sweepstack.errors import ConfigError


class Folders:
    """Which job has which folder, over all launches of a sweep."""

    def __init__(self) -> None:
        self._jobs: dict[str, int] = {}

    def take(self, folder: Path, job: int) -> None:
        """Notes the folder of a job, however it is spelt.

        Raises:
            ConfigError: another job has it.
        """
        other = self._jobs.setdefault(os.path.realpath(folder), job)
        if other != job:
            raise ConfigError(
                f"each job of a sweep must have a folder of its own, jobs {other} and {job} both have {folder}",
                remedy="leave out hydra.sweep.subdir, or give each job another one, such as "
                "hydra.sweep.subdir='${hydra.job.num}'",
            )
