"""Registers configs in Hydra's store. Because of the underscore, Hydra does not search this file for plug-ins."""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType

NAME = "sweepstack"


def register(group: str, node: Any) -> None:
    """Stores a config as the option `sweepstack` of a group, unless it exists already.

    A worker process has the entries of its parent before it imports plug-ins, and Hydra 1.4 warns of a second entry.
    """
    store = ConfigStore.instance()
    if store.get_type(f"{group}/{NAME}.yaml") is ObjectType.NOT_FOUND:
        store.store(group=group, name=NAME, node=node, provider=NAME)
