"""Writes configs as YAML entry by entry: most entries are the same in all jobs of a sweep, and their text is reused."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from typing import Any

from sweepstack.hydra_adapter.private import yaml_text


def yaml_of(content: Mapping[Any, Any]) -> str:
    """Returns the YAML of plain values, in OmegaConf's format."""
    return "".join(yaml_entry(value, key) for key, value in content.items()) or yaml_text({})


def yaml_entry(value: Any, *keys: Any) -> str:
    """Returns the YAML of a value and its key, indented for its sections.

    Args:
        value: a plain value.
        keys: its key, then that of its section, and so on.
    """
    return _of_pickled(pickle.dumps((value, *keys)))


@functools.lru_cache(maxsize=4096)
def _of_pickled(entry: bytes) -> str:
    """Returns the YAML of an entry; pickled, because it may contain lists."""
    value, *keys = pickle.loads(entry)
    for key in keys:
        value = {key: value}
    return yaml_text(value).split("\n", maxsplit=len(keys) - 1)[-1]
