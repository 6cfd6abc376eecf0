"""Reads and checks one config file. A mistake is an error with the file, the line and the remedy.

It imports nothing heavy, because Hydra reads files at every start.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sweepstack.errors import ConfigError, one_line

MAX_VALUES = 100_000
"""The most values in a file, with its anchors written out: far more than a config has, and few enough to compose."""
MAX_DEPTH = 100
"""The most levels of nesting in a file."""


def read_yaml(path: Path) -> str:
    """Returns the text of a YAML file that holds one mapping or nothing.

    Raises:
        ConfigError: the file cannot be read, is not text in UTF-8, begins with a byte-order mark (which would hide a
            first line such as `# @package _global_`), or is not one mapping of reasonable size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"config file {path} must be readable ({error.strerror})", remedy="correct its permissions"
        ) from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        rule = f"config file {path} must be text in UTF-8, line {line} is not"
        raise ConfigError(rule, remedy="save the file as UTF-8") from error
    if text.startswith("\ufeff"):
        rule = f"config file {path} must not begin with a byte-order mark, which hides its first line"
        raise ConfigError(rule, remedy="save the file as UTF-8 without one")
    _check(path, text)
    return text


def _check(path: Path, text: str) -> None:
    try:
        nodes = [*yaml.compose_all(text, Loader=yaml.SafeLoader)]
        if len(nodes) > 1:
            line = nodes[1].start_mark.line + 1
            raise _wrong(path, line, "there must be one document in a file, a second one begins here", "leave it out")
        if nodes:
            _check_node(path, nodes[0])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = one_line(f"{error.context or ''} {error.problem or ''}")
        raise _wrong(path, mark.line + 1 if mark else 1, what, "correct it") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        position = getattr(error, "position", 0)
        what = one_line(str(error).splitlines()[0])
        raise _wrong(path, text.count("\n", 0, position) + 1, what, "leave out that character") from error
    except RecursionError as error:
        raise _wrong(path, 1, f"it is nested deeper than {MAX_DEPTH} levels", "simplify it") from error


def _check_node(path: Path, root: Any) -> None:
    line = root.start_mark.line + 1
    empty = isinstance(root, yaml.ScalarNode) and root.tag == "tag:yaml.org,2002:null"
    if not isinstance(root, yaml.MappingNode) and not empty:
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise _wrong(path, line, f"there must be keys and values, this is {kind}", "write KEY: VALUE")
    _size(path, root, {}, ())
    loader = yaml.SafeLoader("")
    try:
        _check_values(path, root, loader, set())
    finally:
        loader.dispose()


def _size(path: Path, node: Any, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Counts the values below a node. Those of an anchor count each time that it is named."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise _wrong(path, line, "an anchor must not contain itself", "write it out")
    if len(above) > MAX_DEPTH:
        raise _wrong(path, line, f"it is nested deeper than {MAX_DEPTH} levels", "simplify it")
    if id(node) not in known:
        known[id(node)] = 1 + sum(_size(path, part, known, (*above, id(node))) for part in _children(node))
        if known[id(node)] > MAX_VALUES:
            rule = f"there must be no more than {MAX_VALUES} values in a file, anchors written out"
            raise _wrong(path, line, rule, "leave out repeated values")
    return known[id(node)]


def _check_values(path: Path, node: Any, loader: Any, seen: set[int]) -> None:
    """Checks that no key is there twice, that all tags are YAML's own, and that all values can be built."""
    if id(node) in seen:
        return
    seen.add(id(node))
    line = node.start_mark.line + 1
    if node.tag not in yaml.SafeLoader.yaml_constructors:
        raise _wrong(
            path, line, f"the tag {node.tag} is not one of YAML's own", "leave it out; name classes by _target_"
        )
    if (
        isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:timestamp"
    ):  # OmegaConf takes a timestamp as text
        try:
            loader.construct_object(node, deep=True)
        except (ValueError, OverflowError) as error:
            raise _wrong(path, line, one_line(error), "correct the value, or quote it") from error
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, _ in node.value:
            name: Hashable = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is None:
                raise _wrong(path, key.start_mark.line + 1, "a key must be a single value", "write KEY: VALUE")
            if key.tag == "tag:yaml.org,2002:null":
                raise _wrong(path, key.start_mark.line + 1, "a key must not be null", "quote it")
            if name in keys and key.tag != "tag:yaml.org,2002:merge":
                raise _wrong(path, key.start_mark.line + 1, f"key {key.value!r} is there twice", "leave one out")
            keys.add(name)
    for part in _children(node):
        _check_values(path, part, loader, seen)


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair if not _is_merge(part)]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _is_merge(node: Any) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:merge")


def _wrong(path: Path, line: int, what: str, remedy: str) -> ConfigError:
    what = re.sub(r"^could not", "it could not", what)
    return ConfigError(f"config file {path} cannot be used: line {line}: {what}", remedy=remedy)
