"""The wheel in an environment of its own, where neither this checkout nor an editable install can be imported."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .terminal import ROOT, STARTED


@dataclass
class Installed:
    """An environment, and a user who types commands in a folder.

    Args:
        python: its interpreter.
    """

    python: Path

    def type(self, folder: Path, *words: str, code: int = 0) -> str:
        """Types a command, `python ...` or `sweepstack ...`, and returns what it prints.

        Args:
            folder: where it is typed.
            words: the command.
            code: the exit code that it must have.
        """
        program = str(self.python if words[0] == "python" else self.python.with_name(words[0]))
        hidden = ("MLFLOW_TRACKING_URI", "PYTHONPATH")
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = STARTED([program, *words[1:]], cwd=folder, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        out, _ = process.communicate(timeout=240)
        assert process.returncode == code, (words, out)
        return str(out)


def environment(folder: Path, *wheels: Path) -> Installed:
    """Makes an environment with the libraries of this one and with wheels, in an empty folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    place = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (place / "libraries.pth").write_text(
        "".join(f"{path}\n" for path in libraries)
    )  # the .pth files there have no effect
    for wheel in wheels:
        pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python)]
        subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    return Installed(python)


def build_wheel(folder: Path) -> Path:
    """Builds the wheel of this checkout into a folder."""
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
