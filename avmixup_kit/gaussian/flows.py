"""Adversarial feature overfitting: gradient flows of adversarial training on Ψ_sample,c.

Two settings. On the simplex (`scale` a number): Definition 4's w >= 0, ‖w‖₁ = 1, with logits
scale * wᵀx. With free scale (`scale=None`): w >= 0 alone, so that training sets ‖w‖₁ too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import quad, solve_ivp
from scipy.special import expit, logit

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import number, real
from avmixup_kit.gaussian.features import FeatureModel
from avmixup_kit.gaussian.objectives import Loss, forces, segment
from avmixup_kit.gaussian.stationary import expected_loss, stationary_point, tilt

GEOMETRY = ("exponentiated", "projected")
_WALL = 1e10


@dataclass(frozen=True)
class Flow:
    """A path of adversarial training: shares B (T,) and norms ‖w‖₁ (T,) at times (T,).

    `norm` is the logit scale on the simplex, where it stays put. Where it is 0, so is B.
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


def _checked(
    model: FeatureModel, epsilon: float, loss: Loss, geometry: str, start: float | None
) -> tuple[float, float]:
    """Return the radius and the share that the flow starts from."""
    segment(loss)
    check.one_of("geometry", geometry, GEOMETRY)
    epsilon, start = number("epsilon", epsilon, 0), model.uniform_share if start is None else start
    return epsilon, number("start", start, 0, 1, open_low=True, open_high=True)


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
    epsilon, share = _checked(model, epsilon, loss, geometry, start)
    times = real("times", times, 0)
    fine = times.ndim == 1 and times.size > 0 and not (np.diff(times) < 0).any()
    check.that(fine, "times", times.tolist(), "shape (T,), not falling")
    if scale is None:
        B, norm = _free_path(model, epsilon, loss, times, geometry, share)
    else:
        scale = number("scale", scale, 0, open_low=True)
        with np.errstate(over="ignore"):
            fine = bool(np.isfinite(_slope(model, epsilon, loss, scale)(share)))
        check.that(fine, "scale", scale, f"so small that the loss {loss!r} stays finite")
        velocity, place, share_at = _simplex(model, epsilon, loss, scale, geometry)
        path = _solve(lambda t, y: [velocity(float(y[0]))], [place(share)], times)
        B, norm = share_at(path[0]), np.full(times.shape, scale)
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
        return float(scale * tilt(model, f, B, scale) * np.exp(f.log_scale))

    return slope


def _vanished(t: float, y: np.ndarray) -> float:
    return sum(y) - 1e-9


_vanished.terminal = True  # type: ignore[attr-defined]


def _solve(
    field: Callable[[float, np.ndarray], list[float]],
    start: list[float],
    times: np.ndarray,
    vanishing: bool = False,
) -> np.ndarray:
    """Return the path (states, T); with `vanishing`, 0 from where the states' sum reaches 0."""
    if times[-1] == 0:
        return np.repeat(np.array(start)[:, None], times.size, axis=1)
    stops, back = np.unique(times, return_inverse=True)
    with np.errstate(over="ignore"):
        path = solve_ivp(
            field,
            (0.0, stops[-1]),
            start,
            method="LSODA",
            t_eval=stops,
            events=_vanished if vanishing else None,
            rtol=1e-9,
            atol=1e-12,
        )
    if not path.success or not np.isfinite(path.y).all():
        raise RuntimeError(f"the flow could not be integrated: {path.message}")
    reached = np.zeros((len(start), stops.size))
    reached[:, : path.y.shape[1]] = path.y
    return reached[:, back]


def _simplex(
    model: FeatureModel, epsilon: float, loss: Loss, scale: float, geometry: str
) -> tuple[Callable[[float], float], Callable[[float], float], Callable[[Any], Any]]:
    """Return dy/dt as a function of the flow's coordinate y, and y from B and B from y."""
    slope = _slope(model, epsilon, loss, scale)
    if geometry == "exponentiated":
        # in the logit of B the replicator's B(1 - B) cancels and the ends are never crossed
        return lambda y: -slope(float(expit(y))), lambda B: float(logit(B)), expit
    rate = (model.d - model.c) * (1 + model.c) / (model.d + 1)
    # the flow is monotone, so it may run past an end and be cut there; what it sees of F beyond
    # the end is only so much that its slope stays continuous
    beyond = -0.01, 1.01
    return (
        lambda y: -rate * slope(min(max(y, beyond[0]), beyond[1])),
        lambda B: B,
        lambda y: np.clip(y, 0.0, 1.0),
    )


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
            # a jump or a kink at 0 would stall the integrator; behind this wall a weight waits,
            # within about 1e-5 of 0, until it is pulled out again
            return [
                many_a * a + _WALL * min(y[0], 0.0) ** 2,
                many_b * b + _WALL * min(y[1], 0.0) ** 2,
            ]

        totals = np.maximum(_solve(field, [1 - share, share], times, True), 0.0)
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
    epsilon, share = _checked(model, epsilon, loss, geometry, start)
    scale = number("scale", scale, 0, open_low=True)
    B = number("B", B, 0, 1, open_low=True, open_high=True)
    end = stationary_point(model, epsilon, loss, scale).B
    if share == B:
        return 0.0
    if (B - share) * (end - share) <= 0 or abs(B - share) >= abs(end - share):
        return np.inf
    velocity, place, _ = _simplex(model, epsilon, loss, scale, geometry)
    return quad(lambda y: 1 / velocity(y), place(share), place(B), epsabs=0, epsrel=1e-10)[0]
