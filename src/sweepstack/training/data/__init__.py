"""Datasets as tensors in memory. A config names those of this package by `sweepstack.training.data.mnist`."""

from sweepstack.training.data.datasets import digits, mnist

__all__ = ["digits", "mnist"]
