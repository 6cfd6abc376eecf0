"""Which training items are held out: a fraction of them or a fold; stratified by class, and by whole groups."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweepstack.config.schema import HeldOut
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError
from sweepstack.training.data.conversion import tensor_of
from sweepstack.training.data.fractions import draw_classes, draw_groups
from sweepstack.training.data.user_dataset import Part

SPLIT_SEED = 0
"""Seed of the split. Every trial holds out the same items, so that trials of different seeds can be compared."""
MOST_CUTS = 20
"""A fraction with strata and groups is made of so many equal cuts, at most: 0.15 is 3 of 20. With more, a cut has too
few items of a class."""
Groups = Sequence[Hashable]
"""The group of each item."""

_warned: set[str] = set()
"""The warnings that this process has printed."""


class Split(NamedTuple):
    """The two parts of the training items, as ascending int64 indices."""

    train: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class Splits:
    """How the training items of a dataset can be split. Each split is made once, so that folds share all else."""

    config: DatasetConfig
    count: int
    """The number of training items, those of a held-out part of the dataset's own among them."""
    own: int
    """How many of them, the last ones, are of such a part."""
    labels: Tensor | None
    """The label of each of them, [n, ...]; None if they are not known before they are read."""
    test_labels: Tensor
    groups: Groups | None
    """The group of each item, if groups are to stay together."""
    made: dict[HeldOut, Split] = field(default_factory=dict)

    @classmethod
    def of_parts(cls, parts: Sequence[Part], grouped: bool) -> Splits:
        """Finds what is known before items are read: their numbers and groups.

        Args:
            parts: the parts of the dataset, the training part first.
            grouped: whether groups are to stay together.

        Raises:
            DataError: the dataset has no groups, not one for each item, or one in two parts.
        """
        config, training = parts[0].config, parts[0]
        groups = {part.name: _groups_of(part) for part in parts} if grouped else {}
        if grouped and groups[training.name] is None:
            rule = f"split.grouped needs an attribute groups, the training part of {config.target} has none"
            raise DataError(rule, remedy="give it one, with the group of each item")
        check_groups(config, groups)
        own = parts[1].count if config.parts.val is not None else 0
        return cls(config, training.count + own, own, None, torch.empty(0), groups.get(training.name))

    def with_labels(self, labels: Tensor, test_labels: Tensor) -> Splits:
        """Returns the same with labels that were read.

        Args:
            labels: that of each training item, [n, ...].
            test_labels: that of each test item, [n, ...].
        """
        return replace(self, labels=labels.cpu(), test_labels=test_labels.cpu())

    def with_targets(self, training: Part) -> Splits:
        """Returns the same with the classes in the attribute `targets` that datasets of torchvision have, if there are
        any: the items of a stream are read later."""
        try:
            labels = tensor_of(getattr(training.dataset, "targets", None))
        except DataError:
            return self
        are_classes = labels.ndim == 1 and len(labels) == self.count and not labels.is_floating_point()
        return replace(self, labels=labels.long()) if are_classes else self

    def digest(self, digest: str) -> str:
        """Returns the checksum of the data with that of the groups, if they are used."""
        if self.groups is None:
            return digest
        return hashlib.sha1(f"{digest} {self.groups!r}".encode(), usedforsecurity=False).hexdigest()[:16]

    def of(self, held: HeldOut) -> Split:
        """Returns the items to train on and those to select by.

        Raises:
            DataError: see `split_items` and `check_classes`.
        """
        if held not in self.made:
            self.made[held] = self._split(held)
        return self.made[held]

    def _split(self, held: HeldOut) -> Split:
        if self.own:
            split = Split(torch.arange(self.count - self.own), torch.arange(self.count - self.own, self.count))
        else:
            split = split_items(held, self.count, self.labels, self.groups)
        if self.labels is not None:
            check_classes(self.config, held, self.labels, split, self.test_labels)
        return split


