"""Which code trains a config: a checksum that changes when the user's own modules do. No PyTorch is needed for it."""

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

SEMANTICS = 1
"""Of sweepstack's own training code; raised by whoever changes what a config trains."""

NOT_READ = {"sweepstack", "torch", "torchvision"}
"""Packages that count for nothing: SEMANTICS stands for the first, and what a config means to the others is stable."""


def digest(config: TrialConfig) -> str:
    """8 hex digits of SEMANTICS and of the user's own code: the modules of the targets of model and optimizer, and of
    targets in their keywords. The dataset's code is covered by the data that it gives.

    The bytes of a module's source count, so that a changed comment is a change, and those of all that it imports, as
    far as that is neither installed nor of Python. Where it lies does not count. Of a target in an installed package,
    only the version counts.

    Modules are found and read, not run. So an import that is known only while it runs (`importlib.import_module`) is
    not followed, and a file that a module reads is not seen. What was read is remembered for as long as the process
    lives.
    """
    keywords = [config.model.keywords, config.optimizer.keywords]
    return _digest_of(SEMANTICS, frozenset([config.model.target, config.optimizer.target, *_targets_in(keywords)]))


def _targets_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _targets_in(part)


@functools.lru_cache(maxsize=1024)
def _digest_of(semantics: int, targets: frozenset[str]) -> str:
    marks: dict[str, str] = {}  # of what counts, by the name of the module or package
    for name in _modules(targets):
        spec = _find(name)
        if spec is None or not spec.has_location:
            marks[f"{name} has no source"] = ""
        elif _is_installed(spec):
            marks[_top(name)] = _distribution_versions(_top(name))
    for name, _, source in _own(targets):
        marks[name] = hashlib.blake2b(source, digest_size=16).hexdigest()
    text = repr((semantics, sorted(marks.items())))
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def sources(config: TrialConfig) -> list[Path]:
    """The user's own code that a model needs, to go along with it: files and folders of top-level modules and packages,
    sorted. What is installed is not among them."""
    targets = frozenset([config.model.target, *_targets_in(config.model.keywords)])
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
    """The user's own modules that targets are in, and all that those import: name, place and source."""
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
    """The packages that a module, or an object in one, is in: a, a.b for a.b.c. They are run before it."""
    return list(itertools.accumulate(name.split("."), "{}.{}".format))[:-1]


def _module_of(target: str) -> str:
    """The longest part of a dotted path that is a module."""
    return next((name for name in reversed(_packages(target)) if _find(name)), target)


def _find(name: str) -> ModuleSpec | None:
    """Where a module is. `importlib.util.find_spec` would run the packages around it, and load PyTorch with them."""
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
    """Whether it comes with Python or was installed, rather than being a file of the user's or a folder of files."""
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
    """Names and versions of the distributions that a package comes from; empty for Python's own."""
    names = metadata.packages_distributions().get(package, [])
    return " ".join(sorted({f"{name}=={metadata.version(name)}" for name in names}))


def _source(spec: ModuleSpec) -> bytes:
    """The text of a module, whatever line ends it was checked out with; empty for a folder without `__init__.py`."""
    with contextlib.suppress(OSError):
        return Path(spec.origin or "").read_bytes().replace(b"\r\n", b"\n")
    return b""


def _imports(source: bytes, package: str | None) -> Iterator[str]:
    """Whatever may be a module among the names that are imported anywhere in a source."""
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(source)):  # a source with mistakes in it will tell when it is run
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                with contextlib.suppress(ImportError):  # more dots than packages
                    base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                    yield from [base, *(f"{base}.{alias.name}" for alias in node.names)]
