"""The parts of a dataset: which keywords make them, what is held out, and no test part. On a dataset made here."""

from collections import Counter

import pytest
import torch

from sweepstack.config.schema import HeldOut
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError
from sweepstack.training.checks import check_trial
from sweepstack.training.data.load import load_data
from sweepstack.training.own_loop import train as train_own
from sweepstack.training.stacked.build import build_stacked_model
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.trainer import train
from sweepstack.trial import TrialState

CPU = torch.device("cpu")
COUNTS = {"train": 60, "valid": 24, "test": 30}
built: Counter[str] = Counter()


class Scans(torch.utils.data.Dataset):
    """Three classes in order; `offset` moves the numbers of its patients, of which each has two scans."""

    def __init__(self, split: str = "train", patients: bool = False, first: int = 0) -> None:
        built[split] += 1
        self.count, self.shift = COUNTS[split], list(COUNTS).index(split)
        self.targets = [index % 3 for index in range(self.count)]
        if patients:
            self.groups = [f"{split if not first else ''}{first + index // 2}" for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        generator = torch.Generator().manual_seed(1000 * self.shift + index)
        return torch.rand(1, 4, 4, generator=generator) + index % 3, index % 3


PARTS = {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}


def config(parts=None, **more) -> DatasetConfig:
    own = {"_target_": f"{__name__}.Scans", "shape": [1, 4, 4], "classes": 3}
    return DatasetConfig.model_validate({**own, "parts": PARTS if parts is None else parts, **more})


def changes(**more):
    own = {f"dataset.{key}": value for key, value in config().model_dump(by_alias=True).items()}
    return {
        **own,
        "model.shape": [1, 4, 4],
        "model.classes": 3,
        "batch_size": 10,
        "epochs": 3,
        "optimizer.lr": 0.1,
        **more,
    }


NO_TEST = {"train": {"split": "train"}, "val": {"split": "valid"}, "test": None}


@pytest.mark.parametrize("source", ["memory", "streamed"])
def test_the_parts_are_those_that_the_config_names(source):
    data = load_data(config(source=source), HeldOut(), CPU)
    assert (data.facts.train, data.facts.held_out, data.facts.test) == (60, 24, 30)
    labels = torch.cat([labels for _, labels in data.evaluation()])
    assert labels.tolist() == [index % 3 for index in range(24)]
    (images, _), *_ = data.evaluation()
    assert torch.equal(images[5], Scans("valid")[5][0])
    assert sum(len(labels) for _, labels in data.batches(10, 0, 1)) == 60


def test_where_items_are_changes_no_checksum_of_the_parts():
    digests = {load_data(config(source=source), HeldOut(), CPU).facts.digest for source in ("memory", "streamed")}
    other = load_data(config({**PARTS, "val": None}), 0.1, CPU).facts.digest
    assert len(digests) == 1
    assert other not in digests


@pytest.mark.parametrize("source", ["memory", "streamed"])
def test_without_a_test_part_there_is_nothing_to_test_on(source):
    data = load_data(config(NO_TEST, source=source), HeldOut(), CPU)
    assert (data.test_count, list(data.test())) == (0, [])
    assert len(data.test_targets) == 0


def test_a_mapped_dataset_cannot_have_a_part_of_its_own():
    with pytest.raises(DataError, match=r"dataset\.source=mapped maps one training part"):
        load_data(config(source="mapped"), HeldOut(), CPU)


def test_folds_read_the_dataset_once(monkeypatch):
    built.clear()
    own = config({**PARTS, "val": None}, source="memory", patients=True)
    found = [load_data(own, HeldOut(folds=5, fold=fold), CPU) for fold in range(5)]
    assert sorted(index for data in found for index in data.held_out.tolist()) == list(range(60))
    assert len({id(data.labels) for data in found}) == 1  # type: ignore[attr-defined]
    assert built == {"train": 2, "test": 2}  # once to read it, and once to see that it is the same the second time


@pytest.mark.parametrize("source", ["memory", "streamed"])
def test_streams_can_be_stratified_by_their_targets_and_grouped(source):
    own = config({**PARTS, "val": None}, source=source, patients=True)
    data = load_data(own, HeldOut(0.2, True), CPU)
    assert [data.held_out.remainder(3).eq(label).sum() for label in range(3)] == [4, 4, 4]
    grouped = load_data(own, HeldOut(0.2, grouped=True), CPU)
    assert not {index // 2 for index in grouped.held_out.tolist()} & {index // 2 for index in grouped.train.tolist()}
    assert grouped.facts.digest != data.facts.digest
    assert grouped.facts.digest == load_data(own, HeldOut(grouped=True), CPU).facts.digest


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {},
            "split.grouped needs an attribute groups, the training part of tests.training.test_parts.Scans has none; ",
        ),
        (
            {"patients": True, "first": 1},
            "a group must be in one part of tests.training.test_parts.Scans, '1' is in the training part and in the "
            "held-out part; move its items, or leave out split.grouped",
        ),
    ],
)
def test_groups_that_are_missing_or_in_two_parts_are_refused(more, message):
    with pytest.raises(DataError) as caught:
        load_data(config(**more), HeldOut(grouped=True), CPU)
    assert str(caught.value).startswith(message)


