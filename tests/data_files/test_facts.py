"""What the files of a dataset say, and the keys that do not suit each other there."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from sweepstack.data_files.facts import IMAGES, TABLE, find_fact
from sweepstack.errors import ConfigError
from sweepstack.metrics import CLASSIFICATION


def section(**values: Any) -> Any:
    found = OmegaConf.create(values)
    OmegaConf.set_struct(found, True)
    return found


def test_items_that_are_drawn_for_tests_are_tested_on(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{index % 7},{'ab'[index % 2]}\n" for index in range(40)))
    values = {"_target_": TABLE, "file": str(path), "predict": "y", "targets": "classes", "columns": None}
    table = {**values, "group": None, "test": 0.2}
    assert find_fact("classes", section(**table), CLASSIFICATION) == 2
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "dog").mkdir()
    images = {"_target_": IMAGES, "folder": str(tmp_path / "images"), "size": [4, 4], "grey": True, "test": 0.2}
    for one in (table, images):
        with pytest.raises(ConfigError, match=r"dataset.parts.test=null needs dataset.test=null, .* set dataset.test"):
            find_fact("classes", section(**one, parts={"test": None}), CLASSIFICATION)
        assert find_fact("classes", section(**{**one, "test": None}, parts={"test": None}), CLASSIFICATION) == 2
