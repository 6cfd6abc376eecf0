"""Checkpoints: stopped anywhere and resumed, a training ends where an undisturbed one does, to the last bit."""

import dataclasses
import os
import pickle
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sweepstack.config.schema import TrialConfig
from sweepstack.training.checkpoint import NEVER, CheckpointError, CheckpointManager
from sweepstack.training.random_state import random_state, set_random_state
from sweepstack.training.stacked.dense_model import DenseModel
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.stacked.model import StackedModel
from sweepstack.training.stacked.single_model import SingleModel
from sweepstack.training.stacked.vmap_model import MappedModel
from sweepstack.training.trainer import train
from sweepstack.trial import Measurement, Outcome, TrialState

from ..loading import Data, load_data

CPU = torch.device("cpu")
NO_MORE, SELDOM = 10**9, 1e9
MLP = {"model._target_": "sweepstack.training.models.MLP", "model.hidden": [16]}
MOMENTUM = {"optimizer.momentum": 0.9, "optimizer.weight_decay": 0.01}
COSINE = {"schedule": {"kind": "cosine", "final": 0.1}}

few = settings(
    max_examples=6,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
parts = st.lists(st.integers(1, 14), min_size=1, max_size=3)
"""Steps after which a training is stopped, each counted from where it went on; an epoch of the digits has 13."""


def adam(lr: float, **more: object) -> dict[str, Any]:
    return {"optimizer": {"_target_": "torch.optim.Adam", "lr": lr, **more}}


def own(name: str, **keywords: object) -> dict[str, Any]:
    return {"model": {"_target_": f"{__name__}.{name}", **keywords}}


class Smooth(nn.Sequential):
    """A convolution with BatchNorm."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(36, 10))


class Everything(nn.Module):
    """BatchNorm, dropout, and a buffer that its `state_dict` leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.drop = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3)
        self.leave = nn.Linear(16, 10)
        self.register_buffer("drift", torch.zeros(16), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.enter(images.flatten(1))) + self.drift)
        if self.training:
            self.drift.lerp_(hidden.detach().mean(0), 0.1)  # type: ignore[operator]
        return self.leave(self.drop(hidden))


def data_of(config: TrialConfig) -> Data:
    return load_data(config.dataset, config.validation_split, CPU)


def after(steps: int) -> Callable[[], bool]:
    """A wish to stop that is there once it has been looked at after so many steps."""
    looks = iter(range(1, NO_MORE))
    return lambda: next(looks) >= steps


def timeless(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if "seconds" not in key}


def assert_same_bits(one: Outcome, other: Outcome) -> None:
    assert (one.state, one.reason, timeless(one.metrics)) == (other.state, other.reason, timeless(other.metrics))
    assert (one.weights is None) == (other.weights is None)
    for name, value in (one.weights or {}).items():
        assert torch.equal(value, other.weights[name]), name
    for kind in ("predictions", "held_out_predictions"):
        assert np.array_equal(getattr(one, kind), getattr(other, kind)), kind


# One trial alone


def train_in_parts(config: TrialConfig, stops: Sequence[int], folder: Path) -> tuple[Outcome, list[Measurement]]:
    """Stopped after so many steps, resumed, and so on; at last until the end."""
    reports: list[Measurement] = []
    CheckpointManager(folder).remove()
    done = 0
    for steps in (*stops, NO_MORE):
        keeper = CheckpointManager(folder, SELDOM, after(steps))
        keeper.restore()
        outcome = train(config, data_of(config), reports.append, keeper)
        if outcome.state is not TrialState.KILLED:
            break
        done += steps
        assert outcome.reason == f"stopped after step {done} of {13 * config.epochs}"
    return outcome, reports


TRIALS: dict[str, dict[str, Any]] = {
    "everything": {**own("Everything"), **adam(0.01), **COSINE},
    "between measurements": {**own("Everything"), **adam(0.01, amsgrad=True), "evaluate_every": 7},
    "dropout": {**MLP, "model.dropout": 0.3, **MOMENTUM, "evaluate_every": 4},
    "bfloat16": {**MLP, **adam(0.01), "precision": "bfloat16"},
    "own optimizer": {"optimizer": {"_target_": "torch.optim.NAdam", "lr": 0.01}, "validation_split": 0.0995},
    "diverging": {"optimizer.lr": 1e25, **MLP, "evaluate_every": 5},
}


