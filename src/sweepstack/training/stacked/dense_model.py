"""Stacks of linear layers and elementwise functions, with explicit code for the forward pass and the gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sweepstack.config.schema import TrialConfig
from sweepstack.metrics import CLASSIFICATION, REGRESSION
from sweepstack.training.data.inputs import Inputs
from sweepstack.training.data.source import Batch
from sweepstack.training.stacked.model import StackedModel, Unstackable

EVALUATED_NUMBERS = 2**25
"""Activations that an evaluation may hold in memory; 128 MB as float32."""


@dataclass(frozen=True)
class Linear:
    """The names of the parameters of a linear layer."""

    weight: str
    bias: str | None


@dataclass(frozen=True)
class Elementwise:
    """A function of each number, and the function that computes its gradient from (gradient of the output, output).

    Both overwrite their first argument: fresh memory costs as much as the computation.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Dropout:
    """Drops a unit with probability p in training, and scales what is left by 1 / (1 - p)."""

    p: float


Layer = Linear | Elementwise | Dropout
aten = torch.ops.aten
ELEMENTWISE: dict[type[nn.Module], Elementwise] = {
    nn.ReLU: Elementwise(
        torch.relu_,
        lambda gradient, output: aten.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient),
    ),
    nn.Tanh: Elementwise(
        torch.tanh_, lambda gradient, output: aten.tanh_backward.grad_input(gradient, output, grad_input=gradient)
    ),
    nn.Sigmoid: Elementwise(
        torch.sigmoid_, lambda gradient, output: aten.sigmoid_backward.grad_input(gradient, output, grad_input=gradient)
    ),
}


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean cross entropy of each member [K], and its gradient [K, classes, batch].

    Args:
        logits: [K, classes, batch].
        labels: int64 [K, 1, batch].
    """
    logs = torch.log_softmax(logits, 1)
    losses = -logs.gather(1, labels).mean((1, 2))
    gradient = logs.exp_().scatter_add_(1, labels, logs.new_full((1, 1, 1), -1.0).expand_as(labels))
    return losses, gradient.mul_(1 / labels.shape[2])


def _squared_error(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean squared error of each member [K], and its gradient [K, outputs, batch].

    Args:
        outputs: [K, outputs, batch].
        targets: of the same shape.
    """
    errors = outputs - targets
    losses = errors.square().mean((1, 2))
    return losses, errors.mul_(2 / (errors.shape[1] * errors.shape[2]))


GRADIENTS = {CLASSIFICATION: _cross_entropy, REGRESSION: _squared_error}
"""The tasks whose own loss is written out."""


