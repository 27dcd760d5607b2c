"""The law of Definition 3's errors over training sets, without drawing a training set.

The y_i x_i are i.i.d. N(θ*, σ² I), so their mean is N(θ*, s² I) with s = σ/√n exactly: everything
below draws that mean, or sums over it, at a cost that does not depend on n.
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike
from scipy.special import gammainc, gammaincc, ndtr, ndtri_exp

from avmixup_kit.gaussian.arguments import Numbers, broadcast, count, generator, number, real, reals
from avmixup_kit.gaussian.model import error_at, z_score

_SQRT_2_PI = np.sqrt(2 * np.pi)
_NODES, _WEIGHTS = leggauss(96)
_CHUNK = 1 << 15  # normals drawn at once by the exact sampler: 256 KiB, which stays in cache


def _phi(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x * x) / _SQRT_2_PI


def _ratio(theta: Numbers, s: Numbers) -> np.ndarray:
    # beyond 1e150 deviations every function of theta / s has reached its limit
    return np.minimum(theta / np.maximum(s, 1e-150), 1e150)


def _mean_abs(theta: Numbers, s: Numbers) -> np.ndarray:
    r = _ratio(theta, s)
    return 2 * s * _phi(r) + theta * (2 * ndtr(r) - 1)


def mean_abs(s: ArrayLike) -> np.ndarray:
    r"""Return h(s) = E|1 + s g| with g standard normal, for s >= 0.

    h(s) = s √(2/π) exp(-1/(2s²)) + 2Φ(1/s) - 1, so h(0) = 1, and h is increasing.
    """
    return _mean_abs(1.0, real("s", s, 0))[()]


def _sparse_mean_abs(s: np.ndarray, density: np.ndarray) -> np.ndarray:
    return density * _mean_abs(density**-0.5, s) + (1 - density) * _mean_abs(0.0, s)


def typical_z(
    d: ArrayLike, n: ArrayLike, sigma: ArrayLike, epsilon: ArrayLike = 0.0, density: ArrayLike = 1.0
) -> np.ndarray:
    r"""Return the z-score that f_{n,σ}'s robust error concentrates on as d grows: error = Φ(-z).

    z = √d (1 - ε h) / (σ √(1 + s²)), s = σ/√n and h the mean of E|θ*_i + s g| over coordinates,
    which is `mean_abs(s)` for the dense θ* in {-1, +1}^d. `error_at(z)` is the error.

    Args:
        d: dimension, >= 1.
        n: size of the training set, >= 1.
        sigma: standard deviation, >= 0 (0: z is inf where ε h < 1 and -inf elsewhere).
        epsilon: radius of the attack, >= 0; 0 is the standard error.
        density: share p in (0, 1] of coordinates of θ* that are not 0, each then ±1/√p.
    """
    d, n, sigma, epsilon, density = reals(d=d, n=n, sigma=sigma, epsilon=epsilon, density=density)
    s = sigma / np.sqrt(n)
    margin = np.sqrt(d) * (1 - epsilon * _sparse_mean_abs(s, density))
    return z_score(margin, sigma * np.hypot(1.0, s))


def critical_epsilon(n: ArrayLike, sigma: ArrayLike, density: ArrayLike = 1.0) -> np.ndarray:
    """Return the radius 1/h(σ/√n) where the robust error of f_{n,σ} jumps from 0 to 1 as d grows.

    The dense θ* (density 1) has the smallest one. Arguments as in `typical_z`.
    """
    n, sigma, density = reals(n=n, sigma=sigma, density=density)
    return (1 / _sparse_mean_abs(sigma / np.sqrt(n), density))[()]


@dataclass(frozen=True, eq=False)
class ErrorLaw:
    r"""The exact law of f_{n,σ}'s standard error over training sets, for any θ* with ‖θ*‖₂ = √d.

    With g ~ N(0, 1) and χ²_{d-1} independent, s = σ/√n and a = √d + s g, the error is Φ(-z),

        z = (√d / σ) a / √(a² + s² χ²_{d-1}).

    Made by `error_law`; d, n and sigma may be arrays that broadcast.
    """

    d: np.ndarray
    n: np.ndarray
    sigma: np.ndarray

    def cdf(self, beta: ArrayLike, log10: bool = False) -> np.ndarray:
        r"""Return Pr[error <= beta] over training sets, by one-dimensional quadrature.

        z >= z_β is a noncentral t event, √(dn)/σ + g >= k χ_{d-1}/√(1 - k²) with k = z_β σ/√d.
        It is integrated over χ or over g, whichever the integrand is smoother in.

        Args:
            beta: error in [0, 1], or with `log10` its log10 (<= 0), broadcast to d, n, sigma.
        """
        if log10:
            log_beta = real("beta", beta, high=0) * np.log(10.0)
        else:
            beta = real("beta", beta, 0, 1)
            log_beta = np.log(np.where(beta > 0, beta, 1.0))
            log_beta = np.where(beta > 0, log_beta, -np.inf)
        shape = broadcast(beta=log_beta, d=self.d, n=self.n, sigma=self.sigma)
        z, d, n, sigma = (
            np.broadcast_to(a, shape) for a in (-ndtri_exp(log_beta), self.d, self.n, self.sigma)
        )
        out = np.empty(shape)
        bound = z_score(np.sqrt(d), sigma)  # |z| never exceeds √d / σ
        out[z <= -bound] = 1.0
        out[z > bound] = 0.0
        out[np.isinf(bound)] = 1.0
        inside = (z > -bound) & (z <= bound) & np.isfinite(bound)
        if inside.any():
            k = z[inside] / bound[inside]
            with np.errstate(divide="ignore"):
                slope = k / np.sqrt((1 - k) * (1 + k))
            shift = np.sqrt(d * n)[inside] / sigma[inside]
            out[inside] = _tail(slope, shift, d[inside] - 1)
        return out[()]

    def rvs(
        self, size: int | tuple[int, ...], rng: np.random.Generator, log10: bool = False
    ) -> np.ndarray:
        """Return errors of independent training sets, O(1) each in d and n, of shape `size`.

        Args:
            size: a shape that d, n and sigma broadcast to.
            rng: where the randomness comes from.
            log10: return log10 of the errors, finite where they underflow.
        """
        rng = generator(rng)
        s = self.sigma / np.sqrt(self.n)
        a = np.sqrt(self.d) + s * rng.standard_normal(size)
        chi2 = 2 * rng.standard_gamma((self.d - 1) / 2, size)  # d = 1 has 0 degrees of freedom
        return error_at(
            z_score(np.sqrt(self.d) * a / np.sqrt(a * a + s * s * chi2), self.sigma), log10
        )


def _tail(slope: np.ndarray, shift: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Return Pr[shift + g >= slope * chi] for g standard normal and chi of `df` degrees."""
    out = np.empty(slope.shape)
    point = df == 0
    out[point] = ndtr(shift[point])

    over_chi = ~point & (np.abs(slope) < 1)
    if over_chi.any():
        k, m, f = (a[over_chi][:, None] for a in (slope, shift, df))
        chi = _between(np.maximum(np.sqrt(f) - 9, 0), np.sqrt(f) + 9)
        log_density = (f - 1) * np.log(chi) - chi * chi / 2
        weight = np.exp(log_density - log_density.max(axis=-1, keepdims=True)) * _WEIGHTS
        out[over_chi] = (weight * ndtr(m - k * chi)).sum(-1) / weight.sum(-1)

    over_g = ~point & (slope >= 1)
    if over_g.any():
        k, m, f = (a[over_g][:, None] for a in (slope, shift, df))
        low, high = np.maximum(-m, -9), 9.0
        g = _between(low, high)
        mass = (high - low) / 2 * _WEIGHTS * _phi(g)
        out[over_g] = (mass * gammainc(f / 2, ((m + g) / k) ** 2 / 2)).sum(-1)

    below = ~point & (slope <= -1)
    if below.any():
        k, m, f = (a[below][:, None] for a in (slope, shift, df))
        low, high = np.minimum(-m, 0) - 9, -m
        g = _between(low, high)
        mass = (high - low) / 2 * _WEIGHTS * _phi(g)
        missed = (mass * gammaincc(f / 2, ((m + g) / k) ** 2 / 2)).sum(-1)
        out[below] = ndtr(m[:, 0]) + missed
    return np.clip(out, 0.0, 1.0)


