"""What may be a row of ``evaluate``: an Attack, a Judge, or a callable of one's own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Generator, Tensor, nn

from avmixup_kit._base import check
from avmixup_kit.evaluation.autoattack import SLACK, counted
from avmixup_kit.evaluation.images import ImageSet, batch_on
from avmixup_kit.evaluation.record import Judge, Verdict
from avmixup_kit.methods.attacks import ATTACKS, Attack, Ball, Norm, check_epsilon, lengths


class Crafter(Protocol):
    """An attack of one's own: ``attack(model, x, y, rng) -> delta``, with a name and a radius.

    ``x`` is (N, C, H, W) in [0, 1], ``y`` one-hot (N, K), ``rng`` a generator on their device, made
    anew for each batch; delta (N, C, H, W) keeps |delta| <= epsilon and x + delta in [0, 1]. One
    whose ``norm`` is "l2" is held to an l2 ball.
    """

    @property
    def name(self) -> str: ...

    @property
    def epsilon(self) -> float: ...

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Generator, /) -> Tensor: ...


Row = Attack | Judge | Crafter


def as_rows(attacks: Iterable[Row]) -> list[Attack | Judge]:
    """Return attacks as ``evaluate`` runs them: callables of one's own made into judges.

    Raises:
        TypeError: not a list, or with something in it that is no attack, or none yet.
    """
    if isinstance(attacks, str) or not isinstance(attacks, Iterable):
        said = attacks.name if isinstance(attacks, Attack) else repr(attacks)
        raise TypeError(f"attacks = {said} is not allowed: a list of attacks, such as [attack]")
    return [_as_row(f"attacks[{number}]", given) for number, given in enumerate(attacks)]


def _as_row(place: str, given: Any) -> Attack | Judge:
    if isinstance(given, Attack):
        allowed = f"it leaves the ball of epsilon = {given.epsilon:g} and is for training alone"
        fine = given.reach <= given.epsilon
        check.that(fine, place, given.name, f"{allowed}; take av.attacks.fgsm_rs or av.pgd")
        return given
    epsilon = None if isinstance(given, type) else getattr(given, "epsilon", None)
    if epsilon is not None and hasattr(given, "name"):
        if hasattr(given, "judge"):
            return cast(Judge, given)
        if callable(given):
            check_epsilon(epsilon, getattr(given, "norm", "linf"))
            return _Crafted(cast(Crafter, given))
    if isinstance(given, str):
        made = f"av.attacks.ATTACKS.build({given!r})" if given in ATTACKS else "av.pgd(steps=20)"
        raise TypeError(f"{place} = {given!r} is not allowed: a name is no attack; write {made}")
    if not callable(given):
        allowed = "an attack, such as av.pgd(steps=20) or av.autoattack()"
        raise TypeError(f"{place} = {given!r} is not allowed: {allowed}")
    name = getattr(given, "__name__", type(given).__name__)
    raise TypeError(
        f"{place} = {name} is not allowed: if it makes an attack, call it, {name}(); a callable "
        "attack(model, x, y, rng) of your own needs a name and an epsilon"
    )


@dataclass(frozen=True)
class _Crafted:
    """A judge that lets a callable of the user's make one perturbation of each image."""

    attack: Crafter
    passes: int = 1

    @property
    def name(self) -> str:
        return self.attack.name

    @property
    def epsilon(self) -> float:
        return self.attack.epsilon

    @property
    def norm(self) -> Norm:
        return getattr(self.attack, "norm", "linf")

    def judge(
        self,
        model: nn.Module,
        images: ImageSet,
        standing: Tensor,
        batch_size: int,
        seed: int,
        advance: Callable[[int], object],
    ) -> Verdict:
        """Return which of the images numbered ``standing`` its perturbation leaves correct, (N,).

        Raises:
            ValueError: a perturbation of another shape, or outside the ball or the valid pixels.
        """
        kept = torch.zeros(len(images), dtype=torch.bool)
        with counted(model) as count:
            for number, part in enumerate(standing.split(batch_size)):
                x, y = batch_on(model, images, part)
                (state,) = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)
                rng = Generator(x.device).manual_seed(int(state) >> 1)
                delta = self._checked(self.attack(model, x.clone(), y.clone(), rng), x)
                with torch.no_grad():
                    kept[part] = (model(x + delta).argmax(1) == y.argmax(1)).cpu()
                advance(len(part))
        note = (
            f"{self.name} is an attack of your own, run a batch at a time: its verdicts may depend "
            f"on the batch size (here {batch_size}) and on which images share a batch"
        )
        return Verdict(kept, count["gradients"], notes=(note,))

    def _checked(self, delta: Any, x: Tensor) -> Tensor:
        """Return delta, rounding taken off, or raise ValueError."""
        shape = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
        allowed = f"delta, a tensor of the images' shape {tuple(x.shape)}"
        check.that(shape == tuple(x.shape), f"what {self.name} returns", shape, allowed)
        delta = delta.detach().to(x)
        reach = float(delta.abs().max() if self.norm == "linf" else lengths(delta).max())
        x_hat = x + delta
        allowed = f"at most epsilon = {self.epsilon:g}; return delta, not x + delta, and clamp it"
        check.that(reach <= self.epsilon + SLACK, f"|delta| of {self.name}", reach, allowed)
        ends = float(x_hat.min()), float(x_hat.max())
        allowed = "x + delta stays in [0, 1]; clamp it between methods.attacks.ball(x, epsilon)"
        fine = ends[0] >= -SLACK and ends[1] <= 1 + SLACK
        check.that(fine, f"pixels of {self.name}", ends, allowed)
        return Ball(x, self.epsilon, self.norm).project(delta)
