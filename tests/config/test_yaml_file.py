"""Config files that cannot be used: one line with the file, the line in it and the remedy, whoever reads them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstack.config.yaml_file import read_yaml
from sweepstack.errors import ConfigError

from .. import here

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
WRONG = {
    "twice": (b"a: 1\nb: 2\na: 3\n", "line 3: key 'a' is there twice"),
    "tab": (b"a: 1\n\tb: 2\n", "line 2: .*cannot start any token"),
    "nul": (b"a: 1\nb: \0\n", "line 2: unacceptable character #x0000"),
    "two documents": (b"a: 1\n---\nb: 2\n", "line 3: there must be one document"),
    "latin-1": ("# caf\u00e9\n".encode("latin-1"), "must be text in UTF-8, line 1 is not; save the file as UTF-8"),
    "utf-16": ("a: 1\n".encode("utf-16"), "must be text in UTF-8"),
    "mark": (b"\xef\xbb\xbf# @package _global_\na: 1\n", "must not begin with a byte-order mark"),
    "tag": (b"a: !foo 1\n", "line 1: the tag !foo is not one of YAML's own"),
    "python": (b"a: !!python/object:os.system 1\n", "python/object:os.system is not one of"),
    "bomb": (BOMB.encode(), "no more than 100000 values in a file"),
    "itself": (b"a: &a [*a]\n", "an anchor must not contain itself"),
    "list": (b"- 1\n", "there must be keys and values, this is a list"),
    "value": (b"hello\n", "there must be keys and values, this is a single value"),
    "deep": (b"a: " + b"[" * 5000, "nested deeper than 100 levels"),
    "levels": (b"a: " + b"[" * 150 + b"]" * 150, "nested deeper than 100 levels"),
    "digits": (b"a: " + b"1" * 10_000, "line 1: Exceeds the limit"),
    "key": (b"? [a]\n: 1\n", "line 1: a key must be a single value"),
    "open": (b"a: [1,\n", "line 2: while parsing a flow"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_cannot_be_used_is_named_with_the_line(tmp_path: Path, name: str) -> None:
    content, said = WRONG[name]
    file = tmp_path / "own.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as error:
        read_yaml(file)
    assert str(error.value).startswith(f"config file {file} ")
    assert error.value.remedy


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    said = ""
    try:
        text = read_yaml(file)
    except ConfigError as error:
        said = str(error)
    assert said.isprintable()
    assert said or text.encode() == content


@pytest.mark.parametrize("folder", ["conf/model", "sweeps"])
def test_files_of_groups_and_of_named_sweeps_are_refused_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "own.yaml").write_bytes(WRONG["mark"][0])
    (tmp_path / "conf").mkdir(exist_ok=True)
    (tmp_path / "conf" / "config.yaml").write_text("defaults:\n  - optional model: null\n  - optional sweeps: null\n")
    choice = "sweeps=own" if folder == "sweeps" else "model=own"
    done = here.train("--config-path", str(tmp_path / "conf"), choice)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: config file {tmp_path / folder / 'own.yaml'} must not begin with a byte-order mark")
