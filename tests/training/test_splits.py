"""Which items are held out: by a fraction, by folds, by strata, by groups; and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepstack.config.schema import HeldOut
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError
from sweepstack.training.data.splits import Split, check_classes, check_groups, split_items

LABELS = torch.arange(300) % 3
UNEVEN = torch.tensor([0] * 200 + [1] * 70 + [2] * 30)
GROUPS = [f"patient {index // 7}" for index in range(300)]
NOTHING = torch.empty(0, dtype=torch.int64)


def config(classes: int = 3) -> DatasetConfig:
    return DatasetConfig.model_validate({"_target_": "my.Scans", "shape": [1], "classes": classes})


def groups_of(index: torch.Tensor) -> set[str]:
    return {GROUPS[one] for one in index.tolist()}


def shares(labels: torch.Tensor) -> list[int]:
    return labels.bincount(minlength=3).tolist()


@given(count=st.integers(2, 300), fraction=st.floats(0.01, 0.99))
def test_a_fraction_is_the_beginning_of_the_permutation_that_every_version_has_drawn(count, fraction):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    size = round(count * fraction)
    if not 0 < size < count:
        with pytest.raises(DataError, match="validation_split must leave images to train on"):
            split_items(HeldOut(fraction), count)
        return
    split = split_items(HeldOut(fraction), count)
    assert torch.equal(split.held_out, order[:size].sort().values)
    assert torch.equal(split.train, order[size:].sort().values)


@settings(max_examples=20)
@given(folds=st.integers(2, 20), stratified=st.booleans(), grouped=st.booleans())
def test_each_item_is_held_out_in_one_fold(folds, stratified, grouped):
    splits = [split_items(HeldOut(0, stratified, grouped, folds, fold), 300, UNEVEN, GROUPS) for fold in range(folds)]
    assert torch.cat([split.held_out for split in splits]).sort().values.tolist() == list(range(300))
    for split in splits:
        assert torch.cat([*split]).sort().values.tolist() == list(range(300))
        assert not grouped or not groups_of(split.train) & groups_of(split.held_out)
    sizes = [len(split.held_out) for split in splits]
    assert max(sizes) - min(sizes) <= (1 if not (stratified or grouped) else 3 if not grouped else 7 * 7)


@pytest.mark.parametrize(
    "held", [HeldOut(0.1, stratified=True), *(HeldOut(0, True, folds=10, fold=fold) for fold in (0, 9))]
)
def test_strata_keep_the_shares_of_the_classes(held):
    split = split_items(held, 300, UNEVEN)
    assert shares(UNEVEN[split.held_out]) == [20, 7, 3]


@pytest.mark.parametrize("fraction", [0.01, 0.07, 0.29, 0.333, 0.91])
def test_any_fraction_is_stratified(fraction):
    labels = torch.tensor([0] * 800 + [1] * 150 + [2] * 50)
    held = shares(labels[split_items(HeldOut(fraction, stratified=True), 1000, labels).held_out])
    assert sum(held) == round(1000 * fraction)
    assert all(abs(have - size * fraction) < 1 for have, size in zip(held, (800, 150, 50), strict=True))


def test_small_classes_make_up_a_fraction_together():
    labels = torch.arange(400) % 100
    split = split_items(HeldOut(0.1, stratified=True), 400, labels)
    assert len(split.held_out) == 40
    assert labels[split.held_out].bincount().max() == 1


def test_a_large_group_is_not_held_out_for_a_small_fraction(capsys):
    groups = ["large"] * 60 + [f"small {index}" for index in range(40)]
    split = split_items(HeldOut(0.1, grouped=True), 100, None, groups)
    assert len(split.held_out) == 10
    assert min(split.held_out.tolist()) >= 60
    assert not capsys.readouterr().err
    assert len(split_items(HeldOut(0.1, grouped=True), 90, None, [*"aaabbbbbb"] * 10).held_out) == 30
    assert "hold 33.3% of the items out, not 10.0%" in capsys.readouterr().err


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 30), (0.15, 45), (0.25, 75), (0.5, 150), (0.7, 210)])
@pytest.mark.parametrize("stratified", [True, False])
def test_a_fraction_of_groups_comes_near(fraction, count, stratified):
    split = split_items(HeldOut(fraction, stratified, True), 300, LABELS, GROUPS)
    assert not groups_of(split.train) & groups_of(split.held_out)
    assert abs(len(split.held_out) - count) <= 14
    assert math.isclose(len(split.train) + len(split.held_out), 300)


def test_a_small_fraction_of_few_groups_is_one_of_them():
    groups = [*"aaabbbccc"]
    split = split_items(HeldOut(0.05, grouped=True), 9, None, groups)
    assert len({groups[index] for index in split.held_out.tolist()}) == 1


def test_the_same_items_are_held_out_whatever_was_drawn_before():
    for held in (HeldOut(0.1), HeldOut(0.1, True), HeldOut(0, True, True, 5, 2)):
        torch.manual_seed(1)
        first = split_items(held, 300, LABELS, GROUPS)
        torch.manual_seed(2)
        assert all(torch.equal(*parts) for parts in zip(first, split_items(held, 300, LABELS, GROUPS), strict=True))


@pytest.mark.parametrize(
    ("held", "labels", "groups", "message"),
    [
        (HeldOut(0, folds=5, fold=0), 4, None, "folds must be at most 4, the number of training items, got 5"),
        (
            HeldOut(0, True, folds=5, fold=0),
            6,
            None,
            "folds must be at most 2, the number of items of the largest class, got 5",
        ),
        (HeldOut(0, False, True, 5, 0), 6, "aabbcc", "folds must be at most 3, the number of groups, got 5"),
        (HeldOut(0.1, False, True), 6, "aaaaaa", "split.grouped needs two groups or more, got 1"),
        (HeldOut(0.1), 3, None, "validation_split must leave images to train on and to select by of 3, got 0.1"),
    ],
)
def test_what_cannot_be_cut_is_refused(held, labels, groups, message):
    with pytest.raises(DataError) as caught:
        split_items(held, labels, torch.arange(labels) % 3, groups)
    assert str(caught.value).startswith(f"{message}; ")


def test_strata_need_classes():
    with pytest.raises(DataError) as caught:
        split_items(HeldOut(0.1, True), 20, torch.rand(20, 1))
    assert str(caught.value) == (
        "split.stratified needs labels that are classes, one for each item, got '[20, 1] torch.float32'; "
        "leave out split.stratified"
    )


def test_a_group_in_two_parts_is_refused_with_its_name():
    check_groups(config(), {"training": ["a", "a", "b"], "held-out": None, "test": ["c"]})
    with pytest.raises(DataError) as caught:
        check_groups(config(), {"training": ["a", "b"], "test": ["c", "b"]})
    assert str(caught.value) == (
        "a group must be in one part of my.Scans, 'b' is in the training part and in the test part; "
        "move its items, or leave out split.grouped"
    )


def test_a_class_that_only_the_held_out_part_has_is_refused():
    split = Split(torch.arange(20), torch.arange(20, 23))
    labels = torch.tensor([0, 1] * 10 + [0, 2, 1])
    with pytest.raises(DataError) as caught:
        check_classes(config(), HeldOut(0.1), labels, split, NOTHING)
    assert str(caught.value) == (
        "the training part must have every class, class 2 of my.Scans is only in the held-out part; "
        "set split.stratified=true, or give it more items, or leave the class out"
    )


def test_a_class_that_another_part_lacks_is_told_once(capsys):
    split = Split(torch.arange(20), torch.arange(20, 22))
    labels = torch.tensor([0, 1] * 10 + [0, 0])
    for _ in range(2):
        check_classes(config(), HeldOut(0.1), labels, split, torch.tensor([0, 1, 2]))
    assert capsys.readouterr().err.splitlines() == [
        "The held-out part of my.Scans lacks class 1, so nothing selects by it; "
        "set split.stratified=true, or give it more items, or leave the class out.",
        "The training part of my.Scans lacks class 2 of its test part, so nothing can learn it.",
    ]


def test_nothing_is_said_where_nothing_is_missing_or_known(capsys):
    every = Split(torch.arange(300), NOTHING)
    check_classes(config(), HeldOut(), LABELS, every, LABELS)
    check_classes(config(), HeldOut(0.1), LABELS, split_items(HeldOut(0.1), 300, LABELS), NOTHING)
    check_classes(config(), HeldOut(), torch.rand(300), every, torch.rand(3))
    assert capsys.readouterr().err == ""
