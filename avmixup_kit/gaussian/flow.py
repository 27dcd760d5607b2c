"""Adversarial feature overfitting: gradient flows of adversarial training on Ψ_sample,c.

Two settings. On the simplex (`scale` a number): Definition 4's w >= 0, ‖w‖₁ = 1, with logits
scale * wᵀx. With free scale (`scale=None`): w >= 0 alone, so that training sets ‖w‖₁ too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import quad, solve_ivp
from scipy.optimize import root_scalar
from scipy.special import expit, logit

from .arguments import Numbers, broadcast, choice, number, real
from .features import FeatureModel
from .objectives import Forces, Loss, expected, forces, mills, segment

GEOMETRY = ("exponentiated", "projected")


@dataclass(frozen=True)
class Flow:
    """A path of adversarial training: shares B (T,) and norms ‖w‖₁ (T,) at times (T,).

    `norm` is the logit scale on the simplex, where it stays put.
    """

    model: FeatureModel
    epsilon: float
    loss: Loss
    times: np.ndarray
    B: np.ndarray
    norm: np.ndarray

    def robust_error(
        self, under: str = "true", epsilon: float | None = None, log10: bool = False
    ) -> np.ndarray:
        """Return the exact robust error (T,) along the path: "true" is test, "observed" train.

        Args:
            under: the distribution.
            epsilon: radius of the attack at test, the radius of training if None.
            log10: return log10 of the errors.
        """
        radius = self.epsilon if epsilon is None else epsilon
        return self.model.robust_error(self.B, radius, under, log10)

    def training_loss(self) -> np.ndarray:
        """Return the population loss (T,) on Ψ_sample,c along the path, which never rises."""
        return expected_loss(self.model, self.B, self.epsilon, self.loss, self.norm)


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
        return (s * _tilt(model, f, B, s) * np.exp(f.log_scale))[()]


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
    B, scale, epsilon = real("B", B, 0, 1), real("scale", scale, 0), number("epsilon", epsilon, 0)
    broadcast(B=B, scale=scale)
    return model.mean(B, "observed"), np.sqrt(model.variance(B, "observed")), scale, epsilon


def _tilt(model: FeatureModel, f: Forces, B: Numbers, s: Numbers) -> Numbers:
    """Return dF/dB divided by s exp(log_scale)."""
    g = model.groups("observed")
    half_slope = g.variance_b * B - g.variance_a * (1 - B)
    return (g.mean_a - g.mean_b) * f.g0 + s * half_slope * f.h


def _start(model: FeatureModel, start: float | None) -> float:
    if start is None:
        return model.uniform_share
    return number("start", start, 0, 1, open_low=True, open_high=True)


def flow(
    model: FeatureModel,
    epsilon: float,
    loss: Loss,
    scale: float | None,
    times: ArrayLike,
    geometry: str = "exponentiated",
    start: float | None = None,
) -> Flow:
    r"""Return the gradient flow of adversarial training on Ψ_sample,c from tied weights.

    On the simplex, with F = `expected_loss` at the given scale:
        exponentiated (replicator)  dB/dt = -B(1 - B) F'(B);
        projected (Euclidean)       dB/dt = -(d - c)(1 + c)/(d + 1) F'(B), stopped at 0 and 1.
    With free scale, from ‖w‖₁ = 1, each weight: dw/dt = -w ∂F/∂w, or dw/dt = -∂F/∂w stopped at 0.

    Args:
        model: the features.
        epsilon: radius of the attack in training, >= 0.
        loss: "logistic", "exponential", "hinge", a LabelSmoothing or an AVmixup.
        scale: logit scale on the simplex, > 0; None learns it.
        times: shape (T,), >= 0, not falling.
        geometry: "exponentiated" or "projected".
        start: share B in (0, 1) to start from; equal weights, (d - c)/(d + 1), if None.

    Raises:
        ValueError: a bad argument, or a loss whose slope overflows at this scale.
    """
    segment(loss)
    choice("geometry", geometry, GEOMETRY)
    epsilon, times, share = (
        number("epsilon", epsilon, 0),
        real("times", times, 0),
        _start(model, start),
    )
    if times.ndim != 1 or times.size == 0 or (np.diff(times) < 0).any():
        raise ValueError(f"times must have shape (T,) and not fall, got shape {times.shape}")
    if scale is None:
        B, norm = _free_path(model, epsilon, loss, times, geometry, share)
    else:
        scale = number("scale", scale, 0, open_low=True)
        B = _simplex_path(model, epsilon, loss, scale, times, geometry, share)
        norm = np.full(times.shape, scale)
    return Flow(model, epsilon, loss, times, B, norm)


def _slope(
    model: FeatureModel, epsilon: float, loss: Loss, scale: float
) -> Callable[[float], float]:
    """Return B -> dF/dB without argument checks, also outside [0, 1], where F goes on smoothly."""
    g = model.groups("observed")

    def slope(B: float) -> float:
        margin = g.mean_a * (1 - B) + g.mean_b * B
        deviation = np.sqrt(g.variance_a * (1 - B) ** 2 + g.variance_b * B**2)
        f = forces(loss, margin, deviation, scale, epsilon)
        return float(scale * _tilt(model, f, B, scale) * np.exp(f.log_scale))

    return slope


def _solve(
    field: Callable[[float, np.ndarray], list[float]], start: list[float], times: np.ndarray
) -> np.ndarray:
    if times[-1] == 0:
        return np.repeat(np.array(start)[:, None], times.size, axis=1)
    with np.errstate(over="ignore"):
        path = solve_ivp(
            field, (0.0, times[-1]), start, method="LSODA", t_eval=times, rtol=1e-9, atol=1e-12
        )
    if not path.success:
        raise RuntimeError(f"the flow could not be integrated: {path.message}")
    return path.y


def _simplex_path(
    model: FeatureModel,
    epsilon: float,
    loss: Loss,
    scale: float,
    times: np.ndarray,
    geometry: str,
    share: float,
) -> np.ndarray:
    slope = _slope(model, epsilon, loss, scale)
    with np.errstate(over="ignore"):
        if not np.isfinite(slope(share)):
            raise ValueError(f"scale must keep the loss finite, got {scale!r} with loss {loss!r}")
    if geometry == "exponentiated":
        # in the logit of B the replicator's B(1 - B) cancels and the ends are never crossed
        path = _solve(lambda t, y: [-slope(float(expit(y[0])))], [float(logit(share))], times)
        return expit(path[0])
    rate = (model.d - model.c) * (1 + model.c) / (model.d + 1)
    path = _solve(lambda t, y: [-rate * slope(float(y[0]))], [share], times)
    # the flow is monotone, so it may run past an end and be cut there
    return np.clip(path[0], 0.0, 1.0)


def _free_path(
    model: FeatureModel,
    epsilon: float,
    loss: Loss,
    times: np.ndarray,
    geometry: str,
    share: float,
) -> tuple[np.ndarray, np.ndarray]:
    g = model.groups("observed")
    many_a, many_b = 1 + model.c, model.d - model.c

    def descent(total_a: float, total_b: float) -> tuple[float, float]:
        """Return -∂F/∂w of one weight of each group, at groups' total weights."""
        # per unit of weight the moments are undefined at w = 0, so the norm stays in them
        margin = g.mean_a * total_a + g.mean_b * total_b
        deviation = np.sqrt(g.variance_a * total_a**2 + g.variance_b * total_b**2)
        norm = max(total_a + total_b, 1e-300)
        f = forces(loss, margin / norm, deviation / norm, norm, epsilon)
        factor = float(np.exp(f.log_scale))
        pull_a = g.mean_a * f.g0 - f.g1 - g.variance_a * total_a * f.h
        pull_b = g.mean_b * f.g0 - f.g1 - g.variance_b * total_b * f.h
        return float(pull_a) * factor, float(pull_b) * factor

    if geometry == "exponentiated":
        begin = [float(np.log(1 - share)), float(np.log(share))]
        path = _solve(lambda t, y: list(descent(np.exp(y[0]), np.exp(y[1]))), begin, times)
        totals = np.exp(path)
    else:

        def field(t: float, y: np.ndarray) -> list[float]:
            a, b = descent(max(y[0], 0.0), max(y[1], 0.0))
            return [
                many_a * (a if y[0] > 0 else max(a, 0.0)),
                many_b * (b if y[1] > 0 else max(b, 0.0)),
            ]

        totals = np.maximum(_solve(field, [1 - share, share], times), 0.0)
    norm = totals.sum(axis=0)
    return np.where(norm > 0, totals[1] / np.where(norm > 0, norm, 1.0), 0.0), norm


