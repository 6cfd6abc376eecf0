"""Hydra's own suites for plug-ins, with our sweeper: whatever Hydra's basic sweeper does with any task, it does too.

The suites come with Hydra, their fixtures with its plug-in for pytest. The launcher is Hydra's basic one.
"""

import pytest
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", ["hydra/sweeper=sweepstack"])])
class TestSweeper(LauncherTestSuite):
    pass


@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("basic", ["hydra/sweeper=sweepstack", "hydra.sweeper.max_batch_size=2"])]
)
class TestBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({"defaults": [{"override hydra/sweeper": "sweepstack"}]}, ["-m"])],
)
class TestApplications(IntegrationTestSuite):
    pass