def _between(low: np.ndarray, high: np.ndarray | float) -> np.ndarray:
    return low + (high - low) * (1 + _NODES) / 2


def error_law(d: ArrayLike, n: ArrayLike, sigma: ArrayLike) -> ErrorLaw:
    """Return the exact law of f_{n,σ}'s standard error over training sets: see `ErrorLaw`.

    At σ = 0 the error is 0 always. Arguments as in `typical_z`.
    """
    return ErrorLaw(*reals(d=d, n=n, sigma=sigma))


@dataclass(frozen=True)
class _Mean:
    """θ* by coordinate groups: `groups` lists (how many, their value), the rest of d being 0."""

    d: int
    s: float
    sigma: float
    epsilon: np.ndarray
    groups: tuple[tuple[int, float], ...]

    def errors(
        self, inner: np.ndarray, square: np.ndarray, absolute: np.ndarray, log10: bool
    ) -> np.ndarray:
        """Return errors from Σθ_i u_i, Σu_i² and Σ|u_i|, of shape (sets,) + epsilon.shape."""
        lift = (...,) + (None,) * self.epsilon.ndim
        margin = inner[lift] - self.epsilon * absolute[lift]
        return error_at(z_score(margin, self.sigma * np.sqrt(square)[lift]), log10)


def _mean(d: int, n: int, sigma: float, epsilon: ArrayLike, density: float) -> _Mean:
    d, n, sigma = count("d", d), count("n", n), number("sigma", sigma, 0)
    density = number("density", density, 0, 1, open_low=True)
    active = max(1, round(density * d))
    groups = ((active, (d / active) ** 0.5), (d - active, 0.0))
    return _Mean(
        d, sigma / n**0.5, sigma, real("epsilon", epsilon, 0), tuple(g for g in groups if g[0])
    )