@pytest.mark.parametrize("trial", TRIALS)
@few
@given(parts)
def test_a_trial_stopped_anywhere_ends_where_an_undisturbed_one_does(digits_config, tmp_path, trial, stops):
    config = digits_config({"epochs": 2, **TRIALS[trial]})
    expected_reports: list[Measurement] = []
    expected = train(config, data_of(config), expected_reports.append)
    outcome, reports = train_in_parts(config, stops, tmp_path / "checkpoint")
    assert_same_bits(outcome, expected)
    assert reports == expected_reports


def test_a_trial_that_was_killed_goes_on_from_its_last_epoch(digits_config, tmp_path):
    config = digits_config({**own("Everything"), **adam(0.01), "epochs": 4})
    expected_reports: list[Measurement] = []
    expected = train(config, data_of(config), expected_reports.append)

    def die(measurement: Measurement) -> None:
        if measurement.epoch == 3:
            raise KeyboardInterrupt

    durable: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(config, data_of(config), die, CheckpointManager(tmp_path, 0, before=lambda: durable.append(1)))
    assert len(durable) == 2
    keeper = CheckpointManager(tmp_path, 0, before=lambda: durable.append(1))
    assert keeper.restore()["step"] == 26
    for _ in range(2):  # from one and the same state, which is not trained in
        reports: list[Measurement] = []
        assert_same_bits(train(config, data_of(config), reports.append, keeper), expected)
        assert reports == expected_reports[2:]
    assert len(durable) == 4  # the last step needs none


def test_the_seconds_go_on_counting(digits_config, tmp_path):
    config = digits_config()
    train(config, data_of(config), lambda _: None, CheckpointManager(tmp_path, stopping=after(5)))
    keeper = CheckpointManager(tmp_path)
    keeper.restore()["seconds"] += 1000
    assert 1000 < train(config, data_of(config), lambda _: None, keeper).metrics["train_seconds"] < 1100


