"""Datasets as tensors in memory. A config names those of this package by `sweepstack.training.data.mnist`."""

from sweepstack.training.data.datasets import diabetes, digits, mnist

__all__ = ["diabetes", "digits", "mnist"]
