"""Balls around images, l-infinity or l2, and the steps that climb inside them."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from avmixup_kit._base import check
from avmixup_kit._base.shapes import Images

Norm = Literal["linf", "l2"]
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
        way = direction(gradient, self.norm)
        if self.norm == "l2":
            return self.project(delta + step_size * way)
        # A sign times a number is exact, so that one operation rounds as the two do.
        moved = (
            torch.addcmul(delta, way, step_size)
            if isinstance(step_size, Tensor)
            else torch.add(delta, way, alpha=step_size)
        )
        return moved.clamp_(self.low, self.high)


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
        objective: from images (N, C, H, W) to a scalar, or to several whose sum is climbed; it
            knows of models and labels, this loop does not.
        x: clean images in [0, 1].
        start: the first perturbation; it need not be inside the ball.
        epsilon, step_size: in units of [0, 1] pixels, measured in the norm.
        steps: gradients taken, each one forward and one backward to the input.
    """
    allowed = Ball(x, epsilon, norm)
    delta, each = start, None
    for _ in range(steps):
        x_hat = (x + delta).detach().requires_grad_(True)
        with torch.enable_grad():
            value = objective(x_hat)
            each = torch.ones_like(value) if each is None else each
            (gradient,) = torch.autograd.grad(value, x_hat, each)
        delta = allowed.climb(delta, gradient, step_size)
        # A CUDA graph whose output is still held when the next replay begins is captured anew.
        del gradient
    return allowed.project(delta)
