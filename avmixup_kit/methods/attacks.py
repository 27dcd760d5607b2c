"""Attacks: one loop climbs an objective inside a ball, l-infinity or l2, and the valid pixels.

An attack is an objective plus a start; it is called ``attack(model, batch) -> delta``, or
``attack(model, x, y, rng)`` with x (N, C, H, W) in [0, 1] and y one-hot (N, K) or integer (N,), and
returns a perturbation whose norm is at most epsilon and x + delta in [0, 1], both exactly. The same
objects are the perturb stage of training methods and the columns of an evaluation; ``NFGSM``, which
leaves the ball, is a perturb stage alone.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypedDict, TypeVar, Unpack, get_args, get_type_hints

import torch
from torch import Generator, Tensor, nn

from avmixup_kit._base import check, distributed
from avmixup_kit._base.registry import Registry
from avmixup_kit._base.shapes import Images
from avmixup_kit._base.texts import text_of
from avmixup_kit.methods.balls import Ball, Norm, ascend, check_epsilon, in_l2_ball
from avmixup_kit.methods.balls import ball as ball
from avmixup_kit.methods.balls import direction as direction
from avmixup_kit.methods.balls import lengths as lengths
from avmixup_kit.methods.batch import Batch, BatchNorm, frozen
from avmixup_kit.methods.labels import one_hot
from avmixup_kit.methods.losses import (
    LabelCrossEntropy,
    Margin,
    Objective,
    TargetedCrossEntropy,
)

Start = Literal["uniform", "normal", "zero"]


@dataclass(frozen=True)
class NoAttack:
    """The perturbation that is always zero: Standard and Mixup train on it."""

    def __call__(
        self,
        model: nn.Module,
        x: Images | Batch,
        y: Tensor | None = None,
        rng: Generator | None = None,
    ) -> Images:
        return torch.zeros_like(x.x if isinstance(x, Batch) else x)


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent on ``objective`` from a start in the ball.

    Args:
        objective: what is climbed.
        epsilon: radius of the ball, in units of [0, 1] pixels.
        step_size: in the same units; None is epsilon / 4, the paper's 2/255 at 8/255.
        steps: number of gradients.
        start: ``"uniform"`` in the ball, ``"normal"`` (0.001 N(0, 1), TRADES) or ``"zero"``.
        clip_start: whether the start is first clipped to valid pixels (Feature Scatter: no).
        restarts: how often to start anew; the best perturbation of each example is kept.
        batch_norm: how batch norm works while crafting; evaluation always uses ``"eval"``.
        source: another model whose gradients are followed instead (transfer attack). The repr holds
            its weights' checksum.
        norm: ``"linf"`` bounds every pixel's change and steps by the gradient's sign; ``"l2"``
            bounds the change's length and steps along the gradient, which is one of length
            ``step_size``. Radii differ: 8 / 255 and 0.5 are usual for CIFAR-10.

    Raises:
        ValueError: epsilon outside (0, 1] (l2: not positive), step_size not positive, steps < 1,
            restarts < 1, an unknown start, norm or batch-norm mode, a source that is no network
            or whose running averages crafting would change.
    """

    objective: Objective = LabelCrossEntropy()  # noqa: RUF009 (frozen, no state)
    epsilon: float = 8 / 255
    step_size: float | None = None
    steps: int = 10
    start: Start = "uniform"
    clip_start: bool = True
    restarts: int = 1
    batch_norm: BatchNorm = "eval"
    source: nn.Module | None = None
    norm: Norm = "linf"
    usual_step: ClassVar[float] = 1 / 4

    def __post_init__(self) -> None:
        check.settle(self)
        check_epsilon(self.epsilon, self.norm)
        allowed = "a positive number, or None for epsilon / 4"
        check.number("step_size", self.step_size, "(0, inf)", allowed, none=True)
        fine = callable(self.objective) and callable(getattr(self.objective, "reference", None))
        fine = fine and not isinstance(self.objective, type)
        check.that(fine, "objective", self.objective, "an Objective, such as Margin()")
        check.flag("clip_start", self.clip_start)
        check.whole("steps", self.steps)
        check.whole("restarts", self.restarts)
        check.one_of("start", self.start, get_args(Start))
        check.one_of("batch_norm", self.batch_norm, get_args(BatchNorm))
        fine = self.source is None or isinstance(self.source, nn.Module)
        check.that(fine, "source", self.source, "a network, or None")
        fine = self.source is None or self.batch_norm != "train"
        allowed = "it would change the running averages of source; 'eval', or 'batch'"
        check.that(fine, "batch_norm", self.batch_norm, allowed)

    def __repr__(self) -> str:
        return text_of(self, "source", "norm")

    @property
    def step(self) -> float:
        """The step size in force: ``step_size``, or epsilon / 4 where that is None."""
        return self.usual_step * self.epsilon if self.step_size is None else self.step_size

    @property
    def drawn_within(self) -> float:
        """The radius of a ``"uniform"`` start."""
        return self.epsilon

    @property
    def reach(self) -> float:
        """How far it may go from the image: epsilon, unless it is for training alone."""
        return self.epsilon

    @property
    def name(self) -> str:
        """The column's heading: FGSM, PGD20, CW20 as in the paper, PGD20 l2, PGD20 to 3."""
        name = self.kind
        if self.restarts > 1:
            name += f"x{self.restarts}"
        name += "" if self.norm == "linf" else f" {self.norm}"
        name += "" if self.target is None else f" to {self.target}"
        return name if self.source is None else f"{name} (transfer)"

    @property
    def kind(self) -> str:
        """What the name begins with: FGSM, PGD20."""
        kind = self.objective.name if self.target is None else LabelCrossEntropy.name
        one_step = self.steps == 1 and self.step == self.epsilon and kind == "PGD"
        return "FGSM" if one_step else f"{kind}{self.steps}"

    @property
    def target(self) -> int | None:
        """The class that is aimed at, where one was chosen."""
        return self.objective.target if isinstance(self.objective, TargetedCrossEntropy) else None

    def spared(self, delta: Images, y: Tensor) -> Images:
        """Return delta, zero where the one-hot label (N, K) is the chosen class already."""
        if self.target is None:
            return delta
        return delta.masked_fill((y[:, self.target] > 0.5).reshape(-1, 1, 1, 1), 0.0)

    def first_delta(self, x: Images, rng: Generator | None) -> Images:
        """Return the start (N, C, H, W), drawn from ``rng`` alone."""
        if self.start == "zero":
            return torch.zeros_like(x)
        if rng is None:
            raise ValueError(f"start = {self.start!r} draws random numbers: pass rng")
        noise = distributed.empty_like(x)
        if self.start == "uniform" and self.norm == "l2":
            share = torch.rand(len(noise), generator=rng, device=noise.device)
            noise = in_l2_ball(noise.normal_(generator=rng), share, self.drawn_within)
        elif self.start == "uniform" and isinstance(self.drawn_within, Tensor):
            # The same draws, rounded as where uniform_ itself multiplies and adds in one.
            noise = noise.uniform_(-1, 1, generator=rng) * self.drawn_within
        elif self.start == "uniform":
            noise.uniform_(-self.drawn_within, self.drawn_within, generator=rng)
        else:
            noise.normal_(0.0, 0.001, generator=rng)
        noise = distributed.mine(noise, len(x))
        return Ball(x, self.reach, self.norm).project(noise) if self.clip_start else noise

    def __call__(
        self,
        model: nn.Module,
        x: Images | Batch,
        y: Tensor | None = None,
        rng: Generator | None = None,
    ) -> Images:
        """Return delta (N, C, H, W). Model, gradients and the global generator stay as they were.

        Args:
            model: from images (N, C, H, W) to logits (N, K).
            x: images in [0, 1]; or a ``Batch``, which holds y and rng as well.
            y: one-hot (N, K) or class numbers (N,).
            rng: generator on the device of x; only a ``"zero"`` start can do without.
        """
        if isinstance(x, Batch):
            x, y, rng = x.x, x.y, x.rng
        if y is None:
            raise ValueError("y is missing: one-hot labels (N, K) or class numbers (N,)")
        guide = model if self.source is None else self.source
        if y.ndim == 1:
            with frozen(guide), torch.no_grad():
                y = one_hot(y, guide(x[:1]).shape[1])
        with frozen(guide, self.batch_norm):
            reference = self.objective.reference(guide, x)

            def climb(x_hat: Tensor) -> Tensor:
                return self.objective(guide(x_hat), y, reference)

            def crafted() -> Tensor:
                start = self.first_delta(x, rng)
                limits = self.reach, self.step, self.steps, self.norm
                return ascend(climb, x, start, *limits)

            best = crafted()
            if self.restarts > 1:
                with torch.no_grad():
                    value = climb(x + best)
                for _ in range(self.restarts - 1):
                    delta = crafted()
                    with torch.no_grad():
                        other = climb(x + delta)
                    better = other > value
                    value = torch.where(better, other, value)
                    best = torch.where(better.reshape(-1, 1, 1, 1), delta, best)
        return self.spared(best, y)


