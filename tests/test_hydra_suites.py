"""Hydra's own suites for launchers and sweepers, in a process of their own: they scan for plug-ins, which replaces
classes that other tests hold, and need Hydra as it is at the start of a process."""

import subprocess
import sys

from .terminal import ROOT


def test_hydras_own_suites_pass() -> None:
    suites = [str(ROOT / "tests" / "hydra_suites" / f"{name}_suite.py") for name in ("launcher", "sweeper")]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *suites]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
