"""Everything here is one's own but the instrument: network, images, loss, optimiser, schedule.

    python examples/own_everything.py [FOLDER]

A network trains on a Dataset of three classes with a loss like MART's over AVmixup, AdamW, a cosine
schedule and an averaged copy. It is killed half-way, goes on as if nothing had happened, is judged
by AutoAttack, and leaves a report for people and weights for those who have nothing but torch.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import avmixup_kit as av
from avmixup_kit.methods.losses import kl_divergence, soft_cross_entropy

EPSILON, STEPS, SIDE = 0.06, 150, 12


class Signs(Dataset):
    """Grey images of 12x12 with a disc, a square or a cross, somewhere, under noise."""

    classes = ("disc", "square", "cross")

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index >= self.count:
            raise IndexError(index)
        rng, label = np.random.default_rng((self.seed, index)), index % 3
        rows, columns = np.mgrid[:SIDE, :SIDE] - rng.integers(4, 8, 2).reshape(2, 1, 1)
        distance = (
            np.hypot(rows, columns),
            np.maximum(abs(rows), abs(columns)),
            np.minimum(abs(rows), abs(columns)) + 9.0 * (np.hypot(rows, columns) > 4.5) + 2.0,
        )[label]
        image = 60 + 120 * (distance < 3.2) + rng.normal(0, 12, (SIDE, SIDE))
        return image.clip(0, 255).astype(np.uint8)[None], label


def network() -> nn.Module:
    """Two convolutions and a linear layer; nothing of the kit."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 9, 3),
    )


@dataclass(frozen=True)
class Doubt:
    """CE on x_hat plus ``beta`` times KL(clean || x_hat), weighted by the clean image's doubt."""

    beta: float = 5.0

    def __call__(self, model: nn.Module, batch: av.Batch) -> torch.Tensor:
        clean, hat = model(batch.x), model(batch.need("x_hat"))
        doubt = 1 - (clean.softmax(1) * batch.y).sum(1)
        loss = soft_cross_entropy(hat, batch.need("y_hat"))
        return (loss + self.beta * doubt * kl_divergence(clean, hat)).mean()


@av.methods.METHODS.register(title="AVmixup with doubt", colour="#882255")
def doubt(beta: float = 5.0, epsilon: float = EPSILON, steps: int = 5) -> av.Method:
    """Return AVmixup whose loss leans on images that the network doubts when clean."""
    return av.avmixup(1.5, 1.0, 0.7, epsilon=epsilon, steps=steps).replace(loss=Doubt(beta))


def train(folder: Path, until: int = STEPS) -> None:
    """Begin the run in the folder or go on with it; die without a word after step ``until``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training = av.Training(
        network(),
        Signs(600, seed=0),
        av.Dial(doubt()),
        STEPS,
        batch_size=64,
        optimizer=partial(torch.optim.AdamW, lr=1e-2, weight_decay=1e-2),
        schedule="cosine",
        average=0.95,
    )
    resume = (folder / "run.json").exists()
    for record in av.runs.log(training, folder, resume=resume, checkpoint_every=10):
        if record.step == until < STEPS:
            os._exit(9)  # as kill -9 would


def main(folder: Path) -> None:
    """Train, die, go on, evaluate, report, export."""
    run = folder / "run"
    died = subprocess.run([sys.executable, __file__, str(run), "97"], check=False)
    assert died.returncode == 9
    train(run)
    opened = av.runs.open(run, network=network)
    print(f"killed after step 97, done after {opened.step} steps")

    test = av.Split.of(Signs(150, seed=1))
    attacks = [av.fgsm(EPSILON), av.pgd(steps=20, epsilon=EPSILON), av.autoattack(EPSILON)]
    result = av.evaluate(opened.model, test, attacks)
    print(result)
    av.report(result, opened.model, test, folder / "report.html")
    card = av.evaluation.card(result, name="own everything", dataset="signs")
    print(f"exported {av.export(opened.model, card, folder / 'own')}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        train(Path(sys.argv[1]), until=int(sys.argv[2]))
    else:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "own"))
