"""Trials are checked with their data, and known by them."""

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.prepare import prepare
from sweepstack.execution.worker import load_data_of
from sweepstack.training.tasks import Classification, Task


class Plain(Classification):
    """A classification."""


class Counts(Task):
    """Its targets are not the same tensor as those of a classification."""

    def loss(self, outputs, targets):
        return (outputs[:, 0] - targets).square().mean()

    def check_targets(self, targets, dataset, part):
        return targets.float()


def test_tasks_that_make_other_targets_of_one_dataset_can_be_swept_together(digits_config, trial):
    targets = [f"{__name__}.{name}" for name in ("Plain", "Counts", "Plain")]
    trials = [trial(number, config=digits_config({"task._target_": one})) for number, one in enumerate(targets)]
    prepared = prepare(trials, "train", InProcessExecutor()).trials
    found = [Fingerprint.parse(one.fingerprint).data for one in prepared]
    assert found == [load_data_of(one).facts.digest for one in prepared]
    assert len(set(found)) == 2
