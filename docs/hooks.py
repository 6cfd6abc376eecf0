"""Hooks of mkdocs: what the site shows beside the pages of this folder.

That is the reference of config keys and of commands, made from the code, and files from elsewhere in the repository.

mkdocs is imported when it builds the site, and not before: tests read the reference without it.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import yaml

from sweepstack.cli.main import main
from sweepstack.config.schema import FlatConfig

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
"""The pages of the examples."""
SHOWN_CODE = {".py": "python", ".yaml": "yaml"}
"""Files of an example that its page shows, by their suffixes, with their languages."""
COPIES = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security_policy.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples/index.md",
    **{f"examples/{file.parent.name}/README.md": f"examples/{file.parent.name}.md" for file in EXAMPLES},
}
"""Files of the repository, each with the page of the site that shows it."""
SHOWN_BY = {**COPIES, "conf/config.yaml": "reference/config.md", "src/sweepstack/cli/main.py": "reference/commands.md"}
"""Files that a page links to, each with the page of the site that has what is in them."""
NOT_OURS = ("hydra", "defaults")
"""Keys of `conf/config.yaml` that are Hydra's own."""
LINK = re.compile(r"(?<=\])\(([^)\s#:]+)(#[^)\s]*)?\)")
"""The address of a link to a file, and the anchor behind it."""
UNLINKED = re.compile(r"\[([^\[\]]*)\]\(\)")
"""A link to what the site does not have: only its text stays."""
FENCE = re.compile(r"^(```.*?^```)$", re.DOTALL | re.MULTILINE)
TRANSITION = re.compile(r"^ *(.+?) --> (.+?)(?:: (.*))?$", re.MULTILINE)
LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]* src=[\"']?(?:https?:)?//[^>]*>"
    r"|<link(?![^>]* rel=[\"']?(?:canonical|alternate|next|prev)\b)[^>]* href=[\"']?(?:https?:)?//[^>]*>"
)
"""A part of a page that a browser would load from the network."""


LIMITS = {"ge": "from", "minimum": "from", "gt": "above", "exclusiveMinimum": "above"}
LIMITS |= {"le": "to", "maximum": "to", "lt": "below", "exclusiveMaximum": "below"}
"""Keywords of JSON schema, and those of pydantic for a limit behind a check of its own, in words."""


class Key(NamedTuple):
    """A key of the config, as the reference shows it."""

    default: str
    values: str
    meaning: str


def reference_of_config() -> str:
    """Returns the page of all config keys: their defaults and meanings from `conf/`, their values from the schema."""
    schema = FlatConfig.model_json_schema()
    definitions = schema["$defs"]
    typed = dict(_typed_keys(schema, definitions, ""))
    base = _written_keys(ROOT / "conf" / "config.yaml", "")
    keys = {path: key for path, key in {**typed, **base}.items() if path.partition(".")[0] not in NOT_OURS}
    for path, key in typed.items():
        if path in base:
            keys[path] = Key(base[path].default, key.values, base[path].meaning)
    folders = {
        folder.name: folder for folder in [*sorted((ROOT / "conf").iterdir()), ROOT / "sweeps"] if folder.is_dir()
    }
    groups = [name for name in folders if name not in NOT_OURS]
    single = {path: key for path, key in keys.items() if "." not in path and path not in groups}
    parts = [
        "# Config keys",
        "Any key can be set on the command line (`optimizer.lr=0.1`), and swept with `-m` (`optimizer.lr=0.01,0.1`). "
        "This page is made from `conf/` and from the types that check a config, when the site is built.",
        "## Keys of a training and of a command",
        _table_of_keys(single),
    ]
    for section in dict.fromkeys([*groups, *(path.partition(".")[0] for path in keys if "." in path)]):
        inside = {path: key for path, key in keys.items() if path.startswith(f"{section}.")}
        parts += [f"## {section}", _description(schema["properties"].get(section, {}), definitions)]
        parts += [_table_of_keys(inside)] if inside else []
        for file in sorted(folders[section].glob("*.yaml")) if section in groups else ():
            prefix = "" if "# @package _global_" in file.read_text(encoding="utf-8") else f"{section}."
            own = {
                path: Key(key.default, typed[path].values if path in typed else "", key.meaning)
                for path, key in _written_keys(file, prefix).items()
            }
            about = re.sub(r"^# ?(@package.*)?", "", _head(file), flags=re.MULTILINE).strip()
            is_laid_out = "\n  " in about or "\n|" in about
            parts += [f"### {section}={file.stem}", f"```text\n{about}\n```" if is_laid_out else _text(about)]
            parts += [_table_of_keys(own)] if own else []
    return re.sub(r"\bdocs/(\w+)\.md", r"[\1](../\1.md)", "\n\n".join(part for part in parts if part)) + "\n"


