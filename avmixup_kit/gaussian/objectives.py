r"""Population losses of the linear classifier: hard labels, label smoothing and AVmixup.

Every loss is a function of the logit margin z = y wᵀx̂. Over Ψ_sample,c with w >= 0,

    z ~ N(s (m - κ_u), s² v),  s = ‖w‖₁,

with m and v the mean and variance of y wᵀx per unit of s, and κ_u the size of the perturbation
(ε, or u γ ε along AVmixup's segment). By Stein's identity a gradient needs three numbers,

    G₀ = E[-ℓ'(z)],  G₁ = E[-κ_u ℓ'(z)],  H = E[ℓ''(z)]:
    -∂/∂w_i = G₀ μ_i - G₁ - σ_i² w_i H.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import erfcx, expit, log_ndtr, ndtr

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import Numbers, number

HARD = ("logistic", "exponential", "hinge")
_NODES, _WEIGHTS = leggauss(64)
_U, _U_WEIGHTS = (leggauss(24)[0] + 1) / 2, leggauss(24)[1] / 2
_LOG_SQRT_2_PI = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True)
class LabelSmoothing:
    """Adversarial training with soft labels, the paper's LS λ, at two classes.

    Args:
        lam: mass λ on the true class, in [0, 1]; 1 is the hard label.
    """

    lam: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", number("lam", self.lam, 0, 1))


@dataclass(frozen=True)
class AVmixup:
    """AVmixup's loss at two classes, Equations (12)-(13), averaged exactly over its uniform α.

    With u = 1 - α the point is perturbed by u γ ε and its true class has mass λ₁ - u(λ₁ - λ₂).
    The paper's λ₂ = 0.1 is the uniform label of ten classes: here that is λ₂ = 0.5.

    Args:
        gamma: how many ε away the vertex is, >= 0.
        lambda1: mass on the true class at the clean point, in [0, 1].
        lambda2: mass on the true class at the vertex, in [0, 1].
    """

    gamma: float
    lambda1: float
    lambda2: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", number("gamma", self.gamma, 0))
        object.__setattr__(self, "lambda1", number("lambda1", self.lambda1, 0, 1))
        object.__setattr__(self, "lambda2", number("lambda2", self.lambda2, 0, 1))


Loss = str | LabelSmoothing | AVmixup


class Segment(NamedTuple):
    """Quadrature over where the perturbed points lie: weights, perturbations per ε, soft labels."""

    weight: np.ndarray
    push: np.ndarray
    label: np.ndarray


class Forces(NamedTuple):
    """A loss's G₀, G₁ and H, each to be multiplied by exp(log_scale)."""

    g0: np.ndarray
    g1: np.ndarray
    h: np.ndarray
    log_scale: np.ndarray


def segment(loss: Loss) -> Segment:
    """Return the quadrature of `loss` over its perturbations; one point for a hard label or LS.

    Raises:
        TypeError, ValueError: `loss` is not one of HARD, a LabelSmoothing or an AVmixup.
    """
    if isinstance(loss, AVmixup):
        label = loss.lambda1 - _U * (loss.lambda1 - loss.lambda2)
        return Segment(_U_WEIGHTS, loss.gamma * _U, label)
    if isinstance(loss, LabelSmoothing):
        return Segment(np.ones(1), np.ones(1), np.array([loss.lam]))
    allowed = f"one of {', '.join(HARD)}, a LabelSmoothing or an AVmixup"
    check.that(isinstance(loss, str) and loss in HARD, "loss", loss, allowed)
    return Segment(np.ones(1), np.ones(1), np.ones(1))


def forces(
    loss: Loss, margin: Numbers, deviation: Numbers, norm: Numbers, epsilon: float
) -> Forces:
    """Return the forces of the expected `loss` at margin m, deviation √v and norm s, any shape.

    The common factor exp(log_scale) keeps their ratios exact where they underflow.
    """
    way = segment(loss)
    mean, spread, push = _logits(way, margin, deviation, norm, epsilon)
    if loss == "exponential":
        one = np.ones(spread.shape)
        return Forces(one, epsilon * one, one, spread**2 / 2 - mean[..., 0])
    if loss == "hinge":
        x, noisy = _hinge_gap(mean[..., 0], spread)
        slope = np.where(noisy, 1.0, x > 0)
        curve = np.where(noisy, mills(x) / np.where(noisy, spread, 1.0), 0.0)
        return Forces(slope, epsilon * slope, curve, np.where(noisy, log_ndtr(x), 0.0))
    slope, curve, log_scale = logistic_tails(mean, spread[..., None])
    if (way.label == 1).all():
        common = log_scale.max(axis=-1)
        parts = way.weight * np.exp(log_scale - common[..., None])
        pull = parts * slope
    else:
        common = np.zeros(spread.shape)
        parts = way.weight * np.exp(log_scale)
        pull = parts * slope - way.weight * (1 - way.label)
    return Forces(pull.sum(-1), (push * pull).sum(-1), (parts * curve).sum(-1), common)