def _groups_of(part: Part) -> Groups | None:
    """Returns the group of each item of a part; None if its dataset does not say."""
    found = getattr(part.dataset, "groups", None)
    if found is None:
        return None
    try:
        groups = found.tolist() if hasattr(found, "tolist") else list(found)
        missing = next((index for index, group in enumerate(groups) if group is None or group != group), None)
        hash(tuple(groups))
    except (TypeError, ValueError) as error:
        rule = f"the attribute groups of {part.config.target} must have a number or a text for each item"
        raise DataError(rule, type(found).__name__, "give a list") from error
    if len(groups) != part.count or missing is not None:
        rule = f"the attribute groups of {part.config.target} must have a group for each of {part.count:,} items of its"
        shown = f"{len(groups):,} groups" if missing is None else f"none for item {missing} (from 0)"
        raise DataError(f"{rule} {part.name} part", shown, "correct it")
    return groups


def split_items(held: HeldOut, count: int, labels: Tensor | None = None, groups: Groups | None = None) -> Split:
    """Chooses the items that are held out; the same ones in every process.

    Without folds, strata and groups these are the first ones of a fixed permutation. Folds are equal cuts of the same
    permutation. scikit-learn makes folds with strata or groups; a fraction with both is the folds that come nearest.

    Args:
        held: what is held out.
        count: the number of items.
        labels: the label of each item, [n, ...]; of strata int64 [n]; None if they are not known.
        groups: the group of each item, if `held.grouped`.

    Raises:
        DataError: there are too few items, classes or groups, or the labels are no classes.
    """
    most, of_what = _most_folds(held, count, labels, groups)
    if held.folds is not None and held.folds > most:
        raise DataError(f"folds must be at most {most:,}, {of_what}", held.folds, f"for example folds={max(2, most)}")
    is_held = torch.zeros(count, dtype=torch.bool)
    if held.folds is None and not held.fraction:
        return _parts(is_held)
    if held.stratified or held.grouped:
        is_held |= torch.from_numpy(_drawn(held, most, count, labels, groups))
    else:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
        first = order[: round(count * held.fraction)]
        is_held[first if held.folds is None else torch.tensor_split(order, held.folds)[held.fold or 0]] = True
    split = _parts(is_held)
    share = len(split.held_out) / max(count, 1)
    if held.grouped and held.folds is None and abs(share - held.fraction) > held.fraction / 3:
        _warn(f"Whole groups hold {share:.1%} of the items out, not {held.fraction:.1%}: no others fit better.")
    if not len(split.train) or not len(split.held_out):
        raise DataError(
            f"{'validation_split' if held.folds is None else 'folds'} must leave images to train on and to select by "
            f"of {count}",
            held.fraction if held.folds is None else held.folds,
            "for example validation_split=0.1" if held.folds is None else "for example folds=2",
        )
    return split


def check_groups(config: DatasetConfig, groups: Mapping[str, Groups | None]) -> None:
    """Checks that no group is in two parts of a dataset.

    Args:
        config: the dataset.
        groups: the group of each item, by the name of the part; None for a part of which they are not known.

    Raises:
        DataError: a group is in two parts.
    """
    part_of: dict[Hashable, str] = {}
    for part, values in groups.items():
        for group in dict.fromkeys(values or ()):
            if part_of.setdefault(group, part) != part:
                rule = f"a group must be in one part of {config.target}, {group!r} is in the {part_of[group]} part"
                raise DataError(f"{rule} and in the {part} part", remedy="move its items, or leave out split.grouped")


