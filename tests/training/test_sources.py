"""Where batches come from: memory, a mapped file or a stream give the same; what is drawn is drawn for each item."""

import gc
import multiprocessing
import os
import random
import signal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError, UserError
from sweepstack.training.checks import check_trial
from sweepstack.training.data import digits, load, user_dataset
from sweepstack.training.data.load import data_of, load_data
from sweepstack.training.data.memory import InMemory
from sweepstack.training.data.source import Data
from sweepstack.training.data.streamed import ItemError, Streamed
from sweepstack.training.trainer import train
from sweepstack.trial import Outcome, TrialState

from ..loading import train_stacked

CPU = torch.device("cpu")


class Numbered(Dataset):
    """Items that name themselves: input and target of item i are i. With `noise`, each also holds what was drawn."""

    def __init__(self, train: bool, count: int = 60, noise: bool = False) -> None:
        self.count, self.noise = count if train else 10, noise

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = [float(torch.rand(1)), random.random(), np.random.rand()] if self.noise else [0.0] * 3
        return torch.tensor([float(index), *drawn]), index % 2


class Failing(Numbered):
    def __init__(self, train: bool) -> None:
        super().__init__(train, count=90)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 81:  # behind those that are tried before
            raise OSError("the disk has gone")
        return super().__getitem__(index)


def dataset(name: str, **keywords: Any) -> DatasetConfig:
    own = {"_target_": f"{__name__}.{name}", "shape": [4], "classes": 2}
    return DatasetConfig.model_validate({**own, **keywords})


def equal(one: Any, other: Any) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in pairs)


@pytest.fixture(scope="module")
def sources() -> dict[str, Data]:
    return {one: load_data(dataset("Numbered", source=one), 0.2, CPU) for one in ("memory", "mapped", "streamed")}


@settings(max_examples=8, deadline=None)
@given(
    batch_size=st.integers(1, 48),
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=3, unique=True),
    epoch=st.integers(1, 5),
    skip=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_every_source_gives_the_same_batches(sources, batch_size, seeds, epoch, skip, drop_last):
    first, mapped, streamed = (one.trained_with(None, drop_last, None) for one in sources.values())
    assert isinstance(first, InMemory)
    assert isinstance(streamed, Streamed)
    for data in (mapped, streamed):
        assert data.facts == first.facts
        assert data.steps_per_epoch(batch_size) == first.steps_per_epoch(batch_size)
        assert equal(data.batches(batch_size, seeds[0], epoch, skip), first.batches(batch_size, seeds[0], epoch, skip))
        one, other = (part.stacked_batches(batch_size, seeds, epoch, skip) for part in (data, first))
        assert equal(one, other)
        assert equal(data.evaluation(7), first.evaluation(7))
        assert equal(data.test(7), first.test(7))
        assert equal([data.some(5)], [first.some(5)])
        assert torch.equal(data.test_targets, first.test_targets)


FORMS = {
    "grey": lambda pixels: Image.fromarray(pixels[:, :, 0]),
    "colour": Image.fromarray,
    "float64": lambda pixels: pixels / 255.0,
    "int64": lambda pixels: pixels.astype(np.int64),
    "uint8": lambda pixels: pixels,
}


class Formed(Numbered):
    """Pictures, or arrays with the colours as their last axis."""

    def __init__(self, train: bool, form: str, most: int = 255) -> None:
        super().__init__(train, count=70)
        self.form, self.most = FORMS[form], most

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = np.random.default_rng(index).integers(0, self.most + 1, (4, 6, 3), dtype=np.uint8)
        return self.form(pixels), index % 2


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        *(("grey", [1, 4, 6]), ("grey", [4, 6]), ("grey", [24]), ("colour", [3, 4, 6]), ("colour", [72])),
        *(("float64", [3, 4, 6]), ("float64", [72]), ("int64", [3, 4, 6]), ("int64", [72])),
        *(("uint8", [3, 4, 6]), ("uint8", [72]), ("grey", None), ("float64", None)),
    ],
)
def test_items_in_a_mapped_file_are_those_in_memory(form, shape):
    def data(source: str) -> Data:
        return load_data(dataset("Formed", form=form, shape=shape, source=source), 0.2, CPU)

    memory, mapped = data("memory"), data("mapped")
    assert mapped.facts == memory.facts
    assert equal([mapped.first(70), *mapped.test(7)], [memory.first(70), *memory.test(7)])


