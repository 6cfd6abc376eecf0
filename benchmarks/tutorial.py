"""The peer: the tutorial's program as its page has it, on the same files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from sweepstack.paths import cache_folder
from sweepstack.training.data import download


class LogisticRegressionModel(nn.Module):
    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Tutorial:
    """Its data, model and loop, one epoch at a time so that epochs can be timed."""

    def __init__(self, lr: float, batch_size: int = 100, evaluate_every: int | None = None) -> None:
        download.obtain("mnist")
        root = Path(cache_folder())
        train = datasets.MNIST(root=root, train=True, transform=transforms.ToTensor(), download=False)
        test = datasets.MNIST(root=root, train=False, transform=transforms.ToTensor())
        torch.manual_seed(0)
        self.train_loader = DataLoader(dataset=train, batch_size=batch_size, shuffle=True)
        self.test_loader = DataLoader(dataset=test, batch_size=batch_size, shuffle=False)
        self.model = LogisticRegressionModel(28 * 28, 10)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        self.evaluate_every = evaluate_every
        self.iteration = 0

    def epoch(self) -> None:
        for images, labels in self.train_loader:
            images = images.view(-1, 28 * 28).requires_grad_()
            self.optimizer.zero_grad()
            outputs = self.model(images)
            loss = self.criterion(outputs, labels)
            loss.backward()
            self.optimizer.step()
            self.iteration += 1
            if self.evaluate_every and self.iteration % self.evaluate_every == 0:
                accuracy = self.accuracy()
                print(f"Iteration: {self.iteration}. Loss: {loss.item()}. Accuracy: {accuracy}")

    def accuracy(self) -> float:
        correct, total = 0, 0
        for images, labels in self.test_loader:
            images = images.view(-1, 28 * 28).requires_grad_()
            _, predicted = torch.max(self.model(images).data, 1)
            total += labels.size(0)
            correct += int((predicted == labels).sum())
        return 100 * correct / total


if __name__ == "__main__":
    import sys

    run = Tutorial(lr=float(sys.argv[1]) if len(sys.argv) > 1 else 0.001, evaluate_every=200)
    for _ in range(5):
        run.epoch()
    print(f"Final accuracy: {run.accuracy()}")