def check_classes(config: DatasetConfig, held: HeldOut, labels: Tensor, split: Split, test_labels: Tensor) -> None:
    """Checks that every class can be learned: that the training part has all classes of the held-out part.

    A line on standard error names a class that the held-out part lacks, or that only the test part has.

    Args:
        config: the dataset.
        held: what is held out.
        labels: the label of each training item; nothing is checked if they are no classes.
        split: the parts of these items.
        test_labels: those of the test items.

    Raises:
        DataError: the training part lacks a class.
    """
    if config.classes is None or labels.ndim != 1 or labels.is_floating_point():
        return
    train, held_out, test = (set(part.tolist()) for part in (*(labels[part] for part in split), test_labels))
    remedy = "give it more items, or leave the class out"
    if not held.stratified and (held.fraction or held.folds):
        remedy = f"set split.stratified=true, or {remedy}"
    for missing in sorted(held_out - train)[:1]:
        rule = f"the training part must have every class, class {missing} of {config.target} is only in the held-out"
        raise DataError(f"{rule} part", remedy=remedy)
    for missing in sorted(train - held_out)[:1] if held_out else []:
        _warn(f"The held-out part of {config.target} lacks class {missing}, so nothing selects by it; {remedy}.")
    for missing in sorted(test - train)[:1]:
        _warn(f"The training part of {config.target} lacks class {missing} of its test part, so nothing can learn it.")


def _parts(is_held: Tensor) -> Split:
    return Split((~is_held).nonzero().flatten(), is_held.nonzero().flatten())


def _most_folds(held: HeldOut, count: int, labels: Tensor | None, groups: Groups | None) -> tuple[int, str]:
    """Returns into how many folds the items can be cut, and what limits them."""
    most = (count, "the number of training items")
    if held.stratified:
        if labels is None:
            rule = "split.stratified needs all labels before the training, and these data are streamed"
            raise DataError(rule, remedy="give the dataset an attribute targets, with the class of each item")
        if labels.ndim != 1 or labels.is_floating_point():
            rule = "split.stratified needs labels that are classes, one for each item"
            raise DataError(rule, f"{list(labels.shape)} {labels.dtype}", "leave out split.stratified")
        most = min(most, (int(labels.bincount().max()), "the number of items of the largest class"))
    if held.grouped:
        assert groups is not None
        most = min(most, (len(set(groups)), "the number of groups"))
        if most[0] < 2 and (held.folds or held.fraction):
            raise DataError("split.grouped needs two groups or more", most[0], "leave it out, or give others")
    return most


def _drawn(held: HeldOut, most: int, count: int, labels: Tensor | None, groups: Groups | None) -> NDArray[np.bool_]:
    """Returns which items are held out, [n], with strata or groups.

    Args:
        held, count, labels, groups: see `split_items`.
        most: the most folds.
    """
    if held.folds is not None:
        return np.asarray(_fold_numbers(held.folds, held, count, labels, groups) == held.fold)
    if not held.grouped:
        assert labels is not None
        return draw_classes(held.fraction, labels.numpy(), SPLIT_SEED)
    if not held.stratified:
        assert groups is not None
        return draw_groups(held.fraction, groups, SPLIT_SEED)
    limit = max(2, min(most, MOST_CUTS))
    cuts = max(Fraction(held.fraction).limit_denominator(limit).denominator, 2)
    if not 1 / limit <= held.fraction <= 1 - 1 / limit:
        cuts = limit
    numbers = _fold_numbers(cuts, held, count, labels, groups)
    reached = np.bincount(numbers, minlength=cuts).cumsum()[:-1]
    return np.asarray(numbers <= np.abs(reached - held.fraction * count).argmin())


def _fold_numbers(cuts: int, held: HeldOut, count: int, labels: Tensor | None, groups: Groups | None) -> NDArray[Any]:
    """Returns the number of the fold of each item, [n]."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    shuffled = {"shuffle": True, "random_state": SPLIT_SEED}
    if not held.grouped:
        splitter = StratifiedKFold(cuts, **shuffled)
    else:
        splitter = StratifiedGroupKFold(cuts, **shuffled) if held.stratified else GroupKFold(cuts)
    codes = {group: code for code, group in enumerate(dict.fromkeys(groups or ()))}
    numbers = np.zeros(count, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes; `check_classes` names them
        coded = None if groups is None else [codes[group] for group in groups]
        folds = splitter.split(numbers, labels.numpy() if labels is not None and held.stratified else None, coded)
        for number, (_, index) in enumerate(folds):
            numbers[index] = number
    return numbers


def _warn(line: str) -> None:
    if line not in _warned:
        _warned.add(line)
        print(line, file=sys.stderr)