@pytest.mark.parametrize(
    "other", [MLP, {**MLP, "model.hidden": [8]}, {"batch_size": 50}, {"epochs": 1, "batch_size": 600}, adam(0.1)]
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_reported(digits_config, tmp_path, other):
    config = digits_config({**MLP, **MOMENTUM} if other != MLP else {})
    train(config, data_of(config), lambda _: None, CheckpointManager(tmp_path, stopping=after(5)))
    keeper, reports = CheckpointManager(tmp_path), []
    keeper.restore()
    if "optimizer" in other:
        keeper.state["optimizer"]["param_groups"].clear()
    with pytest.raises(CheckpointError):
        train(digits_config({**other}), data_of(config), reports.append, keeper)
    assert reports == []


def test_a_state_without_its_parts_is_refused(digits_config, tmp_path):
    config = digits_config()
    train(config, data_of(config), lambda _: None, CheckpointManager(tmp_path, stopping=after(5)))
    for part in CheckpointManager(tmp_path).restore().keys() - {"attributes"}:  # version 0.1 kept none
        keeper = CheckpointManager(tmp_path)
        del keeper.restore()[part]
        with pytest.raises(CheckpointError):
            train(config, data_of(config), lambda _: None, keeper)


def test_generators_of_another_kind_of_device_are_skipped():
    torch.manual_seed(1)
    state = random_state(CPU)
    expected = torch.rand(3)
    torch.manual_seed(2)
    set_random_state(state, torch.device("cuda"))
    assert torch.equal(torch.rand(3), expected)


@given(st.sampled_from([7, 64, 100, 2000]), st.integers(0, 200))
@settings(max_examples=10)
def test_batches_can_be_left_out(digits_config, batch_size, skip):
    """Of images that begin anywhere: the others must stay at such places in memory, for these can decide the last bits
    of a product."""
    data = data_of(digits_config())
    data = dataclasses.replace(data, images=data.images[:, :, :7, :7].contiguous())
    for batches in (
        lambda skip: data.batches(batch_size, 3, 2, skip),
        lambda skip: data.stacked_batches(batch_size, [3, 5], 2, skip),
    ):
        left, expected = [*batches(skip)], [*batches(0)][skip:]
        assert len(left) == len(expected)
        for one, other in zip(left, expected, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
            assert one[0].data_ptr() % 64 == other[0].data_ptr() % 64


# Stacks


class Trials:
    """The trials of a stack, and what became of them."""

    def __init__(self, trajectories: Sequence[Sequence[TrialConfig]], way: type[StackedModel] | None) -> None:
        self.trajectories, self.way = trajectories, way
        self.outcomes: dict[str, Outcome] = {}
        self.reports: dict[str, list[Measurement]] = {}

    def train(self, keeper: CheckpointManager, chosen: Callable[[str], bool] = lambda key: True) -> None:
        """Those whose key, such as 2.0 for the first one of the third trajectory, is chosen."""
        readers, longest = [], []
        for place, configs in enumerate(self.trajectories):
            of_one = [self._reader(config, f"{place}.{number}") for number, config in enumerate(configs)]
            of_one = [reader for reader in of_one if chosen(reader.key)]
            if of_one:
                readers.append(of_one)
                longest.append(max(configs, key=lambda config: config.epochs))
        model = SingleModel(longest[0], CPU) if self.way is None else self.way(longest, CPU)
        train_stack(readers, data_of(longest[0]), model, keeper)

    def _reader(self, config: TrialConfig, key: str) -> TrialReader:
        reports = self.reports.setdefault(key, [])
        return TrialReader(config, reports.append, lambda outcome: self.outcomes.__setitem__(key, outcome), key)

    @property
    def killed(self) -> bool:
        return any(outcome.state is TrialState.KILLED for outcome in self.outcomes.values())


def stacked(digits_config, *changes: dict[str, Any], **base: Any) -> list[list[TrialConfig]]:
    return [[digits_config({**base, **change})] for change in changes]


def rates(digits_config, base: dict[str, Any], *, key: str = "optimizer.lr", epochs: Sequence[int] = (2, 2, 2)):
    """Three trajectories or more, the last two of one seed."""
    return [
        [digits_config({**base, key: 0.02 * (place + 1), "epochs": n, "seed": max(0, len(epochs) - place - 2)})]
        for place, n in enumerate(epochs)
    ]


def diverging(digits_config) -> list[list[TrialConfig]]:
    """The second one within the first epoch, which is seen in the middle of it: it stays in the stack, frozen."""
    rates = (0.01, 1e30, 0.02, 0.03, 0.04)
    return [
        [digits_config({**MLP, **MOMENTUM, "optimizer.lr": lr, "evaluate_every": 5 if lr > 1 else "epoch"})]
        for lr in rates
    ]


def several_readers(digits_config) -> list[list[TrialConfig]]:
    base = {**MLP, "model.dropout": 0.2, **MOMENTUM}
    first = [digits_config({**base, "epochs": n, "evaluate_every": every}) for n, every in ((1, 4), (3, "epoch"))]
    return [first, [digits_config({**base, "epochs": 2, "seed": 1})]]


STACKS: dict[str, tuple[type[StackedModel] | None, Callable[..., list[list[TrialConfig]]]]] = {
    "sgd": (DenseModel, lambda make: rates(make, {})),
    "momentum": (DenseModel, lambda make: rates(make, {**MLP, **MOMENTUM, **COSINE, "evaluate_every": 5})),
    "adam": (DenseModel, lambda make: rates(make, {**MLP, **adam(0.01), "model.dropout": 0.2})),
    "mapped": (MappedModel, lambda make: rates(make, {**own("Smooth"), **adam(0.01)}, epochs=(2, 2))),
    "shrinking": (DenseModel, lambda make: rates(make, {**MLP, **adam(0.01)}, epochs=(1, 1, 2, 3))),
    "mapped and shrinking": (MappedModel, lambda make: rates(make, {**own("Smooth"), **MOMENTUM}, epochs=(1, 1, 2))),
    "diverging": (DenseModel, diverging),
    "several readers": (DenseModel, several_readers),
    "single": (None, lambda make: several_readers(make)[:1]),
}


@pytest.mark.parametrize("stack", STACKS)
@few
@given(parts)
def test_a_stack_stopped_anywhere_ends_where_an_undisturbed_one_does(digits_config, tmp_path, stack, stops):
    way, make = STACKS[stack]
    expected, trials = (Trials(make(digits_config), way) for _ in range(2))
    expected.train(NEVER)
    CheckpointManager(tmp_path / "checkpoint").remove()
    for steps in (*stops, NO_MORE):
        keeper = CheckpointManager(tmp_path / "checkpoint", SELDOM, after(steps))
        keeper.restore()
        trials.train(keeper)
        if not trials.killed:
            break
    assert trials.outcomes.keys() == expected.outcomes.keys()
    for key, outcome in trials.outcomes.items():
        assert_same_bits(outcome, expected.outcomes[key])
        assert trials.reports[key] == expected.reports[key]


def test_a_stack_that_was_killed_goes_on_from_its_last_epoch(digits_config, tmp_path):
    """At the end of the first epoch, after which the stack shrinks."""
    make = STACKS["shrinking"][1]
    expected, trials = (Trials(make(digits_config), DenseModel) for _ in range(2))
    expected.train(NEVER)
    saves: list[int] = []

    def die() -> None:
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trials.train(CheckpointManager(tmp_path, 0, before=die))
    keeper = CheckpointManager(tmp_path)
    assert keeper.restore()["step"] == 13
    assert len(keeper.state["members"]) == 4
    for reports in trials.reports.values():
        del reports[1:]
    trials.train(keeper)
    assert trials.reports == expected.reports
    for key, outcome in trials.outcomes.items():
        assert_same_bits(outcome, expected.outcomes[key])


def stopped(digits_config, folder: Path, steps: int = 20) -> tuple[Trials, CheckpointManager]:
    """Four trials of a stack, of which the first has ended; and what the others are to go on from."""
    trials = Trials(rates(digits_config, {**MLP, **adam(0.01)}, epochs=(1, 2, 2, 2)), DenseModel)
    trials.train(CheckpointManager(folder, stopping=after(steps)))
    assert [outcome.state.name for outcome in trials.outcomes.values()] == ["FINISHED", "KILLED", "KILLED", "KILLED"]
    assert trials.outcomes["1.0"].reason == f"stopped after step {steps} of 26"
    assert trials.outcomes["1.0"].weights is None
    keeper = CheckpointManager(folder)
    keeper.restore()
    return trials, keeper


@pytest.mark.parametrize("steps", [13, 20])
def test_a_stack_goes_on_in_parts_and_without_trials_that_were_dropped(digits_config, tmp_path, steps):
    """As when its memory did not suffice; what has ended already need not be passed."""
    expected = Trials(rates(digits_config, {**MLP, **adam(0.01)}, epochs=(1, 2, 2, 2)), DenseModel)
    expected.train(NEVER)
    trials, keeper = stopped(digits_config, tmp_path, steps)
    before = keeper.state["model"]["parameters"]["layers.1.weight"].clone()
    for chosen in (("0.0", "1.0"), ("3.0",)):
        trials.train(keeper, lambda key, chosen=chosen: key in chosen)  # type: ignore[misc]
    assert torch.equal(keeper.state["model"]["parameters"]["layers.1.weight"], before)
    assert trials.outcomes["2.0"].state is TrialState.KILLED
    for key in ("0.0", "1.0", "3.0"):
        assert [m.step for m in trials.reports[key]] == [m.step for m in expected.reports[key]]
        for name, value in expected.outcomes[key].weights.items():
            torch.testing.assert_close(trials.outcomes[key].weights[name], value, rtol=0, atol=1e-5)


def test_a_frozen_member_stays_frozen_and_in_its_place(digits_config, tmp_path):
    """So that the others are computed as they were: in a stack of that width, evaluated in such chunks."""
    kept = []
    for steps in (8, 2):
        keeper = CheckpointManager(tmp_path, stopping=after(steps))
        keeper.restore()
        Trials(diverging(digits_config), DenseModel).train(keeper, lambda key: kept == [] or key != "4.0")
        kept.append(CheckpointManager(tmp_path).restore())
    assert [[len(member["readers"]) for member in state["members"]] for state in kept] == [
        [1, 0, 1, 1, 1],
        [1, 0, 1, 1],
    ]
    assert [state["model"]["optimizer"]["awake"].tolist() for state in kept] == [[1, 0, 1, 1, 1], [1, 0, 1, 1]]
    assert kept[0]["model"]["evaluated"] == kept[1]["model"]["evaluated"]
    assert [state["step"] for state in kept] == [8, 10]


def test_the_shares_still_make_up_the_time_of_the_stack(digits_config, tmp_path):
    trials, keeper = stopped(digits_config, tmp_path)
    trials.train(keeper)
    times = [outcome.metrics for outcome in trials.outcomes.values()]
    whole = max(metrics["train_seconds"] for metrics in times)
    assert sum(metrics["train_seconds_share"] for metrics in times) == pytest.approx(whole, rel=1e-9)
    assert whole > keeper.state["seconds"]


def test_a_stack_refuses_a_state_that_does_not_fit_and_can_begin_anew(digits_config, tmp_path):
    trials, keeper = stopped(digits_config, tmp_path)
    for part in [*keeper.state, ("model", "rest"), ("model", "optimizer"), ("members", 1, "readers")]:
        damaged = CheckpointManager(tmp_path)
        place: Any = damaged.restore()
        *outer, last = part if isinstance(part, tuple) else (part,)
        for name in outer:
            place = place[name]
        del place[last]
        trials.reports.clear()
        with pytest.raises(CheckpointError):
            trials.train(damaged)
        assert not any(trials.reports.values())
    for other in (
        Trials([*trials.trajectories, *trials.trajectories[:1]], DenseModel),  # one that it has never seen
        Trials([[*trials.trajectories[0], *trials.trajectories[1]], *trials.trajectories[2:]], DenseModel),
        Trials(trials.trajectories[:1], None),
        Trials(rates(digits_config, {**MLP, **adam(0.01), "model.hidden": [8]}, epochs=(1, 2, 2, 2)), DenseModel),
        Trials(rates(digits_config, {**MLP, **adam(0.01), "batch_size": 50}, epochs=(1, 2, 2, 2)), DenseModel),
        Trials(rates(digits_config, {**own("Smooth"), **adam(0.01)}, epochs=(1, 2, 2, 2)), MappedModel),
    ):
        if other.way is None:
            keeper.state["members"] = keeper.state["members"][:1]
            keeper.state["members"][0]["trajectory"] = 0
        with pytest.raises(CheckpointError):
            other.train(keeper)
        assert not any(other.reports.values())
        keeper.restore()
    other.train(NEVER)
    assert {outcome.state for outcome in other.outcomes.values()} == {TrialState.FINISHED}


# Files


def told(folder: Path) -> tuple[list[str], CheckpointManager]:
    lines: list[str] = []
    return lines, CheckpointManager(folder, 0, say=lines.append)


def two(folder: Path) -> tuple[Path, Path]:
    """The files of a keeper that has kept 1 and then 2."""
    keeper = CheckpointManager(folder)
    for number in (1, 2):
        keeper.save({"number": number, "tensor": torch.full((1000,), float(number))})
    return folder / "latest.pt", folder / "previous.pt"


def test_what_is_kept_is_what_is_restored(tmp_path):
    state: dict[str, Any] = {
        "a": torch.arange(5),
        "b": [1, 2.5, True, None, "x", (1, 2)],
        "c": {3: {"d": torch.tensor(1.0).bfloat16()}},
    }
    CheckpointManager(tmp_path / "new" / "folder").save(state)
    keeper = CheckpointManager(tmp_path / "new" / "folder")
    found = keeper.restore()
    assert found is keeper.state
    assert torch.equal(found.pop("a"), state["a"])
    assert torch.equal(found["c"][3].pop("d"), state["c"][3]["d"])
    assert found == {"b": state["b"], "c": {3: {}}}
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["latest.pt"]
    keeper.remove()
    assert keeper.state is None
    assert os.listdir(tmp_path / "new") == []
    assert keeper.restore() is None


def spoilt(file: Path, how: str, place: int = 0) -> None:
    content = bytearray(file.read_bytes())
    if how == "flipped":
        content[place % len(content)] ^= 1 << place % 8
    file.write_bytes(b"" if how == "empty" else content[: place % len(content)] if how == "truncated" else content)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["empty", "truncated", "flipped"]), st.integers(0, 2**20))
