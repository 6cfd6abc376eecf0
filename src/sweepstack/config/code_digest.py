"""Which code trains a config: a checksum that changes when the user's own modules change. It needs no PyTorch."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import itertools
import os
import pkgutil
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import DatasetConfig

SEMANTICS = 1
"""Version of sweepstack's own training code. Raise it when you change what a config trains."""

NOT_READ = {"sweepstack", "torch", "torchvision"}
"""Packages whose code does not enter the checksum: SEMANTICS stands for the first, and a config keeps its meaning with
new versions of the others."""


def digest(config: TrialConfig) -> str:
    """Returns a checksum, 8 hex digits, of SEMANTICS and of the user's own code that trains a config.

    The user's own code is the modules of all targets but that of the dataset, such as model, optimizer and loss, and of
    targets in their keywords.
    The code of the dataset does not count, because the checksum of its data does; what makes batches of its items does.

    Of each module the bytes of its source count, so that a changed comment is a change, and those of all modules that
    it imports, except installed ones and Python's own. The path of a module does not count. Of a target in an installed
    package, only the package's version counts.

    Modules are found and read, not run. So it does not follow an import that is known only at run time
    (`importlib.import_module`), and does not see a file that a module reads. What was read is cached until the process
    ends.
    """
    others = {key for key in type(config.dataset).model_fields if key != "collate_fn"}
    dumped = config.model_dump(exclude={"dataset": {*others, *config.dataset.keywords}}, by_alias=True)
    return _digest_of(SEMANTICS, frozenset(targets_in(dumped)))


def digest_of_dataset(config: DatasetConfig) -> str:
    """Returns a checksum, 8 hex digits, of the user's own code that gives the items of a dataset; see `digest`."""
    return _digest_of(SEMANTICS, frozenset(targets_in({"_target_": config.target, **config.keywords})))


def targets_in(value: Any) -> Iterator[str]:
    """Yields every `_target_` in a value of a config, and what Hydra's functions look up by a path."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
            if value["_target_"].startswith("hydra.utils.get_") and isinstance(value.get("path"), str):
                yield value["path"]  # get_class, get_method and get_object give what is there
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from targets_in(part)


@functools.lru_cache(maxsize=1024)
def _digest_of(semantics: int, targets: frozenset[str]) -> str:
    counted: dict[str, str] = {}  # what counts of each module or package, by its name
    for name in _modules(targets):
        spec = _find(name)
        if spec is None or not spec.has_location:
            counted[f"{name} has no source"] = ""
        elif _is_installed(spec):
            counted[_top(name)] = _distribution_versions(_top(name))
    for name, _, source in _own(targets):
        counted[name] = hashlib.blake2b(source, digest_size=16).hexdigest()
    text = repr((semantics, sorted(counted.items())))
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def sources(config: TrialConfig) -> list[Path]:
    """Returns the user's own code that a model and its task need: files and folders, sorted.

    They are top-level modules and packages. Installed packages are not among them.
    """
    parts = [{"_target_": part.target, **part.keywords} for part in (config.model, config.task)]
    targets = frozenset(targets_in(parts))
    found = set()
    for name, spec, _ in _own(targets):
        top = spec if name == _top(name) else _find(_top(name))
        folders = top.submodule_search_locations if top is not None else None
        if folders:
            found |= {Path(folder) for folder in folders}
        elif top is not None and top.origin is not None:
            found.add(Path(top.origin))
    return sorted(found)


def _modules(targets: Iterable[str]) -> list[str]:
    return [name for name in map(_module_of, targets) if _top(name) not in NOT_READ]


def _own(targets: Iterable[str]) -> Iterator[tuple[str, ModuleSpec, bytes]]:
    """Yields the user's own modules that targets are in, and all own modules that those import: name, spec, source."""
    unread = _modules(targets)
    seen: set[str] = set()
    while unread:
        name = unread.pop()
        spec = None if name in seen or _top(name) in NOT_READ else _find(name)
        seen.add(name)
        if spec is None or _is_installed(spec):
            continue
        source = _source(spec)
        yield name, spec, source
        unread += [*_packages(name), *_imports(source, spec.parent)]


def _top(name: str) -> str:
    return name.partition(".")[0]


def _packages(name: str) -> list[str]:
    """Returns the packages that contain a module or an object: a and a.b for a.b.c. Python runs them before it."""
    return list(itertools.accumulate(name.split("."), "{}.{}".format))[:-1]


def _module_of(target: str) -> str:
    """Returns the longest part of a dotted path that is a module."""
    return next((name for name in reversed(_packages(target)) if _find(name)), target)


def _find(name: str) -> ModuleSpec | None:
    """Finds a module; None if there is none.

    `importlib.util.find_spec` would run the packages that contain the module, and load PyTorch with them.
    """
    top, *parts = name.split(".")
    spec = None
    with contextlib.suppress(ImportError, ValueError):  # a ValueError for __main__
        spec = importlib.util.find_spec(top)
    if spec is None and (file := getattr(sys.modules.get(top), "__file__", None)):
        spec = importlib.util.spec_from_file_location(top, file)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        finders = [finder for folder in spec.submodule_search_locations if (finder := pkgutil.get_importer(folder))]
        found = [below for finder in finders if (below := finder.find_spec(f"{spec.name}.{part}"))]
        spec = max(found, key=lambda below: below.has_location, default=None)  # else a folder without __init__.py
    return spec


def _is_installed(spec: ModuleSpec) -> bool:
    """True if a module comes with Python or was installed; False if it is a file or a folder of the user."""
    if spec.submodule_search_locations is not None and not spec.has_location:
        return False
    file = Path(os.path.realpath(spec.origin or ""))
    return (
        not spec.has_location
        or bool({"site-packages", "dist-packages"} & set(file.parts))
        or any(file.is_relative_to(folder) for folder in _library_folders())
    )


@functools.cache
def _library_folders() -> list[str]:
    paths = sysconfig.get_paths()
    return [os.path.realpath(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")]


def _distribution_versions(package: str) -> str:
    """Returns names and versions of the distributions that a package comes from; empty for Python's own packages."""
    names = metadata.packages_distributions().get(package, [])
    return " ".join(sorted({f"{name}=={metadata.version(name)}" for name in names}))


def _source(spec: ModuleSpec) -> bytes:
    """Reads a module with line ends as on Unix; empty for a folder without `__init__.py`."""
    with contextlib.suppress(OSError):
        return Path(spec.origin or "").read_bytes().replace(b"\r\n", b"\n")
    return b""


def _imports(source: bytes, package: str | None) -> Iterator[str]:
    """Yields all names in the import statements of a source that may be modules."""
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(source)):  # a source with a syntax error fails when it is run
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                with contextlib.suppress(ImportError):  # a relative import with more dots than packages
                    base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                    yield from [base, *(f"{base}.{alias.name}" for alias in node.names)]
