"""SGD, Adam and AdamW for a stack: every member has its own learning rate, weight decay and so on.

Parameters and gradients are [K, ...]. Each row has the results of the optimizer of `torch.optim` with that row's
values; the tests compare them step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sweepstack.config.trial_sections import OptimizerConfig
from sweepstack.training.checkpoint import CheckpointError, rows


class StackedOptimizer:
    """The base of the stacked optimizers: it has the values of the members and the factors of the steps.

    Args:
        configs: one for each member; they may differ in numbers only.
        parameters: the parameters [K, ...] by name; the optimizer updates them in place.
    """

    def __init__(self, configs: Sequence[OptimizerConfig], parameters: Mapping[str, Tensor]) -> None:
        self.parameters = dict(parameters)
        self.step = 0
        self._state: dict[str, dict[str, Tensor]] = {}
        self._began: dict[str, int] = {}
        self._values = [{**self.defaults, **config.keywords, "lr": config.lr} for config in configs]
        self._awake = torch.ones(len(configs), dtype=torch.float64)
        some = next(iter(self.parameters.values()))
        self._device, self._dtype = some.device, some.dtype
        self._load()

    defaults: ClassVar[Mapping[str, Any]] = {}
    """The default values of the keywords, as in `torch.optim`."""

    def _column(self, name: str | Callable[[dict[str, Any]], float]) -> Tensor:
        """Returns one value of every member: float64 [K], on the CPU."""
        read = name if callable(name) else lambda values: values[name]
        return torch.tensor([float(read(values)) for values in self._values], dtype=torch.float64)

    def _to_device(self, values: Tensor) -> Tensor:
        return values.to(self._dtype).to(self._device, non_blocking=True)

    def _load(self) -> None:
        """Copies the members' values to the device."""

    def set_factors(self, factors: Tensor, done: int = 0) -> None:
        """Sets the factors of the schedules for all steps at once, so that no step waits for the host.

        Args:
            factors: float64 [steps, K].
            done: how many of these steps are done already. The tables contain them nevertheless, because the last bit
                of a power can depend on its position in the table.
        """
        rates = factors * self._column("lr") * self._awake
        self._first = first = self.step - done
        self._set_rates(rates, torch.arange(first + 1, first + 1 + len(factors), dtype=torch.float64)[:, None])

    def _set_rates(self, rates: Tensor, numbers: Tensor) -> None:
        raise NotImplementedError

    def begin_step(self) -> None:
        """Begins a step. Call it before the updates of the step."""
        self.step += 1

    def _now(self, table: Tensor, parameter: Tensor) -> Tensor:
        """Returns the row of a table for this step, in a shape that can multiply a parameter."""
        return _beside(table[self.step - 1 - self._first], parameter)

    def update(self, name: str, gradient: Tensor) -> None:
        """Updates the parameter `name`. `gradient` is [K, ...]; the update may overwrite it."""
        raise NotImplementedError

    def skip(self, name: str) -> None:
        """Notes that a parameter has no gradient in this step: like those of `torch.optim`, it stays as it is."""

    def update_by_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """Updates a parameter whose gradient is a matrix product, which some optimizers need not store.

        Args:
            name: the name of the parameter.
            left: [S, K/S * out, batch]; the update may overwrite it.
            right: [S, batch, in].
        """
        parameter = self.parameters[name]
        self.update(name, torch.bmm(left, right).view_as(parameter))

    def freeze(self, member: int) -> None:
        """Stops a member: sets its tensors to zero, and its learning rate from the next `set_factors` on.

        The results of the other members do not change.
        """
        self._awake[member] = 0.0
        for tensor in (*self.parameters.values(), *(part for state in self._state.values() for part in state.values())):
            tensor[member] = 0

    def state(self) -> dict[str, Any]:
        """Returns the state of the optimizer; the tensors [K, ...] are not copied."""
        return {"step": self.step, "began": self._began, "awake": self._awake, "memory": self._state}

    def restore(self, state: Mapping[str, Any], members: Sequence[int]) -> None:
        """Restores a saved state. Call `set_factors` next.

        Args:
            state: the result of `state`.
            members: for each member of this optimizer, the index of its row in the saved tensors.

        Raises:
            CheckpointError: a tensor does not fit.
        """
        if not state["memory"].keys() <= self.parameters.keys():
            raise CheckpointError(f"it has {', '.join(state['memory'])}, parameters are {', '.join(self.parameters)}")
        self.step, self._began = state["step"], dict(state["began"])
        self._awake = rows(state["awake"], members, self._awake)
        self._state = {
            name: {key: rows(part, members, self.parameters[name]) for key, part in parts.items()}
            for name, parts in state["memory"].items()
        }

    def keep(self, members: Sequence[int], parameters: Mapping[str, Tensor]) -> None:
        """Removes all other members.

        Args:
            members: the indices of the members to keep.
            parameters: their parameters, by name.
        """
        index = torch.tensor(members, device=self._device)
        self.parameters = dict(parameters)
        self._values = [self._values[member] for member in members]
        self._awake = self._awake[index.cpu()]
        self._state = {
            name: {key: part.index_select(0, index) for key, part in state.items()}
            for name, state in self._state.items()
        }
        self._load()


