"""Stages whose labels a network sets: a fixed teacher, the averaged copy, the network's past."""

import math
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avmixup_kit._base import check
from avmixup_kit._base.shapes import Images, Labels, Logits, PerExample, Scalar
from avmixup_kit._base.texts import text_of
from avmixup_kit.methods.attacks import TRAINING, Attack
from avmixup_kit.methods.batch import Batch, answer, averaged, check_network, check_place, teacher
from avmixup_kit.methods.losses import (
    LabelCrossEntropy,
    Loss,
    Trades,
    check_factor,
    soft_cross_entropy,
    squared_error,
)


@dataclass(frozen=True)
class Helped:
    """``loss`` plus ``weight`` times cross-entropy on helpers x + h delta, not clipped: HAT.

    A helper's label is what a fixed, standardly trained network names x + delta (Rade and
    Moosavi-Dezfooli 2022): ``teacher``, or the training's where None. ``loss`` is TRADES', or
    ``CleanAndAdversarial`` for HAT on PGD training. A weight of 0 leaves the helpers out.
    """

    loss: Loss = Trades(2.5)  # noqa: RUF009 (frozen, no state)
    h: float = 3.5
    weight: float = 0.5
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        check.settle(self)
        check.number("h", self.h, "(-inf, inf)", "a finite number of perturbations")
        check_factor("weight", self.weight)
        fine = callable(self.loss) and not isinstance(self.loss, type)
        check.that(fine, "loss", self.loss, "a loss, such as Trades(2.5)")
        check_place("loss", self.loss, "loss")
        if self.teacher is not None:
            check_network("teacher", self.teacher)

    def __repr__(self) -> str:
        return text_of(self, "teacher")

    @property
    def asks(self) -> tuple[str, ...]:
        """The training's teacher, unless it has its own."""
        return ("teacher",) if self.teacher is None else ()

    @property
    def passes(self) -> int:
        """How many times images go through the network: once more than in ``loss``."""
        return getattr(self.loss, "passes", 1) + bool(self.weight)

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        loss, delta = self.loss(model, batch), batch.need("delta")
        if not self.weight:
            return loss
        asked = teacher(model) if self.teacher is None else self.teacher
        named = answer(asked, batch.x + delta)
        label = torch.zeros_like(batch.y).scatter(1, named.argmax(1, keepdim=True), 1.0)
        helpers = soft_cross_entropy(model(batch.x + self.h * delta), label)
        return loss + self.weight * helpers.mean()


@dataclass(frozen=True)
class Rectified:
    """A perturbation source that climbs, and leaves to the loss, labels of the averaged copy.

    Annealing self-distillation rectification, ADR (Wu, Wang, Chen 2024): q is what the averaged
    copy says of the clean image at a temperature, l is what interpolation asks for less
    max q - q_y, in [0, 1], and the label l q + (1 - l) y. Temperature and interpolation go from
    their first value to their second by half a cosine over the training. ``average``: how much of
    the averaged copy stays at each step.
    """

    attack: Attack = TRAINING
    temperature: tuple[float, float] = (2.5, 2.0)
    interpolation: tuple[float, float] = (0.7, 0.95)
    average: float = 0.995
    asks: ClassVar[tuple[str, ...]] = ("averaged", "progress")

    def __post_init__(self) -> None:
        check.settle(self)
        _check_attack(self.attack)
        allowed = "positive numbers, at the first step and at the last"
        least, most = sys.float_info.min, sys.float_info.max
        _check_pair("temperature", self.temperature, least, most, allowed)
        allowed = "from 0 to 1, at the first step and at the last"
        _check_pair("interpolation", self.interpolation, 0.0, 1.0, allowed)
        allowed = "from 0 up to 1, such as 0.995"
        check.number("average", self.average, "[0, 1)", allowed)

    def label(self, model: nn.Module, batch: Batch) -> Labels:
        """Return the rectified labels (N, K)."""
        logits = answer(averaged(model), batch.x).float()
        said = (logits / batch.between(*self.temperature)).softmax(1)
        lead = said.amax(1) - (said * batch.y).sum(1)
        share = (batch.between(*self.interpolation) - lead).clamp(0, 1).unsqueeze(1)
        return share * said + (1 - share) * batch.y

    def __call__(self, model: nn.Module, batch: Batch) -> Images:
        batch.y_hat = self.label(model, batch)
        return self.attack(model, replace(batch, y=batch.y_hat))


@dataclass(frozen=True)
class Ensembled:
    """A perturbation source that remembers what the network said of each image: Dong et al. 2022.

    With p what it says of the clean image in eval mode, q becomes memory q + (1 - memory) p each
    time the image is seen; attack and loss add weight |p(x + delta) - q / sum q|^2. It begins when
    ``ramp``'s first part of all steps is done, grows as exp(-5 (1 - t)^2), is whole at the second.
    """

    attack: Attack = TRAINING
    weight: float = 30.0
    memory: float = 0.9
    ramp: tuple[float, float] = (0.45, 0.75)
    asks: ClassVar[tuple[str, ...]] = ("progress",)

    def __post_init__(self) -> None:
        check.settle(self)
        _check_attack(self.attack)
        check_factor("weight", self.weight)
        check.number("memory", self.memory, "[0, 1)", "from 0 up to 1, such as 0.9")
        allowed = "parts of all steps, the second not below the first"
        _check_pair("ramp", self.ramp, 0.0, 1.0, allowed, rising=True)

    def __call__(self, model: nn.Module, batch: Batch) -> Images:
        done, (first, last) = batch.need("progress"), self.ramp
        if done < first:
            return self.attack(model, batch)
        memory, index = batch.need("memory"), batch.need("index")
        said = answer(model, batch.x).float().softmax(1)
        kept = self.memory * memory.rows("ensemble", index, said) + (1 - self.memory) * said
        memory.note("ensemble", index, kept)
        left = max(0.0, last - done) / max(last - first, 1e-9)
        pull = _Pulled(kept / kept.sum(1, keepdim=True), self.weight * math.exp(-5 * left**2))
        batch.asked["pull"] = pull
        return replace(self.attack, objective=pull)(model, batch)


@dataclass(frozen=True, eq=False)
class _Pulled(LabelCrossEntropy):
    """Cross-entropy plus weight |p - target|^2, which temporal ensembling climbs and descends."""

    target: Tensor
    weight: float

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None = None) -> PerExample:
        return soft_cross_entropy(logits, y) + self.weight * squared_error(logits, self.target)


@dataclass(frozen=True)
class PulledCrossEntropy:
    """Mean of what the perturbation left to descend on x_hat, or of the plain cross-entropy."""

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        loss = batch.asked.get("pull", LabelCrossEntropy())
        return loss(model(batch.need("x_hat")), batch.need("y_hat"), None).mean()


def _check_attack(attack: Any) -> None:
    check.that(isinstance(attack, Attack), "attack", attack, "an attack, such as av.pgd()")


def _check_pair(
    name: str, value: Any, least: float, most: float, allowed: str, *, rising: bool = False
) -> None:
    fine = isinstance(value, tuple) and len(value) == 2
    fine = fine and all(check.is_number(each) and least <= each <= most for each in value)
    fine = fine and (value[0] <= value[1] or not rising)
    check.that(fine, name, value, f"a tuple of two, {allowed}")