def test_a_damaged_file_is_told_of_and_the_one_before_it_used(tmp_path, how, place):
    folder = tmp_path / "checkpoint"
    latest, previous = two(folder)
    spoilt(latest, how, place)
    lines, keeper = told(folder)
    assert keeper.restore()["number"] == 1
    (line,) = lines
    assert line.startswith(f"checkpoint {folder} is damaged (latest.pt ")
    assert line.endswith("training resumes from the previous one")
    assert not latest.exists()  # a kill between the renames of the next save must not leave it as the only one
    keeper.save({"number": 3})
    assert (CheckpointManager(folder).restore()["number"], torch.equal(keeper.state["tensor"], torch.ones(1000))) == (
        3,
        True,
    )
    latest.unlink()
    assert CheckpointManager(folder).restore()["number"] == 1
    spoilt(previous, how, place)
    lines, keeper = told(folder)
    assert keeper.restore() is keeper.state is None
    assert [line.rsplit("; ")[1] for line in lines] == ["training begins from scratch"]
    keeper.remove()


def test_both_damaged_is_a_beginning_told_of_once(tmp_path):
    for file in two(tmp_path):
        spoilt(file, "truncated", 700)
    lines, keeper = told(tmp_path)
    assert keeper.restore() is None
    assert len(lines) == 1
    lines.clear()
    assert keeper.restore() is None
    assert lines == []  # nothing is there any more, as before a first save


