"""Which keys say what is held out, and which of them do not go together: one line each, before anything is loaded."""

import pytest

from sweepstack.config.parsing import parse
from sweepstack.config.schema import HeldOut
from sweepstack.config.trial_sections import PartsConfig
from sweepstack.errors import ConfigError


def test_by_default_a_tenth_is_held_out_and_the_parts_are_those_of_torchvision(digits_config):
    config = digits_config()
    assert config.held_out == HeldOut(0.1)
    assert config.dataset.parts == PartsConfig(train={"train": True}, val=None, test={"train": False})


@pytest.mark.parametrize(
    ("changes", "held", "part"),
    [
        ({"folds": 5, "fold": 2}, HeldOut(0.0, False, False, 5, 2), "val"),
        ({"folds": 5, "fold": 2, "validation_split": 0}, HeldOut(0.0, False, False, 5, 2), "val"),
        ({"split.stratified": True}, HeldOut(0.1, True), "val"),
        ({"dataset.parts.val": {"split": "valid"}}, HeldOut(0.0), "val"),
        ({"validation_split": 0}, HeldOut(0.0), "test"),
        ({"validation_split": 0, "split.grouped": True}, HeldOut(0.0, grouped=True), "test"),
    ],
)
def test_what_is_held_out_follows_from_the_keys(digits_config, changes, held, part):
    config = digits_config(changes)
    assert config.held_out == held
    assert config.objective == f"{part}/accuracy"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": 1}, "fold needs folds, the number of all folds, got 1; for example folds=5 fold=0"),
        ({"folds": 5}, "folds needs fold, the one that is held out; for example -m fold=0,1,2,3,4"),
        ({"folds": 5, "fold": 5}, "fold must be less than folds=5, it counts from 0, got 5; for example fold=0"),
        ({"folds": 1, "fold": 0}, "folds should be greater than or equal to 2, got 1; for example folds=5"),
        (
            {"folds": 5, "fold": 0, "dataset.parts.val": {"split": "valid"}},
            "folds must not be given beside dataset.parts.val, which is held out, got 5; leave one of them out",
        ),
        (
            {"dataset.parts.val": {"split": "valid"}, "validation_split": 0.2},
            "validation_split has no effect beside dataset.parts.val, got 0.2; leave it out",
        ),
        (
            {"dataset.parts.val": {"train": False}},
            "dataset.parts.val and dataset.parts.test must differ, or both are the same data, got {'train': False}; "
            "correct dataset.parts.test",
        ),
        (
            {"folds": 5, "fold": 0, "validation_split": 0.2},
            "validation_split has no effect beside folds, got 0.2; leave it out",
        ),
        (
            {"dataset.parts.test": None, "validation_split": 0},
            "dataset.parts.test=null needs held-out data, or nothing selects trials, and validation_split=0 holds "
            "none; for example validation_split=0.1",
        ),
        (
            {"split.stratified": True, "validation_split": 0},
            "split.stratified has no effect where nothing is drawn to be held out; leave it out",
        ),
        (
            {"dataset.parts": {"valid": {"split": "valid"}}},
            "dataset.parts.valid is not a key of the config; did you mean 'val'?",
        ),
        (
            {"folds": 5, "fold": 0, "task.objective": {"name": "test/accuracy", "mode": "max"}},
            "task.objective.name must be val/ and the name of a metric, because a fold is held out, got "
            "'test/accuracy'; set task.objective.name=val/accuracy",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(digits_plain, changes, message):
    with pytest.raises(ConfigError) as caught:
        parse(digits_plain(changes))
    assert str(caught.value) == message


def test_folds_select_on_held_out_data(digits_config):
    assert digits_config({"folds": 3, "fold": 0, "keep_best": True, "validation_split": 0}).keep_best
