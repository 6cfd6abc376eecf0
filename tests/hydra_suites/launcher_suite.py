"""Hydra's own suite for launchers, with ours, which launches one task: the training of sweepstack.

The tests of the suite that bring a task and a config of their own cannot hold, for our launcher does not call a task:
it reads the config, plans, and trains jobs together. What must hold instead is that such a sweep is refused, in words
for its user, before anything runs.
"""

from pathlib import Path
from typing import Any

import pytest
from hydra.test_utils.launcher_common_tests import LauncherTestSuite

from sweepstack.errors import ConfigError

OF_ANOTHER_TASK = (
    "test_sweep_1_job",
    "test_sweep_2_jobs",
    "test_sweep_1_job_strict",
    "test_sweep_2_optimizers",
    "test_sweep_over_unspecified_mandatory_default",
    "test_sweep_and_override",
    "test_sweep_with_custom_resolver",
)


@pytest.mark.parametrize(("launcher_name", "overrides"), [("sweepstack", [])])
class TestLauncher(LauncherTestSuite):
    """What holds for any launcher: mistakes in overrides are told."""


for _name in OF_ANOTHER_TASK:
    setattr(TestLauncher, _name, None)


@pytest.mark.usefixtures("hydra_restore_singletons")
@pytest.mark.parametrize("name", OF_ANOTHER_TASK)
def test_another_task_is_refused(
    name: str, hydra_sweep_runner: Any, tmpdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmpdir)
    with pytest.raises(ConfigError) as caught:
        getattr(LauncherTestSuite(), name)(hydra_sweep_runner, "sweepstack", [], tmpdir)
    assert any("is not a key of the config" in part.rule for part in caught.value.errors)
    assert not [path for path in Path(tmpdir).rglob("*") if path.is_file() and path.name != "multirun.yaml"]
