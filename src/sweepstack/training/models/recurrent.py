"""Recurrent networks for sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sweepstack.errors import ConfigError


class LSTMLayer(nn.Module):
    """One layer of long short-term memory, with the formulas of `torch.nn.LSTM` (Hochreiter and Schmidhuber, 1997).

    `torch.nn.LSTM` itself has no form under `torch.func.vmap`, so it could not be stacked.

    Args:
        features: numbers in a step.
        hidden: numbers in the state.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(features, 4 * hidden), nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, sequences: Tensor) -> Tensor:
        """float [N, length, features] -> float [N, length, hidden], the states after each step."""
        of_input = self.of_input(sequences)
        state = memory = torch.zeros_like(of_input[:, 0, : self.of_state.in_features])
        states = []
        for step in of_input.unbind(1):
            entering, kept, new, shown = (step + self.of_state(state)).chunk(4, 1)
            memory = torch.sigmoid(kept) * memory + torch.sigmoid(entering) * torch.tanh(new)
            state = torch.sigmoid(shown) * torch.tanh(memory)
            states.append(state)
        return torch.stack(states, 1)


class LSTM(nn.Module):
    """Layers of long short-term memory; a linear layer reads the state after the last step.

    Where sequences are padded to one length, the padding belongs in front.

    Args:
        shape: the shape of one sequence, [length, features]; of an image [channels, height, width] each row is a step.
            It is not used with `vocabulary`, so that sequences of tokens may have any length.
        classes: number of classes, or of numbers to predict.
        hidden: numbers in the state of a layer.
        layers: number of layers.
        dropout: probability that a number of a state is dropped in training, on its way to what follows the layer.
        vocabulary: number of different tokens, if sequences are int64 tokens [N, length]; None for numbers. Each token
            becomes `hidden` trained numbers.

    Raises:
        ConfigError: the items are no sequences.
    """

    def __init__(
        self,
        shape: Sequence[int] | None,
        classes: int,
        hidden: int = 64,
        layers: int = 1,
        dropout: float = 0.0,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        self.embedding = None if vocabulary is None else nn.Embedding(vocabulary, hidden)
        features = hidden
        if vocabulary is None:
            if shape is None or len(shape) not in (2, 3):
                rule = "dataset.shape must be [length, features] for an LSTM without model.vocabulary"
                raise ConfigError(rule, shape and list(shape), "choose another model, such as model=mlp")
            features = math.prod(shape) // shape[-2]
        self.layers = nn.ModuleList(LSTMLayer(hidden if layer else features, hidden) for layer in range(layers))
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(hidden, classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """float [N, *shape], or int64 tokens [N, length] -> float logits [N, classes]."""
        flow = self._steps(sequences)
        for layer in self.layers:
            flow = self.dropout(layer(flow))
        logits: Tensor = self.out(flow[:, -1])
        return logits

    def _steps(self, sequences: Tensor) -> Tensor:
        """Returns the sequences as float [N, length, features]."""
        if self.embedding is not None:
            found: Tensor = self.embedding(sequences)
            return found
        return sequences.transpose(1, -2).flatten(2) if sequences.ndim > 3 else sequences