def expected(
    loss: Loss, margin: Numbers, deviation: Numbers, norm: Numbers, epsilon: float
) -> np.ndarray:
    """Return the expected `loss` at margin m, deviation √v and norm s, of their common shape."""
    way = segment(loss)
    mean, spread, _ = _logits(way, margin, deviation, norm, epsilon)
    if loss == "exponential":
        with np.errstate(over="ignore"):
            return np.exp(spread**2 / 2 - mean[..., 0])
    if loss == "hinge":
        x, noisy = _hinge_gap(mean[..., 0], spread)
        return np.where(noisy, spread * ndtr(x) * (x + mills(x)), np.maximum(x, 0))
    value = softplus_mean(mean, spread[..., None])
    return (way.weight * (value + (1 - way.label) * mean)).sum(-1)


def logistic_tails(
    mean: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return E σ(-z) and E σ'(z), each to be multiplied by exp(log_scale), and log_scale.

    z is normal; mean and deviation broadcast.
    """
    x, weight, log_scale, z, decay = _logistic_nodes(mean, deviation)
    curve = x * np.where(z > 0, 1.0, decay) / (1 + decay)
    return np.vecdot(x, weight), np.vecdot(curve, weight), log_scale


def softplus_mean(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return E log(1 + e^-z) over normal z; mean and deviation broadcast."""
    x, weight, log_scale, z, _ = _logistic_nodes(mean, deviation)
    # softplus(-z) / σ(-z) tends to 1, and is 1 to 1e-13 from z = 30
    near = np.minimum(z, 30.0)
    value = np.vecdot(x * np.logaddexp(0.0, -near) * (1 + np.exp(near)), weight)
    return value * np.exp(log_scale)


def _logits(
    way: Segment, margin: Numbers, deviation: Numbers, norm: Numbers, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean (..., K) and deviation (...) of z, and the K perturbations."""
    push = epsilon * way.push
    norm = np.asarray(norm)
    spread = norm * deviation
    mean = norm[..., None] * (np.asarray(margin)[..., None] - push)
    return np.broadcast_to(mean, (*spread.shape, push.size)), spread, push


def _logistic_nodes(
    mean: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    r"""Return σ(-z) over z ~ N(mean, deviation²) at nodes: values, weights, log scale, z, e^-|z|.

    The integrand is log-concave with its peak near median(mean - deviation², 0, mean), so the
    Gauss-Legendre range is ten deviations around that, not around the mean: where the loss is
    1e-100 the relative error is as small as where it is 1. The poles of σ at ±iπ are near the line
    for a deviation above 1, and the range is then cut at z = -40, 0 and 40.
    """
    safe = np.maximum(deviation, 1e-12)
    low = -np.minimum(np.maximum(mean, 0) / safe, deviation) - 10
    if deviation.max(initial=0.0) <= 1:
        x = low[..., None] + 10 * (1 + _NODES)
        weight = 10 * _WEIGHTS
    else:
        cuts = [np.clip((cut - mean) / safe, low, low + 20) for cut in (-40.0, 0.0, 40.0)]
        edges = np.stack([low, *cuts, low + 20], axis=-1)
        half = np.diff(edges, axis=-1)[..., None] / 2
        x = (edges[..., :-1, None] + half * (1 + _NODES)).reshape(*low.shape, -1)
        weight = (half * _WEIGHTS).reshape(x.shape)
    z = mean[..., None] + deviation[..., None] * x
    decay = np.exp(-np.abs(z))
    log_value = -0.5 * x * x - np.maximum(z, 0) - np.log1p(decay)
    log_scale = log_value.max(axis=-1)
    value = np.exp(log_value - log_scale[..., None])
    return value, weight, log_scale - _LOG_SQRT_2_PI, z, decay


def mills(x: Numbers) -> np.ndarray:
    """Return φ(x)/Φ(x), which neither underflows nor loses digits far in the lower tail."""
    return np.sqrt(2 / np.pi) / erfcx(-np.asarray(x) / np.sqrt(2))


def _hinge_gap(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far 1 is above the mean, in deviations where there is noise, and where that is."""
    noisy = deviation > 1e-290
    return (1 - mean) / np.where(noisy, deviation, 1.0), noisy


def pointwise(loss: Loss, z: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ℓ(z) and -ℓ'(z) at logit margins z, with soft labels broadcast to them."""
    if loss == "exponential":
        value = np.exp(-z)
        return value, value
    if loss == "hinge":
        return np.maximum(1 - z, 0), (z < 1).astype(float)
    return np.logaddexp(0, -z) + (1 - label) * z, label - expit(z)
