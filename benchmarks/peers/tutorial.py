"""The tutorial's program (benchmarks/tutorial.py) in a loop over the grid: one process, one trial after the other.

- Idiom: torchvision's dataset with a transform that runs on every image at every visit (PIL, ToTensor), DataLoader in
  the main process, a loop over batches. Added to the page's program so that the task is the same: Normalize, and a
  held-out part (Subset) that is measured after every epoch, as the page measures the test data along the way.
- Records: nothing; accuracies are printed.
- Differs from ours: images are decoded again every epoch, PyTorch's default threads, nothing is shared between trials
  (epochs=5,10,20 are three trainings), no tracking, no checkpoints, no table.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import task
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms


class LogisticRegressionModel(nn.Module):
    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def train(parts: dict[str, Dataset[Any]], lr: float, batch_size: int, epochs: int) -> dict[str, float]:
    torch.manual_seed(0)
    loaders = {name: DataLoader(part, batch_size, shuffle=name == "train") for name, part in parts.items()}
    model = LogisticRegressionModel(28 * 28, 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(1, epochs + 1):
        for images, labels in loaders["train"]:
            images = images.view(-1, 28 * 28).requires_grad_()
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
        val = accuracy(model, loaders["val"])
        print(f"Epoch: {epoch}. Loss: {loss.item()}. Accuracy: {100 * val}", file=sys.stderr)
    return {"val_accuracy": val, "test_accuracy": accuracy(model, loaders["test"])}


def accuracy(model: nn.Module, loader: DataLoader[Any]) -> float:
    correct, total = 0, 0
    for images, labels in loader:
        images = images.view(-1, 28 * 28).requires_grad_()
        _, predicted = torch.max(model(images).data, 1)
        total += labels.size(0)
        correct += int((predicted == labels).sum())
    return correct / total


def main() -> None:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(task.MEAN, task.STD)])
    images = datasets.MNIST(root=task.root(), train=True, transform=transform, download=False)
    train_index, held_out = task.split()
    parts: dict[str, Dataset[Any]] = {
        "train": Subset(images, train_index.tolist()),
        "val": Subset(images, held_out.tolist()),
        "test": datasets.MNIST(root=task.root(), train=False, transform=transform, download=False),
    }
    trials = []
    for point in task.points(task.grid()):
        began = time.perf_counter()
        trials.append({**point, **train(parts, **point)})
        print(f"{point}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    task.finish(trials)


if __name__ == "__main__":
    main()
