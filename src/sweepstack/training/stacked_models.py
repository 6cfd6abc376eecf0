"""A stack's members as one batched model: parameters [K, ...], member first; members with one seed share their batches.

Two ways to compute. `DenseModel`: linear layers with elementwise functions between them, forward and gradient written
out; the first layer's K products on shared images are one matrix product. `MappedModel`: any module, through
`torch.func` (functional_call under vmap; model ensembling as in its documentation, HFTA, MLSys 2021).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from sweepstack.config import OptimizerConfig, TrialConfig
from sweepstack.errors import one_line
from sweepstack.training import models, optimizers, stacked_optimizers
from sweepstack.training.trainer import autocast_of, evaluate

EVALUATED = 2000
"""Images that are evaluated at once, where the memory for training holds as many."""
EVALUATED_NUMBERS = 2**25
"""Activations that a dense stack may hold for it, 128 MB."""
Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""Images and labels to evaluate on, in chunks of so many images."""


PROBE = OptimizerConfig.model_validate({"_target_": "torch.optim.SGD", "lr": 0.05})
PROBED, CLOSE = 16, {"float32": (1e-3, 1e-4), "bfloat16": (0.05, 0.05)}
"""What a module is tried with before it is stacked: images, and how near its logits must be (relative, absolute)."""


class Unstackable(Exception):  # noqa: N818 -- a finding, not a fault
    """This model has no stacked form; says why."""


class StackedModel:
    """What both ways have in common: the members' tensors and their optimizer.

    Args:
        configs: one for each member, of one `stack_key`.
        device: where to train.
    """

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        self.template, members = _build(configs, device)
        self._autocast = autocast_of(configs[0], device)
        self._evaluated = configs[0].batch_size
        self._names = [name for name, value in self.template.named_parameters() if value.requires_grad]
        self.parameters = {name: members[name] for name in self._names}
        self.rest = {name: value for name, value in members.items() if name not in self.parameters}
        """Buffers, and parameters that are not trained."""
        if not self.parameters:
            raise Unstackable("it has nothing to train")
        _refuse_what_cannot_be_batched(self.template)
        self.optimizer = stacked_optimizers.build([config.optimizer for config in configs], self.parameters)
        self._place_seeds([config.seed for config in configs])

    def _place_seeds(self, seeds: Sequence[int]) -> None:
        """Members of one seed take the same batches; where every seed has as many members, side by side, these share
        the images, else each member has its own copy."""
        order = list(dict.fromkeys(seeds))
        each = len(seeds) // len(order)
        shared = list(seeds) == [seed for seed in order for _ in range(each)]
        self.seeds = order if shared else list(seeds)
        """Whose batches `step` takes, in this order."""

    @property
    def width(self) -> int:
        """The number of members."""
        return len(next(iter(self.parameters.values())))

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(iter(self.parameters.values())).dtype

    def set_factors(self, factors: Tensor) -> None:
        """Takes the schedules' factors of the steps to come, float64 [steps, K]."""
        self.optimizer.set_factors(factors)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One update of every member.

        Args:
            images: float32 [S, batch, ...], for each of `seeds`.
            labels: int64 [S, batch].

        Returns:
            The losses before the update, [K], on the device.
        """
        raise NotImplementedError

    def logits(self, images: Tensor) -> Tensor:
        """Of images [n, ...], the same for all, without dropout and the like: [K, classes, n]."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self, batches: Batches) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (nats) and accuracy (0 to 1) of every member, [K] each, on the CPU."""
        losses, hits, count = [], [], 0
        for images, labels in batches(min(EVALUATED, self._evaluated)):
            logits = self.logits(images).float()
            expected = labels.expand(self.width, -1)
            losses.append(cross_entropy(logits, expected, reduction="none").sum(1))
            hits.append((logits.max(1).indices == labels).sum(1))  # argmax, but 18 times as fast along this axis
            count += len(labels)
        return torch.stack(losses).sum(0).cpu().double() / count, torch.stack(hits).sum(0).cpu().double() / count

    def weights(self, member: int) -> dict[str, Tensor]:
        """The `state_dict` of one member, copied to the CPU."""
        with torch.no_grad():
            for name, value in (*self.template.named_parameters(), *self.template.named_buffers()):
                value.copy_((self.parameters if name in self.parameters else self.rest)[name][member])
        return {name: value.detach().cpu().clone() for name, value in self.template.state_dict().items()}

    @torch.no_grad()
    def freeze(self, member: int) -> None:
        """Takes a member out of the training without a change of width: the others go on bit for bit."""
        self.optimizer.freeze(member)
        for value in self.rest.values():
            value[member] = 0

    @torch.no_grad()
    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """Goes on with these members only."""
        index = torch.tensor(members, device=next(iter(self.parameters.values())).device)
        self.parameters = {name: value.index_select(0, index) for name, value in self.parameters.items()}
        self.rest = {name: value.index_select(0, index) for name, value in self.rest.items()}
        self.optimizer.keep(members, self.parameters)
        self._place_seeds(seeds)


