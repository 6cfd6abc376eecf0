"""Stacked is not alone in one thing only: which units dropout drops. With the same draws a stack ends where each of its
members ends alone, whatever the module; or it is not stacked, and says why."""

import itertools
import random
import re
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from sweepstack.config.schema import TrialConfig
from sweepstack.training.stacked import build
from sweepstack.training.stacked.dense_model import DenseModel
from sweepstack.training.stacked.equivalence import SameDraws
from sweepstack.training.stacked.model import Unstackable
from sweepstack.training.trainer import train

from .test_stacked_loop import CPU, data_of, distance, run


def own(name: str, **keywords: object) -> dict[str, object]:
    return {"model": {"_target_": f"{__name__}.{name}", **keywords}}


class Chain(nn.Module):
    """A hidden layer and what is in the middle of it."""

    def __init__(self, *middle: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(64, width), nn.Sequential(*middle), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.leave(self.between(torch.tanh(self.enter(images.flatten(1)))))

    def between(self, hidden: Tensor) -> Tensor:
        return self.middle(hidden)


class Assigned(Chain):
    """A normalisation that assigns its buffers again, before dropout."""

    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.3))
        self.register_buffer("mean", torch.zeros(16))

    def between(self, hidden: Tensor) -> Tensor:
        if not self.training:
            return hidden - self.mean
        self.mean = 0.9 * self.mean + 0.1 * hidden.mean(0).detach()
        return self.middle(hidden - self.mean)


class AssignedInEvaluation(Assigned):
    def between(self, hidden: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * hidden.mean(0).detach()
        return self.middle(hidden - self.mean)


class AssignedParameter(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.leave.bias = nn.Parameter(self.leave.bias.detach() * 0.5)
        return hidden


class NoneAtFirst(Chain):
    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.3))
        self.register_buffer("mean", None)

    def between(self, hidden: Tensor) -> Tensor:
        if self.mean is None or self.training:
            self.mean = hidden.detach().mean(0)
        return self.middle(hidden - self.mean)


class Counting(Chain):
    """Dropout that begins after five steps."""

    steps = 0

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return functional.dropout(hidden, 0.5 if self.steps > 5 else 0.0, self.training)


class CountingInTheClass(Chain):
    calls = 0

    def between(self, hidden: Tensor) -> Tensor:
        CountingInTheClass.calls += 1
        return hidden if CountingInTheClass.calls < 50 else -hidden


CALLS = {"all": 0}


class CountingInAGlobal(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        CALLS["all"] += 1
        return hidden if CALLS["all"] < 50 else -hidden


class CountingInAClosure(Chain):
    def __init__(self) -> None:
        super().__init__()
        calls = [0]

        def scaled(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            calls[0] += 1
            return output * (1 + 0.01 * calls[0])

        self.enter.register_forward_hook(scaled)


class Queue(Chain):
    """Keeps the last means in a deque, a dict and a plain tensor."""

    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.2))
        self.last: deque[Tensor] = deque(maxlen=3)
        self.seen: dict[str, Tensor | int] = {"count": 0}
        self.average = torch.zeros(16)

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            mean = hidden.detach().mean(0)
            self.last.append(mean)
            self.seen["count"] += 1
            self.seen["latest"] = mean
            self.average += 0.1 * (mean - self.average)
        return self.middle(hidden - self.average)


class Helper:
    def __init__(self) -> None:
        self.total = torch.zeros(16)

    def of(self, hidden: Tensor) -> Tensor:
        self.total = 0.9 * self.total + hidden.detach().mean(0)
        return hidden - 0.1 * self.total


