"""Attacks: one loop climbs an objective inside a ball, l-infinity or l2, and the valid pixels.

An attack is an objective plus a start; it is called ``attack(model, batch) -> delta``, or
``attack(model, x, y, rng)`` with x (N, C, H, W) in [0, 1] and y one-hot (N, K) or integer (N,), and
returns a perturbation whose
norm is at most epsilon and x + delta in [0, 1], both exactly. The same objects are the perturb
stage of training methods and the columns of an evaluation.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, TypeVar, Unpack, get_args, get_type_hints

import torch
from torch import Generator, Tensor, nn

from avmixup_kit._base import check, distributed
from avmixup_kit._base.private import AnyBatchNorm
from avmixup_kit._base.registry import Registry
from avmixup_kit._base.shapes import Images
from avmixup_kit._base.texts import text_of
from avmixup_kit.methods.batch import Batch
from avmixup_kit.methods.labels import one_hot
from avmixup_kit.methods.losses import (
    LabelCrossEntropy,
    Margin,
    Objective,
    TargetedCrossEntropy,
)

BatchNorm = Literal["eval", "batch", "train"]
Norm = Literal["linf", "l2"]
Start = Literal["uniform", "normal", "zero"]
# Shortens by more than float32 rounds up, so that no perturbation is longer than epsilon.
ROOM = 1 - 2.0**-22


def check_epsilon(epsilon: float, norm: Norm = "linf") -> None:
    """Raise ValueError unless epsilon is a radius in units of [0, 1] pixels, the norm a norm."""
    check.one_of("norm", norm, get_args(Norm))
    if norm == "l2":
        allowed = "the length of a vector of [0, 1] pixels, above 0"
        check.number("epsilon", epsilon, "(0, inf)", allowed)
        return
    large = check.is_number(epsilon) and epsilon > 1
    hint = f"; in pixels of 0..255 write {epsilon:g} / 255" if large else ""
    allowed = f"pixels live in [0, 1], so 0 < epsilon <= 1{hint}"
    check.number("epsilon", epsilon, "(0, 1]", allowed)


def ball(x: Images, epsilon: float) -> tuple[Images, Images]:
    """Return the lowest and highest allowed delta of every pixel, both shaped like x.

    Clamping a perturbation between them keeps |delta| <= epsilon and x + delta in [0, 1] exactly,
    rounding included.
    """
    return (-x).clamp(min=-epsilon), (1 - x).clamp(max=epsilon)


def lengths(images: Tensor) -> Tensor:
    """Return the l2 norm of each image (N, C, H, W) as (N, 1, 1, 1), in double precision."""
    norms = torch.linalg.vector_norm(images.flatten(1), dim=1, dtype=torch.float64)
    return norms.reshape(-1, 1, 1, 1)


def direction(gradient: Images, norm: Norm) -> Images:
    """Return the step of size 1 that gains most: the gradient's sign, or it over its l2 norm.

    A gradient of zero stays zero.
    """
    if norm == "linf":
        return gradient.sign()
    # Gradients of sure models are too small for float32's squares and quotients.
    return (gradient / lengths(gradient).clamp_min(1e-300)).to(gradient)


def in_l2_ball(noise: Tensor, share: Tensor, epsilon: float) -> Tensor:
    """Return normal noise (N, C, H, W) as uniform points of the l2 ball.

    ``share`` (N,) is uniform in [0, 1]: that of the ball's volume that is nearer to its centre.
    """
    radius = epsilon * share.double().reshape(-1, 1, 1, 1) ** (1 / noise.flatten(1).shape[1])
    return (noise * (radius / lengths(noise))).to(noise)


class Ball:
    """The perturbations of images x (N, C, H, W) that are allowed.

    ``project`` keeps |delta| <= epsilon, in the norm, and x + delta in [0, 1] exactly, rounding
    included.
    """

    def __init__(self, x: Images, epsilon: float, norm: Norm = "linf") -> None:
        self.epsilon = epsilon
        self.norm: Norm = norm
        self.low, self.high = ball(x, epsilon if norm == "linf" else float("inf"))

    def project(self, delta: Images) -> Images:
        """Return delta inside: shortened to epsilon for l2, then clamped, which only shortens."""
        if self.norm == "l2":
            delta = delta * (self.epsilon * ROOM / lengths(delta)).clamp(max=1.0).to(delta)
        return torch.clamp(delta, self.low, self.high)

    def climb(self, delta: Images, gradient: Images, step_size: float) -> Images:
        """Return delta after one step up the gradient, inside."""
        return self.project(delta + step_size * direction(gradient, self.norm))


def ascend(
    objective: Callable[[Tensor], Tensor],
    x: Images,
    start: Images,
    epsilon: float,
    step_size: float,
    steps: int,
    norm: Norm = "linf",
) -> Images:
    """Return the perturbation (N, C, H, W) after ``steps`` gradient steps up ``objective``.

    A step is the gradient's sign for l-infinity, the gradient over its l2 norm for l2.

    Args:
        objective: from images (N, C, H, W) to a scalar; it knows of models and labels, this loop
            does not.
        x: clean images in [0, 1].
        start: the first perturbation; it need not be inside the ball.
        epsilon, step_size: in units of [0, 1] pixels, measured in the norm.
        steps: gradients taken, each one forward and one backward to the input.
    """
    allowed = Ball(x, epsilon, norm)
    delta = start
    for _ in range(steps):
        x_hat = (x + delta).detach().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(x_hat), x_hat)
        delta = allowed.climb(delta, gradient, step_size)
        # A CUDA graph whose output is still held when the next replay begins is captured anew.
        del gradient
    return allowed.project(delta)


@contextmanager
def frozen(model: nn.Module, batch_norm: BatchNorm = "eval") -> Iterator[None]:
    """Hold a model still while an attack looks at it, and leave it as it was found.

    Parameters take no gradient. Batch norm works in one of three modes: ``"eval"`` (running
    statistics), ``"batch"`` (the batch's own, running averages untouched: the authors' code),
    ``"train"`` (the batch's own, running averages updated, as in two public ports).
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    parameters = [p for p in model.parameters() if p.requires_grad]
    tracking: list[AnyBatchNorm] = []
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        model.train(batch_norm != "eval")
        if batch_norm == "batch":
            tracking = [m for m in modules if isinstance(m, AnyBatchNorm) and m.track_running_stats]
            for module in tracking:
                module.track_running_stats = False
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter in parameters:
            parameter.requires_grad_(True)


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
        return self.epsilon / 4 if self.step_size is None else self.step_size

    @property
    def name(self) -> str:
        """The column's heading: FGSM, PGD20, CW20 as in the paper, PGD20 l2, PGD20 to 3."""
        kind = self.objective.name if self.target is None else LabelCrossEntropy.name
        one_step = self.steps == 1 and self.step == self.epsilon and kind == "PGD"
        name = "FGSM" if one_step else f"{kind}{self.steps}"
        if self.restarts > 1:
            name += f"x{self.restarts}"
        name += "" if self.norm == "linf" else f" {self.norm}"
        name += "" if self.target is None else f" to {self.target}"
        return name if self.source is None else f"{name} (transfer)"

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
            noise = in_l2_ball(noise.normal_(generator=rng), share, self.epsilon)
        elif self.start == "uniform":
            noise.uniform_(-self.epsilon, self.epsilon, generator=rng)
        else:
            noise.normal_(0.0, 0.001, generator=rng)
        noise = distributed.mine(noise, len(x))
        return Ball(x, self.epsilon, self.norm).project(noise) if self.clip_start else noise

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
                limits = self.epsilon, self.step, self.steps, self.norm
                return ascend(lambda x_hat: climb(x_hat).sum(), x, start, *limits)

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