def _sets(size: int | tuple[int, ...]) -> tuple[int, ...]:
    sizes = size if isinstance(size, tuple) else (size,)
    return tuple(count("size", one, 0) for one in sizes)


def robust_errors_exact(
    d: int,
    n: int,
    sigma: float,
    epsilon: ArrayLike,
    size: int | tuple[int, ...],
    rng: np.random.Generator,
    density: float = 1.0,
    log10: bool = False,
) -> np.ndarray:
    r"""Return exact draws of f_{n,σ}'s robust error over training sets, O(d) each.

    With u = θ* + s g, error = Φ(-z) and z = (Σθ*_i u_i - ε Σ|u_i|) / (σ √Σu_i²). The d normals of a
    set are drawn in pieces and summed, so memory grows neither with d nor beyond the result.

    Args:
        d: dimension, >= 1.
        n: size of a training set, >= 1; the cost does not depend on it.
        sigma: standard deviation, >= 0.
        epsilon: radius or radii, >= 0; all share the same training sets.
        size: number (or shape) of training sets.
        rng: where the randomness comes from.
        density: share p of coordinates of θ* that are not 0, rounded to a whole number of them.
        log10: return log10 of the errors, finite where they underflow.

    Returns:
        Errors of shape size + epsilon.shape.
    """
    mean, shape, rng = _mean(d, n, sigma, epsilon, density), _sets(size), generator(rng)
    sets = int(np.prod(shape))
    inner, square, absolute = np.zeros(sets), np.zeros(sets), np.zeros(sets)
    buffer = np.empty(_CHUNK)
    for many, theta in mean.groups:
        if mean.s < 1e-100:  # the noise is below the last digit of every sum
            inner += many * theta**2
            square += many * theta**2
            absolute += many * theta
            continue
        shift = theta / mean.s
        columns = min(many, _CHUNK)
        rows = max(1, _CHUNK // columns)
        for top in range(0, sets, rows):
            these = slice(top, min(top + rows, sets))
            height = these.stop - top
            for left in range(0, many, columns):
                width = min(columns, many - left)
                u = buffer[: height * width].reshape(height, width)
                rng.standard_normal(out=u)
                if shift:
                    u += shift
                    inner[these] += theta * mean.s * u.sum(axis=1)
                square[these] += mean.s**2 * np.einsum("ij,ij->i", u, u)
                np.abs(u, out=u)
                absolute[these] += mean.s * u.sum(axis=1)
    return mean.errors(inner, square, absolute, log10).reshape(shape + mean.epsilon.shape)


def robust_errors_fast(
    d: int,
    n: int,
    sigma: float,
    epsilon: ArrayLike,
    size: int | tuple[int, ...],
    rng: np.random.Generator,
    density: float = 1.0,
    log10: bool = False,
) -> np.ndarray:
    r"""Return approximate draws of f_{n,σ}'s robust error over training sets, O(1) each in d and n.

    Σθ*_i u_i and Σu_i² are drawn exactly, from one normal and one χ²_{d-1}. Σ|u_i| is drawn given
    them from the joint central limit law: its regression on Σθ*_i(u_i - θ*_i) has slope
    β₁ = mean θ*_i (2Φ(θ*_i/s) - 1), on Σ(u_i - θ*_i)² slope β₂ = mean φ(θ*_i/s)/s (both by Stein's
    identity), and what remains has variance d (mean Var|u_i| - s²β₁² - 2s⁴β₂²). At ε = 0 it is
    exact. At ε > 0 the z-score is off by a few hundredths at d = 30 and less above.

    Arguments and shapes as in `robust_errors_exact`.
    """
    mean, shape, rng = _mean(d, n, sigma, epsilon, density), _sets(size), generator(rng)
    s, d, theta, share = mean.s, mean.d, 0.0, 0.0
    average = slope = curvature = variance = 0.0
    for many, theta in mean.groups:
        share = many / d
        h = _mean_abs(theta, s)
        average += share * h
        slope += share * theta * (2 * ndtr(_ratio(theta, s)) - 1)
        curvature += share * s * _phi(_ratio(theta, s))  # s² β₂
        variance += share * (theta * theta + s * s - h * h)
    variance = max(0.0, variance - (s * slope) ** 2 - 2 * curvature**2)
    largest = max(theta for _, theta in mean.groups)

    g = rng.standard_normal(shape)
    chi2 = 2 * rng.standard_gamma((d - 1) / 2, shape)
    inner = d + s * np.sqrt(d) * g
    square = inner * inner / d + s * s * chi2
    absolute = d * average + slope * (inner - d) + curvature * (g * g + chi2 - d)
    absolute += np.sqrt(d * variance) * rng.standard_normal(shape)
    absolute = np.clip(absolute, np.abs(inner) / largest, np.sqrt(d * square))
    return mean.errors(inner, square, absolute, log10)
