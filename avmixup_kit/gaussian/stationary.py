"""The population loss on Ψ_sample,c in the share B, and where training on it ends."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import root_scalar

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import Numbers, number, reals
from avmixup_kit.gaussian.features import FeatureModel
from avmixup_kit.gaussian.objectives import Forces, Loss, expected, forces, mills, segment


@dataclass(frozen=True)
class Stationary:
    """Where training ends: share B, norm ‖w‖₁ (the scale, on the simplex), effective radius kappa.

    kappa = G₁/G₀: the direction is that of hard-label adversarial training with this radius, which
    for hard labels and for label smoothing is ε itself. norm = 0 means that no weights beat w = 0;
    B and kappa are then 0 and ε by convention.
    """

    B: float
    norm: float
    kappa: float


def expected_loss(
    model: FeatureModel, B: ArrayLike, epsilon: float, loss: Loss, scale: ArrayLike
) -> np.ndarray:
    """Return the population loss on Ψ_sample,c of tied weights with share B and ‖w‖₁ = scale.

    Args:
        model: the features.
        B: share in [0, 1].
        epsilon: radius of the attack, >= 0.
        loss: "logistic", "exponential", "hinge", a LabelSmoothing or an AVmixup.
        scale: logit scale or norm, >= 0, broadcast to B.
    """
    return expected(loss, *_moments(model, B, epsilon, loss, scale))[()]


def loss_slope(
    model: FeatureModel, B: ArrayLike, epsilon: float, loss: Loss, scale: ArrayLike
) -> np.ndarray:
    r"""Return dF/dB of `expected_loss` F at fixed scale: s (1 - η) G₀ + s² v'(B) H / 2."""
    f, B, s = _at(model, B, epsilon, loss, scale)
    with np.errstate(over="ignore"):
        return (s * tilt(model, f, B, s) * np.exp(f.log_scale))[()]


def effective_epsilon(
    model: FeatureModel, B: ArrayLike, epsilon: float, loss: Loss, scale: ArrayLike
) -> np.ndarray:
    r"""Return κ = G₁/G₀ at share B and ‖w‖₁ = scale, the radius this loss trains against there.

    Negative G₀ (labels softer than the logits) makes κ > every push or < 0; G₀ = 0 makes it inf.
    """
    f, _, _ = _at(model, B, epsilon, loss, scale)
    return np.where(f.g0 == 0, np.copysign(np.inf, f.g1), f.g1 / np.where(f.g0 == 0, 1.0, f.g0))[()]


def _at(
    model: FeatureModel, B: ArrayLike, epsilon: float, loss: Loss, scale: ArrayLike
) -> tuple[Forces, np.ndarray, np.ndarray]:
    margin, deviation, scale, epsilon = _moments(model, B, epsilon, loss, scale)
    return forces(loss, margin, deviation, scale, epsilon), np.asarray(B), scale


