"""A small classifier of the embedded digits, whose last hidden layer tells how like digits pictures are.

Run as a program, `python -m lipdiag.quality.classifier`, it trains itself anew and writes its weights.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

ASSETS = Path(__file__).parents[1] / "assets"
WEIGHTS = ASSETS / "digits-classifier.safetensors"
HELD_OUT = 359
"""Digits, a fifth, that training does not see; the accuracy on the card is theirs."""


class Classifier(nn.Module):
    """Two convolutions and two linear layers: pictures (1, 8, 8) in [-1, 1] to ten logits, by way of 32 features."""

    num_features = 32
    center: Tensor
    spread: Tensor

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * 4 * 4, self.num_features),
        )
        self.head = nn.Linear(self.num_features, 10)
        self.register_buffer("center", torch.zeros(self.num_features))
        self.register_buffer("spread", torch.ones(self.num_features))

    def forward(self, x: Float[Tensor, "batch 1 8 8"]) -> Float[Tensor, "batch 10"]:
        """The logits."""
        return self.head(nn.functional.silu(self.body(x)))

    def features(self, x: Float[Tensor, "batch 1 8 8"]) -> Float[Tensor, "batch 32"]:
        """The last hidden layer before its nonlinearity, of mean 0 and variance 1 over the digits it was trained on."""
        return (self.body(x) - self.center) / self.spread


def split(seed: int = 0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(pictures, labels) to train on, and those held out."""
    with np.load(ASSETS / "digits.npz", allow_pickle=False) as file:
        x = torch.from_numpy(file["images"].astype(np.float32) / 8 - 1)[:, None]
        y = torch.from_numpy(file["labels"].astype(np.int64))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), device="cpu")
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    return (x[rest], y[rest]), (x[held], y[held])


def train(epochs: int = 60, batch: int = 64, seed: int = 0) -> tuple[Classifier, float]:
    """A classifier and its accuracy on the digits held out. Cost: half a minute on one core."""
    (x, y), (x_held, y_held) = split()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier()
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
        plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator, device="cpu").split(batch):
                noisy = x[rows] + 0.1 * torch.randn(x[rows].shape, generator=generator, device="cpu")
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(noisy), y[rows]).backward()
                optimizer.step()
            plan.step()
    network.eval()
    with torch.no_grad():
        hidden = network.body(x)
        network.center.copy_(hidden.mean(0))
        network.spread.copy_(hidden.std(0))
        accuracy = (network(x_held).argmax(1) == y_held).double().mean().item()
    return network, accuracy


def load() -> tuple[Classifier, str]:
    """The embedded classifier in eval mode, and the SHA-256 of its weights."""
    from safetensors.torch import load as deserialize

    weights = WEIGHTS.read_bytes()
    network = Classifier()
    network.load_state_dict(deserialize(weights))
    return network.eval().requires_grad_(False), hashlib.sha256(weights).hexdigest()


if __name__ == "__main__":
    from safetensors.torch import save_file

    trained, held_out = train()
    save_file(trained.state_dict(), WEIGHTS, {"accuracy on the digits held out": f"{held_out:.4f}"})
