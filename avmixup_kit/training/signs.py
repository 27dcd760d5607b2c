"""Signs that a training goes wrong, told while it does: collapse, catastrophic overfitting."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from avmixup_kit.data import Split

WHILE = 200  # steps over which a loss is averaged before it is suspected
GUESSED = 0.98  # of log K: who names each of K classes as likely has log K, whatever the labels
LUCK = 0.05  # accuracy above that of naming the commonest class always, which may still be chance
IMAGES = 256  # on which a suspicion is looked at
ONE_STEP = 0.5  # of clean accuracy: what withstands FGSM as well as that ...
MORE_STEPS = 0.1  # ... and keeps less than so much of it under PGD has learned to fool one step


@dataclass(frozen=True)
class Sign:
    """One sign: its name, "collapse" or "catastrophic overfitting", and a sentence with numbers."""

    name: str
    words: str

    def to_json(self, step: int) -> dict[str, Any]:
        """Return it as a line of a run folder's log; it was seen after ``step`` steps."""
        return {"step": step, "sign": self.name, "words": self.words}


class Signs:
    """Looks at losses and curves of a training; each sign is told once.

    Collapse: over 200 steps the mean loss is 98 % of log K or more, and accuracy on clean training
    images is that of naming one class always, or at most 5 points (half as much again) better.
    Catastrophic overfitting (Wong, Rice, Kolter 2020): on the same images FGSM leaves half of the
    clean accuracy or more, PGD less than a tenth of what FGSM leaves.

    Args:
        split: the training images.
        network: gives the network that is trained, not an averaged copy, which lags behind the
            loss; it is looked at only where the loss is suspicious, and left as it was.
    """

    def __init__(self, split: Split, network: Callable[[], nn.Module]) -> None:
        self.split, self.network, self.guessed = split, network, math.log(split.num_classes)
        counts = torch.bincount(split.labels.cpu(), minlength=split.num_classes)
        commonest = float(counts.max()) / len(split)
        self.chance = commonest + min(LUCK, commonest / 2)
        self.losses: deque[float] = deque(maxlen=WHILE)
        self.told: set[str] = set()

    def see_loss(self, loss: float) -> Iterator[Sign]:
        """Take note of a step's loss, and yield what it is a sign of."""
        mean = self._suspicious(loss)
        if mean is not None and (accuracy := self._accuracy()) <= self.chance:
            yield from self.tell(
                "collapse",
                f"over {WHILE} steps the mean loss was {mean:.3f} (log {self.split.num_classes} = "
                f"{self.guessed:.3f} is guessing) and {accuracy:.0%} of clean training images are "
                "right, which is chance: a smaller lr or epsilon, or labels less soft, usually "
                "help",
            )

    def _suspicious(self, loss: float) -> float | None:
        """Return the mean loss if it is that of guessing; then look again after as many steps."""
        self.losses.append(loss)
        mean = sum(self.losses) / WHILE
        if len(self.losses) < WHILE or mean < GUESSED * self.guessed or "collapse" in self.told:
            return None
        self.losses.clear()
        return mean

    def see_curves(self, curves: Mapping[str, float]) -> Iterator[Sign]:
        """Take note of accuracies by name ("PGD10, train"), and yield what they are a sign of."""
        for name, pgd in curves.items():
            attack, _, part = name.partition(", ")
            clean, fgsm = (curves.get(f"{row}, {part}", 0.0) for row in ("Clean", "FGSM"))
            masked = fgsm >= ONE_STEP * clean and pgd < MORE_STEPS * fgsm
            if attack.startswith("PGD") and clean > self.chance and masked:
                yield from self.tell(
                    "catastrophic overfitting",
                    f"FGSM leaves {fgsm:.0%} of {part} images right, {attack} {pgd:.0%}: the "
                    "network fools attacks of one step; an attack in training of more and smaller "
                    "steps, or a smaller epsilon, usually helps",
                )

    def replay(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take note of a run folder's log, so that what was told is not told again."""
        for record in records:
            if "loss" in record:
                self._suspicious(record["loss"])
            self.told |= {record["sign"]} if "sign" in record else set()

    def tell(self, name: str, words: str) -> Iterator[Sign]:
        """Yield the sign of that name unless it was told before."""
        if name not in self.told:
            self.told.add(name)
            yield Sign(name, f"{name}: {words}")

    def _accuracy(self) -> float:
        network, count = self.network(), min(IMAGES, len(self.split))
        at = torch.linspace(0, len(self.split) - 1, count).long().to(self.split.labels.device)
        x, y = self.split.batch(at)
        was_training = network.training
        with torch.no_grad():
            right = network.eval()(x).argmax(1) == y.argmax(1)
        network.train(was_training)
        return float(right.float().mean())