def test_dark_numbers_in_a_mapped_file_are_no_pixels_either():
    for source in ("memory", "mapped"):
        with pytest.raises(DataError, match="have none above 127"):
            load_data(dataset("Formed", form="uint8", most=9, shape=[3, 4, 6], source=source), 0.2, CPU)


def held(train: bool) -> TensorDataset:
    return TensorDataset(torch.arange(40.0).view(10, 4), torch.arange(10) % 2)


def test_what_is_in_memory_is_not_mapped(capsys):
    load_data(dataset("held", source="mapped"), 0.2, CPU)
    assert f"Dataset {__name__}.held is in memory already: dataset.source=mapped changes nothing." in (
        capsys.readouterr().err
    )


def drawn(data: Any, seed: int, epoch: int, batch_size: int = 16) -> dict[int, list[float]]:
    """What was drawn for each item."""
    batches = [images for images, _ in data.batches(batch_size, seed, epoch)]
    return {int(row[0]): row[1:].tolist() for row in torch.cat(batches)}


def test_what_an_item_draws_depends_on_seed_epoch_and_index_alone(capsys):
    noisy = dataset("Numbered", noise=True)
    data = load_data(noisy, 0.2, CPU)
    assert isinstance(data, Streamed)
    assert "its items draw random numbers, others in each epoch" in capsys.readouterr().err
    state = torch.get_rng_state(), random.getstate()
    first = drawn(data, 3, 1)
    assert drawn(data, 3, 1, batch_size=5) == first
    assert all(drawn(data, *other)[index] != first[index] for other in ((3, 2), (4, 1)) for index in first)
    assert len({tuple(values) for values in first.values()}) == len(first) == 48
    with_more = load_data(noisy, 0.2, CPU, workers=2)
    assert drawn(with_more, 3, 1) == first
    assert torch.equal(*(torch.cat([images for images, _ in data.evaluation(size)]) for size in (4, 48)))
    assert (torch.equal(torch.get_rng_state(), state[0]), random.getstate()) == (True, state[1])
    stacked = [images for images, _ in data.stacked_batches(16, [3, 4], 1)]
    for row, seed in enumerate((3, 4)):
        assert {int(one[0]): one[1:].tolist() for one in torch.cat([part[row] for part in stacked])} == drawn(
            data, seed, 1
        )


def test_random_items_have_no_place_in_memory():
    for source in ("memory", "mapped"):
        with pytest.raises(DataError, match=r"items must always be the same.*dataset.source=auto or streamed"):
            load_data(dataset("Numbered", noise=True, source=source), 0.2, CPU)


def test_what_does_not_fit_is_streamed(monkeypatch, capsys):
    monkeypatch.setattr("sweepstack.training.data.load.memory_budget", lambda device: 1000)
    data = load_data(dataset("Numbered", count=61), 0.2, CPU)
    assert isinstance(data, Streamed)
    assert "that data may have in memory" in capsys.readouterr().err


# The identity of what is streamed


def test_an_identity_that_is_stated_replaces_the_checksum():
    def digest(**keywords: Any) -> str:
        return load_data(dataset("Numbered", source="streamed", **keywords), 0.2, CPU).facts.digest

    read = digest()
    assert read == load_data(dataset("Numbered"), 0.2, CPU).facts.digest
    assert len({read, digest(identity="a"), digest(identity="b"), digest(identity="a", count=30)}) == 4
    assert digest(identity="a") == digest(identity="a")


class Files(Numbered):
    """Items with files behind them, as `torchvision.datasets.ImageFolder` has."""

    def __init__(self, train: bool, folder: str) -> None:
        super().__init__(train)
        self.samples = [(f"{folder}/{index}.txt", index % 2) for index in range(len(self))]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index > user_dataset.TRIED:
            raise AssertionError("a manifest needs no items")
        return super().__getitem__(index)


