"""The floors of the house: a file imports only from lower floors, and inside a folder in one direction."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FLOORS = {
    "child_process": 0,
    "masking": 0,
    "metrics": 0,
    "paths": 0,
    "private_api_switch": 0,
    "errors": 1,
    "blame": 2,
    "data_files": 2,
    "files": 2,
    "standard_streams": 2,
    "strict_json": 2,
    "config": 3,
    "error_log": 3,
    "schedules": 4,
    "trial": 4,
    "events": 5,
    "planning": 5,
    "journal": 6,
    "training": 6,
    "search": 6,
    "tracking": 7,
    "inference": 7,
    "execution": 8,
    "results": 8,
    "hydra_adapter": 9,
    "exits": 10,
    "sweep_end": 10,
    "app": 11,
    "cli": 11,
    "from_python": 11,
    "train": 12,
}
"""A folder or file imports only from lower floors. So journal and training, tracking and inference, execution and
results know nothing of each other."""
HOMES = {
    "torch": ("training", "inference"),
    "torchvision": ("training", "inference"),
    "mlflow": ("tracking",),
    "pandas": ("results", "data_files"),
    "hydra": ("hydra_adapter",),
    "optuna": ("search",),
    "distributed": ("execution",),
}
"""Libraries, each with the only folders that know it."""
GUESTS = {  # the number of threads; which errors are of memory; weights are saved; the programs; what a sweep gives
    ("execution/worker.py", "torch"),
    ("execution/failures.py", "torch"),
    ("execution/trial_files.py", "torch"),
    ("execution/engines/dask/server_main.py", "torch"),
    ("app.py", "hydra"),
    ("train.py", "hydra"),
    ("from_python.py", "pandas"),
}
PRIVATE = {
    "tracking": ("sweepstack/tracking/private/", r"mlflow\.(store|utils|server|legacy_databricks_cli)\b|mlflow\..*\._"),
    "hydra_adapter": ("sweepstack/hydra_adapter/private.py", r"hydra\._internal\b|(hydra|omegaconf)\b.*\._"),
}
"""Folders that know a library, each with the only place that relies on private parts of it, and what these are called
where they are imported."""
OWN_SELF = {"self", "cls", "super"}
TABLES = re.compile(
    r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:runs|tags|params|metrics|latest_metrics|experiments|experiment_tags|inputs|"
    r"input_tags|datasets|logged_model\w*|model_versions?|model_version_tags|registered_model\w*|alembic_version)\b"
)
"""MLflow's tables in SQL. (The ledger's own have other names.)"""
PURE = {"os", "pathlib", "shutil", "sqlite3", "tempfile", "torch", "numpy"}
"""What planning does without: files, and tensors."""


def imports(path: Path) -> list[tuple[str, bool]]:
    """The modules that a file imports, each with whether it does so at once or inside a function."""
    tree = ast.parse(path.read_text())
    inside = {
        node
        for part in ast.walk(tree)
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(part, ast.If) and "TYPE_CHECKING" in ast.dump(part.test))
        for node in ast.walk(part)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, node not in inside) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node not in inside))
            found += [(f"{node.module}.{name.name}", node not in inside) for name in node.names]
    return found


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): path
        for path in sorted((SOURCE / "sweepstack").rglob("*.py"))
        if path.name != "__init__.py"
    }


@pytest.mark.parametrize("name", modules())
def test_a_file_imports_only_from_lower_floors_or_its_own_folder(name: str) -> None:
    _, room, *_ = name.split(".")
    for imported, _ in imports(modules()[name]):
        if imported.startswith("sweepstack."):
            other = imported.split(".")[1]
            assert other == room or FLOORS[other] < FLOORS[room], f"{name} must not import {imported}"


def test_inside_a_folder_imports_go_in_one_direction() -> None:
    known = modules()
    graph = {name: {other for other, _ in imports(path) if other in known} for name, path in known.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_any_file_that_trains_can_be_imported_first() -> None:
    """A user's module may import any of them. Files that import each other's folders can depend on the order."""
    names = [name for name in modules() if name.startswith("sweepstack.training.")]
    program = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("sweepstack.training")]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_lives_in_one_folder(library: str) -> None:
    for name, path in modules().items():
        room = name.split(".")[1]
        guest = ("/".join(path.relative_to(SOURCE / "sweepstack").parts), library) in GUESTS
        if room not in HOMES[library] and not guest:
            assert library not in {imported.split(".")[0] for imported, _ in imports(path)}, f"{name} imports {library}"


def test_the_doors_and_the_upper_floors_import_nothing_heavy_at_once() -> None:
    heavy = ("training", "inference", "results", "data_files")
    light = [path for name, path in modules().items() if name.split(".")[1] not in heavy]
    for path in [*light, *(SOURCE / "hydra_plugins").rglob("*.py")]:
        at_once = {imported.split(".")[0] for imported, early in imports(path) if early}
        assert not at_once & {"torch", "torchvision", "mlflow", "pandas", "numpy", "distributed"}, path


def test_a_worker_knows_no_session_no_ledger_and_no_store() -> None:
    known, reached = modules(), {"sweepstack.execution.worker"}
    while found := {one for name in reached for one, _ in imports(known[name]) if one in known} - reached:
        reached |= found
    assert not {name for name in reached if name.startswith(("sweepstack.journal", "sweepstack.tracking"))}
    assert {name for name in reached if name.startswith("sweepstack.execution")} == {
        f"sweepstack.execution.{name}" for name in ("assignment", "failures", "signals", "trial_files", "worker")
    }


def test_planning_reads_no_file_and_no_tensor() -> None:
    for name, path in modules().items():
        if name.startswith("sweepstack.planning."):
            assert not PURE & {imported.split(".")[0] for imported, _ in imports(path)}, name


def private_parts(path: Path) -> set[str]:
    """The attributes that a file takes from objects that are not its own and whose authors have not meant it."""
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match(r"_[^_]", node.attr)
        and node.attr not in own | {"_exit", "_getframe", "_replace", "_asdict", "_fields"}  # Python's own
        and not OWN_SELF & {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    }


def test_private_parts_of_a_library_are_relied_on_in_one_place() -> None:
    assert private_parts(SOURCE / PRIVATE["hydra_adapter"][0])
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for home, parts in PRIVATE.values():
            if not name.startswith(home):
                assert not {found for found, _ in imports(path) if re.match(parts, found)}, path
        homes = tuple(home for home, _ in PRIVATE.values())
        knows = name.startswith(("hydra_plugins/", *(f"sweepstack/{folder}/" for folder in PRIVATE)))
        if knows and not name.startswith(homes):
            assert not private_parts(path), path


def test_the_tables_of_mlflow_are_named_in_one_place() -> None:
    home = PRIVATE["tracking"][0]
    assert TABLES.search((SOURCE / home / "tables.py").read_text())
    for path in sorted(SOURCE.rglob("*.py")):
        if not path.relative_to(SOURCE).as_posix().startswith(home):
            assert not TABLES.search(path.read_text()), path


def test_a_folder_holds_at_most_fifteen_files() -> None:
    for folder in {path.parent for path in modules().values()} - {SOURCE / "sweepstack"}:
        files = [path for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"]
        assert len(files) <= 15, folder
