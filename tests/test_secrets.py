"""What a sweep leaves behind is read by others: no file, line or record of it tells a password."""

import stat
from pathlib import Path

import pytest

from .terminal import Terminal

SECRET = "hunter22"
AWAY = f"http://me:{SECRET}@127.0.0.1:9"
"""Nobody answers there."""
MODEL = f"""
import torch

class Fetched(torch.nn.Linear):
    def __init__(self, source, fails=False, shape=None, classes=None):
        super().__init__(64, 10)
        assert source == "ftp://me:{SECRET}@files/x"
        self.fails = source if fails else ""

    def forward(self, images):
        if self.fails and torch.is_grad_enabled() and len(images) > 50:
            raise RuntimeError(f"cannot fetch {{self.fails}}")
        return super().forward(images.flatten(1))
"""
CONFIG = f"""
# @package _global_
tracking:
  uri: {AWAY}
model:
  _target_: fetched.Fetched
  source: ftp://me:{SECRET}@files/x
  fails: false
"""


def tells(folder: Path) -> list[str]:
    """Files that hold the secret."""
    return [str(file) for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that needs an address with a password, and a config that gives it."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "code").mkdir()
    (folder / "code" / "fetched.py").write_text(MODEL)
    (folder / "code" / "experiment").mkdir()
    (folder / "code" / "experiment" / "fetched.yaml").write_text(CONFIG)
    return folder


@pytest.mark.parametrize(
    ("code", "words", "of_environment"),
    [
        (3, ["-m", "hydra/launcher=basic"], ""),
        (1, ["-m", "tracking.uri=null", "model.fails=true,false"], AWAY),
        (3, ["-m", f"tracking.uri='http://{SECRET}@127.0.0.1:9'", f"+hydra.job.env_set.X='ftp://:{SECRET}@h'"], ""),
    ],
    ids=["file", "environment", "typed"],
)
def test_nothing_that_a_sweep_leaves_tells_a_password(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: list[str], of_environment: str
) -> None:
    terminal = Terminal(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(project / "code"))
    if of_environment:
        monkeypatch.setattr(Terminal, "uri", of_environment)
    given = [f"--config-dir={project / 'code'}", "experiment=fetched", "dataset=digits", "epochs=1"]
    options = [word for word in words if word.startswith("-")]
    words = ["tracking.journal=journal", "hydra.sweep.dir=out", *words[len(options) :]]
    done = terminal.type("train.py", *options, *given, *words)
    assert done.returncode == code, done.stderr
    assert [*tmp_path.glob("out/**/config.yaml")]
    assert SECRET not in done.stdout + done.stderr
    assert tells(tmp_path) == []
    journal = tmp_path / "journal"
    closed = [journal, *journal.glob("*"), *journal.glob("*/*")]  # a file deeper inside may be a link to the job's own
    others = [path for path in closed if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert (journal / "ledger.db").exists()
    assert others == []
