"""Theorem 1 and Corollary 1: the paper's bounds, the tight condition, and the truth beside them."""

import numpy as np
from numpy.typing import ArrayLike

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import reals
from avmixup_kit.gaussian.laws import mean_abs
from avmixup_kit.gaussian.model import z_score

NOISE = ("independent", "any", "shared")


def alignment_bound(n: ArrayLike, sigma: ArrayLike) -> np.ndarray:
    r"""Return a_n(σ) = (2√n - 1) / (2√n + 4σ), the alignment ⟨w, θ*⟩/√d of f_{n,σ} from below.

    It holds with probability `probability(d, sigma)`, and is > 0. Arguments as in
    `robust_error_bound`.
    """
    n, sigma = reals(n=n, sigma=sigma)
    return _alignment(np.sqrt(n), sigma)[()]


def _alignment(root: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return (2 * root - 1) / (2 * root + 4 * sigma)


def robust_error_bound(
    d: ArrayLike, n: ArrayLike, sigma: ArrayLike, epsilon: ArrayLike, log10: bool = False
) -> np.ndarray:
    r"""Return the Chernoff bound exp(-d (a_n(σ) - ε)² / (2σ²)) on f_{n,σ}'s robust error.

    Where ε > a_n(σ) nothing is known and the bound is 1. At σ = 0 it is 0 for ε < a_n, else 1.

    Args:
        d: dimension, >= 1.
        n: size of the training set, >= 1.
        sigma: standard deviation, >= 0.
        epsilon: radius of the attack, >= 0.
        log10: return log10 of the bound, finite where it underflows.
    """
    d, n, sigma, epsilon = reals(d=d, n=n, sigma=sigma, epsilon=epsilon)
    z = np.maximum(z_score(np.sqrt(d) * (_alignment(np.sqrt(n), sigma) - epsilon), sigma), 0.0)
    with np.errstate(over="ignore"):
        exponent = -0.5 * z * z
    return exponent / np.log(10.0) if log10 else np.exp(exponent)


def standard_error_bound(
    d: ArrayLike, n: ArrayLike, sigma: ArrayLike, log10: bool = False
) -> np.ndarray:
    r"""Return the Chernoff bound exp(-d a_n(σ)² / (2σ²)) on f_{n,σ}'s standard error.

    Ranges as in `robust_error_bound`, of which it is ε = 0.
    """
    return robust_error_bound(d, n, sigma, 0.0, log10)


def epsilon_for_error(d: ArrayLike, n: ArrayLike, sigma: ArrayLike, beta: ArrayLike) -> np.ndarray:
    r"""Return a_n(σ) - σ √(2 log(1/β)/d): up to this radius the robust error bound is at most β.

    Schmidt et al., Theorem 21, from which Theorem 1 follows. Negative where no radius will do.
    beta is the error wanted, in (0, 1]; the other arguments are as in `robust_error_bound`.
    """
    d, n, sigma, beta = reals(d=d, n=n, sigma=sigma, beta=beta)
    return (_alignment(np.sqrt(n), sigma) - sigma * np.sqrt(-2 * np.log(beta) / d))[()]


def epsilon_paper(n: ArrayLike, sigma_s: ArrayLike, nu: ArrayLike) -> np.ndarray:
    r"""Return Equation (5): (2√n - 1)(1 - ν) / (2√n + 4σ_s), up to which Theorem 1 is claimed.

    Unlike the paper, read "the upper bounds are equal" as "both errors are at most the standard
    bound": the two bounds are equal only at `epsilon_tight`.

    Args:
        n: size of the training set, >= 1.
        sigma_s: standard deviation of the standard model, >= 0.
        nu: σ_r / σ_s in [0, 1].
    """
    n, sigma_s, nu = reals(n=n, sigma_s=sigma_s, nu=nu)
    root = np.sqrt(n)
    return ((2 * root - 1) * (1 - nu) / (2 * root + 4 * sigma_s))[()]


def epsilon_tight(n: ArrayLike, sigma_s: ArrayLike, nu: ArrayLike) -> np.ndarray:
    r"""Return a_n(νσ_s) - ν a_n(σ_s), the radius at which Theorem 1's two bounds are equal.

    For every smaller radius the robust bound of f_{n,νσ_s} is below the standard bound of
    f_{n,σ_s}; it is never less than Equation (5). Arguments as in `epsilon_paper`.
    """
    n, sigma_s, nu = reals(n=n, sigma_s=sigma_s, nu=nu)
    root = np.sqrt(n)
    top = 2 * root - 1
    # one fraction, so that nu = 1 gives 0 and never a rounding error below Equation (5)
    bottom = (2 * root + 4 * nu * sigma_s) * (2 * root + 4 * sigma_s)
    return (top * (1 - nu) * (2 * root + 4 * sigma_s * (1 + nu)) / bottom)[()]


def epsilon_exact(n: ArrayLike, sigma_s: ArrayLike, nu: ArrayLike) -> np.ndarray:
    r"""Return the radius at which the errors themselves, not their bounds, are typically equal.

    (1 - ν √((1 + ν²s²)/(1 + s²))) / h(νs) with s = σ_s/√n and h = `mean_abs`: there the robust
    error of f_{n,νσ_s} concentrates, as d grows and |θ*_i| = 1, where the standard error of
    f_{n,σ_s} does. Arguments as in `epsilon_paper`.
    """
    n, sigma_s, nu = reals(n=n, sigma_s=sigma_s, nu=nu)
    s = sigma_s / np.sqrt(n)
    return ((1 - nu * np.hypot(1.0, nu * s) / np.hypot(1.0, s)) / mean_abs(nu * s))[()]


def probability(d: ArrayLike, sigma: ArrayLike, sharp: bool = False) -> np.ndarray:
    r"""Return 1 - 2 exp(-d / (8(σ² + 1))), at least 0: one factor of Theorem 1's probability.

    Args:
        d: dimension, >= 1.
        sigma: standard deviation, >= 0.
        sharp: return 1 - exp(-d/2) - exp(-d/(8σ²)) instead, the step before it in the proof.
    """
    d, sigma = reals(d=d, sigma=sigma)
    if sharp:
        with np.errstate(over="ignore"):
            failure = np.exp(-d / 2) + np.exp(-np.square(z_score(np.sqrt(d / 8), sigma)))
    else:
        failure = 2 * np.exp(-d / 8 / (sigma * sigma + 1))
    return np.maximum(1 - failure, 0.0)


def theorem_1_probability(
    d: ArrayLike, sigma_s: ArrayLike, nu: ArrayLike, noise: str = "independent"
) -> np.ndarray:
    r"""Return the probability that Theorem 1 promises, from its two factors p_s and p_r, each >= 0.

    Unlike the paper, each factor is taken as at least 0: two negative factors have a positive
    product that means nothing.

    Args:
        d: dimension, >= 1.
        sigma_s: standard deviation of the standard model, >= 0.
        nu: σ_r / σ_s in [0, 1].
        noise: how the two training sets are drawn. "independent": p_s p_r, the paper's product.
            "any": the union bound 1 - (1 - p_s) - (1 - p_r), for whatever dependence. "shared":
            the same noise scaled by σ_s and by σ_r; the good events are nested, so p_s alone.
    """
    check.one_of("noise", noise, NOISE)
    d, sigma_s, nu = reals(d=d, sigma_s=sigma_s, nu=nu)
    standard, robust = probability(d, sigma_s), probability(d, nu * sigma_s)
    if noise == "independent":
        return standard * robust
    if noise == "any":
        return np.maximum(standard + robust - 1, 0.0)
    return standard + 0.0 * nu


def slope(n: ArrayLike, sigma_s: ArrayLike) -> np.ndarray:
    r"""Return Equation (6): π_{n,σ_s} = (2√n - 1) / (σ_s (2√n + 4σ_s)), inf at σ_s = 0.

    Equation (5) is exactly π (σ_s - σ_r): its radius grows at this rate as σ_r falls. Arguments as
    in `epsilon_paper`.
    """
    n, sigma_s = reals(n=n, sigma_s=sigma_s)
    return z_score(_alignment(np.sqrt(n), sigma_s), sigma_s)


def slope_tight(n: ArrayLike, sigma_s: ArrayLike, nu: ArrayLike) -> np.ndarray:
    r"""Return the rate at which `epsilon_tight` grows as σ_r = νσ_s falls, inf at σ_s = 0.

    π_{n,σ_s} + 4(2√n - 1)/(2√n + 4σ_r)², which depends on σ_r: Corollary 1 does not hold for the
    tight condition. Arguments as in `epsilon_paper`.
    """
    n, sigma_s, nu = reals(n=n, sigma_s=sigma_s, nu=nu)
    root = np.sqrt(n)
    return slope(n, sigma_s) + 4 * (2 * root - 1) / (2 * root + 4 * nu * sigma_s) ** 2


def vacuous(d: ArrayLike, n: ArrayLike, sigma_s: ArrayLike, nu: ArrayLike) -> np.ndarray:
    """Return True where Theorem 1 says nothing: its error bound is >= 1/2 or its probability is 0.

    Arguments as in `standard_error_bound` and `theorem_1_probability`.
    """
    useless = standard_error_bound(d, n, sigma_s) >= 0.5
    return useless | (theorem_1_probability(d, sigma_s, nu) <= 0)
