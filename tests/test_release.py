"""What a release needs beside the code: metadata, workflows and templates say what is so; all dependencies are free."""

import ast
import re
import tomllib
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from . import licences
from .terminal import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / ".github" / "workflows").glob("*.yml")}
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
NOX = {
    node.targets[0].id: ast.literal_eval(node.value)
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
}
"""The constants of noxfile.py. (To import it would need nox.)"""
STABILITY = (ROOT / "docs" / "stability.md").read_text()


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_the_citation_is_complete_and_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()  # what the schema of 1.2.0 requires
    assert citation["authors"] == [{"name": author["name"]} for author in PROJECT["authors"]]
    assert (citation["title"], citation["license"]) == (PROJECT["name"], PROJECT["license"])
    assert str(citation["version"]) == PROJECT["version"]


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_a_workflow_may_little_and_takes_actions_of_one_major_version(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    actions = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert actions
    assert not [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", action)]
    scripts = " ".join(step.get("run", "") for step in steps(workflow))
    assert "${{ github.event" not in scripts  # what others have written would be run
    for target in re.findall(r"\bmake ((?:[\w./-]+ ?)+)", scripts):
        targets = [word for word in target.split() if "=" not in word and word != "PYTHON"]
        assert all(re.search(rf"^{re.escape(one)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for one in targets)


def test_the_matrix_of_ci_is_that_of_make_and_classifiers_claim_no_more() -> None:
    linux, others = (WORKFLOWS["ci"]["jobs"][name]["strategy"]["matrix"] for name in ("linux", "others"))
    assert linux["python"] == others["python"] == [*NOX["PYTHONS"]]
    assert {"macos-latest", "windows-latest"} == {*others["system"]}
    assert [one.removeprefix("hydra-core==") for one in linux["hydra"]] == [*NOX["HYDRA"]]
    assert all(python in SpecifierSet(PROJECT["requires-python"]) for python in NOX["PYTHONS"])
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(">=" + NOX["PYTHONS"][0])
    claimed = {one.rpartition(" :: ")[2] for one in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", one)}
    assert {*re.findall(r"^\| Python (3\.\d+) .*\| the whole suite", STABILITY, re.MULTILINE)} == claimed
    assert claimed <= {*NOX["PYTHONS"]}


def test_a_release_is_published_without_a_token_and_only_after_its_checks() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["environment"] == "pypi"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "permissions" not in jobs["build"]
    assert not [step for step in steps(WORKFLOWS["release"]) if "secrets." in str(step)]
    assert jobs["publish"]["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")


@pytest.mark.parametrize(
    ("tag", "heading", "is_refused"),
    [
        ("v1.2.3", "## [1.2.3] - 2026-12-01", False),
        ("v1.2.4", "## [1.2.3] - 2026-12-01", True),
        ("v1.2.3", "## [1.2.3] - not released yet", True),
    ],
)
def test_a_tag_is_refused_that_is_not_the_version_or_has_no_day(
    tag: str, heading: str, is_refused: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (script,) = (step["run"] for step in steps(WORKFLOWS["release"]) if step.get("shell") == "python")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_REF_NAME", tag)
    if is_refused:
        with pytest.raises(SystemExit, match=f"the tag is {tag}, the version 1.2.3"):
            exec(script, {})
    else:
        exec(script, {})


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_a_form(path: Any) -> None:
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert isinstance(form["blank_issues_enabled"], bool)
        return
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in fields)


def test_every_dependency_is_free_or_a_named_exception(capsys: pytest.CaptureFixture[str]) -> None:
    assert licences.main([]) == 0, capsys.readouterr().err
    found, _ = licences.dependencies("sweepstack")
    assert {"torch", "hydra-core", "pandas", "optuna", "sqlalchemy", "pytest"} <= found.keys()
    page = (ROOT / "docs" / "licences.md").read_text()
    assert not [name for name in licences.EXCEPTIONS if f"`{name}`" not in page]
    assert not [name for name in licences.FREE if name not in page]


@pytest.mark.parametrize(
    ("metadata", "classifiers", "free"),
    [
        ({"License-Expression": "MIT AND (Apache-2.0 OR BSD-2-Clause)"}, [], False),
        ({"License-Expression": "GPL-3.0-only OR MIT"}, [], True),
        ({"License-Expression": "GPL-3.0-only AND MIT"}, [], False),
        ({"License": "MIT"}, [], True),
        ({"License": "Copyright (c) somebody\nAll rights reserved"}, [], False),
        ({}, ["License :: OSI Approved", "License :: OSI Approved :: BSD License"], True),
        ({}, ["License :: OSI Approved :: MIT License", "License :: Other/Proprietary License"], False),
        ({}, [], False),
    ],
)
def test_a_licence_is_free_only_if_all_of_it_is(metadata: dict[str, str], classifiers: list[str], free: bool) -> None:
    assert licences.is_free(licences.stated(metadata, classifiers)) == free
