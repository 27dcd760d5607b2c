"""Stages whose labels a network sets: a fixed teacher, the averaged copy, the network's past."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from avmixup_kit._base import check
from avmixup_kit._base.shapes import Images, Labels, Logits, PerExample, Scalar
from avmixup_kit._base.texts import text_of
from avmixup_kit.methods.attacks import TRAINING, Attack
from avmixup_kit.methods.batch import Batch, answer, averaged, teacher
from avmixup_kit.methods.losses import (
    Loss,
    Objective,
    Trades,
    check_factor,
    soft_cross_entropy,
    squared_error,
)


@dataclass(frozen=True)
class Helped:
    """``loss`` plus ``weight`` times cross-entropy on helpers x + h delta, which are not clipped.

    A helper's label is what a fixed, standardly trained network names x + delta: HAT (Rade and
    Moosavi-Dezfooli 2022), on TRADES. On PGD training ``loss`` is ``CleanAndAdversarial``. A weight
    of 0 leaves the helpers' pass out.

    ``teacher``: that network; None: the training's own, ``Training(teacher=...)``.

    Raises:
        ValueError: an h that is not finite, a negative weight; when called, there is no teacher.
    """

    loss: Loss = Trades(2.5)  # noqa: RUF009 (frozen, no state)
    h: float = 3.5
    weight: float = 0.5
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        check.that(math.isfinite(self.h), "h", self.h, "a finite number of perturbations")
        check_factor("weight", self.weight)
        fine = self.teacher is None or isinstance(self.teacher, nn.Module)
        allowed = "a network, or None for the training's; a run folder's is runs.open(folder).model"
        check.that(fine, "teacher", self.teacher, allowed)

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
        label = F.one_hot(named.argmax(1), named.shape[1]).to(batch.y)
        helpers = soft_cross_entropy(model(batch.x + self.h * delta), label)
        return loss + self.weight * helpers.mean()


@dataclass(frozen=True)
class Rectified:
    """A perturbation source that climbs, and leaves to the loss, labels of the averaged copy.

    Annealing self-distillation rectification, ADR (Wu, Wang, Chen 2024): q is what the averaged
    copy says of the clean image at a temperature, l is what interpolation asks for less
    max q - q_y, in [0, 1], and the label l q + (1 - l) y. Temperature and interpolation go from
    their first value to their second by half a cosine over the training.

    ``average``: how much of the averaged copy stays at each step.

    Raises:
        ValueError: temperatures that are not positive, an interpolation or average outside [0, 1].
    """

    attack: Attack = TRAINING
    temperature: tuple[float, float] = (2.5, 2.0)
    interpolation: tuple[float, float] = (0.7, 0.95)
    average: float = 0.995
    asks: ClassVar[tuple[str, ...]] = ("averaged", "progress")

    def __post_init__(self) -> None:
        ends = "at the first step and at the last"
        _check_pair(
            "temperature", self.temperature, lambda t: 0 < t < math.inf, f"positive numbers, {ends}"
        )
        _check_pair("interpolation", self.interpolation, _part, f"from 0 to 1, {ends}")
        allowed = "from 0 up to 1, such as 0.995"
        check.that(0 <= self.average < 1, "average", self.average, allowed)

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
    """A perturbation source that remembers what the network said of each image.

    Temporal ensembling (Dong et al. 2022): with p what the network says of the clean image in eval
    mode, q becomes memory q + (1 - memory) p each time the image is seen; attack and loss add
    weight |p(x + delta) - q / sum q|^2. All of it begins after the first part ``ramp`` names of all
    steps, and the weight is whole after the second; between them it is exp(-5 (1 - t)^2) of it.

    Raises:
        ValueError: a negative weight, a memory outside [0, 1), a ramp that is no two parts of the
            training; when called, the batch has no index or memory.
    """

    attack: Attack = TRAINING
    weight: float = 30.0
    memory: float = 0.9
    ramp: tuple[float, float] = (0.45, 0.75)
    asks: ClassVar[tuple[str, ...]] = ("progress",)

    def __post_init__(self) -> None:
        check_factor("weight", self.weight)
        check.that(0 <= self.memory < 1, "memory", self.memory, "from 0 up to 1, such as 0.9")
        allowed = "parts of all steps, from 0 to 1, the second not before the first"
        _check_pair("ramp", self.ramp, _part, allowed)
        check.that(self.ramp[0] <= self.ramp[1], "ramp", self.ramp, f"two {allowed}")

    def weight_at(self, progress: float) -> float:
        """Return the weight where so great a part of all steps is done."""
        first, last = self.ramp
        if progress < first:
            return 0.0
        left = max(0.0, last - progress) / (last - first) if last > first else 0.0
        return self.weight * math.exp(-5 * left**2)

    def __call__(self, model: nn.Module, batch: Batch) -> Images:
        weight = self.weight_at(batch.need("progress"))
        if batch.need("progress") < self.ramp[0]:
            return self.attack(model, batch)
        memory, index = batch.need("memory"), batch.need("index")
        said = answer(model, batch.x).float().softmax(1)
        kept = self.memory * memory.rows("ensemble", index, said) + (1 - self.memory) * said
        memory.note("ensemble", index, kept)
        pull = Pull(kept / kept.sum(1, keepdim=True), weight)
        batch.asked["pull"] = pull
        return replace(self.attack, objective=Pulled(self.attack.objective, pull))(model, batch)


@dataclass(frozen=True, eq=False)
class Pull:
    """weight |p - target|^2 of each example, from logits (N, K)."""

    target: Tensor
    weight: float

    def __call__(self, logits: Logits) -> PerExample:
        return self.weight * squared_error(logits, self.target)


@dataclass(frozen=True)
class Pulled:
    """An attack's objective plus a pull."""

    objective: Objective
    pull: Pull
    name: ClassVar[str] = "TE"

    def reference(self, model: nn.Module, x: Images) -> Tensor | None:
        return self.objective.reference(model, x)

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None) -> PerExample:
        return self.objective(logits, y, reference) + self.pull(logits)


@dataclass(frozen=True)
class PulledCrossEntropy:
    """Mean soft-label cross-entropy on x_hat plus the pull that the perturbation left, if any."""

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        logits = model(batch.need("x_hat"))
        loss = soft_cross_entropy(logits, batch.need("y_hat"))
        pull = batch.asked.get("pull")
        return (loss if pull is None else loss + pull(logits)).mean()


def _check_pair(name: str, value: Any, each: Callable[[float], bool], allowed: str) -> None:
    fine = isinstance(value, tuple) and len(value) == 2 and all(map(each, value))
    check.that(fine, name, value, f"a tuple of two, {allowed}")


def _part(value: float) -> bool:
    return 0 <= value <= 1
