"""The checksum of the training code: whatever of the user's own is trained with changes it; and what sweepstack's own
code trains is pinned."""

import importlib
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from sweepstack.config import code_digest
from sweepstack.training.trainer import train

from ..loading import load_data

FILES = {
    "own_model.py": "import math\nfrom own_helpers import width\n\nclass Net: ...\n",
    "own_helpers.py": "import own_deep\n\nwidth = 3\n",
    "own_deep.py": "depth = 1\n",
    "own_unrelated.py": "",
    "own_optimizer.py": "class Steps: ...\n",
    "own_data.py": "class Images: ...\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the path, for modules of the user's own."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def digest(digits_config):
    """What a new process would say."""

    def read(target="own_model.Net", **changes):
        importlib.invalidate_caches()
        code_digest._digest_of.cache_clear()
        return code_digest.digest(digits_config({"model": {"_target_": target}, **changes}))

    return read


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("own_model.py", True),
        ("own_helpers.py", True),
        ("own_deep.py", True),
        ("own_optimizer.py", True),
        ("own_unrelated.py", False),
        ("own_data.py", False),  # what it gives is checked instead
    ],
)
def test_what_is_imported_counts_and_what_is_not_does_not(folder, digest, name, counts):
    write(folder, FILES)
    parts = {
        "dataset._target_": "own_data.Images",
        "optimizer": {"_target_": "own_optimizer.Steps", "lr": 0.1},
    }
    before = digest(**parts)
    (folder / name).write_text(f"{FILES[name]}changed = True\n")
    assert (digest(**parts) != before) is counts
    (folder / name).write_text(FILES[name])
    assert digest(**parts) == before


def test_it_is_8_hex_digits_that_a_new_process_gives_too_without_pytorch(folder, digest, digits_config):
    write(folder, FILES)
    program = """
import sys
from sweepstack.config.schema import TrialConfig
from sweepstack.config.code_digest import digest
sys.path.append(sys.argv[1])
print(digest(TrialConfig.model_validate_json(sys.argv[2])), sorted({"torch", "own_model"} & set(sys.modules)))
"""
    config = digits_config({"model": {"_target_": "own_model.Net"}}).model_dump_json(by_alias=True)
    command = [sys.executable, "-c", program, str(folder), config]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{digest()} []\n"
    assert re.fullmatch("[0-9a-f]{8}", digest())


@pytest.mark.parametrize(
    "line",
    [
        "import pkg.sub",
        "import pkg.sub as other",
        "from pkg import sub",
        "from pkg import nothing, sub as other",
        "from pkg.sub import value",
        "from pkg.sub import *",
        "def later():\n    from pkg import sub\n",
        "try:\n    import missing_module\nexcept ImportError:\n    import pkg.sub\n",
    ],
)
@pytest.mark.parametrize("init", [True, False], ids=["package", "folder"])
def test_a_module_in_a_package_is_found_however_it_is_imported(folder, digest, line, init):
    write(folder, {"own_model.py": line, "pkg/sub.py": "value = 1", "pkg/beside.py": ""})
    if init:
        write(folder, {"pkg/__init__.py": "nothing = 0"})
    before = digest()
    write(folder, {"pkg/beside.py": "changed = True"})
    assert digest() == before
    write(folder, {"pkg/sub.py": "value = 2"})
    after = digest()
    assert after != before
    write(folder, {"pkg/__init__.py": "nothing = 1"})  # a package is run before what is in it
    assert digest() != after


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("from . import helper", "pkg/inner/helper.py"),
        ("from .helper import value", "pkg/inner/helper.py"),
        ("from .. import helper", "pkg/helper.py"),
        ("from ..helper import value", "pkg/helper.py"),
        ("from ..other.helper import value", "pkg/other/helper.py"),
    ],
)
def test_relative_imports_are_followed(folder, digest, line, changed):
    names = ["pkg/__init__.py", "pkg/helper.py", "pkg/inner/__init__.py", "pkg/inner/helper.py", "pkg/other/helper.py"]
    write(folder, {**dict.fromkeys(names, "value = 1"), "pkg/inner/model.py": line})
    before = digest("pkg.inner.model.Net")
    for name in names:
        write(folder, {name: "value = 2"})
        assert (digest("pkg.inner.model.Net") != before) is (name == changed or name.endswith("__init__.py")), name
        write(folder, {name: "value = 1"})