class DenseModel(StackedModel):
    """A chain of linear layers, elementwise functions and dropout on flattened images.

    Activations are [K, units, batch]. With the batch last, no matrix product needs a copy, the softmax runs along
    contiguous numbers (20 times as fast for ten classes as along the last axis), and members with the same images have
    the weights of their first layers in one matrix [K * units, pixels].

    Raises:
        Unstackable: the module is not such a chain.
    """

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        if configs[0].precision != "float32":
            raise Unstackable("its precision is not float32")
        if configs[0].clip_norm is not None:
            raise Unstackable("clip_norm needs all gradients before the first update")
        if configs[0].step is not None:
            raise Unstackable("it has a step of its own")
        if configs[0].task.loss is not None or configs[0].task.target not in GRADIENTS:
            raise Unstackable("its loss is neither the plain cross entropy nor the mean squared error")
        self._gradient = GRADIENTS[configs[0].task.target]
        super().__init__(configs, device)
        self._first, *self._layers = _chain(self.template)
        units = sum(len(value[0]) for name, value in self.parameters.items() if name.endswith("weight"))
        self._evaluated = max(self._evaluated, EVALUATED_NUMBERS // (units * self.width))
        used = [name for layer in (self._first, *self._layers) for name in _names(layer)]
        if sorted(used) != sorted(self._names) or self.rest:
            raise Unstackable("a parameter is shared, unused or not trained")

    @torch.no_grad()
    def step(self, images: Inputs, labels: Tensor, *more: Batch) -> Tensor:
        assert isinstance(images, Tensor)  # a chain of layers takes one
        groups, batch = labels.shape[:2]
        images = images.flatten(2)
        flow = self._enter(images)
        saved = []  # what the gradient of each layer needs
        for layer in self._layers:
            entering = flow
            match layer:
                case Linear():
                    flow = self._linear(layer, flow)
                    saved.append(entering)
                case Elementwise():
                    kept_flow = bool(saved) and flow is saved[-1]  # the output of another function of each number
                    flow = layer.forward(flow.clone() if kept_flow else flow)
                    saved.append(flow)
                case Dropout():
                    saved.append(self._mask(layer, flow).div_(max(1 - layer.p, 1e-30)))
                    flow = flow * saved[-1]
        labels = labels.view(groups, 1, batch, -1).expand(-1, self.width // groups, -1, -1)
        losses, gradient = self._gradient(flow, labels.reshape(self.width, batch, -1).transpose(1, 2))

        self.optimizer.begin_step()
        for layer, kept in zip(reversed(self._layers), reversed(saved), strict=True):
            match layer:
                case Linear():
                    leaving = gradient  # the product below must use the weights before their update
                    gradient = torch.bmm(self.parameters[layer.weight].transpose(1, 2), leaving)
                    self._update(layer, leaving, leaving, kept.transpose(1, 2))
                case Elementwise():
                    gradient = layer.backward(gradient, kept)
                case Dropout():
                    gradient.mul_(kept)
        self._update(self._first, gradient, gradient.reshape(groups, -1, batch), images)
        return losses

    def _mask(self, layer: Dropout, flow: Tensor) -> Tensor:
        """Draws the mask [K, units, batch]: 1 for each unit that is kept, else 0."""
        if not self.same_draws:
            return torch.empty_like(flow).bernoulli_(1 - layer.p)
        _, units, batch = flow.shape
        mask = flow.new_empty(batch, units)
        mask = (
            mask.bernoulli_(1 - layer.p) if layer.p < 1 else mask.zero_()
        )  # nn.Dropout draws nothing if it drops everything
        return mask.t().expand_as(flow).contiguous()

    def outputs(self, images: Inputs) -> Tensor:
        assert isinstance(images, Tensor)
        flow = self._enter(images.flatten(1)[None])
        for layer in self._layers:
            match layer:
                case Linear():
                    flow = self._linear(layer, flow)
                case Elementwise():
                    flow = layer.forward(flow)
        return flow.transpose(1, 2)

    def _enter(self, images: Tensor) -> Tensor:
        """Computes the first layer: images [S, batch, pixels] to activations [K, units, batch]."""
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
    """Returns the chain of layers of a module, which `torch.fx` finds.

    Raises:
        Unstackable: the module contains anything else.
    """
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):  # fx does not see them
            raise Unstackable("a module has hooks, or a forward of its own")
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception as error:  # fx cannot follow control flow that depends on data, among others
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
    """Returns the layer for a node of the trace; None if the node changes nothing."""
    if node.op == "call_method" and (node.target, node.args[1:], node.kwargs) == ("flatten", (1,), {}):
        return None
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    match module:
        case nn.Identity() | nn.Flatten(start_dim=1, end_dim=-1) if type(module) in (nn.Identity, nn.Flatten):
            return None
        case nn.Linear() if type(module) is nn.Linear:  # a subclass may have another forward
            return Linear(f"{node.target}.weight", None if module.bias is None else f"{node.target}.bias")
        case nn.Dropout() if type(module) is nn.Dropout:
            return Dropout(module.p) if module.p else None
        case nn.Module() if type(module) in ELEMENTWISE:
            return ELEMENTWISE[type(module)]
    raise Unstackable(f"{node.target} is none of the layers that are written out")
