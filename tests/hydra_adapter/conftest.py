"""Hydra in this process, as a multirun of train.py starts it, and a close look at its configs."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, Node

import sweepstack.app  # noqa: F401 - registers the resolver that the config names

from ..terminal import ROOT


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def master(loader: ConfigLoader) -> DictConfig:
    setup_globals()
    master = loader.load_configuration("config", ["dataset=digits", "hydra.job.chdir=false"], run_mode=RunMode.MULTIRUN)
    assert master.tracking.sweep  # resolved and in the cache, as after Hydra's callbacks
    return master


def nodes(node: Node) -> Any:
    """A node with its type, its flags, whatever else OmegaConf knows of it, and those below it."""
    known = {key: repr(value) for key, value in vars(node._metadata).items()}
    content: Any = node.__dict__["_content"] if isinstance(node, DictConfig | ListConfig) else node._value()
    below = content
    if isinstance(content, dict | list):
        below = list(content.items() if isinstance(content, dict) else enumerate(content))
        assert all(child._get_parent() is node for _, child in below)
        below = [(key, nodes(child)) for key, child in below]
    return type(node).__name__, known, repr(below) if below is content else below