def test_a_folder_that_comes_first_does_not_hide_a_module(tmp_path, folder, monkeypatch, digest):
    monkeypatch.syspath_prepend(tmp_path / "first")
    write(folder, {"first/pkg/sub/notes.txt": "", "pkg/sub.py": "value = 1", "own_model.py": "import pkg.sub"})
    before = digest()
    write(folder, {"pkg/sub.py": "value = 2"})
    assert digest() != before


def test_a_name_that_a_package_hands_on_leads_to_its_module(folder, digest):
    write(folder, {"pkg/__init__.py": "from .model import Net", "pkg/model.py": "class Net: ..."})
    before = digest("pkg.Net")
    write(folder, {"pkg/model.py": "class Net: width = 3"})
    assert digest("pkg.Net") != before
    assert digest("pkg.Net.Inner") == digest("pkg.Net")


def test_modules_that_import_each_other_end(folder, digest):
    write(
        folder,
        {"own_model.py": "import own_a\nimport own_model", "own_a.py": "import own_b", "own_b.py": "import own_a"},
    )
    before = digest()
    write(folder, {"own_b.py": "import own_a, own_model"})
    assert digest() != before


def test_a_target_inside_the_keywords_counts(folder, digest):
    write(folder, FILES)
    target = "sweepstack.training.models.MLP"
    for keywords in ({"block": {"_target_": "own_deep.Block"}}, {"blocks": [{"a": [{"_target_": "own_deep.Block"}]}]}):
        for section in ("model", "optimizer"):
            changes = {f"{section}.{name}": value for name, value in keywords.items()}
            before = digest(target, **changes)
            write(folder, {"own_deep.py": "depth = 2"})
            assert digest(target, **changes) != before
            write(folder, FILES)
    assert digest(target, **{"model.block": {"_target_": 3}}) == digest(target)


def test_the_path_that_hydra_looks_up_counts(folder, digest):
    """`hydra.utils.get_class` and its like give a class or a function to a keyword."""
    write(folder, FILES)
    looked_up = {"_target_": "hydra.utils.get_class", "path": "own_optimizer.Steps"}
    before = digest("torch.nn.Linear", model={"_target_": "torch.nn.Linear", "layer": looked_up})
    (folder / "own_optimizer.py").write_text("class Steps:\n    changed = True\n")
    assert digest("torch.nn.Linear", model={"_target_": "torch.nn.Linear", "layer": looked_up}) != before


def test_where_the_code_lies_and_how_its_lines_end_does_not_count(tmp_path, monkeypatch, digest):
    digests = set()
    for name, end in (("here", "\n"), ("there", "\r\n")):
        write(tmp_path / name, FILES)
        for file in FILES:
            (tmp_path / name / file).write_bytes(FILES[file].replace("\n", end).encode())
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / name)
            digests.add(digest())
    assert len(digests) == 1


def test_sweepstack_and_pytorch_are_covered_by_a_number(digest, monkeypatch):
    ours = digest("sweepstack.training.models.MLP")
    assert ours == digest("torch.nn.Linear") == digest("torchvision.models.resnet18")
    monkeypatch.setattr(code_digest, "SEMANTICS", code_digest.SEMANTICS + 1)
    assert digest("sweepstack.training.models.MLP") != ours


def test_of_an_installed_package_the_version_counts(tmp_path, monkeypatch, digest):
    installed = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(installed)
    versions = {}
    for version in ("1.0", "2.0"):
        write(
            installed,
            {
                "models_pkg/__init__.py": "",
                "models_pkg/net.py": "class Net: ...",
                "Models_Pkg.dist-info/METADATA": f"Metadata-Version: 2.1\nName: Models-Pkg\nVersion: {version}\n",
                "Models_Pkg.dist-info/top_level.txt": "models_pkg\n",
            },
        )
        versions[version] = digest("models_pkg.net.Net")
    assert versions["1.0"] != versions["2.0"]
    write(installed, {"models_pkg/net.py": "class Net: width = 3"})
    assert digest("models_pkg.net.Net") == versions["2.0"]