def time_to_share(
    model: FeatureModel,
    epsilon: float,
    loss: Loss,
    scale: float,
    B: float,
    geometry: str = "exponentiated",
    start: float | None = None,
) -> float:
    """Return when the flow on the simplex passes share B, by quadrature of dt = dB / (dB/dt).

    inf where it never does. Arguments as in `flow`, with scale > 0 and B in (0, 1).
    """
    segment(loss)
    choice("geometry", geometry, GEOMETRY)
    epsilon, scale = number("epsilon", epsilon, 0), number("scale", scale, 0, open_low=True)
    B, share = number("B", B, 0, 1, open_low=True, open_high=True), _start(model, start)
    slope = _slope(model, epsilon, loss, scale)
    end = stationary_point(model, epsilon, loss, scale).B
    if share == B:
        return 0.0
    if (B - share) * (end - share) <= 0 or abs(B - share) >= abs(end - share):
        return np.inf
    if geometry == "exponentiated":
        return quad(
            lambda y: -1 / slope(float(expit(y))), logit(share), logit(B), epsabs=0, epsrel=1e-10
        )[0]
    rate = (model.d - model.c) * (1 + model.c) / (model.d + 1)
    return quad(lambda b: -1 / (rate * slope(b)), share, B, epsabs=0, epsrel=1e-10)[0]


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
        if model.sigma_a == 0 or model.sigma_b == 0:
            raise ValueError(
                "model must have sigma_a > 0 and sigma_b > 0 where the scale is learned, "
                f"got {model!r}"
            )
        return _free_optimum(model, epsilon, loss)
    scale = number("scale", scale, 0, open_low=True)
    B = _root_in_share(lambda B: _sign_at(model, B, epsilon, loss, scale))
    return Stationary(B, scale, float(effective_epsilon(model, B, epsilon, loss, scale)))


def _sign_at(model: FeatureModel, B: float, epsilon: float, loss: Loss, scale: float) -> float:
    f, share, s = _at(model, B, epsilon, loss, scale)
    return float(_tilt(model, f, share, s))


def _root(slope: Callable[[float], float], low: float, high: float) -> float:
    return root_scalar(slope, bracket=(low, high), method="brentq", xtol=1e-13, rtol=1e-13).root


def _root_in_share(slope: Callable[[float], float]) -> float:
    if slope(0.0) >= 0:
        return 0.0
    if slope(1.0) <= 0:
        return 1.0
    return _root(slope, 0.0, 1.0)


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

    B = _root_in_share(outer)
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

    return 1 / (_root(excess, -z, 40.0) + z)


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
    return _root(slope, low, high)
