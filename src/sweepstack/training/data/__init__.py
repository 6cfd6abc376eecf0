"""Where the data of a training come from. A config names datasets of this package by
`sweepstack.training.data.mnist`."""

from sweepstack.training.data.datasets import diabetes, digits, mnist

__all__ = ["diabetes", "digits", "mnist"]
