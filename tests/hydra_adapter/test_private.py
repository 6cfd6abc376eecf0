"""The tricks with Hydra still fit the Hydra that is installed, and the public way gives the same."""

import inspect

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.grammar import grammar_functions
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from omegaconf import ListConfig, OmegaConf

from sweepstack.hydra_adapter import private
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.hydra_adapter.sweep_values import parse_overrides
from sweepstack.private_api_switch import NO_TRICKS


def test_what_is_used_is_there_with_its_parameters() -> None:
    loader = config_loader_impl.ConfigLoaderImpl
    assert callable(inspect.unwrap(loader.load_configuration))
    assert [*inspect.signature(loader._apply_overrides_to_config).parameters] == ["overrides", "cfg"]
    files = inspect.signature(loader._parse_overrides_and_create_caching_repo).parameters
    required = [name for name, parameter in files.items() if parameter.default is parameter.empty]
    assert required == ["self", "config_name", "overrides"]  # Hydra 1.4 has one more, which has a default
    assert [*inspect.signature(grammar_functions.sort).parameters] == ["args", "sweep", "list", "reverse"]


def test_the_parser_knows_the_flags_that_are_read() -> None:
    known = vars(private.arguments_parser().parse_args(["-m", "--cfg", "job", "a=1"]))
    assert {"run", "multirun", "cfg", "info", "shell_completion", "help", "hydra_help", "resolve", "package"} <= {
        *known
    }
    assert (known["multirun"], known["cfg"], known["overrides"]) == (True, "job", ["a=1"])


def test_values_are_sorted() -> None:
    assert private.sort(ChoiceSweep(list=[3, 1, 2])).list == [1, 2, 3]


def test_jobs_composed_the_public_way_are_the_same(loader, master, monkeypatch) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # both ways are compared
    composer = Composer(loader, master)
    jobs = [["optimizer.lr=0.5", "seed=3"], ["model=mlp", "epochs=2"]]
    quickly = [composer.compose(job, number) for number, job in enumerate(jobs)]
    assert all(composer._compose_quickly(job) is not None for job in jobs)
    monkeypatch.setenv(NO_TRICKS, "1")
    assert [composer.compose(job, number) for number, job in enumerate(jobs)] == quickly


def test_the_source_of_files_can_be_replaced() -> None:
    assert {"scheme", "available", "is_group", "is_config", "list", "load_config"} <= {*vars(private.FileSource)}
    before = SourcesRegistry.instance().types["file"]
    try:
        private.use_source("file", private.FileSource)
        assert SourcesRegistry.instance().resolve("file") is private.FileSource
    finally:
        private.use_source("file", before)
    assert private.header("# @package _global_\na: 1\n") == {"package": "_global_"}


def test_a_value_keeps_the_quotes_that_were_typed() -> None:
    (override,) = parse_overrides(["a='1'"])
    assert isinstance(private.typed_value(override), QuotedString)
    assert override.value() == "1"


def test_nodes_are_seen_as_they_stand_in_a_config() -> None:
    config = OmegaConf.create({"a": "${b.c}", "b": {"c": 1}, "none": None, "open": "???", "list": ["${a}"]})
    OmegaConf.set_readonly(config, True)
    a, none, open_, items = (private.child(config, key) for key in ("a", "none", "open", "list"))
    assert a is not None
    assert none is not None
    assert open_ is not None
    assert isinstance(items, ListConfig)
    assert (private.is_interpolation(a), private.is_empty(a)) == (True, False)
    assert (private.is_empty(none), private.is_empty(open_), private.is_empty(items)) == (True, True, False)
    inner = private.child(items, 0)
    assert inner is not None
    assert private.is_interpolation(inner)
    assert private.child(config, "another") is None
    private.change_text(a, lambda text: text.replace("b.c", "list"))
    assert OmegaConf.to_container(config, resolve=False)["a"] == "${list}"  # type: ignore[index, call-overload]


def test_interpolations_look_where_the_parent_is_said_to_be() -> None:
    node = OmegaConf.create({"inner": {"a": "${b}"}}).inner
    private.set_parent(node, OmegaConf.create({"b": 2}))
    assert node.a == 2


@pytest.mark.parametrize("content", [{"a": [1, None, "1", "ä", "${b}"], "b": {"c": 1e-05, "d": True}}, {}])
def test_yaml_is_written_as_omegaconf_does(content, monkeypatch) -> None:
    monkeypatch.delenv(NO_TRICKS, raising=False)  # both ways are compared
    quickly = private.yaml_text(content)
    monkeypatch.setenv(NO_TRICKS, "1")
    assert private.yaml_text(content) == quickly == OmegaConf.to_yaml(OmegaConf.create(content))