def reference_of_commands() -> str:
    """Returns the page of all commands of `sweepstack`: the help of each, with a table of its options."""
    parts = [
        "# Commands",
        "`python train.py` trains: its words are [config keys](config.md) and flags of Hydra, which "
        "`python train.py --help` and `python train.py --hydra-help` list. `sweepstack` shows, exports and uses what "
        "was recorded. This page is made from the command itself, when the site is built.",
    ]
    whole = click.Context(main, info_name="sweepstack", **main.context_settings)
    for name in main.list_commands(whole):
        command = main.get_command(whole, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=whole)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        about = inspect.cleandoc(command.help or "").replace("\b\n", "")
        records = [one.get_help_record(context) for one in command.get_params(context)]
        rows = [f"| `{_cell(record[0])}` | {_text(record[1])} |" for record in records if record]
        parts += [f"## {name}", f"    {usage}", _text(about), "\n".join(["| option | meaning |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def page_of_example(folder: Path) -> str:
    """Returns the page of an example: its README, and its files, which a reader of the site does not have."""
    parts = [(folder / "README.md").read_text(encoding="utf-8")]
    files = [file for file in folder.rglob("*") if file.suffix in SHOWN_CODE and file.name != "train.py"]
    for file in sorted(files, key=lambda file: (file.suffix != ".py", file)):
        name, language = file.relative_to(folder).as_posix(), SHOWN_CODE[file.suffix]
        parts.append(f"## {name}\n\n```{language}\n{file.read_text(encoding='utf-8')}```\n")
    return "\n".join(parts)


def _head(file: Path) -> str:
    """The comment lines at the beginning of a file."""
    return re.match(r"(#.*\n)*", file.read_text(encoding="utf-8"))[0]  # type: ignore[index] # it always matches


def _written_keys(file: Path, prefix: str) -> dict[str, Key]:
    """The keys of a YAML file with their values and the comments behind them.

    Args:
        file: the YAML file.
        prefix: the section that its keys are in, with a dot behind, or nothing.
    """
    text = file.read_text(encoding="utf-8")
    comments: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        if found := re.match(r"( *)([\w.]+):(?: .*?)?(?: # (.*))?$", line):
            indent, name, comment = len(found[1]), found[2], found[3]
            above = [*(one for one in above if one[0] < indent), (indent, name)]
            comments[".".join(one[1] for one in above)] = comment or ""
    values = yaml.safe_load(text) or {}
    leaves = {path: value for path, value in _leaves(values, "") if path.partition(".")[0] not in NOT_OURS}
    keys = {prefix + path: Key(_typed_text(value), "", comments.get(path, "")) for path, value in leaves.items()}
    for path, value in values.get("hydra", {}).get("sweeper", {}).get("params", {}).items():  # those of a named sweep
        keys[path] = Key(_typed_text(value), "", comments.get(f"hydra.sweeper.params.{path}") or "swept")
    return keys


def _leaves(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _typed_keys(node: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[tuple[str, Key]]:
    """The keys below a node of a JSON schema; those of alternative sections, such as two engines, are merged.

    Args:
        node: the node.
        definitions: what the node refers to by name.
        prefix: the section of the node, with a dot behind, or nothing.
    """
    found: dict[str, Key] = {}
    for section in _sections(node, definitions):
        for name, child in section.get("properties", {}).items():
            if any(part.get("properties") for part in _sections(child, definitions)):
                found |= dict(_typed_keys(child, definitions, f"{prefix}{name}."))
                continue
            key = Key(_typed_text(child["default"]) if "default" in child else "", _values(child, definitions), "")
            if before := found.get(prefix + name):
                default = key.default if key.default == before.default else ""
                key = Key(default, " or ".join(dict.fromkeys([before.values, key.values])), "")
            found[prefix + name] = key
    yield from found.items()


def _sections(node: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections that a node may be; none if it may also be no section, such as null."""
    if "$ref" in node:
        return _sections(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "oneOf" in node:
        return [section for one in node["oneOf"] for section in _sections(one, definitions)]
    return [node] if "properties" in node else []


def _description(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What the docstrings of a section's types say."""
    return "\n\n".join(section.get("description", "") for section in _sections(node, definitions))


def _values(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Which values a key takes, in words."""
    if "$ref" in node:
        return _values(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "const" in node or "enum" in node:
        return ", ".join(f"`{one}`" for one in node.get("enum", [node.get("const")]))
    if alternatives := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(dict.fromkeys(_values(one, definitions) for one in alternatives))
    bounds = "".join(f" {word} {node[limit]}" for limit, word in LIMITS.items() if limit in node)
    match node.get("type"):
        case "integer":
            return f"whole number{bounds}"
        case "number":
            return f"number{bounds}"
        case "boolean":
            return "`true`, `false`"
        case "null":
            return "`null`"
        case "array":
            items = node.get("items") or (node.get("prefixItems") or [{}])[0]
            return f"list of: {_values(items, definitions)}"
        case "object":
            return "`_target_` and its keywords" if "_target_" in node.get("properties", {}) else "keys and values"
    return "text"


def _typed_text(value: Any) -> str:
    """A value as it is typed in YAML on one line."""
    return value if isinstance(value, str) else json.dumps(value)


def _table_of_keys(keys: dict[str, Key]) -> str:
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for path, key in keys.items():
        default = f"`{_cell(key.default)}`" if key.default else ""
        rows.append(f"| `{_cell(path)}` | {default} | {key.values} | {_text(key.meaning)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text(text: str) -> str:
    """Plain text for Markdown: outside of code, what could be markup is none."""
    parts = re.split(r"(`[^`]*`)", _cell(text))
    plain = (part if part.startswith("`") else re.sub(r"([_*\[])", r"\\\1", part) for part in parts)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in plain)


def state_tables(markdown: str) -> str:
    """Returns a page with each state diagram as a table: what draws diagrams in a browser comes from the network."""

    def table(found: re.Match[str]) -> str:
        names = {"[*]": "*begin or end*"}
        rows = [
            f"| {names.get(one, one)} | {names.get(other, other)} | {why or ''} |"
            for one, other, why in TRANSITION.findall(found[1])
        ]
        return "\n".join(["| from | to | by whom, and when |", "|---|---|---|", *rows])

    return re.sub(r"^```mermaid\nstateDiagram-v2\n(.*?)^```$", table, markdown, flags=re.DOTALL | re.MULTILINE)


def site_links(markdown: str, file: str, page: str) -> str:
    """Returns a page with the addresses of its links as they are in the site; without those to what the site lacks.

    Args:
        markdown: the page.
        file: its path in the repository.
        page: its path in the site.
    """

    def address(found: re.Match[str]) -> str:
        target, anchor = posixpath.normpath(posixpath.join(posixpath.dirname(file), found[1])), found[2] or ""
        shown = SHOWN_BY.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if shown is None:
            return "()" if (ROOT / target).exists() else found[0]
        return f"({posixpath.relpath(shown, posixpath.dirname(page) or '.')}{anchor})"

    parts = FENCE.split(markdown)
    texts = (part if part.startswith("```") else UNLINKED.sub(r"\1", LINK.sub(address, part)) for part in parts)
    return "".join(texts)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here."""
    from mkdocs.structure.files import File

    made = {"reference/config.md": reference_of_config(), "reference/commands.md": reference_of_commands()}
    made |= {page: (ROOT / file).read_text(encoding="utf-8") for file, page in COPIES.items()}
    made |= {COPIES[file.relative_to(ROOT).as_posix()]: page_of_example(file.parent) for file in EXAMPLES}
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns what the site shows of a page.

    Args:
        markdown: the page.
        page: where it is in the site.
        config: not used.
        files: not used.
    """
    own = page.file.src_uri
    source = {made: file for file, made in COPIES.items()}.get(own, f"docs/{own}")
    as_typed = re.sub(r"^```console\n(?!\$ )", "```sh\n", markdown, flags=re.MULTILINE)  # or Pygments sees output in it
    return state_tables(site_links(as_typed, source, own))


def on_post_build(config: MkDocsConfig) -> None:
    """Ends the build if a browser would load anything of the site from the network."""
    from mkdocs.exceptions import PluginError

    for file in sorted(Path(config.site_dir).rglob("*.html")):
        if found := LOADED.search(file.read_text(encoding="utf-8")):
            raise PluginError(f"{file.name} loads something from the network: {found[0]}")