def test_an_odd_keyword_of_a_part_is_refused_before_anything_is_read(digits_config):
    with pytest.raises(Exception, match=r"dataset\.spilt is not a keyword"):
        check_trial(digits_config(changes(**{"dataset.parts": {**NO_TEST, "val": {"spilt": "valid"}}})), "cpu")


@pytest.mark.parametrize("more", [{}, {"keep_best": True}, {"trainer": {"_target_": f"{__name__}.own_loop"}}])
def test_a_trial_without_a_test_part_is_finished_without_figures_of_a_test(digits_config, tmp_path, more):
    trial = digits_config(changes(**{"dataset.parts": NO_TEST, **more}))
    data = load_data(trial.dataset, trial.held_out, CPU)
    if trial.trainer is not None:
        from sweepstack.training.checkpoint import NEVER

        outcome = train_own(trial, trial.trainer, data, tmp_path, lambda _: None, NEVER)
    else:
        outcome = train(trial, data, lambda _: None)
    assert outcome.state is TrialState.FINISHED
    assert 0 < outcome.metrics["val/accuracy"] <= 1
    assert outcome.predictions is None
    assert not [name for name in outcome.metrics if name.startswith("test/")]


def own_loop(config, context):
    assert list(context.data.test()) == []
    context.report({"val/accuracy": 0.9}, 1)


def test_a_stack_without_a_test_part_ends_as_the_plain_trainer_does(digits_config):
    configs = [digits_config(changes(**{"dataset.parts": NO_TEST, "seed": seed})) for seed in (0, 1)]
    data = load_data(configs[0].dataset, configs[0].held_out, CPU)
    ended = []
    readers = [[TrialReader(one, lambda _: None, ended.append)] for one in configs]
    train_stack(readers, data, build_stacked_model(configs, (1, 4, 4), CPU, data.some()))
    for config, outcome in zip(configs, ended, strict=True):
        alone = train(config, data, lambda _: None)
        assert outcome.metrics.keys() == alone.metrics.keys()
        assert outcome.metrics["val/loss"] == pytest.approx(alone.metrics["val/loss"], rel=1e-5)
        assert outcome.predictions is None


def test_a_loss_that_ends_infinite_fails_without_a_test_part(digits_config):
    trial = digits_config(changes(**{"dataset.parts": NO_TEST, "optimizer.lr": 1e38}))
    outcome = train(trial, load_data(trial.dataset, trial.held_out, CPU), lambda _: None)
    assert outcome.state is TrialState.FAILED
    assert outcome.diverged