def test_a_manifest_tells_files_apart_without_reading_them(tmp_path):
    for index in range(60):
        (tmp_path / f"{index}.txt").write_text("x")
    config = dataset("Files", source="streamed", folder=str(tmp_path))
    before = load_data(config, 0.2, CPU).facts.digest
    load_data(dataset("Numbered"), 0.2, CPU), load_data(dataset("Numbered", count=20), 0.2, CPU)  # it is read again
    assert load_data(config, 0.2, CPU).facts.digest == before
    (tmp_path / "7.txt").write_text("longer")
    load_data(dataset("Numbered"), 0.2, CPU), load_data(dataset("Numbered", count=20), 0.2, CPU)
    assert load_data(config, 0.2, CPU).facts.digest != before


# Items that cannot be trained on


def test_an_item_that_raises_is_named_before_anything_trains():
    for source in ("memory", "streamed"):
        with pytest.raises(DataError, match=r"(?s)item 81 .*OSError: the disk has gone|at item 81"):
            load_data(dataset("Failing", source=source), 0.2, CPU)


def config(digits_config, changes: dict[str, Any]) -> TrialConfig:
    own = {"model": {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 2}, "batch_size": 16}
    return digits_config({**own, **changes})


def end(config: TrialConfig) -> Outcome:
    return train(config, data_of(config, CPU), lambda measurement: None)


def test_an_item_that_raises_in_a_stream_that_was_not_read_ends_the_trial(digits_config):
    stated = dataset("Failing", source="streamed", identity="x").model_dump(by_alias=True)
    with pytest.raises(ItemError, match=r"item 81 .from 0. of the training part .*the disk has gone") as caught:
        end(config(digits_config, {"dataset": stated}))
    assert "raise OSError" in str(caught.value.__cause__.__cause__)


def test_workers_end_by_themselves_when_an_error_has_kept_their_data_in_a_cycle(monkeypatch):
    """Its traceback refers to what was read, which refers to it: nobody closes such data."""
    terminated: list[int | None] = []
    monkeypatch.setattr(multiprocessing.Process, "terminate", lambda worker: terminated.append(worker.pid))
    before = {*multiprocessing.active_children()}
    data = load_data(dataset("Numbered", source="streamed"), 0.2, CPU, workers=2)
    reading = data.batches(16, 0, 1)
    next(reading)
    workers = {*multiprocessing.active_children()} - before
    cycle = [data, reading]
    cycle.append(cycle)
    del data, reading, cycle
    load._read.cache_clear()
    gc.collect()
    alive = [worker.pid for worker in workers if worker.is_alive()]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert (len(workers), alive, terminated) == (2, [], [])


def test_data_without_a_length_are_refused():
    with pytest.raises(DataError, match="must have __len__ and __getitem__"):
        load_data(dataset("Endless"), 0.2, CPU)


class Endless(IterableDataset):
    def __init__(self, train: bool) -> None:
        pass

    def __iter__(self) -> Any:
        return iter([])


# Tokens, several inputs, sequences of unequal length


class Tokens(Numbered):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([index % 7, 5, 2**40]), index % 2


class Both(Numbered):
    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:  # type: ignore[override]
        return {"words": torch.tensor([index % 7, 3]), "age": torch.tensor([float(index % 2)])}, index % 2


class Pairs(Numbered):
    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], int]:  # type: ignore[override]
        return (torch.tensor([index % 7, 3]), torch.tensor([float(index % 2)])), index % 2


class Sequences(Numbered):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1 + index % 5,), index % 2), index % 2


