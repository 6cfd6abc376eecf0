"""The suite on each Python that is installed, with each version of Hydra: `make matrix`.

One of them: `.venv/bin/nox --session "tests-3.11(hydra=1.4.0rc3)" -- tests/test_cli.py`. A Python that is not installed
is named as skipped. Environments are kept in `.nox/`; `--reuse-existing-virtualenvs` uses them once more.
"""

import nox

PYTHONS = ("3.11", "3.12", "3.13")
HYDRA = ("", "1.4.0rc3")
"""Versions of Hydra; the empty one is that of constraints.txt."""


@nox.session(python=PYTHONS)
@nox.parametrize("hydra", HYDRA, ids=[f"hydra={version or 'pinned'}" for version in HYDRA])
def tests(session: nox.Session, hydra: str) -> None:
    """Installs what constraints.txt pins, then that Hydra, and runs the tests, or those that are named behind `--`."""
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")
    if hydra:
        session.install(f"hydra-core=={hydra}")
    session.run("python", "-m", "pytest", *session.posargs)
