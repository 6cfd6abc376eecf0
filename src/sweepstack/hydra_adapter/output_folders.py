"""The output folders of a sweep's jobs. Two jobs in one folder would overwrite each other's weights and configs."""

from __future__ import annotations

import os
from pathlib import Path

from sweepstack.errors import ConfigError


class Folders:
    """Records which job has which folder, for all launches of a sweep."""

    def __init__(self) -> None:
        self._jobs: dict[str, int] = {}

    def take(self, folder: Path, job: int) -> None:
        """Records the folder of a job; two paths to the same folder count as one.

        Raises:
            ConfigError: another job has the folder.
        """
        other = self._jobs.setdefault(os.path.realpath(folder), job)
        if other != job:
            raise ConfigError(
                f"each job of a sweep must have a folder of its own, jobs {other} and {job} both have {folder}",
                remedy="leave out hydra.sweep.subdir, or give each job another one, such as "
                "hydra.sweep.subdir='${hydra.job.num}'",
            )
