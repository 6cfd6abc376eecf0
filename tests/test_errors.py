"""A user's mistake: one printable line of rule, value and remedy."""

import ast
import contextlib
import errno
import os
import pickle
import sqlite3
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from sweepstack.errors import ConfigError, UserError, as_typed, one_line
from sweepstack.standard_streams import HoldingErrors

from .terminal import ROOT


def test_a_mistake_is_one_line_of_rule_value_and_remedy() -> None:
    error = ConfigError("epochs should be a number from 1", 0, "for example epochs=5", where="job 3")

    assert str(error) == "job 3: epochs should be a number from 1, got 0; for example epochs=5"
    assert (error.rule, error.value, error.remedy) == ("epochs should be a number from 1", 0, "for example epochs=5")


def test_several_mistakes_are_told_in_several_lines_and_survive_pickling() -> None:
    both = ConfigError.of_all([ConfigError("a should be b", "c"), ConfigError("d is missing", remedy="give it")])
    again = pickle.loads(pickle.dumps(both.inside("job 1")))

    assert isinstance(again, ConfigError)
    assert str(again).splitlines() == ["job 1: a should be b, got 'c'", "job 1: d is missing; give it"]
    assert [error.remedy for error in again.errors] == ["", "give it"]


@pytest.mark.parametrize("text", ["\x1b[31mred", "two\nlines", "\r\x07"])
def test_what_others_have_written_moves_no_cursor(text: str) -> None:
    for line in (str(UserError(f"a file must be there, {text} is not", text)), one_line(text)):
        assert line.isprintable()


@pytest.mark.parametrize("library", ["torch", "numpy", "sqlite", "wrapped"])
def test_a_full_disk_is_told_as_one_whatever_library_meets_it(tmp_path: Path, library: str) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    file = mock.Mock(write=mock.Mock(side_effect=full))
    held = HoldingErrors(file, tmp_path / "weights.pt")

    def write() -> None:
        match library:
            case "torch":
                torch.save({"weight": torch.zeros(1000)}, held)  # type: ignore[arg-type]
                held.raise_error()
            case "numpy":
                np.save(held, np.zeros(1000))
                held.raise_error()
            case "sqlite":
                with contextlib.closing(sqlite3.connect(tmp_path / "small.db")) as database:
                    database.execute("PRAGMA max_page_count = 2")
                    database.execute("CREATE TABLE t (a)")
                    database.execute("INSERT INTO t VALUES (?)", ("x" * 100_000,))
            case "wrapped":
                raise RuntimeError("enforce fail at inline_container.cc") from full

    with pytest.raises((OSError, sqlite3.Error, RuntimeError)) as met:
        write()
    line = one_line(met.value)
    assert line.startswith("the disk is full: ")
    assert "make room there" in line
    assert str(tmp_path / "weights.pt") in line or library in ("sqlite", "wrapped")


@pytest.mark.parametrize("word", ["a b", "it's", "\x1b[2J'\\n", "two\nlines", "größe \u202e", "[0.1]"])
def test_a_command_that_is_printed_can_be_typed(word: str) -> None:
    line = as_typed(["printf", "%s", word])
    assert line.isprintable()
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode() == word


KINDS = ("UserError", "ConfigError", "DataError", "StoreError", "PictureError")
SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT / "src")) for path in SOURCES])
def test_every_mistake_of_a_users_has_a_remedy(path: Path) -> None:
    """But for those that pass on what another process has said."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            says = bool(node.args) and isinstance(node.args[0], ast.Constant | ast.JoinedStr)
            remedy = len(node.args) > 2 or any(keyword.arg == "remedy" for keyword in node.keywords)
            assert remedy or not says, f"{path.name}, line {node.lineno}"
