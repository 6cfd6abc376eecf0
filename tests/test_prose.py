"""The words of the house and the form of docstrings: what a tool can check of both, for all of `src`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
RETIRED = {
    *("again", "apart", "aside", "figures", "fronts", "keeper", "knob", "knobs", "lacking"),
    *("otherwise", "place", "places", "plate", "plates", "recording", "said", "tell", "told", "upwards", "waits"),
}
"""Words that no name in `src` contains any more; the field has better ones: repeated, distance, temporary, metrics,
replay, checkpoints, param, missing, index, section, session, message, describe."""
ALLOWED = {"NOT_TOLD_APART", "set_aside", "_set_aside", "note_set_aside", "tell"}
"""Names with a retired word in a meaning of its own: a mark that users see, a table, ask and tell of a search."""
RETIRED_PHRASES = ("anew", "gone on with", "is mended", "must be mended", "in company", "hear of", "hears of")
"""Phrases that no text in `src` contains any more."""
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that a file gives to functions, classes, parameters, attributes, variables and imports."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.MatchAs(name=str() as name) | ast.MatchStar(name=str() as name):
                yield name, node.lineno
            case ast.alias(asname=str() as name):
                yield name, node.lineno


def public_functions(tree: ast.Module) -> Iterator[tuple[Function, bool]]:
    """The public functions of a file and the public methods of its public classes, each with whether it is a method."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for part in node.body:
                if isinstance(part, Function) and not part.name.startswith("_"):
                    yield part, True


def parameters(function: Function) -> list[str]:
    """The names of a function's parameters, but for `self` and `cls`."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs]
    return [one.arg for one in every if one is not None and one.arg not in ("self", "cls")]


def described(docstring: str) -> set[str]:
    """The parameters in the `Args:` section of a docstring."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\*{0,2}\w[\w, *]*):", section[1], re.MULTILINE) if section else []
    return {name.strip(" *") for entry in entries for name in entry.split(",")}


def is_command(function: Function) -> bool:
    """Whether a function is a command of `sweepstack`: its docstring is the help, its options describe themselves."""
    return any("command" in ast.unparse(decorator) for decorator in function.decorator_list)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_name_contains_a_retired_word(path: Path) -> None:
    names = defined_names(ast.parse(path.read_text(encoding="utf-8")))
    assert not [
        f"line {line}: {name}"
        for name, line in names
        if name not in ALLOWED and RETIRED & {*re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")}
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_text_contains_a_retired_phrase(path: Path) -> None:
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert not [phrase for phrase in RETIRED_PHRASES if re.search(rf"\b{phrase}\b", text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_docstring_describes_three_parameters_or_more(path: Path) -> None:
    """D417 of ruff would ask for every parameter wherever one is described: the obvious ones, too."""
    for function, is_method in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        names, docstring = parameters(function), ast.get_docstring(function) or ""
        if is_command(function) or docstring.startswith("See ") or (is_method and not docstring):
            continue  # the last two override a method that has the description
        assert docstring, f"{function.name} has no docstring"
        if len(names) > 2 and not described(docstring):
            unnamed = [name for name in names if not re.search(rf"\b{name}\b", docstring)]
            assert not unnamed, f"the docstring of {function.name} does not say what {unnamed} are"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_docstring_describes_only_parameters_that_there_are(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            unknown = described(ast.get_docstring(node) or "") - {*parameters(node)}
        elif isinstance(node, ast.ClassDef):
            begin = [part for part in node.body if isinstance(part, Function) and part.name in ("__init__", "__new__")]
            fields = {
                part.target.id
                for part in node.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            }
            unknown = (
                described(ast.get_docstring(node) or "") - {name for one in begin for name in parameters(one)} - fields
            )
        else:
            continue
        assert not unknown, f"{node.name} has no {unknown}"
