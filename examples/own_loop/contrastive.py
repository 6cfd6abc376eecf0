"""A contrastive pair, as SimCLR has it: two changed views of an image are to be alike, those of other images are not.

    python train.py experiment=contrastive
    python train.py -m experiment=contrastive trainer.temperature=0.1,0.5

No label is used in training. Labels of the nearest neighbours tell how good the embeddings are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad

from sweepstack import Context, Verdict
from sweepstack.config.schema import TrialConfig


def train(
    config: TrialConfig, context: Context, temperature: float, noise: float = 0.1
) -> tuple[nn.Module, dict[str, float]] | None:
    """Trains an encoder; the accuracy of its nearest neighbours in the held-out data selects.

    Args:
        temperature: of the softmax over similarities.
        noise: how much the two views of an image differ, beside a shift.
    """
    encoder = context.build_model().to(context.device)
    optimizer = context.build_optimizer(encoder)
    first = 1
    if (state := context.checkpoint.restore()) is not None:
        first = state["epoch"] + 1
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(first, config.epochs + 1):
        total = torch.zeros(())
        for images, _ in context.data.batches(config.batch_size, config.seed, epoch):
            one, other = (normalize(encoder(view(images, noise))) for _ in range(2))
            loss = contrast(torch.cat([one, other]), temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        loss = total / context.data.steps_per_epoch(config.batch_size)
        verdict = context.report({"train/loss": loss, "val/accuracy": accuracy(encoder, context)}, epoch)
        context.checkpoint.save({"epoch": epoch, "encoder": encoder.state_dict(), "optimizer": optimizer.state_dict()})
        if verdict is Verdict.STOP:
            return None
    return encoder, {"test/accuracy": accuracy(encoder, context, context.data.test())}


def view(images: Tensor, noise: float) -> Tensor:
    """Returns images [n, 1, 8, 8], shifted by a pixel at most, with noise."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    shifted = pad(images, (1, 1, 1, 1))[..., down : down + 8, right : right + 8]
    return shifted + noise * torch.randn_like(shifted)


def contrast(embeddings: Tensor, temperature: float) -> Tensor:
    """Returns the cross entropy of finding the other view of each image.

    Args:
        embeddings: unit vectors [2 n, d]; rows i and n + i are views of one image.
        temperature: what similarities are divided by.
    """
    similarities = embeddings @ embeddings.T / temperature
    similarities.fill_diagonal_(-torch.inf)
    return cross_entropy(
        similarities, torch.arange(len(embeddings), device=embeddings.device).roll(len(embeddings) // 2)
    )


@torch.no_grad()
def accuracy(encoder: nn.Module, context: Context, batches: Iterable[tuple[Tensor, Tensor]] | None = None) -> float:
    """Returns how many images have the label of the training image that is nearest to them.

    Args:
        encoder: the encoder.
        context: has the training images.
        batches: the images; the held-out part by default.
    """
    encoder.eval()
    data = context.data
    known, labels = (torch.cat(parts) for parts in zip(*data.batches(1000, 0, 1), strict=True))
    known = normalize(encoder(known))
    hits = [
        labels[(normalize(encoder(images)) @ known.T).argmax(1)] == expected
        for images, expected in (data.evaluation() if batches is None else batches)
    ]
    encoder.train()
    return float(torch.cat(hits).float().mean())