class WithHelper(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper()

    def between(self, hidden: Tensor) -> Tensor:
        return self.helper.of(hidden) if self.training else hidden


class Hidden(Chain):
    """A module that PyTorch does not know of, in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.others = [nn.BatchNorm1d(16)]

    def between(self, hidden: Tensor) -> Tensor:
        return self.others[0](hidden)


class OwnGenerator(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def between(self, hidden: Tensor) -> Tensor:
        noise = torch.rand(hidden.shape, generator=self.generator) if self.training else 1.0
        return hidden * noise


class PythonsRandom(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden * (random.random() + 0.5) if self.training else hidden


class NumPysRandom(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden * float(np.random.rand() + 0.5) if self.training else hidden


class OwnNumPy(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.draws = np.random.default_rng(0)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * float(self.draws.uniform(0.5, 1.5)) if self.training else hidden


class Unseeded(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden * float(np.random.default_rng().uniform(0.5, 1.5)) if self.training else hidden


COUNTED = itertools.count()


class Drifts(Chain):
    """Differs by a thousandth each time: less than a stack may differ from its members by."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * (1 + 1e-3 * next(COUNTED)) if self.training else hidden


class ByTheClock(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden * (1 + time.perf_counter() % 1e-3 * 1000)


class DrawnInInit(Chain):
    """Python's random numbers decide in the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = random.uniform(0.5, 2)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale


class DrawnIntoParameters(Chain):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.enter.weight.mul_(random.uniform(0.5, 2)).add_(float(np.random.rand()) / 100)


class FunctionalDropout(Chain):
    """Drops in evaluation, too."""

    def between(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, 0.2, training=True)


class Transposed(Chain):
    """Dropout on numbers that lie in memory in another order."""

    def between(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden.t() * 2, 0.4, self.training).t()


class Noise(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden + 0.3 * torch.randn_like(hidden) if self.training else hidden


class Mixup(Chain):
    """Each image with another one, and a rate for the batch."""

    def between(self, hidden: Tensor) -> Tensor:
        if not self.training:
            return hidden
        rate = torch.rand(())
        return rate * hidden + (1 - rate) * hidden[torch.randperm(len(hidden))]


class StochasticDepth(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        if not self.training:
            return hidden
        return hidden + torch.tanh(hidden) * torch.empty(len(hidden), 1).bernoulli_(0.5)


class Learnt(Chain):
    """Draws by a probability that is learnt."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * torch.bernoulli(torch.sigmoid(hidden.detach())) if self.training else hidden


class Recurrent(Chain):
    def __init__(self, kind: str) -> None:
        super().__init__()
        layers = {"dropout": 0.3, "num_layers": 2, "batch_first": True}
        self.recurrent = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[kind](4, 4, **layers)

    def between(self, hidden: Tensor) -> Tensor:
        return self.recurrent(hidden.view(-1, 4, 4))[0].flatten(1)


class Attention(Chain):
    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)

    def between(self, hidden: Tensor) -> Tensor:
        tokens = hidden.view(-1, 4, 4)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].flatten(1)


class OverTheBatch(Chain):
    """Evaluated, an answer depends on the images beside."""

    def between(self, hidden: Tensor) -> Tensor:
        return self.middle(hidden) - hidden.mean(0)


class EverySecond(Chain):
    """Dropout that is switched off for good."""

    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.5), nn.Dropout(0.5))

    def train(self, mode: bool = True) -> "EverySecond":
        super().train(mode)
        self.middle[0].eval()
        return self


class OwnForward(Chain):
    """A linear layer whose forward is replaced."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 16))
        layer = self.middle[0]
        layer.forward = lambda hidden: 2 * functional.linear(hidden, layer.weight)  # type: ignore[arg-type]


class Doubling(nn.Dropout):
    def forward(self, hidden: Tensor) -> Tensor:
        return 2 * super().forward(hidden)


class SeedsItself(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        torch.manual_seed(0)
        return hidden + torch.randn_like(hidden) if self.training else hidden


class SeedsAFork(Chain):
    def between(self, hidden: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return functional.dropout(hidden, 0.5, self.training)


class Shifted(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean()


class Later(Chain):
    """Does something else for large batches."""

    late = 0

    def between(self, hidden: Tensor) -> Tensor:
        if self.training and len(hidden) > 50:
            self.late += 1
        return hidden + self.late


def chain(middle: str) -> nn.Module:
    """A module by its name in `MIDDLES`."""
    return Chain(*MIDDLES[middle]())  # type: ignore[misc]


def parametrized() -> nn.Linear:
    layer = nn.Linear(16, 16)
    parametrize.register_parametrization(layer, "weight", Shifted())
    return layer


MIDDLES = {
    "dropout": lambda: [nn.ReLU(), nn.Dropout(0.5)],
    "dropout of none and of all": lambda: [nn.Dropout(0.0), nn.Dropout(0.3), nn.Linear(16, 16), nn.Dropout(1.0)],
    "a subclass of dropout": lambda: [Doubling(0.3)],
    "alpha dropout": lambda: [nn.AlphaDropout(0.3)],
    "dropout of channels": lambda: [nn.Unflatten(1, (4, 2, 2)), nn.Dropout2d(0.4), nn.Flatten()],
    "rrelu": lambda: [nn.RReLU()],
    "batch norm": lambda: [nn.BatchNorm1d(16), nn.Dropout(0.2)],
    "batch norm by count": lambda: [nn.BatchNorm1d(16, momentum=None)],
    "batch norm of the batch": lambda: [nn.BatchNorm1d(16, track_running_stats=False)],
    "layer norm": lambda: [nn.LayerNorm(16), nn.Dropout(0.2)],
    "spectral norm": lambda: [parametrizations.spectral_norm(nn.Linear(16, 16)), nn.Dropout(0.2)],
    "old spectral norm": lambda: [torch.nn.utils.spectral_norm(nn.Linear(16, 16)), nn.Dropout(0.2)],
    "weight norm": lambda: [parametrizations.weight_norm(nn.Linear(16, 16)), nn.Dropout(0.2)],
    "parametrized": lambda: [parametrized()],
}
STACKED = {
    **{name: own("chain", middle=name) for name in MIDDLES},
    **{
        kind.__name__: own(kind.__name__)
        for kind in (
            *(Assigned, DrawnIntoParameters, FunctionalDropout, Transposed, Noise, Mixup, Attention, EverySecond),
            OwnForward,
        )
    },
}
"""Models that end where they end alone, bit for bit or within rounding."""
NOT_STACKED = {
    "rrelu": "vmap",
    "batch norm by count": "vmap",
    "batch norm of the batch": "when it is evaluated, its answer for an image depends on the other images of the batch",
    "spectral norm": "vmap",
    "old spectral norm": "it changes its plain attribute middle.0.weight",
    AssignedInEvaluation: "it changes its buffers when it is evaluated",
    AssignedParameter: "its forward assigns the parameter leave.bias",
    NoneAtFirst: "it changes its buffers when it is evaluated",
    Counting: "it changes its plain attribute steps",
    CountingInTheClass: "it changes its plain attribute CountingInTheClass::calls",
    CountingInAGlobal: "::CALLS",
    CountingInAClosure: "it changes its plain attribute enter._forward_hooks",
    Queue: "it changes its plain attribute average",
    WithHelper: "it changes its plain attribute helper",
    Hidden: "it changes its plain attribute others",
    OwnGenerator: "it changes its plain attribute generator",
    OwnNumPy: "it changes its plain attribute draws",
    PythonsRandom: "it draws random numbers of Python or NumPy",
    NumPysRandom: "it draws random numbers of Python or NumPy",
    Unseeded: "it does not repeat its results",
    Drifts: "it does not repeat its results",
    ByTheClock: "it does not answer the same twice",
    DrawnInInit: "its plain attribute scale differs for each seed",
    StochasticDepth: "vmap",
    Learnt: "vmap",
    OverTheBatch: "when it is evaluated, its answer for an image depends on the other images of the batch",
    SeedsItself: "do not depend on the seed of the trial",
    SeedsAFork: "do not depend on the seed of the trial",
}
"""Models that no stack takes, and what is said of them."""
for name in NOT_STACKED:
    STACKED.pop(name, None) if isinstance(name, str) else None


class SameMasks(SameDraws):
    """The same draws for all but fresh weights, which depend on the seed."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ("aten::uniform_", "aten::normal_"):
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


