"""What docs/datasets.md says of augmentation, and of sequences of unequal length, works as it is written."""

import re
import shlex

import pytest
import yaml

from sweepstack.config.trial_sections import AugmentConfig

from . import here
from .terminal import ROOT, Terminal

PAGE = (ROOT / "docs" / "datasets.md").read_text()


def blocks(language: str, part: str) -> list[str]:
    """The blocks of a language in the part of the page below a heading."""
    text = PAGE.partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_sequences_of_the_page_are_swept(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    part = "Tokens, several inputs, sequences"
    (code,), (dataset, model), (command,) = (blocks(language, part) for language in ("python", "yaml", "console"))
    (terminal.folder / "my_words.py").write_text(code)
    for group, content in (("dataset", dataset), ("model", model)):
        (terminal.folder / "my_conf" / group).mkdir(parents=True)
        (terminal.folder / "my_conf" / group / "words.yaml").write_text(content)
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    monkeypatch.syspath_prepend(terminal.folder)
    done = here.train(*shlex.split(command)[2:], "epochs=15", "batch_size=20", "workers=1", "threads=1")
    assert done.code == 0, done.err
    assert done.err == "Dataset my_words.Words is streamed by worker processes: dataset.collate_fn makes its batches.\n"
    rows = terminal.store.rows()
    assert [row.state for row in rows] == ["FINISHED"] * 2
    assert max(row.metrics["test/accuracy"] for row in rows) > 0.8


def test_the_augmentation_of_the_page_is_a_config() -> None:
    (written,) = blocks("yaml", "Augmentation")
    assert AugmentConfig.model_validate(yaml.safe_load(written)).transforms
    options = set(re.findall(r"^\| `(\w+)`", PAGE.partition("\n## Augmentation\n")[2], re.MULTILINE)) - {"augment"}
    assert options == {path.stem for path in (ROOT / "conf" / "augment").glob("*.yaml")}
