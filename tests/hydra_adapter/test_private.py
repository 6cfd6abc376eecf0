"""The tricks with Hydra still fit the Hydra that is installed, and the public way gives the same."""

import inspect

from hydra._internal import config_loader_impl
from hydra._internal.grammar import grammar_functions
from hydra.core.override_parser.types import ChoiceSweep

from sweepstack.hydra_adapter import private
from sweepstack.hydra_adapter.composer import Composer
from sweepstack.tricks import NO_TRICKS


def test_what_is_used_is_there_with_its_parameters() -> None:
    loader = config_loader_impl.ConfigLoaderImpl
    assert callable(inspect.unwrap(loader.load_configuration))
    assert [*inspect.signature(loader._apply_overrides_to_config).parameters] == ["overrides", "cfg"]
    files = inspect.signature(loader._parse_overrides_and_create_caching_repo).parameters
    assert [*files] == ["self", "config_name", "overrides"]
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
    composer = Composer(loader, master)
    jobs = [["optimizer.lr=0.5", "seed=3"], ["model=mlp", "epochs=2"]]
    quickly = [composer.compose(job, number) for number, job in enumerate(jobs)]
    assert all(composer._compose_quickly(job) is not None for job in jobs)
    monkeypatch.setenv(NO_TRICKS, "1")
    assert [composer.compose(job, number) for number, job in enumerate(jobs)] == quickly
