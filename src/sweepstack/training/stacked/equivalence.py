"""Checks that a stack of a module computes and learns the same as the single module, with the same random numbers."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import OptimizerConfig
from sweepstack.errors import one_line
from sweepstack.training import models
from sweepstack.training.data.inputs import Inputs, call, over, rows
from sweepstack.training.data.source import Batch
from sweepstack.training.module_state import Attributes
from sweepstack.training.random_state import of_others, seed_all
from sweepstack.training.stacked.model import StackedModel, Unstackable
from sweepstack.training.tasks.built import BuiltTask
from sweepstack.training.trainer import autocast_of, descend

PROBE = OptimizerConfig.model_validate({"_target_": "torch.optim.SGD", "lr": 0.05})
PROBED = 16
"""Images that a module is tried with."""
LARGE = 100.0
"""The norm of a gradient above which the learning rate of a try is lowered."""
UPDATES = 2
"""Updates in a try. The second one depends on the state that the first one left."""
TOLERANCES = {"float32": (1e-3, 1e-4), "bfloat16": (0.05, 0.05)}
"""The largest difference between the numbers of a stack and those of the single module (relative, absolute)."""
REPEATED = 0.01
"""The share of it that two tries of the single module may differ by: a GPU may add in another order."""


class SameDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes random numbers in a block depend only on the operation, the shape and the count of earlier draws.

    So they do not depend on the memory layout, which differs between a module under `torch.func.vmap` and a single one.

    Args:
        salt: another salt gives other numbers.
    """

    def __init__(self, salt: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._salt = salt
        self._drawn: Counter[tuple[str, tuple[int, ...]]] = Counter()

    @property
    def drawn(self) -> bool:
        """Whether any random number was drawn."""
        return bool(self._drawn)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Returns False: else PyTorch would import `torch._dynamo`, which takes seconds, for the method below."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if torch.Tag.nondeterministic_seeded not in func.tags or "dot_product" in name:
            return func(*args, **kwargs)  # attention with dropout draws inside of one operation
        if name == "native_dropout":  # dropout on a GPU
            images, p, train = args
            mask = self._draw(torch.ops.aten.bernoulli_.float, "bernoulli", torch.empty_like(images), 1 - p)
            return (images * mask / max(1 - p, 1e-30), mask.bool()) if train else (images, torch.ones_like(mask).bool())
        return self._draw(func, name, *args, **kwargs)

    def _draw(self, func: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        first: Any = args[0] if args else []
        key = name, tuple(first.shape if isinstance(first, Tensor) else first if isinstance(first, list) else [first])
        seed = zlib.crc32(repr((key, self._drawn[key], self._salt)).encode())
        torch.default_generator.manual_seed(seed)
        if (isinstance(first, Tensor) and first.is_cuda) or "cuda" in str(kwargs.get("device")):
            torch.cuda.manual_seed_all(seed)
        self._drawn[key] += 1
        if name == "bernoulli" and len(args) == 2 and isinstance(args[1], float):  # bernoulli or bernoulli_
            found = torch.empty(key[1], dtype=first.dtype, device=first.device).bernoulli_(args[1], **kwargs)
            return first.copy_(found) if func._schema.is_mutable else found
        if func._schema.is_mutable and isinstance(first, Tensor):
            copy = first.clone(memory_format=torch.contiguous_format)
            func(copy, *args[1:], **kwargs)
            return first.copy_(copy)
        return func(*(arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)


@dataclass(frozen=True)
class Alone:
    """The results of a single module. Outputs are [images, ...]."""

    config: TrialConfig
    before: Tensor
    """Outputs in evaluation mode before the updates; `after` has those after them."""
    after: Tensor
    tensors: Mapping[str, Tensor]
    """Its parameters and buffers after the updates."""
    draws: bool
    """Whether the module draws random numbers."""


class Probe:
    """Tries two members of a stack, of two seeds if it has several, on a few images.

    Args:
        configs: those of the members of a stack.
        shape: the shape of one image.
        device: the device to train on.
        batch: images of the data, float [n, *shape], and their targets [n, ...]; artificial ones by default.
    """

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        shape: Sequence[int],
        device: torch.device,
        batch: Batch | None = None,
    ) -> None:
        seeds = list(dict.fromkeys(config.seed for config in configs))
        self.seeds = [seeds[0], seeds[len(seeds) // 2]]
        self.configs = [configs[0].model_copy(update={"seed": seed, "optimizer": PROBE}) for seed in self.seeds]
        self._close = TOLERANCES[configs[0].precision]
        self._device, self._autocast = device, autocast_of(configs[0], device)
        self._task = BuiltTask(configs[0], device)
        if batch is None:
            images = torch.rand(PROBED, *shape, generator=torch.Generator().manual_seed(0))
            batch = images, self._task.task.examples(PROBED, configs[0].dataset)
        self._images: Inputs = over(lambda part: part[:PROBED].to(device), batch[0])
        self._labels = batch[1][:PROBED].to(device)
        self._factor = 1.0
        """A factor on the learning rate; it is small where gradients are large, as those of unscaled targets are."""

    def alone(self) -> list[Alone]:
        """Returns the results of the single modules.

        Raises:
            Unstackable: no stack can do the same: a module changes plain attributes, draws from generators other than
                PyTorch's, has outputs that depend on other images in the batch, or does not repeat its results.
        """
        self._factor = self._choose_factor()
        first, repeated = self._learn(self.configs[0]), self._learn(self.configs[0])
        if not self._same(repeated, first):
            raise Unstackable("it does not repeat its results, even alone and with the same seed")
        return [first, repeated if self.configs[1].seed == first.config.seed else self._learn(self.configs[1])]

    def compare(self, stack: StackedModel, expected: Sequence[Alone]) -> None:
        """Checks that a stack of the two modules has the results of the single ones.

        Args:
            stack: the stack of `self.configs`.
            expected: the results of the single modules.

        Raises:
            Unstackable: a result differs.
        """
        groups, width = len(stack.seeds), len(expected)
        labels = self._labels.expand(groups, *self._labels.shape)
        one = over(lambda part: part.to(stack.dtype) if part.is_floating_point() else part, self._images)
        images = over(lambda part: part.expand(groups, *part.shape), one)
        stack.set_factors(torch.full((UPDATES + 1, width), self._factor, dtype=torch.float64))
        stack.same_draws = True
        with SameDraws():
            before = stack.outputs(one)
            for _ in range(UPDATES):
                stack.step(images, labels)
            after = stack.outputs(one)
        tensors = {**stack.parameters, **stack.rest}
        for member, alone in enumerate(expected):
            if not self._near(before[member], alone.before):
                raise Unstackable("batched, it does not compute what it computes alone")
            for name, value in alone.tensors.items():
                if name not in tensors or not self._near(tensors[name][member], value):
                    raise Unstackable(f"batched, {name} does not become what it becomes alone")
            if not self._near(after[member], alone.after):
                raise Unstackable("batched, it does not learn what it learns alone")
        if any(alone.draws for alone in expected):  # vmap may fail if each member draws its own numbers
            stack.same_draws = False
            stack.step(images, labels)

    def _choose_factor(self) -> float:
        """Returns 1, or less if the first gradient is so large that an update would leave no digit of the weights."""
        seed_all(self.configs[0].seed)
        model = models.build_model(self.configs[0].model).to(self._device).train()
        try:
            with SameDraws(), self._autocast:
                loss = self._task.batch_loss(model, self._copied(), self._labels)
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception:  # a user's module can fail in any way; `_learn` says how
            return 1.0
        gradients = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
        norm = float(torch.cat(gradients).norm()) if gradients else 0.0
        return LARGE / norm if LARGE < norm < math.inf else 1.0

    def _same(self, one: Alone, other: Alone) -> bool:
        pairs = [(one.before, other.before), (one.after, other.after)]
        pairs += [(one.tensors[name], value) for name, value in other.tensors.items()]
        return all(self._near(*pair, share=REPEATED) for pair in pairs)

    def _near(self, one: Tensor, other: Tensor, share: float = 1.0) -> bool:
        one, other = one.detach(), other.detach()
        if one.shape != other.shape:
            return False
        if not (one.is_floating_point() or one.is_complex()):
            return torch.equal(one, other)
        wide = torch.complex128 if one.is_complex() else torch.float64
        relative, absolute = (share * close for close in self._close)
        return torch.allclose(one.to(wide), other.to(wide), relative, absolute, equal_nan=True)

    def _learn(self, config: TrialConfig) -> Alone:
        seed_all(config.seed)
        model = models.build_model(config.model).to(self._device).train()
        attributes = Attributes(model)
        seed_all(0)
        others = of_others()
        try:
            with SameDraws() as evaluated:
                self._check_evaluation(model, attributes, evaluated)
            with SameDraws() as draws:
                before = self._outputs(model)
                for _ in range(UPDATES):
                    self._update(model)
                after = self._outputs(model)
        except Unstackable:
            raise
        except Exception as error:  # a user's module can fail in any way
            raise Unstackable(
                f"it fails even alone, in a small trial: {type(error).__name__}: {one_line(error)}"
            ) from error
        _check_attributes(attributes)
        if of_others() != others:
            raise Unstackable("it draws random numbers of Python or NumPy; those of PyTorch could be stacked")
        tensors = {name: value.detach().clone() for name, value in _tensors(model).items()}
        if draws.drawn:
            self._check_seeding(model)
        return Alone(config, before, after, tensors, draws.drawn)

    def _check_seeding(self, model: nn.Module) -> None:
        """Checks that the module does not seed its random numbers itself: members of a stack have different ones."""
        state = {name: value.clone() for name, value in _tensors(model).items()}

        def answer(draws: contextlib.AbstractContextManager[object]) -> Tensor:
            with torch.no_grad(), self._autocast:
                for name, value in _tensors(model).items():
                    value.copy_(state[name])
                with draws:
                    return torch.cat([call(model.train(), self._copied()), self._outputs(model)])

        if torch.equal(answer(SameDraws(1)), answer(SameDraws(2))):
            return  # its random numbers change nothing
        answers = []
        for seed in (1, 2):
            seed_all(seed)
            answers.append(answer(contextlib.nullcontext()))
        if torch.equal(*answers):
            raise Unstackable("the random numbers that it draws do not depend on the seed of the trial")

    def _check_evaluation(self, model: nn.Module, attributes: Attributes, draws: SameDraws) -> None:
        """Checks that evaluation changes nothing and does not depend on the size of the chunks."""
        kept = {name: value.clone() for name, value in _tensors(model).items()}
        half = len(self._labels) // 2
        whole = self._outputs(model)
        parts = [self._outputs(model, part) for part in self._halves(half)]
        now = _tensors(model)
        _check_attributes(attributes)
        if kept.keys() != now.keys() or not all(torch.equal(value, now[name]) for name, value in kept.items()):
            raise Unstackable("it changes its buffers when it is evaluated")
        if not draws.drawn and not self._near(self._outputs(model), whole):
            raise Unstackable("it does not answer the same twice, even alone")
        if not draws.drawn and not self._near(torch.cat(parts), whole):
            raise Unstackable("when it is evaluated, its answer for an image depends on the other images of the batch")

    def _halves(self, half: int) -> list[Inputs]:
        parts = (slice(None, half), slice(half, None)) if half else (slice(None),)
        return [rows(self._images, part) for part in parts]

    def _outputs(self, model: nn.Module, images: Inputs | None = None) -> Tensor:
        with torch.no_grad(), self._autocast:
            found: Tensor = call(model.eval(), over(torch.clone, self._images if images is None else images))
        return found

    def _copied(self) -> Inputs:
        return over(torch.clone, self._images)  # type: ignore[no-any-return]

    def _update(self, model: nn.Module) -> None:
        with self._autocast:
            loss = self._task.batch_loss(model.train(), self._copied(), self._labels)
        descend(model, loss, PROBE.lr * self._factor, self.configs[0].clip_norm)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict((*model.named_parameters(), *model.named_buffers()))


def _check_attributes(attributes: Attributes) -> None:
    if changed := attributes.changed():
        raise Unstackable(f"it changes its plain attribute {changed[0]}; a buffer could be stacked")
