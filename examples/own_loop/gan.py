"""A GAN: a generator draws digits, a discriminator tells them from real ones, and each learns from the other.

python train.py experiment=gan
python train.py -m experiment=gan model.latent=4,16 trainer.smooth=0,0.1
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.utils import save_image

from sweepstack import Context, Verdict
from sweepstack.config.schema import TrialConfig

PIXELS = 64


class Networks(nn.Module):
    """The two networks.

    Args:
        latent: the number of random numbers that an image is made of.
        width: the width of the hidden layers.
    """

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.latent = latent
        self.generator = nn.Sequential(
            nn.Linear(latent, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, PIXELS), nn.Sigmoid()
        )
        self.discriminator = nn.Sequential(nn.Linear(PIXELS, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def draw(self, count: int, device: torch.device) -> Tensor:
        """Draws images: float [count, 64]."""
        images: Tensor = self.generator(torch.randn(count, self.latent, device=device))
        return images


def train(config: TrialConfig, context: Context, smooth: float = 0.0) -> nn.Module | None:
    """Trains the networks in turns; the Fréchet distance of drawn and held-out images selects.

    Args:
        smooth: how much the discriminator's labels of real images are below 1.
    """
    networks: Networks = context.build_model().to(context.device)
    both = [context.build_optimizer(part) for part in (networks.generator, networks.discriminator)]
    first = 1
    if (state := context.checkpoint.restore()) is not None:
        first = state["epoch"] + 1
        networks.load_state_dict(state["networks"])
        for optimizer, saved in zip(both, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    held_out = torch.cat([images for images, _ in context.data.evaluation()]).flatten(1)
    for epoch in range(first, config.epochs + 1):
        losses = torch.zeros(2)
        for images, _ in context.data.batches(config.batch_size, config.seed, epoch):
            drawn = networks.draw(len(images), context.device)
            losses[0] += step(both[0], networks.discriminator(drawn), 1.0)
            real = networks.discriminator(images.flatten(1))
            losses[1] += step(
                both[1], torch.cat([real, networks.discriminator(drawn.detach())]), 1.0 - smooth, len(real)
            )
        losses /= context.data.steps_per_epoch(config.batch_size)
        found = {
            "train/generator_loss": losses[0],
            "train/discriminator_loss": losses[1],
            "val/frechet": frechet(networks, held_out),
        }
        verdict = context.report(found, epoch)
        optimizers = [optimizer.state_dict() for optimizer in both]
        context.checkpoint.save({"epoch": epoch, "networks": networks.state_dict(), "optimizers": optimizers})
        if verdict is Verdict.STOP:
            return None
    save_image(networks.eval().draw(64, context.device).detach().view(-1, 1, 8, 8), context.folder / "drawn.png")
    return networks


def step(optimizer: torch.optim.Optimizer, logits: Tensor, label: float, real: int | None = None) -> Tensor:
    """Makes one update; returns the loss.

    Args:
        optimizer: of the network that learns.
        logits: what the discriminator says of some images.
        label: what it should say of the first `real` of them; 0 of the others.
        real: the number of images with that label; None for all.
    """
    labels = torch.zeros_like(logits)
    labels[:real] = label
    loss = binary_cross_entropy_with_logits(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def frechet(networks: Networks, real: Tensor) -> Tensor:
    """Returns the Fréchet distance of drawn and real images, as normal distributions of pixels; 0 is the best."""
    drawn = networks.eval().draw(1000, real.device)
    networks.train()
    means, covariances = zip(*((part.mean(0), torch.cov(part.T)) for part in (drawn, real)), strict=True)
    shared = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    traces = covariances[0].trace() + covariances[1].trace()
    distance: Tensor = (means[0] - means[1]).square().sum() + traces - 2 * shared
    return distance
