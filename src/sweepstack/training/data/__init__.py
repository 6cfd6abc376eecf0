"""Where the data of a training come from. A config names datasets of this package by
`sweepstack.training.data.mnist`."""

from sweepstack.training.data.named.colours import cifar10, cifar100, svhn
from sweepstack.training.data.named.idx import emnist, fashion_mnist, kmnist, mnist
from sweepstack.training.data.named.scikit_learn import diabetes, digits
from sweepstack.training.data.named.table import table

__all__ = ["cifar10", "cifar100", "diabetes", "digits", "emnist", "fashion_mnist", "kmnist", "mnist", "svhn", "table"]
