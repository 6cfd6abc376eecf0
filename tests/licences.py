"""The licences of all dependencies: `make licences` fails if one of them is not free. `--markdown` prints a table.

It walks from sweepstack and its extras along the requirements that are installed here, and reads what the packages say
of themselves. An extra that is not installed is named, not checked.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FREE = {
    *(
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
    ),
    *("MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
"""Licences, as SPDX names them, that ask nothing of the code that only uses the package."""
WORDS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD-3": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What classifiers and the older field `License` say, as SPDX names it."""
EXCEPTIONS = {
    "cuda-toolkit": "NVIDIA's, see nvidia-*",
    "huey": "MIT by its licence file; its metadata name none",
    "nvidia-*": "NVIDIA's own licences: not free. They come with PyTorch's build for CUDA, not with that for CPUs",
    "psycopg2-binary": "LGPL with exceptions; only `make chaos` uses it",
    "skops": "MIT by its licence file; its metadata name none",
}
"""Packages that are accepted all the same, each with the reason."""


def stated(metadata: Mapping[str, str], classifiers: Iterable[str]) -> str:
    """Returns the licence that a package states, as an SPDX expression where that is known, or an empty text.

    Args:
        metadata: its core metadata.
        classifiers: its trove classifiers.
    """
    if expression := metadata.get("License-Expression"):
        return expression
    names = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License :: ")]
    names = [one for one in names if one != "OSI Approved"] or [(metadata.get("License") or "").strip()]
    names = [one for one in names if one and len(one.splitlines()) == 1]  # some have the whole text there
    return " AND ".join(WORDS.get(one, one) for one in names)


def is_free(expression: str) -> bool:
    """Whether an SPDX expression is free: all of one of its alternatives is. (Parentheses count as not understood.)"""
    return any(all(one.strip() in FREE for one in part.split(" AND ")) for part in expression.split(" OR "))


def exception(name: str) -> str | None:
    """Why a package is accepted whatever its licence, or None."""
    return EXCEPTIONS.get("nvidia-*" if name.startswith("nvidia-") else name)


def dependencies(root: str) -> tuple[dict[str, Distribution], list[str]]:
    """Returns all that a package needs, with all its extras, by name, and the names of what is not installed."""
    found: dict[str, Distribution] = {}
    missing: set[str] = set()
    extras = distribution(root).metadata.get_all("Provides-Extra") or []
    waiting = [(root, extra) for extra in ["", *extras]]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needs = {(canonicalize_name(requirement.name), one) for one in ["", *requirement.extras]}
                waiting += needs - seen
                seen |= needs
    del found[root]
    return dict(sorted(found.items())), sorted(missing)


def main(words: list[str]) -> int:
    """Prints what was found; returns 1 if a licence is not free and no exception names it."""
    found, missing = dependencies("sweepstack")
    by_licence: dict[str, list[str]] = defaultdict(list)
    problems = []
    for name, package in found.items():
        licence = stated(package.metadata, package.metadata.get_all("Classifier") or [])  # type: ignore[arg-type]
        by_licence["accepted" if exception(name) else licence].append(name)
        if not exception(name) and not is_free(licence):
            problems.append(f"{name}: {licence or 'no licence in its metadata'} is not in FREE of tests/licences.py")
    for licence, names in sorted(by_licence.items()):
        print(f"| {licence} | {', '.join(names)} |" if "--markdown" in words else f"{len(names):4} {licence}")
    if missing:
        print(f"not installed, not checked: {', '.join(missing)}", file=sys.stderr)
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
