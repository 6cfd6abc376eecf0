"""Entries in Hydra's store of configs. Hydra does not look for plug-ins in a file whose name begins so."""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType

NAME = "sweepstack"


def register(group: str, node: Any) -> None:
    """Stores a config as the option `sweepstack` of a group, once: a worker process gets the store of the process that
    began it before it imports plug-ins, and Hydra 1.4 warns of an entry that is there already."""
    store = ConfigStore.instance()
    if store.get_type(f"{group}/{NAME}.yaml") is ObjectType.NOT_FOUND:
        store.store(group=group, name=NAME, node=node, provider=NAME)
