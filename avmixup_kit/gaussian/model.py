"""Example 1 and Definitions 1-3: the Gaussian model, its linear classifier, its exact errors."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, ndtr

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import broadcast, count, generator, number, real, reals


def error_at(z: ArrayLike, log10: bool = False) -> np.ndarray:
    """Return the error Φ(-z) of a classifier at z standard deviations, or its log10.

    Args:
        z: any shape; ±inf are allowed and give 0 and 1.
        log10: return log10 Φ(-z), finite wherever z is, also where Φ(-z) underflows.
    """
    z = np.asarray(z, dtype=np.float64)
    return log_ndtr(-z) / np.log(10.0) if log10 else ndtr(-z)


def z_score(margin: ArrayLike, deviation: ArrayLike) -> np.ndarray:
    """Return margin / deviation, and at deviation 0 its limit: inf if margin > 0, else -inf.

    A margin of exactly 0 without noise is a tie, and sgn(0) is no label, so it is an error.
    """
    margin, deviation = np.asarray(margin), np.asarray(deviation)
    noisy = deviation > 0
    with np.errstate(over="ignore"):
        z = margin / np.where(noisy, deviation, 1.0)
    return np.where(noisy, z, np.where(margin > 0, np.inf, -np.inf))[()]


def directions(w: ArrayLike) -> np.ndarray:
    """Return w (..., d) with its largest entry 1 or -1, which keeps its products in range."""
    w = real("w", w)
    check.that(w.ndim > 0 and w.shape[-1] > 0, "w.shape", w.shape, "(..., d) with d >= 1")
    largest = np.abs(w).max(axis=-1, keepdims=True)
    check.that(bool((largest > 0).all()), "w", 0, "a non-zero entry in every row")
    return w / largest


def robust_error(
    w: ArrayLike, theta: ArrayLike, sigma: ArrayLike, epsilon: ArrayLike, log10: bool = False
) -> np.ndarray:
    r"""Return the exact l_inf^ε-robust error of sgn(wᵀx) on the (θ*, σ)-Gaussian model.

    Definition 2 on Equation (2): the worst δ is -y ε sgn(w), which takes ε‖w‖₁ off the margin, so

        error = Φ((ε‖w‖₁ - wᵀθ*) / (σ‖w‖₂)).

    Args:
        w: weights, shape (..., d), not 0; their scale is irrelevant.
        theta: class mean θ*, shape (..., d).
        sigma: standard deviation of a coordinate, >= 0, broadcast to the batch shape (...).
        epsilon: radius of the attack, >= 0, broadcast to the batch shape (...).
        log10: return log10 of the error, finite where the error underflows.
    """
    w, theta = directions(w), real("theta", theta)
    allowed = f"the last dimension of w's, {w.shape}"
    check.that(theta.shape[-1:] == w.shape[-1:], "theta.shape", theta.shape, allowed)
    sigma, epsilon = reals(sigma=sigma, epsilon=epsilon)
    broadcast(w=w[..., 0], theta=theta[..., 0], sigma=sigma, epsilon=epsilon)
    margin = np.einsum("...i,...i->...", w, theta) - epsilon * np.abs(w).sum(axis=-1)
    return error_at(z_score(margin, sigma * np.linalg.norm(w, axis=-1)), log10)


def standard_error(
    w: ArrayLike, theta: ArrayLike, sigma: ArrayLike, log10: bool = False
) -> np.ndarray:
    r"""Return the exact error Φ(-wᵀθ* / (σ‖w‖₂)) of sgn(wᵀx) on the (θ*, σ)-Gaussian model.

    Definition 1 on Equation (2). Shapes and ranges as in `robust_error`, of which it is ε = 0.
    """
    return robust_error(w, theta, sigma, 0.0, log10)


def sample(
    theta: ArrayLike, sigma: float, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return n draws x (n, d), y (n,) in {-1, +1} from the (θ*, σ)-Gaussian model, Equation (2).

    Args:
        theta: class mean θ*, shape (d,).
        sigma: standard deviation of a coordinate, >= 0 (the paper calls it a variance parameter).
        n: number of draws, >= 1.
        rng: where the randomness comes from.
    """
    theta, sigma, n = real("theta", theta), number("sigma", sigma, 0), count("n", n)
    fine = theta.ndim == 1 and theta.size > 0
    check.that(fine, "theta.shape", theta.shape, "(d,) with d >= 1")
    rng = generator(rng)
    y = rng.choice([-1.0, 1.0], size=n)
    return y[:, None] * theta + sigma * rng.standard_normal((n, theta.size)), y


def fit(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Return Definition 3's weights: the unit vector along the mean of y x, shape (..., d).

    Args:
        x: inputs, shape (..., n, d).
        y: labels in {-1, +1}, shape (..., n).
    """
    x, y = real("x", x), real("y", y)
    fine = x.ndim >= 2 and 0 not in x.shape and y.shape == x.shape[:-1]
    check.that(fine, "shapes of x and y", (x.shape, y.shape), "(..., n, d) and (..., n)")
    check.that(bool((np.abs(y) == 1).all()), "y", y.tolist(), "-1 or +1 everywhere")
    mean = np.einsum("...n,...nd->...d", y, x) / x.shape[-2]
    norm = np.linalg.norm(mean, axis=-1, keepdims=True)
    fine = bool((norm > 0).all())
    check.that(fine, "mean of y x", 0, "a non-zero mean, else w has no direction")
    return mean / norm
