"""Fine-tune a network of torchvision's, with a new head, by adversarial training.

    python examples/fine_tune_torchvision.py [FOLDER] [--weights DEFAULT] [--steps 300]

Any nn.Module from images in [0, 1] to logits trains. What a network expects beyond that, here three
channels, 32 pixels and ImageNet's mean and deviation, is its own first layer, so that every attack
lives in [0, 1] pixels. ``--weights DEFAULT`` begins with ImageNet's weights, which torchvision
downloads; without it the network begins anew.
"""

from argparse import ArgumentParser
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

import avmixup_kit as av


class Expected(nn.Module):
    """What ResNet18 was trained on, from grey or coloured images (N, C, H, W) in [0, 1]."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        for name, value in (("mean", (0.485, 0.456, 0.406)), ("deviation", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(value).reshape(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        return (x.expand(-1, 3, -1, -1) - self.mean) / self.deviation


def resnet18(classes: int = 10, side: int = 32, weights: str | None = None) -> nn.Module:
    """Return torchvision's ResNet18 behind ``Expected``, with a head of ``classes`` outputs."""
    network = models.resnet18(weights=weights)
    network.fc = nn.Linear(network.fc.in_features, classes)
    return nn.Sequential(Expected(side), network)


def main() -> None:
    """Train on digits, go through the run folder, evaluate."""
    words = ArgumentParser(description=__doc__)
    words.add_argument("folder", nargs="?", type=Path, default=Path("runs/fine_tuned"))
    words.add_argument("--weights", help="DEFAULT are ImageNet's; left out, none")
    words.add_argument("--steps", type=int, default=300)
    words.add_argument("--images", type=int, default=449)
    given = words.parse_args()

    data = av.digits()
    torch.manual_seed(0)
    training = av.Training(
        resnet18(weights=given.weights),
        data.train,
        av.Dial(av.pgd_training(epsilon=data.epsilon, steps=3)),
        given.steps,
        batch_size=64,
        optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2),
        schedule="cyclic",
    )
    for record in av.runs.log(training, given.folder):
        if record.step % 50 == 0:
            print(f"step {record.step}: loss {record.loss:.3f}")
    model = av.runs.open(given.folder, network=resnet18).model
    attacks = [av.fgsm(data.epsilon), av.pgd(steps=20, epsilon=data.epsilon)]
    print(av.evaluate(model, data.test.sample(given.images), attacks))


if __name__ == "__main__":
    main()
