"""The sweeper leaves the check of the jobs to the launcher that makes it, and to no other."""

import importlib.util

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext
from hydra.utils import get_class
from omegaconf import DictConfig

BATCH = [["epochs=1"], ["epoch=1"]]


def validate(loader: ConfigLoader, master: DictConfig, launcher: str) -> None:
    """What the sweeper does with a batch before it goes to the launcher, a class in hydra_plugins or in Hydra."""
    from hydra_plugins.sweepstack.sweeper import (
        SweepstackSweeper,
    )  # once Hydra has started, for it imports plugins again

    sweeper = SweepstackSweeper(max_batch_size=None)
    sweeper.hydra_context = HydraContext(config_loader=loader, callbacks=Callbacks())
    sweeper.config = master
    sweeper.launcher = get_class(launcher)()
    sweeper.validate_batch_is_legal(BATCH)


def test_our_launcher_composes_the_jobs_itself(loader: ConfigLoader, master: DictConfig) -> None:
    validate(loader, master, "hydra_plugins.sweepstack.launcher.SweepstackLauncher")


def test_for_any_other_launcher_the_jobs_are_composed_first(loader: ConfigLoader, master: DictConfig) -> None:
    with pytest.raises(ConfigCompositionException, match="Could not override 'epoch'"):
        validate(loader, master, "hydra._internal.core_plugins.basic_launcher.BasicLauncher")


@pytest.mark.parametrize("kind", ["launcher", "sweeper"])
def test_a_plug_in_that_is_imported_twice_is_registered_once(loader: ConfigLoader, kind: str) -> None:
    """As in a worker process, which gets Hydra's store before it imports plug-ins; Hydra 1.4 warns of the second."""
    store, path = ConfigStore.instance(), f"hydra/{kind}/sweepstack.yaml"
    before = store._load(path)
    spec = importlib.util.find_spec(f"hydra_plugins.sweepstack.{kind}")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert store._load(path) is before