@dataclass(frozen=True, repr=False)
class FGSMRS(Attack):
    """One step from a uniform start, clipped to the ball: Wong, Rice, Kolter 2020.

    ``step_size``: None is 1.25 epsilon, theirs for training.
    """

    steps: int = 1
    usual_step: ClassVar[float] = 1.25

    @property
    def kind(self) -> str:
        """What the name begins with."""
        return "FGSM-RS"


@dataclass(frozen=True, repr=False)
class NFGSM(Attack):
    """One step from noise in ``noise`` times the ball, clipped to valid pixels alone.

    N-FGSM, de Jorge et al. 2022: noise U(-2 epsilon, 2 epsilon), then a step of epsilon
    (``step_size=None``). It leaves the ball, up to 3 epsilon, and so it is for training alone.
    """

    steps: int = 1
    noise: float = 2.0
    usual_step: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check.number("noise", self.noise, "[0, inf)", "times epsilon, 0 or more")

    @property
    def drawn_within(self) -> float:
        """The radius of the noise."""
        return self.noise * self.epsilon

    @property
    def reach(self) -> float:
        """How far it may go from the image; nothing is clipped to it."""
        return self.drawn_within + self.steps * self.step

    @property
    def kind(self) -> str:
        """What the name begins with."""
        return "N-FGSM"