def _moments(
    model: FeatureModel, B: ArrayLike, epsilon: float, loss: Loss, scale: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    segment(loss)
    epsilon, (B, scale) = number("epsilon", epsilon, 0), reals(B=B, scale=scale)
    return model.mean(B, "observed"), np.sqrt(model.variance(B, "observed")), scale, epsilon


def tilt(model: FeatureModel, f: Forces, B: Numbers, s: Numbers) -> Numbers:
    """Return dF/dB divided by s exp(log_scale)."""
    g = model.groups("observed")
    half_slope = g.variance_b * B - g.variance_a * (1 - B)
    return (g.mean_a - g.mean_b) * f.g0 + s * half_slope * f.h


def stationary_point(
    model: FeatureModel, epsilon: float, loss: Loss, scale: float | None
) -> Stationary:
    r"""Return the minimiser of the population loss on Ψ_sample,c, where every flow ends.

    On the simplex: the root of F' (convex), or the end it pushes to. With free scale, hard labels:
    b/a = ρ (η - ε)₊/(1 - ε), and the logistic loss has w = 2 Σ⁻¹(μ - ε)₊, the exponential half of
    it. Soft labels: the root in B of the slope at the best norm for that B.

    Args:
        model: the features; with free scale sigma_a and sigma_b must be > 0.
        epsilon: radius of the attack, >= 0.
        loss: "logistic", "exponential", "hinge", a LabelSmoothing or an AVmixup.
        scale: logit scale on the simplex, > 0; None learns it.
    """
    segment(loss)
    epsilon = number("epsilon", epsilon, 0)
    if scale is None:
        fine = model.sigma_a > 0 and model.sigma_b > 0
        check.that(fine, "model", model, "sigma_a > 0 and sigma_b > 0 where the scale is learned")
        return _free_optimum(model, epsilon, loss)
    scale = number("scale", scale, 0, open_low=True)
    B = root_in_share(lambda B: _sign_at(model, B, epsilon, loss, scale))
    return Stationary(B, scale, float(effective_epsilon(model, B, epsilon, loss, scale)))


def _sign_at(model: FeatureModel, B: float, epsilon: float, loss: Loss, scale: float) -> float:
    f, share, s = _at(model, B, epsilon, loss, scale)
    return float(tilt(model, f, share, s))


def root(slope: Callable[[float], float], low: float, high: float) -> float:
    return root_scalar(slope, bracket=(low, high), method="brentq", xtol=1e-13, rtol=1e-13).root


def root_in_share(slope: Callable[[float], float]) -> float:
    if slope(0.0) >= 0:
        return 0.0
    if slope(1.0) <= 0:
        return 1.0
    return root(slope, 0.0, 1.0)


def _free_optimum(model: FeatureModel, epsilon: float, loss: Loss) -> Stationary:
    g = model.groups("observed")
    pull_a = max(g.mean_a - epsilon, 0.0) / g.variance_a
    pull_b = max(g.mean_b - epsilon, 0.0) / g.variance_b
    total = pull_a + pull_b
    if isinstance(loss, str):
        if total == 0:
            return Stationary(0.0, 0.0, epsilon)
        B = pull_b / total
        if loss == "hinge":
            z = np.sqrt((g.mean_a - epsilon) * pull_a + (g.mean_b - epsilon) * pull_b)
            return Stationary(B, _hinge_spread(z) * total / z, epsilon)
        return Stationary(B, (2 if loss == "logistic" else 1) * total, epsilon)

    def outer(B: float) -> float:
        return _sign_at(model, B, epsilon, loss, _best_norm(model, B, epsilon, loss))

    B = root_in_share(outer)
    norm = _best_norm(model, B, epsilon, loss)
    if norm == 0:
        return Stationary(0.0, 0.0, epsilon)
    return Stationary(B, norm, float(effective_epsilon(model, B, epsilon, loss, norm)))


def _hinge_spread(z: float) -> float:
    """Return the deviation t of the margin, at z-score z, that minimises E(1 - t(z + g))_+.

    There φ(x)/Φ(x) = z with x = 1/t - z.
    """

    def excess(x: float) -> float:
        return float(mills(x) - z)

    return 1 / (root(excess, -z, 40.0) + z)


def _best_norm(model: FeatureModel, B: float, epsilon: float, loss: Loss) -> float:
    """Return the norm of least loss at share B (the loss is convex in it), 0 if no norm helps."""
    margin = float(model.mean(B, "observed"))
    variance = float(model.variance(B, "observed"))

    def slope(norm: float) -> float:
        f, _, _ = _at(model, B, epsilon, loss, norm)
        return float(norm * variance * f.h - margin * f.g0 + f.g1)

    if slope(0.0) >= 0:
        return 0.0
    low, high = 0.0, 1.0
    while slope(high) < 0:
        low, high = high, 4 * high
        if high > 1e12:
            raise RuntimeError(f"the norm of least loss is beyond 1e12 for {loss!r} at B = {B:g}")
    return root(slope, low, high)
