"""What a config need not say of a dataset, because its files say it: `${from_data:shape}` in `conf/dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweepstack.data_files.images import class_folders, size_of
from sweepstack.errors import ConfigError, did_you_mean

TABLE = "sweepstack.training.data.table"
"""The `_target_` of a table."""
IMAGES = "sweepstack.training.data.named.image_folder.image_folder"
"""The `_target_` of a folder of images."""


def find_fact(name: str, dataset: Mapping[str, Any], task: str) -> Any:
    """Returns a value of the section `dataset` of a config.

    Args:
        name: its key: shape, classes, outputs or targets.
        dataset: the section; of its values only those that name and describe files are read.
        task: the `_target_` of the task.

    Raises:
        ConfigError: the dataset is none of those that say it.
        DataError: a file is missing, or is not what the section says.
    """
    target = str(dataset["_target_"])
    if target == IMAGES:
        height, width = size_of(dataset["size"])
        shape = [1 if dataset["grey"] else 3, height, width]
        _, test_folder, classes = class_folders(dataset["folder"])
        if test_folder is None:
            _check_tests(dataset)
        found: Mapping[str, Any] = {"shape": shape, "classes": len(classes)}
    elif target == TABLE:
        _check_tests(dataset)
        from sweepstack.data_files import table

        if name == "targets":
            return table.targets_of(task, dataset["file"], dataset["predict"])
        found = table.facts(table.choose(**{key: dataset[key] for key in table.Choice.__annotations__}).load())
    else:
        raise ConfigError("dataset must be a table or a folder of images for ${from_data:...}", target, "give a value")
    if name not in found:
        raise ConfigError("${from_data:...} must name what the files of a dataset say", name, did_you_mean(name, found))
    return found[name]


def _check_tests(dataset: Mapping[str, Any]) -> None:
    """Checks that items are for tests only if they are tested on.

    Raises:
        ConfigError: there is no part for tests, and items are drawn for it.
    """
    if (dataset.get("parts") or {}).get("test", "default") is None and isinstance(dataset["test"], float):
        rule = "dataset.parts.test=null needs dataset.test=null, or items that are drawn for tests are not used at all"
        raise ConfigError(rule, dataset["test"], "set dataset.test=null")