def test_a_kill_at_any_moment_of_a_save_leaves_a_good_state(tmp_path):
    latest, previous = two(tmp_path)
    content = latest.read_bytes()
    for moment, expected in (("writing", 2), ("written", 2), ("between the renames", 2), ("renamed", 3)):
        latest.write_bytes(content)
        previous.write_bytes(content)
        aside = tmp_path / "latest.pt.partial"
        third = CheckpointManager(tmp_path / "third")
        third.save({"number": 3})
        whole = (tmp_path / "third" / "latest.pt").read_bytes()
        aside.write_bytes(whole[: len(whole) // 2] if moment == "writing" else whole)
        if moment in ("between the renames", "renamed"):
            os.replace(latest, previous)
        if moment == "renamed":
            os.replace(aside, latest)
        lines, keeper = told(tmp_path)
        assert (keeper.restore()["number"], lines) == (expected, [])
        assert not aside.exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch evil",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, pickle.dump])
def test_nothing_but_tensors_and_plain_values_is_loaded(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    latest, _ = two(tmp_path)
    monkeypatch.setattr(torch, "save", write)
    CheckpointManager(tmp_path).save({"number": 3, "object": Evil()})
    assert latest.read_bytes().startswith(b"sweepstack checkpoint 1 ")  # and its checksum is right
    lines, keeper = told(tmp_path)
    assert keeper.restore()["number"] == 2
    assert "something else than tensors and plain values" in lines[0]
    assert not (tmp_path / "evil").exists()


def test_something_else_is_no_state(tmp_path):
    CheckpointManager(tmp_path).save([1, 2])  # type: ignore[arg-type]
    lines, keeper = told(tmp_path)
    assert keeper.restore() is None
    assert "holds a list" in lines[0]


def test_a_full_disk_does_not_end_the_training(digits_config, tmp_path):
    """A limit on the size of files stands for it."""
    two(tmp_path)
    config = digits_config({"epochs": 3})
    expected = train(config, data_of(config), lambda _: None)
    lines, keeper = told(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        outcome = train(config, data_of(config), lambda _: None, keeper)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same_bits(outcome, expected)
    assert lines == ["checkpoint cannot be written (File too large); training goes on, and the last one saved stays"]
    assert sorted(os.listdir(tmp_path)) == ["latest.pt", "previous.pt"]
    assert keeper.restore()["number"] == 2


def test_a_state_is_not_kept_when_its_reports_are_not_durable(tmp_path):
    def full() -> None:
        raise OSError(28, "No space left on device")

    two(tmp_path)
    lines: list[str] = []
    CheckpointManager(tmp_path, before=full, say=lines.append).save({"number": 3})
    assert CheckpointManager(tmp_path).restore()["number"] == 2
    assert lines == [
        "checkpoint cannot be written (No space left on device); training goes on, and the last one saved stays"
    ]


def test_saving_takes_a_small_part_of_the_time(tmp_path):
    slow = lambda: time.sleep(0.02)  # noqa: E731
    keeper = CheckpointManager(tmp_path, 0.01, before=slow)
    assert not keeper.due()
    time.sleep(0.02)
    assert keeper.due()
    keeper.save({})
    time.sleep(0.1)
    assert not keeper.due()  # 40 times 0.02 seconds are to pass
    always = CheckpointManager(tmp_path, 0, before=slow)
    always.save({})
    assert always.due()


def test_never_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    NEVER.save({"number": 1})
    assert (NEVER.due(), NEVER.stopping, NEVER.restore(), NEVER.state) == (False, False, None, None)
    NEVER.remove()
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_of_a_newer_version_is_kept_and_not_read(tmp_path: Path) -> None:
    said: list[str] = []
    keeper = CheckpointManager(tmp_path / "kept", every=0, say=said.append)
    for step in (1, 2):
        keeper.save({"step": step})
    latest = tmp_path / "kept" / "latest.pt"
    text = latest.read_bytes().replace(b"sweepstack checkpoint 1 ", b"sweepstack checkpoint 2 ", 1)
    latest.write_bytes(text)

    assert keeper.restore() == {"step": 1}
    assert "is of a newer version of sweepstack" in said[0]
    keeper.save({"step": 3})
    assert (tmp_path / "kept" / "latest.newer.pt").read_bytes() == text