class Words(nn.Module):
    """A model of tokens and, perhaps, one more number."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(8, 3), nn.Linear(4, 2)

    def forward(self, words: Tensor, age: Tensor | None = None) -> Tensor:
        embedded = self.embed(words.clamp(max=7)).mean(1)
        found: Tensor = self.out(torch.cat([embedded, torch.zeros(len(words), 1) if age is None else age], 1))
        return found


def pad(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return nn.utils.rnn.pad_sequence([item[0] for item in items], batch_first=True), torch.tensor([i[1] for i in items])


def test_tokens_stay_whole_numbers():
    data = load_data(dataset("Tokens", shape=[3], tokens=True), 0.2, CPU)
    images, _ = data.some()
    assert images.dtype == torch.int64
    assert images.max() == 2**40
    with pytest.raises(DataError, match=r"dataset.tokens=true"):
        load_data(dataset("Tokens", shape=[3]), 0.2, CPU)
    with pytest.raises(DataError, match=r"with dataset.tokens, inputs must be whole numbers"):
        load_data(dataset("Numbered", tokens=True), 0.2, CPU)


SEVERAL = {"_target_": f"{__name__}.Words"}


@pytest.mark.parametrize("source", ["memory", "streamed"])
@pytest.mark.parametrize("name", ["Both", "Pairs"])
def test_several_inputs_are_learned_from_stacked_and_alone(digits_config, name, source):
    own = dataset(name, shape=None, source=source).model_dump(by_alias=True)
    epochs = 30 if source == "memory" else 2
    configs = [
        config(digits_config, {"dataset": own, "model": SEVERAL, "seed": seed, "optimizer.lr": lr, "epochs": epochs})
        for seed in (0, 1)
        for lr in (0.1, 0.5)
    ]
    data = check_trial(configs[0], "cpu")
    ended = train_stacked(configs, data)
    for index, one in enumerate(configs):
        alone = end(one)
        assert alone.state is TrialState.FINISHED
        assert alone.weights is not None
        for key, value in alone.weights.items():
            torch.testing.assert_close(ended[index].weights[key], value, rtol=1e-4, atol=1e-5)
    assert source != "memory" or end(configs[1]).metrics["test/accuracy"] == 1.0


def test_sequences_of_unequal_length_are_padded_batch_by_batch(digits_config):
    own = dataset("Sequences", shape=None, collate_fn={"_target_": f"{__name__}.pad"}).model_dump(by_alias=True)
    learned = config(digits_config, {"dataset": own, "model": SEVERAL, "epochs": 10, "optimizer.lr": 1.0})
    data = check_trial(learned, "cpu")
    assert isinstance(data, Streamed)
    assert {images.shape[1] for images, _ in data.batches(2, 0, 1)} >= {3, 4, 5}
    assert end(learned).metrics["test/accuracy"] >= 0.9
    with pytest.raises(DataError, match=r"all inputs must be of one shape|all images must be of one shape"):
        load_data(dataset("Sequences", shape=None), 0.2, CPU)
    with pytest.raises(DataError, match=r"dataset.collate_fn makes batches, which only a stream has"):
        load_data(
            dataset("Sequences", shape=None, source="memory", collate_fn={"_target_": f"{__name__}.pad"}), 0.2, CPU
        )


# Channels, and keys that collide


class Colours(Numbered):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.stack([torch.full((2, 2), value + index / 60) for value in (0.0, 1.0, 5.0)]), index % 2


def test_mean_and_std_may_be_of_each_channel():
    plain, scaled = (
        load_data(dataset("Colours", shape=[3, 2, 2], **more), 0.2, CPU)
        for more in ({}, {"mean": [0.5, 1.0, 5.0], "std": [1.0, 2.0, 4.0]})
    )
    (raw, _), (images, _) = plain.some(), scaled.some()
    mean, std = torch.tensor([0.5, 1.0, 5.0]), torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(images, (raw - mean[:, None, None]) / std[:, None, None])
    with pytest.raises(ValueError, match=r"as many numbers as dataset.shape has channels .3."):
        dataset("Colours", shape=[3, 2, 2], mean=[0.5, 1.0])


class Named(Numbered):
    def __init__(self, train: bool, source: str = "auto") -> None:
        super().__init__(train)


def test_a_keyword_that_would_be_swallowed_is_refused(digits_config):
    own = dataset("Named", source="streamed").model_dump(by_alias=True)
    with pytest.raises(UserError, match=r"dataset.source is a key of sweepstack, .*another name"):
        check_trial(config(digits_config, {"dataset": own}), "cpu")


def test_a_shortcut_is_checked_on_a_sample(monkeypatch):
    from torch.utils.data import TensorDataset

    monkeypatch.setattr(
        TensorDataset, "__getitem__", lambda self, index: (1 - self.tensors[0][index], self.tensors[1][index])
    )
    monkeypatch.setitem(globals(), "Stored", lambda train: TensorDataset(*digits(train).tensors))
    with pytest.raises(DataError, match="items of a TensorDataset must be those of its tensors"):
        load_data(dataset("Stored", shape=[8, 8], classes=10), 0.2, CPU)


def test_drop_last_leaves_the_short_batch_out(digits_config):
    data = data_of(
        config(digits_config, {"dataset": dataset("Numbered").model_dump(by_alias=True), "drop_last": True}), CPU
    )
    assert [len(labels) for _, labels in data.batches(16, 0, 1)] == [16] * 3
    assert data.steps_per_epoch(16) == 3
    assert data.steps_per_epoch(16, accumulate=2) == 2
    assert [len(labels) for _, labels in data.batches(50, 0, 1)] == [50]
    with pytest.raises(UserError, match="batch_size must be at most the 54 items to train on"):
        data_of(
            config(
                digits_config,
                {"dataset": dataset("Numbered").model_dump(by_alias=True), "drop_last": True, "batch_size": 55},
            ),
            CPU,
        )


# What a stream must not do in silence


def dropping(items: list[Any]) -> tuple[Tensor, Tensor]:
    return pad(items[1:])


def mixing(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """As mixup does: it draws in the function that makes batches."""
    images = torch.stack([item[0] for item in items])
    return images + torch.rand(1), torch.tensor([item[1] for item in items])


class Rows(Numbered):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((4,), index, dtype=torch.uint8), index % 2


class NotANumber(Numbered):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((4,), float("nan") if index == 37 else 1.0), index % 2


class Opened(Numbered):
    """Opens its file at the first item, as PyTorch's tutorials have it; no process may read that of another."""

    process: int | None = None

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.process = self.process or os.getpid()
        assert self.process == os.getpid()
        return super().__getitem__(index)


