"""What others may import, and nothing else."""

import subprocess
import sys
from importlib import metadata
from importlib.resources import files

import sweepstack
from sweepstack.results import table


def test_the_public_names() -> None:
    """Whoever adds a name here promises to keep it: see docs/stability.md."""
    assert sweepstack.__all__ == [
        "Context",
        "Store",
        "Task",
        "UserError",
        "Verdict",
        "__version__",
        "app",
        "report",
        "sweep",
        "table",
    ]
    assert set(sweepstack.__all__) <= set(dir(sweepstack))
    assert all(getattr(sweepstack, name) is not None for name in sweepstack.__all__)
    assert sweepstack.__version__ == metadata.version("sweepstack")
    assert sweepstack.table is table
    assert not hasattr(sweepstack, "anything_else")


def test_importing_it_imports_no_library() -> None:
    program = "import sys; import sweepstack; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"hydra", "mlflow", "omegaconf", "pandas", "pydantic", "torch"} & {*done.stdout.split()}


def test_types_come_along() -> None:
    assert (files("sweepstack") / "py.typed").is_file()