class StackedSGD(StackedOptimizer):
    """`torch.optim.SGD`: momentum, Nesterov momentum, dampening and weight decay."""

    defaults: ClassVar[Mapping[str, Any]] = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}

    def _load(self) -> None:
        momentum, decay = self._column("momentum"), self._column("weight_decay")
        self._nesterov = bool(self._values[0]["nesterov"])
        self._has_momentum, self._has_decay = bool(momentum.any()), bool(decay.any())
        self._momentum, self._decay = self._to_device(momentum), self._to_device(decay)
        # without momentum, SGD ignores dampening
        kept = self._column(lambda values: 1 - values["dampening"] if values["momentum"] else 1.0)
        self._kept = self._to_device(kept)

    def _set_rates(self, rates: Tensor, numbers: Tensor) -> None:
        self._minus_rates = self._to_device(-rates)

    def update(self, name: str, gradient: Tensor) -> None:
        parameter = self.parameters[name]
        if self._has_decay:
            gradient = gradient.addcmul_(parameter, _beside(self._decay, parameter))
        if self._has_momentum:
            momentum = _beside(self._momentum, parameter)
            state = self._state.setdefault(name, {})
            if "momentum" in state:
                state["momentum"].mul_(momentum).addcmul_(gradient, _beside(self._kept, parameter))
            else:
                state["momentum"] = gradient.clone()
            buffer = state["momentum"]
            gradient = gradient.addcmul_(buffer, momentum) if self._nesterov else buffer
        parameter.addcmul_(gradient, self._now(self._minus_rates, parameter))

    def update_by_product(self, name: str, left: Tensor, right: Tensor) -> None:
        if self._has_momentum or self._has_decay:
            super().update_by_product(name, left, right)
            return
        parameter = self.parameters[name]  # [K, out, in]; baddbmm_ adds the product without storing it
        rates = self._now(self._minus_rates, parameter)
        left.view(len(parameter), -1, left.shape[2]).mul_(rates)
        parameter.view(len(left), -1, parameter.shape[2]).baddbmm_(left, right)


class StackedAdam(StackedOptimizer):
    """`torch.optim.Adam` (Kingma and Ba, 2015), also as AMSGrad."""

    defaults: ClassVar[Mapping[str, Any]] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    decoupled = False

    def _load(self) -> None:
        self._amsgrad = bool(self._values[0]["amsgrad"])
        self._beta1 = self._column(lambda values: values["betas"][0])
        self._beta2 = self._column(lambda values: values["betas"][1])
        decay = self._column("weight_decay")
        self._has_decay = bool(decay.any())
        self._decay = self._to_device(decay)
        self._take1, self._take2 = self._to_device(1 - self._beta1), self._to_device(1 - self._beta2)
        self._keep2 = self._to_device(self._beta2)
        self._eps = self._to_device(self._column("eps"))

    def _set_rates(self, rates: Tensor, numbers: Tensor) -> None:
        self._rates, self._numbers = rates, numbers
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}
        self._shrink = self._to_device(1 - rates * self._column("weight_decay"))

    def _sizes(self, began: int) -> tuple[Tensor, Tensor]:
        """Returns the negative step sizes, and the roots of the bias corrections of the squares.

        `began` is the step of a parameter's first gradient, later by one for each step without one: torch.optim counts
        the updates of each parameter.
        """
        if began not in self._tables:
            own = self._numbers - (began - 1)
            sizes, corrections = -self._rates / (1 - self._beta1**own), (1 - self._beta2**own).sqrt()
            self._tables[began] = self._to_device(sizes), self._to_device(corrections)
        return self._tables[began]

    def skip(self, name: str) -> None:
        if (began := self._began.get(name)) is not None:
            self._began[name] = began + 1
            if began not in self._began.values():
                self._tables.pop(began, None)

    def update(self, name: str, gradient: Tensor) -> None:
        parameter = self.parameters[name]
        state = self._state.setdefault(name, {})
        if not state:
            kept = ("mean", "square", *(("largest",) if self._amsgrad else ()))
            state.update({key: torch.zeros_like(parameter) for key in kept})
            self._began[name] = self.step
        sizes, corrections = self._sizes(self._began[name])
        if self._has_decay and self.decoupled:
            parameter.mul_(self._now(self._shrink, parameter))
        elif self._has_decay:
            gradient = gradient.addcmul_(parameter, _beside(self._decay, parameter))
        state["mean"].lerp_(gradient, _beside(self._take1, parameter))
        scaled = gradient * _beside(self._take2, parameter)
        state["square"].mul_(_beside(self._keep2, parameter)).addcmul_(scaled, gradient)
        square = state["square"]
        if self._amsgrad:
            square = torch.maximum(state["largest"], square, out=state["largest"])
        root = torch.sqrt(square, out=scaled)
        root.div_(self._now(corrections, parameter)).add_(_beside(self._eps, parameter))
        step = torch.mul(state["mean"], self._now(sizes, parameter), out=gradient)
        parameter.addcdiv_(step, root)


class StackedAdamW(StackedAdam):
    """`torch.optim.AdamW`: weight decay that is not part of the gradient (Loshchilov and Hutter, 2019)."""

    defaults: ClassVar[Mapping[str, Any]] = {**StackedAdam.defaults, "weight_decay": 0.01}
    decoupled = True


STACKED_OPTIMIZERS: dict[str, type[StackedOptimizer]] = {
    "torch.optim.SGD": StackedSGD,
    "torch.optim.Adam": StackedAdam,
    "torch.optim.AdamW": StackedAdamW,
}


def build_stacked_optimizer(configs: Sequence[OptimizerConfig], parameters: Mapping[str, Tensor]) -> StackedOptimizer:
    """Builds the stacked optimizer of configs with the same target."""
    return STACKED_OPTIMIZERS[configs[0].target](configs, parameters)


def _beside(values: Tensor, parameter: Tensor) -> Tensor:
    """Reshapes [K] to [K, 1, ...], which broadcasts to a parameter [K, ...]."""
    return values.view(-1, *[1] * (parameter.ndim - 1))