class Crafting(TypedDict, total=False):
    """Settings of ``Attack``, by keyword, that every training method with an attack takes."""

    epsilon: float
    step_size: float | None
    steps: int
    batch_norm: BatchNorm
    norm: Norm


class StartedCrafting(Crafting, total=False):
    """The same where the start is free to choose."""

    start: Start


class Attacking(StartedCrafting, total=False):
    """The same and those that only an evaluation needs."""

    restarts: int
    source: nn.Module | None


TRAINING = Attack(
    steps=10, batch_norm="batch"
)  # the authors' code crafts on the batch's statistics
EVALUATION = Attack(steps=20)
M = TypeVar("M", bound=Callable[..., Any])


def settings_of(attack: Attack) -> Callable[[M], M]:
    """Return a decorator that spells out a function's ``**settings: Unpack[...]``.

    Signature, ``help()``, registry and command line then show each by name, with the attack's value
    as its default.
    """

    def spelled_out(make: M) -> M:
        signature = inspect.signature(make, eval_str=True)
        *own, settings = signature.parameters.values()
        kinds = get_type_hints(*get_args(settings.annotation))
        named = (
            settings.replace(
                name=name,
                kind=inspect.Parameter.KEYWORD_ONLY,
                default=getattr(attack, name),
                annotation=kind,
            )
            for name, kind in kinds.items()
        )
        vars(make)["__signature__"] = signature.replace(parameters=[*own, *named])
        return make

    return spelled_out


ATTACKS = Registry("attack")


@ATTACKS.register(title="FGSM")
def fgsm(
    epsilon: float = 8 / 255,
    *,
    norm: Norm = "linf",
    start: Start = "zero",
    batch_norm: BatchNorm = "eval",
    source: nn.Module | None = None,
) -> Attack:
    """Return one step of the full epsilon up the label's cross-entropy (Goodfellow et al.).

    The paper does not say whether its FGSM starts at random; the default is the original attack,
    without. Feature Scatter's code starts uniformly: ``start="uniform"``. Under ``norm="l2"`` the
    step goes along the gradient, not along its sign.
    """
    one_step = Attack(epsilon=epsilon, step_size=epsilon, steps=1, norm=norm)
    return replace(one_step, start=start, batch_norm=batch_norm, source=source)


@ATTACKS.register(title="PGD")
@settings_of(EVALUATION)
def pgd(*, target: int | None = None, **settings: Unpack[Attacking]) -> Attack:
    """Return PGD-``steps`` on the label's cross-entropy from a uniform start (Madry et al.).

    With a ``target`` it climbs that class's log-probability instead; images of the class are
    skipped, and any other wrong class counts as fooled as well.
    """
    objective = LabelCrossEntropy() if target is None else TargetedCrossEntropy(target=target)
    return replace(EVALUATION, objective=objective, **settings)


@ATTACKS.register(title="CW")
@settings_of(EVALUATION)
def cw(*, kappa: float = 50.0, **settings: Unpack[Attacking]) -> Attack:
    """Return CW-``steps`` as the paper uses it: PGD on the margin loss with its kappa."""
    return replace(EVALUATION, objective=Margin(kappa), **settings)


@ATTACKS.register(title="FGSM-RS")
def fgsm_rs(
    epsilon: float = 8 / 255,
    *,
    step_size: float | None = None,
    norm: Norm = "linf",
    restarts: int = 1,
    batch_norm: BatchNorm = "eval",
    source: nn.Module | None = None,
) -> FGSMRS:
    """Return one step of 1.25 epsilon from a uniform start in the ball (Wong et al. 2020)."""
    one_step = FGSMRS(epsilon=epsilon, step_size=step_size, norm=norm, restarts=restarts)
    return replace(one_step, batch_norm=batch_norm, source=source)


def n_fgsm(
    epsilon: float = 8 / 255,
    *,
    step_size: float | None = None,
    noise: float = 2.0,
    norm: Norm = "linf",
    batch_norm: BatchNorm = "eval",
) -> NFGSM:
    """Return one step of epsilon from noise U(-2 epsilon, 2 epsilon) (de Jorge et al. 2022).

    It is no attack to evaluate with, as it leaves the ball: ``Method(perturb=n_fgsm())``.
    """
    return NFGSM(
        epsilon=epsilon, step_size=step_size, noise=noise, norm=norm, batch_norm=batch_norm
    )
