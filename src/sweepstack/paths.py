"""The folders of a command: the project's, that of datasets, and the one where it was typed."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from pathlib import Path


def checkout() -> Path | None:
    """Returns the folder of the checkout that this package runs from; None if it is installed."""
    root = Path(__file__).absolute().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "conf" / "config.yaml").is_file() else None


def config_folder() -> Path:
    """Returns the folder of this package's config groups: `conf` of the checkout, which the build copies."""
    return (checkout() or Path(__file__).absolute().parent) / "conf"


def sweeps_folder() -> Path:
    """Returns the folder of this package's named sweeps, beside `config_folder`."""
    return config_folder().parent / "sweeps"


def project_root() -> Path:
    """Returns the folder of the project, whose store is used if no other is named.

    It is the folder in which the command was typed or the nearest one above it with config files in a folder `conf`;
    else the checkout that this package runs from; else that folder. It is never a folder of Python's.
    """
    here = began_in()
    own = [folder for folder in (here, *here.parents) if not is_of_python(folder)]
    found = next((folder for folder in own if _has_configs(folder / "conf")), None)
    return found or checkout() or next(iter(own), here)


def _has_configs(folder: Path) -> bool:
    """True if there are config files in a folder, or in folders in it. (Their names are up to the project.)"""
    try:
        return any(True for pattern in ("*.yaml", "*/*.yaml") for _ in folder.glob(pattern))
    except OSError:  # nobody may look into it
        return False


def is_of_python(folder: Path) -> bool:
    """True for a folder that belongs to Python: an environment, or one with modules, and all folders in it."""
    known = {Path(path) for path in (sys.prefix, sys.base_prefix)}
    libraries = {Path(path) for name, path in sysconfig.get_paths().items() if name not in ("data", "scripts")}
    return folder in known or any(
        one in libraries
        or one.name in ("site-packages", "dist-packages")
        or (one / "pyvenv.cfg").is_file()
        or (one / "conda-meta").is_dir()
        for one in (folder, *folder.parents)
    )


def cache_folder() -> Path:
    """Returns the folder for datasets: SWEEPSTACK_DATA if it is set, else one in the user's cache folder."""
    if chosen := os.environ.get("SWEEPSTACK_DATA"):
        return typed_path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sweepstack"


def typed_path(path: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a file or folder that was typed: `~` is the home folder, and a relative path starts
    in the folder in which the command was typed."""
    typed = Path(path)
    with contextlib.suppress(RuntimeError):  # there is no such user, so it is a name as any
        typed = typed.expanduser()
    return began_in() / typed


def begin_in(folder: Path | None) -> None:
    """Sets the folder in which the command was typed; relative paths start there. None means the current folder.

    Hydra may have changed the current folder since the command was typed.
    """
    global _began
    _began = folder


def began_in() -> Path:
    """Returns the folder in which the command was typed."""
    return _began or Path.cwd()


_began: Path | None = None