def test_what_the_users_code_imports_of_installed_packages_does_not_count(tmp_path, folder, monkeypatch, digest):
    installed = tmp_path / "lib" / "site-packages"
    monkeypatch.syspath_prepend(installed)
    write(folder, {"own_model.py": "import other_pkg, other_pkg.part, numpy, torch.nn, os.path\n"})
    write(installed, {"other_pkg/__init__.py": "", "other_pkg/part.py": ""})
    before = digest()
    write(installed, {"other_pkg/__init__.py": "x = 1", "other_pkg/part.py": "x = 1"})
    assert digest() == before


def test_what_has_no_source_counts_by_its_name(digest):
    names = ["builtins.dict", "_thread.lock", "no_such_module.Net", "no_such_module.net.Net"]
    digests = [digest(name) for name in names]
    assert len(set(digests)) == len(names)
    assert digests == [digest(name) for name in names]


def test_a_notebooks_own_class_counts_by_its_name(digest, monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert digest("__main__.Net") == digest("__main__.Net") != digest("sweepstack.training.models.MLP")


def test_a_scripts_own_class_counts_by_its_source(folder, digest, monkeypatch):
    write(folder, {"script.py": "class Net: ..."})
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(folder / "script.py"), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    before = digest("__main__.Net")
    write(folder, {"script.py": "class Net: width = 3"})
    assert digest("__main__.Net") != before


@pytest.mark.parametrize("source", [b"class Net(:\n", b"\x00\xff", b"x = '\\d'\n", b"from ...... import x\n"])
def test_a_source_that_cannot_be_read_as_python_counts_by_its_bytes(folder, digest, source, recwarn):
    (folder / "own_model.py").write_bytes(source)
    before = digest()
    (folder / "own_model.py").write_bytes(source + b"#")
    assert digest() != before
    assert not recwarn.list


# What a config trains

HINT = (
    "This config trains to other figures than it did. If that is on purpose, raise SEMANTICS in "
    "sweepstack/config/code_digest.py, so that nothing finished before is taken for finished now, and pin what is "
    "measured: "
)
MLP = {"_target_": "sweepstack.training.models.MLP", "shape": [1, 8, 8], "classes": 10, "hidden": [32]}


class Noisy(nn.Module):
    """Draws from PyTorch's random state while it trains, as dropout does, but the same numbers on every machine."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        images = images.flatten(1)
        return self.linear(images * (torch.rand(images.shape) > 0.3) if self.training else images)


@pytest.mark.parametrize(
    ("changes", "pinned"),
    [
        pytest.param(
            {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}, "seed": 1, "epochs": 3},
            {"train/loss": 0.946075, "val/loss": 0.853410, "test/loss": 0.791152},
            id="logistic sgd momentum",
        ),
        pytest.param(
            {
                "model": MLP,
                "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
                "schedule": {"kind": "cosine"},
                "seed": 2,
                "epochs": 4,
                "batch_size": 64,
            },
            {"train/loss": 0.430201, "val/loss": 0.482340, "test/loss": 0.445196},
            id="mlp adam cosine",
        ),
        pytest.param(
            {
                "model": {"_target_": f"{__name__}.Noisy"},
                "schedule": {"kind": "step", "every": 1, "gamma": 0.5},
                "seed": 3,
                "epochs": 3,
                "validation_split": 0.2,
                "dataset.mean": 0.3,
            },
            {"train/loss": 2.096621, "val/loss": 1.996373, "test/loss": 1.972807},
            id="random numbers in training",
        ),
    ],
)
def test_what_a_config_trains_is_what_it_trained_before(digits_config, changes, pinned):
    config = digits_config(changes)
    outcome = train(
        config, load_data(config.dataset, config.validation_split, torch.device("cpu")), lambda measured: None
    )
    measured = {name: round(outcome.metrics[name], 6) for name in pinned}
    assert measured == pytest.approx(pinned, rel=1e-3), f"{HINT}{measured}"