@pytest.mark.parametrize("source", ["memory", "streamed"])
@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("Rows", {}, "are no pictures but rows"),
        ("Rows", {"shape": None}, "are no pictures but rows"),
        ("Tokens", {"shape": [3], "tokens": True, "mean": 0.5}, "must be 0 and 1 for tokens"),
        ("Numbered", {"std": 1e-45}, "must be finite as float32"),
        ("NotANumber", {}, "finite as float32, got nan"),
    ],
)
def test_every_source_refuses_the_same(source, name, keywords, message):
    with pytest.raises(DataError, match=message) as caught:
        load_data(dataset(name, source=source, **keywords), 0.2, CPU)
    if (name, source) == ("NotANumber", "streamed"):
        assert "item 37 (from 0) of the training part" in str(caught.value)


def test_what_a_collate_fn_draws_depends_on_seed_epoch_and_batch():
    mixed = dataset("Numbered", collate_fn={"_target_": f"{__name__}.mixing"})
    data = load_data(mixed, 0.2, CPU)

    def batches(seed: int, epoch: int) -> list[float]:
        return [float(images[0, 1]) for images, _ in data.batches(16, seed, epoch)]

    found = [*batches(0, 1), *batches(0, 2), *batches(1, 1)]
    assert len(set(found)) == 9
    assert batches(0, 1) == found[:3]


def test_a_collate_fn_keeps_all_items():
    with pytest.raises(DataError, match=r"collate_fn must keep all \d+ items of a batch"):
        load_data(dataset("Sequences", shape=None, collate_fn={"_target_": f"{__name__}.dropping"}), 0.2, CPU)


def test_a_file_that_is_opened_at_the_first_item_is_opened_by_each_process():
    data = load_data(dataset("Opened", source="streamed"), 0.2, CPU, workers=2)
    assert sum(len(labels) for _, labels in data.batches(8, 0, 1)) == 48


@pytest.mark.parametrize("name", ["Both", "Pairs"])
def test_several_inputs_have_one_checksum_whatever_the_source(name):
    one, other = (dataset(name, shape=None, source=source, count=600) for source in ("memory", "streamed"))
    assert load_data(one, 0.2, CPU).facts.digest == load_data(other, 0.2, CPU).facts.digest


class ColoursLast(Numbered):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        return np.full((2, 4, 3), index % 2 * 255, np.uint8), index % 2


@pytest.mark.parametrize("source", ["memory", "streamed"])
def test_colours_that_come_last_are_moved_and_said(source, capsys, monkeypatch):
    monkeypatch.setattr(user_dataset, "_reported", set())
    data = load_data(dataset("ColoursLast", shape=[3, 2, 4], source=source), 0.2, CPU)
    assert data.some(1)[0].shape[1:] == (3, 2, 4)
    assert "gives its colours last, [2, 4, 3]: they are moved to the front, [3, 2, 4]." in capsys.readouterr().err