def configs_of(digits_config: Callable[..., TrialConfig], model: dict[str, object]) -> list[TrialConfig]:
    model = {**model, "epochs": 1}
    return [digits_config({**model, "seed": seed, "optimizer.lr": lr}) for seed, lr in ((0, 0.1), (0, 0.3), (1, 0.1))]


@pytest.mark.parametrize("name", STACKED)
def test_with_the_same_draws_a_stack_ends_where_its_members_end_alone(digits_config, name):
    configs = configs_of(digits_config, STACKED[name])
    model = build.build_stacked_model(configs, [1, 8, 8], CPU)
    model.same_draws = True
    with SameMasks():
        outcomes, _ = run([[config] for config in configs], model)
    for config, outcome in zip(configs, outcomes, strict=True):
        with SameMasks():
            expected = train(config, data_of(config), lambda _: None)
        assert distance(outcome, expected) < 1e-5
        if name != "FunctionalDropout":  # which drops in evaluation too, where chunks are of another size
            assert outcome.metrics["test/accuracy"] == pytest.approx(expected.metrics["test/accuracy"], abs=1 / 360)


@pytest.mark.parametrize("kind", NOT_STACKED, ids=lambda kind: kind if isinstance(kind, str) else kind.__name__)
def test_what_a_stack_would_do_otherwise_trains_alone_and_is_told_why(digits_config, kind):
    model = own("chain", middle=kind) if isinstance(kind, str) else own(kind.__name__)
    with pytest.raises(Unstackable, match=re.escape(NOT_STACKED[kind])):
        build.build_stacked_model(configs_of(digits_config, model), [1, 8, 8], CPU)


@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn"])
def test_recurrent_layers_train_alone(digits_config, kind):
    with pytest.raises(Unstackable, match="vmap"):
        build.build_stacked_model(configs_of(digits_config, own("Recurrent", kind=kind)), [1, 8, 8], CPU)


def test_the_written_out_way_drops_what_dropout_alone_drops(digits_config):
    changes = {"model._target_": "sweepstack.training.models.MLP", "model.hidden": [16, 16], "model.dropout": 0.5}
    configs = configs_of(digits_config, changes)
    model = build.build_stacked_model(configs, [1, 8, 8], CPU)
    assert isinstance(model, DenseModel)
    model.same_draws = True
    with SameMasks():
        outcomes, _ = run([[config] for config in configs], model)
    for config, outcome in zip(configs, outcomes, strict=True):
        with SameMasks():
            assert distance(outcome, train(config, data_of(config), lambda _: None)) < 1e-5


def test_what_changes_only_later_ends_the_stack(digits_config):
    """The probe sees two steps; a stack looks again whenever it is measured."""
    configs = configs_of(digits_config, own("Later"))
    model = build.build_stacked_model(configs, [1, 8, 8], CPU)
    with pytest.raises(Unstackable, match="it changes its plain attribute late"):
        run([[config] for config in configs], model)
