"""Text of unequal length: a dataset, what makes a batch of it, and a model."""

import zlib

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

VOCABULARY = 2000
"""The number of different tokens; 0 fills up short lines."""
SOURCES = ("iris", "wine", "breast_cancer", "diabetes")
"""Datasets of scikit-learn, whose descriptions are the text."""


class Lines(Dataset[tuple[Tensor, int]]):
    """Lines of at least four words as numbers, int64. The class says from which description a line is.

    Args:
        train: False: every fourth line, to test with; True: the others.
    """

    def __init__(self, train: bool) -> None:
        texts = [getattr(datasets, f"load_{name}")().DESCR for name in SOURCES]
        lines = [(line.lower().split(), label) for label, text in enumerate(texts) for line in text.splitlines()]
        known = [(words, label) for words, label in lines if len(words) >= 4]
        self.items = [item for index, item in enumerate(known) if (index % 4 > 0) == train]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        words, label = self.items[index]
        return torch.tensor([1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in words]), label


def pad(items: list[tuple[Tensor, int]]) -> tuple[dict[str, Tensor], Tensor]:
    """Makes a batch of items: tokens [n, longest], their lengths [n], and the labels [n]."""
    tokens = pad_sequence([tokens for tokens, _ in items], batch_first=True)
    lengths = torch.tensor([len(tokens) for tokens, _ in items])
    return {"tokens": tokens, "lengths": lengths}, torch.tensor([label for _, label in items])


class MeanOfWords(nn.Module):
    """Classifies a text by the mean of its words.

    Args:
        classes: the number of classes.
        width: the numbers that stand for a word.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.out = nn.Linear(width, classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Returns logits [n, classes] of tokens [n, longest] and lengths [n]."""
        logits: Tensor = self.out(self.embed(tokens).sum(1) / lengths[:, None])
        return logits
