"""What a module keeps in plain attributes survives an interruption bit for bit; or no checkpoint is kept, and that is
said."""

import collections
import io
import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sweepstack.training.checkpoint import CheckpointManager
from sweepstack.training.module_state import Attributes, Unkept
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.training.stacked.single_model import SingleModel
from sweepstack.training.trainer import train
from sweepstack.trial import Outcome, TrialState

from . import test_stacked_build as modules
from .test_checkpoint import CPU, SELDOM, after, assert_same_bits, train_in_parts
from .test_stacked_loop import data_of


class Forgetful(modules.Chain):
    """Counts with an iterator, whose position nobody can see."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * (1 + 0.01 * next(self.numbers)) if self.training else hidden


class Collector(modules.Chain):
    """Objects of its own that come as it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[modules.Helper] = []

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.found.append(modules.Helper())
        return hidden * (1 + 0.01 * len(self.found))


class Aliases(modules.Chain):
    """One list by two names, a view of a parameter, a dict that makes its values, and a module kept beside."""

    def __init__(self) -> None:
        super().__init__()
        self.one: list[float] = []
        self.other = self.one
        self.view = self.leave.weight.detach()
        self.counts: collections.defaultdict[str, int] = collections.defaultdict(int)
        self.teacher = [nn.Linear(16, 16), self.enter]
        self.first_seen: Tensor | None = None

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.one.append(float(hidden.detach().mean()))
            self.counts["steps"] += 1
            if self.first_seen is None:
                self.first_seen = hidden.detach()[0].clone()
            with torch.no_grad():
                self.teacher[0].weight.lerp_(self.enter.weight[:, :16], 0.1)
        scale = 1 + 0.1 * (len(self.other) + self.counts["steps"]) + self.view.mean()
        shift = 0 if self.first_seen is None else self.first_seen
        return scale * self.teacher[0](hidden) + shift


def model_of(kind: type[nn.Module]) -> dict[str, object]:
    return {"model": {"_target_": f"{kind.__module__}.{kind.__name__}"}, "epochs": 2}


KEPT = [
    *(
        modules.Counting,
        modules.CountingInAClosure,
        modules.Queue,
        modules.WithHelper,
    ),
    *(
        modules.Hidden,
        modules.OwnGenerator,
        modules.OwnNumPy,
        modules.PythonsRandom,
    ),
    *(modules.NumPysRandom, modules.DrawnInInit, modules.Assigned, Aliases),
]


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: kind.__name__)
def test_stopped_twice_a_module_with_a_memory_ends_bit_for_bit(digits_config, tmp_path, kind):
    config = digits_config(model_of(kind))
    expected = train(config, data_of(config), lambda _: None)
    said: list[str] = []
    outcome, _ = train_in_parts(config, [5, 12], tmp_path / "checkpoint")
    assert_same_bits(outcome, expected)
    assert not said
    again: list[Outcome] = []
    for steps in (8, 10**9):  # as the only member of a stack
        keeper = CheckpointManager(tmp_path / "read", SELDOM, after(steps))
        keeper.restore()
        train_stack(
            [[TrialReader(config, lambda _: None, again.append)]], data_of(config), SingleModel(config, CPU), keeper
        )
    assert again[0].state is TrialState.KILLED
    assert_same_bits(again[1], expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Forgetful, "numbers"),
        (Collector, "found"),
        (modules.CountingInTheClass, "CountingInTheClass::calls"),
        (modules.CountingInAGlobal, "tests.training.test_stacked_build::CALLS"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_memory_that_no_file_can_hold_is_told_of_once_and_the_trial_begins_again(digits_config, tmp_path, kind, name):
    config = digits_config(model_of(kind))
    said: list[str] = []
    keeper = CheckpointManager(tmp_path / "checkpoint", 0.0, after(20), say=said.append)
    assert train(config, data_of(config), lambda _: None, keeper).state is TrialState.KILLED
    (line,) = said
    assert line.startswith(f"no checkpoint can be saved: the model changes {name}, ")
    assert CheckpointManager(tmp_path / "checkpoint").restore() is None


# What can be kept


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value: Any = None


numbers = st.integers(-(2**130), 2**130) | st.floats(allow_nan=False) | st.booleans() | st.none() | st.text(max_size=5)
more = st.one_of(
    numbers,
    st.complex_numbers(allow_nan=False),
    st.binary(max_size=4),
    st.sampled_from([np.float64(0.1), np.int8(3), np.float32("inf")]),
)
values = st.recursive(
    more,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(lambda parts: collections.deque(parts, maxlen=4)),
        st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(collections.OrderedDict),
        st.sets(numbers, max_size=3),
        st.frozensets(numbers, max_size=3),
    ),
    max_leaves=8,
)


def through_a_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


@given(values)
def test_any_plain_value_comes_back_with_its_type(value):
    trained, fresh = Holder(), Holder()
    kept, other = Attributes(trained), Attributes(fresh)
    trained.value = value
    other.restore(through_a_file(kept.state()))
    assert repr(fresh.value) == repr(value) or fresh.value == value
    assert type(fresh.value) is type(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_tensors_arrays_and_generators_come_back(dtype, shape):
    trained, fresh = Holder(), Holder()
    kept, other = Attributes(trained), Attributes(fresh)
    trained.value = {"tensor": torch.ones(shape, dtype=dtype), "array": np.full(shape, 2, np.int16)}
    other.restore(through_a_file(kept.state()))
    assert torch.equal(fresh.value["tensor"], trained.value["tensor"])
    assert fresh.value["tensor"].dtype is dtype
    assert np.array_equal(fresh.value["array"], trained.value["array"])
    for make in (lambda: random.Random(1), lambda: np.random.default_rng(1), lambda: np.random.RandomState(1)):
        trained.value, fresh.value = make(), make()
        kept, other = Attributes(trained), Attributes(fresh)
        trained.value.random()
        other.restore(through_a_file(kept.state()))
        assert fresh.value.random() == trained.value.random()


def test_what_has_not_changed_is_not_kept():
    model = Holder()
    model.value = {"a": torch.zeros(2), "nan": math.nan, "function": torch.relu, "layers": [model]}
    attributes = Attributes(model)
    assert attributes.state() == {}
    model.value["a"] += 1
    assert attributes.changed() == ["value"]
    model.value["a"] -= 1
    assert attributes.changed() == []
    del model.value
    assert attributes.state() == {"value": ["gone"]}
    model.value = io.StringIO()
    with pytest.raises(Unkept, match="value"):
        attributes.state()


def test_modules_without_memory_of_their_own_are_looked_at() -> None:
    lazy = torch.nn.LazyLinear(3)
    sparse = torch.nn.Linear(2, 2)
    sparse.register_buffer("adjacent", torch.eye(2).to_sparse())
    for module in (lazy, sparse):
        assert Attributes(module).changed() == []


def test_a_hook_that_removes_itself_is_gone_after_a_resume() -> None:
    def hooked() -> torch.nn.Linear:
        module = torch.nn.Linear(2, 2)
        handle = module.register_forward_pre_hook(lambda *_: handle.remove())
        return module

    trained = hooked()
    attributes = Attributes(trained)
    trained(torch.zeros(1, 2))
    resumed = hooked()
    Attributes(resumed).restore(attributes.state())
    assert resumed(torch.zeros(1, 2)).shape == (1, 2)
