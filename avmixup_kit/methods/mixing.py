"""What a training step does between attack and loss: Algorithm 1, lines 5 to 7.

Every mix is ``mix(model, batch) -> (x_hat, y_hat)``, images (N, C, H, W) and labels (N, K).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from avmixup_kit._base import check, distributed
from avmixup_kit._base.private import standard_gamma
from avmixup_kit._base.shapes import Images, Labels
from avmixup_kit._base.texts import text_of
from avmixup_kit.methods.batch import Batch, answer, averaged, teacher
from avmixup_kit.methods.labels import check_lambda, spread

LabelFrom = Literal["fixed", "averaged", "teacher"]
AskedAt = Literal["clean", "adversarial", "vertex"]


@runtime_checkable
class Mix(Protocol):
    """Anything that turns clean images, perturbations and labels into training examples."""

    def __call__(self, model: nn.Module, batch: Batch, /) -> tuple[Images, Labels]: ...


def _check_weights(mix: "Mixup | AVmixup") -> None:
    allowed = "a fixed mixing weight is a number from 0 to 1, None draws it"
    check.number("alpha", mix.alpha, "[0, 1]", allowed, none=True)
    check.flag("per_example", mix.per_example)


def _weights(
    mix: "Mixup | AVmixup", x: Images, draw: Callable[[int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return alpha for images and for labels: (N or 1, 1, 1, 1) and (N or 1, 1)."""
    if mix.alpha is not None:
        alpha = torch.full((1,), mix.alpha, device=x.device, dtype=x.dtype)
    elif mix.per_example:
        alpha = distributed.per_example(len(x), draw)
    else:
        alpha = draw(1)
    return alpha.reshape(-1, *[1] * (x.ndim - 1)), alpha.unsqueeze(1)


@dataclass(frozen=True)
class Adversarial:
    """x + delta with the label phi(y, lam): PGD training at lam = 1, label smoothing below it."""

    lam: float = 1.0

    def __post_init__(self) -> None:
        check.settle(self)
        check_lambda("lam", self.lam)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Images, Labels]:
        return batch.x + batch.need("delta"), spread(batch.y, self.lam)


@dataclass(frozen=True)
class AsClimbed:
    """x + delta with the label that the perturbation left in y_hat, or y where it left none."""

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Images, Labels]:
        label = batch.y if batch.y_hat is None else batch.y_hat
        return batch.x + batch.need("delta"), label


def beta(batch: Batch, a: float, count: int) -> Tensor:
    """Return so many draws of Beta(a, a) from the batch's generator, for a mix of one's own."""
    # two gammas make a beta
    shape = torch.full((2, count), float(a), device=batch.x.device, dtype=torch.float64)
    gammas = standard_gamma(shape, batch.drawn_from())
    return (gammas[0] / gammas.sum(0)).nan_to_num(0.5).to(batch.x.dtype)


@dataclass(frozen=True)
class Mixup:
    """Mixup, Equation (4): pairs of (perturbed) examples and their labels, interpolated.

    The weight is drawn from Beta(a, a), one per example (``per_example=False``: one per batch, as
    in mixup's first code); ``alpha`` fixes it instead. The partner is a random other example of the
    batch, on whichever process it is.
    """

    a: float = 1.0
    per_example: bool = True
    alpha: float | None = None

    def __post_init__(self) -> None:
        check.settle(self)
        check.number("a", self.a, "(0, inf)", "Beta(a, a) needs a > 0")
        _check_weights(self)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Images, Labels]:
        x, y = batch.x + batch.need("delta"), batch.y
        others, other_labels = distributed.partners(batch.drawn_from(), x, y)
        weight, label_weight = _weights(self, x, lambda count: beta(batch, self.a, count))
        return (
            weight * x + (1 - weight) * others,
            label_weight * y + (1 - label_weight) * other_labels,
        )


@dataclass(frozen=True)
class AVmixup:
    """Adversarial Vertex mixup, Definitions 5 and 6, Equations (12) and (13).

    The vertex is x + gamma * delta; with alpha ~ U(0, 1), drawn once per example, images and labels
    are mixed as alpha * clean + (1 - alpha) * vertex, the labels being phi(y, lambda1) on the clean
    side and phi(y, lambda2) on the vertex side.

    ``clip_vertex``: the paper's Equation (12) does not clip the vertex to valid pixels (False, the
    default), the authors' code does (True). ``per_example=False`` draws one alpha per batch, as one
    public port does. ``alpha`` fixes the weight and draws nothing.

    ``label``: the vertex's label has lambda2 on the true class and 1 - lambda2 spread evenly over
    the others, the paper's ("fixed"). Unlike the paper, "averaged" and "teacher" let the averaged
    copy or a fixed teacher place the 1 - lambda2, as it sees the image that ``asked_at`` names: the
    clean one, x + delta, or the vertex.

    Raises:
        ValueError: gamma < 1, a lambda or alpha outside [0, 1], an unknown label or place; when
            called, whoever is asked is not there.
    """

    gamma: float = 2.0
    lambda1: float = 1.0
    lambda2: float = 0.1
    clip_vertex: bool = False
    per_example: bool = True
    alpha: float | None = None
    label: LabelFrom = "fixed"
    asked_at: AskedAt = "adversarial"

    def __repr__(self) -> str:
        return text_of(self, "label", "asked_at")

    @property
    def asks(self) -> tuple[str, ...]:
        """The averaged copy or the teacher, where it places labels."""
        return () if self.label == "fixed" else (self.label,)

    def __post_init__(self) -> None:
        check.settle(self)
        allowed = "the vertex lies at gamma >= 1 times the perturbation (Definition 5)"
        check.number("gamma", self.gamma, "[1, inf)", allowed)
        check_lambda("lambda1", self.lambda1)
        check_lambda("lambda2", self.lambda2)
        check.flag("clip_vertex", self.clip_vertex)
        _check_weights(self)
        check.one_of("label", self.label, get_args(LabelFrom))
        check.one_of("asked_at", self.asked_at, get_args(AskedAt))

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Images, Labels]:
        x, y = batch.x, batch.y
        vertex = self.vertex(x, batch.need("delta"))

        def uniform(count: int) -> Tensor:
            return torch.rand(count, generator=batch.drawn_from(), device=x.device, dtype=x.dtype)

        weight, label_weight = _weights(self, x, uniform)
        x_hat = weight * x + (1 - weight) * vertex
        far = spread(y, self.lambda2) if self.label == "fixed" else self._asked(model, batch)
        return x_hat, label_weight * spread(y, self.lambda1) + (1 - label_weight) * far

    def _asked(self, model: nn.Module, batch: Batch) -> Labels:
        network = averaged(model) if self.label == "averaged" else teacher(model)
        x, delta = batch.x, batch.need("delta")
        places = {"clean": x, "adversarial": x + delta, "vertex": self.vertex(x, delta)}
        said = answer(network, places[self.asked_at]).float().softmax(1)
        return self.lambda2 * batch.y + (1 - self.lambda2) * said

    def vertex(self, x: Images, delta: Images) -> Images:
        """Return the adversarial vertex x + gamma * delta (N, C, H, W), Equation (12)."""
        vertex = x + self.gamma * delta
        return vertex.clamp(0, 1) if self.clip_vertex else vertex

    def label_at(self, t: float) -> float:
        """Return the true class's target probability at x + t * delta, t = (1 - alpha) * gamma.

        What a network that is asked adds to it is left out.

        The paper's setting (2, 1, 0.1) gives 1 - 0.45 t on [0, 2].
        """
        alpha = 1 - t / self.gamma
        return alpha * self.lambda1 + (1 - alpha) * self.lambda2