class MappedModel(StackedModel):
    """Any module which `torch.func.vmap` can map: BatchNorm with its buffers, dropout with a mask for each member, tied
    weights. Dropout is drawn from one generator for the whole stack: the same distribution as in the plain trainer,
    other masks."""

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        super().__init__(configs, device)
        self._evaluated *= 4  # nothing is kept for a gradient
        for value in self.parameters.values():
            value.requires_grad_()

    def _place_seeds(self, seeds: Sequence[int]) -> None:
        super()._place_seeds(seeds)
        device = next(iter(self.parameters.values())).device
        self._seed_of = torch.tensor([self.seeds.index(seed) for seed in seeds], device=device)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.template.train()
        if len(self.seeds) == 1:
            images, labels, shared = images[0], labels[0], True
        else:
            images, labels, shared = images[self._seed_of], labels[self._seed_of], False

        def loss_of(parameters: dict[str, Tensor], rest: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(functional_call(self.template, (parameters, rest), (images,)), labels)

        with self._autocast:
            mapped = vmap(loss_of, in_dims=(0, 0, *[None if shared else 0] * 2), randomness="different")
            losses = mapped(self.parameters, self.rest, images, labels)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        self.optimizer.begin_step()
        with torch.no_grad():
            for name, gradient in zip(self.parameters, _own_memory(gradients), strict=True):
                if gradient is not None:  # torch.optim too passes over what the loss does not depend on
                    self.optimizer.update(name, gradient)
        return losses.detach()

    def logits(self, images: Tensor) -> Tensor:
        self.template.eval()

        def logits_of(parameters: dict[str, Tensor], rest: dict[str, Tensor]) -> Tensor:
            return functional_call(self.template, (parameters, rest), (images,))  # type: ignore[no-any-return]

        with self._autocast:
            return vmap(logits_of, randomness="different")(self.parameters, self.rest).transpose(1, 2)

    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        super().keep(members, seeds)
        for value in self.parameters.values():
            value.requires_grad_()


def _own_memory(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients as tensors that may be written to: both parts of a sum have one and the same, and that of a sum of
    numbers is one number seen many times."""
    memories: set[int] = set()
    own: list[Tensor | None] = []
    for gradient in gradients:
        if gradient is not None:
            memory = gradient.untyped_storage().data_ptr()
            if memory in memories or not gradient.is_contiguous():
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            memories.add(memory)
        own.append(gradient)
    return own


@dataclass(frozen=True)
class Linear:
    """A linear layer, by the names of its parameters."""

    weight: str
    bias: str | None


@dataclass(frozen=True)
class Elementwise:
    """A function of each number, and its gradient from (gradient of the output, output)."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Dropout:
    """Drops a unit with probability p in training, and scales what is left by 1 / (1 - p)."""

    p: float


Layer = Linear | Elementwise | Dropout
aten = torch.ops.aten
ELEMENTWISE: dict[type[nn.Module], Elementwise] = {
    nn.ReLU: Elementwise(torch.relu, lambda gradient, output: aten.threshold_backward(gradient, output, 0)),
    nn.Tanh: Elementwise(torch.tanh, aten.tanh_backward),
    nn.Sigmoid: Elementwise(torch.sigmoid, aten.sigmoid_backward),
}


class DenseModel(StackedModel):
    """A chain of linear layers, elementwise functions and dropout on flattened images.

    Activations are [K, units, batch], the batch last: then every product is a plain one without a copy, the softmax
    runs along contiguous numbers (at ten classes 20 times as fast as along the last axis), and the first layer's
    weights of members with the same images are one matrix [K * units, pixels].

    Raises:
        Unstackable: the module is no such chain.
    """

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        if configs[0].precision != "float32":
            raise Unstackable("its precision is not float32")
        super().__init__(configs, device)
        self._first, *self._layers = _chain(self.template)
        units = sum(len(value[0]) for name, value in self.parameters.items() if name.endswith("weight"))
        self._evaluated = max(self._evaluated, EVALUATED_NUMBERS // (units * self.width))
        used = [name for layer in (self._first, *self._layers) for name in _names(layer)]
        if sorted(used) != sorted(self._names) or self.rest:
            raise Unstackable("a parameter is shared, unused or not trained")

    @torch.no_grad()
    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        groups, batch = labels.shape
        images = images.flatten(2)
        flow = self._enter(images)
        saved = []  # of each layer what its gradient needs
        for layer in self._layers:
            entering = flow
            match layer:
                case Linear():
                    flow = self._linear(layer, flow)
                    saved.append(entering)
                case Elementwise():
                    flow = layer.forward(flow)
                    saved.append(flow)
                case Dropout():
                    saved.append(torch.empty_like(flow).bernoulli_(1 - layer.p).div_(max(1 - layer.p, 1e-30)))
                    flow = flow * saved[-1]
        logs = torch.log_softmax(flow, 1)
        labels = labels.view(groups, 1, 1, batch).expand(-1, self.width // groups, -1, -1)
        labels = labels.reshape(self.width, 1, batch)
        losses = -logs.gather(1, labels).mean((1, 2))
        gradient = logs.exp_().scatter_add_(1, labels, logs.new_full((1, 1, 1), -1.0).expand_as(labels))
        gradient.mul_(1 / batch)

        self.optimizer.begin_step()
        for layer, kept in zip(reversed(self._layers), reversed(saved), strict=True):
            match layer:
                case Linear():
                    leaving = gradient  # and back through the weights as they were used, before their update
                    gradient = torch.bmm(self.parameters[layer.weight].transpose(1, 2), leaving)
                    self._update(layer, leaving, leaving, kept.transpose(1, 2))
                case Elementwise():
                    gradient = layer.backward(gradient, kept)
                case Dropout():
                    gradient = gradient * kept
        self._update(self._first, gradient, gradient.reshape(groups, -1, batch), images)
        return losses

    def logits(self, images: Tensor) -> Tensor:
        flow = self._enter(images.flatten(1)[None])
        for layer in self._layers:
            match layer:
                case Linear():
                    flow = self._linear(layer, flow)
                case Elementwise():
                    flow = layer.forward(flow)
        return flow

    def _enter(self, images: Tensor) -> Tensor:
        """The first layer: images [S, batch, pixels] to activations [K, units, batch]."""
        weight = self.parameters[self._first.weight]
        products = torch.bmm(weight.view(len(images), -1, weight.shape[2]), images.transpose(1, 2))
        return self._add_bias(self._first, products.view(*weight.shape[:2], -1))

    def _linear(self, layer: Linear, flow: Tensor) -> Tensor:
        return self._add_bias(layer, torch.bmm(self.parameters[layer.weight], flow))

    def _add_bias(self, layer: Linear, products: Tensor) -> Tensor:
        return products if layer.bias is None else products.add_(self.parameters[layer.bias][:, :, None])

    def _update(self, layer: Linear, leaving: Tensor, left: Tensor, right: Tensor) -> None:
        if layer.bias is not None:
            self.optimizer.update(layer.bias, leaving.sum(2))
        self.optimizer.update_by_product(layer.weight, left, right)


def _names(layer: Layer) -> list[str]:
    return [name for name in (layer.weight, layer.bias) if name is not None] if isinstance(layer, Linear) else []


def _chain(model: nn.Module) -> tuple[Linear, *tuple[Layer, ...]]:
    """The layers that images go through one after the other, as `torch.fx` sees them.

    Raises:
        Unstackable: there is something else in the module.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        raise Unstackable("a module has hooks")  # which fx does not see
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception as error:  # control flow that depends on data, and whatever else fx cannot follow
        raise Unstackable(f"torch.fx cannot trace it ({type(error).__name__})") from error
    layers: list[Layer] = []
    for before, node in itertools.pairwise(nodes):
        if node.all_input_nodes != [before]:
            raise Unstackable("it is no chain of layers")
        if node.op == "output":
            continue
        found = _layer(model, node)
        if found is not None:
            layers.append(found)
    if not layers or not isinstance(layers[0], Linear):
        raise Unstackable("it does not begin with a linear layer")
    return layers[0], *layers[1:]


def _layer(model: nn.Module, node: fx.Node) -> Layer | None:
    """One node of the trace; None for what changes nothing here."""
    if node.op == "call_method" and (node.target, node.args[1:], node.kwargs) == ("flatten", (1,), {}):
        return None
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    match module:
        case nn.Identity() | nn.Flatten(start_dim=1, end_dim=-1):
            return None
        case nn.Linear() if type(module) is nn.Linear:  # a subclass may do anything in its forward
            return Linear(f"{node.target}.weight", None if module.bias is None else f"{node.target}.bias")
        case nn.Dropout():
            return Dropout(module.p)
        case nn.Module() if type(module) in ELEMENTWISE:
            return ELEMENTWISE[type(module)]
    raise Unstackable(f"{node.target} is none of the layers that are written out")


def _build(configs: Sequence[TrialConfig], device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module to compute with, and the members' parameters and buffers side by side, drawn as the plain trainer draws
    them."""
    drawn: dict[int, dict[str, Tensor]] = {}
    for seed in dict.fromkeys(config.seed for config in configs):
        torch.manual_seed(seed)
        template = models.build(configs[0].model).to(device)
        named = (*template.named_parameters(), *template.named_buffers())
        drawn[seed] = {name: value.detach() for name, value in named}
    names = next(iter(drawn.values()))
    return template, {name: torch.stack([drawn[config.seed][name] for config in configs]) for name in names}


class SingleModel:
    """One member that is not batched: the module and the optimizer as the plain trainer has them, for a trajectory that
    several trials read but that no stack can take."""

    width = 1

    def __init__(self, config: TrialConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self._model = models.build(config.model).to(device).train()
        self._optimizer = optimizers.build(config.optimizer, self._model.parameters())
        self._full_rates = [group["lr"] for group in self._optimizer.param_groups]
        self._autocast = autocast_of(config, device)
        self._factors: Iterator[float] = iter(())
        self.seeds = [config.seed]

    def set_factors(self, factors: Tensor) -> None:
        """As for a stack; factors [steps, 1]."""
        self._factors = iter(factors[:, 0].tolist())

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One update; images [1, batch, ...], losses [1]."""
        factor = next(self._factors)
        for group, full in zip(self._optimizer.param_groups, self._full_rates, strict=True):
            group["lr"] = full * factor
        with self._autocast:
            loss = cross_entropy(self._model(images[0]), labels[0])
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()[None]

    def evaluate(self, batches: Batches) -> tuple[Tensor, Tensor]:
        """As for a stack."""
        loss, accuracy = evaluate(self._model, batches(EVALUATED), self._autocast)
        return torch.tensor([loss], dtype=torch.float64), torch.tensor([accuracy], dtype=torch.float64)

    def weights(self, member: int) -> dict[str, Tensor]:
        """As for a stack."""
        return {name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}

    def freeze(self, member: int) -> None:
        """There is nobody to go on for."""

    def keep(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """The one member stays."""


def _refuse_what_cannot_be_batched(model: nn.Module) -> None:
    if any(module._backward_hooks or module._backward_pre_hooks for module in model.modules()):
        raise Unstackable("a module has backward hooks")
    for parameter in model.parameters():
        hooks = parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
        if hooks or parameter.is_complex():
            raise Unstackable("a parameter has a hook, or is complex")


def build(configs: Sequence[TrialConfig], shape: Sequence[int], device: torch.device) -> StackedModel:
    """The members of a stack, in the faster way that their module admits.

    Args:
        shape: of one image.

    Raises:
        Unstackable: it admits none; says why.
    """
    with contextlib.suppress(Unstackable):
        _verify(DenseModel, configs, shape, device)
        return DenseModel(configs, device)
    try:
        _verify(MappedModel, configs, shape, device)
        return MappedModel(configs, device)
    except Unstackable:
        raise
    except Exception as error:  # whatever somebody's module does under vmap
        raise Unstackable(f"torch.func.vmap cannot map it: {one_line(error)}") from error


def _verify(
    way: type[StackedModel], configs: Sequence[TrialConfig], shape: Sequence[int], device: torch.device
) -> None:
    """That a small stack of the same modules evaluates and learns as the modules themselves do: what a module keeps
    outside its parameters and buffers, or does only when it is not mapped, shows here.

    Raises:
        Unstackable: it does not.
    """
    seeds = list(dict.fromkeys(config.seed for config in configs))
    probes = [
        configs[0].model_copy(update={"seed": seed, "optimizer": PROBE}) for seed in (seeds[0], seeds[len(seeds) // 2])
    ]
    stack = way(probes, device)
    classes = configs[0].dataset.classes
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(PROBED, *shape, generator=generator).to(device, stack.dtype)
    labels = (torch.arange(PROBED) % classes).to(device)
    groups, close = len(stack.seeds), CLOSE[configs[0].precision]
    stack.set_factors(torch.ones(2, len(probes), dtype=torch.float64))
    before = stack.logits(images)
    for _ in range(2):  # the second one begins with what the first one left in the buffers
        stack.step(images.expand(groups, *images.shape), labels.expand(groups, -1))
    after = stack.logits(images)
    for member, probe in enumerate(probes):
        expected = [_learn(probe, images, labels, noise, device) for noise in (1, 2)]
        if not torch.allclose(before[member].T.float(), expected[0][0].float(), *close):
            raise Unstackable("batched, it does not compute what it computes alone")
        if not torch.allclose(expected[0][1], expected[1][1], *close):
            continue  # it draws random numbers, as dropout does: it is not the same twice even alone
        if not torch.allclose(after[member].T.float(), expected[0][1].float(), *close):
            raise Unstackable("batched, it does not learn what it learns alone")


def _learn(
    config: TrialConfig, images: Tensor, labels: Tensor, noise: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Logits of a module before and after two plain updates."""
    torch.manual_seed(config.seed)
    model = models.build(config.model).to(device)
    autocast = autocast_of(config, device)

    def logits() -> Tensor:
        with torch.no_grad(), autocast:
            found: Tensor = model.eval()(images)
        return found

    before = logits()
    torch.manual_seed(noise)
    for _ in range(2):
        with autocast:
            loss = cross_entropy(model.train()(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-PROBE.lr)
                    parameter.grad = None
    return before, logits()
