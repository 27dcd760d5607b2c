"""Accuracy against epsilon: how far images may be moved before a model fails."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from avmixup_kit._base import check as checked
from avmixup_kit._base.statistics import wilson
from avmixup_kit._base.tables import text_table
from avmixup_kit.data.splits import Source
from avmixup_kit.evaluation.evidence import accuracies, draw
from avmixup_kit.evaluation.images import as_images
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import CLEAN
from avmixup_kit.evaluation.rows import Row
from avmixup_kit.methods.attacks import Attack, pgd

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class EpsilonCurve:
    """``correct`` is bool (radii, examples); ``epsilons`` ascend from 0, the clean images.

    ``cumulative`` says whether an image fooled inside a ball counts as fooled in larger ones, which
    hold the same adversarial example; such a curve never rises.
    """

    epsilons: tuple[float, ...]
    correct: Tensor
    attack: str
    cumulative: bool

    @property
    def n(self) -> int:
        """How many examples each accuracy is about."""
        return self.correct.shape[1]

    @property
    def accuracy(self) -> tuple[float, ...]:
        """The accuracy at each radius, as fractions."""
        return tuple(self.correct.double().mean(1).tolist())

    @property
    def intervals(self) -> tuple[tuple[float, float], ...]:
        """Wilson's 95 % interval of each accuracy, as fractions."""
        return tuple(wilson(right, self.n) for right in self.correct.sum(1).tolist())

    @property
    def rises(self) -> tuple[tuple[float, float], ...]:
        """Neighbouring radii (smaller, larger) where accuracy rises: the attack failed there."""
        neighbours = zip(self.epsilons, self.epsilons[1:], strict=False)
        higher = (self.correct.sum(1).diff() > 0).tolist()
        return tuple(pair for pair, up in zip(neighbours, higher, strict=True) if up)

    def __str__(self) -> str:
        rows = [("epsilon", f"accuracy under {self.attack}", "95 % interval", "n")]
        for radius, value, (low, high) in zip(
            self.epsilons, self.accuracy, self.intervals, strict=True
        ):
            rows.append((f"{radius:.4g}", f"{value:.2%}", f"{low:.2%} to {high:.2%}", str(self.n)))
        said = [
            f"Note: not monotone, accuracy rises from epsilon {low:.4g} to {high:.4g}: the attack "
            "misses examples that the smaller ball holds."
            for low, high in self.rises
        ]
        return "\n".join([text_table(rows), *said])


def accuracy_against_epsilon(
    model: nn.Module,
    images: Source,
    epsilons: Iterable[float],
    *,
    attack: Row | Callable[[float], Row] | None = None,
    cumulative: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    check: bool = True,
    draws: int | None = None,
    progress: bool = False,
) -> EpsilonCurve:
    """Return the accuracy under one attack at growing radii, each image's verdict at each.

    Args:
        model, images, batch_size, seed, check, draws, progress: as in ``evaluate``.
        epsilons: radii in units of [0, 1] pixels, in any order; 0, the clean images, is added.
        attack: any row of ``evaluate`` that is a dataclass with an ``epsilon``, whose step size
            grows with the radius; or a function from epsilon to a row; None is PGD20.
        cumulative: attack only what smaller balls left standing, so that the curve is monotone by
            construction and costs less. False tries each ball by itself: a curve that then rises
            (``rises``), or does not vanish at large radii, is a sign of hidden gradients.

    Raises:
        TypeError: an attack whose radius cannot be set.
        ValueError: no radius, one outside [0, 1], attacks of several names, and whatever
            ``evaluate`` refuses.
    """
    given = sorted({float(radius) for radius in epsilons} - {0.0})
    checked.that(bool(given), "epsilons", given, "one radius or more above 0")
    make = _at(pgd(steps=20) if attack is None else attack)
    rows = [make(radius) for radius in given]
    if len(names := {row.name for row in rows}) > 1:
        raise ValueError(f"attack = {sorted(names)} is not allowed: one name at every radius")
    images = as_images(model, images)
    judge = partial(
        evaluate, model, batch_size=batch_size, seed=seed, draws=draws, progress=progress
    )
    standing = torch.arange(len(images))
    correct = torch.zeros(1 + len(rows), len(images), dtype=torch.bool)
    for place, row in enumerate(rows):
        if len(standing):
            found = judge(images.subset(standing), [row], check=check and not place)
            if not place:
                correct[0] = found.of(CLEAN)
            correct[place + 1, standing] = found.of(row.name)
        if cumulative:
            standing = correct[place + 1].nonzero().squeeze(1)
    return EpsilonCurve((0.0, *given), correct, rows[0].name, cumulative)


def _at(attack: Any) -> Callable[[float], Any]:
    """Return the function from a radius to the attack at it."""
    if isinstance(attack, Attack):
        step = None if attack.step_size is None else attack.step_size / attack.epsilon
        return lambda radius: replace(
            attack, epsilon=radius, step_size=None if step is None else step * radius
        )
    if not isinstance(attack, type) and hasattr(attack, "epsilon"):
        if not is_dataclass(attack):
            allowed = "its epsilon cannot be set; give a function from epsilon to the attack"
            raise TypeError(f"attack = {attack!r} is not allowed: {allowed}")
        return lambda radius: replace(cast(Any, attack), epsilon=radius)
    if not callable(attack):
        allowed = "an attack, or a function from epsilon to one"
        raise TypeError(f"attack = {attack!r} is not allowed: {allowed}")
    return attack


def epsilon_figure(curve: EpsilonCurve) -> "go.Figure":
    """Return accuracy in percent against epsilon, with 95 % intervals."""
    right = curve.correct.sum(1).tolist()
    drawing = accuracies("line", curve.epsilons, right, curve.n, curve.attack)
    return draw(drawing, f"Accuracy against epsilon under {curve.attack}, n = {curve.n}")
